"""Opens datasets: images and their panoptic ground truth."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from panbench.base.addresses import is_url, path_at
from panbench.base.errors import BadArgument, BadDataset, Way
from panbench.base.files import cache_dir
from panbench.base.references import Register
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.base.text import kind_of
from panbench.datasets import shapes
from panbench.datasets.coco import Dataset, FilesMissing, open_folder, open_json
from panbench.datasets.fetch import N_IMAGES, CocoMissing, coco_missing, coco_paths, fetch_coco
from panbench.panoptic.coco import read_panoptic_json
from panbench.panoptic.types import Exif

__all__ = [
    "DATASETS",
    "CocoMissing",
    "Dataset",
    "FilesMissing",
    "missing_files",
    "open_dataset",
    "split_of",
    "without_split",
]

_SETS_IN_DATA = frozenset(("coco", "cityscapes", "ade20k", "mapillary", "kitti-step"))
"""Sets that `panbench data` writes to data/NAME; `--data NAME` means that folder."""

DATASETS = Register("panbench.datasets", {})
"""Datasets of other packages by the name that --data takes: functions (split=, limit=, image_ids=) → Dataset."""


def open_dataset(
    data: str | Path | None = "shapes",
    *,
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
    exif: Exif = "apply",
    download: bool = False,
    reporter: Reporter = SILENT,
) -> Dataset:
    """Opens the dataset named by the arguments of `panbench eval`.

    data: `shapes` (generated on first use, at 128×160; `shapes:480x640` for another size), `coco` (data/coco; likewise
        cityscapes, ade20k, mapillary, kitti-step), a folder in mmdet's layout, or a name in DATASETS; not used if `gt`
        and `images` give a JSON and a folder of images
    exif: "apply" turns photographs by their EXIF orientation, as mmdet does; "ignore" reads them as stored
    download: download missing files of COCO into `coco`, or a folder whose name begins so; otherwise the error names
        them, their size and the command. The user's own datasets are never touched.
    reporter: gets progress while `shapes` is generated, and of downloads
    Raises BadDataset, BadArgument, and with `download` DownloadFailed and OutOfSpace.
    """
    if gt is not None or images is not None:
        if gt is None or images is None:
            raise BadArgument("--images and --gt go together: a folder of images and its COCO panoptic JSON.")
        gt, images, gt_dir = path_at(gt), path_at(images), None if gt_dir is None else path_at(gt_dir)
        opened = open_json(gt, images, gt_dir=gt_dir, limit=limit, image_ids=image_ids)
        return opened.with_exif(exif)
    name = str(data)
    if name == "shapes" or name.startswith("shapes:"):
        size = _shapes_size(name)
        folder = cache_dir() / "shapes" / f"v{shapes.VERSION}-{size[0]}x{size[1]}-seed0"
        shapes.generate(folder, split=split, size=size, progress=counter(reporter, "Drawing shapes"))
        opened = open_folder(folder, split=split, limit=limit, image_ids=image_ids)
        return dataclasses.replace(
            opened, name="shapes" if size == shapes.DEFAULT_SIZE else f"shapes-{size[0]}x{size[1]}"
        ).with_exif(exif)
    if name in DATASETS:
        return _check_dataset(name, DATASETS[name](split=split, limit=limit, image_ids=image_ids)).with_exif(exif)
    folder = _dataset_folder(name)
    try:
        return open_folder(folder, split=split, limit=limit, image_ids=image_ids).with_exif(exif)
    except FilesMissing as error:
        missing = missing_files(name, split=split, limit=limit, image_ids=image_ids)
        if missing is None:
            known = ("shapes", "coco", "cityscapes", "ade20k", "mapillary", "kitti-step", *DATASETS)
            if name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.7)):
                raise FilesMissing(f"There is no dataset {name}. Did you mean {near[0]}?") from None
            raise
        if not download:
            by_option = Way("add --download to this command", "--download")
            raise FilesMissing(missing.reason, ways=(missing.way, by_option)) from error
    fetch_coco(folder, missing.split, limit=_limit_to_fetch(limit, image_ids), reporter=reporter)
    return open_folder(folder, split=split, limit=limit, image_ids=image_ids).with_exif(exif)


def missing_files(
    data: str | Path, *, split: str = "val", limit: int | None = None, image_ids: Sequence[int] | None = None
) -> CocoMissing | None:
    """Returns what `open_dataset` would have to download; None if no file is missing or none can be downloaded.

    Arguments as in `open_dataset`. Only COCO's own files are downloaded: a folder that holds another dataset under such
    a name is not touched.
    """
    if is_url(data):
        return None
    folder, split_of_coco = _dataset_folder(str(data)), split.removesuffix("2017")
    if not folder.name.lower().startswith("coco") or split_of_coco not in N_IMAGES:
        return None
    if _holds_other_dataset(folder, split_of_coco):
        return None
    return coco_missing(folder, split_of_coco, _limit_to_fetch(limit, image_ids))


def _dataset_and_split(data: str) -> tuple[str, str | None]:
    """Splits `coco:test-dev` at the last colon into dataset and split; the split is None if no known one is named."""
    base, colon, last = data.rpartition(":")
    # The text after the colon is a size of shapes, or the colon is part of a path or a Windows drive.
    other = re.fullmatch(r"\d+x\d+", last) or re.search(r"[/\\]", last) or Path(data).exists() or len(base) == 1
    return (data, None) if not colon or not last or other else (base, last)


def without_split(data: str) -> str:
    """Returns the dataset of `--data coco:test-dev`: coco."""
    return _dataset_and_split(data)[0]


def split_of(data: str | None) -> str:
    """Returns the split of `--data coco:test-dev`: test-dev; val if none is named."""
    return (None if data is None else _dataset_and_split(data)[1]) or "val"


def _check_dataset(name: str, found: object) -> Dataset:
    """Returns what a dataset function of another package returned. Raises BadDataset unless it is a Dataset."""
    if not isinstance(found, Dataset):
        raise BadDataset(f"The dataset {name} ({DATASETS.references[name]}) returned {kind_of(found)}, not a Dataset.")
    return found


def _dataset_folder(name: str) -> Path:
    """Returns the folder of `--data NAME`: data/NAME for names that panbench makes or fetches, else NAME as a path."""
    return Path("data") / name if name in _SETS_IN_DATA and not Path(name).is_dir() else path_at(name)


def _limit_to_fetch(limit: int | None, image_ids: Sequence[int] | None) -> int | None:
    """Returns how many images to fetch; all (None) if image ids are given."""
    # The files of given ids are unknown before the JSON is downloaded, so ids mean the complete split.
    return limit if image_ids is None else None


def _holds_other_dataset(folder: Path, split: str) -> bool:
    """True if a folder with COCO's name contains another dataset, which a download would overwrite."""
    gt = coco_paths(folder, split)[0]
    if not gt.is_file():
        return (folder / "annotations" / f"panoptic_{split}.json").is_file()
    return len(read_panoptic_json(gt, images_suffice=True).images) != N_IMAGES[split]


def _shapes_size(name: str) -> tuple[int, int]:
    """Parses `shapes:480x640` to (height, width). Raises BadArgument."""
    if name == "shapes":
        return shapes.DEFAULT_SIZE
    height, by, width = name.removeprefix("shapes:").partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise BadArgument(f"{name!r} is not a size of shapes: write shapes:HEIGHTxWIDTH, for example shapes:480x640.")
    return int(height), int(width)
