// The same requests as curl, and as Python with the official client.

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

const messages = (question, url) => [
  {
    role: "user",
    content: [{ type: "image_url", image_url: { url } }, ...(question ? [{ type: "text", text: question }] : [])],
  },
];

function literal(value, name) {
  if (value === HOLE) return name;
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, name)).join(", ")}]`;
  if (value && typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, one]) => `${literal(key)}: ${literal(one, name)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}

/** Return Python that makes what the settings say. `key`: whether the server wants one. */
export function python(asked, model, base, key) {
  const { settings, name, values } = opened(asked);
  const { official, own } = fields(settings, model);
  const given = Object.entries(official).map(([field, value]) => `    ${field}=${literal(value)},`);
  if (Object.keys(own).length) given.push(`    extra_body=${literal(own, name)},`);
  const lines = ["import base64", ...(key ? ["import os"] : []), "", "from openai import OpenAI", ""];
  lines.push(`client = OpenAI(base_url=${literal(base)}, api_key=${key ? 'os.environ["CM3_API_KEY"]' : '"none"'})`);
  if (settings.mode === "ask") {
    given.splice(1, 0, `    messages=${literal(messages(settings.prompt, HOLE), "url")},`);
    lines.push('with open("given.png", "rb") as given:');
    lines.push('    url = "data:image/png;base64," + base64.b64encode(given.read()).decode()');
    lines.push("answer = client.chat.completions.create(", ...given, ")", "print(answer.choices[0].message.content)");
    return `${lines.join("\n")}\n`;
  }
  const sent = Object.entries(files(settings)).map(([field, file]) => `    ${field}=open("${file}", "rb"),`);
  given.splice(1, 0, ...sent);
  const call = [`made = client.images.${sent.length ? "edit" : "generate"}(`, ...given, ")"];
  const file = `f"picture${name && `-{${name}}`}-{number}.png"`;
  call.push("for number, picture in enumerate(made.data, 1):", `    with open(${file}, "wb") as file:`);
  call.push("        file.write(base64.b64decode(picture.b64_json))");
  if (name) lines.push(`for ${name} in ${literal(values)}:`, ...call.map((line) => `    ${line}`));
  else lines.push(...call);
  return `${lines.join("\n")}\n`;
}

/** Return the same as commands for a shell with curl, jq and base64. */
export function curl(asked, model, base, key) {
  const { settings, name, values } = opened(asked);
  const quoted = (words) => `'${words.replaceAll("'", `'\\''`)}'`.replace(HOLE, `'"$${name}"'`);
  // a hole in JSON is a number, not a string
  const json = (value) => quoted(JSON.stringify(value).replace(JSON.stringify(HOLE), HOLE));
  const { official, own } = fields(settings, model);
  const head = key ? ' -H "Authorization: Bearer $CM3_API_KEY"' : "";
  const typed = `${head} -H 'Content-Type: application/json'`;
  if (settings.mode === "ask") {
    const body = json({ ...official, ...own, messages: messages(settings.prompt, "") });
    const put = "'.messages[0].content[0].image_url.url = \"data:image/png;base64,\" + $picture'";
    return (
      `base64 < given.png | tr -d '\\n' > given.txt\n` +
      `echo ${body} | jq --rawfile picture given.txt ${put} |\n` +
      `  curl -sS ${base}/chat/completions${typed} -d @- | jq -r '.choices[0].message.content'\n`
    );
  }
  const sent = Object.entries(files(settings)).map(([field, file]) => ` -F ${field}=@${file}`);
  const all = { ...official, ...own };
  const parts = Object.entries(all).map(([field, value]) => ` --form-string ${quoted(`${field}=${value}`)}`);
  const ask = sent.length
    ? `curl -sS ${base}/images/edits${head}${sent.join("")}${parts.join("")}`
    : `curl -sS ${base}/images/generations${typed} -d ${json(all)}`;
  const file = `picture${name && `-$${name}`}-$number.png`;
  const take = "jq -r '.data | to_entries[] | \"\\(.key + 1) \\(.value.b64_json)\"'";
  const save = `while read -r number picture; do echo "$picture" | base64 --decode > "${file}"; done`;
  const command = `${ask} |\n  ${take} |\n  ${save}\n`;
  return name ? `for ${name} in ${values.join(" ")}; do\n${command}done\n` : command;
}
