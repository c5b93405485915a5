// Charts: SVG drawn at the width it gets, again when that changes, so text keeps its size from 400 to 1600 pixels.

/** Draws `draw(width)`, an SVG element, into a container now and whenever the width changes. */
function chart(container, draw) {
  let width = 0;
  const place = el("div");
  container.append(place);
  new ResizeObserver(() => {
    const now = Math.floor(container.clientWidth);
    if (now && now !== width) place.replaceChildren(draw((width = now)));
  }).observe(container);
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
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
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
    svg("text", { x: right, y: y + 34, "text-anchor": "end" }, title),
  ].flat();
}

function yAxis(at, x, right, values, show, title) {
  return [
    values.map((value) => svg("line", { class: "gridline", x1: x, x2: right, y1: at(value), y2: at(value) })),
    values.map((value) => svg("text", { class: "quiet", x: x - 7, y: at(value) + 4, "text-anchor": "end" }, show(value))),
    svg("text", { x: Math.max(0, x - 34), y: 12 }, title),
  ].flat();
}

/** PQ of each model with its interval. */
function intervalChart(container) {
  const { PQ, low, high } = data.overview;
  if (!low.some((value) => value !== null)) return;
  const row = 30;
  chart(container, (width) => {
    const names = Math.min(260, width * 0.42);
    const height = data.models.length * row + 44;
    const [from, to] = scoreRange([...low, ...high, ...PQ]);
    const at = linear(from, to, names, width - 16);
    const show = (value) => percent(value, to - from < 0.05 ? 1 : 0);
    return frame(width, height, "PQ of each model with its 95 % interval; the numbers are in the table above",
      ...xAxis(at, height - 40, 4, ticks(from, to, width < 600 ? 3 : 7), show, "PQ with 95 % interval", width - 16),
      ...data.models.map((model, index) => {
        const y = 18 + index * row;
        return explain(svg("g", {},
          svg("rect", { x: 0, y: y - row / 2, width, height: row, fill: "transparent" }),
          label(model.label, 0, y + 4, names - 14),
          low[index] === null ? null : svg("line", { x1: at(low[index]), x2: at(high[index]), y1: y, y2: y, stroke: modelColor(index), "stroke-width": 2.5 }),
          PQ[index] === null ? null : marker(index, { transform: `translate(${at(PQ[index])} ${y})` }),
        ), `${model.label}\nPQ ${percent(PQ[index], 2)}, 95 % interval ${percent(low[index], 2)} – ${percent(high[index], 2)}`);
      }));
  });
}

/** Text that is cut, with an ellipsis, to about `room` pixels; whole on hover. */
function label(text, x, y, room, properties = {}) {
  const most = Math.max(4, Math.floor(room / 6.6));
  const shown = text.length > most ? text.slice(0, most - 1) + "…" : text;
  return svg("text", { x, y, ...properties }, shown, shown === text ? null : svg("title", {}, text));
}

/** For each point a place for its name, beside, above or below it, that covers no other name or marker if it can. */
function labelSpots(points, width) {
  const taken = points.map(({ x, y }) => [x - 9, y - 9, x + 9, y + 9]);
  const spots = new Map();
  for (const { index, x, y, text } of [...points].sort((a, b) => a.y - b.y)) {
    const long = Math.min(text.length * 6.6, width * 0.5);
    const choices = [
      { at: [x + 12, y + 4], anchor: "start", box: [x + 10, y - 8, x + 12 + long, y + 8] },
      { at: [x - 12, y + 4], anchor: "end", box: [x - 12 - long, y - 8, x - 10, y + 8] },
      { at: [x, y - 14], anchor: "middle", box: [x - long / 2, y - 26, x + long / 2, y - 10] },
      { at: [x, y + 24], anchor: "middle", box: [x - long / 2, y + 10, x + long / 2, y + 28] },
    ];
    const cost = ({ box }) => {
      const outside = box[0] < 0 || box[2] > width ? 10 : 0;
      return outside + taken.filter((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]).length;
    };
    const best = choices.reduce((a, b) => (cost(b) < cost(a) ? b : a));
    taken.push(best.box);
    spots.set(index, best);
  }
  return spots;
}

