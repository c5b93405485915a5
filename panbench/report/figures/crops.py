"""Single errors, cut out of their images: the photograph around one, outlines of the truth, and what models have there.

A page has hundreds of them, so a crop is small: at most SIDE pixels of photograph, and outlines as polygons, which stay
sharp at any size and tell what is true from what is predicted by their line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset, PanbenchError
from panbench.base.text import listed
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.panoptic import pixels
from panbench.panoptic.types import IdMap
from panbench.report.answers.fixes import fix_words
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.figures.pictures import MISSED, Layer, LayerSegment, Photo, Pictures, RunPictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Answer",
    "Crop",
    "Cutter",
    "PricedError",
    "crops_figure",
    "draw_crop",
    "errors_figure",
    "errors_of",
    "fitting_errors",
]

SIDE = 192
"""The longest side of a crop's photograph in pixels: what is shown at 150 on a screen of any density."""

MARGIN = 0.35
"""How much of the image is shown around an error on each side, as a share of its extent."""

LEAST = 40
"""A crop shows at least so many pixels of the image, or a sixth of its longer side: small things need surroundings."""

SIMPLE = 0.7
"""How far, in pixels of the crop, a simplified outline may be off."""

Mask = npt.NDArray[np.bool_]
Polygon = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]


class PricedError(NamedTuple):
    """A row of `priced_errors`."""

    image_id: int
    cause: str
    category_id: int
    size: str
    gt_ids: tuple[int, ...]
    pred_ids: tuple[int, ...]
    iou: float
    gain: float


@dataclass(frozen=True)
class Answer:
    """What a model has where an error is: in words, and the outlines of its segments there."""

    words: str
    outlines: tuple[Polygon, ...]


@dataclass(frozen=True)
class Crop:
    """An error, cut out. box: x, y, width, height in the image, which has a shape (height, width); points of outlines
    are in pixels of `photo`.

    truth: outlines of the true objects that belong to it; answers: of each other model, None of the run itself and of
    one without predictions
    """

    error: PricedError
    box: Box
    shape: tuple[int, int]
    photo: Photo
    truth: tuple[Polygon, ...]
    predicted: tuple[Polygon, ...]
    answers: tuple[Answer | None, ...]


class Cutter:
    """Cuts errors of some runs out of their images.

    sources: of each run its pictures, None where it kept no predictions
    """

    def __init__(self, sources: Sequence[RunPictures | None], pictures: Pictures) -> None:
        self.sources, self.pictures = tuple(sources), pictures

    def cut(self, errors: Sequence[tuple[int, PricedError]]) -> tuple[list[Crop | None], list[str]]:
        """A crop for each (place of its run, error), None where its pictures cannot be read, and why not.

        Each image is read once.
        """
        found: list[Crop | None] = [None] * len(errors)
        faults = []
        of_image: dict[int, list[int]] = {}
        for place, (_, error) in enumerate(errors):
            of_image.setdefault(error.image_id, []).append(place)
        for source in filter(None, self.sources):
            source.judge(of_image)
        for image_id, places in of_image.items():
            try:
                shown = _Shown.of(image_id, self.sources, self.pictures)
            except PanbenchError as problem:
                faults.append(str(problem))
                continue
            for place in places:
                found[place] = shown.crop(*errors[place])
        return found, faults


