"""Packs the page's example images as JSON: photographs, run-length encoded segment maps, and crops of errors."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from panbench.base.errors import BadDataset, PanbenchError
from panbench.base.program import in_order
from panbench.base.reporter import SILENT, Reporter
from panbench.panoptic import pixels
from panbench.panoptic.image_ids import name_of
from panbench.report.answers.remaking import command_with_predictions
from panbench.report.answers.views import Compared
from panbench.report.figures.cutting import SIDE, Crop, Cutter, Polygon, PricedError
from panbench.report.figures.pictures import Layer, Photo, Pictures, RunPictures, runs_of, segment_colors

QUALITY = 65
"""JPEG or WebP quality of the photographs of crops."""

EXAMPLES = 96
"""Maximum number of chosen images; fewer if fewer illustrate all that the page lists."""

FEW = 16
"""Number of images from which the size of all is estimated first."""


class Examples:
    """Packs the pictures of some runs as JSON for the page's scripts.

    sources: stored predictions of each run, None if it stored none; missing: sentences on those, before the commands
        (of `Gallery`) that create them
    """

    def __init__(self, members: Sequence[Compared], pictures: Pictures) -> None:
        """Takes the runs to display, and the photographs and ground truth to draw their segments on."""
        self.members, self.pictures, self.categories = members, pictures, members[0].categories
        self.position = {category.id: index for index, category in enumerate(self.categories)}
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

    def crops(self, image_id: int, errors: Sequence[tuple[int, PricedError]]) -> list[dict[str, Any]]:
        """Returns the pictures of errors of one image as JSON, each cut out around its segments.

        errors: (index of its run, error). Raises BadDataset, BadRun.
        """
        return [
            crop_record(crop, self.position) for crop in Cutter(self.sources, self.pictures).cut_image(image_id, errors)
        ]

    def example(self, image_id: int, side: int, quality: int, only: int | None = None) -> dict[str, Any]:
        """Returns one image as JSON: photograph, true and predicted segment maps, and TP or FN of each true segment.

        side, quality: the photograph's longest side in pixels, and of its JPEG
        only: index of the only run to display, with null for the others
        Raises BadDataset, BadRun.
        """
        self.pictures.file_name(image_id)
        info = self.pictures.panoptic.images[image_id]
        scale = min(1.0, side / max(info.height, info.width))
        size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
        photo = self.pictures.photo(image_id) if only is None else self.pictures.small_photo(image_id, size)
        sources = [source if only in (None, index) else None for index, source in enumerate(self.sources)]
        first = next(source for source in sources if source is not None)
        truth = first.truth(image_id, self.pictures)
        maps = [truth, *(source and source.prediction(image_id, self.pictures) for source in sources)]
        layers = [layer and self._segment_map_record(layer, size) for layer in maps]
        # The verdict on a true segment differs from model to model.
        answers = [None if source is None else _answers(source, image_id, truth, self.position) for source in sources]
        return {
            "id": image_id,
            **name_of(image_id),
            "file": self.pictures.file_name(image_id),
            "width": size[0],
            "height": size[1],
            "pixels": photo.shape[0] * photo.shape[1],
            "photo": _jpeg_data_url(photo, size, quality),
            "layers": layers,
            "answers": answers,
        }

    def _segment_map_record(self, layer: Layer, size: tuple[int, int]) -> dict[str, Any]:
        """Returns a segment map as JSON for the page's JavaScript: run-length encoded pixels, facts of each segment."""
        colors = segment_colors(layer, self.categories)
        return {
            "runs": base64.b64encode(encode_run_lengths(*runs_of(layer, size))).decode(),
            "segments": [
                {
                    "category": self.position.get(segment.category_id, -1),
                    "area": segment.area,
                    "score": _rounded(segment.score, 3),
                    "iou": _rounded(segment.iou),
                    "verdict": segment.verdict,
                    "cause": segment.cause,
                    "taken": segment.taken and [self.position[one] for one in segment.taken],
                    "crowd": segment.iscrowd,
                    "color": "#{:02x}{:02x}{:02x}".format(*colors[segment.id]),
                }
                for segment in layer.segments
            ],
        }


