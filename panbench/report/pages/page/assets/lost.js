// What PQ is lost to: causes as bars, what to fix first, and the wall of single errors, cut out of their images.

const WALL_PAGE = 12; // crops that are listed at once

const sizeNames = () => data.wall.sizes;
const causeName = (place) => data.causes.names[place];
/** What an error is, as Python says it: "missed person, small"; of a wrong category what it was taken for. */
const errorName = ({ cause, category, size, taken }) => `${causeName(cause)} ${taken ? takenInWords(taken) : categoryName(category)}, ${sizeNames()[size]}`;
const wins = (gain, digits = 2) => `+${percent(gain, digits)}`;
const causeColor = (cause) => `var(--c${cause % 9})`;

/**
 * Where errors come from: those packed into this file, or, from `panbench serve`, all of the runs. `find` gives a page of
 * what fits, { errors, total, all, faults }: at once from the file, as a promise from the server.
 */
const errorSource = () => (data.live ? servedErrors() : packedErrors());

function packedErrors() {
  const present = (key) => [...new Set(data.wall.errors.map((error) => error[key]))].sort((a, b) => a - b);
  const fits = (wanted) => (error) => ["model", "cause", "category", "size"].every((key) => wanted[key] === null || error[key] === wanted[key])
    && (wanted.slice === null || error.slices.includes(wanted.slice));
  return {
    live: false,
    held: present("model"),
    causes: present("cause"), categories: present("category"), sizes: present("size"),
    slices: data.wall.slices.map((name, place) => [place, name]),
    find: (wanted, offset, limit) => {
      const found = data.wall.errors.filter(fits(wanted));
      const all = data.wall.errors.filter((error) => error.model === wanted.model).length;
      return { errors: found.slice(offset, offset + limit), total: found.length, all, faults: [] };
    },
  };
}

function servedErrors() {
  const { pictures, causes, categories, slices } = data.live;
  return {
    live: true,
    held: data.models.map((_, model) => model).filter((model) => pictures[model]),
    causes: causes.map((name) => data.causes.names.indexOf(name)), categories, sizes: sizeNames().map((_, place) => place), slices,
    find: ({ cause, size, ...wanted }, offset, limit) =>
      foundOrWhy(askServer("errors", { ...wanted, cause: causeName(cause), size: sizeNames()[size], offset, limit })),
  };
}

/** The outlines of a crop over its photograph, with the strokes of all pictures; `answer`: another model's instead. */
function cropPicture(error, answer, label) {
  const { kind, width, height, box } = error, of_truth = kind === "bad mask" ? "bad" : "missed";
  const drawn = (kind, d, broken = "") => (d ? [svg("path", { class: `under ${kind}`, d }), svg("path", { class: `${kind} ${broken}`, d })] : []);
  const own = answer === null ? [...drawn(kind === "bad mask" ? "bad" : kind, error.predicted), ...(kind === "confused" ? [] : drawn(of_truth, error.truth, "broken"))]
    : answer ? drawn("other", answer) : drawn(of_truth, error.truth, "broken");
  return svg("svg", { class: "crop", "data-frame": box ? framed(box) : null, viewBox: `0 0 ${2 * width} ${2 * height}`, role: "img", "aria-label": label },
    svg("image", { href: error.photo, width: 2 * width, height: 2 * height, preserveAspectRatio: "none" }), own, box ? locator(error) : null);
}

/** Where in its image a crop lies, if it is a small part of it. */
function locator({ box: [x, y, across, down], width, height }) {
  if (2 * across * down > 1) return null;
  const scale = 0.44 * Math.max(width, height) / Math.max(width / across, height / down);
  const [wide, high] = [scale * width / across, scale * height / down], left = 2 * width - wide - 0.06 * width, top = 0.06 * width;
  return svg("g", { class: "locator" }, svg("rect", { x: left, y: top, width: wide, height: high }),
    svg("rect", { class: "here", x: left + x * wide, y: top + y * high, width: across * wide, height: down * high }));
}

