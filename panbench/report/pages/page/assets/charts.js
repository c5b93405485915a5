// Charts: SVG drawn at the width it gets, again when that changes, so text keeps its size from 400 to 1600 pixels, and
// again for paper, whose width no layout tells before it is printed.

const PAPER = 700; // pixels across A4 within the margins of print.css
const charts = []; // of each its container, and what draws it at a width

/** Draws all charts that are printed at the width of the paper; gives what draws them for the screen again. */
function drawForPaper() {
  const printed = charts.filter(({ container }) => !container.closest("#images"));
  for (const { container, redraw } of printed) redraw(container.classList.contains("square") ? 460 : PAPER);
  return () => { for (const { container, redraw } of printed) redraw(Math.floor(container.clientWidth)); };
}

/**
 * Draws `draw(width)`, an SVG element, into a container now and whenever the width changes. It is one stop of the Tab
 * key; arrow keys walk through what it explains.
 */
function chart(container, draw, name = null) {
  let width = 0, cursor = -1;
  const place = el("div");
  container.append(place);
  if (name) {
    for (const [key, value] of Object.entries({ tabindex: 0, role: "group", "aria-label": `${name}; arrow keys walk through it` })) place.setAttribute(key, value);
    place.addEventListener("keydown", (event) => {
      const parts = [...place.querySelectorAll("[data-explained]")];
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by || !parts.length) return;
      event.preventDefault();
      parts[cursor]?.classList.remove("lit");
      cursor = Math.min(parts.length - 1, Math.max(0, cursor + by));
      parts[cursor].classList.add("lit");
      explainBelow(parts[cursor]);
      announce(explanations.get(parts[cursor]).replaceAll("\n", ", "));
    });
    place.addEventListener("focusout", () => {
      place.querySelectorAll(".lit").forEach((part) => part.classList.remove("lit"));
      cursor = -1;
      hideTooltip();
    });
  }
  const redraw = (now) => { if (now && now !== width) place.replaceChildren(draw((width = now))); };
  new ResizeObserver(() => redraw(Math.floor(container.clientWidth))).observe(container);
  charts.push({ container, redraw });
}

function frame(width, height, label, ...children) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, children);
}

/** Round steps that cut [low, high] into about `count` parts. */
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = (Math.ceil(low / step - 1e-9) || 0) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

/** Of a logarithmic axis: round numbers, the more the shorter the axis, six at most. */
function logTicks(low, high) {
  const among = (factors) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of factors) {
        const at = factor * 10 ** power;
        if (at >= low * 0.999 && at <= high * 1.001) found.push(at);
      }
    }
    return found;
  };
  const fine = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9];
  const coarser = [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]];
  return [fine, ...coarser].map(among).find((found) => found.length <= 6) ?? [];
}

/** As `short`, of round numbers: 20 for 20.0, 1.2M for 1.20M. */
const roundShort = (value) => short(value).replace(/(\.\d*?)0+(?=[GMk]?$)/, "$1").replace(/\.(?=[GMk]?$)/, "");

const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
const logarithmic = (low, high, from, to) => (value) => linear(Math.log(low), Math.log(high), from, to)(Math.log(value));

/** A range that holds the values with some room, within 0 and 1. */
function scoreRange(values) {
  const known = values.filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known);
  const room = Math.max(0.02, (high - low) * 0.15);
  return [Math.max(0, low - room), Math.min(1, high + room)];
}

function xAxis(at, y, top, values, show, title, right) {
  return [
    values.map((value) => svg("line", { class: "gridline", x1: at(value), x2: at(value), y1: top, y2: y })),
    values.map((value) => svg("text", { class: "quiet", x: at(value), y: y + 16, "text-anchor": "middle" }, show(value))),
    label(title, right, y + 34, right, { "text-anchor": "end" }),
  ].flat();
}

function yAxis(at, x, right, values, show, title) {
  return [
    values.map((value) => svg("line", { class: "gridline", x1: x, x2: right, y1: at(value), y2: at(value) })),
    values.map((value) => svg("text", { class: "quiet", x: x - 7, y: at(value) + 4, "text-anchor": "end" }, show(value))),
    label(title, Math.max(0, x - 34), 12, right - Math.max(0, x - 34)),
  ].flat();
}

