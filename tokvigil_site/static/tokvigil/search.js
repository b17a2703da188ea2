// "/" goes to the search of the header, unless somebody is writing; where that has no room, to the page's own.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const fields = document.querySelectorAll("#console-search, .tv-search-page input[type=search]");
  const field = [...fields].find((each) => each.checkVisibility());
  if (!field) return;
  event.preventDefault();
  field.focus();
  field.select();
});
