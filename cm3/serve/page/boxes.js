// Boxes with names, in units of 1/255 of the picture's side: drawn by pointer or moved by keys.

import { make } from "./dom.js";

const MOST = 255;
const LEAST = 8; // the smallest side of a box
const STEP = 8;

const clamp = (value, low, high) => Math.min(Math.max(Math.round(value), low), high);

export class Boxes {
  constructor(surface, list, onChange) {
    Object.assign(this, { surface, list, onChange, items: [] });
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, () => this.#up());
  }

  /** Return [[name, [x1, y1, x2, y2]], ...]. */
  get value() {
    return this.items.map(({ name, at }) => [name.value.trim(), [...at]]);
  }

  set value(boxes) {
    for (const item of this.items) this.#drop(item);
    this.items = [];
    for (const [name, at] of boxes) this.add(at, name);
  }

  /** Add a box, by default a middling one that overlaps no other corner. */
  add(at, name = "") {
    const shift = (this.items.length % 4) * 24;
    const item = { at: at ?? [48 + shift, 48 + shift, 144 + shift, 144 + shift] };
    item.handle = make("span", { className: "handle", aria: { hidden: "true" } });
    item.tag = make("span", { className: "tag" });
    item.box = make("div", { className: "box", tabIndex: 0, role: "button" }, item.tag, item.handle);
    item.box.setAttribute("aria-roledescription", "box");
    item.name = make("input", { value: name, placeholder: "a name", maxLength: 200, spellcheck: false });
    const away = make("button", { type: "button", className: "quiet" }, "Remove");
    item.number = make("span", { className: "number" });
    item.row = make("li", {}, make("label", {}, item.number, item.name), away);
    item.away = away;
    item.name.addEventListener("input", () => this.#show());
    item.name.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
    away.addEventListener("click", () => this.remove(item));
    item.box.addEventListener("keydown", (event) => this.#key(event, item));
    item.box.addEventListener("dblclick", () => item.name.focus());
    this.items.push(item);
    this.surface.append(item.box);
    this.list.append(item.row);
    this.#show();
    return item;
  }

  remove(item) {
    const place = this.items.indexOf(item);
    this.items.splice(place, 1);
    this.#drop(item);
    this.#show();
    const near = this.items[place] ?? this.items[place - 1];
    if (near) near.box.focus();
    else this.onChange("none");
  }

  #drop(item) {
    item.box.remove();
    item.row.remove();
  }

  #show() {
    this.items.forEach((item, i) => {
      const [x1, y1, x2, y2] = item.at;
      const part = (value) => `${(100 * value) / MOST}%`;
      Object.assign(item.box.style, { left: part(x1), top: part(y1), width: part(x2 - x1), height: part(y2 - y1) });
      const name = item.name.value.trim();
      item.tag.textContent = name || `${i + 1}`;
      item.number.textContent = `${i + 1}`;
      item.name.setAttribute("aria-label", `Name of box ${i + 1}`);
      item.away.setAttribute("aria-label", `Remove box ${i + 1}`);
      const places = `left ${x1}, top ${y1}, right ${x2}, bottom ${y2}`;
      item.box.setAttribute("aria-label", `${name || `Box ${i + 1}`}: ${places}`);
    });
    this.onChange();
  }

  #place(event) {
    const frame = this.surface.getBoundingClientRect();
    return [
      clamp(((event.clientX - frame.left) / frame.width) * MOST, 0, MOST),
      clamp(((event.clientY - frame.top) / frame.height) * MOST, 0, MOST),
    ];
  }

  #down(event) {
    if (event.button) return;
    event.preventDefault();
    this.surface.setPointerCapture(event.pointerId);
    const place = this.#place(event);
    const item = this.items.find(({ box }) => box.contains(event.target));
    const how = !item ? "draw" : event.target === item.handle ? "size" : "move";
    item?.box.focus({ preventScroll: true });
    this.held = { item, how, place, at: item && [...item.at] };
  }

  #move(event) {
    if (!this.held) return;
    const [x, y] = this.#place(event);
    const [x0, y0] = this.held.place;
    if (this.held.how === "draw") {
      const at = [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)];
      if (!this.held.item && at[2] - at[0] >= LEAST && at[3] - at[1] >= LEAST) this.held.item = this.add(at);
      if (this.held.item) this.held.item.at = this.#sized(at);
    } else if (this.held.how === "size") {
      const [x1, y1, x2, y2] = this.held.at;
      this.held.item.at = this.#sized([x1, y1, x2 + x - x0, y2 + y - y0]);
    } else {
      this.held.item.at = this.#moved(this.held.at, x - x0, y - y0);
    }
    if (this.held.item) this.#show();
  }

  #up() {
    const { item, how } = this.held ?? {};
    this.held = null;
    if (how === "draw" && item) item.name.focus();
  }

  #key(event, item) {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      return this.remove(item);
    }
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return item.name.focus();
    }
    if (!step) return;
    event.preventDefault();
    const [dx, dy] = step.map((value) => value * (event.altKey ? 1 : STEP));
    const [x1, y1, x2, y2] = item.at;
    item.at = event.shiftKey ? this.#sized([x1, y1, x2 + dx, y2 + dy]) : this.#moved(item.at, dx, dy);
    this.#show();
  }

  #sized([x1, y1, x2, y2]) {
    return [x1, y1, clamp(x2, x1 + LEAST, MOST), clamp(y2, y1 + LEAST, MOST)];
  }

  #moved([x1, y1, x2, y2], dx, dy) {
    const [mx, my] = [clamp(dx, -x1, MOST - x2), clamp(dy, -y1, MOST - y2)];
    return [x1 + mx, y1 + my, x2 + mx, y2 + my];
  }
}
