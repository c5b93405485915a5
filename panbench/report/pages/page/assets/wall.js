// Single errors, cut out of their images: what to fix first with six of each row, and the wall of the dearest.

const WALL_PAGE = 24; // crops that are listed at once

const sizeNames = () => data.wall.sizes;
const causeName = (place) => data.causes.names[place];
/** What an error or a row is, as Python says it: "missed person, small". */
const errorName = ({ cause, category, size }) => `${causeName(cause)} ${categoryName(category)}, ${sizeNames()[size]}`;
const wins = (gain, digits = 2) => `+${percent(gain, digits)}`;

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
  const { api, pictures, causes, categories, slices } = data.live;
  return {
    live: true,
    held: data.models.map((_, model) => model).filter((model) => pictures[model]),
    causes: causes.map((name) => data.causes.names.indexOf(name)), categories, sizes: sizeNames().map((_, place) => place), slices,
    find: async ({ model, beside, cause, category, size, slice }, offset, limit) => {
      const words = { model, beside, cause: cause === null ? null : causeName(cause), category, size: size === null ? null : sizeNames()[size], slice, offset, limit };
      const asked = Object.entries(words).filter(([, value]) => value !== null && value !== undefined);
      try {
        const answer = await fetch(`/api/errors?${api}&${new URLSearchParams(asked)}`);
        const said = await answer.json();
        if (!answer.ok) throw new Error(said.error);
        return said;
      } catch (problem) {
        return { errors: [], total: 0, all: 0, faults: [`The server did not answer: ${problem.message}`] };
      }
    },
  };
}

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
  const words = [error.iou === null ? null : `IoU ${fixed(error.iou, 2)}`, wins(error.gain), `image ${error.name ?? error.image}`].filter(Boolean).join(" · ");
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
    said.replaceChildren(`Image ${error.name ?? error.image} is not among the examples of this file. To add it: `, command(`${data.command} --image ${error.name ?? error.image}`));
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
  const source = errorSource();
  const list = el("ol", { class: "fixes" });
  const said = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, said);
  // A server is asked for the errors of a row when the row comes near.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      waiting.get(target)();
    }
  }, { rootMargin: "300px" });
  const waiting = new WeakMap();
  const show = (model) => {
    list.replaceChildren(...data.fixes[model].map((row) => {
      const interval = row.low === null ? "" : `[${percent(row.low, 2)}, ${percent(row.high, 2)}]`;
      const errors = row.errors === 1 ? "1 error" : `${whole(row.errors)} errors in ${whole(row.images)} ${row.images === 1 ? "image" : "images"}`;
      const item = el("li", {},
        el("h3", {}, el("span", { class: "won" }, wins(row.gain), interval ? el("small", { class: "quiet" }, ` ${interval}`) : null), ` ${errorName(row)} `, el("small", { class: "quiet" }, errors)));
      const put = ({ errors: crops }) => { if (crops.length) item.append(rove(el("ul", { class: "tiles small" }, crops.map((error) => errorTile(error, open))))); };
      const wanted = { model, beside: null, cause: row.cause, category: row.category, size: row.size, slice: null };
      if (!source.live) {
        const kept = source.find(wanted, 0, 6);
        put(kept);
        if (source.held.includes(model) && !kept.errors.length) item.append(el("p", { class: "note" }, "None of them is among the crops that this file has room for."));
      }
      else if (source.held.includes(model)) {
        waiting.set(item, () => source.find(wanted, 0, 6).then(put));
        near.observe(item);
      }
      return item;
    }));
  };
  container.append(...[el("div", { class: "bar" }, modelChoice("Fix first in", held, held[0], show)), source.held.length ? cropLegend() : null, said, list].filter(Boolean));
  show(held[0]);
}

function errorWall(container, gallery) {
  const source = errorSource(), { held } = source;
  const state = { model: held[0], beside: held[1] ?? null, cause: null, category: null, size: null, slice: null };
  const tiles = rove(el("ul", { class: "tiles" }));
  const said = el("p", { class: "note", role: "status", "aria-live": "polite" });
  const faults = el("div");
  const opened = el("p", { class: "note", role: "status" });
  const open = errorOpener(gallery, opened);
  const more = el("button", { type: "button", onclick: () => list(tiles.children.length) }, "More errors");
  const change = (name) => (value) => { state[name] = value; list(); };
  const any = (options) => [[null, "any"], ...options];
  const besideBox = held.length > 1 ? select("Beside", [[null, "no other"], ...held.map((model) => [model, data.models[model].label])], state.beside, change("beside")) : null;
  const boxes = [
    modelChoice("Errors of", held, state.model, (model) => {
      if (state.beside === model) { state.beside = held.find((other) => other !== model); besideBox.set(state.beside); }
      change("model")(model);
    }),
    besideBox?.node,
    select("Cause", any(source.causes.map((place) => [place, causeName(place)])), null, change("cause")).node,
    select("Category", any(source.categories.map((place) => [place, categoryName(place)]).sort((a, b) => a[1].localeCompare(b[1]))), null, change("category")).node,
    select("Size", any(source.sizes.map((place) => [place, sizeNames()[place]])), null, change("size")).node,
    source.slices.length ? select("Slice", any(source.slices), null, change("slice")).node : null,
  ];
  let turn = 0;

  /** Lists what fits, or, from an `offset` on, what follows the errors that are listed. */
  function list(offset = 0) {
    const now = ++turn, beside = state.beside === state.model ? null : state.beside;
    const put = (found) => { if (now === turn) show(found, offset, beside); };
    const found = source.find({ ...state, beside }, offset, WALL_PAGE);
    if (!source.live) return put(found);
    // Says that the server is at work, once that has taken a fifth of a second.
    const sign = setTimeout(() => { if (now === turn) said.textContent = "Looking…"; }, 200);
    container.setAttribute("aria-busy", "true");
    found.then((answer) => {
      clearTimeout(sign);
      if (now === turn) container.removeAttribute("aria-busy");
      put(answer);
    });
  }

  function show({ errors, total, all, faults: problems }, offset, beside) {
    const listed = errors.map((error) => errorTile(error, open, beside));
    // One crop can be read on half of a telephone; two beside each other need its width.
    tiles.classList.toggle("single", beside === null);
    if (offset) tiles.append(...listed);
    else tiles.replaceChildren(...listed);
    more.hidden = offset + errors.length + problems.length >= total || !errors.length;
    faults.replaceChildren(...problems.map((problem) => el("p", { class: "note" }, problem)));
    said.replaceChildren(...(source.live ? sayServed(total, all) : sayPacked(total, all)));
  }

  const sayServed = (total, all) => [total < all ? `${whole(total)} of ${whole(all)} errors of ${data.models[state.model].label} match.` : `${whole(all)} errors of ${data.models[state.model].label}.`, total ? " Dearest first." : ""];

  function sayPacked(total, all) {
    const kept = `${whole(all)} of ${whole(data.wall.totals[state.model])} errors of ${data.models[state.model].label} are kept in this page`;
    if (total) return [`${kept}${total < all ? `; ${whole(total)} of them match` : ""}. Dearest first.`];
    return [`${kept}; none of them matches. For others: `, command(`panbench show errors ${data.models[state.model].run}`)];
  }

  container.append(el("div", { class: "bar" }, boxes.filter(Boolean)), cropLegend(), said, faults, opened, tiles, more);
  if (!source.live) return list();
  // A server is asked once the wall comes near.
  new IntersectionObserver((entries, own) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    own.disconnect();
    list();
  }, { rootMargin: "600px" }).observe(container);
}
