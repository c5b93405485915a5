"""Makes a data set like COCO's val2017, without its photographs, and predictions of five models with known flaws.

    python scripts/make/coco_like.py DIR --images 500
    for model in alder birch cedar elm fir; do
        panbench score --gt DIR/gt.json --pred DIR/$model.json --images DIR/images --out DIR/results/$model
    done

480×640 pixels, COCO's 133 categories (frequent ones and rare ones), about 11 segments an image, crowds and void. What
is drawn is shapes; what is like COCO is the number and size of segments, so reports and timings are of its size.
`--distinct N` draws N scenes and links their files under as many ids as are asked for.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from panbench.datasets.convert import shipped_categories
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment

HEIGHT, WIDTH = 480, 640
IdMap = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Flaws:
    """The errors of a model: chances per segment, and the shift of boundaries in pixels.

    missed: of a thing; small: how much more of small ones; confused: right mask, wrong category; merged: of two things
    of a category; ghosts: false positives an image; stuff_missed: of a stuff segment
    """

    missed: float
    small: float
    confused: float
    merged: float
    ghosts: float
    stuff_missed: float
    thing_edge: float
    stuff_edge: float


MODELS = {
    "alder": Flaws(0.10, 2.0, 0.06, 0.02, 0.5, 0.06, 3.0, 5.0),
    "birch": Flaws(0.11, 2.0, 0.06, 0.03, 0.5, 0.06, 3.0, 5.0),
    "cedar": Flaws(0.08, 2.0, 0.07, 0.03, 0.7, 0.16, 2.5, 9.0),
    "elm": Flaws(0.15, 3.0, 0.09, 0.05, 0.9, 0.09, 4.0, 6.0),
    "fir": Flaws(0.21, 3.5, 0.13, 0.12, 1.2, 0.20, 5.0, 11.0),
}


def draw_scene(rng: np.random.Generator, known: Sequence[Category]) -> tuple[IdMap, list[Segment]]:
    """Returns an id map and its segments: two to five pieces of stuff, one to fourteen things, sometimes a crowd,
    some void.
    """
    things = [c.id for c in known if c.isthing]
    stuff = [c.id for c in known if not c.isthing]
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    wave = _smooth(rng, 60, 40.0)
    centres = rng.random((int(rng.integers(2, 6)), 2)) * [HEIGHT, WIDTH]
    far = np.stack([(ys + wave - y) ** 2 + 0.4 * (xs + wave - x) ** 2 for y, x in centres])
    ids = far.argmin(axis=0).astype(np.int32) + 1
    # A category of stuff has one segment an image, as in COCO.
    kinds = dict(enumerate(rng.choice(stuff, len(centres), replace=False, p=_frequencies(len(stuff))), 1))
    main = int(rng.choice(things, p=_frequencies(len(things))))
    number = min(14, 1 + int(rng.gamma(1.6, 2.6)))
    for index in range(number):
        category = main if rng.random() < 0.5 else int(rng.choice(things, p=_frequencies(len(things))))
        size = np.exp(rng.uniform(np.log(7), np.log(130)))
        y, x = rng.random(2) * [HEIGHT, WIDTH]
        turn, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        u = (xs - x) * np.cos(turn) + (ys - y) * np.sin(turn)
        v = (ys - y) * np.cos(turn) - (xs - x) * np.sin(turn)
        number_of_segment = len(centres) + 1 + index
        ids[np.hypot(u, v / flat) < size * (1 + 0.2 * np.sin(4 * np.arctan2(v, u) + x))] = number_of_segment
        kinds[number_of_segment] = category
    crowds = {len(centres) + number} if number > 6 and rng.random() < 0.4 else set()
    ids[int(HEIGHT * rng.uniform(0.94, 1)) :] = 0
    # Ids as COCO has them: 24 bits without an order.
    shuffled = rng.choice((1 << 24) - 1, len(kinds), replace=False).astype(np.int32) + 1
    ids = np.concatenate([[0], shuffled]).astype(np.int32)[ids]
    areas = count_ids(ids)
    found = [
        Segment(int(shuffled[key - 1]), int(kind), areas[int(shuffled[key - 1])], iscrowd=key in crowds)
        for key, kind in kinds.items()
        if int(shuffled[key - 1]) in areas
    ]
    return ids, found


def answer(
    rng: np.random.Generator, ids: IdMap, truth: Sequence[Segment], known: Sequence[Category], flaws: Flaws
) -> tuple[IdMap, list[Segment]]:
    """Simulates a model with these flaws on a scene; scores are higher for right segments, but not always."""
    isthing = {c.id: c.isthing for c in known}
    alike = {c.id: [o.id for o in known if o.isthing == c.isthing and o.id != c.id] for c in known}
    found = np.zeros_like(ids)
    segments: dict[int, Segment] = {}
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    warped = {
        thing: cv2.remap(
            ids.astype(np.float32), xs + _smooth(rng, 14, edge), ys + _smooth(rng, 14, edge), cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        ).astype(np.int32)
        for thing, edge in ((True, flaws.thing_edge), (False, flaws.stuff_edge))
    }  # fmt: skip
    merged_into: dict[int, int] = {}
    for segment in sorted(truth, key=lambda s: isthing[s.category_id]):
        thing = isthing[segment.category_id]
        chance = flaws.missed * (1 + flaws.small * (segment.area < 1500)) if thing else flaws.stuff_missed
        if segment.iscrowd or rng.random() < chance:
            continue
        category = segment.category_id
        wrong = rng.random() < flaws.confused
        if wrong:
            # Mostly for its neighbour in the list, which is of its kind.
            near = alike[category]
            place = min(range(len(near)), key=lambda n: abs(near[n] - category))
            category = near[place] if rng.random() < 0.7 else int(rng.choice(near))
        key = len(segments) + 1
        if thing and rng.random() < flaws.merged * 4:
            key = merged_into.get(category, key)
        merged_into.setdefault(category, key)
        # Stuff of one category is one segment.
        if not thing:
            key = next((other.id for other in segments.values() if other.category_id == category), key)
        mask = warped[thing] == segment.id
        if mask.any():
            found[mask] = key
            score = float(np.clip(rng.beta(5, 3) if wrong else rng.beta(8, 1.2), 0.05, 0.999))
            segments[key] = Segment(key, category, 1, score=round(score, 4))
    for _ in range(rng.poisson(flaws.ghosts)):
        y, x, size = int(rng.integers(0, HEIGHT - 30)), int(rng.integers(0, WIDTH - 30)), int(rng.integers(12, 70))
        key = max(segments, default=0) + 1
        found[y : y + size, x : x + size] = key
        kind = int(rng.choice([c.id for c in known if c.isthing]))
        segments[key] = Segment(key, kind, 1, score=round(float(np.clip(rng.beta(4, 4), 0.05, 0.999)), 4))
    areas = count_ids(found)
    return found, [replace(s, area=areas[key]) for key, s in segments.items() if key in areas]


def photograph(
    rng: np.random.Generator, ids: IdMap, truth: Sequence[Segment], known: Sequence[Category]
) -> npt.NDArray[np.uint8]:
    """Draws an image to look at: each segment in its category's colour, shaded and grainy."""
    colors = {c.id: c.color or (128, 128, 128) for c in known}
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.float32)
    for segment in truth:
        picture[ids == segment.id] = np.array(colors[segment.category_id], np.float32) * rng.uniform(0.6, 1)
    picture += _smooth(rng, 40, 18.0)[..., None] + rng.normal(0, 7, (HEIGHT, WIDTH, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_set(folder: Path, images: int, distinct: int, seed: int = 0) -> None:
    """Writes images, gt.json with its PNGs, and for each of MODELS a JSON with PNGs."""
    known = shipped_categories("coco")
    sides = ["gt", *MODELS]
    for name in ("images", *sides):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found: list[dict[str, list[Segment]]] = []
    for number in range(min(distinct, images)):
        rng = np.random.default_rng((seed, number))
        ids, truth = draw_scene(rng, known)
        cv2.imwrite(str(folder / "images" / f"{number + 1:012}.jpg"), photograph(rng, ids, truth, known)[..., ::-1])
        write_id_png(folder / "gt" / f"{number + 1:012}.png", ids)
        found.append({"gt": truth})
        for place, (name, flaws) in enumerate(MODELS.items()):
            answered, segments = answer(np.random.default_rng((seed, number, place)), ids, truth, known, flaws)
            write_id_png(folder / name / f"{number + 1:012}.png", answered)
            found[-1][name] = segments
    for number in range(len(found), images):
        for name, ending in (("images", "jpg"), *((side, "png") for side in sides)):
            target = folder / name / f"{number + 1:012}.{ending}"
            target.unlink(missing_ok=True)
            os.link(folder / name / f"{number % len(found) + 1:012}.{ending}", target)
    infos = {n + 1: ImageInfo(n + 1, f"{n + 1:012}.jpg", HEIGHT, WIDTH) for n in range(images)}
    for side in sides:
        annotations = {
            n + 1: Annotation(n + 1, f"{n + 1:012}.png", tuple(found[n % len(found)][side])) for n in range(images)
        }
        path = folder / f"{side}.json"
        write_panoptic_json(path, PanopticSet(known, infos, annotations, folder / side, path))


def _smooth(rng: np.random.Generator, cell: int, strength: float) -> npt.NDArray[np.float32]:
    """Returns (HEIGHT, WIDTH) noise whose bumps are about `cell` pixels wide."""
    coarse = rng.normal(0, strength, (HEIGHT // cell + 2, WIDTH // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def _frequencies(count: int) -> npt.NDArray[np.float64]:
    """Returns frequencies like COCO's: some categories are everywhere, most are rare."""
    weights = 1 / (np.arange(count) + 2.0) ** 0.9
    return weights / weights.sum()


def main() -> None:
    """Parses the arguments and writes the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--distinct", type=int, help="how many scenes are drawn; default: all")
    options = parser.parse_args()
    write_set(options.folder, options.images, options.distinct or options.images)


if __name__ == "__main__":
    main()
