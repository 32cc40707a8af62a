// A result on the page: a picture that appears row by row, or words.

import { make } from "./dom.js";

const slug = (words) =>
  words.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 48) || "picture";

/** A picture while it is drawn and after. */
export class Card {
  constructor({ label, prompt, size: [width, height], grid: [rows, columns] }) {
    this.prompt = prompt;
    this.label = label;
    this.canvas = make("canvas", { width, height, aria: { label: `Picture: ${prompt}` } });
    this.canvas.setAttribute("role", "img");
    this.scan = make("div", { className: "scan", hidden: true });
    this.plate = make("div", { className: "plate" }, this.canvas, this.scan);
    this.plate.style.setProperty("--rows", rows);
    this.plate.style.setProperty("--columns", columns);
    this.plate.style.setProperty("--ratio", `${width} / ${height}`);
    this.title = make("span", { className: "label" }, label);
    this.said = make("span", { className: "said" });
    this.actions = make("div", { className: "actions" });
    this.caption = make("figcaption", {}, this.title, this.said, this.actions);
    this.root = make("figure", { className: "card" }, this.plate, this.caption);
    this.started = performance.now();
  }

  /** Lay boxes with names over the picture, to be shown and hidden by a button. */
  lay(boxes) {
    const part = (value) => `${(100 * value) / 255}%`;
    const over = make("div", { className: "over", hidden: true });
    for (const [name, [x1, y1, x2, y2]] of boxes) {
      const box = make("div", {}, make("span", { className: "tag" }, name));
      Object.assign(box.style, { left: part(x1), top: part(y1), width: part(x2 - x1), height: part(y2 - y1) });
      over.append(box);
    }
    const button = make("button", { type: "button", className: "quiet", aria: { pressed: "false" } }, "Show boxes");
    button.addEventListener("click", () => {
      over.hidden = !over.hidden;
      button.setAttribute("aria-pressed", String(!over.hidden));
    });
    this.plate.append(over);
    this.actions.append(button);
  }

  /** Show that it is waited for; `under` is the picture that is changed, `rows` whether it comes row by row. */
  async begin(under, rows) {
    this.root.classList.add("busy");
    this.root.setAttribute("aria-busy", "true");
    this.said.textContent = "waiting";
    this.scan.hidden = false;
    this.scan.classList.toggle("whole", !rows);
    this.#scan(0);
    this.under = under;
    if (under) await this.#draw(under, 1);
  }

  /** Show the finished rows of a picture. */
  async rows(blob, rows, of) {
    this.first ??= performance.now();
    await this.#draw(blob, this.under ? 1 : rows / of);
    this.#scan(rows / of);
    this.said.textContent = `row ${rows} of ${of}`;
  }

  #scan(part) {
    this.plate.style.setProperty("--done", part);
  }

  async #draw(blob, part) {
    const bitmap = await createImageBitmap(blob);
    if (part === 1) [this.canvas.width, this.canvas.height] = [bitmap.width, bitmap.height];
    const pen = this.canvas.getContext("2d");
    const high = Math.round(part * bitmap.height);
    const { width, height } = this.canvas;
    if (high) pen.drawImage(bitmap, 0, 0, bitmap.width, high, 0, 0, width, Math.round(part * height));
    bitmap.close();
  }

  /** Show the whole picture, with what can be done with it. */
  async done({ blob, seed, warnings = [], thought, seconds, boxes }, actions) {
    this.quiet();
    this.root.classList.add("done");
    await this.#draw(blob, 1);
    const first = this.first && `first row after ${((this.first - this.started) / 1000).toFixed(1)} s`;
    const all = seconds && `${first ? "all" : "done"} after ${seconds.toFixed(1)} s`;
    this.said.textContent = [seed !== undefined && `seed ${seed}`, first, all].filter(Boolean).join(", ");
    const ending = { "image/png": "png", "image/webp": "webp", "image/jpeg": "jpg" }[blob.type] ?? "png";
    const parts = [slug(this.prompt), seed, this.label && slug(this.label)];
    const name = parts.filter((part) => part || part === 0).join("-");
    const url = URL.createObjectURL(blob);
    this.actions.append(make("a", { href: url, download: `${name}.${ending}`, className: "button" }, "Download"));
    if (boxes?.length) this.lay(boxes);
    for (const [words, act] of actions) {
      const button = make("button", { type: "button", className: "quiet" }, words);
      button.addEventListener("click", act);
      this.actions.append(button);
    }
    if (thought) this.caption.append(make("p", { className: "thought" }, `Drawn from the thought: ${thought}`));
    for (const line of warnings) this.caption.append(make("p", { className: "warning" }, line));
  }

  fail(words) {
    this.quiet();
    this.said.textContent = "";
    this.caption.append(make("p", { className: "error" }, words));
  }

  quiet() {
    this.root.classList.remove("busy");
    this.root.removeAttribute("aria-busy");
    this.scan.hidden = true;
  }
}