/** Text of which, with an ellipsis, about `room` pixels are left; whole on hover. Names of runs differ at their ends. */
function label(text, x, y, room, properties = {}) {
  const most = Math.max(4, Math.floor(room / 6.6)), end = Math.floor((most - 1) / 2);
  const shown = text.length > most ? `${text.slice(0, most - 1 - end)}…${text.slice(text.length - end)}` : text;
  return svg("text", { x, y, ...properties }, shown, shown === text ? null : svg("title", {}, text));
}

/**
 * For each point a place for its name, beside, above or below it, that covers no other marker or line if it can, and no
 * other name: where every place does, the point has none, and a legend names its marker.
 */
function labelSpots(points, width) {
  const taken = points.flatMap(({ x, y, span, height }) => [[x - 9, y - 9, x + 9, y + 9],
    ...(span ? [[span[0], y - 2, span[1], y + 2]] : []), ...(height ? [[x - 2, height[0], x + 2, height[1]]] : [])]);
  const spots = new Map(), names = [];
  for (const { index, x, y, text } of [...points].sort((a, b) => a.y - b.y)) {
    const long = Math.min(text.length * 6.6, width * 0.5);
    const choices = [
      { at: [x + 12, y + 4], anchor: "start", box: [x + 10, y - 8, x + 12 + long, y + 8] },
      { at: [x - 12, y + 4], anchor: "end", box: [x - 12 - long, y - 8, x - 10, y + 8] },
      { at: [x, y - 14], anchor: "middle", box: [x - long / 2, y - 26, x + long / 2, y - 10] },
      { at: [x, y + 24], anchor: "middle", box: [x - long / 2, y + 10, x + long / 2, y + 28] },
      // Beside the point's own lines, in each quarter.
      ...[["start", 1], ["end", -1]].flatMap(([anchor, side]) => [-9, 18].map((down) => ({
        at: [x + 6 * side, y + down], anchor,
        box: [Math.min(x + 4 * side, x + (6 + long) * side), y + down - 11, Math.max(x + 4 * side, x + (6 + long) * side), y + down + 3],
      }))),
    ];
    const covers = (box) => (other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3];
    const cost = ({ box }) => (box[0] < 0 || box[2] > width ? 10 : 0) + taken.filter(covers(box)).length + 100 * names.filter(covers(box)).length;
    const best = choices.reduce((a, b) => (cost(b) < cost(a) ? b : a));
    if (cost(best) >= 100) continue;
    names.push(best.box);
    spots.set(index, best);
  }
  return spots;
}

/**
 * PQ against another number of each model, on a logarithmic axis. `spans`: of each model [lowest, highest] of a number
 * that varied while it was measured; models without are left out, for one such number alone says nothing.
 */
function costChart(container, values, title, spans = null) {
  const { PQ, low, high } = data.overview;
  const shown = data.models.map((_, index) => index).filter((index) => values[index] && PQ[index] !== null && (!spans || spans[index]));
  if (!shown.length) return container.remove();
  const key = legend(shown);
  chart(container, (width) => {
    const height = 300, left = 44, right = width - 12, bottom = height - 44;
    const [from, to] = scoreRange(shown.flatMap((index) => [PQ[index], low[index], high[index]]));
    const numbersHere = shown.flatMap((index) => [values[index], ...(spans ? spans[index] : [])]);
    const least = Math.min(...numbersHere), most = Math.max(...numbersHere);
    const x = logarithmic(least / 1.35, most * 1.35, left, right), y = linear(from, to, bottom, 22);
    const spots = labelSpots(shown.map((index) => ({ index, x: x(values[index]), y: y(PQ[index]), text: data.models[index].label, span: spans && spans[index].map(x), height: low[index] === null ? null : [y(high[index]), y(low[index])] })), width);
    key.hidden = spots.size === shown.length;
    return frame(width, height, `PQ against ${title}; the numbers are in the comparison table`,
      ...xAxis(x, bottom, 22, logTicks(least / 1.35, most * 1.35), roundShort, title, right),
      ...yAxis(y, left, right, ticks(from, to), (value) => percent(value, to - from < 0.05 ? 1 : 0), "PQ"),
      ...shown.map((index) => {
        const at = [x(values[index]), y(PQ[index])];
        const name = data.models[index].label;
        return explain(svg("g", {},
          low[index] === null ? null : svg("line", { x1: at[0], x2: at[0], y1: y(low[index]), y2: y(high[index]), stroke: modelColor(index), "stroke-width": 2 }),
          spans ? svg("line", { class: "span", x1: x(spans[index][0]), x2: x(spans[index][1]), y1: at[1], y2: at[1], stroke: modelColor(index), "stroke-width": 2 }) : null,
          marker(index, { d: markerPath(index, 6.5), transform: `translate(${at})` }),
          spots.has(index) ? label(name, ...spots.get(index).at, width * 0.5, { "text-anchor": spots.get(index).anchor }) : null,
        ), `${name}\nPQ ${percent(PQ[index], 2)}\n${title} ${short(values[index])}${spans ? ` (${spans[index].map(short).join(" – ")} over the run)` : ""}`);
      }));
  }, `PQ against ${title}`);
  container.append(key);
}

