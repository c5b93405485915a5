"""Reads COCO's instance JSON: true instances whose masks may overlap, the papers' ground truth for AP_pan."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import path_at
from panbench.base.errors import BadDataset
from panbench.base.files import sha256_of
from panbench.base.text import listed
from panbench.panoptic.image_ids import image_id_of
from panbench.panoptic.types import Category

OUTSIDE_PIXELS = 2
"""Annotation tools round polygons to points just outside the image; anything farther is an error."""

MANY_CROWDS = 10
"""With at least this many instances, all being crowds is a habit of the tool and not a coincidence."""


@dataclass(frozen=True)
class TrueInstance:
    """One instance as its JSON lists it: `area` decides its size class; `InstanceSet.mask` makes its mask."""

    category_id: int
    area: float
    iscrowd: bool
    record: dict[str, Any]


@dataclass(frozen=True)
class InstanceSet:
    """The instances of a JSON by image id, in the order of the JSON. sizes: (height, width) by image id"""

    path: Path
    sha256: str
    by_image: dict[int, tuple[TrueInstance, ...]]
    sizes: dict[int, tuple[int, int]]

    def of_image(self, image_id: int) -> tuple[TrueInstance, ...]:
        """Returns the instances of one image; () if it has none."""
        return self.by_image.get(image_id, ())

    def mask(self, instance: TrueInstance, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Rasterizes an instance to (height, width) as pycocotools does. Raises BadDataset."""
        where = f"{self.path}: annotation {instance.record.get('id')}"
        return instance_mask(instance.record.get("segmentation"), height, width, where)[0]


