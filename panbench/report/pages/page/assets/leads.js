// Leads: what a row of the page speaks of, and the segments of an image that show it.
//
// A lead's key (leads.py) is "category:C", "slice:SLICING:NAME", "taken:TRUE:PREDICTED" or "only:A:B"
// (found by model A and not by B), of places in data. What it speaks of is { model, category, cause, verdict, slice, taken,
// only, low, high }; what is null is open. A server's query has the same words; an error of the wall has a box besides, in
// fractions of the image.

const onlyTitle = (a, b) => `Images in which ${data.models[a].label} finds what ${data.models[b].label} does not`;

const OPEN = { model: null, category: null, cause: null, verdict: null, slice: null, taken: null, only: null, low: null, high: null, box: null };

/** What a lead speaks of; of several models the one of the chosen pair that it says most against. */
function spokenOf(key) {
  const [kind, ...rest] = key.split(":");
  const either = [...new Set([pair.a, pair.b])];
  /** The model of the pair with the largest value; one that is null is not asked. */
  const most = (value) => either.reduce((best, model) => ((value(model) ?? -Infinity) > (value(best) ?? -Infinity) ? model : best));
  const worst = (scores) => most((model) => (scores?.[model] === null || scores?.[model] === undefined ? null : -scores[model]));
  if (kind === "category") {
    const category = Number(rest[0]);
    return { ...OPEN, category, model: worst(data.perCategory.find((row) => row.category === category)?.scores.map(([PQ]) => PQ)) };
  }
  if (kind === "slice") {
    const slicing = [...data.slices, ...(data.own ?? [])].find(({ key: own }) => own === rest[0]);
    const place = slicing?.names.indexOf(rest.slice(1).join(":"));
    return { ...OPEN, slice: rest.join(":"), model: worst(slicing?.PQ.map((of) => of[place])) };
  }
  if (kind === "taken") {
    const counted = [data.confusion, data.objects].map((rows) => rows.find(([truth, predicted]) => `${truth}:${predicted}` === rest.join(":"))).find(Boolean);
    return { ...OPEN, taken: rest.join(":"), model: most((model) => counted?.[2][model]) };
  }
  if (kind === "only") return { ...OPEN, only: rest.join(":"), model: Number(rest[1]) };
  return null;
}

/** The error that an address names; null where it names none, or what is none. */
function errorOf({ error }) {
  try {
    return { ...OPEN, ...JSON.parse(error) };
  } catch {
    return null;
  }
}

/** What a server's query speaks of; null where it asks for nothing that segments could show. */
function spokenOfQuery(query) {
  const spoken = Object.fromEntries(Object.keys(OPEN).map((name) => [name, query[name] ?? null]));
  return Object.entries(spoken).some(([name, value]) => name !== "model" && value !== null) ? spoken : null;
}

/**
 * The places of an image that show what is spoken of in one model, the first to be looked at first: lists of segments
 * [[layer, index], …], what was missed together with what stands there instead.
 */
function placesOf(image, mapOf, spoken, model) {
  const layer = image.layers[1 + model], truth = image.layers[TRUTH], answers = image.answers[model];
  if (!layer || !answers) return [];
  if (spoken.only) return placesOnly(image, ...spoken.only.split(":").map(Number));
  if (spoken.taken) return placesTaken(image, mapOf, model, ...spoken.taken.split(":").map(Number));
  const all = [
    ...answers.flatMap(([verdict, iou, cause], index) => (verdict === "FN" ? [{ at: [TRUTH, index], verdict, iou, cause, segment: truth.segments[index] }] : [])),
    ...layer.segments.map((segment, index) => ({ at: [1 + model, index], verdict: segment.verdict, iou: segment.iou, cause: segment.cause, segment })),
  ].filter((one) => one.verdict !== "ignored");
  const inexact = data.causes.names.at(-1); // masks that were found and are not exact
  const ofCause = (one) => (spoken.cause === inexact ? one.verdict === "TP" && one.iou < 1 : one.cause === spoken.cause);
  const fits = all.filter((one) =>
    (spoken.category === null || one.segment.category === spoken.category) &&
    (spoken.cause === null || ofCause(one)) && (spoken.verdict === null || one.verdict === spoken.verdict) &&
    (spoken.low === null || one.iou >= spoken.low) && (spoken.high === null || one.iou <= spoken.high) &&
    (spoken.slice === null || inSlice(image, one.segment, spoken.slice)));
  const wrong = fits.filter(({ verdict }) => verdict !== "TP");
  // Errors are what is looked for; where none fits, what was found is shown.
  const shown = wrong.length ? wrong : fits.sort((a, b) => a.iou - b.iou);
  if (wrong.length) shown.sort((a, b) => b.segment.area - a.segment.area);
  const places = together(image, mapOf, shown.map(({ at }) => at));
  if (!spoken.box) return places;
  // Of an error that was asked for by its place: what lies there first. What is too small for a pixel here lies there.
  const unseen = shown.filter(({ at }) => !boxAround(image, mapOf, [at])).map(({ at }) => [at]);
  const near = new Map(places.map((place) => [place, boxIou(boxAround(image, mapOf, place), boxOf(image, spoken.box))]));
  return [...unseen, ...places.sort((a, b) => near.get(b) - near.get(a))];
}

