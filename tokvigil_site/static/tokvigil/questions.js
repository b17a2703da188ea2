// What a form asked about a field is answered by changing the field: the question goes, and the line above says what is left.
document.addEventListener("DOMContentLoaded", () => {
  for (const question of document.querySelectorAll("main .tv-question")) {
    question.parentElement.addEventListener("change", ({ target }) => {
      target.removeAttribute("aria-invalid");
      // It keeps its room: a button that moves up while it is pressed is not pressed.
      question.classList.add("tv-answered");
      const left = document.querySelector("main .tv-question:not(.tv-answered)");
      const note = document.querySelector("main .tv-asked");
      if (note && !left) note.textContent = "Nothing is saved yet.";
    });
  }
});
