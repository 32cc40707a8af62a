// The theme: set before anything is painted, and changed by its button. Without a choice the system's holds.

(() => {
  const KEPT = "cm3-theme";
  const THEMES = ["auto", "light", "dark"];
  const root = document.documentElement;
  const now = () => root.dataset.theme ?? "auto";

  const set = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };

  try {
    set(localStorage.getItem(KEPT));
  } catch {
    // a browser that keeps nothing
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => (button.lastChild.textContent = `Theme: ${now()}`);
    button.addEventListener("click", () => {
      set(THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length]);
      try {
        localStorage.setItem(KEPT, now());
      } catch {
        // it holds until the page is left
      }
      show();
    });
    show();
  });
})();