@dataclass(frozen=True)
class _Shown:
    """An image with the truth and all answers. truths: in each run's eyes, by id."""

    photo: Photo
    ids: IdMap
    truths: tuple[Mapping[int, LayerSegment] | None, ...]
    layers: tuple[Layer | None, ...]

    @staticmethod
    def of(image_id: int, sources: Sequence[RunPictures | None], pictures: Pictures) -> _Shown:
        truths: list[Mapping[int, LayerSegment] | None] = []
        layers: list[Layer | None] = []
        for source in sources:
            truth = None if source is None else source.truth(image_id, pictures).segments
            truths.append(None if truth is None else {segment.id: segment for segment in truth})
            layers.append(None if source is None else source.prediction(image_id, pictures, missed=False))
        ids = pictures.truth(image_id).ids
        return _Shown(pictures.photo(image_id), ids, tuple(truths), tuple(layers))

    def crop(self, run: int, error: PricedError) -> Crop:
        own = self.layers[run]
        assert own is not None
        region = _covered(self.ids, error.gt_ids) if error.gt_ids else _covered(own.ids, error.pred_ids)
        both = region | _covered(own.ids, error.pred_ids) if error.gt_ids and error.pred_ids else region
        box = _box_around(both)
        x, y, width, height = box
        part = np.s_[y : y + height, x : x + width]
        scale = min(1.0, SIDE / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return Crop(
            error=error,
            box=box,
            shape=self.ids.shape,
            photo=pixels.shrink(np.ascontiguousarray(self.photo[part]), size),
            truth=_outlines(self.ids[part], error.gt_ids, size),
            predicted=_outlines(own.ids[part], error.pred_ids, size),
            answers=tuple(
                None if place == run else self._answer(place, error, region, part, size)
                for place in range(len(self.layers))
            ),
        )

    def _answer(
        self, run: int, error: PricedError, region: Mask, part: tuple[slice, slice], size: tuple[int, int]
    ) -> Answer | None:
        layer, truth = self.layers[run], self.truths[run]
        if layer is None or truth is None:
            return None
        there = _lying_in(layer, region, part)
        objects = [truth[one] for one in error.gt_ids if one in truth]
        ids = {segment.id for segment in there} | {one.matched_id for one in objects if one.matched_id}
        words = _of_objects(objects) if objects else _of_nothing(there, error)
        return Answer(words, _outlines(layer.ids[part], tuple(ids), size))


def _of_objects(objects: Sequence[LayerSegment]) -> str:
    """What a model made of the true objects of an error, in words."""
    hits = [one for one in objects if one.verdict == "TP"]
    if len(objects) > 1 and len(hits) < len(objects):
        return f"{len(hits)} of {len(objects)} found"
    if hits:
        return f"found, IoU {min(one.iou or 0.0 for one in hits):.2f}"
    cause = objects[0].cause
    return "missed" if cause in (None, "missed") else f"missed ({cause})"


def _of_nothing(there: Sequence[LayerSegment], error: PricedError) -> str:
    """What a model has where another sees something that is not there."""
    same = any(one.verdict == "FP" and one.category_id == error.category_id for one in there)
    return "false, too" if same else "no such error"


def _covered(ids: IdMap, wanted: Sequence[int]) -> Mask:
    """Where a map has one of some ids."""
    mask: Mask = ids == wanted[0]
    for one in wanted[1:]:
        mask |= ids == one
    return mask


def _lying_in(layer: Layer, region: Mask, part: tuple[slice, slice]) -> list[LayerSegment]:
    """The segments of which more than half lies in a region, or that have more than half of it. part: what holds it."""
    there = layer.ids[part][region[part]]
    inside = dict(zip(*(one.tolist() for one in np.unique(there, return_counts=True)), strict=True))
    total = len(there)
    return [one for one in layer.segments if 2 * inside.get(one.id, 0) > min(one.area, total)]


def _box_around(mask: Mask) -> Box:
    """A square around a mask, with its surroundings, as far as the image goes."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, width, height
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    least = max(LEAST, max(height, width) // 6)
    side = max(round((1 + 2 * MARGIN) * max(bottom - top, right - left)), least)
    across, down = min(side, width), min(side, height)
    x = min(max(0, round((left + right - across) / 2)), width - across)
    y = min(max(0, round((top + bottom - down) / 2)), height - down)
    return int(x), int(y), int(across), int(down)


def _outlines(ids: IdMap, wanted: Sequence[int], size: tuple[int, int]) -> tuple[Polygon, ...]:
    """The outlines of some segments in a part of the map that is shown at a size: closed polygons, (n, 2) each."""
    import contourpy
    from matplotlib.path import Path

    shown = ids if ids.shape == size[::-1] else pixels.nearest(ids, size)
    found = []
    for one in wanted:
        mask = np.pad((shown == one).astype(np.float32), 1)
        for line in contourpy.contour_generator(z=mask).lines(0.5):
            outline = Path(np.asarray(line) - 0.5, closed=False)
            outline.should_simplify, outline.simplify_threshold = True, SIMPLE
            points = outline.cleaned(simplify=True)
            # The last vertex only says that the path ends.
            corners: Polygon = np.asarray(points.vertices, np.float64)[:-1]
            if len(corners) > 2:
                found.append(corners)
    return tuple(found)


PREDICTED = "#d9601a"
"""The colour of outlines of predictions, which are solid; those of the truth are broken, as of what is missed."""


def draw_crop(axes: Axes, crop: Crop, outlines: Sequence[Polygon], title: str = "", note: str = "") -> None:
    """A crop in matplotlib axes: photograph, the truth broken, `outlines` of predictions solid, and words around it."""
    from matplotlib.collections import LineCollection

    height, width = crop.photo.shape[:2]
    axes.imshow(crop.photo, extent=(0, width, height, 0), interpolation="bilinear")
    predicted, true = ([np.concatenate([line, line[:1]]) for line in lines] for lines in (outlines, crop.truth))
    # A white line beneath, so that outlines show on any photograph; predictions show in the gaps of the truth's line.
    axes.add_collection(LineCollection([*predicted, *true], colors="white", linewidths=2.2))
    axes.add_collection(LineCollection(predicted, colors=PREDICTED, linewidths=1.2))
    axes.add_collection(LineCollection(true, colors=MISSED, linewidths=1.2, linestyles=[(0, (3, 2))]))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.set_title(title, fontsize=7, pad=2, loc="left", parse_math=False)
    if note:
        axes.text(0, -0.02, note, transform=axes.transAxes, fontsize=6.5, va="top", color="#565c68", parse_math=False)


def crops_figure(
    crops: Sequence[Crop],
    titles: Sequence[tuple[str, str]],
    *,
    against: int | None = None,
    against_label: str = "",
    columns: int = 4,
    width: float = 7.0,
) -> Figure:
    """Crops in a grid, each with (title, note); with `against`, beside each what that model has there."""
    from matplotlib.figure import Figure

    beside = 1 if against is None else 2
    across = min(max(1, columns // beside), max(1, len(crops)))
    down = -(-len(crops) // across)
    cell = width / (across * beside)
    head, foot, above = 0.2, 0.22, 0.3
    height = down * (cell + head + foot) + above
    figure = Figure(figsize=(width, height))
    words = "broken line: the true object; solid: what is predicted"
    figure.text(0.01, 1 - 0.18 / height, words, fontsize=7, color="#565c68")
    for place, (crop, (title, note)) in enumerate(zip(crops, titles, strict=True)):
        row, column = divmod(place, across)
        for side in range(beside):
            left = (column * beside + side) * cell
            top = above + row * (cell + head + foot) + head
            axes = figure.add_axes(
                ((left + 0.03) / width, 1 - (top + cell) / height, (cell - 0.06) / width, cell / height)
            )
            if side == 0:
                draw_crop(axes, crop, crop.predicted, title, note)
                continue
            answer = crop.answers[cast(int, against)]
            said = "kept no predictions" if answer is None else answer.words
            draw_crop(axes, crop, answer.outlines if answer else (), "", f"{against_label}: {said}")
    return figure


def errors_of(table: pd.DataFrame) -> Iterator[PricedError]:
    """The rows of `priced_errors`, in their order."""
    return (PricedError(*row) for row in table[list(PricedError._fields)].itertuples(index=False))


def errors_figure(
    members: Sequence[Compared],
    pictures: Pictures,
    *,
    cause: str | None = None,
    category: str | None = None,
    size: str | None = None,
    images: Collection[int] | None = None,
    most: int = 12,
    columns: int = 4,
    width: float = 7.0,
) -> Figure:
    """The dearest errors of the first run, cut out; of two runs, beside each what the second has there.

    cause, category, size: only such errors; images: only in these. Raises BadArgument for an unknown word and where no
    error fits, BadRun without stored predictions, and BadDataset where no picture can be read.
    """
    table = fitting_errors(members[0], cause, category, size, images)
    chosen = list(islice(errors_of(table), most))
    if not chosen:
        raise BadArgument(f"{members[0].label} has no such error.")
    sources = [RunPictures(member.run, member.label) for member in members]
    for source in sources:
        source.png_path(chosen[0].image_id, pictures)
    crops, faults = Cutter(sources, pictures).cut([(0, one) for one in chosen])
    cut = [crop for crop in crops if crop is not None]
    if not cut:
        raise BadDataset(faults[0])
    names = {one.id: one.name for one in members[0].categories}
    titles = [
        (
            fix_words(crop.error.cause, names[crop.error.category_id], crop.error.size),
            f"+{percent(crop.error.gain)} · image {crop.error.image_id}",
        )
        for crop in cut
    ]
    other = None if len(members) < 2 else 1
    label = "" if other is None else members[other].label
    return crops_figure(cut, titles, against=other, against_label=label, columns=columns, width=width)


def fitting_errors(
    member: Compared,
    cause: str | None = None,
    category: str | None = None,
    size: str | None = None,
    images: Collection[int] | None = None,
) -> pd.DataFrame:
    """The rows of `priced_errors` of a run, the dearest first: only of a cause, category (its name) and size, and in
    some images. Raises BadArgument for an unknown cause, category or size."""
    table = member.priced
    kinds = {
        "cause": (cause, [one.name for one in CAUSES], "cause"),
        "category": (category, [one.name for one in member.categories], "category_id"),
        "size": (size, list(SIZES), "size"),
    }
    for kind, (word, known, column) in kinds.items():
        if word is None:
            continue
        if word not in known:
            raise BadArgument(f"There is no {kind} {word!r}. Choose from {listed(known, 20)}.")
        ids = [one.id for one in member.categories if one.name == word]
        table = table[table[column].isin(ids if column == "category_id" else [word])]
    return table if images is None else table[table["image_id"].isin(list(images))]
