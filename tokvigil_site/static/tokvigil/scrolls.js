// Says of a table that is wider than its place that it scrolls sideways, as long as that is so.
addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("main .tv-scroll")) {
    const said = document.createElement("p");
    said.className = "tv-note tv-scrolls";
    said.textContent = "This table scrolls sideways →";
    said.hidden = true;
    place.before(said);
    const watch = new ResizeObserver(() => (said.hidden = place.scrollWidth <= place.clientWidth));
    // The table may change its width where its place does not: when its letters have come, when a part of it opens.
    for (const each of [place, ...place.children]) watch.observe(each);
  }
});
