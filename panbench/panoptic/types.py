"""The vocabulary of panoptic segmentation: what a category, a segment, a scene and a prediction are.

An id map is an (H, W) int32 array: each pixel holds the id of its segment, 0 is void. [Kirillov et al. 2019]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "GROUPS",
    "MAX_ID",
    "MAX_SCORE",
    "VOID",
    "Annotation",
    "AnnotationColumns",
    "Category",
    "Exif",
    "IdMap",
    "ImageInfo",
    "PanopticPrediction",
    "PanopticSet",
    "Scene",
    "Segment",
    "in_groups",
    "sharing",
]

VOID = 0


MAX_ID = (1 << 24) - 1

MAX_SCORE = float(np.finfo(np.float32).max)
"""Scores are stored in 32 bits; NaN and infinities compare as larger."""


IdMap = npt.NDArray[np.int32]

Exif = Literal["apply", "ignore"]
"""Whether photographs are turned as their EXIF orientation says."""


GROUPS: Mapping[str, str] = {"All": "", "Things": "_th", "Stuff": "_st"}
"""The groups of categories that scores are averaged over, each with the suffix of their names: PQ, PQ_th, PQ_st."""


def in_groups(isthing: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.bool_]]:
    """For each of GROUPS, which entries belong to it; `isthing` marks entries of thing categories."""
    return {"All": np.ones(len(isthing), np.bool_), "Things": isthing, "Stuff": ~isthing}


@dataclass(frozen=True, slots=True)
class Category:
    """A class of the dataset: `id` is the dataset's own; things are countable objects, stuff is amorphous regions."""

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
    categories and no images. digests: the SHA-256 of id PNGs, by image id, where a run recorded it (`coco.read_ids`)
    sha256: of the JSON, as it was when it was read
    """

    categories: tuple[Category, ...]
    images: Mapping[int, ImageInfo]
    annotations: Mapping[int, Annotation]
    folder: Path
    path: Path
    digests: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    sha256: str = field(default="", compare=False)

    def png_path(self, image_id: int) -> Path:
        """The path of an image's id PNG."""
        return self.folder / self.annotations[image_id].file_name


def sharing(ids: Sequence[int], name_hashes: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """The ids that share a name, for each name with several ids.

    name_hashes: 64 bits of each id's name, as `hash` gives them: of a million names no dictionary is made
    """
    order = np.argsort(name_hashes, kind="stable")
    ordered = name_hashes[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    groups: dict[int, list[int]] = {}
    for place in again.tolist():
        group = groups.setdefault(int(ordered[place]), [ids[order[place]]])
        group.append(ids[order[place + 1]])
    return tuple(tuple(group) for group in sorted(groups.values()))


@dataclass(frozen=True)
class AnnotationColumns:
    """The annotations of a panoptic JSON as columns: scoring thousands of images needs no object for each segment.

    image_ids, file_names: one entry per image, in the order of the JSON; its segments are rows first[i] to first[i + 1]
    id, category_id (int32), area (int64; 0: counted from the PNG), iscrowd (bool), score (float32, NaN if unknown):
        one entry per segment
    own_categories: of predictions, the name of each category id and whether it is a thing, where their JSON says so
    same_photograph: images that `images` lists under one file name, as tuples of image ids
    sha256: of the JSON, as it was when it was read
    """

    categories: tuple[Category, ...]
    image_ids: list[int]
    file_names: list[str]
    first: npt.NDArray[np.int64]
    id: npt.NDArray[np.int32]
    category_id: npt.NDArray[np.int32]
    area: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]
    folder: Path
    path: Path
    own_categories: Mapping[int, tuple[str, bool | None]] = field(default_factory=dict)
    same_photograph: tuple[tuple[int, ...], ...] = ()
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.image_ids)

    def only(self, places: Sequence[int]) -> "AnnotationColumns":
        """Selects images by their positions in `image_ids`, in the given order."""
        chosen = np.asarray(places, np.int64)
        count = np.diff(self.first)[chosen]
        first = np.concatenate([[0], np.cumsum(count)])
        # The rows first[i], first[i] + 1, … of each chosen image i.
        rows = np.repeat(self.first[chosen] - first[:-1], count) + np.arange(first[-1])
        segments = {name: getattr(self, name)[rows] for name in ("id", "category_id", "area", "iscrowd", "score")}
        return replace(
            self,
            image_ids=[self.image_ids[place] for place in places],
            file_names=[self.file_names[place] for place in places],
            first=first.astype(np.int64),
            same_photograph=(),
            **segments,
        )

    @property
    def has_scores(self) -> bool:
        """Whether any segment has a score."""
        return bool(np.isfinite(self.score).any())

    @property
    def same_png(self) -> tuple[tuple[int, ...], ...]:
        """The images that share an id PNG, as tuples of image ids."""
        return sharing(self.image_ids, np.fromiter(map(hash, self.file_names), np.int64, len(self)))


@dataclass(frozen=True, slots=True)
class Scene:
    """An image of a dataset, with the paths of its picture and ground truth; None where there is none.

    exif: whether the picture is turned as its EXIF orientation says (OpenCV and mmdet do that) or taken as it is stored
    """

    image: ImageInfo
    image_path: Path | None = None
    annotation: Annotation | None = None
    gt_path: Path | None = None
    exif: Exif = "apply"


@dataclass(frozen=True, slots=True)
class PanopticPrediction:
    """A model's prediction for one image: `ids` is (H, W) int32 at the image's original size, 0 = void."""

    image_id: int
    ids: IdMap
    segments: tuple[Segment, ...] = field(default=())
