"""Converts published datasets from their owners' files: Cityscapes, KITTI-STEP, ADE20K, Mapillary Vistas, COCONut.

Each converter's docstring names the source files. `options` are those of `panbench.datasets.convert.write_set`.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.addresses import path_at
from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets.convert import (
    Converted,
    ImageFolder,
    LabelledImage,
    convert_panoptic,
    shipped_categories,
    write_set,
)
from panbench.datasets.instances import read_json
from panbench.datasets.label_maps import files_with_suffix, read_label_png
from panbench.panoptic.label_arrays import segments_of_labels
from panbench.panoptic.types import Category

_LONG = {"val": "validation", "train": "training"}
"""The names of the splits in ADE20K and in Mapillary Vistas."""


def convert_cityscapes(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/cityscapes", split: str = "val", **options: Any
) -> Converted:
    """Converts Cityscapes' `split` as its createPanopticImgs does: 19 categories with its label ids, and crowds.

    Label ids are Cityscapes' (7 road … 33 bicycle).
    Image ids are the images' names, as in cityscapesscripts; segment ids are the pixel values.

    source: the folder of leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked or as they are
        (cityscapes-dataset.com, after registration). Read are gtFine/<split>/<city>/*_gtFine_instanceIds.png: a pixel
        is label id × 1000 + instance number, or the bare label id for a group of things (a crowd) and for stuff
    """
    _check_split("Cityscapes", split)
    source, suffix = Path(source), "_gtFine_instanceIds.png"
    labels, pictures = (
        _find_folder(source, [f"{name}/{split}"], f"{name}_trainvaltest.zip") for name in ("gtFine", "leftImg8bit")
    )
    files = [] if labels is None else sorted(labels.glob(f"*/*{suffix}"))
    if not files or (pictures is None and options.get("images") != "none"):
        name, what = ("leftImg8bit", "images") if files else ("gtFine", f"*{suffix}")
        raise BadDataset(
            f"{source / name / split} holds no {what}. Put {name}_trainvaltest.zip into {source}, or unpack it there."
        )
    categories = shipped_categories("cityscapes")
    things = {category.id: category.isthing for category in categories}

    def read(path: Path) -> LabelledImage:
        """Reads an instance-id PNG of Cityscapes as the labels of an image."""
        ids = read_label_png(path).astype(np.int32)
        segments: dict[int, tuple[int, bool]] = {}
        for value in np.unique(ids).tolist():
            label = value // 1000 if value >= 1000 else value
            if not 0 <= label < 34:
                raise BadDataset(f"{path} has the pixel value {value}, which is not a Cityscapes label.")
            if label in things:
                segments[value] = (label, value < 1000 and things[label])
        # Labels that the evaluation ignores (ego vehicle, parking, …) become void.
        ids[~np.isin(ids, list(segments))] = 0
        stem = path.name.removesuffix(suffix)
        picture = pictures and pictures / path.parent.name / f"{stem}_leftImg8bit.png"
        return LabelledImage(f"{stem}.png", ids, segments, picture)

    return write_set(root, split, categories, files, read, **options)


_STEP_THINGS = (11, 13)
"""Person and car: the other things of Cityscapes have no instances in KITTI-STEP."""


def kitti_step_categories() -> tuple[Category, ...]:
    """Returns KITTI-STEP's categories: Cityscapes' 19 with the ids 0 road … 18 bicycle, two of them things."""
    categories = enumerate(shipped_categories("cityscapes"))
    return tuple(replace(category, id=label, isthing=label in _STEP_THINGS) for label, category in categories)


