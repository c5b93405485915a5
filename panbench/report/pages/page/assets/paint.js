// Pixels: index maps from their runs, and layers over the photograph, by category or by verdict.
//
// `compose` draws one layer of an image as a canvas; every picture of the page is made by it. Of a model it draws what
// the model missed, too. Any section can call it:
//
//     const photo = new Image();
//     photo.onload = () => place.append(compose(image, 1 + model, mapOf, photo, 300, 200, {
//       view: viewAround(image, boxAround(image, mapOf, [[TRUTH, 4]])),   // without it the whole image
//       style: { color: "verdict", opacity: 0.55, outlined: true },
//       lit: [[TRUTH, 4]],                                                 // segments that stand out
//     }));
//     photo.src = image.photo;

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

/**
 * A layer over the photograph, as a canvas of `width` × `height`.
 *
 * number: the layer; mapOf: (image, number) → its index map (images.js); view: the part of the image that is shown,
 * { x, y, width, height } in its pixels; style: { color: "category" or "verdict", opacity, outlined, missed }, of which
 * missed: false leaves out what a model missed; judge: the model whose verdicts the ground truth has; lit: segments
 * [[layer, index], …] that stand out, of whatever layer; two: of ONLY the two models; columns: [from, to], the part of
 * the canvas that is needed, of which the rest may stay unpainted.
 *
 * By verdict what was found is grey, and what is false is striped one way (/). What was missed is striped the other way
 * (\): filled in the ground truth, and over a model's answer as thin stripes within a broken outline. So no verdict is
 * told by its colour alone.
 */
function compose(image, number, mapOf, photo, width, height, { view = wholeView(image), style, judge, lit = [], two, columns = [0, width] }) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  const byVerdict = style.color === "verdict" || number === ONLY;
  const layer = number === ONLY ? TRUTH : number;
  const [from, to] = [Math.max(0, columns[0] - REACH), Math.min(width, columns[1] + REACH)];
  if (to <= from) return canvas;
  drawPhoto(context, image, photo, view, byVerdict && number !== PHOTO, from, to);
  if (number === PHOTO) return canvas;
  const overlay = new ImageData(to - from, height);
  const shown = { pixels: new Uint32Array(overlay.data.buffer), width, from, to, height };
  const litOf = (layer) => new Set(lit.filter(([own]) => own === layer).map(([, index]) => index));
  const looks = image.layers[layer].segments.map((segment, index) =>
    number === ONLY ? onlyLook(foundByOne(image, index, two), two) : byVerdict ? verdictLook(outcomeOf(image, number, index, judge).verdict) : { color: rgbOf(segment.color), hatch: 0, alpha: 255 * style.opacity });
  const voided = Math.round(230 * (byVerdict ? 0.5 : style.opacity));
  const samples = layer === TRUTH ? sampled : sample;
  paintSegments(shown, samples(image, mapOf(image, layer), view, shown), looks, { voided, outlined: style.outlined, lit: litOf(layer) });
  const missed = number > TRUTH && style.missed !== false ? missedBy(image, number - 1) : [];
  if (missed.length) {
    const strong = litOf(TRUTH);
    const kinds = new Uint8Array(1 + image.layers[TRUTH].segments.length);
    for (const index of missed) kinds[index + 1] = strong.has(index) ? MISSED_LIT : strong.size ? MISSED_FAINT : MISSED;
    paintMissed(shown, sampled(image, mapOf(image, TRUTH), view, shown), kinds);
  }
  const painted = el("canvas", { width: to - from, height });
  painted.getContext("2d").putImageData(overlay, 0, 0);
  context.drawImage(painted, from, 0);
  return canvas;
}

const drawnPhotos = new Map(), greyPhotos = new WeakMap();

/** Columns of the photograph as a canvas shows it, grey or not: the panes of an image share what is drawn once. */
function drawPhoto(context, image, photo, view, grey, from, to) {
  const { width, height } = context.canvas;
  const key = [image.id, photo.naturalWidth, view.x, view.y, view.width, view.height, width, height, grey].join();
  if (!drawnPhotos.has(key)) {
    const canvas = el("canvas", { width, height });
    scalePhoto(canvas.getContext("2d"), image, photo, view, grey);
    drawnPhotos.set(key, canvas);
    if (drawnPhotos.size > 4) drawnPhotos.delete(drawnPhotos.keys().next().value);
  }
  context.drawImage(drawnPhotos.get(key), from, 0, to - from, height, from, 0, to - from, height);
}

