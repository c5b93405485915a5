// The viewer: one image with its ground truth and each model's answer, beside each other or parted by a divider.

const ZOOM_MOST = 12;
const CUT = 0.1; // the model is seen whole but for a margin of truth
const PRINTED = 6;

/** Columns for so many panes of which `most` fit beside each other: rows are of one length as far as may be. */
const columnsFor = (count, most) => Math.ceil(count / Math.ceil(count / most));

function createViewer({ images, scores, withPictures, mapOf, photoOf, onstep }) {
  const state = {
    image: 0, left: TRUTH, right: 1 + (withPictures.includes(pair.a) ? pair.a : withPictures[0]), mode: "divider", color: "errors",
    cut: CUT, lit: [], zoom: 1, center: [0.5, 0.5], spoken: null, places: [], place: 0,
  };
  // waiting: for the photograph of the image; until it is there, the picture before stays as it is.
  let photo = null, waiting = true, drawn = 0, width = 0, repaint = () => {};

  const heading = el("h3", { id: "viewer-title" });
  const about = el("p", { class: "note about" });
  const stage = el("div", { class: "stage-place" });
  const lists = el("div", { class: "lists" });
  const layerNames = [[PHOTO, "Image"], [TRUTH, "Ground truth"], ...withPictures.map((model) => [1 + model, data.models[model].label])];
  const remember = () => address.write(fromState());
  const change = (name) => (value) => { state[name] = value; remember(); render(); };
  const boxes = {
    left: select("Left", layerNames, state.left, change("left")),
    right: select("Right", layerNames, state.right, change("right")),
    mode: choice("View", [["divider", "Divider"], ["side", "Side by side"]], state.mode, change("mode")),
    color: choice("Colours", [["errors", "Errors"], ["categories", "Categories"]], state.color, change("color")),
  };
  const set = (name, value) => { state[name] = value; boxes[name].set(value); };
  const sides = el("span", { class: "bar", style: { margin: "0" } }, boxes.left.node, boxes.right.node);
  const zoomSaid = el("span", { class: "quiet zoomed" }, "1×");
  const zoomBox = rove(el("span", { class: "group", role: "group", "aria-label": "Zoom" },
    el("button", { type: "button", "aria-label": "Zoom out", onclick: () => zoomBy(1 / 1.5) }, "−"),
    el("button", { type: "button", "aria-label": "Zoom in", onclick: () => zoomBy(1.5) }, "+"),
    el("button", { type: "button", onclick: () => { state.zoom = 1; state.center = [0.5, 0.5]; zoomed(); } }, "Fit")));
  const link = copier("Copy link", () => {
    address.write({ image: images[state.image].id, ...fromState() });
    return location.href;
  }, "It is in the address bar");
  const placeSaid = el("span", { role: "status", "aria-live": "polite" });
  const placeBar = el("span", { class: "bar places", hidden: true },
    el("button", { type: "button", title: "Key: p", onclick: () => walk(-1) }, "← Previous error"),
    el("button", { type: "button", title: "Key: n", onclick: () => walk(1) }, "Next error →"), placeSaid);
  const node = el("div", { class: "viewer", id: "viewer", role: "group", "aria-labelledby": "viewer-title", tabindex: -1 },
    heading, stage,
    el("div", { class: "bar controls" },
      el("button", { type: "button", title: "Key: ←", onclick: () => onstep(-1) }, "← Previous"),
      el("button", { type: "button", title: "Key: →", onclick: () => onstep(1) }, "Next →"),
      boxes.mode, sides, boxes.color, zoomBox, zoomSaid),
    placeBar, kindLegend(), about, lists);

  // On a telephone an error fills the screen.
  const narrow = matchMedia("(max-width: 700px)");
  const full = el("dialog", { class: "full", "aria-labelledby": "viewer-title", onclose: () => {
    full.replaceWith(node);
    document.body.append(tooltip);
    render();
  } });
  function fillScreen() {
    set("mode", "divider");
    node.replaceWith(full);
    full.replaceChildren(el("button", { type: "button", onclick: () => full.close() }, "Close"), node, tooltip);
    full.showModal();
    zoomTo(state.place);
    render();
  }

  const runOf = (number) => (number === PHOTO ? "image" : number === TRUTH ? "truth" : data.models[number - 1].run);
  const layerOfRun = (name) => layerNames.map(([number]) => number).find((number) => runOf(number) === name);
  const fromState = () => ({
    view: state.mode, left: runOf(state.left), right: runOf(state.right), colours: state.color, error: state.spoken && JSON.stringify(given(state.spoken)), place: state.place || null,
    zoom: state.zoom > 1 ? [state.zoom, ...state.center].map((number) => number.toFixed(3)).join() : null,
  });

  const nameOf = (number) => layerNames.find(([other]) => other === number)[1];

  /** The model whose verdicts the ground truth shows: the one on the other side of the divider, else the chosen one. */
  function judge(image) {
    const sides = state.mode === "divider" ? [state.right - 1, state.left - 1] : [];
    return [...sides, pair.a, ...withPictures].find((model) => model >= 0 && image.answers[model]);
  }

  /** The layers that a pane or list can show of an image. */
  const held = (image) => layerNames.map(([number]) => number).filter((number) => number < TRUTH || image.layers[number]);

  const outcome = (image, number, index) => outcomeOf(image, number, index, judge(image));

  function verdictText(verdict, iou, cause) {
    const words = VERDICTS[verdict] ?? verdict ?? "";
    return words + (iou === null ? "" : `, IoU ${iou.toFixed(2)}`) + (cause && cause !== words ? ` (${cause})` : "") + (verdict && verdict !== "ignored" ? ` · ${verdict}` : "");
  }

  function describe(image, number, index) {
    const segment = outcome(image, number, index);
    const lines = [categoryName(segment.category) + (segment.crowd ? " (crowd)" : "")];
    if (segment.score !== null) lines.push(`score ${segment.score.toFixed(2)}`);
    if (number === TRUTH) {
      for (const model of withPictures) {
        const answer = image.answers[model]?.[index];
        if (answer) lines.push(`${data.models[model].label}: ${verdictText(...answer)}`);
      }
    } else if (segment.verdict) lines.push(verdictText(segment.verdict, segment.iou, segment.cause));
    lines.push(`${whole(segment.area)} pixels`);
    return lines.join("\n");
  }

  // ---- the part of the image that is shown ----------------------------------------------------------------------

  const aspect = (image) => (full.open ? stage.clientWidth / stage.clientHeight : aspectOf(image));
  const viewOf = (image) => viewAt(image, state.zoom, state.center[0] * image.width, state.center[1] * image.height, aspect(image));

  function see(image, view) {
    state.zoom = viewAt(image, 1, 0, 0, aspect(image)).width / view.width;
    state.center = [(view.x + view.width / 2) / image.width, (view.y + view.height / 2) / image.height];
  }

  /** Where an event is on a canvas, as fractions of it. */
  function partOf(canvas, event) {
    const area = canvas.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  }

  function zoomed() {
    sayZoom();
    repaint();
  }

  function sayZoom() {
    zoomSaid.textContent = `${state.zoom.toFixed(1).replace(".0", "")}×`;
    node.classList.toggle("zoomed-in", state.zoom > 1);
    node.dataset.zoom = state.zoom.toFixed(2);
  }

  /** Zooms by a factor; the point at [u, v] of the canvas (fractions) stays where it is. */
  function zoomBy(factor, u = 0.5, v = 0.5) {
    const image = images[state.image], before = viewOf(image);
    const zoom = Math.min(ZOOM_MOST, Math.max(1, state.zoom * factor));
    const left = state.zoom / zoom; // the share of the view that is seen after it
    see(image, viewAt(image, zoom, before.x + before.width * (u + (0.5 - u) * left), before.y + before.height * (v + (0.5 - v) * left), aspect(image)));
    zoomed();
  }

  /** Moves the view by fractions of itself. */
  function panBy(u, v) {
    const image = images[state.image], view = viewOf(image);
    see(image, viewAt(image, state.zoom, view.x + view.width * (0.5 + u), view.y + view.height * (0.5 + v), aspect(image)));
    repaint();
  }

  /** Wheel with Ctrl, pinch, drag and keys on a canvas. The wheel alone scrolls the page. */
  function navigable(canvas) {
    const fingers = new Map();
    const hint = el("span", { class: "hint", hidden: true, "aria-hidden": "true" }, "Ctrl + wheel zooms");
    let quiet = 0;
    canvas.tabIndex = 0;
    canvas.after(hint);
    const part = (event) => partOf(canvas, event);
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) {
        hint.hidden = false;
        clearTimeout(quiet);
        quiet = setTimeout(() => { hint.hidden = true; }, 1500);
        return;
      }
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...part(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, part(event));
      if (state.zoom > 1 || fingers.size > 1) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = [...fingers.values()], old = fingers.get(event.pointerId), now = part(event);
      fingers.set(event.pointerId, now);
      if (fingers.size === 1 && state.zoom > 1) panBy(old[0] - now[0], old[1] - now[1]);
      if (fingers.size === 2) {
        const far = (points) => Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]) || 1e-6;
        const after = [...fingers.values()];
        zoomBy(far(after) / far(before), (after[0][0] + after[1][0]) / 2, (after[0][1] + after[1][1]) / 2);
      }
    });
    for (const kind of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
      const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 1 / ZOOM_MOST }[event.key];
      if (!factor && !(step && state.zoom > 1)) return;
      event.preventDefault();
      if (factor) zoomBy(factor);
      else panBy(...step);
    });
  }

  /** The size of a canvas that fills `room` CSS pixels: sharp, but never so large that painting lags. */
  function sizeFor(image, room, highest = 0.72 * window.innerHeight) {
    const css = full.open ? room : Math.min(room, Math.max(220, highest) * aspectOf(image), 1100);
    const dense = Math.min(window.devicePixelRatio || 1, 1300 / css);
    const width = Math.max(1, Math.round(css * dense));
    return { css, width, height: Math.max(1, Math.round(width / aspect(image))) };
  }

  function composed(image, number, width, height, columns, top) {
    return compose(image, number, mapOf, photo, width, height, { columns, top, view: viewOf(image), color: state.color, judge: judge(image), lit: state.lit.length ? state.lit : state.places[state.place] ?? [] });
  }

  // ---- the places that a lead speaks of -------------------------------------------------------------------------

  /** From now on images show the places that a lead speaks of (leads.js), in its model, by verdict; null: none. */
  function speakOf(spoken) {
    state.spoken = spoken;
    if (!spoken) return setPlaces([]);
    set("color", "errors");
    lookAt(spoken.model);
    // What the first finds and the second does not: the second beside the first.
    if (spoken.only) spoken.only.split(":").forEach((model, place) => set(["left", "right"][place], 1 + Number(model)));
  }

  /** Puts a model beside a margin of the truth. */
  function lookAt(model) {
    if (!withPictures.includes(model)) return;
    state.cut = CUT;
    set("left", TRUTH);
    set("right", 1 + model);
  }

  /** Finds the places of an image, in the model that is spoken of or, where none is, in the first that shows any. */
  function findPlaces(image) {
    if (!state.spoken) return setPlaces([]);
    const first = state.spoken.model ?? judge(image);
    const models = state.spoken.model === null ? [first, ...withPictures] : [first];
    const found = models.map((model) => [model, placesOf(image, mapOf, state.spoken, model)]).find(([, places]) => places.length);
    if (found && state.spoken.model === null) lookAt(found[0]);
    setPlaces(found ? found[1] : []);
  }

  function setPlaces(places) {
    state.places = places;
    placeBar.hidden = !places.length && !full.open;
    placeSaid.textContent = "None in this image";
    if (places.length) zoomTo(0);
  }

  /** Shows a place so large that it can be seen, and says what it is. */
  function zoomTo(at) {
    const image = images[state.image], box = boxAround(image, mapOf, state.places[at]) ?? boxOf(image, state.spoken.box);
    see(image, viewAround(image, box, ZOOM_MOST, aspect(image)));
    state.place = at;
    placeSaid.textContent = `${at + 1} of ${state.places.length}: ${placeInWords(image, state.places[at], judge(image))}`;
  }

  /** The next place, or the one before; beyond the last of an image those of the next image. */
  function walk(by) {
    const at = state.place + by;
    if (!state.places[at]) return onstep(by);
    zoomTo(at);
    remember();
    zoomed();
    markLines();
  }

  node.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, .group, .lists")) return;
    const error = state.places.length ? { n: 1, p: -1 }[event.key] : undefined, image = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!error && !image) return;
    event.preventDefault();
    if (error) walk(error);
    else onstep(image);
  });

  // ---- drawing --------------------------------------------------------------------------------------------------

  function show(index) {
    state.image = index;
    state.lit = [];
    state.zoom = 1;
    state.center = [0.5, 0.5];
    const image = images[index];
    heading.textContent = `Image ${image.name ?? image.id}`;
    about.replaceChildren(`${image.file} · PQ: `,
      ...data.models.flatMap((_, model) => [el("span", {}, model ? ", " : "", modelLabel(model), ` ${percent(scores[index][model])}`)]), " ", link);
    findPlaces(image);
    for (const side of ["left", "right"]) {
      if (state[side] > 0 && !image.layers[state[side]]) set(side, 1 + withPictures.find((model) => image.layers[1 + model]));
    }
    node.dataset.image = image.id;
    node.setAttribute("aria-busy", "true");
    waiting = true;
    const next = photoOf(image), turn = ++drawn;
    next.decode().then(() => {
      if (turn !== drawn) return;
      photo = next;
      waiting = false;
      node.removeAttribute("aria-busy");
      render();
    }, () => turn === drawn && sayUnreadable(image));
  }

  /** Says that the photograph of an image cannot be shown, in place of the picture and the lists of the image before. */
  function sayUnreadable(image) {
    hideTooltip();
    repaint = () => {};
    node.removeAttribute("aria-busy");
    stage.replaceChildren(el("p", { class: "note", role: "alert" }, `The photograph of image ${image.name ?? image.id} could not be loaded.`));
    lists.replaceChildren();
  }

  function render() {
    if (waiting) return;
    width = stage.clientWidth; // all is drawn for it: the observer below need not draw it once more
    hideTooltip();
    sides.hidden = state.mode === "side";
    if (state.mode === "divider") renderDivider(images[state.image]);
    else renderSide(images[state.image]);
    renderLists(images[state.image]);
    markLines();
    sayZoom();
  }

  function renderDivider(image) {
    const { css, width, height } = sizeFor(image, stage.clientWidth);
    const canvas = el("canvas", { width, height, role: "img", "aria-label": `${nameOf(state.left)} to the left of the divider, ${nameOf(state.right)} to the right; plus and minus zoom, arrow keys move; the segments are listed below` });
    const handle = el("input", { type: "range", step: "any", "aria-label": "Divider", oninput: () => { state.cut = handle.value / 100; paint(); }, onpointerdown: hideTooltip });
    const left = el("span", { class: "corner left" }, nameOf(state.left)), right = el("span", { class: "corner right" }, nameOf(state.right));
    const box = el("div", { class: "stage", style: { width: `${css}px` } }, canvas, left, right, handle, el("span", { class: "divider" }));
    const narrowest = images.reduce((least, one) => Math.min(least, aspectOf(one)), Infinity); // what follows stays in its place
    stage.style.minHeight = full.open ? "" : `${Math.round(Math.min(stage.clientWidth / Math.max(narrowest, 4 / 3), 0.72 * window.innerHeight))}px`;
    // Of each side what is painted of it, and its columns: at first those that are seen, all once the divider is moved.
    let parts = [null, null];

    function paint() {
      const context = canvas.getContext("2d"), cut = Math.round(state.cut * width);
      [[state.left, 0, cut], [state.right, cut, width]].forEach(([number, from, to], side) => {
        if (from === to) return;
        const columns = parts[side] ? [0, width] : [from, to];
        if (!parts[side] || parts[side].from > from || parts[side].to < to) parts[side] = { from: columns[0], to: columns[1], picture: composed(image, number, width, height, columns, (36 * width) / css) }; // below the corners
        context.drawImage(parts[side].picture, from, 0, to - from, height, from, 0, to - from, height);
      });
      handle.value = 100 * state.cut;
      box.style.setProperty("--cut", `${100 * state.cut}%`);
      handle.setAttribute("aria-valuetext", `${Math.round(100 * state.cut)} percent ${nameOf(state.left)}`);
    }
    repaint = () => {
      parts = [null, null];
      paint();
    };
    hover(canvas, image, (part) => (part < state.cut ? state.left : state.right), false);
    navigable(canvas);
    repaint();
    stage.replaceChildren(box);
  }

  function renderSide(image) {
    stage.style.minHeight = "";
    const numbers = held(image), all = stage.clientWidth;
    const columns = columnsFor(numbers.length, Math.max(1, Math.floor((all + 12) / 292)));
    const grid = el("div", { class: "panes", style: { "grid-template-columns": `repeat(${columns}, minmax(0, 1fr))` } });
    stage.replaceChildren(grid);
    const panes = numbers.map((number) => {
      const head = el("h4", {}, number > 0 ? modelLabel(number - 1) : nameOf(number));
      const pane = el("div", { class: "pane" }, head, el("p", { class: "note counts" }, ...counts(image, number)));
      grid.append(pane);
      return pane;
    });
    // As report.css divides it: asking a pane would lay out the page once more.
    const room = Math.floor((all - 12 * (columns - 1)) / columns);
    const painters = numbers.map((number, place) => {
      const { css, width, height } = sizeFor(image, room, 520);
      const canvas = el("canvas", { width, height, role: "img", "aria-label": `${nameOf(number)}; plus and minus zoom, arrow keys move` });
      const cross = el("span", { class: "cross", hidden: true });
      panes[place].append(el("div", { class: "stage", style: { width: `${css}px`, margin: "0" } }, canvas, cross));
      hover(canvas, image, () => number, true);
      navigable(canvas);
      return () => canvas.getContext("2d").drawImage(composed(image, number, width, height), 0, 0);
    });
    repaint = () => painters.forEach((paint) => paint());
    repaint();
  }

  /** What a pane's head says: PQ, and how many segments have which verdict. */
  function counts(image, number) {
    if (number === PHOTO) return [`${image.width} × ${image.height}`];
    const parts = Object.entries(tallyOf(image, number, judge(image))).filter(([, count]) => count).map(([verdict, count]) => `${count} ${VERDICTS[verdict]}`);
    const first = number === TRUTH ? el("span", {}, "by ", modelLabel(judge(image)), ": ") : el("strong", {}, `PQ ${percent(scores[state.image][number - 1])} `);
    return [first, parts.join(", ")];
  }

  /** Shows what lies under the pointer; `linked`: in every pane, with a cross at the same place. */
  function hover(canvas, image, layerAt, linked) {
    const numbers = linked ? layerNames.map(([number]) => number).filter((number) => number >= 0 && image.layers[number]) : null;
    function tell(event) {
      const view = viewOf(image), [u, v] = partOf(canvas, event);
      const x = Math.floor(view.x + u * view.width), y = Math.floor(view.y + v * view.height);
      const number = layerAt(u);
      if ((number === PHOTO && !linked) || x < 0 || y < 0 || x >= image.width || y >= image.height) return clear();
      const value = (layer) => mapOf(image, layer)[y * image.width + x] - 1, truth = value(TRUTH);
      /** Whether a model missed the true segment that is here. */
      const missed = (layer) => layer > TRUTH && truth >= 0 && image.answers[layer - 1][truth][0] === "FN";
      if (!linked) {
        const lines = [nameOf(number), value(number) < 0 ? "void: no segment" : describe(image, number, value(number))];
        if (missed(number)) {
          const { category, area, cause } = outcomeOf(image, TRUTH, truth, number - 1);
          lines.push(`missed: ${categoryName(category)}${cause === "missed" ? "" : ` (${cause})`}, ${whole(area)} pixels · FN`);
        }
        showTooltip(event, lines.join("\n"));
        return light([[number, value(number)], [TRUTH, missed(number) ? truth : -1]].filter(([, index]) => index >= 0));
      }
      showTooltip(event, numbers.map((layer) => {
        const segment = value(layer) < 0 ? null : outcome(image, layer, value(layer));
        const words = segment && layer > TRUTH ? `, ${verdictText(segment.verdict, segment.iou, segment.cause)}` : "";
        return `${nameOf(layer)}: ${segment ? categoryName(segment.category) : "void"}${words}${missed(layer) ? "; missed the true segment" : ""}`;
      }).join("\n"));
      for (const cross of stage.querySelectorAll(".cross")) {
        cross.hidden = cross.parentNode === canvas.parentNode;
        cross.style.left = `${100 * u}%`;
        cross.style.top = `${100 * v}%`;
      }
      light(numbers.filter((layer) => value(layer) >= 0).map((layer) => [layer, value(layer)]));
    }
    canvas.addEventListener("pointermove", (event) => { if (!event.buttons) tell(event); });
    canvas.addEventListener("click", tell);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
    function clear() {
      hideTooltip();
      for (const cross of stage.querySelectorAll(".cross")) cross.hidden = true;
      light([]);
    }
  }

  /** Makes segments [[layer, index], …] stand out in all pictures and in the lists. */
  function light(lit) {
    if (String(lit) === String(state.lit)) return;
    state.lit = lit;
    repaint();
    markLines();
  }

  function markLines() {
    const marked = new Set((state.lit.length ? state.lit : state.places[state.place] ?? []).map(String));
    for (const line of lists.querySelectorAll("tr[data-segment]")) line.classList.toggle("lit", marked.has(line.dataset.segment));
  }

  function renderLists(image) {
    const shown = state.mode === "divider" ? [...new Set([state.left, state.right])] : layerNames.map(([number]) => number);
    lists.replaceChildren(...[...new Set(shown)].filter((number) => number !== PHOTO && image.layers[number]).map((number) => {
      const layer = image.layers[number];
      const order = layer.segments.map((_, index) => index).sort((a, b) => layer.segments[b].area - layer.segments[a].area);
      const title = number > 0 ? modelLabel(number - 1) : ["Ground truth, and what became of it in ", modelLabel(judge(image))];
      return el("div", {}, el("h4", {}, title),
        rove(el("div", { class: "scroll", role: "region", "aria-label": `Segments: ${nameOf(number)}` },
          el("table", {},
            el("thead", {}, el("tr", {}, ["Segment", "Score", "IoU", "Verdict", "Pixels"].map((name, place) => el("th", { scope: "col", class: [1, 2, 4].includes(place) ? (place === 4 ? "number wide" : "number") : null }, name)))),
            el("tbody", {}, order.map((index) => segmentRow(image, number, index)),
              number > TRUTH ? missedBy(image, number - 1).map((index) => segmentRow(image, TRUTH, index, number - 1)) : [])))));
    }));
  }

  /** A line of a list. by: the model in whose eyes it is, where that is not the judge. */
  function segmentRow(image, number, index, by = judge(image)) {
    const segment = outcomeOf(image, number, index, by);
    const words = VERDICTS[segment.verdict];
    const set = (lit) => () => light(lit);
    const lit = [[number, index]];
    return el("tr", { "data-segment": `${number},${index}`, onpointerenter: set(lit), onpointerleave: set([]) },
      el("th", { scope: "row" }, el("span", { class: "swatch", style: { background: segment.color } }),
        el("button", { type: "button", class: "link", onfocus: set(lit), onblur: set([]), onclick: set(lit) }, categoryName(segment.category), segment.crowd ? " (crowd)" : "")),
      el("td", { class: "number" }, segment.score === null ? "–" : segment.score.toFixed(2)),
      el("td", { class: "number" }, segment.iou === null ? "–" : segment.iou.toFixed(2)),
      el("td", {}, segment.verdict ? kindSign(kindOf(segment), words + (segment.taken ? `: ${takenInWords(segment.taken)}` : segment.cause && segment.cause !== words ? `: ${segment.cause}` : "")) : "–"),
      el("td", { class: "number wide" }, whole(segment.area)));
  }

  new ResizeObserver(() => { if (stage.clientWidth !== width) render(); }).observe(stage);

  return {
    node,
    show,
    speakOf,
    lookAt: (model) => { lookAt(model); if (!waiting) render(); },
    spokenModel: () => state.spoken?.model ?? null,
    focus: () => {
      if (state.places.length && narrow.matches) return fillScreen();
      node.scrollIntoView({ block: "start", behavior: "instant" }); // crops that come meanwhile would lead an animation astray
      node.focus({ preventScroll: true });
    },
    address: fromState,
    restore: (wanted) => {
      full.close();
      if (wanted.view) set("mode", wanted.view === "side" ? "side" : "divider");
      if (wanted.colours) set("color", wanted.colours === "categories" ? "categories" : "errors");
      for (const side of ["left", "right"]) set(side, layerOfRun(wanted[side]) ?? state[side]);
      render();
    },
    /** Goes to the error and the part of the image that an address names. */
    look: (wanted) => {
      if (state.places[Number(wanted.place)]) zoomTo(Number(wanted.place));
      const [zoom, ...center] = (wanted.zoom ?? "").split(",").map(Number);
      if (zoom >= 1 && zoom <= ZOOM_MOST && center.length === 2 && center.every((number) => number >= 0 && number <= 1)) [state.zoom, state.center] = [zoom, center];
      zoomed();
    },
    recolor: render,
    /** Figures for print: the first examples, each layer with its verdicts. */
    figures: (place) => images.slice(0, PRINTED).forEach((image, index) => {
      const figure = el("figure", {});
      place.append(figure);
      const picture = new Image();
      picture.onload = () => {
        const panes = layerNames.map(([number]) => number).filter((number) => number === PHOTO || (number >= TRUTH && image.layers[number]));
        figure.append(el("div", { class: "strip", style: { "grid-template-columns": `repeat(${columnsFor(panes.length, 8)}, 1fr)` } }, panes.map((number) => {
          const width = 360, height = Math.round((width * image.height) / image.width);
          const canvas = compose(image, number, mapOf, picture, width, height, { color: number === TRUTH ? "categories" : "errors" });
          return el("div", {}, canvas, el("span", {}, number > 0 ? [modelLabel(number - 1), ` PQ ${percent(scores[index][number - 1])}: ${errorsInWords(image, number - 1)}`] : nameOf(number)));
        })), el("figcaption", {}, `Image ${image.name ?? image.id} (${image.file}).`));
      };
      picture.src = image.photo;
    }),
  };
}
