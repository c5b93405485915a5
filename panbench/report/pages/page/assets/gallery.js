// The examples: which images are shown, as thumbnails with their errors, and the viewer that shows one.

const PAGE = 24; // examples of a server that are listed at once

function createGallery(container) {
  const source = data.live ? servedImages() : packedImages();
  const { images, scores, withPictures, mapOf, photoOf } = source;
  const nothing = { category: null, cause: null, verdict: null, model: null, slice: null, low: null, high: null, differ: null, taken: null, only: null, lead: null, offset: 0 };
  const state = { ...nothing, order: source.orders[0][0], image: -1 };
  let found = [], total = 0, asked = 0, works = 0, opened = 0;

  const thumbs = rove(el("ul", { class: "thumbs" }));
  const status = el("span", { class: "listed", role: "status", "aria-live": "polite" });
  const busy = el("span", { class: "busy", role: "status", "aria-live": "polite" });
  const chip = el("span", { class: "chip" });
  const change = (name) => (value) => { choose({ ...state, [name]: value, offset: 0 }); again(); };
  const any = (options) => [[null, "any"], ...options];
  const named = [...source.categories].sort((a, b) => categoryName(a).localeCompare(categoryName(b)));
  const boxes = {
    category: select("Category", any(named.map((category) => [category, categoryName(category)])), null, change("category")),
    cause: select("Error", any(source.causes.map((name) => [name, name])), null, change("cause")),
  };
  if (source.live) {
    boxes.verdict = select("Segments", any([["FN", "missed"], ["FP", "false"], ["TP", "found"]]), null, change("verdict"));
    if (data.models.length > 1) boxes.model = select("Of", any(data.models.map(({ label }, model) => [model, label])), null, change("model"));
    boxes.slice = select("Slice", any(source.slices), null, change("slice"));
    boxes.low = amount("IoU from", 1, change("low"));
    boxes.high = amount("to", 1, change("high"));
    if (data.models.length > 1) boxes.differ = amount("PQ apart by", 100, change("differ"), "points");
  }
  if (data.models.length > 1) boxes.only = { ...select("Found by", [[null, "any"], ["a", "the model alone"], ["b", "the other alone"]], null, (value) => (value ? followOnly(value === "a" ? [pair.a, pair.b] : [pair.b, pair.a]) : showAll())), set: () => {} };
  boxes.order = select("Order", source.orders, state.order, change("order"));
  const pages = el("div", { class: "bar pages", hidden: true },
    el("button", { type: "button", onclick: () => turn(-1) }, "← Earlier"),
    el("button", { type: "button", onclick: () => turn(1) }, "Later →"));

  /** Asks for other images, of which the viewer shows what is spoken of: of itself the lead, else what was chosen. */
  function choose(changes, spoken = null) {
    Object.assign(state, nothing, changes);
    for (const [name, box] of Object.entries(boxes)) box.set(state[name]);
    remember();
    viewer.speakOf(spoken ?? (state.lead ? spokenOf(state.lead.key) : spokenOfQuery(state)));
  }

  function again() {
    if (state.image >= 0) viewer.show(state.image);
    return list();
  }

  /** A page of a server keeps what was asked for in its address. */
  function remember() {
    if (source.live) address.write({ find: new URLSearchParams({ ...wordsOf(state), ...(state.offset ? { offset: state.offset } : {}) }).toString() });
  }

  function turn(by) {
    state.offset = Math.max(0, state.offset + by * PAGE);
    remember();
    return list();
  }

  // Thumbnails are painted when they come near: decoding all at once would hold up the page.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      paintThumb(target);
    }
  }, { rootMargin: "300px" });

  /** The model whose errors the thumbnail of an image shows: the one that is spoken of, else the page's. */
  function shownModel(index) {
    const spoken = viewer.spokenModel();
    for (const model of [spoken, pair.a]) if (model !== null && images[index].layers[1 + model]) return model;
    return withPictures.find((model) => images[index].layers[1 + model]);
  }

  function paintThumb(canvas) {
    const index = Number(canvas.dataset.index);
    const photo = new Image();
    photo.onload = () => {
      const image = images[index]; // by now perhaps the whole of it, of which another model is shown
      const width = 264, height = Math.round((width * image.height) / image.width);
      const picture = compose(image, 1 + shownModel(index), mapOf, photo, width, height, {});
      // The whole of it: what was missed may lie at an edge.
      const scale = Math.min(1, 184 / height);
      canvas.getContext("2d").drawImage(picture, (canvas.width - scale * width) / 2, (canvas.height - scale * height) / 2, scale * width, scale * height);
    };
    photo.src = images[index].photo;
  }

  /** Says that the server is at work, which is seen once it has taken a fifth of a second; gives what ends it. */
  function working() {
    const turn = ++works;
    container.setAttribute("aria-busy", "true");
    busy.textContent = "Looking…";
    return () => {
      if (turn !== works) return;
      container.removeAttribute("aria-busy");
      busy.textContent = "";
    };
  }

  /** Lists what fits the choices; `first`: "last" shows the last one of them. */
  async function list(first) {
    const turn = ++asked;
    const done = working(), answer = await source.find(state, state.offset, PAGE);
    if (turn !== asked) return;
    done();
    ({ found, total } = answer);
    const { all, faults = [] } = answer;
    const images_ = (number) => (number === 1 ? "1 image" : `${whole(number)} images`);
    const range = source.live && total > PAGE ? ` (${whole(state.offset + 1)}–${whole(Math.min(total, state.offset + PAGE))} shown)` : "";
    status.textContent = (total === all ? images_(total) : `${whole(total)} of ${images_(all)}`) + range;
    pages.hidden = !source.live || total <= PAGE;
    pages.children[0].disabled = state.offset === 0;
    pages.children[1].disabled = state.offset + PAGE >= total;
    const title = state.lead?.title ?? (state.taken ? takenTitle() : state.only ? onlyTitle(...state.only.split(":").map(Number)) : null);
    chip.replaceChildren(...(title ? [title, " ", el("button", { type: "button", onclick: showAll }, "Show all")] : []));
    thumbs.replaceChildren(...faults.map((fault) => el("li", { class: "fault" }, fault)), ...found.map((index) => {
      const image = images[index];
      const canvas = el("canvas", { "data-index": index, width: 264, height: 184, "aria-hidden": "true" });
      near.observe(canvas);
      return el("li", {}, el("button", {
        type: "button", "data-image": image.id, "aria-current": index === state.image ? "true" : null,
        onclick: () => open(image.id),
      },
      canvas,
      el("span", {}, el("strong", {}, image.name ?? image.id), scores[index].map((value, model) => [" ", el("span", {}, markerIcon(model), el("span", { class: "hidden" }, `${data.models[model].label} PQ `), percent(value, 0))])),
      el("span", { class: "errors" }, modelLabel(shownModel(index)), `: ${errorsInWords(image, shownModel(index))}`)));
    }));
    if (!found.length && !faults.length) thumbs.replaceChildren(el("li", {}, source.live ? "No image matches." : "No example matches."));
    else if (found.length && (first || !found.includes(state.image))) await show(images[first === "last" ? found.at(-1) : found[0]].id);
  }

  function showAll() {
    address.write({ lead: null });
    choose({});
    again();
  }

  /** The images in which the first of two models finds what the second does not. */
  function followOnly(models) {
    const key = `only:${models.join(":")}`;
    if (data.live || data.leads[key]) return follow(key, onlyTitle(...models));
    status.textContent = `No example in which ${data.models[models[0]].label} finds what ${data.models[models[1]].label} does not.`;
  }

  function takenTitle() {
    const [true_, predicted] = state.taken.split(":").map(Number);
    return `${categoryName(true_)} taken for ${categoryName(predicted)}`;
  }

  const viewer = createViewer({ images, scores, withPictures, mapOf, photoOf, onstep: async (by) => {
    if (!found.length) return;
    const at = found.indexOf(state.image) + by;
    if (source.live && total > PAGE && (at < 0 || at >= found.length)) {
      const last = PAGE * Math.floor((total - 1) / PAGE);
      state.offset = at < 0 ? (state.offset ? state.offset - PAGE : last) : state.offset + PAGE > last ? 0 : state.offset + PAGE;
      remember();
      await list(at < 0 ? "last" : "first");
    } else open(images[found[(at + found.length) % found.length]].id, false);
  } });

  /** Shows an image; of a server's, the whole of it is asked for first, and the last one that was asked for counts. */
  async function show(id) {
    const turn = ++opened, done = working();
    let index;
    try {
      index = await source.load(id);
    } catch (problem) {
      status.textContent = problem.message;
      return;
    } finally {
      done();
    }
    if (turn !== opened) return;
    state.image = index;
    for (const button of thumbs.querySelectorAll("button")) {
      if (button.dataset.image === String(id)) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    viewer.show(index);
  }

  /** Shows an image and goes to it; the address remembers it, so that Back leads to where the reader was. */
  async function open(id, go = true) {
    address.write({ image: id, lead: state.lead?.key, ...viewer.address(), zoom: null, place: null }, true);
    if (!source.live && !found.includes(source.load(id))) {
      choose({});
      await list();
    }
    await show(id);
    if (go) viewer.focus();
  }

  container.append(viewer.node, el("div", { class: "bar" }, ...Object.values(boxes).map((box) => box.node), status, busy, chip), thumbs, pages);
  pair.watch(() => { if (state.image >= 0 && !viewer.spokenModel()) viewer.lookAt(pair.a); list(); });

  /** Shows the images of a lead, the first of them in the viewer. */
  async function follow(key, title) {
    choose(source.live ? queryOfLead(key) : { lead: { key, title } }, spokenOf(key));
    await list();
    if (found.length) return open(images[found[0]].id);
  }

  /** Opens the image of an error of the wall, in the model that made it, with what belongs to the error lit. */
  async function openError({ image, model, cause, category, box }) {
    choose({}, { ...OPEN, model, cause: causeName(cause), category, box });
    await list();
    return open(image);
  }

  /** Restores the state of the address; returns whether its image exists. */
  async function restore(wanted) {
    const lead = wanted.lead && data.leads[wanted.lead] ? { key: wanted.lead, title: "Chosen images" } : null;
    const words = source.live ? { order: source.orders[0][0], ...Object.fromEntries(new URLSearchParams(wanted.find ?? "")) } : state;
    for (const name of ["category", "model", "low", "high", "differ", "offset"]) if (words[name]) words[name] = Number(words[name]);
    choose({ ...words, lead }, errorOf(wanted));
    viewer.restore(wanted);
    await list();
    const id = Number(wanted.image);
    if (!wanted.image || !source.has(id)) return false;
    await show(id);
    viewer.look(wanted);
    return true;
  }

  list();
  return { has: source.has, open, openError, follow, restore, recolor: () => { viewer.recolor(); list(); }, figures: (place) => viewer.figures(place) };
}

/**
 * A stand-in for the gallery, which is made once the rest of the page has been painted: its pictures are most of the page
 * and take the longest to parse. What is asked of it before is done then; which images it has is known at once.
 */
function galleryLater(container) {
  const pictured = new Set(data.live ? data.images.ids : data.pictured);
  const made = new Promise((ready) => {
    setTimeout(() => {
      ready({ gallery: createGallery(container) });
      document.documentElement.dataset.ready = "";
    }, 50);
  });
  return new Proxy({ has: (id) => pictured.has(id) }, {
    get: (own, name) => own[name] ?? ((...words) => made.then(({ gallery }) => gallery[name](...words))),
  });
}