def read_instances(
    path: str | os.PathLike[str], categories: Sequence[Category], image_ids: Sequence[int] | None = None
) -> InstanceSet:
    """Reads the instances of a COCO instance JSON such as instances_val2017.json.

    categories: those of the panoptic ground truth; each instance must be of one of its things, by id and name
    image_ids: images that the JSON must list
    Raises BadDataset for any other file, and for other categories or images.
    """
    document = read_json(path, ("images", "annotations", "categories"))
    things = {category.id: category.name for category in categories if category.isthing}
    try:
        theirs = {int(record["id"]): str(record["name"]) for record in document["categories"]}
        sizes = {
            image_id_of(record["id"]): (int(record["height"]), int(record["width"])) for record in document["images"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataset(f"{path} is not a COCO instance JSON: an image or category lacks {error}.") from error
    different = sorted(name for id, name in things.items() if theirs.get(id) != name) + sorted(
        name for id, name in theirs.items() if id not in things
    )
    if different:
        raise BadDataset(
            f"{path} and the panoptic ground truth have different things: {listed(different, 5)}. Give the instances "
            "of the same set."
        )
    absent = sorted(set(image_ids or ()) - set(sizes))
    if absent:
        raise BadDataset(f"{path} does not list {len(absent):,} of the images, as {listed(absent, 5)}: another split?")
    found: dict[int, list[TrueInstance]] = defaultdict(list)
    requested = None if image_ids is None else set(image_ids)
    for record in document["annotations"]:
        try:
            if requested is not None and image_id_of(record["image_id"]) not in requested:
                continue
            instance = TrueInstance(
                int(record["category_id"]), float(record["area"]), bool(record.get("iscrowd", 0)), record
            )
            if instance.category_id not in things:
                raise BadDataset(f"{path}: annotation {record.get('id')} is of an unknown category.")
            found[image_id_of(record["image_id"])].append(instance)
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataset(f"{path} is not a COCO instance JSON: an annotation lacks {error}.") from error
    return InstanceSet(Path(path), sha256_of(path), {image: tuple(own) for image, own in found.items()}, sizes)


def instance_mask(shape: Any, height: int, width: int, where: str) -> tuple[npt.NDArray[np.bool_], bool]:
    """Rasterizes COCO's `segmentation` to (height, width); also returns whether its polygons had to be clipped.

    shape: polygons, or run lengths, compressed or not; where: the beginning of error messages. Raises BadDataset.
    """
    from pycocotools import mask as rle_masks

    clipped = False
    # pycocotools' C code trusts its input: refuse what would write outside its memory.
    if isinstance(shape, list):
        shape, clipped = _clipped_polygons(shape, height, width, where)
    elif isinstance(shape, dict) and shape.get("size") != [height, width]:
        raise BadDataset(f"{where} has a mask of another size than its image.")
    try:
        if isinstance(shape, list):
            shape = rle_masks.merge(rle_masks.frPyObjects(shape, height, width))
        elif isinstance(shape, dict) and isinstance(shape.get("counts"), list):
            if not all(type(run) is int and run >= 0 for run in shape["counts"]):
                raise ValueError("runs must be whole numbers")
            if sum(shape["counts"]) != height * width:
                raise ValueError(f"its runs have {sum(shape['counts'])} pixels, not {height * width}")
            shape = rle_masks.frPyObjects(shape, height, width)
        mask: npt.NDArray[np.bool_] = rle_masks.decode(shape).astype(bool)
    except Exception as error:  # pycocotools raises anything from TypeError to bare Exception
        raise BadDataset(f"{where} has no readable mask ({error}).") from error
    if mask.shape != (height, width):
        raise BadDataset(f"{where} has a mask of another size than its image.")
    return mask, clipped


def _clipped_polygons(polygons: list[Any], height: int, width: int, where: str) -> tuple[list[list[float]], bool]:
    """Clips polygons to the image; also returns whether any point had to be moved.

    Raises BadDataset for polygons that are not lists of coordinates, not finite, or more than OUTSIDE_PIXELS outside:
    pycocotools allocates memory for every pixel of their outline, or crashes.
    """
    checked, clipped = [], False
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise BadDataset(f"{where} has a polygon that is not a list of at least three x, y.")
        points = np.array([min(max(value, -1e300), 1e300) for value in polygon], np.float64).reshape(-1, 2)
        low, high = points.min(initial=0), (points - (width, height)).max(initial=0)
        if not np.isfinite(points).all() or low < -OUTSIDE_PIXELS or high > OUTSIDE_PIXELS:
            raise BadDataset(
                f"{where} has a polygon with points outside of its image of {height}×{width} (height × width), or not "
                "finite. Correct its coordinates."
            )
        clipped |= low < 0 or high > 0
        checked.append(points.clip(0, (width, height)).ravel().tolist())
    return checked, bool(clipped)


def read_instances_json(path: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    """Reads a COCO instance JSON of ground truth. Raises BadDataset that names the right command for other files."""
    if Path(path).is_dir():
        files = sorted(Path(path).glob("*.json"))
        labelme = bool(files) and "shapes" in read_json(files[0], ())
        raise BadDataset(
            f"{path} is a folder of LabelMe's files. Give the COCO instance JSON that labelme2coco makes of it."
            if labelme
            else f"{path} is a folder. Give the COCO instance JSON."
        )
    document = read_json(path, ())
    if isinstance(document, list) and document and isinstance(document[0], dict) and "data" in document[0]:
        raise BadDataset(
            f"{path} is an export of Label Studio in its own form. Export as COCO there, or convert it with the "
            "package label-studio-converter, and give that JSON."
        )
    found = document if isinstance(document, list) else read_json(path, ("images", "annotations"))["annotations"]
    if any(isinstance(record, dict) and "score" in record for record in found):
        raise BadDataset(
            f"{path} has scores: these are results of a model, whose masks overlap, and not ground truth. `panbench "
            "fuse --instances` makes panoptic predictions of results."
        )
    if isinstance(document, list):
        raise BadDataset(f"{path} is a list. A COCO instance JSON is an object with `images` and `annotations`.")
    return cast(dict[str, list[dict[str, Any]]], document)


def read_json(path: str | os.PathLike[str], keys: Iterable[str]) -> Any:
    """Reads a JSON object whose `keys` are lists. Raises BadDataset."""
    try:
        document = json.loads(path_at(path).read_bytes())
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON ({error}). It may be truncated: fetch or export it again.") from error
    for key in keys:
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise BadDataset(f"{path} has no list `{key}`.")
    return document
