"""Datasets in COCO's panoptic format on disk: mmdet's folder layout, or any folder of images beside a JSON."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.addresses import Address, path_at
from panbench.base.elsewhere import Elsewhere
from panbench.base.errors import BadArgument, BadDataset, Way
from panbench.base.files import sha256_of
from panbench.base.packed import SHARDS, Packed
from panbench.base.text import listed
from panbench.datasets.index import DatasetIndex, index_of, share_of
from panbench.datasets.scenes import IndexedScenes, Rows
from panbench.panoptic.coco import png_folder, read_panoptic_json
from panbench.panoptic.fingerprint import fingerprint_of_set
from panbench.panoptic.shards import is_shard, shard_folder
from panbench.panoptic.sources import folders_of, joined_text, name_of, sources_of
from panbench.panoptic.types import Category, Exif, PanopticSet, Scene

COCO_VAL2017_IMAGES = 5000
COCO_CATEGORIES = 133
_MADE = {"cityscapes": 500, "ade20k": 2000, "mapillary": 2000, "kitti-step": 2981}
"""Sets that `panbench data NAME` makes of their owners' files, and the images of their val."""


@dataclass(frozen=True)
class Dataset:
    """The selected images of a dataset with their panoptic ground truth; COCO's test-dev has none.

    name, split: as printed in tables; ("coco", "val2017") only for the whole of COCO's val2017, and so for the val of
        cityscapes, ade20k, mapillary and kitti-step
    scenes: the selected images, in the order of the JSON; either all have ground truth or none has
    n_images: how many images the JSON lists, selected or not
    fingerprint: SHA-256 of the JSON, 64 hex digits: two runs with the same one had the same ground truth
    gt_dir: the folder of the ground truth's id PNGs; None without ground truth
    rows: the fingerprint of its images and segments, whatever file they came from; None where it is not known
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
    def is_whole(self) -> bool:
        """Whether all images are selected: no limit and no choice of ids."""
        return len(self.scenes) == self.n_images

    @property
    def has_ground_truth(self) -> bool:
        """Whether the images have ground truth to score against."""
        return self.scenes[0].annotation is not None

    @property
    def exif(self) -> Exif:
        """Whether photographs are turned as their EXIF orientation says."""
        return self.scenes[0].exif

    def with_exif(self, exif: Exif) -> "Dataset":
        """The same images, turned as their EXIF orientation says ("apply") or taken as they are stored ("ignore")."""
        if exif == self.exif:
            return self
        if isinstance(self.scenes, IndexedScenes):
            return replace(self, scenes=self.scenes.with_exif(exif))
        return replace(self, scenes=tuple(replace(scene, exif=exif) for scene in self.scenes))


class FilesMissing(BadDataset):
    """The dataset, its JSON, or files of selected images were not found."""


def open_folder(
    root: Path,
    *,
    split: str = "val",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
    share: tuple[int, int] | None = None,
) -> Dataset:
    """The dataset below `root` in mmdet's layout: `annotations/panoptic_<split>.json` and the folder `<split>`.

    Both may lie in zips, and a folder may hold shards in their place: `<split>-000.tar`, `data/<split>-….parquet`.

    split: `val` also finds `val2017`; `test-dev` finds COCO's list of test images
        (`panoptic_image_info_test-dev2017.json`, and the folder `test2017`)
    share: as of `open_json`
    Raises BadDataset, or its subclass FilesMissing when the JSON or images are not found.
    """
    if not root.is_dir():
        raise FilesMissing(f"There is no dataset {root}. {_how_to_fetch(root)}")
    annotations = root / "annotations"
    chosen: dict[str, Any] = {"limit": limit, "image_ids": image_ids, "share": share}
    for name in (split, f"{split}2017"):
        listings = [(f"panoptic_{name}.json", name)]
        if name == "test-dev2017":
            listings.append((f"panoptic_image_info_{name}.json", "test2017"))
        for listing, images in listings:
            if (places := places_below(root, listing, images)) is not None:
                gt, folder, gt_dir = places
                try:
                    return open_json(gt, folder, gt_dir=gt_dir, name=root.resolve().name, split=name, **chosen)
                except FilesMissing as error:
                    raise error.without("--gt-dir") from None  # the layout names the folder
    if shards := shards_of(root, split):
        named = root if root.name != "data" else root.parent
        return open_json(shards, root, name=named.resolve().name, split=split, **chosen)
    found = sorted(path.stem.removeprefix("panoptic_") for path in annotations.glob("panoptic_*.json"))
    there = f"It has the splits {', '.join(found)}." if found else _how_to_fetch(root)
    raise FilesMissing(f"{root} has no annotations/panoptic_{split}.json. {there}")


def places_below(root: Path, listing: str, images: str) -> tuple[Path, Path, Path | None] | None:
    """The JSON, the folder of images and that of id PNGs (None: beside the JSON) in mmdet's layout; None: not there.

    What is not there as a folder is looked for in zips below `root`, as COCO's and EoMT's are downloaded, and read in
    place. A zip holds what its folder would: `annotations/panoptic_val2017.json`, `val2017/`; the id PNGs are in a
    folder or in a zip beside the JSON. Raises BadDataset for a damaged zip.
    """
    gt, folder = root / "annotations" / listing, root / images
    pngs = listing.removesuffix(".json")
    if isinstance(root, Address) or (gt.is_file() and folder.is_dir() and (root / "annotations" / pngs).is_dir()):
        return (gt, folder, None) if gt.is_file() else None
    zips = [path for folder in (root, root / "annotations") for path in sorted(folder.glob("*.zip"))]
    # The directory of a zip of all training images takes a second to read: those that are named like the split first.
    zips.sort(key=lambda path: images not in path.stem)
    places = [root, *map(Packed, zips)]
    try:
        gt = next((path for place in places if (path := place / "annotations" / listing).is_file()), gt)
        if not gt.is_file():
            return None
        folder = next((path for place in places if (path := place / images).is_dir()), folder)
        of_pngs = [Packed(place / "annotations") / name for place in places for name in (pngs, f"{pngs}.zip/{pngs}")]
        return gt, folder, next((path for path in of_pngs if path.is_dir() and path.parent != gt.parent), None)
    except OSError as problem:
        raise BadDataset(f"{problem.filename} cannot be read: {problem.strerror or problem}.") from None


_OTHER_NAMES = {"val": ("validation",)}
"""What the shards of a split are called elsewhere, as on the Hugging Face hub."""


def shards_of(root: Path, split: str) -> Path | None:
    """The shards of a split in a folder, or in its folder `data`, as a pattern of them all; None where there are none.

    They are called `val-000.tar`, `val.parquet` or `validation-00000-of-00002.parquet`.
    """
    if isinstance(root, Address):
        return None
    for folder in (root, root / "data"):
        for name in (split, *_OTHER_NAMES.get(split, ())):
            for ending in SHARDS:
                fits = re.compile(rf"{re.escape(name)}([-_.]?\d+(-of-\d+)?)?{re.escape(ending)}")
                found = sorted(path for path in folder.glob(f"{name}*{ending}") if fits.fullmatch(path.name))
                if found:
                    return Path(joined_text(found))
    return None


def open_json(
    gt: Path,
    images: Path,
    *,
    gt_dir: Path | None = None,
    name: str | None = None,
    split: str = "",
    limit: int | None = None,
    image_ids: Sequence[int] | None = None,
    images_needed: bool = True,
    share: tuple[int, int] | None = None,
) -> Dataset:
    """The dataset of one COCO panoptic JSON, a folder of images and a folder of id PNGs (default: the JSON's name).

    gt: a JSON, or several parts of one (sources.py): a pattern such as gt-*.json; shards (shards.py) have their images
        and id PNGs in them, and `images` and `gt_dir` are not used
    images_needed: False opens it also where the images are not on this machine
    share: (i, n) looks for the files of the i-th of n parts of the images alone, from 1, where the JSON is indexed: n
        workers find all between them
    Of a large JSON the index is read, and made where there is none (index.py): scenes are then read as they are asked
    for. A JSON that has images and categories but no annotation at all makes a dataset without ground truth.
    Raises BadDataset when the JSON is not COCO panoptic, FilesMissing when files of selected images are not
    found (all are counted).
    """
    sources = sources_of(gt)
    gt, images = sources[0] if len(sources) == 1 else gt, path_at(images)
    if any(map(is_shard, sources)):
        images, gt_dir = _below_shards(sources), None
    indexed = index_of(sources, gt_dir)
    if indexed is not None:
        named = name or name_of(gt).removeprefix("panoptic_")
        opened = _open_index(*indexed, gt, images, named, split, limit, image_ids, images_needed, share)
        if len(sources) == 1 or opened.gt_dir is None:
            return opened
        folders = folders_of(gt_dir, len(sources)) or [png_folder(source) for source in sources]
        return replace(opened, gt_dir=Path(joined_text(folder.absolute() for folder in folders)))
    panoptic = read_panoptic_json(gt, gt_dir, images_suffice=True)
    if not panoptic.categories:
        raise BadDataset(f"{gt} lists no categories.")
    scenes = _select(panoptic, images, limit, image_ids)
    if images_needed:
        _refuse_missing("images", images, (scene.image_path for scene in scenes))
    _refuse_missing("ground-truth PNGs", panoptic.folder, (scene.gt_path for scene in scenes), _NAMED)
    return Dataset(
        name=_name_of(panoptic.categories, len(panoptic.images), name or gt.stem.removeprefix("panoptic_"), split),
        split=split,
        categories=panoptic.categories,
        scenes=scenes,
        n_images=len(panoptic.images),
        fingerprint=sha256_of(gt),
        gt=gt,
        images=images,
        gt_dir=panoptic.folder if panoptic.annotations else None,
        rows=fingerprint_of_set(panoptic),
    )


def _below_shards(sources: Sequence[Path]) -> Path:
    """The folder below which the photographs of shards are named. Raises BadDataset where it is not one."""
    folders = {shard_folder(source) for source in sources if is_shard(source)}
    if len(folders) > 1 or not all(map(is_shard, sources)):
        raise BadDataset(
            f"{joined_text(sources)}: the shards of a set that a model sees must lie in one folder, and no JSONs among "
            "them. Move them, or link them into one."
        )
    return folders.pop()


def _open_index(
    index: DatasetIndex,
    pngs: Path,
    gt: Path,
    images: Path,
    name: str,
    split: str,
    limit: int | None,
    image_ids: Sequence[int] | None,
    images_needed: bool,
    share: tuple[int, int] | None,
) -> Dataset:
    """What `open_json` gives, of an index. pngs: the folder of id PNGs"""
    facts = index.facts
    if not facts.categories:
        raise BadDataset(f"{gt} lists no categories.")
    folder = pngs if facts.n_annotations else None
    scenes = IndexedScenes(index, images, folder, _rows_selected(index, gt, limit, image_ids))
    if not len(scenes):
        raise BadDataset(f"No images are selected from {gt}.")
    looked_at = None if share is None else share_of(len(scenes), *share)
    if images_needed:
        _refuse_missing("images", images, (image for image, _ in scenes.paths(looked_at)))
    if folder is not None:
        _refuse_missing("ground-truth PNGs", folder, (png for _, png in scenes.paths(looked_at)), _NAMED)
    return Dataset(
        name=_name_of(facts.categories, facts.n_images, name, split),
        split=split,
        categories=facts.categories,
        scenes=scenes,
        n_images=facts.n_images,
        fingerprint=index.fingerprint,
        gt=gt,
        images=images,
        gt_dir=folder,
        rows=facts.rows,
    )


def _rows_selected(index: DatasetIndex, gt: Path, limit: int | None, image_ids: Sequence[int] | None) -> Rows | None:
    """The rows of the chosen images in the order of the JSON; None for all. Refuses what `_select` refuses."""
    _check_limit(limit)
    facts = index.facts
    rows: Rows | None = None
    if image_ids is not None:
        ids, wanted = index.ids(), np.array(list(dict.fromkeys(image_ids)), np.int64)
        if unknown := wanted[~np.isin(wanted, ids)].tolist():
            raise BadDataset(f"{gt} has no images with the ids {listed(unknown)}.")
        rows = np.flatnonzero(np.isin(ids, wanted))
    if 0 < facts.n_annotations < facts.n_images:
        without = ~index.annotated()
        bare = np.flatnonzero(without if rows is None else without & np.isin(np.arange(len(without)), rows))
        if len(bare):
            unlabelled = index.ids()[bare[np.argsort(index.places()[bare])]].tolist()
            raise BadDataset(f"{gt} has no annotation for {len(unlabelled)} images: {listed(unlabelled)}.")
    if rows is None and (limit is None or limit >= len(index)):
        return None
    if rows is None and facts.in_order:
        return range(min(limit or len(index), len(index)))
    places = index.places()
    ordered = np.argsort(places) if rows is None else np.asarray(rows)[np.argsort(places[rows])]
    return ordered[:limit]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise BadArgument(f"--limit must be at least 1, not {limit}.")


def _select(
    panoptic: PanopticSet, images: Path, limit: int | None, image_ids: Sequence[int] | None
) -> tuple[Scene, ...]:
    _check_limit(limit)
    chosen = panoptic.images
    if image_ids is not None:
        if unknown_ids := [image_id for image_id in dict.fromkeys(image_ids) if image_id not in panoptic.images]:
            raise BadDataset(f"{panoptic.path} has no images with the ids {listed(unknown_ids)}.")
        wanted = set(image_ids)
        chosen = {key: image for key, image in panoptic.images.items() if key in wanted}
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


_NAMED = Way("name the folder of the PNGs with --gt-dir", "--gt-dir")


def _refuse_missing(what: str, folder: Path, paths: Iterable[Path | str | None], *ways: Way) -> None:
    if isinstance(folder, Elsewhere):
        names = [os.fspath(path)[len(str(folder)) + 1 :] for path in paths if path is not None]
        wanted, missing = len(names), folder.missing_of(names)
    else:
        wanted, missing = 0, []
        for path in paths:
            if path is not None:
                wanted += 1
                if not os.path.isfile(path):
                    missing.append(os.path.basename(path))
    if missing and not folder.is_dir():
        there = f"{folder} is not a folder" if folder.exists() else f"There is no folder {folder}"
        raise FilesMissing(f"{there} of {what}.", ways=ways)
    if missing:
        raise FilesMissing(
            f"{len(missing)} of {wanted} {what} are missing in {folder}: {listed(missing, most=3)}.", ways=ways
        )


def _name_of(categories: Sequence[Category], n_images: int, name: str, split: str) -> str:
    """The name in tables. `coco` and the names in _MADE are reserved for the whole sets that publications report on."""
    if split == "val" and n_images != _MADE.get(name, n_images):
        return f"{name}-subset"
    is_coco = split == "val2017" and len(categories) == COCO_CATEGORIES
    if is_coco and n_images == COCO_VAL2017_IMAGES:
        return "coco"
    return "coco-subset" if is_coco and name == "coco" else name


def _how_to_fetch(root: Path) -> str:
    if root.name == "coco" and not isinstance(root, Address):
        return f"`panbench data coco --root {root}` fetches COCO."
    if root.name in _MADE:
        return f"`panbench data {root.name} FOLDER --root {root}` makes it of its owners' files."
    return "A dataset folder has annotations/panoptic_<split>.json and the folder of images <split>."
