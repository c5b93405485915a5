"""Plants label errors into a panoptic set, and counts what `panbench relabel` finds of them.

    python scripts/check/plant_label_errors.py RUN RUN RUN --out DIR [--errors 40] [--seeds 0,1,2] \
        [--write docs/relabel.md]

The ground truth of the runs, believed to be right as that of `shapes` is, gets errors of four kinds, as many of each,
at most one an image. Which things they befall is chosen at random among those of at least 100 pixels that are no
crowd: what the models make of them plays no part.

    renamed   the thing gets another thing's category
    merged    two things of one category become one segment
    removed   the thing is gone; its pixels go to the stuff that it touches most
    shifted   its mask is moved by 60 % of its width or height; what it leaves goes to the stuff that it touches most

A suspect counts as found when it names a segment of the error, or when the models' segment is (IoU > 0.5) one that the
error befell, or when the error changed the mask of the segment that it names (IoU with what it was below 0.9): a mask
that is shifted over another spoils that one, too. All others are false alarms. --write puts the tables into a document,
between its lines `<!-- planted -->` and `<!-- /planted -->`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.files import write_json
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png, write_panoptic_json
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import Annotation, PanopticSet, Segment
from panbench.runs import load_run
from panbench.studies.relabel.answer import Relabelling, find_predictions, relabel
from panbench.studies.relabel.page import write_relabelling
from scripts.make.markdown_tables import table, write_between

KINDS = ("renamed", "merged", "removed", "shifted")
SMALLEST = 100
Map = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Planted:
    """A planted error. segments: the changed ids in the set with errors; was: those ids before"""

    kind: str
    image_id: int
    segments: tuple[int, ...]
    was: tuple[int, ...]
    category_id: int


def plant(truth: PanopticSet, out: Path, errors: int, seed: int) -> tuple[Path, list[Planted]]:
    """Writes the set with errors; returns the path of its JSON, and the planted errors."""
    rng = np.random.default_rng(seed)
    things = [category.id for category in truth.categories if category.isthing]
    order = [int(image_id) for image_id in rng.permutation(sorted(truth.annotations))]
    wanted = [KINDS[number % len(KINDS)] for number in range(errors)]
    planted: list[Planted] = []
    annotations = dict(truth.annotations)
    folder = out / "annotations" / "panoptic_planted"
    for image_id in order:
        annotation = truth.annotations[image_id]
        info = truth.images[image_id]
        ids = read_id_png(truth.png_path(image_id), (info.height, info.width))
        if wanted:
            made = _PLANTERS[wanted[0]](rng, ids, annotation, things)
            if made is not None:
                ids, annotation, error = made
                wanted.pop(0)
                planted.append(error)
        annotations[image_id] = _with_areas_of_map(annotation, ids)
        write_id_png(folder / annotation.file_name, ids)
    if wanted:
        raise SystemExit(f"{len(wanted)} of {errors} errors found no place: {', '.join(sorted(set(wanted)))}.")
    path = out / "annotations" / "panoptic_planted.json"
    write_panoptic_json(path, PanopticSet(truth.categories, truth.images, annotations, folder, path))
    write_json(out / "planted.json", [vars(error) for error in planted])
    return path, planted


def _with_areas_of_map(annotation: Annotation, ids: Map) -> Annotation:
    areas = count_ids(ids)
    kept = tuple(
        replace(segment, area=areas[segment.id], bbox=None) for segment in annotation.segments if segment.id in areas
    )
    return replace(annotation, segments=kept)


Made = tuple[Map, Annotation, Planted]


def _large_things(annotation: Annotation, things: Sequence[int]) -> list[Segment]:
    return [
        segment
        for segment in annotation.segments
        if segment.category_id in things and not segment.iscrowd and segment.area >= SMALLEST
    ]


def _random_thing(rng: np.random.Generator, annotation: Annotation, things: Sequence[int]) -> Segment | None:
    candidates = _large_things(annotation, things)
    return candidates[rng.integers(len(candidates))] if candidates else None


def _record_of(kind: str, annotation: Annotation, chosen: Segment, segments: Sequence[int]) -> Planted:
    return Planted(kind, annotation.image_id, tuple(segments), (chosen.id,), chosen.category_id)


def _rename_one(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    chosen = _random_thing(rng, annotation, things)
    if chosen is None:
        return None
    others = [category_id for category_id in things if category_id != chosen.category_id]
    name = int(others[rng.integers(len(others))])
    segments = tuple(replace(s, category_id=name) if s.id == chosen.id else s for s in annotation.segments)
    return ids, replace(annotation, segments=segments), _record_of("renamed", annotation, chosen, [chosen.id])


def _merge_two(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    candidates = _large_things(annotation, things)
    pairs = [
        (one, other)
        for place, one in enumerate(candidates)
        for other in candidates[place + 1 :]
        if one.category_id == other.category_id
    ]
    if not pairs:
        return None
    one, other = pairs[rng.integers(len(pairs))]
    ids = np.where(ids == other.id, one.id, ids).astype(np.int32)
    error = Planted("merged", annotation.image_id, (one.id,), (one.id, other.id), one.category_id)
    return ids, annotation, error


def _remove_one(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    chosen = _random_thing(rng, annotation, things)
    if chosen is None or (behind := _stuff_behind(ids, annotation, chosen.id, things)) is None:
        return None
    changed = np.where(ids == chosen.id, behind, ids).astype(np.int32)
    return changed, annotation, _record_of("removed", annotation, chosen, [])


def _shift_one(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    chosen = _random_thing(rng, annotation, things)
    if chosen is None or (behind := _stuff_behind(ids, annotation, chosen.id, things)) is None:
        return None
    mask = ids == chosen.id
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    down = round(0.6 * len(range(rows[0], rows[-1] + 1))) * int(rng.choice([-1, 1]))
    right = round(0.6 * len(range(columns[0], columns[-1] + 1))) * int(rng.choice([-1, 1]))
    if rng.integers(2):
        down = 0
    else:
        right = 0
    moved = np.zeros_like(mask)
    y, x = np.nonzero(mask)
    y, x = y + down, x + right
    inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
    if inside.mean() < 0.7:  # else it would be a cut as well
        return None
    moved[y[inside], x[inside]] = True
    changed = np.where(mask, behind, ids)
    changed = np.where(moved, chosen.id, changed).astype(np.int32)
    return changed, annotation, _record_of("shifted", annotation, chosen, [chosen.id])


_PLANTERS = {"renamed": _rename_one, "merged": _merge_two, "removed": _remove_one, "shifted": _shift_one}


def _stuff_behind(ids: Map, annotation: Annotation, segment_id: int, things: Sequence[int]) -> int | None:
    """Returns the stuff segment with the longest border to a segment; None if it touches none."""
    mask = ids == segment_id
    touched: list[npt.NDArray[np.int32]] = []
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        touched += [ids[one][mask[other] & ~mask[one]], ids[other][mask[one] & ~mask[other]]]
    stuff = {segment.id for segment in annotation.segments if segment.category_id not in things}
    values, counts = np.unique(np.concatenate(touched), return_counts=True)
    known = [(int(count), int(value)) for value, count in zip(values, counts, strict=True) if int(value) in stuff]
    return max(known)[1] if known else None


def hits_of(found: Relabelling, planted: Sequence[Planted]) -> list[int]:
    """Returns for each suspect of A the index of the error that it found, -1 for a false alarm."""
    by_image = {error.image_id: number for number, error in enumerate(planted)}
    now, before = found.truths
    numbers = []
    for row in found.suspects[0][:200].itertuples():
        number = by_image.get(int(row.image_id), -1)
        numbers.append(number if number >= 0 and _is_hit(row, planted[number], found, now, before) else -1)
    return numbers


def _is_hit(row: Any, error: Planted, found: Relabelling, now: PanopticSet, before: PanopticSet) -> bool:
    if row.kind != "unlabelled" and row.segment_id in error.segments:
        return True
    ids, was = (read_id_png(side.png_path(error.image_id)) for side in (now, before))
    if row.kind != "unlabelled" and _iou(ids == row.segment_id, was == row.segment_id) < 0.9:
        return True
    for answer, segment in zip(found.answers, row.answers, strict=False):
        if segment:
            mask = read_id_png(answer.panoptic.png_path(error.image_id)) == segment
            return any(_iou(mask, was == befallen) > 0.5 for befallen in error.was)
    return False


def _iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def main() -> None:
    """Plants errors, scores and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for each seed's set and page")
    parser.add_argument("--errors", type=int, default=40)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--write", type=Path, help="a document with the lines <!-- planted --> and <!-- /planted -->")
    arguments = parser.parse_args()
    answers = find_predictions(arguments.runs)
    dataset = load_run(arguments.runs[0]).info.dataset
    if dataset.gt is None:
        raise SystemExit(f"{arguments.runs[0]} does not say where its ground truth is.")
    truth = read_panoptic_json(dataset.gt, dataset.gt_dir)
    photos = Path(dataset.images) if dataset.images else None
    rows: list[list[str]] = []
    for seed in map(int, arguments.seeds.split(",")):
        out = arguments.out / f"seed{seed}"
        path, planted = plant(truth, out, arguments.errors, seed)
        found = relabel(read_panoptic_json(path), truth, answers)
        write_relabelling(found, out / "page", images=photos)
        numbers = hits_of(found, planted)
        for top in (arguments.errors // 2, arguments.errors, 2 * arguments.errors):
            hits = [number for number in numbers[:top] if number >= 0]
            told = set(hits)
            of_kind = [sum(planted[n].kind == kind for n in told) for kind in KINDS]
            wrong = len(numbers[:top]) - len(hits)
            rows.append([str(n) for n in (seed, top, len(told), *of_kind, wrong, len(hits) - len(told))])
    each = [f"{kind} of {sum(error.kind == kind for error in planted)}" for kind in KINDS]
    heads = ["seed", "of the list's top", f"found of {len(planted)}", *each, "false alarms", "found again"]
    text = table(heads, rows)
    print(text)
    if arguments.write:
        write_between(arguments.write, "<!-- planted -->", "<!-- /planted -->", text)


if __name__ == "__main__":
    main()
