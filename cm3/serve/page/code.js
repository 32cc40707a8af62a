// The same requests as curl, and as Python with the official client.

import { talks } from "./modes.js";
import { fields, variants } from "./settings.js";

const HOLE = "\u0000"; // stands in a value for the variable of a loop

/** Return settings with a hole in the place of what is compared, and its values. */
function opened(settings) {
  const { compare, values, ...rest } = settings;
  if (!compare) return { settings, name: "", values: [] };
  const given = variants(settings).map((one) => one.settings[compare]);
  return { settings: { ...rest, [compare]: HOLE }, name: compare, values: given };
}

const FILES = { fill: { image: "given.png", mask: "mask.png" }, edit: { image: "given.png" } };
const files = ({ mode }) => FILES[mode] ?? {};

const picture = (url) => (url === null ? [] : [{ type: "image_url", image_url: { url } }]);
const messages = (said, url) => [
  { role: "user", content: [...picture(url), ...(said ? [{ type: "text", text: said }] : [])] },
];

/** Return the body of a search; `url` is of the picture, null without one. */
const asking = ({ prompt, k }, url) =>
  Object.fromEntries(Object.entries({ query: prompt, k, image: url ?? undefined }).filter(([, one]) => one !== undefined));

function literal(value, name) {
  if (value === HOLE) return name;
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, name)).join(", ")}]`;
  if (value && typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, one]) => `${literal(key)}: ${literal(one, name)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

/** Return Python that makes what the settings say. `key`: whether the server wants one; `given`: whether a picture was
 * given. */
export function python(asked, model, base, { key, given }) {
  const { settings, name, values } = opened(asked);
  const { official, own } = fields(settings, model);
  const url = given ? HOLE : null;
  const lines = ["import base64", ...(key ? ["import os"] : []), "", "from openai import OpenAI", ""];
  lines.push(`client = OpenAI(base_url=${literal(base)}, api_key=${key ? 'os.environ["CM3_API_KEY"]' : '"none"'})`);
  const follows = settings.mode === "follow";
  if (given && (follows || talks(settings) || settings.mode === "search"))
    lines.push(
      'with open("given.png", "rb") as file:',
      '    url = "data:image/png;base64," + base64.b64encode(file.read()).decode()',
    );
  if (settings.mode === "search") {
    lines.push(`found = client.post("/memory/search", body=${literal(asking(settings, url), "url")}, cast_to=object)`);
    lines.push('for one in found["data"]:', '    print(one["score"], one["id"], one["text"])');
    return `${lines.filter((line) => given || line !== "import base64").join("\n").trimStart()}\n`;
  }
  const all = Object.entries(own).map(([field, value]) => `${literal(field)}: ${literal(value, name)}`);
  if (follows) all.push(`"control": ${literal({ kind: settings.control, image: url }, "url")}`);
  const fieldsOf = Object.entries(official).map(([field, value]) => `    ${field}=${literal(value)},`);
  if (all.length) fieldsOf.push(`    extra_body={${all.join(", ")}},`);
  if (talks(settings)) {
    fieldsOf.splice(1, 0, `    messages=${literal(messages(settings.prompt, url), "url")},`);
    lines.push("answer = client.chat.completions.create(", ...fieldsOf, ")", "print(answer.choices[0].message.content)");
    return `${lines.filter((line) => given || line !== "import base64").join("\n").trimStart()}\n`;
  }
  const sent = Object.entries(files(settings)).map(([field, file]) => `    ${field}=open("${file}", "rb"),`);
  fieldsOf.splice(1, 0, ...sent);
  const call = [`made = client.images.${sent.length ? "edit" : "generate"}(`, ...fieldsOf, ")"];
  const file = `f"picture${name && `-{${name}}`}-{number}.png"`;
  call.push("for number, picture in enumerate(made.data, 1):", `    with open(${file}, "wb") as file:`);
  call.push("        file.write(base64.b64decode(picture.b64_json))");
  if (name) lines.push(`for ${name} in ${literal(values)}:`, ...call.map((line) => `    ${line}`));
  else lines.push(...call);
  return `${lines.join("\n")}\n`;
}

/** Return the same as commands for a shell with curl, jq and base64. */
export function curl(asked, model, base, { key, given }) {
  const { settings, name, values } = opened(asked);
  const quoted = (words) => `'${words.replaceAll("'", `'\\''`)}'`.replace(HOLE, `'"$${name}"'`);
  // a hole in JSON is a number, not a string
  const json = (value) => quoted(JSON.stringify(value).replace(JSON.stringify(HOLE), HOLE));
  const { official, own } = fields(settings, model);
  const head = key ? ' -H "Authorization: Bearer $CM3_API_KEY"' : "";
  const typed = `${head} -H 'Content-Type: application/json'`;
  const all = { ...official, ...own };
  /** Post JSON, into which the picture is put at a place. */
  const post = (path, body, place) => {
    if (!given || !place) return `curl -sS ${base}/${path}${typed} -d ${json(body)}`;
    const put = `'${place} = "data:image/png;base64," + $picture'`;
    return (
      `base64 < given.png | tr -d '\\n' > given.txt\n` +
      `echo ${json(body)} | jq --rawfile picture given.txt ${put} |\n  curl -sS ${base}/${path}${typed} -d @-`
    );
  };
  if (settings.mode === "search")
    return `${post("memory/search", asking(settings, null), ".image")} | jq -r '.data[] | "\\(.score) \\(.id) \\(.text)"'\n`;
  if (talks(settings)) {
    const body = { ...all, messages: messages(settings.prompt, given ? "" : null) };
    const place = ".messages[0].content[0].image_url.url";
    return `${post("chat/completions", body, place)} | jq -r '.choices[0].message.content'\n`;
  }
  const sent = Object.entries(files(settings)).map(([field, file]) => ` -F ${field}=@${file}`);
  const parts = Object.entries(all).map(([field, value]) => ` --form-string ${quoted(`${field}=${value}`)}`);
  const follows = settings.mode === "follow";
  if (follows) all.control = { kind: settings.control };
  const ask = sent.length
    ? `curl -sS ${base}/images/edits${head}${sent.join("")}${parts.join("")}`
    : post("images/generations", all, follows && ".control.image");
  const file = `picture${name && `-$${name}`}-$number.png`;
  const take = "jq -r '.data | to_entries[] | \"\\(.key + 1) \\(.value.b64_json)\"'";
  const save = `while read -r number picture; do echo "$picture" | base64 --decode > "${file}"; done`;
  const command = `${ask} |\n  ${take} |\n  ${save}\n`;
  return name ? `for ${name} in ${values.join(" ")}; do\n${command}done\n` : command;
}
