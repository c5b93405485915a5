"""The wall of errors: which single errors of each model the page shows, cut out of their images, and what to fix first.

A page cannot hold all errors. Of each model it keeps those of the rows that are to be fixed first, six of each, then
the dearest of all, and of each cause; every crop is some kilobytes.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from panbench.base.errors import BadDataset
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES, of_cell
from panbench.metrics.image_slices import ImageSlices
from panbench.panoptic import pixels
from panbench.report.answers.fixes import FIRST
from panbench.report.answers.views import Compared
from panbench.report.figures.crops import SIDE, Crop, Cutter, Polygon, PricedError, errors_of
from panbench.report.figures.pictures import Photo, Pictures, RunPictures
from panbench.report.pages.page.shortened import shortened

__all__ = [
    "OF_A_ROW",
    "Wall",
    "crop_record",
    "error_record",
    "errors_to_show",
    "fix_numbers",
    "image_record",
    "make_wall",
]

MOST = 240
"""So many crops a page has at most, of all models together."""

LEAST_OF_A_MODEL, MOST_OF_A_MODEL = 24, 100
"""Of one model: fewer where there are many models."""

OF_A_ROW = 6
"""So many crops stand with each row of what to fix first."""

ROWS = 6
"""So many rows have crops, as far as there is room; all that are listed where few models leave room for them."""

DEAREST = 12
"""So many of a model's dearest errors are kept whatever they are: those that are printed."""

