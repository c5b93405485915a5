"""Opens datasets in COCO's panoptic format: mmdet's folder layout, or any JSON with a folder of images."""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from panbench.base.addresses import is_remote, path_at
from panbench.base.errors import BadArgument, BadDataset, Way
from panbench.base.text import listed
from panbench.datasets.fetch import SPLITS, archives_below
from panbench.panoptic.coco import read_panoptic_json
from panbench.panoptic.fingerprint import fingerprint_of_set
from panbench.panoptic.types import Category, Exif, PanopticSet, Scene

COCO_VAL2017_IMAGES = 5000
COCO_CATEGORIES = 133
_CONVERTED_SETS = {"cityscapes": 500, "ade20k": 2000, "mapillary": 2000, "kitti-step": 2981}
"""Sets that `panbench data NAME` converts from the owners' files, and their number of val images."""


@dataclass(frozen=True)
class Dataset:
    """The selected images of a dataset with their panoptic ground truth; COCO's test-dev has none.

    name, split: as printed in tables; ("coco", "val2017") only for the complete val2017 of COCO, and likewise for the
        val of cityscapes, ade20k, mapillary and kitti-step
    scenes: the selected images, in the order of the JSON; either all have ground truth or none has
    n_images: how many images the JSON lists, selected or not
    fingerprint: SHA-256 of the JSON, 64 hex digits: runs with equal fingerprints had the same ground truth
    gt_dir: the folder of the ground truth's id PNGs; None without ground truth
    rows: a fingerprint of images and segments that does not depend on the file they came from; None if unknown
    """

    name: str
    split: str
    categories: tuple[Category, ...]
    scenes: Sequence[Scene]
    n_images: int
    fingerprint: str
    gt: Path
    images: Path
    gt_dir: Path | None = None
    rows: str | None = None

    @property
    def has_ground_truth(self) -> bool:
        """True if the images have ground truth to score against."""
        return self.scenes[0].annotation is not None

    @property
    def exif(self) -> Exif:
        """Whether photographs are rotated by their EXIF orientation ("apply") or read as stored ("ignore")."""
        return self.scenes[0].exif

    def with_exif(self, exif: Exif) -> "Dataset":
        """Copies the dataset with photographs rotated by their EXIF orientation ("apply") or as stored ("ignore")."""
        if exif == self.exif:
            return self
        return replace(self, scenes=tuple(replace(scene, exif=exif) for scene in self.scenes))


class FilesMissing(BadDataset):
    """Raised when the dataset, its JSON, or files of selected images were not found."""


def open_folder(
    root: Path, *, split: str = "val", limit: int | None = None, image_ids: Sequence[int] | None = None
) -> Dataset:
    """Opens the dataset below `root` in mmdet's layout: `annotations/panoptic_<split>.json` and the folder `<split>`.

    split: `val` also finds `val2017`; `test-dev` finds COCO's list of test images
        (`panoptic_image_info_test-dev2017.json`, and the folder `test2017`)
    Raises BadDataset, or its subclass FilesMissing if the JSON or images are not found.
    """
    if not root.is_dir():
        raise FilesMissing(f"There is no dataset {root}. {_dataset_fetch_hint(root)}")
    annotations = root / "annotations"
    chosen: dict[str, Any] = {"limit": limit, "image_ids": image_ids}
    for name in (split, f"{split}2017"):
        listings = [(f"panoptic_{name}.json", name)]
        if name == "test-dev2017":
            listings.append((f"panoptic_image_info_{name}.json", "test2017"))
        for listing, images in listings:
            if (annotations / listing).is_file():
                try:
                    return open_json(
                        annotations / listing, root / images, name=root.resolve().name, split=name, **chosen
                    )
                except FilesMissing as error:
                    raise error.without("--gt-dir") from None  # the layout names the folder
    found = sorted(path.stem.removeprefix("panoptic_") for path in annotations.glob("panoptic_*.json"))
    there = f"It has the splits {', '.join(found)}." if found else _dataset_fetch_hint(root)
    if not is_remote(root) and split in SPLITS and (archives := archives_below(root, split)) is not None:
        line = shlex.join(["panbench", "data", "coco", "--split", split, "--root", str(root), "--from", str(archives)])
        there = f"It has COCO's archives: `{line}` unpacks just {split}."
    raise FilesMissing(f"{root} has no annotations/panoptic_{split}.json. {there}")


def open_json(
    gt: Path,
    images: Path,
    *,
    gt_dir: Path | None = None,
    name: str | None = None,
    split: str = "",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
) -> Dataset:
    """Opens the dataset of a COCO panoptic JSON, a folder of images and a folder of id PNGs.

    gt_dir: the folder of id PNGs, by default the JSON's path without `.json`
    A JSON with images and categories but no annotations gives a dataset without ground truth.
    Raises BadDataset if the JSON is not COCO panoptic, FilesMissing with the number of missing files.
    """
    panoptic = read_panoptic_json(gt, gt_dir, images_suffice=True)
    return dataset_of_set(
        panoptic,
        path_at(images),
        name=name or panoptic.path.stem.removeprefix("panoptic_"),
        split=split,
        limit=limit,
        image_ids=image_ids,
    )


