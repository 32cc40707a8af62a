// Things to try, by model and task: settings that a click fills in.

const SCENES = {
  draw: [
    { prompt: "a large red circle at the top left on a grey background" },
    { prompt: "a small white star below a large blue square on a mint ground" },
    { prompt: "a picture of a sozoth", retrieve: 1, label: "a picture of a sozoth, looked up first" },
  ],
  place: [
    {
      prompt: "a red circle and a blue star on a mint ground",
      boxes: [
        ["red circle", [35, 35, 92, 92]],
        ["blue star", [142, 139, 241, 234]],
      ],
    },
  ],
  edit: [{ prompt: "make the background pink" }, { prompt: "put a small black star at the bottom right" }],
  follow: [{ prompt: "a large red circle on a grey background" }],
  ask: [{ prompt: "what colour is the background?" }, { prompt: "how many objects are there?" }],
  words: [{ prompt: "a small <gap> star below a large blue square on a mint ground" }],
  search: [{ prompt: "a picture of a sozoth" }],
};
const STICKERS = {
  draw: [
    { prompt: "a large owl at the top left and a small cactus below it, on a mint ground" },
    { prompt: "draw me an owl next to a lion" },
    { prompt: "three bananas on a blue ground" },
    { prompt: "a large flamingo on a sky ground", retrieve: 1, label: "a flamingo, looked up first" },
  ],
  place: [
    {
      prompt: "a red circle and a basketball on a navy ground",
      boxes: [
        ["red circle", [24, 152, 102, 230]],
        ["basketball", [153, 153, 230, 230]],
      ],
    },
  ],
  edit: [{ prompt: "change the ground to pink" }, { prompt: "add a small moon at the bottom right" }],
  follow: [{ prompt: "a large teapot on a sky ground" }],
  ask: [{ prompt: "what colour is the ground?" }, { prompt: "how many stickers are there?" }],
  words: [{ prompt: "a small <gap> at the top left on a mint ground" }],
  search: [{ prompt: "a large flamingo on a sky ground" }],
};
const ANY = {
  draw: [{ prompt: "a red bicycle against a white wall" }, { prompt: "a lighthouse at dusk, seen from the sea" }],
  ask: [{ prompt: "what is in the middle?" }],
};

const OF = { scenes: SCENES, stickers: STICKERS };

/** Return what to try with a model and a task; what needs a memory only where there is one. */
export function examplesOf(model, mode) {
  const all = (OF[model.id] ?? ANY)[mode] ?? [];
  return all.filter((one) => !one.retrieve || model.cm3.memory);
}
