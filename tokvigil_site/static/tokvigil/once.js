// A form that changes something is sent once by a double click. The page stays where a file comes of it (data-files):
// then each of its buttons is taken for itself, so that another file may follow at once.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  const what = ("files" in form.dataset && event.submitter) || form;
  if (what.dataset.sent) return event.preventDefault();
  what.dataset.sent = "yes";
  // If no page came of it, it may be sent again.
  setTimeout(() => delete what.dataset.sent, 5000);
});
