// The page: theme, the bar that stays, and every section from its data.

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
let afterPrint = () => {};
window.addEventListener("beforeprint", () => {
  applyTheme(true);
  const folded = [...document.querySelectorAll("main details:not([open])")].filter((one) => !one.closest(".fixes"));
  folded.forEach((one) => { one.open = true; });
  const drawForScreen = drawForPaper();
  afterPrint = () => {
    folded.forEach((one) => { one.open = false; });
    drawForScreen();
  };
});
window.addEventListener("afterprint", () => {
  applyTheme();
  afterPrint();
});

document.getElementById("tools").append(choice("Colours of the page", [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]], theme, (value) => {
  theme = value;
  try { localStorage.setItem("panbench-theme", value); } catch { /* a page opened from a file may have no storage */ }
  applyTheme();
}));

const contents = document.getElementById("contents");
for (const section of document.querySelectorAll("main > section")) {
  contents.append(el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
}
if (data.models.length > 1) contents.append(pair.box());
// The bar has as many lines as its names need; what a link leads to must not be behind it.
new ResizeObserver(([{ target }]) => root.style.setProperty("--bar", `${target.offsetHeight}px`)).observe(contents);
// A link of the bar keeps what the address says of the image.
contents.addEventListener("click", (event) => {
  const target = document.getElementById(event.target.closest("a")?.hash.slice(1));
  if (!target) return;
  event.preventDefault();
  target.scrollIntoView();
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
});
for (const place of document.querySelectorAll("[data-marker]")) {
  place.replaceWith(markerIcon(Number(place.dataset.marker)));
}

for (const place of document.querySelectorAll("[data-command]")) place.replaceChildren(command(place.textContent.trim()));

const within = (id, build) => {
  const place = document.getElementById(id);
  return place ? build(place) : null;
};

const live = el("p", { id: "live", class: "hidden", role: "status", "aria-live": "polite" });
document.body.append(live);

within("gallery-view", (place) => { gallery = galleryLater(place); });
const follow = gallery && ((key, title) => { hideTooltip(); gallery.follow(key, title); });
within("costliest", (place) => costliest(place, gallery));
const filterWall = within("wall-view", (place) => errorWall(place, gallery));
within("cause-bars", (place) => causeBars(place, filterWall));
within("fix-view", (place) => fixView(place, gallery));
within("where-view", (place) => whereView(place, follow));
within("image-view", imageView);
for (const [key, drawn] of Object.entries(data.curves)) within(`chart-${key}`, (place) => curves(place, drawn));
within("chart-speed", (place) => costChart(place, data.overview.images_per_second, "images a second", data.overview.speeds));
within("chart-params", (place) => costChart(place, data.overview.params, "parameters"));
if (gallery) within("figures", (place) => gallery.figures(place));
else root.dataset.ready = "";

/** A clause of the verdict leads to the row or cell that carries its numbers, and lights it. */
within("verdict", (place) => place.addEventListener("click", (event) => {
  const target = document.getElementById(event.target.closest("a.clause")?.hash.slice(1));
  if (!target) return;
  event.preventDefault(); // the address keeps the image
  document.querySelectorAll(".carries").forEach((other) => other.classList.remove("carries"));
  for (let folded = target.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
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
  if (a >= 0 && b >= 0 && a !== b) pair.set(a, b);
  gallery?.restore(wanted).then((found) => { if (found && go) document.getElementById("viewer").scrollIntoView({ block: "start" }); });
}
if (address.read().image || address.read().a || address.read().find) restore(true);
window.addEventListener("popstate", () => restore(false));

/** Each image a point: the model against the other, or, of one model, by rank. A click, or arrow keys and Enter, opens it. */
function imageView(container) {
  const { ids, PQ } = data.images;
  // Without a gallery there may be a command that adds an image; where there is neither, nothing promises a picture.
  const canOpen = Boolean(gallery || data.command), several = data.models.length > 1;
  const name = several ? "Images as points, PQ of one model against the other; arrow keys walk from the largest difference" : "Images as points by PQ; arrow keys walk from the worst";
  const plot = el("div", { class: "chart", id: "points", tabindex: 0, role: "group", "aria-label": name + (canOpen ? ", Enter opens" : "") });
  const said = el("p", { class: "note", role: "status", "aria-live": "polite" });
  container.append(plot, said);

  let points = [], order = [], cursor = -1, redraw = () => {};
  const gap = (index) => PQ[pair.a][index] - PQ[pair.b][index];
  const pictured = (index) => gallery?.has(ids[index]);

  function again() {
    const { a, b } = pair;
    order = ids.map((_, index) => index).filter((index) => PQ[a][index] !== null && PQ[b][index] !== null);
    order.sort((x, y) => (several ? Math.abs(gap(y)) - Math.abs(gap(x)) : PQ[a][x] - PQ[a][y]));
    cursor = -1;
    redraw();
    const better = order.filter((index) => gap(index) > 0).length, worse = order.filter((index) => gap(index) < 0).length;
    said.textContent = several
      ? `${data.models[a].label} is better on ${whole(better)} images, ${data.models[b].label} on ${whole(worse)}; ${whole(order.length - better - worse)} are even.`
      : `${whole(order.length)} images.`;
  }

  function openImage(index) {
    hideTooltip();
    if (pictured(index)) return gallery.open(ids[index]);
    const id = imageName(ids[index]);
    if (canOpen) said.replaceChildren(`Image ${id} has no picture in this file. To add it: `, command(`${data.command} --image ${id}`));
  }

  const describe = (index) => [`Image ${imageName(ids[index])}`,
    ...new Set([pair.a, pair.b].map((model) => `${data.models[model].label}: PQ ${percent(PQ[model][index])}`)),
    ...(canOpen ? [pictured(index) ? "click to open" : "no picture here"] : [])].join("\n");

  chart(plot, (width) => {
    const canvasWidth = several ? Math.min(width, 640) : width;
    const left = 44, right = canvasWidth - 10, top = 22;
    const height = several ? right - left + top + 44 : 280, bottom = height - 44;
    const place = svg("svg", { width: canvasWidth, height, viewBox: `0 0 ${canvasWidth} ${height}`, "aria-hidden": "true" });
    redraw = () => {
      const [least, most] = scoreRange([pair.a, pair.b].flatMap((model) => PQ[model]));
      const x = several ? linear(least, most, left, right) : linear(0, Math.max(1, order.length - 1), left, right), y = linear(least, most, bottom, top);
      const steps = ticks(least, most), show = (value) => percent(value, 0), title = (model) => `PQ of ${data.models[model].label}`;
      points = order.map((index, rank) => [index, x(several ? PQ[pair.b][index] : rank), y(PQ[pair.a][index])]);
      place.replaceChildren(...[
        ...(several ? xAxis(x, bottom, top, steps, show, title(pair.b), right) : [svg("text", { x: right, y: bottom + 34, "text-anchor": "end" }, "images, worst first")]),
        ...yAxis(y, left, right, steps, show, title(pair.a)),
        several ? svg("line", { class: "axis", x1: x(least), y1: y(least), x2: x(most), y2: y(most), "stroke-dasharray": "4 4" }) : null,
        svg("path", { d: points.filter(([index]) => !pictured(index)).map(([, px, py]) => `M${px.toFixed(1)},${py.toFixed(1)}h0`).join(""), stroke: "var(--quiet)", "stroke-width": ids.length > 1000 ? 4 : 6, "stroke-linecap": "round", "stroke-opacity": 0.5, fill: "none" }),
        ...points.filter(([index]) => pictured(index)).map(([index, px, py]) => svg("circle", { cx: px, cy: py, r: 5.5, fill: "var(--accent)", stroke: "var(--paper)", "stroke-width": 1.5, "data-image": ids[index] })),
        cursor < 0 ? null : svg("circle", { cx: points[cursor][1], cy: points[cursor][2], r: 9, fill: "none", stroke: "var(--ink)", "stroke-width": 2.5 }),
      ].filter(Boolean));
    };
    /** The points at the pointer, nearest first: one, or several that lie on each other. */
    const at = (event) => {
      const area = place.getBoundingClientRect(), scale = canvasWidth / area.width;
      const [ex, ey] = [(event.clientX - area.left) * scale, (event.clientY - area.top) * scale];
      // A picture wins over its neighbours: those are what a click can open.
      const far = ([index, px, py]) => Math.hypot(px - ex, py - ey) * (pictured(index) ? 0.6 : 1);
      const near = points.filter((point) => far(point) < 16).sort((p, q) => far(p) - far(q));
      return near.filter(([, px, py]) => Math.hypot(px - near[0][1], py - near[0][2]) < 2).map(([index]) => index);
    };
    let clicked = [];
    place.addEventListener("pointermove", (event) => {
      const found = at(event);
      if (!found.length) return hideTooltip();
      showTooltip(event, describe(found[0]) + (found.length > 1 ? `\n${found.length - 1} more here: click again` : ""));
    });
    place.addEventListener("pointerleave", hideTooltip);
    place.addEventListener("click", (event) => {
      const found = at(event);
      if (!found.length) return;
      // Clicks on one spot walk through the images that lie there.
      const same = found.length === clicked.length && found.every((index) => clicked.includes(index));
      clicked = same ? [...clicked.slice(1), clicked[0]] : found;
      openImage(clicked[0]);
    });
    redraw();
    return place;
  });

  plot.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && cursor >= 0) openImage(points[cursor][0]);
    if (!by) return;
    event.preventDefault();
    cursor = Math.min(points.length - 1, Math.max(0, cursor + by));
    redraw();
    said.textContent = describe(points[cursor][0]).replaceAll("\n", ", ");
  });
  again();
  pair.watch(again);
}
