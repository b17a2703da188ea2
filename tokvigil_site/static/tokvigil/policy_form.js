// The sentence beside the form of a policy, rewritten by the server while the form is filled in; and names to choose from.
const form = document.getElementById("policy_form");
const preview = document.getElementById("policy-preview");
let timer;
let latest = 0;

async function rewrite() {
  const number = ++latest;
  const answer = await fetch(preview.dataset.url, { method: "POST", body: new FormData(form) }).catch(() => null);
  if (answer?.ok && number === latest) preview.innerHTML = await answer.text();
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(rewrite, 300);
}

if (form && preview) {
  for (const name of ["input", "change"]) form.addEventListener(name, soon);
  // Rows of limits come and go by clicks.
  form.addEventListener("click", soon);
  form.addEventListener("formset:added", soon);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-adds]");
    if (!button) return;
    const field = document.getElementById(button.dataset.to);
    const folded = field.closest("details");
    if (folded) folded.open = true;
    const lines = field.value.split("\n").filter((line) => line.trim());
    if (!lines.includes(button.dataset.adds)) field.value = [...lines, button.dataset.adds].join("\n");
    soon();
  });
  rewrite();
}