/** An error as a button that opens its image; `beside`: another model, whose answer at the same place stands beside it. */
function errorTile(error, open, beside = null, heading = null) {
  const answer = beside === null ? null : error.beside[beside];
  const other = beside === null ? "" : `${data.models[beside].label}: ${answer ? answer[0] : "kept no predictions"}`;
  const words = [error.iou === null ? null : `IoU ${fixed(error.iou, 2)}`, wins(error.gain), `image ${error.name ?? error.image}`].filter(Boolean).join(" · ");
  return el("li", {}, el("button", { type: "button", class: "tile", "data-image": error.image, onclick: () => open(error) },
    el("span", { class: "crops" },
      cropPicture(error, null, `${data.models[error.model].label}: ${errorName(error)}`),
      beside === null ? null : cropPicture(error, answer ? answer[1] : "", other)),
    el("span", { class: "words" }, heading ? [el("strong", {}, heading[0]), ` ${heading[1]}`] : [el("strong", {}, errorName(error)), " ", words]),
    beside === null ? null : el("span", { class: "words quiet" }, markerIcon(beside), other)));
}

/** Room for tiles that a server has not sent yet: what stands below does not move when they come. */
const roomFor = (count) => Array.from({ length: count }, () => el("li", { class: "room", "aria-hidden": "true" }, el("div", { class: "tile" }, el("span", { class: "crops" }, svg("svg", { class: "crop" })), el("span", { class: "words" }, "…"))));

/** How a low frame shows a crop: filled from the edge of the image that the crop touches; whole, where it has two. */
function framed([x, y, across, down]) {
  const side = (from, size) => (from <= 0 ? "Min" : from + size > 0.999 ? "Max" : "Mid");
  return down > 0.999 ? "xMidYMid meet" : `x${side(x, across)}Y${side(y, down)} slice`;
}

/** Opens the image of an error, or says how it comes into the page. */
function errorOpener(gallery, said) {
  return (error) => {
    said.replaceChildren();
    if (gallery?.has(error.image)) return gallery.openError(error);
    said.replaceChildren(`Image ${error.name ?? error.image} is not among the examples of this file. To add it: `, command(`${data.command} --image ${error.name ?? error.image}`));
    said.scrollIntoView({ block: "nearest" });
  };
}

/** One crop of each of the three costliest kinds of error of the model. */
function costliest(container, gallery) {
  const source = errorSource();
  if (!source.held.length) return container.remove();
  const said = el("p", { class: "note", role: "status" }), list = rove(el("ul", { class: "tiles three" }));
  const open = errorOpener(gallery, said);
  const draw = async () => {
    const rows = data.fixes[pair.a].slice(0, 3);
    if (source.live) list.replaceChildren(...roomFor(rows.length));
    const found = await Promise.all(rows.map((row) => source.find({ model: pair.a, beside: null, cause: row.cause, category: null, size: row.size, slice: null }, 0, 1)));
    list.replaceChildren(...found.flatMap(({ errors }, place) => errors.map((error) => errorTile(error, open, null, [`${causeName(rows[place].cause)}, ${sizeNames()[rows[place].size]}`, `${wins(rows[place].gain, 1)} in ${whole(rows[place].errors)} errors`]))));
    for (const crop of list.querySelectorAll("svg.crop[data-frame]")) crop.setAttribute("preserveAspectRatio", crop.dataset.frame);
  };
  container.append(list, said);
  draw();
  pair.watch(draw);
}

/** Points of PQ as a bar of a cause's colour, with their interval; the bar of `most` is the longest. */
function lossBar(cause, value, low, high, most) {
  const at = (points) => `${Math.min(100, Math.max(0, (100 * points) / most))}%`;
  return svg("svg", { class: "lost", height: 12, "aria-hidden": "true" }, svg("rect", { width: at(value), height: 12, fill: causeColor(cause) }),
    low === null ? null : svg("line", { x1: at(low), x2: at(high), y1: 6, y2: 6 }));
}

