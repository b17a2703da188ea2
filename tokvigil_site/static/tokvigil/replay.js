// The progress of a replay, read anew every second; when it has ended, its page.
const box = document.getElementById("replay-progress");

async function look() {
  const answer = await fetch(box.dataset.url).catch(() => null);
  if (answer?.ok && !answer.redirected) {
    box.innerHTML = await answer.text();
    const state = box.querySelector("[data-state]")?.dataset.state;
    if (state !== "waiting" && state !== "running") return location.reload();
  }
  setTimeout(look, 1000);
}

if (box) setTimeout(look, 1000);
