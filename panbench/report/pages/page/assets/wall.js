// Single errors, cut out of their images: what to fix first with six of each row, and the wall of the dearest.

const WALL_PAGE = 24; // crops that are listed at once

const sizeNames = () => data.wall.sizes;
const causeName = (place) => data.causes.names[place];
/** What an error or a row is, as Python says it: "missed person, small". */
const errorName = ({ cause, category, size }) => `${causeName(cause)} ${categoryName(category)}, ${sizeNames()[size]}`;
const wins = (gain, digits = 2) => `+${percent(gain, digits)}`;

/** The outlines of a crop over its photograph: the truth's line is broken, a prediction's is not. */
function cropPicture(error, outlines, label) {
  const line = (kind, d) => (d ? svg("path", { class: kind, d }) : null);
  return svg("svg", { class: "crop", viewBox: `0 0 ${2 * error.width} ${2 * error.height}`, role: "img", "aria-label": label },
    svg("image", { href: error.photo, width: 2 * error.width, height: 2 * error.height, preserveAspectRatio: "none" }),
    // Where the two run on each other, the prediction shows in the gaps of the truth's line.
    line("under", outlines + error.truth), line("predicted", outlines), line("truth", error.truth));
}

/** The key to the lines of crops. */
const cropLegend = () => el("ul", { class: "legend crops" },
  [["truth", "broken line: the true object"], ["predicted", "solid line: what is predicted"]].map(([kind, words]) =>
    el("li", {}, svg("svg", { class: "crop key", viewBox: "0 0 48 20", width: 24, height: 10, "aria-hidden": "true" }, svg("path", { class: kind, d: "M2 10H46" })), words)));

/** An error as a button that opens its image; `beside`: another model, whose answer at the same place stands beside it. */
function errorTile(error, open, beside = null) {
  const answer = beside === null ? null : error.beside[beside];
  const other = beside === null ? "" : `${data.models[beside].label}: ${answer ? answer[0] : "kept no predictions"}`;
  const words = [error.iou === null ? null : `IoU ${fixed(error.iou, 2)}`, wins(error.gain), `image ${error.image}`].filter(Boolean).join(" · ");
  return el("li", {}, el("button", { type: "button", class: "tile", "data-image": error.image, onclick: () => open(error) },
    el("span", { class: "crops" },
      cropPicture(error, error.predicted, `${data.models[error.model].label}: ${errorName(error)}`),
      beside === null ? null : cropPicture(error, answer ? answer[1] : "", other)),
    el("span", { class: "words" }, el("strong", {}, errorName(error)), " ", words),
    beside === null ? null : el("span", { class: "words quiet" }, markerIcon(beside), other)));
}

/** Opens the image of an error, or says how it comes into the page. */
function errorOpener(gallery, said) {
  return (error) => {
    said.replaceChildren();
    if (gallery?.has(error.image)) return gallery.openError(error);
    said.replaceChildren(`Image ${error.image} is not among the examples of this file. To add it: `, command(`${data.command} --image ${error.image}`));
    said.scrollIntoView({ block: "nearest" });
  };
}

/** A choice of the model whose errors are shown; none where there is only one. */
function modelChoice(label, held, chosen, onchoose) {
  if (held.length < 2) return null;
  return select(label, held.map((model) => [model, data.models[model].label]), chosen, onchoose).node;
}

