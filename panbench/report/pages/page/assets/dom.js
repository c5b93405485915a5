// Building blocks: elements from text alone (never from HTML), numbers as people read them, markers, tooltip, status.

const data = JSON.parse(document.getElementById("data").textContent);

/** An image's id as its dataset has it: text, where numbers stand for text. */
const imageName = (id) => data.image_names?.[id] ?? id;
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

/** With the sign − where the number is not 0. */
const minus = (text) => text.replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
/** As Python writes it: of two decimals that are equally near, the even one. A tie is an odd multiple of 2^-(digits+1). */
function fixed(value, digits) {
  const doubled = Math.abs(value) * 2 ** (digits + 1);
  if (!Number.isInteger(doubled) || doubled % 2 === 0) return value.toFixed(digits);
  const below = Math.floor(Math.abs(value) * 10 ** digits);
  return (Math.sign(value) * ((below + (below % 2)) / 10 ** digits)).toFixed(digits);
}

const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : minus(fixed(100 * value, digits)));
const signed = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value >= 0.5 * 10 ** -digits ? "+" : "") + percent(value, digits));
const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const inThousands = new Intl.NumberFormat("en"); // made once: toLocaleString makes one for each number
const whole = (value) => inThousands.format(value);
const modelColor = (model) => `var(--m${data.models[model].color})`;
const categoryName = (position) => (position < 0 ? "void" : data.categories[position].name);

/** Parameters and rates to three digits: 44M, 0.42. */
const inShort = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const short = (value) => (value === null ? "–" : inShort.format(value));

/** A model's marker around (0, 0): models differ by shape, not by colour alone. */
function marker(model, properties = {}) {
  return svg("path", { d: data.models[model].marker, fill: modelColor(model), stroke: "var(--paper)", "stroke-width": 1, ...properties });
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

const explanations = new WeakMap();

/** Shows `text` while the pointer is on a node, and at a tap; charts and lists show it for the keyboard, too. */
function explain(node, text) {
  explanations.set(node, text);
  node.setAttribute("data-explained", "");
  node.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") showTooltip(event, text); });
  node.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTooltip(); });
  node.addEventListener("click", (event) => showTooltip(event, text));
  return node;
}

/** Shows what is said of a node, below it: for the keyboard. */
function explainBelow(node) {
  const text = explanations.get(node);
  if (!text) return hideTooltip();
  const box = node.getBoundingClientRect();
  showTooltip({ clientX: Math.max(0, box.left + Math.min(box.width / 2, 60) - 16), clientY: box.bottom - 8 }, text);
}

