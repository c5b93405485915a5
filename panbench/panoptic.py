"""The vocabulary of panoptic segmentation, and the COCO panoptic format on disk.

An id map is an (H, W) int32 array: each pixel holds the id of its segment, 0 is void. On disk it is an RGB PNG with
id = R + 256 G + 256² B, beside a JSON that says what each id is. [Kirillov et al. 2019; https://cocodataset.org/#format-data]
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.errors import BadDataset, PanbenchError
from panbench.files import atomic_write, write_json
from panbench.idmap import DEFAULT_MAX_PIXELS, decode_id_png, encode_id_png

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "MAX_ID",
    "VOID",
    "Annotation",
    "Category",
    "IdMap",
    "ImageInfo",
    "PanopticPrediction",
    "PanopticSet",
    "Scene",
    "Segment",
    "ids_to_rgb",
    "read_id_png",
    "read_panoptic_json",
    "read_predictions_json",
    "rgb_to_ids",
    "write_id_png",
    "write_panoptic_json",
]

VOID = 0
MAX_ID = (1 << 24) - 1

IdMap = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Category:
    """A class of the dataset: `id` is the dataset's own, `isthing` tells countable objects from amorphous regions."""

    id: int
    name: str
    isthing: bool
    supercategory: str = ""
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One region of an id map. `area` in pixels; `bbox` is (x, y, width, height); `score` is None if unknown."""

    id: int
    category_id: int
    area: int
    iscrowd: bool = False
    bbox: tuple[float, float, float, float] | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image as its dataset lists it; `file_name` is relative to the folder of images, sizes in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """The segments of one image, in the order of the JSON, and the name of its id PNG within the set's folder."""

    image_id: int
    file_name: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PanopticSet:
    """A panoptic JSON, checked: `images` and `annotations` by image id, in the order of the JSON.

    `folder` holds the id PNGs that the annotations name; `path` is the JSON itself. A set of predictions may have no
    categories and no images.
    """

    categories: tuple[Category, ...]
    images: dict[int, ImageInfo]
    annotations: dict[int, Annotation]
    folder: Path
    path: Path

    def png_path(self, image_id: int) -> Path:
        """Where the id PNG of an image lies."""
        return self.folder / self.annotations[image_id].file_name


@dataclass(frozen=True, slots=True)
class Scene:
    """An image of a dataset and where its picture and its ground truth lie; each is None where there is none."""

    image: ImageInfo
    image_path: Path | None = None
    annotation: Annotation | None = None
    gt_path: Path | None = None


@dataclass(frozen=True, slots=True)
class PanopticPrediction:
    """A model's answer for one image: `ids` is (H, W) int32 at the image's original size, 0 = void."""

    image_id: int
    ids: IdMap
    segments: tuple[Segment, ...] = field(default=())


