// List and filter the embedded documents. Document texts are inserted only as text nodes, never as markup.
"use strict";
(function () {
  const data = JSON.parse(document.getElementById("documents").textContent);
  const list = document.getElementById("reading");
  const count = document.getElementById("count");
  const search = document.getElementById("search");
  const reason = document.getElementById("reason");
  const more = document.getElementById("more");
  const PAGE = 15;
  let shown = PAGE;

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

  // One chip per group: sign, name and mean probability of the label. Hidden text describes the sign to screen readers.
  function chip(prediction) {
    const outcome = prediction.right === 1 ? "right" : prediction.right === 0 ? "wrong" : "mixed";
    const sign = { right: "\u2713", wrong: "\u2717", mixed: "\u00b1" }[outcome];
    const node = element("li", outcome);
    const spoken = outcome === "mixed" ? "right in " + Math.round(100 * prediction.right) + " % of seeds" : outcome + " in every seed";
    const mark = element("span", "sign", sign);
    mark.setAttribute("aria-hidden", "true");
    node.title = spoken;
    const probability = prediction.probability === null ? "" : " " + prediction.probability.toFixed(2);
    node.append(mark, " " + prediction.group + probability, element("span", "spoken", ", " + spoken));
    return node;
  }

  function card(entry, needle) {
    const node = element("article");
    node.append(element("h3", "", entry.id + " · label: " + entry.label));
    const length = entry.tokens === null ? [] : [entry.tokens.toLocaleString("en") + " tokens"];
    node.append(element("p", "why", length.concat(entry.reasons.map(reasonText)).join(" · ")));
    const chips = element("ul", "chips");
    chips.append(...entry.predictions.map(chip));
    node.append(chips);
    if (entry.text !== null) {
      const details = element("details");
      details.open = needle !== "";
      details.append(element("summary", "", entry.text.length > 180 ? entry.text.slice(0, 180) + "…" : entry.text), marked(entry.text, needle));
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

  function restart() { shown = PAGE; update(); }
  search.addEventListener("input", restart);
  reason.addEventListener("change", restart);
  more.addEventListener("click", function () {
    const next = list.children.length;
    shown += PAGE;
    update();
    const first = list.children[next];
    if (first) { first.tabIndex = -1; first.focus(); }
  });
  update();
})();
