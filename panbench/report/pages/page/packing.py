"""Pictures as the page's scripts take them: photographs, layers as run lengths, and crops with outlines."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from panbench.base.errors import BadDataset
from panbench.panoptic import pixels
from panbench.panoptic.image_ids import name_of
from panbench.report.figures.cutting import SIDE, Crop, Cutter, Polygon, PricedError
from panbench.report.figures.pictures import Layer, Photo, Pictures, RunPictures, runs_of, segment_colors
from panbench.runs import Run

__all__ = ["Packer", "crop_record", "image_record", "run_lengths"]

QUALITY = 65
"""Of the photographs of crops."""


class Packer:
    """Packs the pictures of some runs. sources: of each run its stored predictions, None where it kept none.

    first: the run whose categories and data `pictures` are
    """

    def __init__(self, sources: Sequence[RunPictures | None], pictures: Pictures, first: Run) -> None:
        self.sources, self.pictures, self.first = tuple(sources), pictures, first
        self.categories = first.categories

    def problem(self) -> str:
        """Why there are no pictures at all, said before any image is read; "" where there are."""
        try:
            _ = self.pictures.panoptic
        except BadDataset as error:
            return str(error)
        return ""

    def crops(self, image_id: int, errors: Sequence[tuple[int, PricedError]]) -> list[dict[str, Any]]:
        """The record of each (place of its run, error) of an image. Raises BadDataset, BadRun."""
        position = {category.id: place for place, category in enumerate(self.categories)}
        return [crop_record(crop, position) for crop in Cutter(self.sources, self.pictures).cut_image(image_id, errors)]

    def example(
        self, image_id: int, reasons: Sequence[str], side: int, quality: int, only: int | None = None
    ) -> dict[str, Any]:
        """The record of one image: photograph, the truth's and each run's layer, and what became of the truth.

        side, quality: the photograph's longest side in pixels, and of its JPEG; only: the place of a run that is
        shown alone, with null for the others. Raises BadDataset, BadRun.
        """
        self.pictures.file_name(image_id)
        info = self.pictures.panoptic.images[image_id]
        scale = min(1.0, side / max(info.height, info.width))
        size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
        photo = self.pictures.photo(image_id) if only is None else self.pictures.small_photo(image_id, size)
        position = {category.id: index for index, category in enumerate(self.categories)}
        sources = [source if only in (None, place) else None for place, source in enumerate(self.sources)]
        first = next(source for source in sources if source is not None)
        truth = first.truth(image_id, self.pictures)
        shown = [truth, *(source and source.prediction(image_id, self.pictures) for source in sources)]
        layers = [
            layer and _layer_record(layer, position, segment_colors(layer, self.categories), size) for layer in shown
        ]
        # What became of a true segment differs from model to model.
        answers = [None if source is None else _answers(source, image_id, truth, position) for source in sources]
        return {
            "id": image_id,
            **name_of(image_id),
            "file": self.pictures.file_name(image_id),
            "why": list(reasons),
            "width": size[0],
            "height": size[1],
            "pixels": photo.shape[0] * photo.shape[1],
            "photo": _jpeg(photo, size, quality),
            "layers": layers,
            "answers": answers,
        }


def _answers(source: RunPictures, image_id: int, truth: Layer, position: Mapping[int, int]) -> list[list[Any]]:
    """For each segment of the ground truth, what one run made of it: [verdict, IoU, cause, taken]."""
    of_truth = {row.id: row for row in source.judged(image_id) if row.side == "gt"}
    rows = (of_truth[segment.id] for segment in truth.segments)
    return [
        [
            row.verdict,
            None if row.iou != row.iou else round(row.iou, 4),
            row.cause or None,
            row.taken and [position[one] for one in row.taken],
        ]
        for row in rows
    ]


def _layer_record(
    layer: Layer, position: Mapping[int, int], colors: Mapping[int, tuple[int, int, int]], size: tuple[int, int]
) -> dict[str, Any]:
    return {
        "runs": base64.b64encode(run_lengths(*runs_of(layer, size))).decode(),
        "segments": [
            {
                "category": position.get(segment.category_id, -1),
                "area": segment.area,
                "score": None if segment.score is None else round(segment.score, 3),
                "iou": None if segment.iou is None else round(segment.iou, 4),
                "verdict": segment.verdict,
                "cause": segment.cause,
                "taken": segment.taken and [position[one] for one in segment.taken],
                "crowd": segment.iscrowd,
                "color": "#{:02x}{:02x}{:02x}".format(*colors[segment.id]),
            }
            for segment in layer.segments
        ],
    }


def run_lengths(values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> bytes:
    """Runs as pairs (value, length), each number in base 128, low digits first.

    The page decodes this itself: reading a PNG back from a canvas gives other values in browsers that resist
    fingerprinting.
    """
    # What is not of a segment has the value 0 whatever its id was, so that neighbours may be one run.
    first = np.concatenate([[True], values[1:] != values[:-1]])
    numbers = np.stack([values[first], np.add.reduceat(lengths, np.flatnonzero(first))], axis=1).ravel()
    digits = numbers[:, None] >> np.arange(0, 35, 7) & 127
    count = 1 + (numbers[:, None] >= 1 << np.arange(7, 35, 7)).sum(axis=1)
    place = np.arange(5)
    digits |= np.where(place < count[:, None] - 1, 128, 0)
    return digits[place < count[:, None]].astype(np.uint8).tobytes()


def _jpeg(photo: Photo, size: tuple[int, int], quality: int) -> str:
    content = pixels.encode_jpeg(pixels.shrink(photo, size), quality)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def crop_record(crop: Crop, position: Mapping[int, int]) -> dict[str, Any]:
    """The picture of an error, and what other models have there, for the scripts. position: of categories, by id."""
    return {
        "box": [round(one / of, 4) for one, of in zip(crop.box, 2 * crop.shape[::-1], strict=True)],
        **_picture(crop.photo),
        "truth": _path(crop.truth),
        "predicted": _path(crop.predicted),
        "kind": crop.kind,
        "taken": crop.taken and [position[one] for one in crop.taken],
        "beside": [None if answer is None else [answer.words, _path(answer.outlines)] for answer in crop.answers],
    }


def image_record(pictures: Pictures, image_id: int) -> dict[str, Any]:
    """An image without outlines in the place of a crop, for the scripts. Raises BadDataset."""
    photo = pictures.photo(image_id)
    height, width = photo.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = pixels.shrink(photo, (max(1, round(width * scale)), max(1, round(height * scale))))
    return {**_picture(small), "truth": "", "predicted": "", "kind": "", "taken": None, "beside": []}


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
