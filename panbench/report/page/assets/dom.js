// Building blocks: elements from text alone (never from HTML), numbers as people read them, markers, tooltip, status.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element. Properties named on… are listeners, `class`, `aria-…` and the rest attributes; children are text or nodes. */
function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** As `el`, for SVG. */
function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, setting] of Object.entries(value)) node.style.setProperty(name, setting);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));
const whole = (value) => value.toLocaleString("en");
const modelColor = (model) => `var(--m${data.models[model].color})`;
const categoryName = (position) => (position < 0 ? "void" : data.categories[position].name);

/** Parameters and rates to three digits: 44.0M, 0.42. */
function short(value) {
  if (value === null) return "–";
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return three(value / size) + unit;
  }
  return three(value);
}

function three(value) {
  return value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** The outline of a model's marker around (0, 0): runs differ by shape, not by colour alone. */
function markerPath(model, r = 5) {
  const point = (turn, far = r) => `${(far * Math.sin(turn)).toFixed(2)},${(-far * Math.cos(turn)).toFixed(2)}`;
  const polygon = (corners, start = 0, far = r) =>
    "M" + Array.from({ length: corners }, (_, i) => point(start + (2 * Math.PI * i) / corners, far)).join("L") + "Z";
  const w = r * 0.42;
  return [
    `M${-r},0A${r},${r} 0 1 0 ${r},0A${r},${r} 0 1 0 ${-r},0Z`,
    polygon(4, Math.PI / 4, r * 1.25),
    polygon(3, 0, r * 1.25),
    polygon(4, 0, r * 1.3),
    `M${-w},${-r}H${w}V${-w}H${r}V${w}H${w}V${r}H${-w}V${w}H${-r}V${-w}H${-w}Z`,
    polygon(3, Math.PI, r * 1.25),
    polygon(6, 0, r * 1.1),
    polygon(5, 0, r * 1.15),
  ][data.models[model].marker];
}

function marker(model, properties = {}) {
  return svg("path", { d: markerPath(model), fill: modelColor(model), stroke: "var(--paper)", "stroke-width": 1, ...properties });
}

/** A model's marker to stand before its name in text. */
function markerIcon(model) {
  return el("span", { class: "marker", "aria-hidden": "true" }, svg("svg", { viewBox: "-7 -7 14 14", width: 12, height: 12 }, marker(model)));
}

const modelLabel = (model) => [markerIcon(model), data.models[model].label];

function legend(models = data.models.map((_, index) => index)) {
  return el("ul", { class: "legend" }, models.map((model) => el("li", {}, modelLabel(model))));
}

const tooltip = document.getElementById("tooltip");

function showTooltip(event, text) {
  tooltip.textContent = text;
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > window.innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
  const top = event.clientY + 16 + box.height > window.innerHeight ? event.clientY - 12 - box.height : event.clientY + 16;
  tooltip.style.left = `${Math.max(4, left)}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}

function hideTooltip() {
  tooltip.hidden = true;
}

/** Shows `text` while the pointer is on a node. */
function explain(node, text) {
  node.addEventListener("pointermove", (event) => showTooltip(event, text));
  node.addEventListener("pointerleave", hideTooltip);
  return node;
}

/** A choice among a few: buttons of which one is pressed. */
function choice(label, options, chosen, onchoose) {
  const buttons = options.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => press(value) }, text),
  );
  function press(value) {
    options.forEach(([other], index) => buttons[index].setAttribute("aria-pressed", String(other === value)));
    onchoose(value);
  }
  return el("span", { class: "group", role: "group", "aria-label": label }, buttons);
}

let selects = 0;

/** A labelled choice from a list; `set` chooses without telling. */
function select(label, options, chosen, onchoose) {
  const id = `select-${++selects}`;
  const box = el("select", { id, onchange: () => onchoose(options[box.selectedIndex][0]) },
    options.map(([value, text]) => el("option", { selected: value === chosen }, text)));
  return {
    node: el("span", { class: "labelled" }, el("label", { for: id }, label), box),
    set: (value) => { box.selectedIndex = options.findIndex(([other]) => other === value); },
  };
}

/** A table in a box of its own that scrolls when it is wide and that the keyboard reaches. */
function tableOf(label, head, rows, { words = 1, tall = false, ...properties } = {}) {
  const kind = (index) => (index < words ? null : "number");
  return el("div", { class: tall ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", properties,
      el("thead", {}, el("tr", {}, head.map((cell, index) => el("th", { scope: "col", class: kind(index) }, cell)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, index) => el(index ? "td" : "th", { scope: index ? null : "row", class: kind(index) }, cell)))))));
}

/** What a chart shows, as a table behind a summary: for screen readers, and for copying. */
function numbers(label, head, rows, words = 1) {
  return el("details", {}, el("summary", {}, "The numbers"), tableOf(label, head, rows, { words }));
}
