// Pixels: index maps from their runs, and layers over the photograph, by category or by verdict.

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

/** What became of a segment in the eyes of a model: of the ground truth's, what that model made of it. */
function outcomeOf(image, number, index, judge) {
  const segment = image.layers[number].segments[index];
  if (number !== TRUTH || judge === undefined || !image.answers[judge]) return segment;
  const [verdict, iou, cause] = image.answers[judge][index];
  return { ...segment, verdict, iou, cause };
}

/**
 * A layer over the photograph, as a canvas of `width` × `height`.
 *
 * view: the part of the image that is shown, { x, y, width, height } in its pixels; style: { color: "category" or
 * "verdict", opacity, outlined }; judge: the model whose verdicts the ground truth has; lit: index of a segment that
 * stands out. By verdict what was found is grey, what is false is hatched one way and what was missed the other, so that
 * no verdict is told by its colour alone.
 */
function compose(image, number, map, photo, width, height, { view, style, judge, lit = -1 }) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, (view.x * photo.naturalWidth) / image.width, (view.y * photo.naturalHeight) / image.height,
    (view.width * photo.naturalWidth) / image.width, (view.height * photo.naturalHeight) / image.height, 0, 0, width, height);
  if (number === PHOTO) return canvas;
  if (style.color === "verdict") {
    // The photograph's own colours would be taken for verdicts.
    const plain = context.getImageData(0, 0, width, height), seen = plain.data;
    for (let at = 0; at < seen.length; at += 4) seen[at] = seen[at + 1] = seen[at + 2] = 0.3 * seen[at] + 0.59 * seen[at + 1] + 0.11 * seen[at + 2];
    context.putImageData(plain, 0, 0);
  }
  const layer = image.layers[number];
  const css = getComputedStyle(document.documentElement);
  const byVerdict = style.color === "verdict";
  const looks = layer.segments.map((segment, index) => {
    if (!byVerdict) return { color: rgbOf(segment.color), hatch: 0, alpha: 255 * style.opacity };
    const kind = VERDICTS[outcomeOf(image, number, index, judge).verdict] ?? VERDICTS.ignored;
    const color = rgbOf(css.getPropertyValue(kind[2]).trim());
    return { color, hatch: { false: 1, missed: 2, ignored: 3 }[kind[0]] ?? 0, alpha: kind[0] === "found" ? 120 : kind[0] === "ignored" ? 70 : 190 };
  });
  const overlay = new ImageData(width, height), pixels = overlay.data;
  const columns = Uint32Array.from({ length: width }, (_, x) => Math.min(image.width - 1, Math.floor(view.x + ((x + 0.5) * view.width) / width)));
  const thick = Math.max(1, Math.round(width / 700)), stripe = Math.max(6, Math.round(width / 70));
  const voided = Math.round(230 * (byVerdict ? 0.5 : style.opacity));
  let above = null;
  for (let y = 0; y < height; y++) {
    const line = Math.min(image.height - 1, Math.floor(view.y + ((y + 0.5) * view.height) / height)) * image.width;
    const here = new Uint16Array(width);
    for (let x = 0; x < width; x++) here[x] = map[line + columns[x]];
    for (let x = 0; x < width; x++) {
      const value = here[x], at = 4 * (y * width + x);
      if (value) {
        const look = looks[value - 1];
        // 1 and 2 are stripes that fall and rise, 3 is dots.
        const turn = look.hatch === 1 ? (x + y) % stripe : look.hatch === 2 ? (x - y + stripe * height) % stripe : look.hatch === 3 ? ((x % stripe) + (y % stripe)) * 0.7 : stripe;
        const dark = turn < stripe * 0.36;
        pixels[at] = dark ? look.color[0] * 0.35 : look.color[0];
        pixels[at + 1] = dark ? look.color[1] * 0.35 : look.color[1];
        pixels[at + 2] = dark ? look.color[2] * 0.35 : look.color[2];
        pixels[at + 3] = lit >= 0 && lit !== value - 1 ? look.alpha * 0.45 : look.alpha;
      } else {
        pixels[at + 3] = voided; // void is dark
      }
      if (style.outlined && ((x && here[x - 1] !== value) || (above && above[x] !== value))) {
        const mine = lit + 1;
        const strong = lit >= 0 && (value === mine || here[x - 1] === mine || (above && above[x] === mine));
        const size = strong ? 2 * thick : thick;
        for (let dy = 0; dy < size; dy++) {
          for (let dx = 0; dx < size; dx++) {
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

/** The whole image as a view of `compose`. */
const wholeView = (image) => ({ x: 0, y: 0, width: image.width, height: image.height });
