// What is asked of the server, and what comes of it on a card.
//
// A job is {settings, cards, made}: `made` takes what is whole, also where the rest fails.

import { events, found, Refusal } from "./api.js";
import { talks } from "./modes.js";
import { dataUrl, fromBase64, fromDataUrl } from "./pictures.js";
import { fields, showsRows } from "./settings.js";

/** Return the path and the body of a request. */
async function request(settings, given, model) {
  const { official, own } = fields(settings, model);
  const url = given.picture && (await dataUrl(given.picture));
  if (talks(settings)) {
    const content = url ? [{ type: "image_url", image_url: { url } }] : [];
    if (settings.prompt) content.push({ type: "text", text: settings.prompt });
    return ["chat/completions", { ...official, ...own, messages: [{ role: "user", content }], stream: true }];
  }
  const all = { ...official, ...own, stream: true, ...(showsRows(settings) ? { partial_rows: true } : {}) };
  if (settings.mode === "follow") all.control = { kind: settings.control, image: url };
  if (!url || settings.mode === "follow") return ["images/generations", all];
  const parts = new FormData();
  for (const [name, value] of Object.entries(all)) parts.append(name, value);
  parts.append("image", given.picture, "image.png");
  if (given.mask) parts.append("mask", given.mask, "mask.png");
  return ["images/edits", parts];
}

/** Draw a picture for each card; `finish(card, one)` shows a whole one. */
export async function draw({ settings, cards, made }, given, model, signal, finish) {
  const started = performance.now();
  const [path, body] = await request(settings, given, model);
  const onWait = (seconds) => {
    for (const card of cards) card.said.textContent = `the server is busy; asking again in ${seconds} s`;
  };
  for await (const { type, b64_json, output_format, cm3 } of events(path, { body, signal, onWait })) {
    const card = cards[cm3.n];
    const blob = fromBase64(b64_json, `image/${output_format}`);
    if (type.endsWith(".partial_image")) {
      await card.rows(blob, cm3.rows, cm3.of);
    } else if (type.endsWith(".completed")) {
      const { seed, retrieved, warnings, thought } = cm3;
      const seconds = (performance.now() - started) / 1000;
      made.push({ label: card.label, blob, seed, seconds, retrieved, warnings, thought, boxes: settings.boxes });
      await finish(card, made.at(-1));
    }
  }
  if (made.length < cards.length) throw new Refusal("The answer broke off before its end.");
}

/** Write the words about a picture on the one card. */
export async function answer({ settings, cards: [card], made }, given, model, signal) {
  const started = performance.now();
  const [path, body] = await request(settings, given, model);
  const one = { text: "", retrieved: [], warnings: [] };
  for await (const { choices, cm3 } of events(path, { body, signal })) {
    for (const choice of choices ?? []) {
      const text = choice.delta?.content ?? "";
      one.text += text;
      card.add(text);
      Object.assign(one, choice.cm3);
    }
    Object.assign(one, cm3);
  }
  one.text = one.text.trim();
  one.seconds = (performance.now() - started) / 1000;
  made.push(one);
  card.done(one);
}

/** Look documents up in the memory, and list them on the one card. */
export async function search({ settings, cards: [card], made }, given, _, signal) {
  const body = { pictures: true };
  if (settings.prompt) body.query = settings.prompt;
  if (settings.k) body.k = settings.k;
  if (given.picture) body.image = await dataUrl(given.picture);
  const documents = await found(body, signal);
  for (const one of documents) one.blobs = one.images.map(fromDataUrl);
  made.push({ documents });
  card.done(made[0]);
}
