"""The wall of errors: which single errors of each model the page displays as crops, and what to fix first.

A page cannot hold all errors. For each model it includes those of the rows to fix first, six of each, then the
costliest of all, and of each cause; every crop takes some kilobytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PanbenchError
from panbench.metrics.errors import CAUSES, codes
from panbench.metrics.fixes import SIZES, in_cell
from panbench.metrics.slices import ImageSlices
from panbench.panoptic.image_ids import name_of
from panbench.report.answers.fixes import FIRST
from panbench.report.answers.tables import comparison_rows
from panbench.report.answers.views import Compared, members_of
from panbench.report.figures.crops import errors_of
from panbench.report.figures.cutting import PricedError
from panbench.report.figures.pictures import Pictures
from panbench.report.pages.page.packing import Examples
from panbench.report.pages.page.section import shortened
from panbench.runs import Run

Int = npt.NDArray[np.int64]

MOST = 375
"""Maximum crops of a page over all models: enough for five models with six in each row of what to fix first."""

LEAST_OF_A_MODEL, MOST_OF_A_MODEL = 24, 100
"""Bounds for the crops of one model: fewer if there are many models."""

OF_A_ROW = 6
"""Number of crops for each row of what to fix first."""

COSTLIEST = 12
"""Number of a model's costliest errors that are always included: those that are printed."""


@dataclass(frozen=True)
class Wall:
    """The pictures of errors on a page.

    missing: a sentence on what could not be read
    errors: records for the page's JSON; totals: number of errors of each model; slices: names of the user's own
    """

    errors: tuple[dict[str, Any], ...] = ()
    totals: tuple[int, ...] = ()
    slices: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """Returns the page's pictures of errors for its JSON, with the number of errors by model and slice names."""
        return {
            "sizes": list(SIZES),
            "errors": list(self.errors),
            "totals": list(self.totals),
            "slices": list(self.slices),
        }


def errors_to_show(member: Compared, most: int) -> list[PricedError]:
    """Returns at most `most` errors of a run for the page, the costliest first: some of each kind.

    Of each row of what to fix first, of all errors, and of each cause.
    """
    errors = member.priced
    of_rows = [
        np.flatnonzero(in_cell(errors, row.cause, row.size))[:OF_A_ROW]
        for row in member.to_fix.head(FIRST).itertuples(index=False)
    ]
    kinds = codes(errors["cause"], [cause.name for cause in CAUSES])
    of_causes = [np.flatnonzero(kinds == position)[:most] for position in range(len(CAUSES))]
    costliest = np.arange(min(COSTLIEST, len(errors)))
    indices = np.unique(np.concatenate([*of_rows, *of_causes, costliest]))
    found = dict(zip(indices.tolist(), errors_of(errors.iloc[indices]), strict=True))
    # One of each row, the printed errors, then the rows in turns: with little room each row has its share.
    first = [row[0] for row in of_rows if len(row)]
    chosen: dict[tuple[Any, ...], PricedError] = {}
    for position in chain(first, costliest, _in_turn(of_rows), _in_turn(of_causes)):
        if len(chosen) == most:
            break
        one = found[int(position)]
        # Not the row itself: its IoU may be NaN, which equals nothing.
        chosen.setdefault((one.image_id, one.cause, one.gt_ids, one.pred_ids), one)
    return sorted(chosen.values(), key=lambda one: -one.gain)


def _in_turn(parts: Sequence[Int]) -> Iterator[int]:
    """Yields one item of each list in turns."""
    return (index for turn in zip_longest(*parts) for index in turn if index is not None)


def errors_of_page(examples: Examples) -> dict[int, list[tuple[int, PricedError]]]:
    """Returns the errors whose pictures the page displays, by image, each as (index of its run, error).

    Only runs that stored predictions have any.
    """
    held = [index for index, source in enumerate(examples.sources) if source is not None]
    most = min(max(MOST // max(len(held), 1), LEAST_OF_A_MODEL), MOST_OF_A_MODEL)
    found: dict[int, list[tuple[int, PricedError]]] = {}
    for index in held:
        for one in errors_to_show(examples.members[index], most):
            found.setdefault(one.image_id, []).append((index, one))
    return found


def costliest_crop(run: Run) -> dict[str, Any] | None:
    """Returns a picture of a run's costliest error, as JSON for a page; None without error or picture.

    Its keys are those of `crop_record`.
    """
    (member,) = members_of([run], comparison_rows([run]))
    error = next(errors_of(member.priced.head(1)), None)
    examples = Examples([member], Pictures(run))
    if error is None or examples.sources[0] is None:
        return None
    try:
        return examples.crops(error.image_id, [(0, error)])[0]
    except PanbenchError:
        return None


def make_wall(
    members: Sequence[Compared],
    errors: Mapping[int, Sequence[tuple[int, PricedError]]],
    crops: Mapping[int, Any],
    slices: Sequence[ImageSlices] = (),
) -> Wall:
    """Returns the pictures of errors for a page.

    crops: for each image of `errors` its records, or why it has none; slices: the user's own
    """
    if not crops:
        # The examples report the reason.
        return Wall()
    categories = {category.id: position for position, category in enumerate(members[0].categories)}
    faults = [found for found in crops.values() if isinstance(found, str)]
    chosen = [
        {"model": index, **error_record(error, categories), **record, "slices": _own_slice_indices(image_id, slices)}
        for image_id, found in crops.items()
        if not isinstance(found, str)
        for (index, error), record in zip(errors[image_id], found, strict=True)
    ]
    chosen.sort(key=lambda one: (one["model"], -one["gain"]))
    missing = (f"{len(faults)} images of errors are left out; the first: {faults[0]}",) if faults else ()
    names = tuple(f"{own.name}: {name}" for own in slices for name in own.images)
    return Wall(tuple(chosen), tuple(member.totals.errors for member in members), names, missing)


def fix_first_numbers(members: Sequence[Compared]) -> list[list[dict[str, Any]]]:
    """Returns for each model the kinds of error to fix first, for the page's scripts."""
    causes = [cause.name for cause in CAUSES]
    position = {category.id: column for column, category in enumerate(members[0].categories)}
    return [
        [
            {
                "cause": causes.index(row.cause),
                "size": SIZES.index(row.size),
                **dict(zip(("gain", "low", "high"), shortened([row.gain, row.low, row.high]), strict=True)),
                "errors": int(row.errors),
                "images": int(row.images),
                "categories": [
                    [position[one], shortened([gain])[0], errors] for one, gain, errors in row.categories[:OF_A_ROW]
                ],
            }
            for row in member.to_fix.head(FIRST).itertuples(index=False)
        ]
        for member in members
    ]


def _own_slice_indices(image_id: int, slices: Sequence[ImageSlices]) -> list[int]:
    """Returns the indices of the user's slices (sets of images) that contain an image.

    An index counts through the slices of all slicings, one slicing after the other.
    """
    all_slices = [images for own in slices for images in own.images.values()]
    return [index for index, images in enumerate(all_slices) if image_id in images]


def error_record(error: PricedError, categories: Mapping[int, int]) -> dict[str, Any]:
    """Returns a segmentation error (such as a missed segment) as JSON for the page's JavaScript.

    categories: index of each category, by id
    """
    return {
        "image": error.image_id,
        **name_of(error.image_id),
        "cause": [cause.name for cause in CAUSES].index(error.cause),
        "category": categories[error.category_id],
        "size": SIZES.index(error.size),
        "gain": float(f"{error.gain:.4g}"),
        "iou": None if error.iou != error.iou else round(error.iou, 4),
    }
