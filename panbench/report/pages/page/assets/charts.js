// Charts: SVG drawn at the width it gets, again when that changes, so text keeps its size from 400 to 1600 pixels, and
// again for paper, whose width no layout tells before it is printed.

const PAPER = 700; // pixels across A4 within the margins of print.css
const charts = []; // of each its container, and what draws it at a width
let onPaper = false; // a chart drawn for paper may change its container's height, which is not a reason to draw it again

/** Draws all charts that are printed at the width of the paper; gives what draws them for the screen again. */
function drawForPaper() {
  const printed = charts.filter(({ container }) => !container.closest("#images"));
  onPaper = true;
  for (const { container, redraw } of printed) redraw(container.classList.contains("square") ? 460 : PAPER);
  return () => {
    onPaper = false;
    for (const { container, redraw } of printed) redraw(Math.floor(container.clientWidth));
  };
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
  new ResizeObserver(() => onPaper || redraw(Math.floor(container.clientWidth))).observe(container);
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

/** Round numbers of a logarithmic axis, the more the shorter it is, six at most. */
function logTicks(low, high) {
  const from = Math.floor(Math.log10(low)), powers = Array.from({ length: Math.ceil(Math.log10(high)) - from + 1 }, (_, place) => 10 ** (from + place));
  const among = (factors) => powers.flatMap((power) => factors.map((factor) => factor * power)).filter((at) => at >= low * 0.999 && at <= high * 1.001);
  return [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8], [1, 2, 5], [1]].map(among).find((found) => found.length <= 6) ?? [];
}

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
 * For each point a place for its name, in a quarter between its lines, that covers no other marker or line if it can, and
 * no other name: where every place does, the point has none, and a legend names its marker.
 */
function labelSpots(points, width) {
  const taken = points.flatMap(({ x, y, span, height }) => [[x - 9, y - 9, x + 9, y + 9],
    ...(span ? [[span[0], y - 2, span[1], y + 2]] : []), ...(height ? [[x - 2, height[0], x + 2, height[1]]] : [])]);
  const spots = new Map(), names = [];
  for (const { index, x, y, text } of [...points].sort((a, b) => a.y - b.y)) {
    const long = Math.min(text.length * 6.6, width * 0.5);
    // Beside the point's own lines, in each quarter.
    const choices = [["start", 1], ["end", -1]].flatMap(([anchor, side]) => [-9, 18].map((down) => ({
      at: [x + 6 * side, y + down], anchor,
      box: [Math.min(x + 4 * side, x + (6 + long) * side), y + down - 11, Math.max(x + 4 * side, x + (6 + long) * side), y + down + 3],
    })));
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
      ...xAxis(x, bottom, 22, logTicks(least / 1.35, most * 1.35), short, title, right),
      ...yAxis(y, left, right, ticks(from, to), (value) => percent(value, to - from < 0.05 ? 1 : 0), "PQ"),
      ...shown.map((index) => {
        const at = [x(values[index]), y(PQ[index])];
        const name = data.models[index].label;
        return explain(svg("g", {},
          low[index] === null ? null : svg("line", { x1: at[0], x2: at[0], y1: y(low[index]), y2: y(high[index]), stroke: modelColor(index), "stroke-width": 2 }),
          spans ? svg("line", { class: "span", x1: x(spans[index][0]), x2: x(spans[index][1]), y1: at[1], y2: at[1], stroke: modelColor(index), "stroke-width": 2 }) : null,
          marker(index, { transform: `translate(${at}) scale(1.3)` }),
          spots.has(index) ? label(name, ...spots.get(index).at, width * 0.5, { "text-anchor": spots.get(index).anchor }) : null,
        ), `${name}\nPQ ${percent(PQ[index], 2)}\n${title} ${short(values[index])}${spans ? ` (${spans[index].map(short).join(" – ")} over the run)` : ""}`);
      }));
  }, `PQ against ${title}`);
  container.append(key);
}

/**
 * Lines of some models over an axis from 0 to 1: points [x, y, low, high, words], which may go on with a name and a range
 * of x, [name, left, right].
 */
function curves(container, { series, title, across, up, diagonal, span, zoom }) {
  const shown = (value) => (span ? short(span * value) : percent(value, 0));
  const all = series.flatMap(({ points }) => points);
  // In tenths. Axes of a diagonal begin alike, so that it stays one; an interval may go on below.
  const least = (values) => (zoom && all.length ? Math.floor(10 * Math.min(0.9, ...values) + 1e-9) / 10 : 0);
  const most = (values) => (zoom && !diagonal && all.length ? Math.ceil(10 * Math.max(...values) - 1e-9) / 10 : 1);
  const [xs, ys] = diagonal ? [all.flatMap(([x, y]) => [x, y]), all.flatMap(([x, y]) => [x, y])] : [all.map(([x]) => x), all.flatMap(([, y, low]) => [y, low])];
  const from = least(xs), bottomValue = least(ys);
  if (series.length > 1) container.append(legend(series.map(({ model }) => model)));
  chart(container, (width) => {
    const side = Math.min(width, 460);
    const height = side * 0.86, left = 44, right = side - 12, bottom = height - 44;
    const x = linear(from, most(xs), left, right), y = linear(bottomValue, most(all.map(([, up, , high]) => Math.max(up, high))), bottom, 22);
    const steps = span ? ticks(span * from, span * most(xs), 5).map((value) => value / span) : ticks(from, most(xs), 5), show = (value) => percent(value, 0);
    const line = (model, width, ends) => svg("line", { ...ends, stroke: modelColor(model), "stroke-width": width });
    return frame(side, height, `${title}; the numbers are in the table`,
      ...xAxis(x, bottom, 22, steps, shown, across, right), ...yAxis(y, left, right, ticks(bottomValue, most(all.map(([, up]) => up)), 5), show, up),
      diagonal ? svg("line", { class: "axis", x1: x(from), y1: y(from), x2: x(1), y2: y(1), "stroke-dasharray": "5 4" }) : null,
      ...series.map(({ model, points: own }) => svg("g", {},
        svg("path", { d: `M${own.map((point) => `${x(point[0])},${y(point[1])}`).join("L")}`, fill: "none", stroke: modelColor(model), "stroke-width": 2 }),
        own.map(([at, up, low, high, words, name, first, third]) => [
          line(model, 1.5, { x1: x(at), x2: x(at), y1: y(Math.max(bottomValue, low)), y2: y(high) }),
          name ? line(model, 1.5, { x1: x(first), x2: x(third), y1: y(up), y2: y(up) }) : null,
          explain(marker(model, { transform: `translate(${x(at)} ${y(up)})` }), words),
          name ? svg("text", { x: x(at) + 6, y: y(up) + 16 }, name) : null]))));
  }, title);
}