def dataset_of_set(
    panoptic: PanopticSet,
    images: Path,
    *,
    name: str,
    split: str = "",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
    images_needed: bool = True,
) -> Dataset:
    """Makes a dataset of a panoptic set in memory and a folder of images. Arguments and errors as `open_json`.

    images_needed: False opens the dataset even if the images do not exist locally
    """
    if not panoptic.categories:
        raise BadDataset(f"{panoptic.path} lists no categories.")
    scenes = _select_scenes(panoptic, images, limit, image_ids)
    if images_needed:
        _refuse_missing("images", images, (scene.image_path for scene in scenes))
    _refuse_missing("ground-truth PNGs", panoptic.folder, (scene.gt_path for scene in scenes), _NAME_GT_DIR)
    return Dataset(
        name=_dataset_name(panoptic.categories, len(panoptic.images), name, split),
        split=split,
        categories=panoptic.categories,
        scenes=scenes,
        n_images=len(panoptic.images),
        fingerprint=panoptic.sha256,
        gt=panoptic.path,
        images=images,
        gt_dir=panoptic.folder if panoptic.annotations else None,
        rows=fingerprint_of_set(panoptic),
    )


def _select_scenes(
    panoptic: PanopticSet, images: Path, limit: int | None, image_ids: Sequence[int] | None
) -> tuple[Scene, ...]:
    """Selects images by id, then the first `limit` of them, and checks that all or none have annotations."""
    if limit is not None and limit < 1:
        raise BadArgument(f"--limit must be at least 1, not {limit}.")
    chosen = panoptic.images
    if image_ids is not None:
        if unknown_ids := [image_id for image_id in dict.fromkeys(image_ids) if image_id not in panoptic.images]:
            raise BadDataset(f"{panoptic.path} has no images with the ids {listed(unknown_ids)}.")
        requested = set(image_ids)
        chosen = {key: image for key, image in panoptic.images.items() if key in requested}
    unlabelled = [key for key in chosen if key not in panoptic.annotations]
    if unlabelled and panoptic.annotations:
        raise BadDataset(f"{panoptic.path} has no annotation for {len(unlabelled)} images: {listed(unlabelled)}.")
    scenes = tuple(
        Scene(image, images / image.file_name, panoptic.annotations[key], panoptic.png_path(key))
        if panoptic.annotations
        else Scene(image, images / image.file_name)
        for key, image in chosen.items()
    )[:limit]
    if not scenes:
        raise BadDataset(f"No images are selected from {panoptic.path}.")
    return scenes


_NAME_GT_DIR = Way("name the folder of the PNGs with --gt-dir", "--gt-dir")


def _refuse_missing(what: str, folder: Path, paths: Iterable[Path | str | None], *ways: Way) -> None:
    """Raises FilesMissing with the number of files that do not exist, and hints."""
    if is_remote(folder):
        names = [os.fspath(path)[len(str(folder)) + 1 :] for path in paths if path is not None]
        requested, missing = len(names), cast(Any, folder).missing_of(names)
    else:
        requested, missing = 0, []
        for path in paths:
            if path is not None:
                requested += 1
                if not os.path.isfile(path):
                    missing.append(os.path.basename(path))
    if missing and not folder.is_dir():
        there = f"{folder} is not a folder" if folder.exists() else f"There is no folder {folder}"
        raise FilesMissing(f"{there} of {what}.", ways=ways)
    if missing:
        raise FilesMissing(
            f"{len(missing)} of {requested} {what} are missing in {folder}: {listed(missing, most=3)}.", ways=ways
        )


def _dataset_name(categories: Sequence[Category], n_images: int, name: str, split: str) -> str:
    """Returns the dataset's name for tables; `coco` and names in _CONVERTED_SETS are reserved for complete sets."""
    if split == "val" and n_images != _CONVERTED_SETS.get(name, n_images):
        return f"{name}-subset"
    is_coco = split == "val2017" and len(categories) == COCO_CATEGORIES
    if is_coco and n_images == COCO_VAL2017_IMAGES:
        return "coco"
    return "coco-subset" if is_coco and name == "coco" else name


def _dataset_fetch_hint(root: Path) -> str:
    """Returns a hint on how to get a dataset that was not found."""
    if root.name == "coco" and not is_remote(root):
        return f"`panbench data coco --root {root}` fetches COCO."
    if root.name in _CONVERTED_SETS:
        return f"`panbench data {root.name} FOLDER --root {root}` makes it of its owners' files."
    return "A dataset folder has annotations/panoptic_<split>.json and the folder of images <split>."