def convert_kitti_step(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/kitti-step", split: str = "val", **options: Any
) -> Converted:
    """Converts KITTI-STEP's `split`: frames of KITTI's tracking sequences; image ids are SEQUENCE_FRAME.

    Thing pixels without an instance become a crowd of their category, as Cityscapes' groups do. Val has the sequences
    2, 6, 7, 8, 10, 13, 14, 16 and 18. [Weber et al. 2021; deeplab2's g3doc/setup/kitti_step.md]

    source: the folder of the unpacked kitti-step.tar.gz (panoptic_maps/<split>/<sequence>/<frame>.png) and of the left
        colour images of KITTI's tracking benchmark (cvlibs.net/datasets/kitti, after registration), as
        training/image_02 or images/<split>. A pixel's red is the label, 0 road … 18 bicycle, 255 void; green × 256 +
        blue is the instance, from 1; 0 is stuff, or a group of things that are not separated
    """
    _check_split("KITTI-STEP", split)
    source = Path(source)
    maps = _find_folder(source, [f"panoptic_maps/{split}", f"kitti-step/panoptic_maps/{split}"])
    files = [] if maps is None else sorted(maps.glob("*/*.png"))
    if not files:
        raise BadDataset(f"{source} has no panoptic_maps/{split}/SEQUENCE/FRAME.png. Unpack kitti-step.tar.gz there.")
    frames = ("training/image_02", "images/training/image_02", "data_tracking_image_2/training/image_02")
    pictures = _find_folder(source, [f"images/{split}", *frames])
    if pictures is None and options.get("images") != "none":
        raise BadDataset(
            f"{source} has neither training/image_02 nor images/{split}. Unpack the left colour images of KITTI's "
            "tracking benchmark (data_tracking_image_2.zip) there."
        )
    categories = kitti_step_categories()
    by_id = {category.id: category for category in categories}

    def read(path: Path) -> LabelledImage:
        """Reads a panoptic map of KITTI-STEP as the labels of a frame."""
        pixels = read_label_png(path)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise BadDataset(f"{path} is not an RGB PNG with the label in red and the instance in green and blue.")
        labels, high, low = np.moveaxis(pixels.astype(np.int32), 2, 0)
        instances = high * 256 + low
        ids, segments = segments_of_labels(labels, instances, by_id, str(path), void=(255,))
        groups = {int(each) for each in np.unique(ids[np.isin(labels, _STEP_THINGS) & (instances == 0)])}
        segments = {each: (category, each in groups) for each, (category, _) in segments.items()}
        picture = pictures and pictures / path.parent.name / path.name
        return LabelledImage(f"{path.parent.name}_{path.name}", ids, segments, picture)

    return write_set(root, split, categories, files, read, **options)


def convert_ade20k(
    source: str | os.PathLike[str], root: str | os.PathLike[str] = "data/ade20k", split: str = "val", **options: Any
) -> Converted:
    """Converts ADE20K's `split`, 100 things and 50 stuff, from its semantic and instance annotations.

    The ids are 0…149 as in Mask2Former's and mmdet's panoptic sets.
    Stuff comes from the semantic map; instances are painted over it. Semantic pixels of a thing that no instance covers
    are void. Areas are counted last, so they match the PNG; Mask2Former's script counts stuff before painting
    instances, so its areas are larger where the two overlap.

    source: the folder ADEChallengeData2016, with images, annotations and annotations_instance; or the folder that holds
        it, or its archives: ADEChallengeData2016.zip and the annotations_instance.zip that EoMT's instructions
        (github.com/tue-mps/eomt) make of annotations_instance.tar (sceneparsing.csail.mit.edu), which has to be
        unpacked. Semantic PNGs hold 1…150, 0 = void; instance PNGs hold the thing's number 1…100 in red and the
        instance in green
    """
    _check_split("ADE20K", split)
    source, top = Path(source), "ADEChallengeData2016"
    tar = f"Unpack ADE20K's there: tar -xf {source}/annotations_instance.tar -C {source}"
    zipped = f"Put ADE20K's {top}.zip into {source}, or unpack it there."

    def folder(name: str, archive: str, how: str) -> Path:
        """Finds a folder of annotations, unpacked or in an archive. Raises BadDataset with `how` to get it."""
        below = f"{name}/{_LONG[split]}"
        found = _find_folder(source, [below, f"{top}/{below}"], archive)
        if found is None:
            raise BadDataset(f"{source / below} was not found. {how}")
        return found

    pictures = None if options.get("images") == "none" else folder("images", f"{top}.zip", zipped)
    annotations = folder("annotations", f"{top}.zip", zipped)
    instance_maps = folder("annotations_instance", "annotations_instance.zip", tar)
    files = sorted(annotations.glob("*.png"))
    if not files:
        raise BadDataset(f"{annotations} holds no PNGs.")
    categories = shipped_categories("ade20k")
    by_id = {category.id: category for category in categories}
    # The instance challenge numbers the things 1, 2, … in the order of their ids.
    thing_ids = [category.id for category in categories if category.isthing]
    stuff_ids = [category.id for category in categories if not category.isthing]

    def read(path: Path) -> LabelledImage:
        """Returns the labels of one image: its instance map, painted over its semantic map."""
        semantic, instance_path = read_label_png(path), instance_maps / path.name
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
        name = f"{path.stem}.jpg"
        return LabelledImage(name, ids, segments, pictures and pictures / name)

    return write_set(root, split, categories, files, read, **options)


_RELEASES = {
    "v2.0": ("v2.0/panoptic/panoptic_2020.json",),
    "v1.2": ("panoptic/panoptic_2018.json", "v1.2/panoptic/panoptic_2018.json"),
}
"""The panoptic JSONs of Mapillary's releases: v1.2 has 65 categories, v2.0 others. Published models use v1.2."""