function scalePhoto(context, image, photo, view, grey) {
  const { width, height } = context.canvas;
  const [across, down] = [photo.naturalWidth / image.width, photo.naturalHeight / image.height];
  // Scaling and taking the colours away can change places: what has fewer pixels is made grey.
  const early = grey && photo.naturalWidth * photo.naturalHeight < width * height;
  context.imageSmoothingQuality = "high";
  context.drawImage(early ? greyOf(photo) : photo, view.x * across, view.y * down, view.width * across, view.height * down, 0, 0, width, height);
  if (grey && !early) withoutColours(context);
}

/** A photograph without its colours, at its own size; kept as long as it is. */
function greyOf(photo) {
  if (!greyPhotos.has(photo)) {
    const canvas = el("canvas", { width: photo.naturalWidth, height: photo.naturalHeight }), context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0);
    withoutColours(context);
    greyPhotos.set(photo, canvas);
  }
  return greyPhotos.get(photo);
}

/** The photograph's own colours would be taken for verdicts; what is left has their luminosity. */
function withoutColours(context) {
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#000";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}

/** hatch: 1 and 2 are stripes that rise and fall, 3 is dots, 0 is even. */
function verdictLook(verdict) {
  const [kind, , color] = VERDICTS[verdict] ?? VERDICTS.ignored;
  return { color: colorNamed(color), hatch: { false: 1, missed: 2, ignored: 3 }[kind] ?? 0, alpha: { found: 120, ignored: 70 }[kind] ?? 190 };
}

/** What one of two models found alone has its colour, the first's rising stripes, the second's falling ones. */
function onlyLook(found, [a, b]) {
  if (found === "a" || found === "b") return { color: colorNamed(`--m${data.models[found === "a" ? a : b].color}`), hatch: found === "a" ? 1 : 2, alpha: 215 };
  return { color: colorNamed(found === "both" ? "--found" : "--ignored"), hatch: found === "both" ? 0 : 3, alpha: found === "both" ? 120 : 70 };
}

let lastSampled = { key: "", map: null, found: null };

/** An index map at the size of the columns of a canvas that shows a part of the image; panes share that of the truth. */
function sampled(image, map, view, { width, height, from, to }) {
  const key = [view.x, view.y, view.width, view.height, width, height, from, to].join();
  if (lastSampled.map !== map || lastSampled.key !== key) lastSampled = { key, map, found: sample(image, map, view, { width, height, from, to }) };
  return lastSampled.found;
}

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

/** Which of the places 0 … count − 1 are dark where stripes repeat: `part` of each `stripe`. */
const stripes = (count, stripe, part) => Uint8Array.from({ length: count }, (_, place) => (place % stripe < stripe * part ? 1 : 0));

/** Paints the segments of a map by their looks; void is dark; those that are lit stand out. */
function paintSegments({ pixels, width, from, to, height }, map, looks, { voided, outlined, lit }) {
  const thick = Math.max(1, Math.round(width / 700)), stripe = Math.max(6, Math.round(width / 70)), dark = 0.36;
  const rising = stripes(width + height + stripe, stripe, dark), wide = to - from;
  // By value, 0 first: the pixel, the pixel of a stripe, and the kind of stripes.
  const plain = new Uint32Array(1 + looks.length), striped = new Uint32Array(1 + looks.length), hatch = new Uint8Array(1 + looks.length);
  const strong = new Uint8Array(1 + looks.length);
  plain[0] = pixelOf([0, 0, 0], voided);
  looks.forEach((look, index) => {
    const alpha = lit.size && !lit.has(index) ? look.alpha * 0.45 : look.alpha;
    plain[index + 1] = pixelOf(look.color, alpha);
    striped[index + 1] = pixelOf(look.color.map((part) => part * 0.35), alpha);
    hatch[index + 1] = look.hatch;
    strong[index + 1] = lit.has(index) ? 1 : 0;
  });
  const line = pixelOf([255, 255, 255], 255), strongLine = pixelOf([255, 255, 0], 255);
  const outline = (x, y, lit) => stamp(pixels, wide, x, y, lit ? 2 * thick : thick, lit ? strongLine : line);
  for (let y = 0, row = 0; y < height; y++, row += wide) {
    // Runs of one value: most are filled at once.
    for (let x = 0, end; x < wide; x = end) {
      const value = map[row + x], kind = hatch[value];
      for (end = x + 1; end < wide && map[row + end] === value;) end++;
      pixels.fill(plain[value], row + x, row + end);
      if (kind === 1 || kind === 2) {
        // Falling stripes are rising ones read from another place.
        const start = from + (kind === 1 ? y : (stripe - (y % stripe)) % stripe), color = striped[value];
        for (let at = x; at < end; at++) if (rising[start + at]) pixels[row + at] = color;
      } else if (kind === 3) {
        for (let at = x; at < end; at++) if ((((from + at) % stripe) + (y % stripe)) * 0.7 < stripe * dark) pixels[row + at] = striped[value];
      }
    }
    if (!outlined) continue;
    for (let x = 0; x < wide; x++) {
      const here = row + x, value = map[here], left = x ? map[here - 1] : value, above = y ? map[here - wide] : value;
      if (left !== value || above !== value) outline(x, y, strong[value] | strong[left] | strong[above]);
    }
  }
}

const MISSED_FAINT = 1, MISSED = 2, MISSED_LIT = 3;

/**
 * Paints what a model missed over its answer: a broken outline, and thin stripes that fall, each within an edge.
 * kinds: of each value of the truth's map how it is drawn, 0 for what was not missed.
 */
function paintMissed({ pixels, width, from, to, height }, truth, kinds) {
  const color = colorNamed("--missed"), wide = to - from;
  const edge = color[1] < 90 ? [255, 255, 255] : [0, 0, 0]; // the dark page has a light one
  const stripe = Math.max(9, Math.round(width / 55)), thick = Math.max(2, Math.round(width / 300)), dash = 4 * thick;
  const [cores, edges] = [color, edge].map((one) => Uint32Array.from([0, 110, 235, 235], (alpha) => pixelOf(one, alpha)));
  const dashes = pixelOf(color, 255), gaps = [0, 0, 0, 0].map((_, kind) => pixelOf(kind === MISSED_LIT ? [255, 255, 0] : edge, 255));
  // Of each place on a line across the stripes: nothing, the edge of a stripe, its core.
  const across = Uint8Array.from({ length: width + stripe }, (_, place) => {
    const turn = place % stripe;
    return turn >= stripe * 0.36 ? 0 : turn >= stripe * 0.1 && turn < stripe * 0.26 ? 2 : 1;
  });
  for (let y = 0, here = 0; y < height; y++) {
    const start = from + (stripe - (y % stripe)) % stripe;
    for (let x = 0; x < wide; x++, here++) {
      const kind = kinds[truth[here]];
      if (kind && across[start + x]) pixels[here] = (across[start + x] === 2 ? cores : edges)[kind];
    }
  }
  for (let y = 0, here = 0; y < height; y++) {
    for (let x = 0; x < wide; x++, here++) {
      const value = truth[here], left = x ? truth[here - 1] : value, above = y ? truth[here - wide] : value;
      if (left === value && above === value) continue;
      const kind = Math.max(kinds[value], kinds[left], kinds[above]);
      if (!kind) continue;
      stamp(pixels, wide, x + (thick >> 1), y + (thick >> 1), kind === MISSED_LIT ? thick + 1 : thick, (from + x + 2 * y) % (2 * dash) < dash ? dashes : gaps[kind]);
    }
  }
}

/** A square of `size` pixels whose last corner is at (x, y). */
function stamp(pixels, width, x, y, size, pixel) {
  const rows = pixels.length / width, right = Math.min(x, width - 1);
  for (let dy = Math.max(0, y - size + 1); dy <= Math.min(y, rows - 1); dy++) {
    for (let at = dy * width + Math.max(0, x - size + 1); at <= dy * width + right; at++) pixels[at] = pixel;
  }
}
