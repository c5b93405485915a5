// The page: theme, contents, and every section from its data.

const root = document.documentElement;
const remembered = (() => { try { return localStorage.getItem("panbench-theme"); } catch { return null; } })();
const darkAround = matchMedia("(prefers-color-scheme: dark)");
let theme = remembered ?? "auto";
let gallery = null;

function applyTheme(printing = false) {
  root.dataset.theme = printing ? "light" : theme === "auto" ? (darkAround.matches ? "dark" : "light") : theme;
  gallery?.recolor();
}
applyTheme();
darkAround.addEventListener("change", () => applyTheme());
let drawForScreen = () => {};
window.addEventListener("beforeprint", () => {
  applyTheme(true);
  for (const record of document.querySelectorAll("#provenance details")) record.open = true;
  drawForScreen = drawForPaper();
});
window.addEventListener("afterprint", () => {
  applyTheme();
  drawForScreen();
});

document.getElementById("tools").append(choice("Colours of the page", [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]], theme, (value) => {
  theme = value;
  try { localStorage.setItem("panbench-theme", value); } catch { /* a page opened from a file may have no storage */ }
  applyTheme();
}));

for (const section of document.querySelectorAll("main > section")) {
  document.getElementById("contents").append(el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
}
// The bar of sections has as many lines as its names need; what a link leads to must not be behind it.
new ResizeObserver(([{ target }]) => root.style.setProperty("--bar", `${target.offsetHeight}px`)).observe(document.getElementById("contents"));
for (const place of document.querySelectorAll("[data-marker]")) {
  const model = Number(place.dataset.marker);
  if (place.dataset.named !== undefined) place.after(el("span", { class: "hidden" }, data.models[model].label));
  place.replaceWith(markerIcon(model));
}

for (const place of document.querySelectorAll("[data-command]")) place.replaceChildren(command(place.textContent.trim()));

const within = (id, build) => {
  const place = document.getElementById(id);
  if (place) build(place);
};

const live = el("p", { id: "live", class: "hidden", role: "status", "aria-live": "polite" });
document.body.append(live);

within("gallery-view", (place) => { gallery = galleryLater(place); });
const follow = gallery && ((key, title, image) => { hideTooltip(); gallery.follow(key, title, image); });
within("chart-intervals", intervalChart);
within("chart-speed", (place) => costChart(place, data.overview.images_per_second, "images a second", data.overview.speeds));
within("chart-params", (place) => costChart(place, data.overview.params, "parameters"));
within("category-table", (place) => categoryTable(place, follow));
within("chart-causes", causeChart);
within("cause-table", (place) => causeTable(place, follow));
within("fix-view", (place) => fixView(place, gallery));
within("wall-view", (place) => errorWall(place, gallery));
within("confusion-view", (place) => confusionView(place, follow));
within("slice-view", (place) => sliceCharts(place, follow, data.slices));
within("own-view", (place) => sliceCharts(place, follow, data.own));
for (const [key, drawn] of Object.entries(data.curves)) within(`chart-${key}`, (place) => curves(place, drawn));
for (const [key, drawn] of Object.entries(data.bars)) within(`chart-${key}`, (place) => bars(place, drawn));
within("only-view", (place) => onlyView(place, follow));
within("image-view", imageView);
if (gallery) within("figures", (place) => gallery.figures(place));
else root.dataset.ready = "";

/** A clause of the verdict leads to the row or cell that carries its numbers, and lights it. */
within("verdict", (place) => place.addEventListener("click", (event) => {
  const target = document.getElementById(event.target.closest("a.clause")?.hash.slice(1));
  if (!target) return;
  event.preventDefault(); // the address keeps the image
  document.querySelectorAll(".carries").forEach((other) => other.classList.remove("carries"));
  const folded = target.closest("details");
  if (folded) folded.open = true;
  target.classList.add("carries");
  target.tabIndex = -1;
  target.scrollIntoView({ block: "center" });
  target.focus({ preventScroll: true });
}));

/** Puts the page into the state that its address tells; goes to the image when `go`. */
function restore(go) {
  const wanted = address.read();
  const place = (name) => data.models.findIndex((model) => model.run === name);
  const [a, b] = [place(wanted.a), place(wanted.b)];
  if (a >= 0 && b > a && (a !== pair.a || b !== pair.b)) pair.set(a, b);
  gallery?.restore(wanted).then((found) => { if (found && go) document.getElementById("viewer").scrollIntoView({ block: "start" }); });
}
if (address.read().image || address.read().a || address.read().find) restore(true);
window.addEventListener("popstate", () => restore(false));

/** Each image a point: model A against model B, or, of one model, by rank. A click, or arrow keys and Enter, opens it. */
function imageView(container) {
  const { ids, PQ } = data.images;
  // Without a gallery there may be a command that adds an image; where there is neither, nothing promises a picture.
  const canOpen = Boolean(gallery || data.command);
  const several = data.models.length > 1;
  const models = () => (several ? [pair.a, pair.b] : [0, 0]);
  const plot = el("div", { class: "chart", id: "points", tabindex: 0, role: "group", "aria-label": several ? `Images as points, PQ of one model against the other; arrow keys walk from the largest difference${canOpen ? ", Enter opens" : ""}` : `Images as points by PQ; arrow keys walk from the worst${canOpen ? ", Enter opens" : ""}` });
  const said = el("p", { class: "note", role: "status", "aria-live": "polite" }, " ");
  const table = el("div");
  if (several) container.append(el("div", { class: "bar" }, pair.box()));
  container.append(el("div", { class: "beside points" }, el("div", {}, plot, said), rove(table)));

  let a = models()[0], b = models()[1];
  let points = [], order = [], cursor = -1, redraw = () => {};

  function again() {
    [a, b] = models();
    const held = ids.map((_, index) => index).filter((index) => PQ[a][index] !== null && PQ[b][index] !== null);
    const gap = (index) => PQ[b][index] - PQ[a][index];
    order = several ? [...held].sort((x, y) => Math.abs(gap(y)) - Math.abs(gap(x))) : [...held].sort((x, y) => PQ[a][x] - PQ[a][y]);
    cursor = -1;
    redraw();
    const better = held.filter((index) => gap(index) > 0).length, worse = held.filter((index) => gap(index) < 0).length;
    said.textContent = several
      ? `${data.models[b].label} is better on ${whole(better)} images, ${data.models[a].label} on ${whole(worse)}; ${whole(held.length - better - worse)} are even.`
      : `${whole(held.length)} images.`;
    const open = (index) => (canOpen ? el("button", { type: "button", class: "link", onclick: () => openImage(ids[index]) }, `Image ${imageName(ids[index])}`) : `Image ${imageName(ids[index])}`);
    table.replaceChildren(several
      ? el("div", {}, el("h3", {}, "Where they differ most"), tableOf("Images with the largest difference",
        ["Image", el("span", {}, modelLabel(a)), el("span", {}, modelLabel(b)), "A − B"],
        order.slice(0, data.listed).map((index) => [open(index), percent(PQ[a][index]), percent(PQ[b][index]), signed(-gap(index))])))
      : el("div", {}, el("h3", {}, "The worst images"), tableOf("Images with the lowest PQ", ["Image", "PQ"],
        order.slice(0, data.listed).map((index) => [open(index), percent(PQ[a][index])]))));
  }

  function openImage(id) {
    hideTooltip();
    if (gallery?.has(id)) return gallery.open(id);
    if (canOpen) said.replaceChildren(`Image ${imageName(id)} has no picture in this file. To add it: `, command(`${data.command} --image ${imageName(id)}`));
  }

  const describe = (index) => (several
    ? `Image ${imageName(ids[index])}\n${data.models[a].label}: PQ ${percent(PQ[a][index])}\n${data.models[b].label}: PQ ${percent(PQ[b][index])}`
    : `Image ${imageName(ids[index])}\nPQ ${percent(PQ[a][index])}`) + (!canOpen ? "" : gallery?.has(ids[index]) ? "\nclick to open" : "\nno picture here");

  chart(plot, (width) => {
    const canvasWidth = several ? Math.min(width, 640) : width;
    const left = 44, right = canvasWidth - 10, top = 22;
    const height = several ? right - left + top + 44 : 280;
    const bottom = height - 44;
    const x = several ? linear(0, 1, left, right) : linear(0, Math.max(1, ids.length - 1), left, right);
    const y = linear(0, 1, bottom, top);
    const place = svg("svg", { width: canvasWidth, height, viewBox: `0 0 ${canvasWidth} ${height}`, "aria-hidden": "true" });
    redraw = () => {
      points = order.map((index, rank) => [index, several ? x(PQ[a][index]) : x(rank), y(PQ[b][index])]);
      const dots = points.filter(([index]) => !gallery?.has(ids[index]));
      const pictured = points.filter(([index]) => gallery?.has(ids[index]));
      const quarter = [0, 0.25, 0.5, 0.75, 1];
      place.replaceChildren(...[
        ...(several
          ? xAxis(x, bottom, top, quarter, (value) => percent(value, 0), `PQ of ${data.models[a].label}`, right)
          : [svg("text", { x: right, y: bottom + 34, "text-anchor": "end" }, "images, worst first")]),
        ...yAxis(y, left, right, quarter, (value) => percent(value, 0), `PQ of ${data.models[b].label}`),
        several ? svg("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(1), "stroke-dasharray": "4 4" }) : null,
        svg("path", { d: dots.map(([, px, py]) => `M${px.toFixed(1)},${py.toFixed(1)}h0`).join(""), stroke: "var(--quiet)", "stroke-width": ids.length > 1000 ? 4 : 6, "stroke-linecap": "round", "stroke-opacity": 0.5, fill: "none" }),
        ...pictured.map(([index, px, py]) => svg("circle", { cx: px, cy: py, r: 5.5, fill: "var(--accent)", stroke: "var(--paper)", "stroke-width": 1.5, "data-image": ids[index] })),
        cursor < 0 ? null : svg("circle", { cx: points[cursor][1], cy: points[cursor][2], r: 9, fill: "none", stroke: "var(--ink)", "stroke-width": 2.5 }),
      ].filter(Boolean));
    };
    /** The points at the pointer, nearest first: one, or several that lie on each other. */
    const at = (event) => {
      const area = place.getBoundingClientRect();
      const scale = canvasWidth / area.width;
      const [ex, ey] = [(event.clientX - area.left) * scale, (event.clientY - area.top) * scale];
      // A picture wins over its neighbours: those are what a click can open.
      const far = ([index, px, py]) => Math.hypot(px - ex, py - ey) * (gallery?.has(ids[index]) ? 0.6 : 1);
      const near = points.filter((point) => far(point) < 16).sort((p, q) => far(p) - far(q));
      return near.filter(([, px, py]) => Math.hypot(px - near[0][1], py - near[0][2]) < 2).map(([index]) => index);
    };
    let clicked = [];
    place.addEventListener("pointermove", (event) => {
      const found = at(event);
      if (!found.length) return hideTooltip();
      const more = found.length > 1 ? `\n${found.length - 1} more here: click again` : "";
      showTooltip(event, describe(found[0]) + more);
    });
    place.addEventListener("pointerleave", hideTooltip);
    place.addEventListener("click", (event) => {
      const found = at(event);
      if (!found.length) return;
      // Clicks on one spot walk through the images that lie there.
      const same = found.length === clicked.length && found.every((index) => clicked.includes(index));
      clicked = same ? [...clicked.slice(1), clicked[0]] : found;
      openImage(ids[clicked[0]]);
    });
    redraw();
    return place;
  });

  plot.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) {
      event.preventDefault();
      cursor = Math.min(points.length - 1, Math.max(0, cursor + by));
      redraw();
      said.textContent = describe(points[cursor][0]).replaceAll("\n", ", ");
    } else if (event.key === "Enter" && cursor >= 0) {
      openImage(ids[points[cursor][0]]);
    }
  });
  again();
  pair.watch(again);
}
