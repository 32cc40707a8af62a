// The tasks of the page: what each is called, and what it takes.

/** picture: whether one is needed, or may be given. words: tasks of one kind of words share what was written. */
export const MODES = {
  draw: { prompt: "Prompt", go: "Draw", hint: "a sentence; it becomes a picture", words: "picture" },
  place: { prompt: "Prompt", go: "Draw", hint: "the boxes' names, where you write nothing", words: "picture" },
  follow: { prompt: "Prompt", go: "Draw", hint: "what the picture is to show", words: "picture", picture: "needs" },
  fill: {
    prompt: "The whole picture in words",
    go: "Fill",
    hint: "also of what is not painted over",
    words: "picture",
    picture: "needs",
  },
  edit: { prompt: "Change", go: "Edit", hint: "such as: remove the star", words: "change", picture: "needs" },
  ask: {
    prompt: "Question",
    go: "Ask",
    hint: "leave it empty for a description",
    words: "question",
    picture: "needs",
  },
  words: {
    prompt: "Words with gaps",
    go: "Fill in",
    hint: "such as: a red <gap> above a blue square",
    words: "gaps",
    picture: "may",
  },
  search: { prompt: "Words to look for", go: "Search", hint: "such as: a yellow star", words: "search", picture: "may" },
};
export const GAP = "<gap>";

/** Tell which tasks a model does, by name. */
export function able({ tasks, memory, grammar }, kinds) {
  const holes = grammar === "cm3"; // the other grammar has no masks, and edits by words alone
  return {
    draw: true,
    place: tasks.includes("boxes"),
    follow: kinds.some((kind) => tasks.includes(kind)),
    fill: holes,
    edit: !holes || tasks.includes("edit"),
    ask: true,
    words: holes,
    search: memory,
  };
}

/** Tell whether what comes are words, through the interface of chats. */
export const talks = ({ mode }) => mode === "ask" || mode === "words";