/** Each cause as a bar a model: what it takes of PQ, with its interval; a bar filters the wall. */
function causeBars(container, filterWall) {
  const { names, meanings, lost, shown, intervals, gain, counts, gaps } = data.causes;
  const several = data.models.length > 1, models = data.models.map((_, model) => model);
  const takes = (cause) => counts.some((of) => of[cause].some((number) => number > 0)) || lost.some((of) => of[cause] > 0);
  const order = names.map((_, cause) => cause).filter(takes).sort((x, y) => average(lost.map((of) => of[y] ?? 0)) - average(lost.map((of) => of[x] ?? 0)));
  const unused = names.filter((_, cause) => !takes(cause)), most = Math.max(...lost.flat().map((value) => value ?? 0), 0.001);
  const place = el("div");
  const cell = (model, cause) => {
    const [FP, FN, TP] = counts[model][cause], [low, high] = intervals[model][cause];
    const errors = [FP && `${whole(FP)} FP`, FN && `${whole(FN)} FN`, TP && `${whole(TP)} found with an inexact mask`].filter(Boolean).join(", ");
    const inside = [lossBar(cause, lost[model][cause] ?? 0, low, high, most),
    el("span", { class: "points" }, shown[model][cause]), low === null ? null : el("small", { class: "quiet" }, ` [${percent(low)}, ${percent(high)}]`)];
    const words = `${data.models[model].label}\n${names[cause]}: ${meanings[cause]}\n${percent(lost[model][cause], 2)} points of PQ lost; fixed alone it wins ${percent(gain[model][cause], 2)}\n${errors || "no error of its own: it counts once other causes are fixed"}`;
    return explain(filterWall && errors ? el("button", { type: "button", class: "cause", "data-cause": cause, onclick: () => filterWall(model, cause) }, inside) : el("span", { class: "cause" }, inside), words);
  };
  /** A − B of the pair with its interval, which is of this cause alone. */
  const gapCell = (cause) => {
    const sign = pair.a < pair.b ? 1 : -1, [low, high] = gaps[[Math.min(pair.a, pair.b), Math.max(pair.a, pair.b)]][cause];
    return [signed(lost[pair.a][cause] - lost[pair.b][cause]), low === null ? null : el("small", { class: "quiet" }, ` [${signed(sign > 0 ? low : -high)}, ${signed(sign > 0 ? high : -low)}]`)];
  };
  const draw = () => {
    place.replaceChildren(tableOf("What each cause takes, in points of PQ",
      ["Cause", ...models.map((model) => el("span", {}, markerIcon(model), el("span", { class: "name" }, data.models[model].label))), ...(several ? [el("span", {}, "A − B: ", markerIcon(pair.a), "− ", markerIcon(pair.b))] : [])],
      [...order.map((cause) => [el("span", {}, el("span", { class: "swatch", style: { background: causeColor(cause) } }), names[cause]), ...models.map((model) => cell(model, cause)), ...(several ? [el("span", {}, gapCell(cause))] : [])]),
        ["All causes: 100 − PQ", ...models.map((model) => data.causes.total[model]), ...(several ? [""] : [])]], { class: models.length > 4 ? "causes many" : "causes" }));
    place.querySelectorAll("tbody tr").forEach((row, index) => { if (index < order.length) row.id = `lost-${order[index]}`; });
  };
  container.append(rove(place));
  if (unused.length) container.append(el("p", { class: "note" }, `No errors of these causes: ${unused.join(", ")}.`));
  draw();
  pair.watch(draw);
}

/** What to fix first in the model: rows by what fixing them would win; each opens to its categories and six errors. */
function fixView(container, gallery) {
  const source = errorSource(), list = rove(el("div", { class: "fixes" }), "summary"), said = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, said);
  const draw = () => {
    const model = pair.a, rows = data.fixes[model], most = Math.max(...rows.map((row) => row.high), 0.001);
    if (!rows.length) return list.replaceChildren(el("p", { class: "note" }, "Nothing to fix stands out: no kind of error is in 10 images or more."));
    list.replaceChildren(...rows.map((row) => {
      const tiles = rove(el("ul", { class: "tiles" }));
      const fill = async () => {
        if (tiles.children.length || !source.held.includes(model)) return;
        if (source.live) tiles.replaceChildren(...roomFor(Math.min(6, row.errors)));
        const { errors } = await source.find({ model, beside: null, cause: row.cause, category: null, size: row.size, slice: null }, 0, 6);
        tiles.replaceChildren(...errors.map((error) => errorTile(error, open)));
      };
      return el("details", { ontoggle: (event) => { if (event.target.open) fill(); } },
        el("summary", {}, el("span", { class: "what" }, el("span", { class: "swatch", style: { background: causeColor(row.cause) } }), `${causeName(row.cause)}, ${sizeNames()[row.size]}`),
          lossBar(row.cause, row.gain, row.low, row.high, most),
          el("span", { class: "won" }, wins(row.gain)), el("small", { class: "quiet" }, ` [${percent(row.low, 2)}, ${percent(row.high, 2)}] · ${whole(row.errors)} errors in ${whole(row.images)} images`)),
        el("p", { class: "note" }, "Most in: ", row.categories.map(([category, gain, errors]) => `${categoryName(category)} ${wins(gain)} (${whole(errors)})`).join(" · ")), tiles);
    }));
  };
  container.append(list, said);
  draw();
  pair.watch(draw);
}

