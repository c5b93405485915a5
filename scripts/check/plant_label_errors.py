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
from panbench.report.answers.grid import as_markdown
from panbench.runs import load_run
from panbench.studies.relabel.answer import Relabelling, find_answers, relabel
from panbench.studies.relabel.page import write_relabelling

KINDS = ("renamed", "merged", "removed", "shifted")
SMALLEST = 100
Map = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Planted:
    """An error. segments: the ids that the set with errors has for what was changed; was: those that it had before."""

    kind: str
    image_id: int
    segments: tuple[int, ...]
    was: tuple[int, ...]
    category_id: int


def plant(truth: PanopticSet, out: Path, errors: int, seed: int) -> tuple[Path, list[Planted]]:
    """Writes the set with errors; the path of its JSON, and what was planted."""
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
        annotations[image_id] = _counted(annotation, ids)
        write_id_png(folder / annotation.file_name, ids)
    if wanted:
        raise SystemExit(f"{len(wanted)} of {errors} errors found no place: {', '.join(sorted(set(wanted)))}.")
    path = out / "annotations" / "panoptic_planted.json"
    write_panoptic_json(path, PanopticSet(truth.categories, truth.images, annotations, folder, path))
    write_json(out / "planted.json", [vars(error) for error in planted])
    return path, planted


def _counted(annotation: Annotation, ids: Map) -> Annotation:
    areas = count_ids(ids)
    kept = tuple(
        replace(segment, area=areas[segment.id], bbox=None) for segment in annotation.segments if segment.id in areas
    )
    return replace(annotation, segments=kept)


Made = tuple[Map, Annotation, Planted]


def _things(annotation: Annotation, things: Sequence[int]) -> list[Segment]:
    return [
        segment
        for segment in annotation.segments
        if segment.category_id in things and not segment.iscrowd and segment.area >= SMALLEST
    ]


def _renamed(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    candidates = _things(annotation, things)
    if not candidates:
        return None
    chosen = candidates[rng.integers(len(candidates))]
    others = [category_id for category_id in things if category_id != chosen.category_id]
    name = int(others[rng.integers(len(others))])
    segments = tuple(replace(s, category_id=name) if s.id == chosen.id else s for s in annotation.segments)
    error = Planted("renamed", annotation.image_id, (chosen.id,), (chosen.id,), chosen.category_id)
    return ids, replace(annotation, segments=segments), error


def _merged(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    candidates = _things(annotation, things)
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


def _removed(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    candidates = _things(annotation, things)
    if not candidates:
        return None
    chosen = candidates[rng.integers(len(candidates))]
    behind = _behind(ids, annotation, chosen.id, things)
    if behind is None:
        return None
    changed = np.where(ids == chosen.id, behind, ids).astype(np.int32)
    return changed, annotation, Planted("removed", annotation.image_id, (), (chosen.id,), chosen.category_id)


def _shifted(rng: np.random.Generator, ids: Map, annotation: Annotation, things: Sequence[int]) -> Made | None:
    candidates = _things(annotation, things)
    if not candidates:
        return None
    chosen = candidates[rng.integers(len(candidates))]
    behind = _behind(ids, annotation, chosen.id, things)
    if behind is None:
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
    error = Planted("shifted", annotation.image_id, (chosen.id,), (chosen.id,), chosen.category_id)
    return changed, annotation, error


_PLANTERS = {"renamed": _renamed, "merged": _merged, "removed": _removed, "shifted": _shifted}


def _behind(ids: Map, annotation: Annotation, segment_id: int, things: Sequence[int]) -> int | None:
    """The stuff segment that a segment shares the longest border with; None where it touches none."""
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
    """For each suspect of A the number of the error that it found, -1 for a false alarm."""
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
    """Plants, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for each seed's set and page")
    parser.add_argument("--errors", type=int, default=40)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated; ranks are those of the first")
    parser.add_argument("--write", type=Path, help="a document with the lines <!-- planted --> and <!-- /planted -->")
    arguments = parser.parse_args()
    answers = find_answers(arguments.runs)
    dataset = load_run(arguments.runs[0]).info.dataset
    if dataset.gt is None:
        raise SystemExit(f"{arguments.runs[0]} does not say where its ground truth is.")
    truth = read_panoptic_json(dataset.gt, dataset.gt_dir)
    photos = Path(dataset.images) if dataset.images else None
    head = "| seed | of the list's top | found | " + " | ".join(KINDS) + " | false alarms | found again |"
    lines = [head, "| ---: " * (5 + len(KINDS)) + "|"]
    ranks: list[str] = []
    for seed in map(int, arguments.seeds.split(",")):
        out = arguments.out / f"seed{seed}"
        path, planted = plant(truth, out, arguments.errors, seed)
        found = relabel(read_panoptic_json(path), truth, answers)
        write_relabelling(found, out / "page", images=photos)
        numbers = hits_of(found, planted)
        for top in (arguments.errors // 2, arguments.errors, 2 * arguments.errors):
            hits = [number for number in numbers[:top] if number >= 0]
            told = set(hits)
            of_kind = (
                f"{sum(planted[n].kind == kind for n in told)} of {sum(error.kind == kind for error in planted)}"
                for kind in KINDS
            )
            wrong = len(numbers[:top]) - len(hits)
            lines.append(
                f"| {seed} | {top} | {len(told)} of {len(planted)} | {' | '.join(of_kind)} | {wrong} | "
                f"{len(hits) - len(told)} |"
            )
        if not ranks:
            ranks = [as_markdown(replace(grid, notes=())) for grid in found.grids(0)] + [f"{found.sentence}\n"]
    first = arguments.seeds.split(",")[0]
    text = "\n".join([*lines, "", f"Ranks of seed {first}, A with the errors and B without:", "", *ranks])
    print(text)
    if arguments.write:
        document = arguments.write.read_text("utf-8")
        begin, end = "<!-- planted -->", "<!-- /planted -->"
        before, rest = document.split(begin)
        arguments.write.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")


if __name__ == "__main__":
    main()
