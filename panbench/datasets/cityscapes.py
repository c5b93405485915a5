"""Cityscapes gtFine to a panoptic set. Ids, crowds and categories are those of cityscapesscripts' createPanopticImgs.

Source: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, in one folder, unpacked or as they are
(cityscapes-dataset.com, after registration). Read are gtFine/<split>/<city>/*_gtFine_instanceIds.png: a pixel is label
id × 1000 + instance number, or the bare label id for a group of things (a crowd) and for stuff.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.errors import BadDataset
from panbench.datasets.convert import (
    Converted,
    LabelledImage,
    check_split,
    folder_of,
    shipped_categories,
    write_set,
)
from panbench.datasets.label_maps import read_label_png

SPLITS = ("val", "train")
_SUFFIX = "_gtFine_instanceIds.png"
_LABELS = 34


def convert_cityscapes(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/cityscapes", split: str = "val", **options: Any
) -> Converted:
    """Cityscapes' `split` as a panoptic set under `root`: 19 categories with their labels' ids (7 road … 33 bicycle).

    source: the folder that holds gtFine and leftImg8bit, or their zips
    options: as `panbench.datasets.convert.write_set`
    Image ids are the images' names, as cityscapesscripts has them; segment ids are the values of the pixels.
    """
    check_split("Cityscapes", split, SPLITS)
    source = Path(source)
    labels, pictures = (
        folder_of(source, f"{name}/{split}", [f"{name}_trainvaltest.zip"]) for name in ("gtFine", "leftImg8bit")
    )
    files = [] if labels is None else sorted(labels.glob(f"*/*{_SUFFIX}"))
    if not files:
        raise BadDataset(
            f"{source / 'gtFine' / split} holds no *{_SUFFIX}. Put gtFine_trainvaltest.zip into {source}, or unpack it "
            "there."
        )
    if options.get("images") != "none" and pictures is None:
        raise BadDataset(
            f"{source / 'leftImg8bit' / split} was not found. Put leftImg8bit_trainvaltest.zip into {source}, or "
            "unpack it there."
        )
    categories = shipped_categories("cityscapes")
    things = {category.id: category.isthing for category in categories}

    def read(path: Path) -> LabelledImage:
        ids = read_label_png(path).astype(np.int32)
        segments: dict[int, tuple[int, bool]] = {}
        for value in np.unique(ids):
            label = int(value) // 1000 if value >= 1000 else int(value)
            if not 0 <= label < _LABELS:
                raise BadDataset(f"{path} has the pixel value {value}, which is not a Cityscapes label.")
            if label in things:
                segments[int(value)] = (label, value < 1000 and things[label])
        # Labels that the evaluation ignores (ego vehicle, parking, …) become void.
        ids[~np.isin(ids, list(segments))] = 0
        stem = path.name.removesuffix(_SUFFIX)
        picture = pictures and pictures / path.parent.name / f"{stem}_leftImg8bit.png"
        return LabelledImage(f"{stem}.png", ids, segments, picture)

    return write_set(root, split, categories, files, read, **options)
