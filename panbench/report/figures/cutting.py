"""Cuts single errors out of their images: the photograph around one, true outlines, and what models predict there.

A page has hundreds of them, so a crop is small: at most SIDE pixels of photograph, and outlines as polygons, which
stay sharp at any size; their line style distinguishes ground truth from predictions.
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
from panbench.report.figures.colors import drawing_kind
from panbench.report.figures.pictures import Layer, LayerSegment, Photo, Pictures, RunPictures

SIDE = 256
"""The longest side of a crop's photograph in pixels; smaller ones are enlarged when displayed."""

AROUND, LEAST = 3, 18
"""Size of a crop: a multiple of the extent of the error, and a minimum in pixels of the image."""

SIMPLE = 0.7
"""Maximum deviation of a simplified outline, in pixels of the crop."""

Mask = npt.NDArray[np.bool_]
Polygon = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]


class PricedError(NamedTuple):
    """An error with the gain in PQ from fixing it: a row of `priced_errors`."""

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
    """A model's prediction at the place of an error of another: in words, and the outlines of its segments."""

    words: str
    outlines: tuple[Polygon, ...]


@dataclass(frozen=True)
class Crop:
    """A picture of an error: a part of its image, with the outlines of truth and predictions.

    box: x, y, width, height in the image, whose shape is (height, width); points of outlines are in pixels of `photo`
    truth: outlines of the true objects that belong to it
    answers: of each other model; None for the run itself and for models without predictions
    taken: of a wrong category (the true one, the predicted one)
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
        """Returns how the prediction is drawn: "missed", "false", "confused" or, if found but inexact, "bad mask"."""
        drawn = drawing_kind("FP", self.error.cause)
        return "bad mask" if self.error.cause == IMPERFECT_MASK.name else drawn


class Cutter:
    """Makes pictures of single errors: cuts them out of the images of some runs.

    sources: pictures of each run; None if it stored no predictions
    """

    def __init__(self, sources: Sequence[RunPictures | None], pictures: Pictures) -> None:
        """Takes each run's stored predictions (None if it has none), and the photographs with their ground truth."""
        self.sources, self.pictures = tuple(sources), pictures

    def cut(self, errors: Sequence[tuple[int, PricedError]]) -> tuple[list[Crop | None], list[str]]:
        """Cuts errors, each given as (index of run, error), out of their images; returns crops and failure messages.

        The crop of an error in an unreadable image is None. Each image is read once.
        """
        found: list[Crop | None] = [None] * len(errors)
        faults = []
        of_image: dict[int, list[int]] = {}
        for index, (_, error) in enumerate(errors):
            of_image.setdefault(error.image_id, []).append(index)
        for source in filter(None, self.sources):
            source.judge(of_image)
        for image_id, indices in of_image.items():
            try:
                crops = self.cut_image(image_id, [errors[index] for index in indices])
            except PanbenchError as problem:
                faults.append(str(problem))
                continue
            for index, crop in zip(indices, crops, strict=True):
                found[index] = crop
        return found, faults

    def cut_image(self, image_id: int, errors: Sequence[tuple[int, PricedError]]) -> list[Crop]:
        """Returns a crop for each (index of its run, error) of one image. Raises BadDataset, BadRun."""
        picture = _ImageToCrop.load(image_id, self.sources, self.pictures)
        return [picture.crop(run, error) for run, error in errors]


