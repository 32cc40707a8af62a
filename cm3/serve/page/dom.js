// Small helpers for the document.

export const $ = (id) => document.getElementById(id);

/** Make an element with properties, of which `data` and `aria` are groups, and children. */
export function make(tag, { data = {}, aria = {}, ...props } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), props);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
  made.append(...children);
  return made;
}

/** Show words in a place for them, or hide the place where there are none. */
export function tell(place, words = "") {
  place.textContent = words;
  place.hidden = !words;
}

/** Copy words and say so, or that the browser does not let us. */
export async function copy(words, place) {
  try {
    await navigator.clipboard.writeText(words);
    place.textContent = "Copied.";
  } catch {
    place.textContent = "The browser does not allow copying here; mark the text and copy it by hand.";
    return false;
  }
  setTimeout(() => (place.textContent = ""), 4000);
  return true;
}