QUALITY = 65
"""Of the photographs."""


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
    """At most `most` errors of a run, the dearest first: of what to fix first, the dearest, and of each cause."""
    errors = member.priced
    listed = FIRST if most >= MOST_OF_A_MODEL else ROWS
    rows = [
        errors_of(errors[of_cell(errors, row.cause, row.category_id, row.size)].head(OF_A_ROW))
        for row in member.to_fix.head(listed).itertuples(index=False)
    ]
    of_causes = [errors_of(errors[errors["cause"] == cause.name].head(most)) for cause in CAUSES]
    # Half of the rows, then what is printed, then the other half: with little room each has its share.
    turns = [*rows[: ROWS // 2], errors_of(errors.head(DEAREST)), *rows[ROWS // 2 :]]
    chosen: dict[tuple[Any, ...], PricedError] = {}
    for one in _in_turn(turns, of_causes):
        if len(chosen) == most:
            break
        # Not the row itself: its IoU may be NaN, which no other NaN equals.
        chosen.setdefault((one.image_id, one.cause, one.gt_ids, one.pred_ids), one)
    return sorted(chosen.values(), key=lambda one: -one.gain)


def _in_turn(first: Sequence[Iterable[PricedError]], then: Sequence[Iterator[PricedError]]) -> Iterator[PricedError]:
    """All of `first`, one after the other, then one of each of `then` in turns."""
    for part in first:
        yield from part
    waiting = list(then)
    while waiting:
        for part in list(waiting):
            following = next(part, None)
            if following is None:
                waiting.remove(part)
            else:
                yield following


def make_wall(
    members: Sequence[Compared], pictures: Pictures, slices: Sequence[ImageSlices] = (), reporter: Reporter = SILENT
) -> Wall:
    """The crops of a page, of every run that kept predictions. slices: the user's own, which filter."""
    found = [RunPictures(member.run, member.label) for member in members]
    sources = [source if source.folder else None for source in found]
    if not any(sources):
        return Wall()
    try:
        pictures.panoptic  # noqa: B018  (says what is missing before any image is read)
    except BadDataset:
        # The examples say so, too.
        return Wall()
    held = sum(source is not None for source in sources)
    most = min(max(MOST // held, LEAST_OF_A_MODEL), MOST_OF_A_MODEL)
    chosen = [
        (index, one)
        for index, (member, source) in enumerate(zip(members, sources, strict=True))
        if source is not None
        for one in errors_to_show(member, most)
    ]
    reporter.status("Cutting out errors")
    crops, faults = Cutter(sources, pictures).cut(chosen)
    categories = {category.id: place for place, category in enumerate(members[0].categories)}
    shown = tuple(
        {
            "model": index,
            **error_record(crop.error, categories),
            **crop_record(crop),
            "slices": _slices_of(crop.error.image_id, slices),
        }
        for (index, _), crop in zip(chosen, crops, strict=True)
        if crop is not None
    )
    missing = (f"{len(faults)} images of errors are left out; the first: {faults[0]}",) if faults else ()
    names = tuple(f"{own.name}: {name}" for own in slices for name in own.images)
    return Wall(shown, tuple(len(member.priced) for member in members), names, missing)


def fix_numbers(members: Sequence[Compared]) -> list[list[dict[str, Any]]]:
    """Rows of "fix first" for each model, for the page's scripts."""
    causes = [cause.name for cause in CAUSES]
    position = {category.id: place for place, category in enumerate(members[0].categories)}
    return [
        [
            {
                "cause": causes.index(row.cause),
                "category": position[row.category_id],
                "size": SIZES.index(row.size),
                **{name: _known(getattr(row, name)) for name in ("gain", "low", "high")},
                "errors": int(row.errors),
                "images": int(row.images),
            }
            for row in member.to_fix.head(FIRST).itertuples(index=False)
        ]
        for member in members
    ]


def _known(value: float) -> float | None:
    return None if value != value else shortened([value])[0]


def _slices_of(image_id: int, slices: Sequence[ImageSlices]) -> list[int]:
    """The places, among all of the user's slices, of those that hold an image."""
    all_slices = [images for own in slices for images in own.images.values()]
    return [place for place, images in enumerate(all_slices) if image_id in images]


def error_record(error: PricedError, categories: Mapping[int, int]) -> dict[str, Any]:
    """What an error is, for the scripts. categories: the place of each by its id."""
    return {
        "image": error.image_id,
        "cause": [cause.name for cause in CAUSES].index(error.cause),
        "category": categories[error.category_id],
        "size": SIZES.index(error.size),
        "gain": float(f"{error.gain:.4g}"),
        "iou": None if error.iou != error.iou else round(error.iou, 4),
    }


def crop_record(crop: Crop) -> dict[str, Any]:
    """The picture of an error, and what other models have there, for the scripts."""
    return {
        "box": [round(one / of, 4) for one, of in zip(crop.box, 2 * crop.shape[::-1], strict=True)],
        **_picture(crop.photo),
        "truth": _path(crop.truth),
        "predicted": _path(crop.predicted),
        "beside": [None if answer is None else [answer.words, _path(answer.outlines)] for answer in crop.answers],
    }


def image_record(pictures: Pictures, image_id: int) -> dict[str, Any]:
    """An image without outlines in the place of a crop, for the scripts. Raises BadDataset."""
    photo = pictures.photo(image_id)
    height, width = photo.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = pixels.shrink(photo, (max(1, round(width * scale)), max(1, round(height * scale))))
    return {**_picture(small), "truth": "", "predicted": "", "beside": []}


def _picture(photo: Photo) -> dict[str, Any]:
    return {"width": photo.shape[1], "height": photo.shape[0], "photo": _photo(photo)}


def _photo(photo: Photo) -> str:
    """WebP, half as large as JPEG where a picture is small; JPEG where Pillow was built without it."""
    if not features.check("webp"):
        return f"data:image/jpeg;base64,{base64.b64encode(pixels.encode_jpeg(photo, QUALITY)).decode()}"
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "WEBP", quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _path(outlines: Sequence[Polygon]) -> str:
    """Outlines as the path of an SVG, in half pixels of the crop: whole numbers are short."""
    parts = []
    for outline in outlines:
        points = np.rint(2 * outline).astype(np.int64)
        steps = np.diff(points, axis=0)
        steps = steps[(steps != 0).any(axis=1)]
        if len(steps) > 1:
            words = " ".join(f"{x} {y}" for x, y in steps.tolist())
            parts.append(f"M{points[0, 0]} {points[0, 1]}l{words}z".replace(" -", "-"))
    return "".join(parts)
