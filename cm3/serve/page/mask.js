// The region to fill: painted by pointer in pixels of the picture, or by keyboard in cells of the model's grid.

import { make } from "./dom.js";

export class Mask {
  /** `options()` gives {tool, size}: brush, box or eraser, and the brush's part of the side in percent. */
  constructor(canvas, options, say) {
    this.canvas = canvas;
    this.options = options;
    this.say = say;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.marker = make("div", { className: "marker", hidden: true, aria: { hidden: "true" } });
    this.rubber = make("div", { className: "rubber", hidden: true, aria: { hidden: "true" } });
    canvas.after(this.marker, this.rubber);
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#mark(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.#mark(false));
  }

  open(side, [rows, columns]) {
    this.canvas.width = this.canvas.height = side;
    this.grid = [rows, columns];
    this.at = [0, 0];
    this.#mark(false);
  }

  clear() {
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  get empty() {
    return !this.#alphas().some((alpha) => alpha > 127);
  }

  /** Return a PNG of the picture's size, transparent where it is painted. */
  async file() {
    const side = this.canvas.width;
    const canvas = new OffscreenCanvas(side, side);
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(side, side);
    this.#alphas().forEach((alpha, i) => (image.data[4 * i + 3] = alpha > 127 ? 0 : 255));
    pen.putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  /** Paint what a mask file marks. */
  async restore(blob) {
    const bitmap = await createImageBitmap(blob);
    const side = this.canvas.width;
    this.pen.globalCompositeOperation = "source-over";
    this.pen.drawImage(bitmap, 0, 0, side, side);
    this.pen.globalCompositeOperation = "xor"; // whole minus what is opaque
    this.pen.fillStyle = this.#ink();
    this.pen.fillRect(0, 0, side, side);
    this.pen.globalCompositeOperation = "source-over";
    bitmap.close();
  }

  #alphas() {
    const side = this.canvas.width;
    return this.pen.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 3);
  }

  #ink() {
    return getComputedStyle(this.canvas).color;
  }

  #place(event) {
    const frame = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / frame.width;
    return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
  }

  #down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.from = this.last = this.#place(event);
    if (this.options().tool !== "box") this.#line(this.last);
  }

  #move(event) {
    if (!this.last) return;
    if (this.options().tool !== "box") return this.#line(this.#place(event));
    this.last = this.#place(event);
    const [x, y, w, h] = this.#frame();
    const part = (value) => `${(100 * value) / this.canvas.width}%`;
    Object.assign(this.rubber.style, { left: part(x), top: part(y), width: part(w), height: part(h) });
    this.rubber.hidden = false;
  }

  #up(event) {
    if (!this.last) return;
    if (this.options().tool === "box" && event.type === "pointerup") {
      this.pen.fillStyle = this.#ink();
      this.pen.fillRect(...this.#frame());
    }
    this.last = this.from = null;
    this.rubber.hidden = true;
  }

  #frame() {
    const inside = (value) => Math.min(Math.max(Math.round(value), 0), this.canvas.width);
    const [x, y, right, below] = [...this.from, ...this.last].map(inside);
    return [Math.min(x, right), Math.min(y, below), Math.abs(right - x), Math.abs(below - y)];
  }

  #line(to) {
    const { tool, size } = this.options();
    this.pen.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
    this.pen.strokeStyle = this.#ink();
    this.pen.lineWidth = (size / 100) * this.canvas.width;
    this.pen.lineCap = this.pen.lineJoin = "round";
    this.pen.beginPath();
    this.pen.moveTo(...this.last);
    this.pen.lineTo(to[0] + 0.01, to[1]);
    this.pen.stroke();
    this.pen.globalCompositeOperation = "source-over";
    this.last = to;
  }

  #cell() {
    const [rows, columns] = this.grid;
    const [wide, high] = [this.canvas.width / columns, this.canvas.height / rows];
    return [this.at[1] * wide, this.at[0] * high, wide, high];
  }

  #key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (step) {
      this.at = this.at.map((place, axis) => Math.min(Math.max(place + step[axis], 0), this.grid[axis] - 1));
      if (event.shiftKey) this.#paint(true);
    } else {
      this.#paint(!this.#painted());
    }
    this.#mark(true);
    this.say(`Row ${this.at[0] + 1}, column ${this.at[1] + 1}, ${this.#painted() ? "painted" : "not painted"}`);
  }

  #painted() {
    const [x, y, wide, high] = this.#cell();
    return this.pen.getImageData(Math.floor(x + wide / 2), Math.floor(y + high / 2), 1, 1).data[3] > 127;
  }

  #paint(fill) {
    this.pen.fillStyle = this.#ink();
    if (fill) this.pen.fillRect(...this.#cell());
    else this.pen.clearRect(...this.#cell());
  }

  #mark(shown) {
    this.marker.hidden = !shown;
    if (!shown) return;
    const part = (value) => `${(100 * value) / this.canvas.width}%`;
    const [x, y, wide, high] = this.#cell().map(part);
    Object.assign(this.marker.style, { left: x, top: y, width: wide, height: high });
  }
}