document.addEventListener("pointerdown", (event) => { if (!event.target.closest("[data-explained], canvas, #points")) hideTooltip(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });

/** Says a sentence to screen readers. */
function announce(text) {
  document.getElementById("live").textContent = text;
}

/**
 * Makes the buttons of a list, table or choice one stop of the Tab key: arrow keys, Home and End walk through them. A
 * button within a row that is explained shows what a pointer on that row would show.
 */
function rove(container, selector = "button") {
  const all = () => [...container.querySelectorAll(selector)];
  const settle = (chosen) => all().forEach((node) => { node.tabIndex = node === chosen ? 0 : -1; });
  container.addEventListener("focusin", (event) => {
    const node = event.target.closest(selector);
    if (!node) return;
    settle(node);
    const said = node.matches("[data-explained]") ? node : node.closest("tr, li")?.querySelector("[data-explained]");
    if (said && node.matches(":focus-visible")) explainBelow(said);
  });
  container.addEventListener("focusout", hideTooltip);
  container.addEventListener("keydown", (event) => {
    const nodes = all(), at = nodes.indexOf(event.target.closest(selector));
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    nodes[Math.min(nodes.length - 1, Math.max(0, to))].focus();
  });
  new MutationObserver(() => { settle(all().find((node) => node === document.activeElement) ?? all()[0]); }).observe(container, { childList: true, subtree: true });
  settle(all().find((node) => node.getAttribute("aria-pressed") === "true") ?? all()[0]);
  return container;
}

/** Boxes that scroll can be reached by the keyboard; those that fit are no stop. */
const overflow = new ResizeObserver((entries) => {
  for (const box of new Set(entries.map(({ target }) => target.closest(".scroll")))) {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
});
new MutationObserver(() => {
  for (const box of document.querySelectorAll(".scroll:not([data-watched])")) {
    box.setAttribute("data-watched", "");
    for (const node of [box, ...box.children]) overflow.observe(node);
  }
}).observe(document.documentElement, { childList: true, subtree: true });

/** A button that copies what `text` gives; where the clipboard is closed to the page it says `otherwise`. */
function copier(words, text, otherwise) {
  const button = el("button", { type: "button", onclick: () => {
    const copied = navigator.clipboard?.writeText(text()) ?? Promise.reject();
    copied.then(() => "Copied", () => otherwise).then((said) => { button.textContent = said; });
  } }, words);
  return button;
}

/** What a reader can paste into a terminal, with a button that copies it. */
const command = (text) => el("span", { class: "command" }, el("code", {}, text), " ", copier("Copy", () => text, "Select and copy it"));

const LANE = 8, LANES = 4; // pixels between lanes of marks, and how many there are at most

/**
 * For each [value, model], the best first, a lane and a shift in pixels, so that no mark hides another: marks nearer
 * than two percent of the axis stand below each other, and beyond LANES lanes beside each other.
 */
function lanesOf(known, most) {
  const taken = [];
  return known.map(([value]) => {
    const near = taken.filter((other) => Math.abs(other.value - value) < 0.02 * most).map(({ place }) => place);
    let place = 0;
    while (near.includes(place)) place++;
    taken.push({ value, place });
    return { lane: place % LANES, shift: LANE * Math.floor(place / LANES) };
  });
}

/**
 * Marks of all models on one line from 0 to `most`: [value or null, …]; `text` is what it says. There are hundreds of
 * them: the lines of the grid are a background, and a mark is one element.
 */
function dots(values, text, most = 1) {
  const known = values.map((value, model) => [value, model]).filter(([value]) => value !== null);
  const places = lanesOf(known, most);
  const height = 22 + LANE * Math.max(0, ...places.map(({ lane }) => lane));
  const at = (value) => `${(2 + (96 * Math.min(value, most)) / most).toFixed(2)}%`;
  const line = known.length > 1 ? [Math.min(...known.map(([value]) => value)), Math.max(...known.map(([value]) => value))] : null;
  const picture = svg("svg", { class: "dots", height, role: "img", "aria-label": text.replaceAll("\n", ", ") },
    line && svg("line", { class: "range", x1: at(line[0]), x2: at(line[1]), y1: 11, y2: 11 }),
    // The best model is drawn last, on top.
    known.map(([value, model], index) => marker(model, { class: "dot",
      style: { transform: `translate(calc(${at(value)} + ${places[index].shift}px), ${11 + LANE * places[index].lane}px)` } })).reverse());
  return explain(picture, text);
}

/** The axis of `dots`, for the head of its column. */
function dotsAxis(show, most = 1) {
  return svg("svg", { class: "dots", height: 16, "aria-hidden": "true" }, [0, 0.25, 0.5, 0.75, 1].map((part) =>
    svg("text", { class: part % 0.5 ? "quiet fine" : "quiet", x: `${2 + 96 * part}%`, y: 12, "text-anchor": part === 0 ? "start" : part === 1 ? "end" : "middle" }, show(part * most))));
}

/** A choice among a few: buttons of which one is pressed. */
function choice(label, options, chosen, onchoose) {
  const set = (value) => options.forEach(([other], index) => buttons[index].setAttribute("aria-pressed", String(other === value)));
  const buttons = options.map(([value, text]) => el("button", { type: "button", onclick: () => { set(value); onchoose(value); } }, text));
  set(chosen);
  return Object.assign(rove(el("span", { class: "group", role: "group", "aria-label": label }, buttons)), { set });
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

/** A labelled number from 0 to `most`, or nothing; announced and set as a fraction of `most`. */
function amount(label, most, onchoose, unit = "") {
  const id = `select-${++selects}`;
  const box = el("input", { id, type: "number", min: 0, max: most, step: most / 20, size: 5, onchange: () => onchoose(box.value === "" ? null : Number(box.value) / most) });
  return {
    node: el("span", { class: "labelled" }, el("label", { for: id }, label), box, unit ? el("span", { class: "quiet" }, unit) : null),
    set: (value) => { box.value = value === null ? "" : String(Math.round(1e6 * value * most) / 1e6); },
  };
}

/** A table in a box of its own that scrolls when it is wide and that the keyboard reaches. */
function tableOf(label, head, rows, { words = 1, tall = false, ...properties } = {}) {
  const kind = (index) => (index < words ? null : "number");
  return el("div", { class: tall ? "scroll tall" : "scroll", role: "region", "aria-label": label },
    el("table", properties,
      el("thead", {}, el("tr", {}, head.map((cell, index) => el("th", { scope: "col", class: kind(index) }, cell)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, index) => el(index ? "td" : "th", { scope: index ? null : "row", class: kind(index) }, cell)))))));
}

/** The model that the page speaks of, and the one that it is held against: one choice for the whole page. */
const pair = {
  a: 0,
  b: Math.min(1, data.models.length - 1),
  boxes: [],
  watchers: [],
  words: () => `${data.models[pair.a].label} and ${data.models[pair.b].label}`,
  /** What the tests say of the pair, as the first minus the second. */
  tested() {
    const found = data.pairs.find((test) => test.a === Math.min(pair.a, pair.b) && test.b === Math.max(pair.a, pair.b));
    if (!found || pair.a < pair.b) return found;
    const less = (value) => (value === null ? null : -value);
    return { categories: Object.fromEntries(Object.entries(found.categories).map(([key, [value, low, high, ...rest]]) => [key, [less(value), less(high), less(low), ...rest]])) };
  },
  watch(draw) { pair.watchers.push(draw); },
  set(a, b) {
    if (a === pair.a && b === pair.b) return;
    [pair.a, pair.b] = [a, b];
    pair.boxes.forEach((box, side) => box.set([a, b][side]));
    pair.watchers.forEach((draw) => draw());
  },
  /** Speaks of a model from now on; the one that it was held against changes places with it. */
  choose(a, b = pair.b) {
    pair.set(a, b === a ? (a === pair.a ? pair.b : pair.a) : b);
    address.write({ a: data.models[pair.a].run, b: data.models[pair.b].run });
  },
  /** The choice of the two. */
  box() {
    const models = data.models.map(({ label }, model) => [model, label]);
    pair.boxes = [select("Model", models, pair.a, (a) => pair.choose(a)), select("against", models, pair.b, (b) => pair.choose(b === pair.a ? pair.b : pair.a, b))];
    return el("span", { class: "bar choice" }, pair.boxes.map(({ node }) => node));
  },
};

/** Of some words those that say something. */
const given = (words) => Object.fromEntries(Object.entries(words).filter(([, value]) => value !== null && value !== undefined && value !== ""));

/** What the page shows, in the part of its address after the #: it can be sent, and Back stays in the page. */
const address = {
  read: () => (location.hash.includes("=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : {}),
  write(changes, push = false) {
    const hash = `#${new URLSearchParams(given({ ...address.read(), ...changes }))}`;
    if (hash === location.hash) return;
    try {
      history[push ? "pushState" : "replaceState"](null, "", hash);
    } catch { /* some viewers of files forbid it; the page works without */ }
  },
};
