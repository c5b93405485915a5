// The table of categories: all models on one axis, the difference of a pair with its interval, sorted and filtered.

function categoryTable(container, open) {
  const METRICS = ["PQ", "SQ", "RQ"];
  const several = data.models.length > 1;
  const state = { metric: 0, sort: several ? "gap" : "value", down: several, text: "", kind: "all" };
  const held = data.perCategory.filter((row) => row.counts.some((counts) => counts.some((number) => number > 0)));
  const absent = data.perCategory.length - held.length;
  const score = (row, model) => row.scores[model][state.metric];
  const gap = (row) => (score(row, pair.a) === null || score(row, pair.b) === null ? null : score(row, pair.a) - score(row, pair.b));
  const tested = (row) => (state.metric === 0 ? pair.tested()?.categories[row.category] : undefined);
  /** How much of a difference is sure: the end of its interval that is nearer to 0, and 0 where the interval holds 0. */
  const sure = (row) => {
    const [, low, high] = tested(row) ?? [null, null, null];
    return low === null ? 0 : low > 0 ? low : high < 0 ? -high : 0;
  };
  const significant = (row) => Boolean(tested(row)?.[4]);
  const judged = () => held.filter((row) => typeof tested(row)?.[3] === "number");
  const mean = (row) => { const known = data.models.map((_, model) => score(row, model)).filter((value) => value !== null); return known.length ? average(known) : null; };
  const columns = () => [
    { key: "name", title: "Category", value: (row) => categoryName(row.category).toLowerCase() },
    { key: "value", title: METRICS[state.metric], value: mean, axis: true },
    ...(several ? [
      { key: "a", title: el("span", {}, "A ", markerIcon(pair.a)), value: (row) => score(row, pair.a), number: true },
      { key: "b", title: el("span", {}, "B ", markerIcon(pair.b)), value: (row) => score(row, pair.b), number: true },
      { key: "gap", title: held.some(significant) ? "A − B, surest first" : "A − B, least unlikely first", value: (row) => (significant(row) ? 1e3 : 0) + sure(row) + Math.abs(gap(row) ?? 0) * 1e-6, down: true, number: true },
    ] : [{ key: "a", title: METRICS[state.metric], value: (row) => score(row, 0), number: true }]),
    { key: "segments", title: "n", value: (row) => row.segments, down: true, number: true },
    { key: "kind", title: "Kind", value: (row) => (data.categories[row.category].thing ? "thing" : "stuff") },
  ];
  const head = el("tr"), body = rove(el("tbody"));
  const found = el("p", { id: "categories-finding", "aria-live": "polite" });
  const count = el("span", { role: "status", "aria-live": "polite" });

  function sortBy(column) {
    state.down = state.sort === column.key ? !state.down : Boolean(column.down);
    state.sort = column.key;
    draw();
  }

  function drawHead() {
    head.replaceChildren(...columns().map((column) => {
      const chosen = column.key === state.sort;
      const arrow = chosen ? (state.down ? " ▼" : " ▲") : "";
      const button = el("button", { type: "button", class: "sort", "data-key": column.key, onclick: () => sortBy(column) }, column.title, el("span", { "aria-hidden": "true", class: "arrow" }, arrow));
      return el("th", { scope: "col", class: column.axis ? "axis" : column.number ? "number" : null, "aria-sort": chosen ? (state.down ? "descending" : "ascending") : null },
        button, column.axis ? dotsAxis((value) => percent(value, 0)) : null);
    }));
  }

  function gapCell(row) {
    const [, low, high] = tested(row) ?? [];
    const value = signed(gap(row));
    return el("td", { class: "number gap" },
      significant(row) ? el("strong", {}, value) : value,
      low === undefined || low === null ? null : el("span", { class: "quiet interval" }, ` [${signed(low)}, ${signed(high)}]`),
      significant(row) ? el("span", { class: "hidden" }, " significant") : null);
  }

  /** What the tests say of the pair, before any single category is read. */
  function finding() {
    const all = judged(), sure = all.filter(significant).length;
    if (!several || state.metric !== 0 || !all.length) return "";
    const of = `${sure} of ${all.length}, after correction for all of them`;
    if (!sure) return `No category differs significantly between A and B (${of}). The most certain are listed first.`;
    return `${sure === 1 ? "One category differs" : `${sure} categories differ`} for sure between A and B (${of}): first in the table, in bold.`;
  }

  function draw() {
    found.textContent = finding();
    const focused = document.activeElement?.dataset?.key;
    drawHead();
    if (focused) head.querySelector(`[data-key="${focused}"]`)?.focus();
    const column = columns().find((other) => other.key === state.sort) ?? columns()[0];
    const wanted = state.text.trim().toLowerCase();
    const rows = held.filter((row) => {
      const category = data.categories[row.category];
      const kind = state.kind === "all" || (state.kind === "thing") === category.thing;
      return kind && (category.name.toLowerCase().includes(wanted) || category.super.toLowerCase().includes(wanted));
    });
    rows.sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1);
    });
    body.replaceChildren(...rows.map(lineOf));
    count.textContent = rows.length === held.length ? `${held.length} categories` : `${rows.length} of ${held.length} categories`;
  }

  const lines = new Map();

  /** The line of a category: made once for a score and a pair, as sorting and filtering only move it. */
  function lineOf(row) {
    const key = [row.category, state.metric, pair.a, pair.b].join();
    if (!lines.has(key)) lines.set(key, madeLine(row));
    return lines.get(key);
  }

  function madeLine(row) {
    const name = categoryName(row.category);
    const text = [name, ...data.models.map((model, index) => {
      const [PQ, SQ, RQ] = row.scores[index], [TP, FP, FN] = row.counts[index];
      return `${model.label}: PQ ${percent(PQ)} = SQ ${percent(SQ)} × RQ ${percent(RQ)}; ${whole(TP)} TP, ${whole(FP)} FP, ${whole(FN)} FN`;
    })].join("\n");
    return el("tr", {},
      el("th", { scope: "row" }, opener(`category:${row.category}`, `Images with ${name}`, name, open)),
      el("td", { class: "axis" }, dots(data.models.map((_, index) => score(row, index)), text)),
      el("td", { class: "number" }, percent(score(row, pair.a))),
      several ? [el("td", { class: "number" }, percent(score(row, pair.b))), gapCell(row)] : null,
      el("td", { class: "number" }, whole(row.segments)),
      el("td", {}, data.categories[row.category].thing ? "thing" : "stuff"));
  }

  container.append(
    el("div", { class: "bar" },
      several ? pair.box() : null,
      choice("Score", METRICS.map((name, index) => [index, name]), 0, (metric) => { state.metric = metric; draw(); }),
      choice("Kind", [["all", "All"], ["thing", "Things"], ["stuff", "Stuff"]], "all", (kind) => { state.kind = kind; draw(); }),
      el("label", {}, "Filter ", el("input", { type: "search", id: "category-filter", oninput: (event) => { state.text = event.target.value; draw(); } })),
      count, el("a", { class: "skip inline", href: "#causes" }, "Skip the table")),
    ...(several ? [found, legend()] : []),
    el("div", { class: "scroll tall", role: "region", "aria-label": "Scores of the categories" },
      el("table", { id: "category-scores", class: "dotted" }, el("thead", {}, head), body)));
  if (several) container.append(el("p", { class: "note" }, "A − B: the difference of the chosen pair with its 95 % interval; bold where it is significant after correction for all categories. Each interval is at 95 % by itself: where nothing differs one in 20 excludes 0. n: true segments. Intervals need 10 images with the category in their ground truth."));
  if (absent) container.append(el("p", { class: "note" }, `${absent} categories occur neither in the ground truth nor in any prediction; the means leave them out.`));
  draw();
  pair.watch(draw);
}
