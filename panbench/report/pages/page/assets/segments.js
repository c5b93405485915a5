// Segments of an image: what became of each in a model, and where it lies.
//
// An image is a record of the gallery (gallery.py): `layers` are the ground truth (TRUTH), then one a model (1 + its
// place in data.models, null without predictions); `answers[model][i]` is [verdict, IoU, cause] of true segment i in
// that model, with [true, predicted] category of a wrong one. A segment is named by its layer and its place there: [layer, index]. What a model missed is no segment of
// its own layer, but one of the truth.

// How a segment is drawn is its kind, everywhere alike: what was found is the photograph left alone, what was missed is
// hollow with a broken line, what is false is filled, a wrong category has one outline with "book → clock", and a bad
// mask has both outlines, the true one broken.

const VERDICTS = { TP: "found", FP: "false positive", FN: "missed", ignored: "ignored" };
const KINDS = { found: "found: left alone", missed: "missed", false: "false", confused: "wrong category: true → predicted", bad: "bad mask: the true outline is broken" };

/** The kind of a segment with this verdict and cause. */
function kindOf({ verdict, cause }) {
  if (verdict !== "FP" && verdict !== "FN") return "found";
  if (cause === "wrong category" || cause === "thing/stuff confusion") return "confused";
  return cause === "bad mask" ? "bad" : verdict === "FN" ? "missed" : "false";
}

/** "book → clock". */
const takenInWords = ([truth, predicted]) => `${categoryName(truth)} → ${categoryName(predicted)}`;

// Layers: -1 the photograph, 0 the ground truth, 1 + k the k-th model.
const PHOTO = -1, TRUTH = 0;

/** What became of a segment in the eyes of a model: of the ground truth's, what that model made of it. */
function outcomeOf(image, number, index, judge) {
  const segment = image.layers[number].segments[index];
  if (number !== TRUTH || judge === undefined || !image.answers[judge]) return segment;
  const [verdict, iou, cause, taken] = image.answers[judge][index];
  return { ...segment, verdict, iou, cause, taken };
}

/** The true segments that a model missed, as places in the truth's layer. */
function missedBy(image, model) {
  return (image.answers[model] ?? []).flatMap(([verdict], index) => (verdict === "FN" ? [index] : []));
}

/** How many segments have which verdict, { TP, FP, FN, ignored }: of a model with what it missed, of the truth by `judge`. */
function tallyOf(image, number, judge) {
  const found = Object.fromEntries(Object.keys(VERDICTS).map((verdict) => [verdict, 0]));
  image.layers[number].segments.forEach((_, index) => { found[outcomeOf(image, number, index, judge).verdict] += 1; });
  if (number > TRUTH) found.FN = missedBy(image, number - 1).length;
  return found;
}

/** A kind of error with its sign, drawn with the strokes of pictures. */
function kindSign(kind, words = KINDS[kind]) {
  return el("span", { class: "kind" }, kindIcon(kind), words);
}

function kindIcon(kind) {
  const box = { x: 2.5, y: 2.5, width: 17, height: 9, rx: 1 };
  return svg("svg", { class: "sign", viewBox: "0 0 22 14", width: 22, height: 14, "aria-hidden": "true" },
    kind === "bad" ? svg("rect", { class: "under bad", ...box, x: 5, width: 14 }) : svg("rect", { class: `under ${kind}`, ...box }),
    svg("rect", { class: kind, ...box, ...(kind === "bad" ? { x: 5, width: 14 } : {}) }),
    kind === "bad" ? svg("rect", { class: "bad broken", ...box, width: 12 }) : null);
}

/** The key to the kinds of errors. */
const kindLegend = () => el("ul", { class: "legend kinds" }, Object.keys(KINDS).map((kind) => el("li", {}, kindSign(kind))));

/** What a model did with an image, in a few words: "2 missed, 1 false". */
function errorsInWords(image, model) {
  const { FN, FP } = tallyOf(image, 1 + model);
  return [FN && `${FN} missed`, FP && `${FP} false`].filter(Boolean).join(", ") || "no errors";
}

/** The smallest box { x, y, width, height } around segments [[layer, index], …]; null where none has a pixel. */
function boxAround(image, mapOf, segments) {
  let left = image.width, right = -1, top = image.height, bottom = -1;
  for (const number of new Set(segments.map(([layer]) => layer))) {
    const wanted = new Set(segments.filter(([layer]) => layer === number).map(([, index]) => index + 1));
    const map = mapOf(image, number);
    for (let y = 0, at = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++, at++) {
        if (!map[at] || !wanted.has(map[at])) continue;
        if (x < left) left = x;
        if (x > right) right = x;
        if (y < top) top = y;
        bottom = y;
      }
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

const aspectOf = (image) => image.width / image.height;

/**
 * A view of `compose`: the part of an image that is seen at a zoom, with (x, y) in its middle as far as it can be. A view
 * of another aspect than the image's has margins at zoom 1.
 */
function viewAt(image, zoom = 1, x = 0, y = 0, aspect = aspectOf(image)) {
  const width = Math.max(image.width, image.height * aspect) / zoom, height = width / aspect;
  const within = (middle, size, all) => (size > all ? (all - size) / 2 : Math.min(all - size, Math.max(0, middle - size / 2)));
  return { x: within(x, width, image.width), y: within(y, height, image.height), width, height };
}

/** A view with a box in its middle that fills about half of it; no closer than `most` times. */
function viewAround(image, box, most, aspect = aspectOf(image)) {
  const whole = viewAt(image, 1, 0, 0, aspect);
  const zoom = Math.max(1, Math.min(most, whole.width / box.width / 2, whole.height / box.height / 2));
  return viewAt(image, zoom, box.x + box.width / 2, box.y + box.height / 2, aspect);
}
