// What a form asked about a field is answered by changing the field: the question goes, and the line above says what is left.
document.addEventListener("DOMContentLoaded", () => {
  for (const question of document.querySelectorAll("main .tv-question")) {
    question.parentElement.addEventListener("change", ({ target }) => {
      target.removeAttribute("aria-invalid");
      question.hidden = true;
      const left = [...document.querySelectorAll("main .tv-question")].some((each) => !each.hidden);
      const note = document.querySelector("main .tv-asked");
      if (note && !left) note.textContent = "Nothing is saved yet.";
    });
  }
});
