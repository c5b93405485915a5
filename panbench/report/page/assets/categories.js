// The table of categories: a bar for each model, sorted by any column, filtered by name and kind.

function categoryTable(container, openCategory) {
  const METRICS = ["PQ", "SQ", "RQ"];
  const several = data.models.length > 1;
  const state = { metric: 0, sort: "value0", down: false, text: "", kind: "all" };
  const held = data.perCategory.filter((row) => row.counts.some((counts) => counts.some((number) => number > 0)));
  const absent = data.perCategory.length - held.length;
  const score = (row, model) => row.scores[model][state.metric];
  const spread = (row) => {
    const known = data.models.map((_, model) => score(row, model)).filter((value) => value !== null);
    return known.length > 1 ? Math.max(...known) - Math.min(...known) : null;
  };
  const columns = [
    { key: "name", title: "Category", value: (row) => categoryName(row.category).toLowerCase() },
    ...data.models.map((_, model) => ({ key: `value${model}`, title: modelLabel(model), value: (row) => score(row, model) })),
    ...(several ? [{ key: "spread", title: "Spread", value: spread, down: true }] : []),
    { key: "segments", title: "Segments", value: (row) => row.segments, down: true },
    { key: "kind", title: "Kind", value: (row) => (data.categories[row.category].thing ? "thing" : "stuff") },
  ];
  const body = el("tbody");
  const count = el("span", { role: "status", "aria-live": "polite" });
  const heads = columns.map((column) => {
    const button = el("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.title, el("span", { "aria-hidden": "true", class: "arrow" }));
    return el("th", { scope: "col", class: ["segments", "spread"].includes(column.key) ? "number" : null, style: column.key.startsWith("value") ? { width: `${65 / data.models.length}%` } : {} }, button);
  });

  function sortBy(column) {
    state.down = state.sort === column.key ? !state.down : Boolean(column.down);
    state.sort = column.key;
    draw();
  }

  function draw() {
    const column = columns.find((other) => other.key === state.sort);
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
    heads.forEach((head, index) => {
      const chosen = columns[index].key === state.sort;
      if (chosen) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector(".arrow").textContent = chosen ? (state.down ? " ▼" : " ▲") : "";
    });
    body.replaceChildren(...rows.map((row) => {
      const name = categoryName(row.category);
      const title = openCategory
        ? el("button", { type: "button", class: "link", title: "Show examples of this category", onclick: () => openCategory(row.category) }, name)
        : name;
      return el("tr", {},
        el("th", { scope: "row" }, title),
        data.models.map((model, index) => {
          const value = score(row, index);
          const [PQ, SQ, RQ] = row.scores[index], [TP, FP, FN] = row.counts[index];
          const bar = el("div", { class: "cellbar" }, el("span", { class: "number" }, percent(value)),
            el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "fill", style: { display: "block", width: `${100 * (value ?? 0)}%`, background: modelColor(index) } })));
          return el("td", { class: "bars" }, explain(bar, `${model.label}, ${name}\nPQ ${percent(PQ, 2)} = SQ ${percent(SQ, 2)} × RQ ${percent(RQ, 2)}\n${whole(TP)} TP, ${whole(FP)} FP, ${whole(FN)} FN`));
        }),
        several ? el("td", { class: "number" }, percent(spread(row))) : null,
        el("td", { class: "number" }, whole(row.segments)),
        el("td", {}, data.categories[row.category].thing ? "thing" : "stuff"));
    }));
    count.textContent = rows.length === held.length ? `${held.length} categories` : `${rows.length} of ${held.length} categories`;
  }

  container.append(
    el("div", { class: "bar" },
      choice("Score", METRICS.map((name, index) => [index, name]), 0, (metric) => { state.metric = metric; draw(); }),
      choice("Kind", [["all", "All"], ["thing", "Things"], ["stuff", "Stuff"]], "all", (kind) => { state.kind = kind; draw(); }),
      el("label", {}, "Filter ", el("input", { type: "search", id: "category-filter", oninput: (event) => { state.text = event.target.value; draw(); } })),
      count),
    el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Scores of the categories" },
      el("table", { id: "category-scores" }, el("thead", {}, el("tr", {}, heads)), body)));
  if (absent) container.append(el("p", { class: "note" }, `${absent} categories occur neither in the ground truth nor in any prediction; the means leave them out.`));
  draw();
}
