// Pixels: index maps from their runs, and layers over the photograph, by what is wrong or by category.
//
// `compose` draws one layer of an image as a canvas; every picture of the page is made by it.

/** The index map of a layer (0 = no segment) from its runs: pairs of value and length in base 128. */
function decodeRuns(text, size) {
  const signs = atob(text), bytes = new Uint8Array(signs.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = signs.charCodeAt(place);
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
const colorNamed = (name) => rgbOf(getComputedStyle(document.documentElement).getPropertyValue(name).trim());

/** How far an outline reaches beyond the pixel that it is drawn for, at most. */
const REACH = 12;

const FILLED = 165, OVERLAID = 140; // alpha of what is false, and of categories

/**
 * A layer over the photograph, as a canvas of `width` × `height`.
 *
 * number: the layer; mapOf: (image, number) → its index map (images.js); view: the part of the image that is shown,
 * { x, y, width, height } in its pixels; color: "errors" (segments.js) or "categories"; judge: the model whose verdicts
 * the ground truth has; lit: segments [[layer, index], …] that stand out, of whatever layer; columns: [from, to], the part
 * of the canvas that is needed, of which the rest may stay unpainted; top: pixels at the top that words keep clear of.
 *
 * What a model missed is drawn over its answer in either colouring. No kind of error is told by its colour alone.
 */
function compose(image, number, mapOf, photo, width, height, { view = viewAt(image), color = "errors", judge, lit = [], columns = [0, width], top = 0 }) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  const [from, to] = [Math.max(0, columns[0] - REACH), Math.min(width, columns[1] + REACH)];
  if (to <= from) return canvas;
  drawPhoto(context, image, photo, view, from, to);
  if (number === PHOTO) return canvas;
  const overlay = new ImageData(to - from, height);
  const shown = { pixels: new Uint32Array(overlay.data.buffer), width, from, to, height };
  const own = sample(image, mapOf(image, number), view, shown);
  const truth = () => sample(image, mapOf(image, TRUTH), view, shown);
  const segments = image.layers[number].segments.map((_, index) => outcomeOf(image, number, index, judge));
  const strokeOf = (kind, broken) => ({ color: pixelOf(colorNamed(`--${kind}`), 255), under: kind === "bad" ? WHITE : BLACK, broken });
  if (color === "categories") {
    fillSegments(shown, own, [pixelOf([0, 0, 0], OVERLAID), ...segments.map((segment) => pixelOf(rgbOf(segment.color), OVERLAID))]);
    strokeSegments(shown, own, [0, ...segments].map(() => ({ color: WHITE })));
  } else {
    const kinds = segments.map(kindOf);
    fillSegments(shown, own, [0, ...kinds.map((kind) => (kind === "false" ? pixelOf(colorNamed("--false"), FILLED) : 0))]);
    strokeSegments(shown, own, [null, ...kinds.map((kind) => (kind === "found" ? null : strokeOf(kind, number === TRUTH && kind !== "confused")))]);
  }
  if (number > TRUTH) {
    const missed = image.answers[number - 1] ?? [];
    strokeSegments(shown, truth(), [null, ...missed.map(([verdict, , cause]) => {
      const kind = kindOf({ verdict, cause });
      return verdict === "FN" && (kind !== "confused" || color === "categories") ? strokeOf(kind === "confused" ? "missed" : kind, true) : null;
    })]);
  }
  for (const layer of new Set(lit.map(([one]) => one))) {
    if (!image.layers[layer]) continue;
    const strong = new Set(lit.filter(([one]) => one === layer).map(([, index]) => index + 1));
    strokeSegments(shown, layer === number ? own : layer === TRUTH ? truth() : sample(image, mapOf(image, layer), view, shown),
      [null, ...image.layers[layer].segments.map((_, index) => (strong.has(index + 1) ? { color: WHITE, under: BLACK, around: true } : null))]);
  }
  const painted = el("canvas", { width: to - from, height });
  painted.getContext("2d").putImageData(overlay, 0, 0);
  context.drawImage(painted, from, 0);
  if (color === "errors" && width >= 300) nameConfused(context, own, segments, shown, columns, top);
  return canvas;
}

/** A photograph as a canvas shows it: the panes of an image share what is drawn once. */
const scaledPhoto = keeping(4, (key, image, photo, view, { width, height }) => {
  const canvas = el("canvas", { width, height }), context = canvas.getContext("2d");
  const [across, down] = [photo.naturalWidth / image.width, photo.naturalHeight / image.height];
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, view.x * across, view.y * down, view.width * across, view.height * down, 0, 0, width, height);
  return canvas;
});

/** Draws columns of the photograph. */
function drawPhoto(context, image, photo, view, from, to) {
  const { width, height } = context.canvas;
  const key = [image.id, photo.naturalWidth, view.x, view.y, view.width, view.height, width, height].join();
  context.drawImage(scaledPhoto(key, image, photo, view, context.canvas), from, 0, to - from, height, from, 0, to - from, height);
}

