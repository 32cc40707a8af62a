// Set the chosen theme before anything is painted; without a choice the system's holds.
try {
  const chosen = localStorage.getItem("cm3-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that keeps nothing has the system's theme
}
