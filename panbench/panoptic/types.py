"""Defines the data types of panoptic segmentation: category, segment, annotation, image of a dataset, prediction.

An id map is an (H, W) int32 array: each pixel holds the id of its segment, 0 is void. [Kirillov et al. 2019]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

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
    """Returns boolean arrays that select the entries of all, thing and stuff categories.

    isthing: True for entries of thing categories
    """
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
    """The checked content of a panoptic JSON. A set of predictions may have no categories and no images.

    images, annotations: by image id, in the order of the JSON
    folder: of the id PNGs; path: of the JSON
    digests: SHA-256 of id PNGs by image id, if a run recorded it (`coco.read_ids` verifies them)
    sha256: of the JSON's bytes
    """

    categories: tuple[Category, ...]
    images: Mapping[int, ImageInfo]
    annotations: Mapping[int, Annotation]
    folder: Path
    path: Path
    digests: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    sha256: str = field(default="", compare=False)

    def png_path(self, image_id: int) -> Path:
        """Returns the path of an image's id PNG."""
        return self.folder / self.annotations[image_id].file_name


def ids_sharing_a_name(ids: Sequence[int], name_hashes: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Groups ids by name; returns the groups with more than one id.

    name_hashes: `hash` of each id's name, as a dictionary of a million names would take much memory
    """
    order = np.argsort(name_hashes, kind="stable")
    ordered = name_hashes[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    groups: dict[int, list[int]] = {}
    for index in again.tolist():
        group = groups.setdefault(int(ordered[index]), [ids[order[index]]])
        group.append(ids[order[index + 1]])
    return tuple(tuple(group) for group in sorted(groups.values()))


@dataclass(frozen=True)
class AnnotationColumns:
    """The annotations of a panoptic JSON as columns, without an object per segment: for scoring thousands of images.

    image_ids, file_names: one entry per image, in the order of the JSON
    first: the segments of image i are rows first[i] to first[i + 1] of the next columns
    id, category_id, area (0: to be counted from the PNG), iscrowd, score (NaN if unknown): one entry per segment
    own_categories: name and isthing by category id, if a JSON of predictions has them
    same_photograph: tuples of image ids whose images have the same file name
    sha256: of the JSON's bytes
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
        """Returns the number of images."""
        return len(self.image_ids)

    def only(self, indices: Sequence[int]) -> "AnnotationColumns":
        """Selects images by their indices in `image_ids`, in the given order."""
        chosen = np.asarray(indices, np.int64)
        count = np.diff(self.first)[chosen]
        first = np.concatenate([[0], np.cumsum(count)])
        # The rows first[i], first[i] + 1, … of each chosen image i.
        rows = np.repeat(self.first[chosen] - first[:-1], count) + np.arange(first[-1])
        segments = {name: getattr(self, name)[rows] for name in ("id", "category_id", "area", "iscrowd", "score")}
        return replace(
            self,
            image_ids=[self.image_ids[index] for index in indices],
            file_names=[self.file_names[index] for index in indices],
            first=first.astype(np.int64),
            same_photograph=(),
            **segments,
        )

    @property
    def has_scores(self) -> bool:
        """True if any segment has a score."""
        return bool(np.isfinite(self.score).any())

    @property
    def same_png(self) -> tuple[tuple[int, ...], ...]:
        """The groups of images whose annotations name the same id PNG, as tuples of image ids."""
        return ids_sharing_a_name(self.image_ids, np.fromiter(map(hash, self.file_names), np.int64, len(self)))


@dataclass(frozen=True, slots=True)
class Scene:
    """An image of a dataset, with the paths of its photograph and ground truth; None if there is none.

    exif: "apply" rotates the photograph by its EXIF orientation, as OpenCV and mmdet do; "ignore" reads it as stored
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


@dataclass(frozen=True)
class AttendedLayer:
    """What a query attends to in one decoder layer. All arrays have the photograph's (H, W).

    number: of the layer, counted from 1
    weights: float32, the query's attention averaged over heads; it sums to 1 over the layer's feature map, or to less
        if the query also attends elsewhere (to other queries, or to points outside of the image)
    allowed: bool, where masked attention lets the query attend; None for everywhere
    mask: bool, the mask predicted from the layer's output (probability ≥ 0.5); None if only the last layer has one
    """

    number: int
    weights: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_] | None
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class AttendedQuery:
    """A query's number (from 0), its prediction in the last layer (`category`, `score`), and its attention by layer."""

    query: int
    category: str
    score: float
    layers: tuple[AttendedLayer, ...]