/** Words about a picture while they come and after. */
export class Answer {
  constructor({ prompt, picture }) {
    this.words = make("p", { className: "words" });
    this.said = make("span", { className: "said" }, "reading");
    const title = make("p", { className: "label" }, prompt || "Describe the picture");
    this.side = make("div", {}, title, this.words, this.said);
    this.root = make("div", { className: "answer busy", aria: { busy: "true" } });
    if (picture) this.root.append(make("img", { src: URL.createObjectURL(picture), alt: "The picture asked about" }));
    this.root.append(this.side);
  }

  add(text) {
    this.words.append(text);
  }

  done({ text, warnings = [], thought, seconds }) {
    this.quiet();
    this.words.textContent = text;
    this.said.textContent = seconds ? `${seconds.toFixed(1)} s` : "";
    if (thought) this.side.append(make("p", { className: "thought" }, `Answered from the thought: ${thought}`));
    for (const line of warnings) this.side.append(make("p", { className: "warning" }, line));
  }

  fail(words) {
    this.quiet();
    this.said.textContent = "";
    this.side.append(make("p", { className: "error" }, words));
  }

  quiet() {
    this.root.classList.remove("busy");
    this.root.removeAttribute("aria-busy");
  }
}

/** What a search of the memory finds. */
export class Found {
  constructor() {
    this.said = make("p", { className: "said" }, "searching");
    this.list = make("ol", { className: "documents" });
    this.root = make("div", { className: "found busy", aria: { busy: "true" } }, this.said, this.list);
  }

  done({ documents }) {
    this.quiet();
    this.root.classList.add("done");
    this.said.textContent = documents.length === 1 ? "1 document" : `${documents.length} documents`;
    this.list.replaceChildren(...documents.map(entry));
  }

  fail(words) {
    this.quiet();
    this.said.textContent = "";
    this.root.append(make("p", { className: "error" }, words));
  }

  quiet() {
    this.root.classList.remove("busy");
    this.root.removeAttribute("aria-busy");
  }
}

/** Fill a list with documents: how each was found, its source and its licence. */
export function showDocuments(section, documents) {
  const seen = new Map(documents.map((document) => [`${document.id} ${document.text}`, document]));
  section.hidden = !seen.size;
  section.querySelector("ol").replaceChildren(...[...seen.values()].map(entry));
}

function entry({ id, score, by, source, license, text, blobs = [] }) {
  const found = [typeof score === "number" && score.toFixed(2), by && `by ${by}`].filter(Boolean).join(" ");
  const web = /^https?:\/\//.test(source ?? "");
  const origin = web ? make("a", { href: source, rel: "noreferrer noopener", target: "_blank" }, source) : source;
  const facts = [id, found, license ? `licence ${license}` : "licence unknown"].filter(Boolean).join(", ");
  const line = make("p", { className: "hint" }, facts);
  if (origin) line.append(", source ", origin);
  const pictures = blobs.map((blob) => make("img", { src: URL.createObjectURL(blob), alt: text ? "" : "A picture" }));
  return make("li", {}, ...pictures, make("div", {}, make("p", {}, text || "a picture without words"), line));
}
