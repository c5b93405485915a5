"""The examples of the page: which images are worth a look and why, and their pictures packed for the scripts."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset, BadRun, PanbenchError
from panbench.report.pictures import Layer, Photo, Pictures, RunPictures, numbered, segment_colors
from panbench.report.views import Compared

__all__ = ["EXAMPLES", "Gallery", "choose_examples", "make_gallery", "run_lengths"]

EXAMPLES = 24


@dataclass(frozen=True)
class Gallery:
    """The examples of a page: records for its JSON, and a sentence for what is left out."""

    images: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()


@dataclass
class _Reasons:
    """Which images are shown, in the order in which they were chosen, and why each."""

    of_image: dict[int, list[str]] = field(default_factory=dict)

    def add(self, image_id: int, reason: str) -> None:
        reasons = self.of_image.setdefault(image_id, [])
        if reason not in reasons:
            reasons.append(reason)


def choose_examples(
    per_image: pd.DataFrame, members: Sequence[Compared], number: int, wanted: Sequence[int] = ()
) -> dict[int, list[str]]:
    """Image ids for the gallery, at most `number`, each with the reasons why it is worth a look.

    In turns: the worst PQ, the largest disagreement of two runs, the image that each cause costs most, a typical image.
    """
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")
    known = pq.dropna(how="any")
    mean = known.mean(axis=1)
    spread = known.max(axis=1) - known.min(axis=1)
    queues: list[list[tuple[int, str]]] = [
        [(int(image), "lowest PQ") for image in mean.sort_values(kind="stable").index],
        [(int(image), "models differ most") for image in spread[spread > 0].sort_values(ascending=False).index],
        _costliest(members),
        [(int(image), "typical") for image in (mean - mean.median()).abs().sort_values(kind="stable").index],
    ]
    chosen = _Reasons()
    for image in wanted:
        chosen.add(int(image), "asked for")
    fronts = [iter(queue) for queue in queues]
    while fronts and len(chosen.of_image) < number:
        for front in list(fronts):
            if len(chosen.of_image) >= number:
                break
            following = next((pick for pick in front if pick[0] not in chosen.of_image), None)
            if following is None:
                fronts.remove(front)
            else:
                chosen.add(*following)
    for queue in queues[:3]:
        for image, reason in queue[: max(3, number // 4)]:
            if image in chosen.of_image:
                chosen.add(image, reason)
    return chosen.of_image


def _costliest(members: Sequence[Compared]) -> list[tuple[int, str]]:
    """The images that each cause costs most, the worst of each cause first, then the second of each …"""
    worst = pd.concat([member.explained.worst for member in members], ignore_index=True)
    worst = worst[worst["cause"] != "imperfect mask"].sort_values("gain", ascending=False, kind="stable")
    worst = worst.drop_duplicates(["cause", "image_id"])
    worst = worst.assign(place=worst.groupby("cause").cumcount()).sort_values(
        ["place", "gain"], ascending=[True, False]
    )
    return [(int(row.image_id), f"costly: {row.cause}") for row in worst.itertuples()]


def make_gallery(
    members: Sequence[Compared],
    per_image: pd.DataFrame,
    number: int,
    wanted: Sequence[int],
    pictures: Pictures,
    side: int,
    quality: int,
) -> Gallery:
    """The example images with ground truth and the predictions of every run that kept them."""
    if number == 0 and not wanted:
        return Gallery()
    missing = []
    sources: list[RunPictures | None] = []
    for member in members:
        source = RunPictures(member.run, member.label)
        if source.folder is None:
            missing.append(
                f"{member.label} has no stored predictions and is not in the pictures: "
                "`panbench eval … --save-predictions` keeps them."
            )
        sources.append(source if source.folder else None)
    if not any(sources):
        how = "Runs that `panbench eval --save-predictions` made have pictures."
        return Gallery((), (f"No run has stored predictions. {how}",))
    unknown_ids = sorted(set(wanted) - set(per_image["image_id"]))
    if unknown_ids:
        raise BadArgument(f"--image {unknown_ids[0]}: the runs have no image with this id.")
    try:
        pictures.panoptic  # noqa: B018  (says what is missing before any image is read)
    except BadDataset as error:
        return Gallery((), (str(error),))
    records, faults = [], []
    chosen = choose_examples(per_image, members, max(number, len(wanted)), wanted)
    for image_id, reasons in chosen.items():
        try:
            records.append(_example(image_id, reasons, members, sources, pictures, side, quality))
        except PanbenchError as error:
            faults.append(str(error))
    if faults:
        missing.append(f"{len(faults)} of {len(chosen)} examples are left out; the first: {faults[0]}")
    return Gallery(tuple(records), tuple(missing))


def _example(
    image_id: int,
    reasons: Sequence[str],
    members: Sequence[Compared],
    sources: Sequence[RunPictures | None],
    pictures: Pictures,
    side: int,
    quality: int,
) -> dict[str, Any]:
    photo = pictures.photo(image_id)
    categories = members[0].categories
    position = {category.id: index for index, category in enumerate(categories)}
    first = next(source for source in sources if source is not None)
    scale = min(1.0, side / max(photo.shape[:2]))
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    truth = first.truth(image_id, pictures)
    shown = [truth, *(source and source.prediction(image_id, pictures) for source in sources)]
    layers = [layer and _layer_record(layer, position, segment_colors(layer, categories), size) for layer in shown]
    # What became of a true segment differs from model to model.
    answers = [None if source is None else _answers(source, image_id, truth) for source in sources]
    return {
        "id": image_id,
        "file": pictures.file_name(image_id),
        "why": list(reasons),
        "width": size[0],
        "height": size[1],
        "photo": _jpeg(photo, size, quality),
        "layers": layers,
        "answers": answers,
    }


def _answers(source: RunPictures, image_id: int, truth: Layer) -> list[list[Any]]:
    """For each segment of the ground truth, what one run made of it: [verdict, IoU, cause]."""
    judged = source.judged(image_id)
    by_id = judged[judged["side"] == "gt"].set_index("id")
    return [
        [str(row["verdict"]), None if row["iou"] != row["iou"] else round(float(row["iou"]), 4), row["cause"] or None]
        for row in (by_id.loc[segment.id] for segment in truth.segments)
    ]


def _layer_record(
    layer: Layer, position: Mapping[int, int], colors: Mapping[int, tuple[int, int, int]], size: tuple[int, int]
) -> dict[str, Any]:
    index = numbered(layer).astype(np.uint16)
    small = cv2.resize(index, size, interpolation=cv2.INTER_NEAREST).astype(np.uint16, copy=False)
    return {
        "runs": base64.b64encode(run_lengths(small)).decode(),
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


def run_lengths(index: npt.NDArray[np.uint16]) -> bytes:
    """An index map as pairs (value, length) of runs in row order, each number in base 128, low digits first.

    The page decodes this itself: reading a PNG back from a canvas gives other values in browsers that resist
    fingerprinting.
    """
    flat = index.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    out = bytearray()
    for value, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        for number in (value, length):
            while number > 127:
                out.append(number & 127 | 128)
                number >>= 7
            out.append(number)
    return bytes(out)


def _jpeg(photo: Photo, size: tuple[int, int], quality: int) -> str:
    small = photo if size == photo.shape[1::-1] else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    done, content = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise BadRun("A photograph cannot be written as JPEG.")
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
