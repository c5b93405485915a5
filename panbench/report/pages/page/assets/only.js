// What one model finds and another does not: how much, and in which images, for the pair that is chosen.

const onlyTitle = (a, b) => `Images in which ${data.models[a].label} finds what ${data.models[b].label} does not`;

/** The section: how many true segments each of the pair finds alone, and the images in which most of them are. */
function onlyView(container, open) {
  const said = el("p", { "aria-live": "polite" }), place = rove(el("div"));
  const bit = (models, place_) => Math.floor(models / 2 ** place_) % 2 === 1;

  /** Of each image the segments that a finds and b does not, as a Map. */
  function alone(a, b) {
    const found = new Map();
    for (const [image, models, count] of data.only) if (bit(models, a) && !bit(models, b)) found.set(image, (found.get(image) ?? 0) + count);
    return found;
  }

  function draw() {
    const { a, b } = pair;
    const both = [[a, b], [b, a]].map(([one, other]) => ({ one, other, found: alone(one, other) }));
    const total = ({ found }) => [...found.values()].reduce((sum, count) => sum + count, 0);
    said.replaceChildren(el("span", {}, both.flatMap((side, index) => [index ? "; " : "", modelLabel(side.one), " finds ",
      opener(`only:${side.one}:${side.other}`, onlyTitle(side.one, side.other), `${whole(total(side))} true segments`, open),
      ` that ${data.models[side.other].label} does not, in ${whole(side.found.size)} images`]), "."));
    const images = [...new Set(both.flatMap(({ found }) => [...found.keys()]))];
    const most = (image) => Math.max(...both.map(({ found }) => found.get(image) ?? 0));
    images.sort((x, y) => most(y) - most(x) || x - y);
    const cell = ({ one, other, found }, image) => {
      const count = found.get(image) ?? 0;
      const key = `only:${one}:${other}`;
      if (!count || !open || !(data.live || data.leads[key]?.includes(image))) return whole(count);
      return el("button", { type: "button", class: "link", onclick: () => open(key, onlyTitle(one, other), image) }, whole(count));
    };
    place.replaceChildren(tableOf("Images in which one finds what the other does not", ["Image", ...both.map(({ one }) => el("span", {}, "only ", modelLabel(one)))],
      images.slice(0, LISTED).map((image) => [el("span", { class: "whole" }, `Image ${imageName(image)}`), ...both.map((side) => cell(side, image))]), { id: "only-images" }));
    if (images.length > LISTED) place.append(el("p", { class: "note" }, `The ${LISTED} images with most of ${whole(images.length)}.`));
  }
  container.append(el("div", { class: "bar" }, pair.box()), said, place);
  draw();
  pair.watch(draw);
}

const LISTED = 24; // images of the table