/** An index map at the size of the columns of a canvas that shows a part of the image. */
function sample(image, map, view, { width, height, from, to }) {
  const wide = to - from;
  const columns = Uint32Array.from({ length: wide }, (_, x) => Math.min(image.width - 1, Math.floor(view.x + ((from + x + 0.5) * view.width) / width)));
  const found = new Uint16Array(wide * height);
  for (let y = 0, at = 0, before = -1; y < height; y++) {
    const line = Math.min(image.height - 1, Math.floor(view.y + ((y + 0.5) * view.height) / height)) * image.width;
    // An enlarged image has several lines of a kind.
    if (line === before) found.copyWithin(at, at - wide, at);
    else for (let x = 0; x < wide; x++) found[at + x] = map[line + columns[x]];
    at += wide;
    before = line;
  }
  return found;
}

/** A colour as one number, as pixels of an ImageData lie in memory (every browser's machine has the low byte first). */
const pixelOf = ([red, green, blue], alpha) => ((Math.round(alpha) << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
const BLACK = pixelOf([0, 0, 0], 255), WHITE = pixelOf([255, 255, 255], 255);

/** Fills the pixels of a map by their values. */
function fillSegments({ pixels }, map, fills) {
  const table = Uint32Array.from(fills);
  for (let at = 0; at < map.length; at++) pixels[at] = table[map[at]];
}

/**
 * Draws outlines of a map. lines: of each value null or { color, under, broken, around }: `under` is the colour of a
 * wider line beneath, which shows in the gaps of a broken one; `around` is a still wider line.
 */
function strokeSegments({ pixels, width, from, to, height }, map, lines) {
  if (!lines.some(Boolean)) return;
  const wide = to - from, thick = Math.max(2, Math.round(width / 360)), dash = 5 * thick;
  const places = [];
  for (let y = 0, here = 0; y < height; y++) {
    for (let x = 0; x < wide; x++, here++) {
      const value = map[here], left = x ? map[here - 1] : value, above = y ? map[here - wide] : value;
      if (left === value && above === value) continue;
      const line = lines[value] ?? lines[left] ?? lines[above];
      if (line) places.push(x, y, line);
    }
  }
  const draw = (size, colorAt) => {
    for (let place = 0; place < places.length; place += 3) {
      const pixel = colorAt(places[place + 2], places[place], places[place + 1]);
      if (pixel !== undefined) stamp(pixels, wide, places[place] + (size >> 1), places[place + 1] + (size >> 1), size, pixel);
    }
  };
  draw(thick + 4, (line) => (line.around ? line.under : undefined));
  draw(thick + 2, (line) => (line.around ? line.color : line.under));
  draw(thick, (line, x, y) => (line.around || (line.broken && (from + x + y) % (2 * dash) >= dash) ? undefined : line.color));
}

/** A square of `size` pixels whose last corner is at (x, y). */
function stamp(pixels, width, x, y, size, pixel) {
  const rows = pixels.length / width, right = Math.min(x, width - 1);
  for (let dy = Math.max(0, y - size + 1); dy <= Math.min(y, rows - 1); dy++) {
    for (let at = dy * width + Math.max(0, x - size + 1); at <= dy * width + right; at++) pixels[at] = pixel;
  }
}

/** Writes at each segment of a wrong category what it is and what it was taken for, below names that are there already. */
function nameConfused(context, map, segments, { width, from, to, height }, [left, right], top) {
  const wide = to - from, tops = new Map();
  const wanted = new Set(segments.flatMap((segment, index) => (kindOf(segment) === "confused" && segment.taken ? [index + 1] : [])));
  if (!wanted.size) return;
  for (let at = 0; at < map.length; at++) if (wanted.has(map[at]) && !tops.has(map[at])) tops.set(map[at], at);
  const size = Math.max(11, Math.round(width / 60));
  context.font = `${size}px system-ui, sans-serif`;
  const boxes = [];
  for (const [value, at] of tops) {
    const text = takenInWords(segments[value - 1].taken), room = context.measureText(text).width + 8;
    if (room > right - left) continue;
    const x = Math.max(left, Math.min(from + (at % wide), right - room));
    let y = Math.max(top, Math.min(Math.floor(at / wide), height - size - 6));
    for (const box of boxes) if (x < box.x + box.room && box.x < x + room && Math.abs(y - box.y) < size + 8) y = box.y + size + 8;
    boxes.push({ x, y, room });
    context.fillStyle = "rgba(0, 0, 0, 0.8)";
    context.fillRect(x, y, room, size + 6);
    context.fillStyle = "#fff";
    context.fillText(text, x + 4, y + size + 1);
  }
}