def convert_mapillary(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] = "data/mapillary",
    split: str = "val",
    *,
    release: str | None = None,
    **options: Any,
) -> Converted:
    """Converts Mapillary Vistas' `split`. Image ids are the JSON's, or the images' names.

    source: the unpacked dataset (mapillary.com/dataset/vistas, after registration). v1.2 has
        {training,validation}/panoptic/panoptic_2018.json, v2.0 {training,validation}/v2.0/panoptic/panoptic_2020.json,
        with the PNGs next to them. v1.1 has no such JSON: {training,validation}/instances holds 16-bit PNGs (label ×
        256 + instance), and config.json the labels
    release: v1.2 or v2.0; None takes the newest that exists
    """
    _check_split("Mapillary Vistas", split)
    if release is not None and release not in _RELEASES:
        raise BadArgument(f"Mapillary Vistas has the releases {' and '.join(_RELEASES)}, not {release!r}.")
    folder = Path(source) / _LONG[split]
    if not folder.is_dir():
        raise BadDataset(f"{folder} was not found. Unpack Mapillary Vistas in {source}.")
    pictures = None if options.get("images") == "none" else folder / "images"
    names = [name for key, jsons in _RELEASES.items() if release in (None, key) for name in jsons]
    for path in (folder / name for name in names):
        if path.is_file():
            return convert_panoptic(path, path.parent, root, split, images_from=pictures, **options)
    if release is not None:
        raise BadDataset(f"{folder} has no {' or '.join(names)}. Unpack release {release} there.")
    if not ((folder / "instances").is_dir() and (Path(source) / "config.json").is_file()):
        raise BadDataset(f"{folder} has no {' or '.join(names[:2])}, and no instances next to a config.json.")
    categories, void = _mapillary_labels(Path(source) / "config.json")
    by_id = {category.id: category for category in categories}
    images = ImageFolder(pictures)

    def read(path: Path) -> LabelledImage:
        """Reads a panoptic PNG of Mapillary Vistas as the labels of an image."""
        pixels = read_label_png(path).astype(np.int32)
        ids, segments = segments_of_labels(pixels // 256 + 1, pixels % 256, by_id, str(path), void)
        name = f"{path.stem}.jpg"
        return LabelledImage(name, ids, segments, images.path(path.stem, name))

    return write_set(root, split, categories, files_with_suffix(folder / "instances", ".png"), read, **options)


def _mapillary_labels(config: Path) -> tuple[list[Category], Collection[int]]:
    """Returns the categories of Mapillary Vistas v1.1 (ids are 1 + the label's index), and the ids that are void."""
    categories, void = [], {0}
    try:
        for number, label in enumerate(read_json(config, ("labels",))["labels"], 1):
            if not label["evaluate"]:
                void.add(number)
                continue
            kind, color = str(label["name"]).split("--")[0], tuple(label["color"])
            categories.append(Category(number, str(label["readable"]), bool(label["instances"]), kind, color))
    except (KeyError, TypeError) as error:
        raise BadDataset(f"{config}: a label lacks {error}.") from error
    return categories, void


def convert_coconut(
    panoptic_json: str | os.PathLike[str],
    root: str | os.PathLike[str] = "data/coconut",
    split: str = "val",
    *,
    pngs: str | os.PathLike[str] | None = None,
    images_from: str | os.PathLike[str] | None = "data/coco/val2017",
    **options: Any,
) -> Converted:
    """Converts COCONut's `split`, better masks for COCO's images, with COCO's 133 categories. [Deng et al. 2024]

    panoptic_json: relabeled_coco_val.json (or coconut_s, coconut_b) from Kaggle or Hugging Face
    pngs: the unpacked PNGs; by default the folder named like the JSON, or a folder in it of that name or `panoptic`
    images_from: COCO's images of the same split
    """
    path = Path(panoptic_json)
    if pngs is None:
        stem = path.with_suffix("")
        folders = (stem / "panoptic", stem / stem.name, stem, path.parent.parent / stem.name)
        pngs = next((folder for folder in folders if next(folder.glob("*.png"), None) is not None), None)
        if pngs is None:
            raise BadDataset(f"The PNGs of {path} were not found in {stem}. Give their folder with --gt-dir.")
    if options.get("images") == "none":
        images_from = None
    categories = shipped_categories("coco")
    return convert_panoptic(path, pngs, root, split, images_from=images_from, categories=categories, **options)


def _check_split(dataset: str, split: str) -> None:
    """Raises BadArgument for a split whose ground truth is not public."""
    if split not in _LONG:
        raise BadArgument(f"{dataset} has ground truth for {' and '.join(_LONG)}, not for {split!r}.")


def _find_folder(source: Path, folders: Sequence[str], archive: str = "") -> Path | None:
    """Finds a folder of a published dataset: unpacked in `source`, or in an archive there; None if absent.

    The files of an archive are read in place, so nothing is unpacked. Raises BadDataset for a damaged archive.
    """
    for folder in folders:
        if (source / folder).is_dir():
            return source / folder
        if archive and (source / archive).is_file():
            packed = path_at(f"zip://{folder}::{source / archive}")
            try:
                if packed.is_dir():
                    return packed
            except OSError as error:
                raise BadDataset(f"{source / archive}: {error.strerror or error}.") from error
    return None
