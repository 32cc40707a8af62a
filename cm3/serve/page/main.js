// The playground: one form asks, the stage shows.

import * as api from "./api.js";
import { Boxes } from "./boxes.js";
import * as code from "./code.js";
import { $, copy, make, tell } from "./dom.js";
import { examplesOf } from "./examples.js";
import * as kept from "./history.js";
import { Mask } from "./mask.js";
import { able, GAP, MODES, talks } from "./modes.js";
import { readPicture } from "./pictures.js";
import { answer, draw, search } from "./requests.js";
import { Answer, Card, Found, showDocuments } from "./results.js";
import { fromHash, read, serves, showsRows, toHash, variants, write } from "./settings.js";

const form = $("form");
let model = { id: "", cm3: { size: [256, 256], grid: [8, 8], tasks: [] } }; // until the server has told
let picture = null; // {blob, url, side}
let running = null; // AbortController
let shown = null; // the run on the stage

const say = (words) => ($("status").textContent = words);
const mode = () => form.elements.mode.value;
const mask = new Mask($("mask"), () => ({ tool: form.elements.tool.value, size: Number($("brush-size").value) }), say);
const boxes = new Boxes($("boxes"), $("box-list"), (left) => {
  if (left === "none") $("box-add").focus();
  hintOfPrompt();
});

// ---- what the model can do

async function greet() {
  try {
    model = await api.model();
  } catch (error) {
    $("model").textContent = "no model";
    if (error.status === 401) askForKey(error.message);
    tell($("problem"), error.message);
    return;
  }
  tell($("problem"));
  const { size, tasks, memory, grid } = model.cm3;
  $("model").textContent = `${model.id}, ${size[0]} \u00d7 ${size[1]}`;
  $("control-hint").textContent = `drawn at ${size[0]} \u00d7 ${size[1]} pixels, as this model was shown them`;
  const kinds = [...$("control").options];
  for (const kind of kinds) kind.hidden = kind.disabled = !tasks.includes(kind.value);
  const can = able(model.cm3, kinds.map((kind) => kind.value));
  for (const radio of form.elements.mode) radio.closest("label").hidden = !can[radio.value];
  if (!can[mode()]) form.elements.mode.value = "draw";
  for (const field of form.querySelectorAll('[data-needs="memory"]')) field.hidden = field.disabled = !memory;
  for (const surface of [$("boxes"), $("results")]) {
    surface.style.setProperty("--rows", grid[0]);
    surface.style.setProperty("--columns", grid[1]);
  }
  if (!shown) showNothing();
  showMode();
}

/** Offer things to try in a task. */
function showExamples() {
  const chips = examplesOf(model, mode()).map((one) => {
    const chip = make("button", { type: "button", className: "chip", title: one.prompt }, one.label ?? one.prompt);
    chip.addEventListener("click", () => {
      form.elements.prompt.value = one.prompt;
      form.elements.retrieve.value = one.retrieve ?? "";
      if (one.boxes) boxes.value = one.boxes;
      tellSettings();
      form.elements.prompt.focus();
    });
    return make("li", {}, chip);
  });
  $("examples-part").hidden = !chips.length;
  $("examples").replaceChildren(...chips);
}

// Words for a picture, for a change and for a question are kept apart.
const words = {};
let group = "picture";

function changeWords() {
  if (MODES[mode()].words === group) return;
  words[group] = form.elements.prompt.value;
  group = MODES[mode()].words;
  form.elements.prompt.value = words[group] ?? "";
}

function showMode() {
  changeWords();
  const now = mode();
  $("prompt-label").textContent = MODES[now].prompt;
  if (!running) $("go").textContent = MODES[now].go;
  $("picture-part").hidden = !MODES[now].picture;
  $("drop-may").hidden = MODES[now].picture !== "may";
  $("boxes-part").hidden = now !== "place";
  $("mask").hidden = now !== "fill";
  showMaskTools();
  for (const part of form.querySelectorAll("[data-modes]"))
    part.hidden = !serves(part, now) || (part.dataset.needs === "memory" && !model.cm3.memory);
  const chosen = form.elements.compare.selectedOptions[0];
  if (chosen?.hidden) form.elements.compare.value = "";
  $("drop-last").hidden = !shown?.made.some((one) => one.blob);
  showExamples();
  hintOfPrompt();
  tellSettings();
  forgive();
}

/** Say beside the word Settings which of them are not the model's own, for they may be folded away. */
function tellSettings() {
  const { mode: _, prompt, control, compare, values, ...given } = read(form);
  const said = Object.entries(given).map(([name, value]) => [form.elements[name].labels[0].textContent, value]);
  if (compare) said.push([form.elements.compare.selectedOptions[0].textContent, values ?? ""]);
  $("changed").textContent = said.map(([name, value]) => `${name.toLowerCase()} ${value}`).join(", ");
}

