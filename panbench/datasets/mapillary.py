"""Mapillary Vistas as a panoptic set. It has its own panoptic PNGs and JSON, whose image ids are text.

Source: the unpacked dataset (mapillary.com/dataset/vistas, after registration). v1.2 has
{training,validation}/panoptic/panoptic_2018.json, v2.0 {training,validation}/v2.0/panoptic/panoptic_2020.json, the PNGs
beside them. v1.1 has none: there {training,validation}/instances holds 16-bit PNGs (label × 256 + instance) and
config.json the labels.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets.convert import (
    Converted,
    ImageFolder,
    LabelledImage,
    check_split,
    convert_panoptic,
    write_set,
)
from panbench.datasets.instances import read_json
from panbench.datasets.label_maps import files_in, read_label_png
from panbench.panoptic.label_arrays import segments_of_labels
from panbench.panoptic.types import Category

SPLITS = {"val": "validation", "train": "training"}
_JSONS = {
    "v2.0": ("v2.0/panoptic/panoptic_2020.json",),
    "v1.2": ("panoptic/panoptic_2018.json", "v1.2/panoptic/panoptic_2018.json"),
}
RELEASES = tuple(_JSONS)
"""Releases with a panoptic JSON: v1.2 has 65 categories, v2.0 other ones. Models that are published are of v1.2."""


def convert_mapillary(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] = "data/mapillary",
    split: str = "val",
    *,
    release: str | None = None,
    **options: Any,
) -> Converted:
    """Mapillary Vistas' `split` as a panoptic set under `root`.

    release: one of RELEASES; None takes the newest that is there
    Image ids are the JSON's, or the images' names. options: as `convert.write_set`
    """
    check_split("Mapillary Vistas", split, SPLITS)
    if release is not None and release not in RELEASES:
        raise BadArgument(f"Mapillary Vistas has the releases {' and '.join(RELEASES)}, not {release!r}.")
    folder = Path(source) / SPLITS[split]
    if not folder.is_dir():
        raise BadDataset(f"{folder} was not found. Unpack Mapillary Vistas in {source}.")
    pictures = None if options.get("images") == "none" else folder / "images"
    names = [name for key in RELEASES if release in (None, key) for name in _JSONS[key]]
    for name in names:
        if (folder / name).is_file():
            return convert_panoptic(folder / name, (folder / name).parent, root, split, images_from=pictures, **options)
    if release is not None:
        raise BadDataset(f"{folder} has no {' or '.join(names)}. Unpack release {release} there.")
    if (folder / "instances").is_dir() and (Path(source) / "config.json").is_file():
        return _convert_instances(Path(source), folder, pictures, root, split, options)
    raise BadDataset(f"{folder} has no {' or '.join(names[:2])}, and no instances beside a config.json.")


def _convert_instances(
    source: Path,
    folder: Path,
    pictures: Path | None,
    root: str | os.PathLike[str],
    split: str,
    options: dict[str, Any],
) -> Converted:
    """v1.1: ids are 1 + the label's place in config.json, as in later versions' panoptic JSON."""
    labels = read_json(source / "config.json", ("labels",))["labels"]
    try:
        categories = [
            Category(
                number,
                str(label["readable"]),
                bool(label["instances"]),
                str(label["name"]).split("--")[0],
                tuple(label["color"]),
            )
            for number, label in enumerate(labels, 1)
            if label["evaluate"]
        ]
    except (KeyError, TypeError) as error:
        raise BadDataset(f"{source / 'config.json'}: a label lacks {error}.") from error
    by_id = {category.id: category for category in categories}
    void = {0} | {number for number, label in enumerate(labels, 1) if not label["evaluate"]}
    images = ImageFolder(pictures)

    def read(path: Path) -> LabelledImage:
        pixels = read_label_png(path).astype(np.int32)
        ids, segments = segments_of_labels(pixels // 256 + 1, pixels % 256, by_id, str(path), void)
        name = f"{path.stem}.jpg"
        return LabelledImage(name, ids, segments, images.path(path.stem, name))

    return write_set(root, split, categories, files_in(folder / "instances", ".png"), read, **options)
