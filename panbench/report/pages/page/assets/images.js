// Where the examples come from: those packed into this file, or, from `panbench serve`, all images of the runs.

const MAPS = 64; // decoded index maps that are kept, 600 kB each at the size that pages have
const PHOTOS = 8; // decoded photographs

/** A function whose last `most` results are kept, those that were asked for last. */
function keeping(most, make) {
  const kept = new Map();
  return (key, ...rest) => {
    const found = kept.has(key) ? kept.get(key) : make(key, ...rest);
    kept.delete(key);
    kept.set(key, found);
    if (kept.size > most) kept.delete(kept.keys().next().value);
    return found;
  };
}

/** What both kinds share: records with their numbers, scores and decoded maps. `ask.find` gives {found, total}. */
function imageStore(records) {
  const images = [];
  const placeOf = new Map();
  const row = new Map(data.images.ids.map((id, index) => [id, index]));
  const scores = [];
  const mapOfLayer = keeping(MAPS, (layer, size) => decodeRuns(layer.runs, size));
  const add = (image) => {
    const place = placeOf.get(image.id);
    if (place === undefined) {
      placeOf.set(image.id, images.length);
      images.push(image);
      scores.push(data.images.PQ.map((of) => of[row.get(image.id)] ?? null));
    } else if (images[place].part) images[place] = image; // a thumbnail gives way to another, or to the whole
    return placeOf.get(image.id);
  };
  records.forEach(add);
  return {
    images, scores, placeOf, add, row,
    mapOf: (image, number) => mapOfLayer(image.layers[number], image.width * image.height),
    /** The photograph of an image; `complete` tells whether it can be drawn at once. */
    photoOf: keeping(PHOTOS, (image) => {
      const photo = new Image();
      photo.src = image.photo;
      return photo;
    }),
  };
}

const known = (values) => values.filter((value) => value !== null);

/** The examples that are packed into this file. */
function packedImages() {
  const store = imageStore(JSON.parse(document.getElementById("pictures").textContent));
  const { images, scores, placeOf } = store;
  const causesOf = (image) => new Set([
    ...image.layers.slice(1).flatMap((layer) => (layer ? layer.segments.map((segment) => segment.cause) : [])),
    ...image.answers.flatMap((answers) => (answers ? answers.map(([, , cause]) => cause) : [])),
  ].filter(Boolean));
  const categoriesOf = (image) => new Set(image.layers.flatMap((layer) => (layer ? layer.segments.map((segment) => segment.category) : [])));
  const mean = (values) => (known(values).length ? average(known(values)) : 2);
  const spread = (values) => (known(values).length > 1 ? Math.max(...known(values)) - Math.min(...known(values)) : -1);
  const keys = { model: (index) => scores[index][pair.a] ?? 2, worst: (index) => mean(scores[index]), differ: (index) => -spread(scores[index]), best: (index) => -mean(scores[index]) };
  return {
    ...store,
    live: false,
    withPictures: data.models.map((_, model) => model).filter((model) => images.some((image) => image.layers[1 + model])),
    categories: [...new Set(images.flatMap((image) => [...categoriesOf(image)]))].filter((category) => category >= 0),
    causes: data.causes.names.filter((name) => images.some((image) => causesOf(image).has(name))),
    orders: [["chosen", "most telling"], ["model", "worst of the model"], ["worst", "worst PQ"], ...(data.models.length > 1 ? [["differ", "largest disagreement"]] : []), ["best", "best PQ"]],
    has: (id) => placeOf.has(id),
    load: (id) => placeOf.get(id),
    find: ({ lead, category, cause, order }) => {
      const among = lead ? (data.leads[lead.key] ?? []).map((id) => placeOf.get(id)) : images.map((_, index) => index);
      const found = among.filter((index) =>
        (category === null || categoriesOf(images[index]).has(category)) && (cause === null || causesOf(images[index]).has(cause)));
      if (keys[order]) found.sort((a, b) => keys[order](a) - keys[order](b));
      return { found, total: found.length, all: images.length };
    },
  };
}

/** Asks the server that sent this page. */
async function askServer(path, words) {
  const answer = await fetch(`/api/${path}?${data.live.api}&${new URLSearchParams(given(words))}`);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

/** What the server finds, or nothing and why. */
const foundOrWhy = (asked) => asked.catch((problem) => ({ errors: [], examples: [], total: 0, all: 0, faults: [`The server did not answer: ${problem.message}`] }));

/** All images, from the server that sent this page: thumbnails of a list, and the whole of an image that is opened. */
function servedImages() {
  const { pictures, categories, causes, slices, orders } = data.live;
  const store = imageStore([]);
  return {
    ...store,
    live: true,
    withPictures: data.models.map((_, model) => model).filter((model) => pictures[model]),
    categories, causes, slices, orders,
    has: (id) => store.row.has(id),
    load: async (id) => {
      const place = store.placeOf.get(id);
      return place === undefined || store.images[place].part ? store.add(await askServer("example", { image: id })) : place;
    },
    find: async (state, offset, limit) => {
      const { total, examples, faults } = await foundOrWhy(askServer("find", { ...wordsOf(state), offset, limit }));
      return { found: examples.map(store.add), total, all: store.row.size, faults };
    },
  };
}

/** What a query of the server is, as the words of an address; what excludes nothing is left out. */
const wordsOf = ({ category, cause, verdict, model, slice, low, high, differ, taken, only, order }) => given({ category, cause, verdict, model, slice, low, high, differ, taken, only, order });

/** The query of the server that shows the images of a lead. */
function queryOfLead(key) {
  const [kind, ...rest] = key.split(":");
  if (kind === "category") return { category: Number(rest[0]) };
  if (kind === "slice") return { slice: rest.join(":") };
  return { [kind]: rest.join(":") };
}
