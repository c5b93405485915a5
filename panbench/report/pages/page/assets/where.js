// Where PQ is lost: categories, slices and confusions as tabs of one table, all models on one axis and the pair in numbers.

const FEW = 10; // a category with fewer true segments stands after the others in confusions

function whereView(container, open) {
  const METRICS = ["PQ", "SQ", "RQ"];
  const several = data.models.length > 1;
  const state = { tab: "categories", metric: 0, sort: null, down: false, text: "", kind: "all" };
  const held = data.perCategory.filter((row) => row.counts.some((counts) => counts.some((number) => number > 0)));
  const absent = data.perCategory.length - held.length;
  const named = (name, values) => [name, ...data.models.map((model, index) => `${model.label}: ${values[index]}`)].join("\n");

  /** A row: its key and title as a lead, name, value of each model, n, the tested difference of the pair, and words. */
  const categories = () => held.map((row) => {
    const name = categoryName(row.category);
    return {
      key: `category:${row.category}`, title: `Images with ${name}`, name, values: row.scores.map((scores) => scores[state.metric]), n: row.segments,
      test: state.metric === 0 ? pair.tested()?.categories[row.category] : undefined, thing: data.categories[row.category].thing, also: data.categories[row.category].super,
      words: named(name, row.scores.map(([PQ, SQ, RQ], model) => `PQ ${percent(PQ)} = SQ ${percent(SQ)} × RQ ${percent(RQ)}; ${row.counts[model].map(whole).join(" TP, ")} FP, FN`.replace(/ TP, (\S+) FP, FN$/, " FP, $1 FN"))),
    };
  });
  const sliced = (slicing) => () => slicing.names.map((name, place) => {
    const values = slicing.PQ.map((of) => of[place]);
    return { key: `slice:${slicing.key}:${name}`, title: `Images with most errors in ${slicing.title}: ${name}`, name, values, n: slicing.truths[place], words: named(name, values.map((value) => `PQ ${percent(value, 2)}`)) };
  });
  const confused = (rows, show) => () => rows.filter(([, , values]) => values[pair.a] || values[pair.b]).map(([truth, predicted, values]) => {
    const name = `${categoryName(truth)} → ${categoryName(predicted)}`, n = data.perCategory[truth].segments;
    return { key: `taken:${truth}:${predicted}`, title: `Images in which ${categoryName(truth)} is taken for ${categoryName(predicted)}`, name, values, n, few: n < FEW, words: named(name, values.map(show)) };
  });
  const title = (text) => text[0].toUpperCase() + text.slice(1);
  const tabs = new Map([
    ["categories", { title: "Categories", rows: categories, sort: several ? "gap" : "a", down: several, most: () => 1 }],
    ...[...data.slices, ...(data.own ?? [])].map((slicing) => [slicing.key, { title: title(slicing.title), rows: sliced(slicing), most: () => 1 }]),
    ...(data.categories.length > 1 ? [
      ["taken-pixels", { title: "Confused pixels", note: `Share of the true category's pixels that another category has; void: none. Categories with fewer than ${FEW} true segments stand last.`, empty: "Every labelled pixel has the right category.", rows: confused(data.confusion, (value) => `${percent(value)} % of its pixels`), sort: "a", down: true }],
      ["taken-segments", { title: "Confused segments", note: `Segments whose mask is right (IoU > 0.5) and whose category is not. Categories with fewer than ${FEW} true segments stand last.`, empty: "None: no mask is right (IoU > 0.5) with the wrong category.", rows: confused(data.objects, whole), sort: "a", down: true, whole: true }],
    ] : []),
  ]);

  const place = el("div"), found = el("p", { id: "where-finding", "aria-live": "polite" }), count = el("span", { role: "status", "aria-live": "polite" });
  const only = (keys, node) => { node.show = () => { node.hidden = !keys.includes(state.tab); }; return node; };
  const metrics = only(["categories"], choice("Score", METRICS.map((name, index) => [index, name]), 0, (metric) => { state.metric = metric; draw(); }));
  const kinds = only(["categories"], choice("Kind", [["all", "All"], ["thing", "Things"], ["stuff", "Stuff"]], "all", (kind) => { state.kind = kind; draw(); }));
  const filter = el("label", {}, "Filter ", el("input", { type: "search", id: "where-filter", oninput: (event) => { state.text = event.target.value; draw(); } }));
  const choose = (tab) => { Object.assign(state, { tab, sort: tabs.get(tab).sort ?? null, down: tabs.get(tab).down ?? false }); draw(); };

  const gap = (row) => (row.values[pair.a] === null || row.values[pair.b] === null ? null : row.values[pair.a] - row.values[pair.b]);
  const significant = (row) => Boolean(row.test?.[4]);
  /** How much of a difference is sure: the end of its interval that is nearer to 0, and 0 where the interval holds 0. */
  const sure = ({ test: [, low, high] = [null, null, null] }) => (low === null ? 0 : low > 0 ? low : high < 0 ? -high : 0);
  const values = {
    name: (row) => row.name.toLowerCase(),
    a: (row) => row.values[pair.a],
    b: (row) => row.values[pair.b],
    gap: (row) => (significant(row) ? 1e3 : 0) + (row.test ? sure(row) : 0) + Math.abs(gap(row) ?? 0) * (row.test ? 1e-6 : 1),
    n: (row) => row.n,
  };

  /** What the tests say of the pair, before any single category is read. */
  function finding(rows) {
    const judged = rows.filter((row) => typeof row.test?.[3] === "number"), differing = judged.filter(significant).length;
    if (!judged.length) return "";
    const of = `${differing} of ${judged.length}, after correction for all of them`;
    if (!differing) return `No category differs significantly between ${pair.words()} (${of}). The most certain are listed first.`;
    return `${differing === 1 ? "One category differs" : `${differing} categories differ`} significantly between ${pair.words()} (${of}): first in the table, in bold.`;
  }

  function draw() {
    const tab = tabs.get(state.tab), all = tab.rows(), wanted = state.text.trim().toLowerCase();
    for (const node of [metrics, kinds]) node.show();
    const rows = all.filter((row) => (row.thing === undefined || state.kind === "all" || (state.kind === "thing") === row.thing)
      && (row.name.toLowerCase().includes(wanted) || row.also?.toLowerCase().includes(wanted)));
    if (state.sort) {
      rows.sort((one, other) => {
        const [x, y] = [values[state.sort](one), values[state.sort](other)];
        if (one.few !== other.few) return one.few ? 1 : -1;
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1);
      });
    }
    found.textContent = several && state.tab === "categories" ? finding(all) : tab.note ?? "";
    count.textContent = rows.length === all.length ? `${rows.length} rows` : `${rows.length} of ${all.length} rows`;
    if (!all.length) return place.replaceChildren(el("p", { class: "note" }, tab.empty ?? "There is none."));
    const most = tab.most?.() ?? Math.max(...all.flatMap((row) => row.values));
    const show = tab.whole ? whole : percent, change = tab.whole ? (value) => (value > 0 ? "+" : "") + minus(whole(value)) : signed;
    const head = (key, text, kind) => {
      const arrow = state.sort === key ? (state.down ? " ▼" : " ▲") : "";
      const sort = () => { state.down = state.sort === key ? !state.down : key !== "name"; state.sort = key; draw(); place.querySelector(`[data-key="${key}"]`).focus(); };
      return el("th", { scope: "col", class: kind, "aria-sort": arrow ? (state.down ? "descending" : "ascending") : null },
        el("button", { type: "button", class: "sort", "data-key": key, onclick: sort }, text, el("span", { "aria-hidden": "true" }, arrow)));
    };
    const gapCell = (row) => {
      const [, low, high] = row.test ?? [], value = gap(row) === null ? "–" : change(gap(row));
      return el("td", { class: "number gap" }, significant(row) ? el("strong", {}, value) : value,
        low === undefined || low === null ? null : el("span", { class: "quiet interval" }, ` [${signed(low)}, ${signed(high)}]`));
    };
    place.replaceChildren(el("div", { class: "scroll tall", role: "region", "aria-label": tab.title },
      el("table", { id: "where-table", class: "dotted" },
        el("thead", {}, el("tr", {}, head("name", tab.title), el("th", { scope: "col", class: "axis" }, dotsAxis((value) => (tab.whole ? whole(Math.round(value)) : percent(value, most < 0.1 ? 1 : 0)), most)),
          head("a", several ? el("span", {}, "A ", markerIcon(pair.a)) : "value", "number"), ...(several ? [head("b", el("span", {}, "B ", markerIcon(pair.b)), "number"), head("gap", "A − B", "number")] : []), head("n", "n", "number"))),
        rove(el("tbody", {}, rows.map((row) => el("tr", {},
          el("th", { scope: "row" }, opener(row.key, row.title, row.name, open)),
          el("td", { class: "axis" }, dots(row.values, row.words, most)),
          el("td", { class: "number" }, row.values[pair.a] === null ? "–" : show(row.values[pair.a])),
          several ? [el("td", { class: "number" }, row.values[pair.b] === null ? "–" : show(row.values[pair.b])), gapCell(row)] : null,
          el("td", { class: "number" }, whole(row.n)))))))));
  }

  container.append(
    el("div", { class: "bar" }, choice("What", [...tabs].map(([key, tab]) => [key, tab.title]), state.tab, choose)),
    el("div", { class: "bar" }, metrics, kinds, filter, count, el("a", { class: "skip inline", href: "#images" }, "Skip the table")), found, ...(several ? [legend()] : []), place,
    el("p", { class: "note" }, `n: true segments. ${several ? "A − B: with its 95 % interval, where 10 images have the category; bold where it is significant after correction for all categories. " : ""}${absent ? `${absent} categories occur neither in the ground truth nor in a prediction; the means leave them out.` : ""}`));
  choose(state.tab);
  pair.watch(draw);
}

/** A button that opens the images of a lead, or plain text where the page has none. */
function opener(key, title, text, open) {
  if (!open || !data.leads[key]) return el("span", {}, text);
  return el("button", { type: "button", class: "link", "data-lead": key, title, onclick: () => open(key, title) }, text);
}
