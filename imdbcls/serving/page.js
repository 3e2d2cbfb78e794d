// The page works without this script. It adds a shortcut, a counter, and a message while the server computes.
"use strict";
(function () {
  const form = document.getElementById("form");
  const text = document.getElementById("text");
  const submit = document.getElementById("submit");
  const busy = document.getElementById("busy");
  let isSent = false;

  function count() {
    const characters = Array.from(text.value).length;
    document.getElementById("count").textContent = characters.toLocaleString("en") + (characters === 1 ? " character" : " characters");
  }

  function setSent(sent) {
    isSent = sent;
    submit.setAttribute("aria-disabled", String(sent));
    busy.textContent = sent ? "Classifying …" : "";
  }

  text.addEventListener("input", count);
  text.addEventListener("keydown", function (event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", function (event) {
    if (isSent) event.preventDefault();
    else setSent(true);
  });
  window.addEventListener("pageshow", function () { setSent(false); count(); });  // also after the Back button

  document.getElementById("origin").textContent = window.location.origin;
  const result = document.querySelector("[data-focus]");
  if (result) result.focus();
})();