@dataclass(frozen=True)
class _ImageToCrop:
    """An image with its ground truth and the predictions of all runs.

    truths: true segments with each run's verdicts, by id
    """

    photo: Photo
    ids: IdMap
    truths: tuple[Mapping[int, LayerSegment] | None, ...]
    layers: tuple[Layer | None, ...]

    @staticmethod
    def load(image_id: int, sources: Sequence[RunPictures | None], pictures: Pictures) -> _ImageToCrop:
        """Reads an image, its ground truth, and each run's prediction with its true and false positives."""
        truths: list[Mapping[int, LayerSegment] | None] = []
        layers: list[Layer | None] = []
        for source in sources:
            truth = None if source is None else source.truth(image_id, pictures).segments
            truths.append(None if truth is None else {segment.id: segment for segment in truth})
            layers.append(None if source is None else source.prediction(image_id, pictures, missed=False))
        ids = pictures.truth(image_id).ids
        return _ImageToCrop(pictures.photo(image_id), ids, tuple(truths), tuple(layers))

    def crop(self, run: int, error: PricedError) -> Crop:
        """Returns the crop of one error of a run."""
        own = self.layers[run]
        assert own is not None
        region = _mask_of(self.ids, error.gt_ids) if error.gt_ids else _mask_of(own.ids, error.pred_ids)
        both = region | _mask_of(own.ids, error.pred_ids) if error.gt_ids and error.pred_ids else region
        box = _crop_box(both)
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
                None if index == run else self._answer(index, error, region, part, size)
                for index in range(len(self.layers))
            ),
            taken=next((one.taken for one in own.segments if one.id in error.pred_ids and one.taken), None),
        )

    def _answer(
        self, run: int, error: PricedError, region: Mask, part: tuple[slice, slice], size: tuple[int, int]
    ) -> Answer | None:
        """Returns what another run predicts at the place of an error; None if it stored no predictions."""
        layer, truth = self.layers[run], self.truths[run]
        if layer is None or truth is None:
            return None
        there = _segments_in(layer, region, part)
        objects = [truth[one] for one in error.gt_ids if one in truth]
        ids = {segment.id for segment in there} | {one.matched_id for one in objects if one.matched_id}
        words = _text_on_true_segments(objects) if objects else _text_on_false_positive(there, error)
        return Answer(words, _outlines(layer.ids[part], tuple(ids), size))


def _text_on_true_segments(objects: Sequence[LayerSegment]) -> str:
    """Describes in words how a run predicted some true segments: "found, IoU 0.81", "missed", "1 of 2 found"."""
    hits = [one for one in objects if one.verdict == "TP"]
    if len(objects) > 1 and len(hits) < len(objects):
        return f"{len(hits)} of {len(objects)} found"
    if hits:
        return f"found, IoU {min(one.iou or 0.0 for one in hits):.2f}"
    cause = objects[0].cause
    return "missed" if cause in (None, "missed") else f"missed ({cause})"


def _text_on_false_positive(there: Sequence[LayerSegment], error: PricedError) -> str:
    """Says whether a run has a false positive where another run has one."""
    same = any(one.verdict == "FP" and one.category_id == error.category_id for one in there)
    return "false, too" if same else "no such error"


def _mask_of(ids: IdMap, requested: Sequence[int]) -> Mask:
    """Returns the mask of the pixels whose segment is one of some ids."""
    mask: Mask = ids == requested[0]
    for one in requested[1:]:
        mask |= ids == one
    return mask


def _segments_in(layer: Layer, region: Mask, part: tuple[slice, slice]) -> list[LayerSegment]:
    """Returns the segments with more than half of their area in a region, or that cover more than half of it.

    part: the part of the map that holds the region
    """
    there = layer.ids[part][region[part]]
    inside = count_ids(there)
    total = len(there)
    return [one for one in layer.segments if 2 * inside.get(one.id, 0) > min(one.area, total)]


def _crop_box(mask: Mask) -> Box:
    """Returns a square around a mask, AROUND times its extent, clipped to the image: x, y, width, height."""
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


def _outlines(ids: IdMap, requested: Sequence[int], size: tuple[int, int]) -> tuple[Polygon, ...]:
    """Returns closed polygons, (n, 2) each, around some segments in a part of the map displayed at a size."""
    import contourpy

    # Not `from matplotlib.path import Path`, which does not wait while another thread is importing matplotlib.
    import matplotlib.path

    picture = ids if ids.shape == size[::-1] else pixels.nearest(ids, size)
    found = []
    for one in requested:
        mask = picture == one
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        # Only the segment's box, with a rim: contourpy's time grows with the pixels.
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        inside = np.zeros((bottom - top + 2, right - left + 2))
        inside[1:-1, 1:-1] = mask[top:bottom, left:right]
        corner = np.array([left - 0.5, top - 0.5])
        for line in contourpy.contour_generator(z=inside).lines(0.5):
            outline = matplotlib.path.Path(np.asarray(line) + corner, closed=False)
            outline.should_simplify, outline.simplify_threshold = True, SIMPLE
            points = outline.cleaned(simplify=True)
            # The last vertex only closes the path.
            corners: Polygon = np.asarray(points.vertices, np.float64)[:-1]
            if len(corners) > 2:
                found.append(corners)
    return tuple(found)
