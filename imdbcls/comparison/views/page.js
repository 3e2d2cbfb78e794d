// List and filter the embedded documents. Document texts are inserted only as text nodes, never as markup.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("documents").textContent);
  const list = document.getElementById("reading");
  const count = document.getElementById("count");
  const search = document.getElementById("search");
  const reason = document.getElementById("reason");
  const more = document.getElementById("more");
  const FIRST = 5, MORE = 20;
  const EXCERPT = 180;
  let shown = FIRST;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function reasonText(key) {
    return data.reasons[key] || key;
  }

  function marked(text, needle) {
    const node = element("p", "text");
    if (!needle) { node.textContent = text; return node; }
    const lower = text.toLowerCase();
    let from = 0;
    for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
      node.append(text.slice(from, at), element("mark", "", text.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    node.append(text.slice(from));
    return node;
  }

  // One chip per group: sign, name, predicted class if it is not the label, and mean probability of the label.
  // Hidden text describes the sign to screen readers.
  function chip(prediction, label) {
    const outcome = prediction.right === 1 ? "right" : prediction.right === 0 ? "wrong" : "mixed";
    const sign = { right: "\u2713", wrong: "\u2717", mixed: "\u00b1" }[outcome];
    const node = element("li", outcome);
    const spoken = outcome === "mixed" ? "right in " + Math.round(100 * prediction.right) + " % of seeds" : outcome + " in every seed";
    const mark = element("span", "sign", sign);
    mark.setAttribute("aria-hidden", "true");
    const other = prediction.predicted === label ? "" : ": " + prediction.predicted;
    const probability = prediction.probability === null ? "" : " (label " + prediction.probability.toFixed(2) + ")";
    node.title = "predicts " + prediction.predicted + "; " + spoken;
    node.append(mark, " " + prediction.group + other + probability, element("span", "spoken", ", " + spoken));
    return node;
  }

  function card(entry, needle) {
    const node = element("article");
    node.append(element("h3", "", entry.id + " · label: " + entry.label));
    const cut = entry.tokens_read !== null && entry.tokens_read < entry.tokens;
    const read = cut ? " (the models read only " + entry.tokens_read.toLocaleString("en") + ")" : "";
    const length = entry.tokens === null ? [] : [entry.tokens.toLocaleString("en") + " tokens" + read];
    node.append(element("p", "why", length.concat(entry.reasons.map(reasonText)).join(" · ")));
    const chips = element("ul", "chips");
    chips.append(...entry.predictions.map(function (prediction) { return chip(prediction, entry.label); }));
    node.append(chips);
    if (entry.text !== null) {
      const details = element("details");
      const excerpt = entry.text.length > EXCERPT ? entry.text.slice(0, EXCERPT) + "…" : entry.text;
      const summary = element("summary");
      const retitle = function () { summary.textContent = details.open ? "Hide the text" : excerpt; };
      details.open = needle !== "";
      details.addEventListener("toggle", retitle);
      retitle();
      details.append(summary, marked(entry.text, needle));
      node.append(details);
    }
    return node;
  }

  function update() {
    const needle = search.value.trim().toLowerCase();
    const found = data.documents.filter(function (entry) {
      const fits = reason.value === "" || entry.reasons.indexOf(reason.value) >= 0;
      return fits && (needle === "" || (entry.id + " " + entry.label + " " + (entry.text || "")).toLowerCase().indexOf(needle) >= 0);
    });
    list.replaceChildren(...found.slice(0, shown).map(function (entry) { return card(entry, needle); }));
    count.textContent = found.length === 0 ? "No document matches." : "Showing " + Math.min(shown, found.length) + " of " + found.length + ".";
    more.hidden = found.length <= shown;
  }

  function restart() { shown = FIRST; update(); }
  search.addEventListener("input", restart);
  reason.addEventListener("change", restart);
  more.addEventListener("click", function () {
    const next = list.children.length;
    shown += MORE;
    update();
    const first = list.children[next];
    if (first) { first.tabIndex = -1; first.focus(); }
  });
  update();

  // Mark the tables that are wider than their box, so that the style sheet can show that they scroll.
  function measure() {
    document.querySelectorAll(".scroll").forEach(function (box) {
      box.classList.toggle("wider", box.firstElementChild.offsetWidth > box.clientWidth);
    });
  }
  window.addEventListener("resize", measure);
  document.querySelectorAll("details").forEach(function (node) { node.addEventListener("toggle", measure); });
  measure();

  const copy = document.getElementById("copy");
  copy.hidden = !navigator.clipboard;
  copy.addEventListener("click", function () {
    navigator.clipboard.writeText(document.getElementById("paragraph").textContent).then(
      function () { document.getElementById("copied").textContent = "Copied."; },
      function () { document.getElementById("copied").textContent = "The browser did not allow copying: select the paragraph and copy it yourself."; }
    );
  });

  // Every figure can be saved as an SVG file with its own styles.
  document.querySelectorAll("figure[data-name]").forEach(function (figure) {
    const button = element("button", "save", "Save as SVG");
    button.type = "button";
    button.addEventListener("click", function () {
      const drawing = figure.querySelector("svg").cloneNode(true);
      const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
      style.textContent = document.querySelector("style").textContent.split("/* end of figures.css */")[0];
      drawing.prepend(style);
      drawing.setAttribute("class", "figure");
      const file = new Blob([new XMLSerializer().serializeToString(drawing)], { type: "image/svg+xml" });
      const link = element("a");
      link.href = URL.createObjectURL(file);
      link.download = figure.dataset.name + ".svg";
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
    });
    figure.append(button);
  });
})();
