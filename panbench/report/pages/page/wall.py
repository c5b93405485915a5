"""The wall of errors: which single errors of each model the page shows, cut out of their images, and what to fix first.

A page cannot hold all errors. Of each model it keeps those of the rows that are to be fixed first, six of each, then
the costliest of all, and of each cause; every crop is some kilobytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.metrics.errors import CAUSES, codes
from panbench.metrics.fixes import SIZES, of_cell
from panbench.metrics.image_slices import ImageSlices
from panbench.panoptic.image_ids import name_of
from panbench.report.answers.fixes import FIRST
from panbench.report.answers.views import Compared
from panbench.report.figures.crops import errors_of
from panbench.report.figures.cutting import PricedError
from panbench.report.pages.page.gallery import Examples
from panbench.report.pages.page.shortened import shortened

__all__ = ["OF_A_ROW", "Wall", "error_record", "errors_of_page", "errors_to_show", "fix_numbers", "make_wall"]

Int = npt.NDArray[np.int64]

MOST = 375
"""So many crops a page has at most, of all models together: of five models each row of what to fix first has six."""

LEAST_OF_A_MODEL, MOST_OF_A_MODEL = 24, 100
"""Of one model: fewer where there are many models."""

OF_A_ROW = 6
"""So many crops stand with each row of what to fix first."""

COSTLIEST = 12
"""So many of a model's costliest errors are kept whatever they are: those that are printed."""


@dataclass(frozen=True)
class Wall:
    """The crops of a page. missing: a sentence on what could not be read.

    errors: records for the page's JSON; totals: how many errors each model has; slices: names of the user's own
    """

    errors: tuple[dict[str, Any], ...] = ()
    totals: tuple[int, ...] = ()
    slices: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """For the page's JSON."""
        return {
            "sizes": list(SIZES),
            "errors": list(self.errors),
            "totals": list(self.totals),
            "slices": list(self.slices),
        }


def errors_to_show(member: Compared, most: int) -> list[PricedError]:
    """At most `most` errors of a run, the costliest first: of what to fix first, the costliest, and of each cause."""
    errors = member.priced
    of_rows = [
        np.flatnonzero(of_cell(errors, row.cause, row.size))[:OF_A_ROW]
        for row in member.to_fix.head(FIRST).itertuples(index=False)
    ]
    kinds = codes(errors["cause"], [cause.name for cause in CAUSES])
    of_causes = [np.flatnonzero(kinds == place)[:most] for place in range(len(CAUSES))]
    costliest = np.arange(min(COSTLIEST, len(errors)))
    places = np.unique(np.concatenate([*of_rows, *of_causes, costliest]))
    found = dict(zip(places.tolist(), errors_of(errors.iloc[places]), strict=True))
    # One of each row, what is printed, and the rows in turns: with little room each row has its share.
    first = [row[0] for row in of_rows if len(row)]
    chosen: dict[tuple[Any, ...], PricedError] = {}
    for place in chain(first, costliest, _in_turn(of_rows), _in_turn(of_causes)):
        if len(chosen) == most:
            break
        one = found[int(place)]
        # Not the row itself: its IoU may be NaN, which no other NaN equals.
        chosen.setdefault((one.image_id, one.cause, one.gt_ids, one.pred_ids), one)
    return sorted(chosen.values(), key=lambda one: -one.gain)


def _in_turn(parts: Sequence[Int]) -> Iterator[int]:
    """One of each part in turns."""
    return (place for turn in zip_longest(*parts) for place in turn if place is not None)


def errors_of_page(examples: Examples) -> dict[int, list[tuple[int, PricedError]]]:
    """(place of its run, error) of all crops of a page by image, of every run that kept predictions."""
    held = [index for index, source in enumerate(examples.sources) if source is not None]
    most = min(max(MOST // max(len(held), 1), LEAST_OF_A_MODEL), MOST_OF_A_MODEL)
    found: dict[int, list[tuple[int, PricedError]]] = {}
    for index in held:
        for one in errors_to_show(examples.members[index], most):
            found.setdefault(one.image_id, []).append((index, one))
    return found


def make_wall(
    members: Sequence[Compared],
    errors: Mapping[int, Sequence[tuple[int, PricedError]]],
    crops: Mapping[int, Any],
    slices: Sequence[ImageSlices] = (),
) -> Wall:
    """The crops of a page. crops: of each image of `errors` its records, or why it has none; slices: the user's own."""
    if not crops:
        # The examples say why.
        return Wall()
    categories = {category.id: place for place, category in enumerate(members[0].categories)}
    faults = [found for found in crops.values() if isinstance(found, str)]
    shown = [
        {"model": index, **error_record(error, categories), **record, "slices": _slices_of(image_id, slices)}
        for image_id, found in crops.items()
        if not isinstance(found, str)
        for (index, error), record in zip(errors[image_id], found, strict=True)
    ]
    shown.sort(key=lambda one: (one["model"], -one["gain"]))
    missing = (f"{len(faults)} images of errors are left out; the first: {faults[0]}",) if faults else ()
    names = tuple(f"{own.name}: {name}" for own in slices for name in own.images)
    return Wall(tuple(shown), tuple(member.errors for member in members), names, missing)


def fix_numbers(members: Sequence[Compared]) -> list[list[dict[str, Any]]]:
    """Rows of "fix first" for each model, for the page's scripts."""
    causes = [cause.name for cause in CAUSES]
    position = {category.id: place for place, category in enumerate(members[0].categories)}
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


def _slices_of(image_id: int, slices: Sequence[ImageSlices]) -> list[int]:
    """The places, among all of the user's slices, of those that hold an image."""
    all_slices = [images for own in slices for images in own.images.values()]
    return [place for place, images in enumerate(all_slices) if image_id in images]


def error_record(error: PricedError, categories: Mapping[int, int]) -> dict[str, Any]:
    """What an error is, for the scripts. categories: the place of each by its id."""
    return {
        "image": error.image_id,
        **name_of(error.image_id),
        "cause": [cause.name for cause in CAUSES].index(error.cause),
        "category": categories[error.category_id],
        "size": SIZES.index(error.size),
        "gain": float(f"{error.gain:.4g}"),
        "iou": None if error.iou != error.iou else round(error.iou, 4),
    }