const named = () => boxes.value.map(([name]) => name).filter(Boolean);

function hintOfPrompt() {
  const names = mode() === "place" ? named().join(" and ") : "";
  form.elements.prompt.placeholder = names || MODES[mode()].hint;
}

// ---- pictures that are given

async function take(file, painted) {
  tell($("picture-error"));
  try {
    show(await readPicture(file));
    if (painted) await mask.restore(painted);
  } catch (error) {
    tell($("picture-error"), error.message);
  }
}

function show(given) {
  if (picture) URL.revokeObjectURL(picture.url);
  picture = given;
  $("drop").hidden = Boolean(given);
  $("paper").hidden = $("picture-clear").hidden = !given;
  showMaskTools();
  if (given) {
    $("given").src = given.url;
    mask.open(given.side, model.cm3.grid);
  } else {
    $("file").value = "";
  }
}

function showMaskTools() {
  $("mask-tools").hidden = $("mask-clear").hidden = mode() !== "fill" || !picture;
}

async function use(blob, next) {
  form.elements.mode.value = next;
  showMode();
  await take(blob);
  form.scrollIntoView({ block: "start" });
  (next === "fill" ? $("mask") : form.elements.prompt).focus({ preventScroll: true });
}

$("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0]));
$("drop-last").addEventListener("click", () => take(shown.made.find((one) => one.blob).blob));
$("picture-clear").addEventListener("click", () => (show(null), $("file").focus()));
$("mask-clear").addEventListener("click", () => (mask.clear(), say("Nothing is painted.")));
$("box-add").addEventListener("click", () => boxes.add().name.focus());
$("gap-add").addEventListener("click", () => {
  const { prompt } = form.elements;
  prompt.setRangeText(GAP, prompt.selectionStart, prompt.selectionEnd, "end");
  prompt.focus();
});
for (const name of ["dragover", "drop", "paste"])
  document.addEventListener(name, (event) => {
    const from = event.dataTransfer ?? event.clipboardData;
    const held = [...(from?.items ?? [])].find((item) => item.kind === "file");
    if (!held) return;
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "dragover") return;
    if ($("picture-part").hidden) form.elements.mode.value = "ask";
    showMode();
    take(held.getAsFile());
  });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));

// ---- errors where they happened