/** A box in fractions of an image, in its pixels. */
const boxOf = (image, [x, y, width, height]) => ({ x: x * image.width, y: y * image.height, width: width * image.width, height: height * image.height });

/** Whether a segment belongs to the slice SLICING:NAME; slices of whole images hold all segments of them. */
function inSlice(image, segment, slice) {
  const [key, ...rest] = slice.split(":"), name = rest.join(":");
  if (key === "supercategory") return (data.categories[segment.category]?.super || "(none)") === name;
  const [low, high] = data.slices.find((slicing) => slicing.key === key)?.bounds?.[name] ?? [null, null];
  const value = key === "share" ? segment.area / image.pixels : segment.area;
  return (key !== "size" && key !== "share") || ((low === null || value >= low) && (high === null || value < high));
}

/** Segments of two layers that fill the same box are one place: what was missed, and what was said instead. */
function together(image, mapOf, segments) {
  const places = [];
  for (const segment of segments) {
    const box = boxAround(image, mapOf, [segment]);
    if (!box) continue;
    const partner = places.find((other) => other.segments[0][0] !== segment[0] && other.segments.length === 1 && boxIou(other.box, box) > 0.5);
    if (partner) partner.segments.push(segment);
    else places.push({ box, segments: [segment] });
  }
  return places.map(({ segments: own }) => own);
}

function boxIou(a, b) {
  const shared = (start, length) => Math.max(0, Math.min(a[start] + a[length], b[start] + b[length]) - Math.max(a[start], b[start]));
  const both = shared("x", "width") * shared("y", "height");
  return both / (a.width * a.height + b.width * b.height - both);
}

/** Where a model gives pixels of one category to another (−1: to none), most pixels first. */
function placesTaken(image, mapOf, model, true_, predicted) {
  const truth = mapOf(image, TRUTH), answer = mapOf(image, 1 + model), pixels = new Map();
  const trueHere = [false, ...image.layers[TRUTH].segments.map(({ category }) => category === true_)];
  const takenHere = [predicted < 0, ...image.layers[1 + model].segments.map(({ category }) => category === predicted)];
  const width = takenHere.length;
  for (let at = 0; at < truth.length; at++) {
    if (trueHere[truth[at]] && takenHere[answer[at]]) {
      const key = truth[at] * width + answer[at];
      pixels.set(key, (pixels.get(key) ?? 0) + 1);
    }
  }
  return [...pixels].sort((a, b) => b[1] - a[1]).map(([key]) => {
    const [of_truth, of_answer] = [Math.floor(key / width) - 1, (key % width) - 1];
    return [[TRUTH, of_truth], ...(of_answer < 0 ? [] : [[1 + model, of_answer]])];
  });
}

/** What model a found and model b did not, the largest first. */
function placesOnly(image, a, b) {
  const { segments } = image.layers[TRUTH], verdict = (model, index) => image.answers[model]?.[index][0];
  return segments.flatMap((_, index) => (verdict(a, index) === "TP" && verdict(b, index) === "FN" ? [[[TRUTH, index]]] : []))
    .sort((one, other) => segments[other[0][1]].area - segments[one[0][1]].area);
}

/** What a place shows, in words: "missed: person, 251 pixels", "person, taken for a bicycle". */
function placeInWords(image, place, model) {
  return place.map(([number, index]) => {
    const { category, verdict, cause, iou, area } = outcomeOf(image, number, index, model);
    const why = cause && cause !== "missed" ? ` (${cause})` : "";
    return `${categoryName(category)}: ${VERDICTS[verdict]}${why}${verdict === "TP" ? `, IoU ${iou.toFixed(2)}` : `, ${whole(area)} pixels`}`;
  }).join("; ");
}
