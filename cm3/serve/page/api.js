// The server's interface: errors in its own words, and events as they come.

const PATIENCE = 120; // seconds that a full queue is waited for, all in all

/** What the server refused, in its words. `param` names the field. */
export class Refusal extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

const KEY = "cm3-key";
let held = "";
try {
  held = sessionStorage.getItem(KEY) ?? "";
} catch {
  // kept in memory alone
}

export const key = {
  get: () => held,
  set(value) {
    held = value.trim();
    try {
      if (held) sessionStorage.setItem(KEY, held);
      else sessionStorage.removeItem(KEY);
    } catch {
      // kept in memory alone
    }
  },
};

export const base = new URL("v1", document.baseURI).href;

function refusal(error, status) {
  const param = typeof error?.param === "string" ? error.param : null;
  return new Refusal(typeof error?.message === "string" ? error.message : `The server said ${status}.`, status, param);
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Send a request. A full queue (429) is asked again when it says; `onWait(seconds)` hears of it. */
async function send(path, { body, signal, onWait } = {}) {
  const form = body instanceof FormData;
  const headers = held ? { Authorization: `Bearer ${held}` } : {};
  if (body && !form) headers["Content-Type"] = "application/json";
  for (let waited = 0; ; ) {
    let response;
    try {
      response = await fetch(`${base}/${path}`, {
        method: body ? "POST" : "GET",
        headers,
        body: form || !body ? body : JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refusal("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    const wait = Number(response.headers.get("Retry-After") ?? NaN);
    waited += Math.max(wait, 1);
    if (response.status !== 429 || !(waited <= PATIENCE)) throw refusal(told?.error, response.status);
    onWait?.(wait);
    await sleep(wait, signal);
  }
}

/** Return the first model of the server. */
export async function model() {
  const listed = await (await send("models")).json();
  return listed.data[0];
}

/** Return the documents that a search of the memory finds. */
export async function found(body, signal) {
  return (await (await send("memory/search", { body, signal })).json()).data;
}

/** Yield each object of a stream of server-sent events. An error in the middle of it is thrown. */
export async function* events(path, options) {
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        if (options?.signal?.aborted) throw error;
        throw new Refusal("The connection broke off before the end.");
      }
      if (read.done) return;
      const blocks = (waiting + read.value).split(/\r?\n\r?\n/);
      waiting = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const event = JSON.parse(data);
        if (event.error) throw refusal(event.error, response.status);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