function forgive() {
  for (const place of form.querySelectorAll(".error")) tell(place);
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

const OF_PICTURE = ["image", "images", "mask", "messages", "control"];

/** Show words under the field of a name; false where there is no such field. */
function blame(name, words) {
  if (OF_PICTURE.includes(name)) {
    tell($("picture-error"), words);
    return !$("picture-part").hidden;
  }
  const place = name && form.querySelector(`.error[data-of="${CSS.escape(name)}"]`);
  const field = name && form.elements.namedItem(name);
  if (place) {
    tell(place, words);
    field?.focus();
    return true;
  }
  if (!(field instanceof HTMLElement) || field.closest("[hidden]")) return false;
  $("more").open = true;
  let line = $(`${name}-error`);
  if (!line) {
    line = make("p", { className: "error", id: `${name}-error`, role: "alert" });
    field.after(line);
    field.setAttribute("aria-describedby", [field.getAttribute("aria-describedby"), line.id].filter(Boolean).join(" "));
  }
  field.setAttribute("aria-invalid", "true");
  tell(line, words);
  field.focus();
  return true;
}

/** Show an error in the form; false where nothing there is to blame. */
function complain(error) {
  if (error.status === 401) askForKey(error.message);
  return blame(error.param?.split(/[.[]/)[0], error.message);
}

/** Return what is asked for, or nothing where a field says why not. */
function asked() {
  forgive();
  tell($("problem"));
  const settings = read(form);
  for (const field of form.elements)
    if (field.willValidate && !field.closest("[hidden]") && !field.checkValidity())
      return void blame(field.name, field.validationMessage);
  if (settings.mode === "place") {
    settings.boxes = boxes.value;
    if (!settings.boxes.length) return void blame("boxes", "Draw a box, or add one.");
    if (settings.boxes.some(([name]) => !name)) return void blame("boxes", "Give each box a name.");
    settings.prompt ??= named().join(" and ");
  }
  const { mode: task, prompt } = settings;
  if (MODES[task].picture === "needs" && !picture) return void tell($("picture-error"), "Choose a picture first.");
  if (task === "fill" && mask.empty) return void blame("mask", "Paint over what is to be filled.");
  if (!prompt && task === "search" && !picture) return void blame("prompt", "Write some words, or choose a picture.");
  if (!prompt && !["ask", "search"].includes(task)) return void blame("prompt", "Write some words first.");
  if (task === "words" && !prompt.includes(GAP)) return void blame("prompt", `Put ${GAP} where words are missing.`);
  try {
    variants(settings);
  } catch (error) {
    return void blame("values", error.message);
  }
  return settings;
}

// ---- requests

function finish(card, one) {
  const next = { edit: "Edit", fill: "Fill", ask: "Ask" };
  const can = Object.keys(next).filter((name) => !form.querySelector(`[value="${name}"]`).closest("label").hidden);
  const actions = can.map((name) => [next[name], () => use(one.blob, name)]);
  if (one.seed !== undefined && form.elements.seed.value !== String(one.seed))
    actions.push(["Keep seed", () => keepSeed(one.seed)]);
  return card.done(one, actions);
}

function keepSeed(seed) {
  form.elements.seed.value = seed;
  $("more").open = true;
  tellSettings();
  say(`Seed ${seed} is kept.`);
}

function stage(cards) {
  $("results").classList.toggle("several", cards.length > 1);
  $("results").style.setProperty("--across", cards.length === 4 ? 2 : Math.min(cards.length, 3));
  $("results").replaceChildren(...cards.map((card) => card.root));
}

function showNothing() {
  const { size, grid, knows } = model.cm3;
  const card = new Card({ label: "", prompt: "", size, grid });
  card.root.classList.add("empty");
  card.canvas.setAttribute("aria-label", "No picture yet");
  card.said.textContent = `${grid[0]} rows of ${grid[1]} codes, drawn from the top`;
  if (knows) card.caption.append(make("p", { className: "hint" }, `This model knows ${knows}.`));
  stage([card]);
}

async function run() {
  const settings = asked();
  if (!settings) return;
  if (settings.mode !== "search") settings.seed ??= Math.floor(Math.random() * 2 ** 31);
  running = new AbortController();
  const { signal } = running;
  const given = { picture: $("picture-part").hidden ? null : (picture?.blob ?? null) };
  $("go").textContent = "Stop";
  $("go-key").textContent = "Esc";
  $("go").classList.add("stop");
  $("after").hidden = true;
  showDocuments($("documents"), []);
  say(talks(settings) ? "Reading." : settings.mode === "search" ? "Searching." : "Drawing.");
  const jobs = jobsOf(settings, given);
  stage(jobs.flatMap((job) => job.cards));
  if (settings.mode === "fill") given.mask = await mask.file();
  shown = { settings, ...given, made: [] };
  if (matchMedia("(max-width: 899px)").matches) $("stage").scrollIntoView({ block: "start" });
  const ended = await Promise.allSettled(
    jobs.map(async (job) => {
      if (talks(settings)) return answer(job, given, model.id, signal);
      if (settings.mode === "search") return search(job, given, model.id, signal);
      const under = settings.mode === "follow" ? null : given.picture;
      await Promise.all(job.cards.map((card) => card.begin(under, showsRows(job.settings))));
      return draw(job, given, model.id, signal, finish);
    }),
  );
  ended.forEach((one, place) => {
    if (one.status === "fulfilled") return;
    let told = "Stopped.";
    if (!signal.aborted) told = complain(one.reason) ? "Refused, for what the form says." : one.reason.message;
    for (const card of jobs[place].cards) if (!card.root.classList.contains("done")) card.fail(told);
  });
  running = null;
  $("go-key").textContent = "Enter";
  $("go").classList.remove("stop");
  $("go").textContent = MODES[mode()].go;
  shown.made = jobs.flatMap((job) => job.made);
  if (shown.made.length && settings.mode !== "search") {
    await kept.add({ id: Date.now(), ...shown });
    await showHistory();
  }
  showAfter();
  const [first] = shown.made;
  const done = first?.documents ? jobs[0].cards[0].said.textContent : (first?.text ?? "The picture is done.");
  say(signal.aborted ? "Stopped." : first ? done : "Nothing was made.");
}

function jobsOf(settings, given) {
  const { size, grid } = model.cm3;
  return variants(settings).map((one) => {
    const { prompt } = settings;
    const card = () => new Card({ label: one.label, prompt, size, grid });
    const drawn = () => Array.from({ length: one.settings.n ?? 1 }, card);
    const words = () => [talks(settings) ? new Answer({ prompt, picture: given.picture }) : new Found()];
    const cards = talks(settings) || settings.mode === "search" ? words() : drawn();
    return { ...one, cards, made: [] };
  });
}

function showAfter() {
  showDocuments($("documents"), shown.made.flatMap((one) => one.retrieved ?? []));
  $("after").hidden = !shown.made.length;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else run();
});
form.elements.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
});
form.addEventListener("change", (event) => event.target.name === "mode" && showMode());
form.addEventListener("input", (event) => {
  const line = $(`${event.target.name}-error`);
  event.target.removeAttribute("aria-invalid");
  if (line) tell(line);
  tellSettings();
});
$("reset").addEventListener("click", () => {
  write(form, { mode: mode(), prompt: form.elements.prompt.value });
  showMode();
});