/** Lines of some models over an axis from 0 to 1: [x, y, low, high] each, with the words that explain the point last. */
function curves(container, { series, title, across, up, diagonal, span, zoom }) {
  const shown = (value) => (span ? whole(Math.round(span * value)) : percent(value, 0));
  const all = series.flatMap(({ points }) => points);
  // In tenths. Axes of a diagonal begin alike, so that it stays one; an interval may go on below.
  const least = (values) => (zoom && all.length ? Math.floor(10 * Math.min(0.9, ...values) + 1e-9) / 10 : 0);
  const most = (values) => (zoom && !diagonal && all.length ? Math.ceil(10 * Math.max(...values) - 1e-9) / 10 : 1);
  const [xs, ys] = diagonal ? [all.flatMap(([x, y]) => [x, y]), all.flatMap(([x, y]) => [x, y])] : [all.map(([x]) => x), all.flatMap(([, y, low]) => [y, low])];
  const from = least(xs), bottomValue = least(ys);
  chart(container, (width) => {
    const side = Math.min(width, 460);
    const height = side * 0.86, left = 44, right = side - 12, bottom = height - 44;
    const x = linear(from, most(xs), left, right), y = linear(bottomValue, most(all.map(([, up, , high]) => Math.max(up, high))), bottom, 22);
    const points = ticks(from, most(xs), 5), show = (value) => percent(value, 0);
    return frame(side, height, `${title}; the numbers are in the table`,
      ...xAxis(x, bottom, 22, points, shown, across, right), ...yAxis(y, left, right, ticks(bottomValue, most(all.map(([, up]) => up)), 5), show, up),
      diagonal ? svg("line", { class: "axis", x1: x(from), y1: y(from), x2: x(1), y2: y(1), "stroke-dasharray": "5 4" }) : null,
      ...series.map(({ model, points: own }) => svg("g", {},
        svg("path", { d: `M${own.map((point) => `${x(point[0])},${y(point[1])}`).join("L")}`, fill: "none", stroke: modelColor(model), "stroke-width": 2 }),
        own.map((point) => svg("line", { x1: x(point[0]), x2: x(point[0]), y1: y(Math.max(bottomValue, point[2])), y2: y(point[3]), stroke: modelColor(model), "stroke-width": 1.5 })),
        own.map((point) => explain(marker(model, { transform: `translate(${x(point[0])} ${y(point[1])})` }), point[4])))));
  }, title);
}

/** A bar a model, cut into parts, from 0: the longest one fills the width; with axis and legend. */
function bars(container, { title, across, parts, rows }) {
  const row = 46;
  const most = Math.max(...rows.map(({ sizes }) => sizes.reduce((sum, size) => sum + size, 0)), 0.01);
  container.append(el("ul", { class: "legend" }, parts.map((part, index) => el("li", {}, el("span", { class: `swatch part${index}` }), part))));
  chart(container, (width) => {
    const height = rows.length * row + 34;
    const at = linear(0, most, 0, width - 2);
    const points = ticks(0, most, width < 600 ? 4 : 8);
    return frame(width, height, `${title}; the numbers are in the table below`,
      ...points.map((value) => svg("line", { class: "gridline", x1: at(value), x2: at(value), y1: 0, y2: height - 28 })),
      ...rows.map(({ model, sizes }, index) => {
        const y = index * row;
        let start = 0;
        return svg("g", {}, svg("svg", { x: 7, y: y + 9, class: "dot" }, marker(model)), label(data.models[model].label, 18, y + 13, width - 30),
          sizes.map((size, part) => {
            const left = at(start), right = at((start += size));
            return explain(svg("rect", { class: `part${part}`, x: left, y: y + 19, width: Math.max(0.5, right - left), height: 22 }),
              `${data.models[model].label}\n${parts[part]}: ${percent(size, 1)} points of PQ`);
          }));
      }),
      ...points.map((value, place) => svg("text", { class: "quiet", x: at(value), y: height - 14, "text-anchor": place ? "middle" : "start" }, percent(value, 0))),
      svg("text", { x: width - 2, y: height, "text-anchor": "end" }, across));
  }, title);
}