/** The wall; returns what filters it by a cause. */
function errorWall(container, gallery) {
  const source = errorSource(), { held } = source;
  const state = { cause: null, category: null, size: null, slice: null };
  const tiles = rove(el("ul", { class: "tiles" }));
  const said = el("p", { class: "note", role: "status", "aria-live": "polite" });
  const faults = el("div");
  const opened = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, opened);
  const more = el("button", { type: "button", onclick: () => list(tiles.querySelectorAll("li:not(.room)").length) }, "More errors");
  const change = (name) => (value) => { state[name] = value; list(); };
  const any = (options) => [[null, "any"], ...options];
  const boxes = {
    cause: select("Cause", any(source.causes.map((place) => [place, causeName(place)])), null, change("cause")),
    category: select("Category", any(source.categories.map((place) => [place, categoryName(place)]).sort((a, b) => a[1].localeCompare(b[1]))), null, change("category")),
    size: select("Size", any(source.sizes.map((place) => [place, sizeNames()[place]])), null, change("size")),
    ...(source.slices.length ? { slice: select("Slice", any(source.slices), null, change("slice")) } : {}),
  };
  const model = () => (held.includes(pair.a) ? pair.a : held[0]);
  const beside = () => (held.length > 1 && held.includes(pair.b) && pair.b !== model() ? pair.b : null);
  let turn = 0;

  /** Lists what fits, or, from an `offset` on, what follows the errors that are listed. */
  async function list(offset = 0) {
    const now = ++turn;
    if (source.live) container.setAttribute("aria-busy", "true");
    if (source.live && !offset) tiles.replaceChildren(...roomFor(WALL_PAGE));
    const { errors, total, all, faults: problems } = await source.find({ ...state, model: model(), beside: beside() }, offset, WALL_PAGE);
    if (now !== turn) return;
    container.removeAttribute("aria-busy");
    const listed = errors.map((error) => errorTile(error, open, beside()));
    tiles.classList.toggle("double", beside() !== null);
    if (offset) tiles.append(...listed);
    else tiles.replaceChildren(...listed);
    more.hidden = offset + errors.length + problems.length >= total || !errors.length;
    faults.replaceChildren(...problems.map((problem) => el("p", { class: "note" }, problem)));
    const { label, run } = data.models[model()], costliest = source.live ? "" : `costliest (of ${whole(data.wall.totals[model()])}) `;
    said.replaceChildren(`${total < all ? `${whole(total)} of the` : "The"} ${whole(all)} ${costliest}errors of ${label}. `,
      ...(source.live || total ? [] : ["For others: ", command(`panbench show errors ${run}`)]));
  }

  container.append(el("div", { class: "bar" }, Object.values(boxes).map(({ node }) => node)), kindLegend(), said, faults, opened, tiles, more);
  pair.watch(() => list());
  if (!source.live) list();
  else {
    // A server is asked once the wall comes near; until then its room is kept.
    tiles.replaceChildren(...roomFor(WALL_PAGE));
    new IntersectionObserver((entries, own) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      own.disconnect();
      list();
    }, { rootMargin: "600px" }).observe(container);
  }
  return (chosen, cause) => {
    Object.assign(state, { cause, category: null, size: null, slice: null });
    for (const [name, box] of Object.entries(boxes)) box.set(state[name]);
    if (chosen !== pair.a) pair.choose(chosen);
    else list();
    said.scrollIntoView({ block: "center" });
  };
}
