"""KITTI-STEP as a panoptic set: frames of KITTI's tracking sequences with Cityscapes' 19 categories.

Source: kitti-step.tar.gz (panoptic_maps/<split>/<sequence>/<frame>.png) and the left colour images of KITTI's tracking
benchmark (cvlibs.net/datasets/kitti, after registration). A pixel's red is the label, 0 road … 18 bicycle, 255 void;
green × 256 + blue is the instance, from 1; 0 is stuff, or a group of things whose members are not told apart.
Val has the sequences 2, 6, 7, 8, 10, 13, 14, 16 and 18. [Weber et al. 2021; deeplab2's g3doc/setup/kitti_step.md]
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.errors import BadDataset
from panbench.datasets.convert import (
    Converted,
    LabelledImage,
    check_split,
    shipped_categories,
    write_set,
)
from panbench.datasets.label_maps import read_label_png
from panbench.panoptic.label_arrays import segments_of_labels
from panbench.panoptic.types import Category

SPLITS = ("val", "train")
_THINGS = (11, 13)
"""Person and car: the other things of Cityscapes have no instances here."""
_VOID = 255
_MAPS = ("panoptic_maps", "kitti-step/panoptic_maps")
_PICTURES = (
    "images/{split}",
    "training/image_02",
    "images/training/image_02",
    "data_tracking_image_2/training/image_02",
)


def kitti_step_categories() -> tuple[Category, ...]:
    """The 19 categories with KITTI-STEP's ids, 0 road … 18 bicycle: Cityscapes' in order, two of them things."""
    return tuple(
        dataclasses.replace(category, id=label, isthing=label in _THINGS)
        for label, category in enumerate(shipped_categories("cityscapes"))
    )


def convert_kitti_step(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/kitti-step", split: str = "val", **options: Any
) -> Converted:
    """KITTI-STEP's `split` as a panoptic set under `root`; frames are called SEQUENCE_FRAME.

    Thing pixels without an instance become a crowd of their category, as Cityscapes' groups do.

    source: the folder that holds panoptic_maps and KITTI's images, as training/image_02 or images/SPLIT
    options: as `panbench.datasets.convert.write_set`
    """
    check_split("KITTI-STEP", split, SPLITS)
    source = Path(source)
    maps = _first_folder(source, [f"{name}/{split}" for name in _MAPS])
    files = [] if maps is None else sorted(maps.glob("*/*.png"))
    if not files:
        raise BadDataset(f"{source} has no panoptic_maps/{split}/SEQUENCE/FRAME.png. Unpack kitti-step.tar.gz there.")
    pictures = None
    if options.get("images") != "none":
        pictures = _first_folder(source, [name.format(split=split) for name in _PICTURES])
        if pictures is None:
            raise BadDataset(
                f"{source} has neither training/image_02 nor images/{split}. Unpack the left colour images of KITTI's "
                "tracking benchmark (data_tracking_image_2.zip) there."
            )
    categories = kitti_step_categories()
    by_id = {category.id: category for category in categories}

    def read(path: Path) -> LabelledImage:
        pixels = read_label_png(path)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise BadDataset(f"{path} is not an RGB PNG with the label in red and the instance in green and blue.")
        labels, high, low = np.moveaxis(pixels.astype(np.int32), 2, 0)
        instances = high * 256 + low
        ids, segments = segments_of_labels(labels, instances, by_id, str(path), void=(_VOID,))
        groups = {int(each) for each in np.unique(ids[np.isin(labels, _THINGS) & (instances == 0)])}
        segments = {each: (category, each in groups) for each, (category, _) in segments.items()}
        picture = None if pictures is None else pictures / path.parent.name / path.name
        return LabelledImage(f"{path.parent.name}_{path.name}", ids, segments, picture)

    return write_set(root, split, categories, files, read, **options)


def _first_folder(source: Path, names: list[str]) -> Path | None:
    return next((source / name for name in names if (source / name).is_dir()), None)
