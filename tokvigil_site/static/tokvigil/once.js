// A form that changes something is sent once by a double click.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  // If no page came of it, it may be sent again.
  setTimeout(() => delete form.dataset.sent, 5000);
});