// ---- history

async function showHistory() {
  const runs = await kept.all();
  $("history").hidden = !runs.length;
  for (const image of $("history").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("history").querySelector("ul").replaceChildren(...runs.map(past));
}

function past(run) {
  const words = run.settings.prompt ?? run.made[0].text;
  const picture = run.made[0].blob ?? run.picture;
  const seen = picture
    ? make("img", { src: URL.createObjectURL(picture), alt: "", loading: "lazy" })
    : make("span", { className: "told" }, make("span", {}, run.made[0].text));
  const again = make("button", { type: "button", className: "past", title: words }, seen, make("span", {}, words));
  const label = `Remove from history: ${words}`;
  const away = make("button", { type: "button", className: "away", aria: { label } }, "\u00d7");
  again.addEventListener("click", () => reopen(run));
  away.addEventListener("click", async () => {
    await kept.remove(run.id);
    await showHistory();
    ($("history").querySelector(".past") ?? form.elements.prompt).focus();
  });
  return make("li", {}, again, away);
}

async function reopen(run) {
  if (running) return;
  fill(run.settings);
  if (run.picture) await take(run.picture, run.mask);
  shown = run;
  const jobs = jobsOf(run.settings, run);
  const cards = jobs.flatMap((job) => job.cards).slice(0, run.made.length);
  stage(cards);
  const done = (card, one) => (card instanceof Answer ? card.done(one) : finish(card, one));
  await Promise.all(cards.map((card, i) => done(card, run.made[i])));
  showAfter();
  $("stage").scrollIntoView({ block: "nearest" });
  say("Shown again.");
}

function fill(settings) {
  group = MODES[settings.mode]?.words ?? group;
  write(form, settings);
  boxes.value = settings.boxes ?? [];
  $("more").open = Object.keys(settings).some((name) => !["mode", "prompt", "boxes", "seed", "control"].includes(name));
  showMode();
}

$("history-clear").addEventListener("click", async () => {
  await kept.clear();
  await showHistory();
  form.elements.prompt.focus();
});

// ---- links and code

$("share").addEventListener("click", async () => {
  const hash = toHash(shown.settings);
  history.replaceState(null, "", hash);
  await copy(location.href, $("copied"));
});

function showCode() {
  const write = code[document.querySelector("[name=language]:checked").value];
  $("code").querySelector("code").textContent = write(shown.settings, model.id, api.base, {
    key: Boolean(api.key.get()),
    given: Boolean(shown.picture),
  });
}

/** Offer the pictures that the code opens. */
function showFiles() {
  const given = { "given.png": shown.picture, "mask.png": shown.mask };
  const links = Object.entries(given).filter(([, blob]) => blob).map(([download, blob]) => {
    return make("a", { href: URL.createObjectURL(blob), download, className: "button small" }, download);
  });
  $("code-files").replaceChildren(...links);
}

$("code-open").addEventListener("click", () => {
  showCode();
  showFiles();
  $("code").showModal();
});
$("code").addEventListener("change", showCode);
$("code").querySelector("[data-close]").addEventListener("click", () => $("code").close());
$("code-copy").addEventListener("click", () => copy($("code").querySelector("code").textContent, $("code-copied")));

// ---- key

function askForKey(why) {
  $("key-open").hidden = false;
  if (why) $("key-why").textContent = `${why} The key is kept until you close this tab, and sent to this server alone.`;
  $("key-value").value = api.key.get();
  if (!$("key").open) $("key").showModal();
}

$("key-open").hidden = !api.key.get();
$("key-open").addEventListener("click", () => askForKey());
$("key").addEventListener("close", () => {
  if ($("key").returnValue !== "keep") return;
  api.key.set($("key-value").value);
  greet();
});

// ---- start

if (location.hash.length > 1) fill(fromHash(location.hash));
window.addEventListener("hashchange", () => fill(fromHash(location.hash)));
showHistory();
await greet();
document.documentElement.dataset.ready = "";
