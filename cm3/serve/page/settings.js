// The form as one plain object, in the address's hash, and as what requests carry.

import { MODES, talks } from "./modes.js";

const NUMBERS = "n k seed guidance image_guidance temperature top_p retrieve candidates max_tokens".split(" ");
const WORDS = ["mode", "prompt", "control", "contrast", "compare", "values"];
const MOST_VALUES = 6;

export const serves = (element, mode) => !element.dataset.modes || element.dataset.modes.split(" ").includes(mode);

/** Read what the form says in its mode; what is left empty is left out. */
export function read(form) {
  const mode = form.elements.mode.value;
  const found = {};
  for (const name of [...WORDS, ...NUMBERS]) {
    const field = form.elements[name];
    const part = field instanceof RadioNodeList ? null : field.closest("[data-modes]");
    const value = field.value.trim();
    if (value === "" || (part && !serves(part, mode))) continue;
    found[name] = NUMBERS.includes(name) ? Number(value) : value;
  }
  if (!found.compare) delete found.values;
  return found;
}

/** Write settings into the form; what is not among them is emptied. */
export function write(form, settings) {
  const empty = { mode: "draw", control: form.querySelector("[name=control] option:enabled").value };
  for (const name of [...WORDS, ...NUMBERS]) form.elements[name].value = settings[name] ?? empty[name] ?? "";
  if (!form.elements.control.value) form.elements.control.value = empty.control; // one that there is not
}

/** Return the hash that carries settings; pictures are never in it. */
export function toHash(settings) {
  const { boxes, ...rest } = settings;
  const found = new URLSearchParams(rest);
  if (boxes?.length) found.set("boxes", JSON.stringify(boxes));
  return `#${found}`;
}

/** Return the settings in a hash, without what could not have been written by `toHash`. */
export function fromHash(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const found = {};
  for (const name of WORDS) if (given.get(name)) found[name] = given.get(name);
  for (const name of NUMBERS) {
    const value = given.get(name);
    if (value && Number.isFinite(Number(value))) found[name] = Number(value);
  }
  if (!Object.hasOwn(MODES, found.mode ?? "")) delete found.mode;
  try {
    const boxes = JSON.parse(given.get("boxes") ?? "[]");
    const whole = (at) => at.length === 4 && at.every((value) => Number.isInteger(value) && value >= 0 && value <= 255);
    found.boxes = boxes.filter(([name, at]) => typeof name === "string" && whole(at));
  } catch {
    found.boxes = [];
  }
  return found;
}

/** Return the settings of each picture to draw side by side, with a label. Raises words for values that are none. */
export function variants(settings) {
  const { compare, values, ...rest } = settings;
  if (!compare) return [{ label: "", settings: rest }];
  const given = (values ?? "").split(/[\s,;]+/).filter(Boolean);
  if (!given.length || given.length > MOST_VALUES || given.some((value) => !Number.isFinite(Number(value))))
    throw new Error("Give one to six numbers with commas between them, such as 1, 2, 4.");
  return given.map((value) => ({
    label: `${LABELS[compare] ?? compare} ${value}`,
    settings: { ...rest, [compare]: Number(value) },
  }));
}

const LABELS = {
  guidance: "guidance",
  image_guidance: "picture guidance",
  temperature: "temperature",
  top_p: "top-p",
  retrieve: "documents",
};

/** Tell whether rows can be shown as they come: of several candidates nobody knows yet which one is kept. */
export const showsRows = ({ mode, candidates }) => (candidates ?? (mode === "fill" ? 0 : 1)) === 1;

/** Return the fields of a request's body: the official ones, and apart from them those of this server alone. */
export function fields(settings, model) {
  const { mode: _, prompt, control: __, n, max_tokens, temperature, top_p, seed, ...extra } = settings;
  const chat = talks(settings);
  const official = chat ? { max_tokens, temperature, top_p, seed } : { n };
  const own = chat ? extra : { temperature, top_p, seed, ...extra };
  const said = (given) => Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { official: { model, ...(chat ? {} : { prompt }), ...said(official) }, own: said(own) };
}