/** What to fix first in a model: rows by what mending them would win, with six errors of each. */
function fixView(container, gallery) {
  const held = data.models.map((_, model) => model).filter((model) => data.fixes[model].length);
  if (!held.length) return container.append(el("p", { class: "note" }, "There is no error to fix."));
  const list = el("ol", { class: "fixes" });
  const said = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, said);
  const show = (model) => {
    const own = data.wall.errors.filter((error) => error.model === model);
    list.replaceChildren(...data.fixes[model].map((row) => {
      const crops = own.filter((error) => ["cause", "category", "size"].every((key) => error[key] === row[key])).slice(0, 6);
      const interval = row.low === null ? "" : `[${percent(row.low, 2)}, ${percent(row.high, 2)}]`;
      const errors = row.errors === 1 ? "1 error" : `${whole(row.errors)} errors in ${whole(row.images)} ${row.images === 1 ? "image" : "images"}`;
      return el("li", {},
        el("h3", {}, el("span", { class: "won" }, wins(row.gain), interval ? el("small", { class: "quiet" }, ` ${interval}`) : null), ` ${errorName(row)} `, el("small", { class: "quiet" }, errors)),
        crops.length ? rove(el("ul", { class: "tiles small" }, crops.map((error) => errorTile(error, open)))) : null);
    }));
  };
  container.append(...[el("div", { class: "bar" }, modelChoice("Fix first in", held, held[0], show)), data.wall.errors.length ? cropLegend() : null, said, list].filter(Boolean));
  show(held[0]);
}

/** The wall: errors of a model, the dearest first, by cause, category, size and slice, beside what another model has. */
function errorWall(container, gallery) {
  const held = data.models.map((_, model) => model).filter((model) => data.wall.errors.some((error) => error.model === model));
  const state = { model: held[0], beside: held[1] ?? null, cause: null, category: null, size: null, slice: null, shown: WALL_PAGE };
  const tiles = rove(el("ul", { class: "tiles" }));
  const said = el("p", { class: "note", role: "status", "aria-live": "polite" });
  const opened = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, opened);
  const more = el("button", { type: "button", onclick: () => { state.shown += WALL_PAGE; list(); } }, "More errors");
  const change = (name) => (value) => { state[name] = value; state.shown = WALL_PAGE; list(); };
  const any = (options) => [[null, "any"], ...options];
  const present = (key) => [...new Set(data.wall.errors.map((error) => error[key]))].sort((a, b) => a - b);
  const besideBox = held.length > 1 ? select("Beside", [[null, "no other"], ...held.map((model) => [model, data.models[model].label])], state.beside, change("beside")) : null;
  const boxes = [
    modelChoice("Errors of", held, state.model, (model) => {
      if (state.beside === model) { state.beside = held.find((other) => other !== model); besideBox.set(state.beside); }
      change("model")(model);
    }),
    besideBox?.node,
    select("Cause", any(present("cause").map((place) => [place, causeName(place)])), null, change("cause")).node,
    select("Category", any(present("category").map((place) => [place, categoryName(place)]).sort((a, b) => a[1].localeCompare(b[1]))), null, change("category")).node,
    select("Size", any(present("size").map((place) => [place, sizeNames()[place]])), null, change("size")).node,
    data.wall.slices.length ? select("Slice", any(data.wall.slices.map((name, place) => [place, name])), null, change("slice")).node : null,
  ];

  function list() {
    const own = data.wall.errors.filter((error) => error.model === state.model);
    const fits = own.filter((error) => ["cause", "category", "size"].every((key) => state[key] === null || error[key] === state[key])
      && (state.slice === null || error.slices.includes(state.slice)));
    const shown = fits.slice(0, state.shown);
    tiles.replaceChildren(...shown.map((error) => errorTile(error, open, state.beside === state.model ? null : state.beside)));
    more.hidden = shown.length === fits.length;
    const kept = `${whole(own.length)} of ${whole(data.wall.totals[state.model])} errors of ${data.models[state.model].label} are kept in this page`;
    said.replaceChildren(...(fits.length
      ? [`${kept}${fits.length < own.length ? `; ${whole(fits.length)} of them match` : ""}. Dearest first.`]
      : [`${kept}; none of them matches. For others: `, command(`panbench show errors ${data.models[state.model].run}`)]));
  }
  container.append(el("div", { class: "bar" }, boxes.filter(Boolean)), cropLegend(), said, opened, tiles, more);
  list();
}
