"""The examples of the page: which images are worth a look and why, and their pictures packed for the scripts."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadDataset, PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.panoptic import pixels
from panbench.report.answers.remaking import command_with_predictions
from panbench.report.answers.views import Compared
from panbench.report.figures.pictures import Layer, Photo, Pictures, RunPictures, runs_of, segment_colors

__all__ = ["EXAMPLES", "Examples", "Gallery", "make_gallery", "run_lengths"]

EXAMPLES = 96
"""At most so many images are chosen; fewer where fewer show all that the page lists."""


@dataclass(frozen=True)
class Gallery:
    """The examples of a page: records for its JSON, and a sentence for what is left out.

    commands: command lines that make the runs without predictions again with them
    live: a server has them all, and the page asks it
    """

    images: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    live: bool = False

    @property
    def shown(self) -> bool:
        """Whether the page has pictures."""
        return self.live or bool(self.images)


class Examples:
    """The pictures of some runs, as the page's scripts take them.

    sources: of each run its stored predictions, None where it kept none; missing: sentences on those, before the
    commands (of `Gallery`) that make them
    """

    def __init__(self, members: Sequence[Compared], pictures: Pictures) -> None:
        self.members = members
        self.pictures = pictures
        found = [RunPictures(member.run, member.label) for member in members]
        self.sources = tuple(source if source.folder else None for source in found)
        without = [member for member, source in zip(members, self.sources, strict=True) if source is None]
        self.commands = tuple(dict.fromkeys(filter(None, (command_with_predictions(one.run) for one in without))))
        missing = [f"{one.label} has no stored predictions and is not in the pictures." for one in without]
        if without and len(without) == len(members):
            missing = ["No run has stored predictions, so this page has no pictures."]
        if self.commands:
            missing.append("To repeat the runs with predictions, run this where they were made:")
        elif without:
            missing.append("`panbench eval … --save-predictions` and `panbench score` make runs that have them.")
        self.missing = tuple(missing)

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
        categories = self.members[0].categories
        position = {category.id: index for index, category in enumerate(categories)}
        sources = [source if only in (None, place) else None for place, source in enumerate(self.sources)]
        first = next(source for source in sources if source is not None)
        truth = first.truth(image_id, self.pictures)
        shown = [truth, *(source and source.prediction(image_id, self.pictures) for source in sources)]
        layers = [layer and _layer_record(layer, position, segment_colors(layer, categories), size) for layer in shown]
        # What became of a true segment differs from model to model.
        answers = [None if source is None else _answers(source, image_id, truth) for source in sources]
        return {
            "id": image_id,
            "file": self.pictures.file_name(image_id),
            "why": list(reasons),
            "width": size[0],
            "height": size[1],
            "pixels": photo.shape[0] * photo.shape[1],
            "photo": _jpeg(photo, size, quality),
            "layers": layers,
            "answers": answers,
        }


def make_gallery(
    members: Sequence[Compared],
    chosen: Mapping[int, Sequence[str]],
    pictures: Pictures,
    sizes: Sequence[tuple[int, int]],
    room: int,
    reporter: Reporter = SILENT,
) -> Gallery:
    """The chosen images with ground truth and the predictions of every run that kept them.

    chosen: the reasons of each image; sizes: longest side and JPEG quality, of which the first is taken whose pictures
    fit into `room` bytes, judged by the first few images
    """
    if not chosen:
        return Gallery()
    examples = Examples(members, pictures)
    if not any(examples.sources):
        return Gallery((), examples.missing, examples.commands)
    for source in filter(None, examples.sources):
        source.judge(chosen)
    try:
        pictures.panoptic  # noqa: B018  (says what is missing before any image is read)
    except BadDataset as error:
        return Gallery((), (str(error),))
    missing: list[str] = []
    records: list[dict[str, Any]] = []
    faults: list[str] = []
    at = 0
    waiting = list(chosen)
    while waiting:
        reporter.progress("Packing examples", len(chosen) - len(waiting), len(chosen))
        image_id = waiting.pop(0)
        try:
            records.append(examples.example(image_id, chosen[image_id], *sizes[at]))
        except PanbenchError as error:
            faults.append(str(error))
        if len(records) in (4, 16) or not waiting:
            weight = sum(map(_weight, records)) / max(len(records), 1)
            if weight * len(chosen) > room and at + 1 < len(sizes):
                at, records, faults, waiting = at + 1, [], [], list(chosen)
    reporter.progress("Packing examples", len(chosen), len(chosen))
    if faults:
        missing.append(f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}")
    # Last the sentence that the commands follow.
    return Gallery(tuple(records), (*missing, *examples.missing), examples.commands)


def _weight(record: Mapping[str, Any]) -> int:
    """About how many bytes a record takes in the page."""
    return len(record["photo"]) + sum(
        len(layer["runs"]) + 110 * len(layer["segments"]) for layer in record["layers"] if layer
    )


def _answers(source: RunPictures, image_id: int, truth: Layer) -> list[list[Any]]:
    """For each segment of the ground truth, what one run made of it: [verdict, IoU, cause]."""
    of_truth = {row.id: row for row in source.judged(image_id) if row.side == "gt"}
    rows = (of_truth[segment.id] for segment in truth.segments)
    return [[row.verdict, None if row.iou != row.iou else round(row.iou, 4), row.cause or None] for row in rows]


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
