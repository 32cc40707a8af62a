// What was made, kept in this browser: the newest runs, up to a number and a size.

const RUNS = 40;
const BYTES = 48 * 2 ** 20;

let opened;
let memory = []; // where the browser keeps nothing

function open() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open("cm3", 1);
    } catch {
      return resolve(null);
    }
    request.onupgradeneeded = () => request.result.createObjectStore("runs", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => resolve(null);
  });
  return opened;
}

async function store(mode, act) {
  const base = await open();
  if (!base) return null;
  return new Promise((resolve, reject) => {
    const transaction = base.transaction("runs", mode);
    const request = act(transaction.objectStore("runs"));
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

const bytes = (run) => run.made.reduce((sum, one) => sum + (one.blob?.size ?? 0), run.picture?.size ?? 0);

/** Return the runs that are kept, newest first. */
export async function all() {
  const kept = (await store("readonly", (runs) => runs.getAll())) ?? memory;
  return [...kept].sort((a, b) => b.id - a.id);
}

/** Keep a run: {id, settings, made: [...], picture, mask}. The oldest make room. */
export async function add(run) {
  memory = [...memory, run];
  try {
    await store("readwrite", (runs) => runs.put(run));
  } catch {
    // no room: the page still has it until it is closed
  }
  let size = 0;
  for (const [place, one] of (await all()).entries()) {
    size += bytes(one);
    if (place >= RUNS || (place && size > BYTES)) await remove(one.id);
  }
}

export async function remove(id) {
  memory = memory.filter((run) => run.id !== id);
  await store("readwrite", (runs) => runs.delete(id));
}

export async function clear() {
  memory = [];
  await store("readwrite", (runs) => runs.clear());
}
