// The examples: which images are shown, as thumbnails with their errors, and the viewer that shows one.

function createGallery(container) {
  const images = data.gallery;
  const several = data.models.length > 1;
  const placeOf = new Map(images.map((image, index) => [image.id, index]));
  const row = new Map(data.images.ids.map((id, index) => [id, index]));
  const scores = images.map((image) => data.images.PQ.map((of) => of[row.get(image.id)] ?? null));
  const withPictures = data.models.map((_, model) => model).filter((model) => images.some((image) => image.layers[1 + model]));
  const state = { category: null, cause: null, order: "chosen", lead: null, image: 0 };
  const maps = new Map();

  const mapOf = (image, number) => {
    const key = `${image.id},${number}`;
    if (!maps.has(key)) maps.set(key, decodeRuns(image.layers[number].runs, image.width * image.height));
    return maps.get(key);
  };
  const causesOf = (image) => new Set([
    ...image.layers.slice(1).flatMap((layer) => (layer ? layer.segments.map((segment) => segment.cause) : [])),
    ...image.answers.flatMap((answers) => (answers ? answers.map(([, , cause]) => cause) : [])),
  ].filter(Boolean));
  const categoriesOf = (image) => new Set(image.layers.flatMap((layer) => (layer ? layer.segments.map((segment) => segment.category) : [])));
  const known = (values) => values.filter((value) => value !== null);
  const mean = (values) => (known(values).length ? average(known(values)) : 2);
  const spread = (values) => (known(values).length > 1 ? Math.max(...known(values)) - Math.min(...known(values)) : -1);
  const present = [...new Set(images.flatMap((image) => [...categoriesOf(image)]))].filter((category) => category >= 0)
    .sort((a, b) => categoryName(a).localeCompare(categoryName(b)));
  const causes = data.causes.names.filter((name) => images.some((image) => causesOf(image).has(name)));

  const thumbs = rove(el("ul", { class: "thumbs" }));
  const status = el("span", { role: "status", "aria-live": "polite" });
  const chip = el("span", { class: "chip" });
  const byCategory = select("Category", [[null, "any"], ...present.map((category) => [category, categoryName(category)])], null, (value) => { state.category = value; list(); });
  const byCause = select("Error", [[null, "any"], ...causes.map((name) => [name, name])], null, (value) => { state.cause = value; list(); });
  const orders = [["chosen", "as chosen"], ["worst", "worst PQ"], ...(several ? [["differ", "largest disagreement"]] : []), ["best", "best PQ"]];
  const byOrder = select("Order", orders, "chosen", (value) => { state.order = value; list(); });

  function listed() {
    const among = state.lead ? (data.leads[state.lead.key] ?? []).map((id) => placeOf.get(id)) : images.map((_, index) => index);
    const found = among.filter((index) =>
      (state.category === null || categoriesOf(images[index]).has(state.category)) &&
      (state.cause === null || causesOf(images[index]).has(state.cause)));
    const keys = { worst: (index) => mean(scores[index]), differ: (index) => -spread(scores[index]), best: (index) => -mean(scores[index]) };
    const key = keys[state.order];
    return key ? found.sort((a, b) => key(a) - key(b)) : found;
  }

  // Thumbnails are painted when they come near: decoding all at once would hold up the page.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      paintThumb(target);
    }
  }, { rootMargin: "300px" });

  /** The errors of the model that does worst on the image. */
  function paintThumb(canvas) {
    const image = images[Number(canvas.dataset.index)];
    const worst = withPictures.filter((model) => image.layers[1 + model]).sort((a, b) => (scores[Number(canvas.dataset.index)][a] ?? 1) - (scores[Number(canvas.dataset.index)][b] ?? 1))[0];
    const photo = new Image();
    photo.onload = () => {
      const width = 264, height = Math.round((width * image.height) / image.width);
      const picture = compose(image, 1 + worst, mapOf(image, 1 + worst), photo, width, height, { view: wholeView(image), style: { color: "verdict", opacity: 0.5, outlined: false } });
      canvas.width = width;
      canvas.height = 184;
      canvas.getContext("2d").drawImage(picture, 0, (canvas.height - height) / 2);
    };
    photo.src = image.photo;
  }

  function list() {
    const found = listed();
    status.textContent = found.length === images.length ? `${found.length} images` : `${found.length} of ${images.length} images`;
    chip.replaceChildren(...(state.lead ? [state.lead.title, " ", el("button", { type: "button", onclick: () => { state.lead = null; address.write({ lead: null }); list(); } }, "Show all")] : []));
    thumbs.replaceChildren(...found.map((index) => {
      const image = images[index];
      const canvas = el("canvas", { "data-index": index, width: 264, height: 184, "aria-hidden": "true" });
      near.observe(canvas);
      return el("li", {}, el("button", {
        type: "button", "data-image": image.id, "aria-current": index === state.image ? "true" : null,
        onclick: () => open(image.id),
      },
      canvas,
      el("span", {}, el("strong", {}, image.id), scores[index].map((value, model) => [" ", markerIcon(model), el("span", { class: "hidden" }, `${data.models[model].label} PQ `), percent(value, 0)])),
      el("span", { class: "why" }, state.lead ? "" : image.why[0], !state.lead && image.why.length > 1 ? ` and ${image.why.length - 1} more` : "")));
    }));
    if (!found.length) thumbs.replaceChildren(el("li", {}, "No example matches."));
    else if (!found.includes(state.image)) show(found[0]);
  }

  const viewer = createViewer({ images, scores, withPictures, mapOf, onstep: (by) => {
    const found = listed();
    const at = found.indexOf(state.image);
    if (found.length) open(images[found[(at + by + found.length) % found.length]].id, false);
  } });

  function show(index) {
    state.image = index;
    for (const button of thumbs.querySelectorAll("button")) {
      if (button.dataset.image === String(images[index].id)) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    viewer.show(index);
  }

  /** Shows an image and goes to it; the address remembers it, so that Back leads to where the reader was. */
  function open(id, go = true) {
    const index = placeOf.get(id);
    address.write({ image: id, lead: state.lead?.key, ...viewer.address() }, true);
    if (!listed().includes(index)) {
      state.category = state.cause = state.lead = null;
      byCategory.set(null);
      byCause.set(null);
      list();
    }
    show(index);
    if (go) viewer.focus();
  }

  container.append(el("div", { class: "bar" }, byCategory.node, byCause.node, byOrder.node, status, chip), thumbs, viewer.node);
  list();
  show(0);

  return {
    has: (id) => placeOf.has(id),
    open,
    /** Shows the images of a lead, the first of them in the viewer. */
    follow: (key, title) => {
      const first = data.leads[key][0];
      state.lead = { key, title };
      state.category = state.cause = null;
      byCategory.set(null);
      byCause.set(null);
      list();
      open(first);
    },
    /** As the address says; without an image nothing changes. */
    restore: (wanted) => {
      if (wanted.lead && data.leads[wanted.lead]) state.lead = { key: wanted.lead, title: "Chosen images" };
      else state.lead = null;
      viewer.restore(wanted);
      const id = Number(wanted.image);
      list();
      if (wanted.image && placeOf.has(id)) show(placeOf.get(id));
      return Boolean(wanted.image && placeOf.has(id));
    },
    recolor: () => { viewer.recolor(); list(); },
    figures: (place) => viewer.figures(place),
  };
}
