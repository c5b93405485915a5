// The examples: thumbnails with filters, and a viewer with a draggable divider, outlined segments and their verdicts.

const VERDICTS = {
  TP: ["found", "found", "--found"],
  FP: ["false", "false positive", "--false"],
  FN: ["missed", "missed", "--missed"],
  ignored: ["ignored", "ignored", "--ignored"],
};
const PHOTO = -1, TRUTH = 0; // layers: -1 the photograph, 0 the ground truth, 1 + k the k-th model

/** The index map of a layer (0 = no segment) from its runs: pairs of value and length in base 128. */
function decodeRuns(text, size) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const map = new Uint16Array(size);
  let at = 0, place = 0;
  const next = () => {
    let number = 0, shift = 0, byte;
    do {
      byte = bytes[at++];
      number |= (byte & 127) << shift;
      shift += 7;
    } while (byte & 128);
    return number;
  };
  while (at < bytes.length) {
    const value = next(), length = next();
    if (value) map.fill(value, place, place + length);
    place += length;
  }
  return map;
}

const rgbOf = (color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));

function createGallery(container) {
  const images = data.gallery;
  const several = data.models.length > 1;
  const placeOf = new Map(images.map((image, index) => [image.id, index]));
  const row = new Map(data.images.ids.map((id, index) => [id, index]));
  const scores = images.map((image) => data.images.PQ.map((of) => of[row.get(image.id)] ?? null));
  const withPictures = data.models.map((_, model) => model).filter((model) => images.some((image) => image.layers[1 + model]));
  const state = {
    category: null, cause: null, order: "chosen", image: 0,
    left: TRUTH, right: 1 + withPictures[0], mode: "divider", color: "category", opacity: 0.55, outlined: true, cut: 0.5, lit: null,
  };
  const maps = new Map();

  // ---- which images ---------------------------------------------------------------------------------------------

  const causesOf = (image) => new Set([
    ...image.layers.slice(1).flatMap((layer) => (layer ? layer.segments.map((segment) => segment.cause) : [])),
    ...image.answers.flatMap((answers) => (answers ? answers.map(([, , cause]) => cause) : [])),
  ].filter(Boolean));
  const categoriesOf = (image) => new Set(image.layers.flatMap((layer) => (layer ? layer.segments.map((segment) => segment.category) : [])));
  const known = (values) => values.filter((value) => value !== null);
  const mean = (values) => (known(values).length ? known(values).reduce((a, b) => a + b, 0) / known(values).length : 2);
  const spread = (values) => (known(values).length > 1 ? Math.max(...known(values)) - Math.min(...known(values)) : -1);
  const present = [...new Set(images.flatMap((image) => [...categoriesOf(image)]))].filter((category) => category >= 0)
    .sort((a, b) => categoryName(a).localeCompare(categoryName(b)));
  const causes = data.causes.names.filter((name) => images.some((image) => causesOf(image).has(name)));

  const thumbs = el("ul", { class: "thumbs" });
  const status = el("span", { role: "status", "aria-live": "polite" });
  const byCategory = select("Category", [[null, "any"], ...present.map((category) => [category, categoryName(category)])], null, (value) => { state.category = value; list(); });
  const byCause = select("Error", [[null, "any"], ...causes.map((name) => [name, name])], null, (value) => { state.cause = value; list(); });
  const orders = [["chosen", "as chosen"], ["worst", "worst PQ"], ...(several ? [["differ", "largest disagreement"]] : []), ["best", "best PQ"]];
  const byOrder = select("Order", orders, "chosen", (value) => { state.order = value; list(); });

  function listed() {
    const found = images.map((_, index) => index).filter((index) =>
      (state.category === null || categoriesOf(images[index]).has(state.category)) &&
      (state.cause === null || causesOf(images[index]).has(state.cause)));
    const keys = { worst: (index) => mean(scores[index]), differ: (index) => -spread(scores[index]), best: (index) => -mean(scores[index]) };
    const key = keys[state.order];
    return key ? found.sort((a, b) => key(a) - key(b)) : found;
  }

  function list() {
    const found = listed();
    status.textContent = found.length === images.length ? `${found.length} images` : `${found.length} of ${images.length} images`;
    thumbs.replaceChildren(...found.map((index) => {
      const image = images[index];
      return el("li", {}, el("button", {
        type: "button", "data-image": image.id, "aria-current": index === state.image ? "true" : null,
        onclick: () => { show(index); },
      },
      el("img", { src: image.photo, alt: "", width: image.width, height: image.height }),
      el("span", {}, `${image.id} · PQ ${scores[index].map((value) => percent(value, 0)).join(" | ")}`),
      el("span", { class: "why" }, image.why.join("; "))));
    }));
    if (!found.length) thumbs.replaceChildren(el("li", {}, "No example matches."));
    else if (!found.includes(state.image)) show(found[0]);
  }

  // ---- the viewer -----------------------------------------------------------------------------------------------

  const heading = el("h3", { id: "viewer-title" });
  const about = el("p", { class: "note" });
  const stage = el("div", { class: "stage-place" });
  const lists = el("div", { class: "lists" });
  const layerNames = [[PHOTO, "Image"], [TRUTH, "Ground truth"], ...withPictures.map((model) => [1 + model, data.models[model].label])];
  const leftBox = select("Left", layerNames, state.left, (value) => { state.left = value; render(); });
  const rightBox = select("Right", layerNames, state.right, (value) => { state.right = value; render(); });
  const sides = el("span", { class: "bar", style: { margin: "0" } }, leftBox.node, rightBox.node);
  const step = (by) => {
    const found = listed();
    const at = found.indexOf(state.image);
    if (found.length) show(found[(at + by + found.length) % found.length]);
  };
  const viewer = el("div", { class: "viewer", id: "viewer", role: "group", "aria-labelledby": "viewer-title", tabindex: -1 },
    el("div", { class: "bar" },
      heading,
      el("button", { type: "button", onclick: () => step(-1) }, "← Previous"),
      el("button", { type: "button", onclick: () => step(1) }, "Next →")),
    about,
    el("div", { class: "bar" },
      choice("View", [["divider", "Divider"], ["side", "Side by side"]], "divider", (value) => { state.mode = value; sides.hidden = value === "side"; sides.style.display = value === "side" ? "none" : ""; render(); }),
      sides,
      choice("Colours", [["category", "Categories"], ["verdict", "Verdicts"]], "category", (value) => { state.color = value; render(); }),
      el("label", {}, "Opacity ", el("input", { type: "range", min: 0, max: 100, value: 100 * state.opacity, oninput: (event) => { state.opacity = event.target.value / 100; render(); } })),
      el("label", {}, el("input", { type: "checkbox", checked: true, onchange: (event) => { state.outlined = event.target.checked; render(); } }), "Outlines")),
    stage, lists);

  function layerOf(image, number) {
    return number === PHOTO ? null : image.layers[number];
  }

  function mapOf(image, number) {
    const key = `${image.id},${number}`;
    if (!maps.has(key)) maps.set(key, decodeRuns(image.layers[number].runs, image.width * image.height));
    return maps.get(key);
  }

  /** The model whose verdicts the ground truth shows: the one on the other side, else the first. */
  function judge(image) {
    const sides = state.mode === "divider" ? [state.right - 1, state.left - 1] : [];
    return [...sides, ...withPictures].find((model) => model >= 0 && image.answers[model]);
  }

  /** What became of a segment: of the ground truth's, what a model made of it. */
  function outcome(image, number, index) {
    const segment = layerOf(image, number).segments[index];
    const model = number === TRUTH ? judge(image) : undefined;
    if (model === undefined) return segment;
    const [verdict, iou, cause] = image.answers[model][index];
    return { ...segment, verdict, iou, cause };
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

  function verdictText(verdict, iou, cause) {
    const [, words] = VERDICTS[verdict] ?? ["", verdict ?? ""];
    return words + (iou === null ? "" : `, IoU ${iou.toFixed(2)}`) + (cause && cause !== words ? ` (${cause})` : "") + (verdict && verdict !== "ignored" ? ` · ${verdict}` : "");
  }

  /** A layer over the photograph at `width` × `height`, on a canvas of its own. */
  function composed(image, number, photo, width, height) {
    const canvas = el("canvas", { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, 0, 0, width, height);
    const layer = layerOf(image, number);
    if (!layer) return canvas;
    const map = mapOf(image, number);
    const style = getComputedStyle(document.documentElement);
    const colors = layer.segments.map((segment, index) => {
      if (state.color === "category") return rgbOf(segment.color);
      const kind = VERDICTS[outcome(image, number, index).verdict];
      return rgbOf(style.getPropertyValue(kind ? kind[2] : "--ignored").trim());
    });
    const overlay = new ImageData(width, height), pixels = overlay.data;
    const columns = Uint32Array.from({ length: width }, (_, x) => Math.min(image.width - 1, Math.floor(((x + 0.5) * image.width) / width)));
    const alpha = Math.round(255 * state.opacity), thick = Math.max(1, Math.round(width / 700));
    const lit = state.lit && state.lit.layer === number ? state.lit.index + 1 : 0;
    let above = null;
    for (let y = 0; y < height; y++) {
      const line = Math.min(image.height - 1, Math.floor(((y + 0.5) * image.height) / height)) * image.width;
      const here = new Uint16Array(width);
      for (let x = 0; x < width; x++) here[x] = map[line + columns[x]];
      for (let x = 0; x < width; x++) {
        const value = here[x], at = 4 * (y * width + x);
        if (value) {
          const color = colors[value - 1];
          pixels[at] = color[0];
          pixels[at + 1] = color[1];
          pixels[at + 2] = color[2];
          pixels[at + 3] = lit && lit !== value ? alpha * 0.45 : alpha;
        } else {
          pixels[at + 3] = alpha * 0.9; // void is dark
        }
        if (state.outlined && ((x && here[x - 1] !== value) || (above && above[x] !== value))) {
          const strong = lit && (value === lit || here[x - 1] === lit || (above && above[x] === lit));
          for (let dy = 0; dy < (strong ? 2 * thick : thick); dy++) {
            for (let dx = 0; dx < (strong ? 2 * thick : thick); dx++) {
              if (x - dx < 0 || y - dy < 0) continue;
              const edge = 4 * ((y - dy) * width + x - dx);
              pixels[edge] = pixels[edge + 1] = 255;
              pixels[edge + 2] = strong ? 0 : 255;
              pixels[edge + 3] = 255;
            }
          }
        }
      }
      above = here;
    }
    const painted = el("canvas", { width, height });
    painted.getContext("2d").putImageData(overlay, 0, 0);
    context.drawImage(painted, 0, 0);
    return canvas;
  }

  /** Size of a canvas that fills `room` CSS pixels: sharp, but never so large that painting lags. */
  function sizeFor(image, room, highest = 0.72 * window.innerHeight) {
    const css = Math.min(room, Math.max(220, highest) * (image.width / image.height), 1100);
    const dense = Math.min(window.devicePixelRatio || 1, 1300 / css);
    const width = Math.max(1, Math.round(css * dense));
    return { css, width, height: Math.max(1, Math.round((width * image.height) / image.width)) };
  }

  let photo = null, drawn = 0;

  function show(index, focus = false) {
    state.image = index;
    state.lit = null;
    const image = images[index];
    for (const button of thumbs.querySelectorAll("button")) {
      if (button.dataset.image === String(image.id)) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    heading.textContent = `Image ${image.id}`;
    about.replaceChildren(`${image.file} · chosen for: ${image.why.join("; ")} · PQ: `,
      ...data.models.flatMap((_, model) => [el("span", {}, model ? ", " : "", modelLabel(model), ` ${percent(scores[index][model])}`)]));
    for (const side of ["left", "right"]) {
      if (state[side] > 0 && !image.layers[state[side]]) {
        state[side] = 1 + withPictures.find((model) => image.layers[1 + model]);
        (side === "left" ? leftBox : rightBox).set(state[side]);
      }
    }
    const next = new Image();
    const turn = ++drawn;
    next.onload = () => { if (turn === drawn) { photo = next; render(); } };
    next.src = image.photo;
    viewer.dataset.image = image.id;
    if (focus) {
      viewer.scrollIntoView({ block: "start" });
      viewer.focus({ preventScroll: true });
    }
  }

  function render() {
    if (!photo) return;
    hideTooltip();
    if (state.mode === "divider") renderDivider(images[state.image]);
    else renderSide(images[state.image]);
    renderLists(images[state.image]);
  }

  function renderDivider(image) {
    const { css, width, height } = sizeFor(image, stage.clientWidth);
    const canvas = el("canvas", { width, height, role: "img", "aria-label": `${nameOf(state.left)} to the left of the divider, ${nameOf(state.right)} to the right; the segments are listed below` });
    const handle = el("div", { class: "divider", role: "slider", tabindex: 0, "aria-label": "Divider", "aria-valuemin": 0, "aria-valuemax": 100, "aria-orientation": "horizontal" });
    const left = el("span", { class: "corner left" }, nameOf(state.left)), right = el("span", { class: "corner right" }, nameOf(state.right));
    const box = el("div", { class: "stage", style: { width: `${css}px` } }, canvas, left, right, handle);
    let sides = [state.left, state.right].map((number) => composed(image, number, photo, width, height));

    function paint() {
      const context = canvas.getContext("2d"), cut = Math.round(state.cut * width);
      context.drawImage(sides[1], 0, 0);
      if (cut > 0) context.drawImage(sides[0], 0, 0, cut, height, 0, 0, cut, height);
      handle.style.left = `${100 * state.cut}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * state.cut));
      handle.setAttribute("aria-valuetext", `${Math.round(100 * state.cut)} percent ${nameOf(state.left)}`);
    }
    const move = (event) => {
      const area = canvas.getBoundingClientRect();
      state.cut = Math.min(1, Math.max(0, (event.clientX - area.left) / area.width));
      paint();
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      hideTooltip();
      event.preventDefault();
      handle.focus({ preventScroll: true });
    });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) move(event); });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      state.cut = Math.min(1, Math.max(0, state.cut + by));
      paint();
    });
    hover(canvas, image, (part) => (part < state.cut ? state.left : state.right), () => {
      sides = [state.left, state.right].map((number) => composed(image, number, photo, width, height));
      paint();
    });
    paint();
    stage.replaceChildren(box);
    stage.relight = () => {
      sides = [state.left, state.right].map((number) => composed(image, number, photo, width, height));
      paint();
    };
  }

  function renderSide(image) {
    const numbers = layerNames.map(([number]) => number).filter((number) => number === PHOTO || image.layers[number]);
    const grid = el("div", { class: "panes" });
    stage.replaceChildren(grid);
    const canvases = numbers.map((number) => {
      const pane = el("div", { class: "pane" }, el("h4", {}, number > 0 ? modelLabel(number - 1) : nameOf(number)));
      grid.append(pane);
      return pane;
    });
    const room = canvases[0].clientWidth;
    const painters = numbers.map((number, place) => {
      const { css, width, height } = sizeFor(image, room, 520);
      const canvas = el("canvas", { width, height, role: "img", "aria-label": nameOf(number) });
      canvases[place].append(el("div", { class: "stage", style: { width: `${css}px`, margin: "0" } }, canvas));
      const paint = () => canvas.getContext("2d").drawImage(composed(image, number, photo, width, height), 0, 0);
      hover(canvas, image, () => number, () => stage.relight());
      paint();
      return paint;
    });
    stage.relight = () => painters.forEach((paint) => paint());
  }

  const nameOf = (number) => layerNames.find(([other]) => other === number)[1];

  function hover(canvas, image, layerAt, repaint) {
    canvas.addEventListener("pointermove", (event) => {
      const area = canvas.getBoundingClientRect();
      const part = (event.clientX - area.left) / area.width;
      const number = layerAt(part);
      const x = Math.floor(part * image.width), y = Math.floor(((event.clientY - area.top) / area.height) * image.height);
      if (number === PHOTO || x < 0 || y < 0 || x >= image.width || y >= image.height) return clear();
      const value = mapOf(image, number)[y * image.width + x];
      showTooltip(event, value ? `${nameOf(number)}\n${describe(image, number, value - 1)}` : `${nameOf(number)}\nvoid: no segment`);
      light(value ? { layer: number, index: value - 1 } : null);
    });
    canvas.addEventListener("pointerleave", clear);
    function clear() {
      hideTooltip();
      light(null);
    }
    function light(lit) {
      if (lit?.layer === state.lit?.layer && lit?.index === state.lit?.index) return;
      state.lit = lit;
      repaint();
      markRow();
    }
  }

  function markRow() {
    for (const line of lists.querySelectorAll("tr[data-segment]")) {
      line.classList.toggle("lit", Boolean(state.lit) && line.dataset.segment === `${state.lit.layer},${state.lit.index}`);
    }
  }

  function renderLists(image) {
    const shown = state.mode === "divider" ? [...new Set([state.left, state.right])] : layerNames.map(([number]) => number);
    lists.replaceChildren(...shown.filter((number) => number !== PHOTO && image.layers[number]).map((number) => {
      const layer = image.layers[number];
      const order = layer.segments.map((_, index) => index).sort((a, b) => layer.segments[b].area - layer.segments[a].area);
      const title = number > 0 ? modelLabel(number - 1) : ["Ground truth, and what became of it in ", modelLabel(judge(image))];
      return el("div", {}, el("h4", {}, title),
        el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Segments: ${nameOf(number)}` },
          el("table", {},
            el("thead", {}, el("tr", {}, ["Segment", "Score", "IoU", "Verdict", "Pixels"].map((name, place) => el("th", { scope: "col", class: [1, 2, 4].includes(place) ? (place === 4 ? "number wide" : "number") : null }, name)))),
            el("tbody", {}, order.map((index) => segmentRow(image, number, index))))));
    }));
  }

  function segmentRow(image, number, index) {
    const segment = outcome(image, number, index);
    const [kind, words, color] = VERDICTS[segment.verdict] ?? ["", "–", "--ignored"];
    const set = (lit) => () => { state.lit = lit; stage.relight(); markRow(); };
    const lit = { layer: number, index };
    return el("tr", { "data-segment": `${number},${index}`, onpointerenter: set(lit), onpointerleave: set(null) },
      el("th", { scope: "row" }, el("span", { class: "swatch", style: { background: segment.color } }),
        el("button", { type: "button", class: "link", onfocus: set(lit), onblur: set(null) }, categoryName(segment.category), segment.crowd ? " (crowd)" : "")),
      el("td", { class: "number" }, segment.score === null ? "–" : segment.score.toFixed(2)),
      el("td", { class: "number" }, segment.iou === null ? "–" : segment.iou.toFixed(2)),
      el("td", {}, segment.verdict ? el("span", { class: `verdict ${kind}`, style: { "--kind": `var(${color})` } }, words, segment.cause && segment.cause !== words ? `: ${segment.cause}` : "") : "–"),
      el("td", { class: "number wide" }, whole(segment.area)));
  }

  container.append(el("div", { class: "bar" }, byCategory.node, byCause.node, byOrder.node, status), thumbs, viewer);
  list();
  show(0);
  let width = 0;
  new ResizeObserver(() => {
    if (stage.clientWidth !== width) {
      width = stage.clientWidth;
      render();
    }
  }).observe(stage);

  return {
    has: (id) => placeOf.has(id),
    open: (id) => {
      const index = placeOf.get(id);
      if (!listed().includes(index)) {
        state.category = state.cause = null;
        byCategory.set(null);
        byCause.set(null);
        list();
      }
      show(index, true);
    },
    category: (position) => {
      if (!present.includes(position)) return false;
      state.category = position;
      byCategory.set(position);
      list();
      container.scrollIntoView({ block: "start" });
      return true;
    },
    recolor: render,
  };
}