/** The largest confusions of the chosen pair: which category's pixels, or whole segments, are given to which. */
function confusionView(container, open) {
  const LISTED = 25, FEW = 10;
  const kinds = { pixels: data.confusion, segments: data.objects };
  const several = data.models.length > 1;
  let kind = "pixels", order = "most";
  const place = rove(el("div"));
  container.append(el("div", { class: "bar" }, several ? pair.box() : null,
    choice("Count", [["pixels", "Pixels"], ["segments", "Whole segments"]], kind, (chosen) => { kind = chosen; draw(); }),
    several ? choice("Order", [["most", "Largest first"], ["gap", "A − B"]], order, (chosen) => { order = chosen; draw(); }) : null),
  ...(several ? [legend()] : []), place);
  const segmentsOf = (truth) => data.perCategory[truth].segments;

  /** The rows of the pair by what the order says; those of categories with few segments come after the others. */
  function chosen() {
    const known = kinds[kind].filter(([, , values]) => values[pair.a] || values[pair.b]);
    const size = order === "gap" ? ([, , values]) => Math.abs(values[pair.a] - values[pair.b]) : ([, , values]) => values[pair.a] + values[pair.b];
    const few = ([truth]) => (segmentsOf(truth) < FEW ? 1 : 0);
    return [...known].sort((x, y) => few(x) - few(y) || size(y) - size(x)).slice(0, LISTED);
  }

  function draw() {
    const rows = chosen(), of_pixels = kind === "pixels";
    if (!rows.length) {
      return place.replaceChildren(el("p", { class: "note" }, of_pixels ? "Every labelled pixel has the right category." : "None: no mask is right (IoU > 0.5) with the wrong category."));
    }
    const most = Math.max(...rows.flatMap(([, , values]) => values));
    const show = of_pixels ? (value) => percent(value, most < 0.1 ? 1 : 0) : (value) => whole(Math.round(value));
    const exact = of_pixels ? (value) => percent(value, 1) : whole;
    const gap = of_pixels ? (value) => signed(value, 1) : (value) => (value > 0 ? "+" : "") + minus(whole(value));
    place.replaceChildren(
      tableOf(of_pixels ? "Largest confusions by pixels" : "Segments with a wrong category",
        ["True", "Taken for", el("span", {}, el("span", { class: "hidden" }, "Each model"), dotsAxis(show, most, true)),
          ...(several ? [el("span", {}, "A ", markerIcon(pair.a)), el("span", {}, "B ", markerIcon(pair.b)), "A − B"] : [of_pixels ? "Share" : "Segments"]), "n"],
        rows.map(([truth, predicted, values]) => {
          const text = [`${categoryName(truth)} taken for ${categoryName(predicted)}`, ...data.models.map((model, index) => `${model.label}: ${exact(values[index])}${of_pixels ? " % of its pixels" : ""}`)].join("\n");
          return [
            opener(`taken:${truth}:${predicted}`, `Images in which ${categoryName(truth)} is taken for ${categoryName(predicted)}`, categoryName(truth), open),
            categoryName(predicted), dots(values, text, most),
            ...(several ? [exact(values[pair.a]), exact(values[pair.b]), gap(values[pair.a] - values[pair.b])] : [exact(values[0])]),
            whole(segmentsOf(truth)),
          ];
        }), { words: 2, class: "dotted wide" }),
      el("p", { class: "note" }, (of_pixels
        ? "In percent of the true category's pixels. void: no category predicted."
        : "Segments whose mask is right (IoU > 0.5) and whose category is not.") + ` n: true segments of the category; those of fewer than ${FEW} stand last.`));
  }
  draw();
  pair.watch(draw);
}
