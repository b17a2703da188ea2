// A right that is ticked chooses “Only what is ticked below”; a preset that is chosen takes the ticks away.
document.addEventListener("DOMContentLoaded", () => {
  const presets = [...document.querySelectorAll("input[name=preset]")];
  const rights = [...document.querySelectorAll("input[name=scopes]")];
  const chosen = presets.find((preset) => preset.value === "chosen");
  if (!chosen || !rights.length) return;
  for (const right of rights) {
    right.addEventListener("change", () => {
      if (right.checked) chosen.checked = true;
    });
  }
  for (const preset of presets) {
    preset.addEventListener("change", () => {
      if (preset === chosen || !preset.checked) return;
      for (const right of rights) right.checked = false;
    });
  }
});
