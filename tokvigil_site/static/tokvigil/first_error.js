// A form that was refused is shown at its first field with an error or a question, with the cursor in it.
// After all that gives a new form its cursor: so not before the page is loaded.
addEventListener("load", () => {
  const error = [...document.querySelectorAll("main :is(.tv-field-errors, .tv-question)")].find((each) => each.checkVisibility());
  if (!error) return;
  error.parentElement.querySelector("input:not([type=hidden]), select, textarea")?.focus({ preventScroll: true });
  error.parentElement.scrollIntoView({ block: "center" });
});
