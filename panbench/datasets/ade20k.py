"""ADE20K panoptic (150 categories, 100 of them things) from its semantic and instance annotations.

Source: ADEChallengeData2016.zip, unpacked or as it is, and annotations_instance.tar (sceneparsing.csail.mit.edu),
unpacked, or the annotations_instance.zip that EoMT's instructions make of it (github.com/tue-mps/eomt). Semantic
PNGs hold 1…150, 0 = void; instance PNGs hold the thing's number 1…100 in red and the instance in green. Category ids
are 0…149 as in Mask2Former's and mmdet's panoptic sets.
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
from panbench.panoptic.label_arrays import segments_of_labels

SPLITS = {"val": "validation", "train": "training"}
_TOP = "ADEChallengeData2016"
_ARCHIVES = {
    "images": (f"{_TOP}.zip",),
    "annotations": (f"{_TOP}.zip",),
    "annotations_instance": ("annotations_instance.zip",),
}


def convert_ade20k(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/ade20k", split: str = "val", **options: Any
) -> Converted:
    """ADE20K's `split` as a panoptic set under `root`.

    Stuff comes from the semantic map; instances are painted over it. Semantic pixels of a thing that no instance covers
    are void. Areas are counted after that, so they match the PNG; Mask2Former's script counts stuff before painting
    instances, so its areas are larger where the two overlap.

    source: the folder ADEChallengeData2016, with images, annotations and annotations_instance; or the folder that holds
        it, or the archives
    options: as `panbench.datasets.convert.write_set`
    """
    check_split("ADE20K", split, SPLITS)
    found = {name: _folder(Path(source), name, split) for name in ("images", "annotations", "annotations_instance")}
    for name, place in found.items():
        if place is None and not (name == "images" and options.get("images") == "none"):
            unpacked = f"Put ADE20K's {_ARCHIVES[name][-1]} into {source}, or unpack it there."
            tar = f"Unpack ADE20K's there: tar -xf {source}/annotations_instance.tar -C {source}"
            how = tar if name == "annotations_instance" else unpacked
            raise BadDataset(f"{Path(source) / name / SPLITS[split]} was not found. {how}")
    folders = {name: place for name, place in found.items() if place is not None}
    files = sorted(folders["annotations"].glob("*.png"))
    if not files:
        raise BadDataset(f"{folders['annotations']} holds no PNGs.")
    categories = shipped_categories("ade20k")
    by_id = {category.id: category for category in categories}
    # The k-th thing in the order of ids is number k of the instance challenge.
    thing_ids = [category.id for category in categories if category.isthing]
    stuff_ids = [category.id for category in categories if not category.isthing]

    def read(path: Path) -> LabelledImage:
        semantic = read_label_png(path)
        instance_path = folders["annotations_instance"] / path.name
        instances = read_label_png(instance_path)
        if semantic.ndim != 2 or semantic.max() > 150:
            raise BadDataset(f"{path} is not a semantic map with the values 0 to 150.")
        if instances.ndim != 3 or instances.shape[:2] != semantic.shape or instances[..., 0].max() > 100:
            raise BadDataset(
                f"{instance_path} is not an instance map of the size of {path.name} with things 1 to 100 in red."
            )
        # −1 is void here, because 0 is a category.
        background = semantic.astype(np.int32) - 1
        background[~np.isin(background, stuff_ids)] = -1
        things, numbers = instances[..., 0], instances[..., 1]
        if (nameless := numbers[things == 0]).any():
            raise BadDataset(f"{instance_path} has the instance {nameless.max()} without a category.")
        labels = np.where(numbers > 0, np.array([-1, *thing_ids], np.int32)[things], background)
        ids, segments = segments_of_labels(labels, numbers, by_id, str(path), void=(-1,))
        picture = folders["images"] / f"{path.stem}.jpg" if "images" in folders else None
        return LabelledImage(f"{path.stem}.jpg", ids, segments, picture)

    return write_set(root, split, categories, files, read, **options)


def _folder(source: Path, name: str, split: str) -> Path | None:
    """A split's folder of images or annotations, in the source, in ADEChallengeData2016 below it, or in an archive."""
    below = f"{name}/{SPLITS[split]}"
    for folder in (below, f"{_TOP}/{below}"):
        found = folder_of(source, folder, _ARCHIVES[name])
        if found is not None:
            return found
    return None