/** PQ against another number of each model, on a logarithmic axis. */
function costChart(container, values, title) {
  const { PQ, low, high } = data.overview;
  const shown = data.models.map((_, index) => index).filter((index) => values[index] && PQ[index] !== null);
  if (!shown.length) return container.remove();
  chart(container, (width) => {
    const height = 300, left = 44, right = width - 12, bottom = height - 44;
    const [from, to] = scoreRange(shown.flatMap((index) => [PQ[index], low[index], high[index]]));
    const numbersHere = shown.map((index) => values[index]);
    const least = Math.min(...numbersHere), most = Math.max(...numbersHere);
    const x = logarithmic(least / 1.35, most * 1.35, left, right), y = linear(from, to, bottom, 22);
    const spots = labelSpots(shown.map((index) => ({ index, x: x(values[index]), y: y(PQ[index]), text: data.models[index].label })), width);
    return frame(width, height, `PQ against ${title}; the numbers are in the comparison table`,
      ...xAxis(x, bottom, 22, logTicks(least / 1.35, most * 1.35), roundShort, title, right),
      ...yAxis(y, left, right, ticks(from, to), (value) => percent(value, to - from < 0.05 ? 1 : 0), "PQ"),
      ...shown.map((index) => {
        const at = [x(values[index]), y(PQ[index])];
        const name = data.models[index].label;
        return explain(svg("g", {},
          low[index] === null ? null : svg("line", { x1: at[0], x2: at[0], y1: y(low[index]), y2: y(high[index]), stroke: modelColor(index), "stroke-width": 2 }),
          marker(index, { d: markerPath(index, 6.5), transform: `translate(${at})` }),
          label(name, ...spots.get(index).at, width * 0.5, { "text-anchor": spots.get(index).anchor }),
        ), `${name}\nPQ ${percent(PQ[index], 2)}\n${title} ${short(values[index])}`);
      }));
  });
}

const causeColor = (cause) => `var(--c${cause % 9})`;

/** For each model a bar of 100 points: its PQ, then what each cause takes. */
function causeChart(container) {
  const { names, meanings, lost } = data.causes;
  const row = 46;
  chart(container, (width) => {
    const height = data.models.length * row + 34;
    const at = linear(0, 1, 0, width - 2);
    return frame(width, height, "PQ of each model and what each cause takes of the rest; the numbers are in the table below",
      ...data.models.map((model, index) => {
        const y = index * row;
        let start = data.overview.PQ[index];
        const parts = [explain(svg("rect", { x: 0, y: y + 19, width: at(start), height: 22, fill: "var(--good)" }), `${model.label}\nPQ ${percent(start, 2)}`)];
        lost[index].forEach((share, cause) => {
          if (!(share > 0)) return;
          const left = at(start), right = at((start += share));
          parts.push(explain(
            svg("rect", { x: left, y: y + 19, width: Math.max(0.5, right - left), height: 22, fill: causeColor(cause), stroke: "var(--paper)", "stroke-width": right - left > 3 ? 1 : 0 }),
            `${model.label}\n${names[cause]}: ${percent(share, 2)} points of PQ\n${meanings[cause]}`));
        });
        return svg("g", {},
          label(model.label, 0, y + 13, width - 60),
          parts,
          svg("text", { x: 6, y: y + 34.5 }, `PQ ${percent(data.overview.PQ[index])}`));
      }),
      ...[0, 0.25, 0.5, 0.75, 1].map((value) => svg("text", { class: "quiet", x: at(value), y: height - 14, "text-anchor": value === 0 ? "start" : value === 1 ? "end" : "middle" }, percent(value, 0))));
  });
}

function causeTable(container) {
  const { names, meanings, lost, gain, counts } = data.causes;
  const order = names.map((_, cause) => cause).filter((cause) => counts.some((of) => of[cause].some((number) => number > 0)));
  const unused = names.filter((_, cause) => !order.includes(cause));
  container.append(tableOf("What each cause takes, in points of PQ",
    ["Cause", ...data.models.map((_, index) => el("span", {}, modelLabel(index)))],
    order.map((cause) => [
      el("div", {}, el("span", { class: "swatch", style: { background: causeColor(cause) } }), names[cause], el("div", { class: "meaning" }, meanings[cause])),
      ...data.models.map((model, index) => explain(el("span", {}, percent(lost[index][cause], 2)),
        `${model.label}, ${names[cause]}\nFixing this cause alone would gain ${percent(gain[index][cause], 2)}\n` +
        `${whole(counts[index][cause][0])} FP, ${whole(counts[index][cause][1])} FN, ${whole(counts[index][cause][2])} matches with an inexact mask`)),
    ])));
  if (unused.length) container.append(el("p", { class: "note" }, `No errors of these causes: ${unused.join(", ")}.`));
}

