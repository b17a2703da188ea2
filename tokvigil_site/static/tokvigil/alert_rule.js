// Shows of a rule's fields those that its event uses.
document.addEventListener("DOMContentLoaded", () => {
  const event = document.getElementById("id_event");
  if (!event?.dataset.uses) return;
  const uses = JSON.parse(event.dataset.uses);
  const all = new Set(Object.values(uses).flat());
  const show = () => {
    for (const name of all) {
      const row = document.querySelector(`.field-${name}`);
      if (row) row.hidden = !(uses[event.value] ?? []).includes(name);
    }
  };
  event.addEventListener("change", show);
  show();
});
