// Says what limits become of while a boost is filled in: `Free plan: 50 → 70 a day`.
document.addEventListener("DOMContentLoaded", () => {
  const kinds = document.getElementById("id_raises");
  const extra = document.getElementById("id_extra");
  if (!kinds || !extra) return;
  const limits = JSON.parse(kinds.dataset.limits);
  const said = document.createElement("output");
  said.className = "tv-effect";
  said.setAttribute("for", "id_raises id_extra");
  extra.after(said);

  const say = () => {
    const more = Number(extra.value);
    const { money, before, per } = limits[kinds.value] ?? { before: [] };
    const number = (amount) =>
      money ? amount.toLocaleString("en-US", { style: "currency", currency: "USD" }) : amount.toLocaleString("en-US");
    said.textContent = more > 0 ? before.map(([policy, amount]) => `${policy}: ${number(amount)} → ${number(amount + more)} ${per}`.trim()).join(" · ") : "";
  };
  kinds.addEventListener("change", say);
  extra.addEventListener("input", say);
  say();
});
