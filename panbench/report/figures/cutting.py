"""Single errors, cut out of their images: the photograph around one, outlines of the truth, and what models have there.

A page has hundreds of them, so a crop is small: at most SIDE pixels of photograph, and outlines as polygons, which stay
sharp at any size and tell what is true from what is predicted by their line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PanbenchError
from panbench.metrics.errors import IMPERFECT_MASK
from panbench.panoptic import pixels
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import IdMap
from panbench.report.figures.colors import error_kind
from panbench.report.figures.pictures import Layer, LayerSegment, Photo, Pictures, RunPictures

__all__ = ["SIDE", "Answer", "Crop", "Cutter", "Polygon", "PricedError"]

SIDE = 256
"""The longest side of a crop's photograph in pixels; what is smaller in the image is enlarged where it is shown."""

AROUND, LEAST = 3, 18
"""A crop shows so many times the extent of an error, and at least so many pixels of the image."""

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
    one without predictions; taken: of a wrong category (the true one, the predicted one)
    """

    error: PricedError
    box: Box
    shape: tuple[int, int]
    photo: Photo
    truth: tuple[Polygon, ...]
    predicted: tuple[Polygon, ...]
    answers: tuple[Answer | None, ...]
    taken: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        """The key of ERRORS by which predictions are drawn; a mask that is found but not exact is a bad one."""
        drawn = error_kind("FP", self.error.cause)
        return "bad mask" if self.error.cause == IMPERFECT_MASK.name else drawn


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
                crops = self.cut_image(image_id, [errors[place] for place in places])
            except PanbenchError as problem:
                faults.append(str(problem))
                continue
            for place, crop in zip(places, crops, strict=True):
                found[place] = crop
        return found, faults

    def cut_image(self, image_id: int, errors: Sequence[tuple[int, PricedError]]) -> list[Crop]:
        """A crop for each (place of its run, error) of one image. Raises BadDataset, BadRun."""
        shown = _Shown.of(image_id, self.sources, self.pictures)
        return [shown.crop(run, error) for run, error in errors]


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
            taken=next((one.taken for one in own.segments if one.id in error.pred_ids and one.taken), None),
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
    inside = count_ids(there)
    total = len(there)
    return [one for one in layer.segments if 2 * inside.get(one.id, 0) > min(one.area, total)]


def _box_around(mask: Mask) -> Box:
    """A square of AROUND times the extent of a mask, as far as the image goes."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, width, height
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(AROUND * max(bottom - top, right - left), LEAST)
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
        mask = shown == one
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        # Only where the segment is, with a rim: contourpy's time is that of the pixels.
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        inside = np.zeros((bottom - top + 2, right - left + 2))
        inside[1:-1, 1:-1] = mask[top:bottom, left:right]
        corner = np.array([left - 0.5, top - 0.5])
        for line in contourpy.contour_generator(z=inside).lines(0.5):
            outline = Path(np.asarray(line) + corner, closed=False)
            outline.should_simplify, outline.simplify_threshold = True, SIMPLE
            points = outline.cleaned(simplify=True)
            # The last vertex only says that the path ends.
            corners: Polygon = np.asarray(points.vertices, np.float64)[:-1]
            if len(corners) > 2:
                found.append(corners)
    return tuple(found)
