// Says what limits become while a boost is filled in: `Free plan: 50 → 70 a day · 120 more in all: anew in each of 6 windows`.
document.addEventListener("DOMContentLoaded", () => {
  const kinds = document.getElementById("id_raises");
  const extra = document.getElementById("id_extra");
  if (!kinds || !extra) return;
  const subject = document.getElementById("id_subject");
  const until = document.getElementById("id_until");
  const limits = JSON.parse(kinds.dataset.limits);
  const said = document.createElement("output");
  said.className = "tv-effect";
  said.setAttribute("for", "id_raises id_subject id_extra id_until");
  extra.after(said);

  // The longest end that gives it a single time.
  const once = (windows, more) => {
    const end = [...(until?.options ?? [])].filter(({ value }) => windows[value] === 1).pop();
    return end ? `. For ${more} in all choose “${end.text}”` : "";
  };
  const effect = (more, { money, before, per, running, windows }) => {
    const number = (amount) =>
      money ? amount.toLocaleString("en-US", { style: "currency", currency: "USD" }) : amount.toLocaleString("en-US");
    const already = Object.hasOwn(running, subject.value) ? running[subject.value] : 0;
    const lines = before.map(([policy, amount]) => `${policy}: ${number(amount + already)} → ${number(amount + already + more)} ${per}`.trim());
    if (already > 0) lines.push(`${number(already)} of it by boosts that run already`);
    const met = until ? windows[until.value] : null;
    if (met > 1) lines.push(`${number(more * met)} more in all: anew in each of ${met} windows${once(windows, number(more))}`);
    return lines.join(" · ");
  };
  const say = () => {
    const more = Number(extra.value);
    const kind = limits[kinds.value];
    said.textContent = kind && more > 0 ? effect(more, kind) : "";
  };
  for (const field of [kinds, subject, until]) field?.addEventListener("change", say);
  for (const field of [extra, subject]) field?.addEventListener("input", say);
  say();
});
