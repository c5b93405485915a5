"""Compares two runs' maps: the pixels that differ, the segments only one run has, and the images that differ most.

A segment of one run has a partner if one of the other has its category and IoU > 0.5 with it. A pixel is the same where
both maps are void there, or its segments are partners; a segment without a partner has flipped.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadRun
from panbench.panoptic.coco import read_ids
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import count_pairs
from panbench.panoptic.types import Annotation, PanopticSet
from panbench.report.answers.comparison import Standing
from panbench.report.answers.grid import Grid
from panbench.runs import Run, stored_predictions

WORST = 5
"""How many of the images with the most differing pixels the table names."""


def with_agreement(standing: Standing, runs: Sequence[Run]) -> Standing:
    """Extends a comparison of two runs by a table of how much their maps differ; JSON and CSV get a row per image."""
    found = agreement(*runs)
    own = [
        found.rename(columns={f"{column}_{index}": column for column in ("segments", "flipped")}).assign(run=key)
        for index, key in enumerate(standing.keys)
    ]
    columns = ["run", "image_id", "pixels", "differing", "segments", "flipped"]
    details = pd.concat(own, ignore_index=True)[columns]
    grids = (*standing.grids, _agreement_grid(found, standing.keys))
    return dataclasses.replace(standing, grids=grids, details={**standing.details, "maps": details})


def agreement(one: Run, other: Run) -> pd.DataFrame:
    """Compares the maps of two runs pixel by pixel; returns one row per image that both have, by image id.

    image_id, pixels, differing (pixels); segments_0 and flipped_0 count those of the first run, segments_1 and
    flipped_1 those of the second
    Raises BadRun for a run without predictions, or with a map of another size than the other run's.
    """
    maps = [_predictions_to_compare(run) for run in (one, other)]
    images = sorted(set(maps[0].annotations) & set(maps[1].annotations))
    if not images:
        raise BadRun(f"{one.name} and {other.name} have no predictions of the same image.")
    return pd.DataFrame([_image_agreement(image_id, *maps) for image_id in images])


def _predictions_to_compare(run: Run) -> PanopticSet:
    """Returns the stored predictions of a run. Raises BadRun if it has none."""
    found = stored_predictions(run)
    if found is None:
        raise BadRun(
            f"{run.name} has no stored predictions. Evaluate it again with `panbench eval --save-predictions`."
        )
    return found


def _image_agreement(image_id: int, one: PanopticSet, other: PanopticSet) -> dict[str, object]:
    """Counts the pixels and segments of an image that differ between two runs, as a row of `agreement`."""
    first, second = (read_ids(each, image_id, error=BadRun) for each in (one, other))
    if first.shape != second.shape:
        raise BadRun(f"The maps of image {own_id(image_id)} are {first.shape} and {second.shape} pixels large.")
    ids, others, shared = count_pairs(first, second)
    category, its = (_category_of_ids(each.annotations[image_id], own) for each, own in ((one, ids), (other, others)))
    (at, area), (its_at, its_area) = _pixels_by_id(ids, shared), _pixels_by_id(others, shared)
    partners = (category == its) & (ids > 0) & (others > 0) & (3 * shared > area[at] + its_area[its_at])
    same = partners | ((ids == 0) & (others == 0))
    row: dict[str, object] = {
        "image_id": own_id(image_id),
        "pixels": int(shared.sum()),
        "differing": int(shared[~same].sum()),
    }
    for index, own in enumerate((ids, others)):
        segments = np.unique(own[own > 0])
        row |= {f"segments_{index}": len(segments), f"flipped_{index}": len(np.setdiff1d(segments, own[partners]))}
    return row


def _category_of_ids(annotation: Annotation, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Returns the category id of each segment id; 0 for void."""
    of = {segment.id: segment.category_id for segment in annotation.segments}
    return np.array([of.get(number, 0) for number in ids.tolist()], np.int64)


def _pixels_by_id(
    ids: npt.NDArray[np.int32], pixels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums pixels by id. Returns the index of each input's sum, and the sums, one per distinct id."""
    names, at = np.unique(ids, return_inverse=True)
    return at, np.bincount(at, weights=pixels, minlength=len(names)).astype(np.int64)


def _agreement_grid(found: pd.DataFrame, names: Sequence[str]) -> Grid:
    """Tabulates how the maps differ over all images, and in the images with the most differing pixels."""
    worst = found.sort_values(["differing", "image_id"], ascending=[False, True], kind="stable")
    worst = worst[worst["differing"] > 0].head(WORST)
    total = found.drop(columns="image_id").sum()
    rows = [_agreement_row(f"all {len(found):,} images", total)]
    rows += [
        _agreement_row(f"image {image}", row)
        for image, (_, row) in zip(worst["image_id"], worst.iterrows(), strict=True)
    ]
    columns = ("", "pixels that differ", "of 1,000", *(f"flipped of {name}" for name in names))
    equal = "" if total["differing"] else "The maps are equal, pixel for pixel. "
    note = (
        f"{equal}A pixel is the same where its segments are of one category with IoU > 0.5, or both maps are void. A "
        "segment without such a partner has flipped."
    )
    return Grid(columns, tuple(rows), words=1, title=f"{names[0]} and {names[1]}, pixel by pixel", notes=(note,))


def _agreement_row(title: str, counts: "pd.Series[int]") -> tuple[str, ...]:
    """Returns a table row: how many pixels differ, their share, and how many segments of each run have no match."""
    share = 1000 * counts["differing"] / counts["pixels"]
    flips = (f"{counts[f'flipped_{index}']:,} of {counts[f'segments_{index}']:,}" for index in (0, 1))
    return title, f"{counts['differing']:,}", f"{share:.3f}", *flips