/** PQ over the slices of the data: one small chart a slicing, a line of markers a model. */
function sliceCharts(container) {
  const grid = el("div", { class: "small-multiples" });
  container.append(legend(), grid);
  for (const slicing of data.slices) {
    const box = el("div", { class: "chart" }, el("h3", {}, slicing.title[0].toUpperCase() + slicing.title.slice(1)));
    grid.append(box);
    // Many slices: all models on one line each.
    const many = slicing.names.length > 8;
    const row = many ? 24 : data.models.length > 3 ? 14 * data.models.length + 14 : 54;
    chart(box, (width) => {
      const names = Math.min(130, width * 0.36), right = width - 14;
      const height = slicing.names.length * row + 30;
      const at = linear(0, 1, names, right);
      return frame(width, height, `PQ by ${slicing.title}; the numbers follow`,
        ...xAxis(at, height - 26, 0, [0, 0.25, 0.5, 0.75, 1], (value) => percent(value, 0), "", right),
        ...slicing.names.map((name, place) => {
          const top = place * row, count = data.models.length;
          return svg("g", {},
            svg("line", { class: "gridline", x1: 0, x2: right, y1: top + row, y2: top + row }),
            label(name, 0, top + row / 2 + (many ? 4 : -2), names - 6),
            many ? null : svg("text", { class: "quiet", x: 0, y: top + row / 2 + 13 }, `${whole(slicing.truths[place])} true`),
            data.models.map((model, index) => {
              const value = slicing.PQ[index][place];
              if (value === null) return null;
              const y = many ? top + row / 2 : top + ((index + 1) * row) / (count + 1);
              return explain(svg("g", {},
                many ? null : svg("line", { x1: at(0), x2: at(value), y1: y, y2: y, stroke: modelColor(index), "stroke-width": 2 }),
                marker(index, { transform: `translate(${at(value)} ${y})` }),
              ), `${model.label}\n${name}: PQ ${percent(value, 2)}`);
            }));
        }));
    });
    box.append(numbers(`PQ by ${slicing.title}`, ["Slice", "true segments", ...data.models.map((model) => model.label)],
      slicing.names.map((name, place) => [name, whole(slicing.truths[place]), ...slicing.PQ.map((of) => percent(of[place], 2))])));
  }
}

/** What is taken for what: a grid of the most confused categories, and the largest confusions as a list. */
function confusionView(container) {
  let model = 0;
  const place = el("div");
  const most = 14;
  if (data.models.length > 1) {
    container.append(el("div", { class: "bar" }, select("Model", data.models.map((of, index) => [index, of.label]), 0, (chosen) => { model = chosen; draw(); }).node));
  }
  container.append(place);

  function draw() {
    const cells = data.confusion[model];
    const wrong = cells.filter(([truth, predicted]) => truth !== predicted).sort((a, b) => b[2] - a[2]);
    const weight = new Map();
    for (const [truth, predicted, share] of wrong) {
      for (const category of [truth, predicted]) if (category >= 0) weight.set(category, (weight.get(category) ?? 0) + share);
    }
    const chosen = [...weight].sort((a, b) => b[1] - a[1]).slice(0, most).map(([category]) => category).sort((a, b) => a - b);
    if (!chosen.length) return place.replaceChildren(el("p", { class: "note" }, "Every labelled pixel has the right category."));
    const share = new Map(cells.map(([truth, predicted, part, pixels]) => [`${truth},${predicted}`, [part, pixels]]));
    const columns = [...chosen, -1];
    const objects = data.objects.filter(([of]) => of === model).slice(0, 12);
    const cellOf = (truth, predicted) => {
      const [part, pixels] = share.get(`${truth},${predicted}`) ?? [0, 0];
      const right = truth === predicted;
      const cell = el("td", { class: right ? "cell diagonal" : "cell" }, part >= 0.0005 ? percent(part, part >= 0.0995 ? 0 : 1) : "");
      // Errors are small beside the diagonal, so their colour rises faster.
      if (part >= 0.0005) cell.style.background = `rgba(var(--heat), ${(right ? 0.28 * part : Math.min(0.45, 0.06 + part * 1.6)).toFixed(3)})`;
      return explain(cell, `True: ${categoryName(truth)}\nPredicted: ${categoryName(predicted)}\n${percent(part, 2)} % of its pixels (${whole(pixels)})`);
    };
    const head = el("tr", {}, el("td"), columns.map((category) => el("th", { scope: "col" }, el("span", {}, categoryName(category)))));
    const rows = chosen.map((truth) => el("tr", {}, el("th", { scope: "row" }, categoryName(truth)), columns.map((predicted) => cellOf(truth, predicted))));
    const pixels = wrong.slice(0, 12).map(([truth, predicted, part]) => [categoryName(truth), categoryName(predicted), percent(part, 2)]);
    const segments = objects.map(([, truth, predicted, number]) => [categoryName(truth), categoryName(predicted), whole(number)]);
    place.replaceChildren(el("div", { class: "beside" },
      el("div", {},
        el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion of categories" },
          el("table", { class: "heat" },
            el("caption", { class: "hidden" }, "Share of the pixels of each true category (rows) given to each category (columns), percent"),
            el("thead", {}, head), el("tbody", {}, rows))),
        el("p", { class: "note" }, "In percent of the row's true pixels. void: no category predicted.")),
      el("div", {}, el("h3", {}, "Most pixels lost"),
        tableOf("Largest confusions by pixels", ["True", "Taken for", "% of its pixels"], pixels, { words: 2 })),
      el("div", {}, el("h3", {}, "Whole segments with the wrong category"),
        segments.length
          ? tableOf("Segments with a wrong category", ["True", "Taken for", "segments"], segments, { words: 2 })
          : el("p", { class: "note" }, "None: no mask is right (IoU > 0.5) with the wrong category."))));
  }
  draw();
}