def rgb_to_ids(rgb: npt.NDArray[np.uint8]) -> IdMap:
    """The (H, W) int32 id map of an (H, W, 3) uint8 RGB array: R + 256 G + 256² B."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    ids = np.zeros((*rgb.shape[:2], 4), np.uint8)
    ids[..., :3] = rgb
    return ids.view("<i4")[..., 0].astype(np.int32, copy=False)


def ids_to_rgb(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """The (H, W, 3) uint8 RGB array of an (H, W) id map. Raises ValueError for ids outside 0…2²⁴-1."""
    if ids.ndim != 2:
        raise ValueError(f"ids must be (H, W), got {ids.shape}")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > MAX_ID):
        raise ValueError(f"ids must lie in 0…{MAX_ID}, got {int(ids.min())}…{int(ids.max())}")
    little = np.ascontiguousarray(ids, dtype="<i4")
    return np.ascontiguousarray(little.view(np.uint8).reshape(*ids.shape, 4)[..., :3])


def read_id_png(
    path: str | os.PathLike[str],
    shape: tuple[int, int] | None = None,
    *,
    image_id: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    error: type[PanbenchError] = BadDataset,
) -> IdMap:
    """The (H, W) int32 id map in a PNG.

    shape: (H, W) that the map must have; None takes any
    image_id: named in error messages
    max_pixels: a larger PNG is refused before it is decoded
    error: class of the exception: `error` is raised when the file is missing, no PNG, truncated, not 8-bit RGB, or of
        another shape
    """
    where = f"{path}" if image_id is None else f"{path} (image {image_id})"
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise error(f"{where} does not exist. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise error(f"{where} cannot be read: {problem.strerror or problem}.") from None
    try:
        return decode_id_png(content, shape=shape, max_pixels=max_pixels)
    except ValueError as problem:
        raise error(f"{where} {problem}") from None


def write_id_png(path: str | os.PathLike[str], ids: npt.NDArray[np.integer]) -> None:
    """Writes an (H, W) id map as RGB PNG, atomically, made for speed. Raises ValueError for ids outside 0…2²⁴-1."""
    content = encode_id_png(ids)
    with atomic_write(path) as handle:
        handle.write(content)


def read_panoptic_json(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> PanopticSet:
    """The ground truth that a COCO panoptic JSON describes. Id PNGs are not opened.

    folder: where the id PNGs lie; by default the JSON's path without `.json`, as panopticapi has it
    Raises BadDataset, naming the file, the record and the field, when the JSON is not COCO panoptic.
    """
    reader = _Reader(Path(path))
    document = reader.document(("images", "annotations", "categories"))
    categories = reader.categories(document["categories"])
    images = reader.images(document["images"])
    annotations = reader.annotations(document["annotations"], {category.id for category in categories}, counted=False)
    strangers = [image_id for image_id in annotations if image_id not in images]
    if strangers:
        raise BadDataset(
            f"{path}: annotations name image ids that `images` does not list: {listed(strangers)}. "
            "Add the images or drop the annotations."
        )
    return PanopticSet(categories, images, annotations, _folder_of(path, folder), Path(path))


def read_predictions_json(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> PanopticSet:
    """The predictions that a COCO panoptic JSON describes: `annotations` is all it needs.

    A segment needs `id` and `category_id`; `score` is kept where given; areas are counted from the PNG later and are 0
    here. Whether a category is known is for the scorer to say. Otherwise as `read_panoptic_json`.
    """
    reader = _Reader(Path(path))
    document = reader.document(("annotations",))
    annotations = reader.annotations(document["annotations"], None, counted=True)
    return PanopticSet((), {}, annotations, _folder_of(path, folder), Path(path))


def write_panoptic_json(path: str | os.PathLike[str], panoptic_set: PanopticSet) -> None:
    """Writes a set as COCO panoptic JSON, atomically, in the form that panopticapi and mmdet read."""
    write_json(
        path,
        {
            "images": [
                {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in panoptic_set.images.values()
            ],
            "annotations": [
                {
                    "image_id": annotation.image_id,
                    "file_name": annotation.file_name,
                    "segments_info": [_segment_record(segment) for segment in annotation.segments],
                }
                for annotation in panoptic_set.annotations.values()
            ],
            "categories": [
                {
                    "id": category.id,
                    "name": category.name,
                    "isthing": int(category.isthing),
                    "supercategory": category.supercategory,
                    **({} if category.color is None else {"color": list(category.color)}),
                }
                for category in panoptic_set.categories
            ],
        },
        indent=None,
    )


def listed(values: Iterable[Any], most: int = 10) -> str:
    """`1, 2, 3 and 4 more`: values for a sentence."""
    items = [str(value) for value in values]
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def _segment_record(segment: Segment) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": segment.id,
        "category_id": segment.category_id,
        "area": segment.area,
        "iscrowd": int(segment.iscrowd),
    }
    if segment.bbox is not None:
        record["bbox"] = list(segment.bbox)
    if segment.score is not None:
        record["score"] = segment.score
    return record


def _folder_of(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None) -> Path:
    # panopticapi drops every ".json" of the path, not only the suffix; so do we.
    return Path(os.fspath(path).replace(".json", "")) if folder is None else Path(folder)


@dataclass(frozen=True)
class _Reader:
    """Turns the records of one JSON into our types; each refusal names the file, the record and the field."""

    path: Path

    def refuse(self, what: str) -> BadDataset:
        return BadDataset(f"{self.path}: {what}")

    def document(self, keys: tuple[str, ...]) -> dict[str, list[Any]]:
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            raise BadDataset(f"{self.path} does not exist. Give the path of a COCO panoptic JSON.") from None
        except OSError as problem:
            raise self.refuse(f"cannot be read: {problem.strerror or problem}.") from None
        except (ValueError, RecursionError) as problem:
            raise self.refuse(f"is not JSON ({problem}).") from None
        if not isinstance(document, dict):
            raise self.refuse(
                f"holds a {type(document).__name__} where COCO panoptic has an object with {', '.join(keys)}."
            )
        for key in keys:
            if key not in document:
                raise self.refuse(f"is not COCO panoptic: the key `{key}` is missing.")
            if not isinstance(document[key], list):
                raise self.refuse(f"`{key}` must be a list, not {type(document[key]).__name__}.")
        return document

    def categories(self, records: list[Any]) -> tuple[Category, ...]:
        found: dict[int, Category] = {}
        for index, record in enumerate(records):
            where = f"categories[{index}]"
            category_id = self.integer(record, "id", where)
            color = record.get("color")
            isthing = self.value(record, "isthing", where)
            if isthing not in (0, 1):
                raise self.refuse(f"{where}.isthing must be 0 or 1, not {isthing!r}.")
            if category_id in found:
                raise self.refuse(f"{where} repeats category id {category_id}.")
            found[category_id] = Category(
                id=category_id,
                name=self.text(record, "name", where),
                isthing=isthing == 1,
                supercategory=str(record.get("supercategory") or ""),
                color=_color(color),
            )
        return tuple(found.values())

    def images(self, records: list[Any]) -> dict[int, ImageInfo]:
        found: dict[int, ImageInfo] = {}
        for index, record in enumerate(records):
            where = f"images[{index}]"
            image = ImageInfo(
                id=self.integer(record, "id", where),
                file_name=self.file_name(record, where),
                height=self.integer(record, "height", where, low=1),
                width=self.integer(record, "width", where, low=1),
            )
            if image.id in found:
                raise self.refuse(f"{where} repeats image id {image.id}.")
            found[image.id] = image
        return found

    def annotations(self, records: list[Any], category_ids: set[int] | None, counted: bool) -> dict[int, Annotation]:
        """`counted`: areas come from the PNG, so the JSON need not (and does not) give them."""
        found: dict[int, Annotation] = {}
        for index, record in enumerate(records):
            where = f"annotations[{index}]"
            image_id = self.integer(record, "image_id", where)
            where = f"{where} (image {image_id})"
            if image_id in found:
                raise self.refuse(f"{where} repeats an image id; each image has one annotation.")
            segments_info = self.value(record, "segments_info", where)
            if not isinstance(segments_info, list):
                raise self.refuse(f"{where}.segments_info must be a list, not {type(segments_info).__name__}.")
            segments = tuple(
                self.segment(segment, f"{where}.segments_info[{number}]", counted)
                for number, segment in enumerate(segments_info)
            )
            ids = {segment.id for segment in segments}
            if len(ids) != len(segments):
                seen: set[int] = set()
                twice = [segment.id for segment in segments if segment.id in seen or seen.add(segment.id)]  # type: ignore[func-returns-value]
                raise self.refuse(f"{where} lists segment ids twice: {listed(twice)}.")
            if category_ids is not None and not category_ids.issuperset(segment.category_id for segment in segments):
                unknown = {segment.category_id for segment in segments} - category_ids
                raise self.refuse(
                    f"{where} uses category ids that `categories` does not list: {listed(sorted(unknown))}."
                )
            found[image_id] = Annotation(image_id, self.file_name(record, where), segments)
        return found

    def segment(self, record: Any, where: str, counted: bool) -> Segment:
        return Segment(
            id=self.integer(record, "id", where, low=1, high=MAX_ID),
            category_id=self.integer(record, "category_id", where),
            area=0 if counted else self.integer(record, "area", where, low=0),
            iscrowd=record.get("iscrowd", 0) == 1,
            bbox=_box(record.get("bbox")),
            score=self.score(record, where),
        )

    def value(self, record: Any, key: str, where: str) -> Any:
        if not isinstance(record, Mapping):
            raise self.refuse(f"{where} must be an object, not {type(record).__name__}.")
        if key not in record:
            raise self.refuse(f"{where} lacks the key `{key}`.")
        return record[key]

    def integer(self, record: Any, key: str, where: str, low: int = -(2**31), high: int = 2**62) -> int:
        value = self.value(record, key, where)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.refuse(f"{where}.{key} must be an integer, not {value!r}.")
        if not low <= value <= high:
            raise self.refuse(f"{where}.{key} is {value}, outside {low}…{high}.")
        return value

    def text(self, record: Any, key: str, where: str) -> str:
        value = self.value(record, key, where)
        if not isinstance(value, str):
            raise self.refuse(f"{where}.{key} must be text, not {value!r}.")
        return value

    def file_name(self, record: Any, where: str) -> str:
        name = self.text(record, "file_name", where)
        if leaves_folder(name):
            raise self.refuse(
                f"{where}.file_name is {name!r}, which leaves its folder. "
                "Use a name relative to the folder, without `..`."
            )
        return name

    def score(self, record: Mapping[str, Any], where: str) -> float | None:
        score = record.get("score")
        if score is None:
            return None
        if type(score) not in (int, float) or not math.isfinite(score):
            raise self.refuse(f"{where}.score must be a finite number, not {score!r}.")
        return float(score)


def leaves_folder(name: str) -> bool:
    """Whether a file name of a JSON is absolute, empty, or climbs out by `..`, by the rules of any system."""
    windows = PureWindowsPath(name)
    return (
        not name or "\0" in name or ".." in windows.parts or bool(windows.anchor) or PurePosixPath(name).is_absolute()
    )


def _color(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(part, (int, float)) for part in value):
        return (int(value[0]), int(value[1]), int(value[2]))
    return None


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(isinstance(part, (int, float)) for part in value):
        return (value[0], value[1], value[2], value[3])
    return None