def _answers(source: RunPictures, image_id: int, truth: Layer, position: Mapping[int, int]) -> list[list[Any]]:
    """Returns how a run did on each true segment: [TP, FN or ignored; IoU; cause; (true, predicted category)]."""
    of_truth = {segment.id: segment for segment in source.judged(image_id)["gt"]}
    own = (of_truth[segment.id] for segment in truth.segments)
    return [
        [one.verdict, _rounded(one.iou), one.cause, one.taken and [position[each] for each in one.taken]] for one in own
    ]


def _rounded(value: float | None, digits: int = 4) -> float | None:
    """Returns a number rounded to some digits; None for None."""
    return None if value is None else round(value, digits)


def encode_run_lengths(values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> bytes:
    """Encodes a map's run lengths as bytes: pairs (value, length), each number in base 128, low digits first.

    The page decodes this itself: reading a PNG back from a canvas gives other values in browsers that resist
    fingerprinting.
    """
    # Pixels without a segment get the value 0 whatever their id was, so that neighbours form one run.
    first = np.concatenate([[True], values[1:] != values[:-1]])
    numbers = np.stack([values[first], np.add.reduceat(lengths, np.flatnonzero(first))], axis=1).ravel()
    digits = numbers[:, None] >> np.arange(0, 35, 7) & 127
    count = 1 + (numbers[:, None] >= 1 << np.arange(7, 35, 7)).sum(axis=1)
    index = np.arange(5)
    digits |= np.where(index < count[:, None] - 1, 128, 0)
    return digits[index < count[:, None]].astype(np.uint8).tobytes()


def _jpeg_data_url(photo: Photo, size: tuple[int, int], quality: int) -> str:
    """Returns a photograph as a data URL of a JPEG at a size."""
    content = pixels.encode_jpeg(pixels.shrink(photo, size), quality)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def crop_record(crop: Crop, position: Mapping[int, int]) -> dict[str, Any]:
    """Returns an error's picture, and other models' predictions there, as JSON for the page's scripts.

    position: index of a category, by id
    """
    return {
        "box": [round(one / of, 4) for one, of in zip(crop.box, 2 * crop.shape[::-1], strict=True)],
        **_photo_record(crop.photo),
        "truth": _svg_path(crop.truth),
        "predicted": _svg_path(crop.predicted),
        "kind": crop.kind,
        "taken": crop.taken and [position[one] for one in crop.taken],
        "beside": [None if answer is None else [answer.words, _svg_path(answer.outlines)] for answer in crop.answers],
    }


def image_record(pictures: Pictures, image_id: int) -> dict[str, Any]:
    """Returns a shrunk photograph, without segments, as JSON for the page's scripts. Raises BadDataset.

    It takes the place of an error's picture.
    """
    photo = pictures.photo(image_id)
    height, width = photo.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = pixels.shrink(photo, (max(1, round(width * scale)), max(1, round(height * scale))))
    return {**_photo_record(small), "truth": "", "predicted": "", "kind": "", "taken": None, "beside": []}


def _photo_record(photo: Photo) -> dict[str, Any]:
    """Returns a photograph, its width and its height as JSON for the page's JavaScript."""
    return {"width": photo.shape[1], "height": photo.shape[0], "photo": _photo(photo)}


def _photo(photo: Photo) -> str:
    """Returns a photograph as a data URL: WebP, which is half as large, or JPEG if Pillow lacks WebP."""
    if not features.check("webp"):
        return f"data:image/jpeg;base64,{base64.b64encode(pixels.encode_jpeg(photo, QUALITY)).decode()}"
    content = io.BytesIO()
    Image.fromarray(photo).save(content, "WEBP", quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _svg_path(outlines: Sequence[Polygon]) -> str:
    """Returns outlines as an SVG path, in half pixels of the crop: integers are short."""
    parts = []
    for outline in outlines:
        points = np.rint(2 * outline).astype(np.int64)
        steps = np.diff(points, axis=0)
        steps = steps[(steps != 0).any(axis=1)]
        if len(steps) > 1:
            words = " ".join(f"{x} {y}" for x, y in steps.tolist())
            parts.append(f"M{points[0, 0]} {points[0, 1]}l{words}z".replace(" -", "-"))
    return "".join(parts)


@dataclass(frozen=True)
class Gallery:
    """The gallery of a page: records of images for its JSON, and a sentence for each omission.

    commands: command lines that repeat the runs without predictions, storing them
    live: a server has all images, and the page requests them
    """

    images: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    live: bool = False

    @property
    def shown(self) -> bool:
        """Returns whether the page displays pictures."""
        return self.live or bool(self.images)


def pack_pictures(
    examples: Examples,
    chosen: Sequence[int],
    errors: Mapping[int, Sequence[tuple[int, PricedError]]],
    sizes: Sequence[tuple[int, int]],
    room: int,
    reporter: Reporter = SILENT,
) -> tuple[Gallery, dict[int, Any]]:
    """Returns the gallery, and for each image in `errors` the records of its errors, or why there are none.

    chosen: ids of the examples; errors: (index of its run, error) by image
    sizes: longest side and JPEG quality; the first is used whose pictures fit into `room` bytes with the crops
    """
    if not any(examples.sources):
        return Gallery((), examples.missing, examples.commands) if chosen else Gallery(), {}
    try:
        _ = examples.pictures.panoptic
    except BadDataset as problem:
        return Gallery((), (str(problem),)), {}
    for source in filter(None, examples.sources):
        source.judge(dict.fromkeys([*chosen, *errors]))

    def pack_images(images: Iterable[int], size: tuple[int, int]) -> tuple[list[dict[str, Any]], list[str]]:
        """Returns the images as JSON for the gallery, and a message for each image that cannot be read."""
        found = _call_in_parallel([partial(examples.example, image, *size) for image in images], reporter)
        return [one for one in found if not isinstance(one, str)], [one for one in found if isinstance(one, str)]

    crops = dict(
        zip(errors, _call_in_parallel([partial(examples.crops, *one) for one in errors.items()], reporter), strict=True)
    )
    left = room - sum(len(str(one)) for one in crops.values())
    few = chosen[:FEW]
    records, faults = pack_images(few, sizes[0])
    guessed = (
        index
        for index, (side, _) in enumerate(sizes)
        if _estimate_page_bytes(records, side) * len(chosen) <= left * len(few)
    )
    for size in sizes[next(guessed, len(sizes) - 1) :]:
        if size != sizes[0] or len(few) < len(chosen):
            records, faults = pack_images(chosen, size)
        if _estimate_page_bytes(records) <= left:
            break
    missing = [f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}"] if faults else []
    # Last, the sentence that introduces the commands.
    return Gallery(tuple(records), (*missing, *examples.missing), examples.commands), crops


def _call_in_parallel(work: Sequence[Callable[[], Any]], reporter: Reporter) -> list[Any]:
    """Calls the functions on all cores, and returns their results, or the messages of PanbenchErrors they raise."""
    found = []
    for number, one in enumerate(in_order([partial(_result_or_reason, call) for call in work]), start=1):
        reporter.progress("Packing pictures", number, len(work))
        found.append(one)
    return found


def _result_or_reason(call: Callable[[], Any]) -> Any:
    """Returns the result of a call, or the message of the PanbenchError that it raises."""
    try:
        return call()
    except PanbenchError as problem:
        return str(problem)


def _estimate_page_bytes(records: Iterable[Mapping[str, Any]], side: int | None = None) -> float:
    """Estimates how many bytes the packed images take in the page.

    side: estimate for pictures whose longest side is at most this many pixels
    """
    total = 0.0
    for record in records:
        scale = 1.0 if side is None else min(1.0, side / max(record["width"], record["height"]))
        # A smaller picture has as many runs in each row, but fewer rows.
        layers = (scale * len(layer["runs"]) + 110 * len(layer["segments"]) for layer in record["layers"] if layer)
        total += scale**2 * len(record["photo"]) + sum(layers)
    return total
