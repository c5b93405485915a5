"""Converts other formats to COCO panoptic, and COCO panoptic to COCO detection.

Every converter writes the same layout, which `panbench eval --data ROOT` and `panbench data check ROOT` read:

    ROOT/annotations/panoptic_<split>.json · ROOT/annotations/panoptic_<split>/*.png · ROOT/<split>/ images

Areas and boxes are measured on the PNG that is written; segments without pixels are left out.
"""

import contextlib
import filecmp
import json
import os
import re
import shutil
import threading
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import is_elsewhere, path_at
from panbench.base.errors import BadArgument, BadDataset
from panbench.base.files import atomic_write, leaves_folder, write_json
from panbench.base.reporter import Counting
from panbench.base.text import in_sentence, listed
from panbench.base.threads import default_threads
from panbench.datasets.check import measure_segments
from panbench.datasets.instances import MANY_CROWDS, OUTSIDE_PIXELS, instance_mask, read_instances_json, read_json
from panbench.datasets.label_maps import NOTHING, SemanticMaps, files_in, read_label_png
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png, write_panoptic_json
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, check_pixels
from panbench.panoptic.image_ids import image_id_of
from panbench.panoptic.label_arrays import fresh_id, segments_of_labels
from panbench.panoptic.types import VOID, Annotation, Category, IdMap, ImageInfo, PanopticSet, Segment

Source = TypeVar("Source")
Images = Literal["link", "copy", "none"]


@dataclass(frozen=True)
class LabelledImage:
    """One image with its panoptic labels.

    name: the image's file name in the new set; its PNG gets the same stem
    ids: (H, W) int32, 0 = void
    segments: category id and iscrowd by segment id; ids of the map that are not listed here become void
    image_path: the path of the image, or None
    image_id: the image's id, or None to take its name without suffix
    left_out: descriptions of what could not be converted
    """

    name: str
    ids: IdMap
    segments: Mapping[int, tuple[int, bool]]
    image_path: Path | None = None
    image_id: int | str | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What a converter wrote. `left_out` counts what could not be converted, by description.

    notes: sentences on what the converter took for granted
    """

    root: Path
    json: Path
    pngs: Path
    images: Path
    n_images: int
    n_segments: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_set(
    root: str | os.PathLike[str],
    split: str,
    categories: Sequence[Category],
    sources: Sequence[Source],
    read: Callable[[Source], LabelledImage],
    *,
    images: Images = "link",
    overwrite: bool = False,
    reads: Iterable[str | os.PathLike[str] | None] = (),
    progress: Counting | None = None,
    threads: int | None = None,
) -> Converted:
    """Writes a panoptic set from what `read` returns for each source; sources are read and written in parallel.

    images: `link` puts hard links to the images beside the annotations (copies where the disk cannot, and of what lies
        in an archive), `copy` copies, `none` leaves the images where they are
    overwrite: replace a set that already exists, with its PNGs and images of the same names
    reads: files and folders that `read` reads, besides sources that are paths
    The JSON is written last: an interrupted conversion leaves none, and the same call starts it over.
    Raises BadDataset when there is nothing to convert or a source is wrong; BadArgument when the set already exists,
    when a file that exists differs from the one to be written (unless `overwrite`), and, always, when what is read lies
    where the set would be written.
    """
    root = Path(root)
    json_path = root / "annotations" / f"panoptic_{split}.json"
    pngs = root / "annotations" / f"panoptic_{split}"
    image_folder = root / split
    if not re.fullmatch(r"[\w.-]+", split):
        raise BadArgument(f"{split!r} is not a name for a split: use letters, digits, '-', '_' and '.'.")
    if json_path.exists() and not overwrite:
        raise BadArgument(f"{json_path} already exists. Give another folder, or --overwrite.")
    if not sources:
        raise BadDataset("There is nothing to convert.")
    _refuse_own_input([*(source for source in sources if isinstance(source, Path)), *reads], pngs, json_path)
    known = {category.id for category in categories}
    names: dict[str, str] = {}
    names_lock = threading.Lock()

    def work(source: Source) -> tuple[ImageInfo, Annotation, tuple[str, ...]]:
        labelled = read(source)
        if leaves_folder(labelled.name):
            raise BadDataset(f"The image name {labelled.name!r} leaves its folder.")
        ids, segments, empty = _tidy(labelled, known)
        png = str(Path(labelled.name).with_suffix(".png"))
        with names_lock:
            if png in names:
                raise BadDataset(
                    f"Two images are called {names[png]} and {labelled.name}; their id PNGs would overwrite each other."
                )
            names[png] = labelled.name
        _write_png(pngs / png, ids, overwrite)
        if images != "none" and labelled.image_path is not None:
            if not labelled.image_path.is_file():
                raise BadDataset(f"{labelled.image_path} was not found.")
            _place(labelled.image_path, image_folder / labelled.name, copy=images == "copy", overwrite=overwrite)
        image_id = str(Path(labelled.name).with_suffix("")) if labelled.image_id is None else labelled.image_id
        image = ImageInfo(image_id_of(image_id), labelled.name, ids.shape[0], ids.shape[1])
        return image, Annotation(image.id, png, segments), labelled.left_out + empty

    infos: dict[int, ImageInfo] = {}
    annotations: dict[int, Annotation] = {}
    left_out: Counter[str] = Counter()
    try:
        pngs.mkdir(parents=True, exist_ok=True)
        with _pool(threads) as pool:
            for number, (image, annotation, words) in enumerate(pool.map(work, sources), 1):
                if image.id in infos:
                    raise BadDataset(
                        f"Two images have the id {image.id}: {infos[image.id].file_name}, {image.file_name}."
                    )
                infos[image.id], annotations[image.id] = image, annotation
                left_out.update(words)
                if progress is not None:
                    progress(number, len(sources))
        write_panoptic_json(json_path, PanopticSet(tuple(categories), infos, annotations, pngs, json_path))
    except OSError as error:
        raise BadDataset(f"{error.filename or root}: {error.strerror or error}.") from error
    return Converted(
        root,
        json_path,
        pngs,
        image_folder,
        len(infos),
        sum(len(annotation.segments) for annotation in annotations.values()),
        dict(left_out),
    )


# Label and instance maps


def convert_two_channel(
    folder: str | os.PathLike[str],
    categories: Sequence[Category],
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    images_from: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Converted:
    """A set from PNGs whose first channel is the category and second the instance (Kirillov et al. 2019, sec. 3).

    images_from: the folder of images with the same stems
    options: as `write_set`
    """
    by_id = {category.id: category for category in categories}
    images = ImageFolder(images_from)

    def read(path: Path) -> LabelledImage:
        pixels = read_label_png(path)
        if pixels.ndim != 3:
            raise BadDataset(f"{path} has one channel; two-channel PNGs hold category and instance in the first two.")
        ids, segments = segments_of_labels(pixels[..., 0], pixels[..., 1], by_id, str(path))
        return images.labelled(path, ids, segments)

    return write_set(root, split, categories, files_in(folder, ".png"), read, **options)


def convert_arrays(
    folder: str | os.PathLike[str],
    categories: Sequence[Category],
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    images_from: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Converted:
    """A set from .npz files with the (H, W) integer arrays `labels` (category ids) and `instances` (0 = none)."""
    by_id = {category.id: category for category in categories}
    images = ImageFolder(images_from)

    def read(path: Path) -> LabelledImage:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                labels, instances = arrays["labels"], arrays["instances"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadDataset(f"{path} has no integer arrays `labels` and `instances` ({error}).") from error
        if not (np.issubdtype(labels.dtype, np.integer) and np.issubdtype(instances.dtype, np.integer)):
            raise BadDataset(
                f"{path}: `labels` and `instances` must be integers, not {labels.dtype}, {instances.dtype}."
            )
        ids, segments = segments_of_labels(labels, instances, by_id, str(path))
        return images.labelled(path, ids, segments)

    return write_set(root, split, categories, files_in(folder, ".npz"), read, **options)


# Instances with masks over a semantic map


def convert_instances(
    instances_json: str | os.PathLike[str],
    semantic: str | os.PathLike[str] | None,
    categories: Sequence[Category] | None,
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    images_from: str | os.PathLike[str] | None = None,
    crowds: Literal["keep", "instances"] | None = None,
    offset: str = "0",
    **options: Any,
) -> Converted:
    """A set from a COCO instance JSON and semantic PNGs with the images' stems.

    Crowds are painted first, then instances from the largest to the smallest, so that small ones stay visible; stuff
    fills the rest. Pixels that the semantic map labels as a thing but no instance covers become void.
    semantic: None makes a set of things only: what no instance covers is void
    categories: None takes the JSON's own, all of them things unless they say `isthing`
    offset: what a pixel of the semantic PNGs means (`SemanticMaps`)
    crowds: what instances with `iscrowd: 1` become; None keeps them, unless all of MANY_CROWDS or more are crowds, as
        CVAT marks what was painted with its brush
    """
    document = read_instances_json(instances_json)
    all_crowds = len(document["annotations"]) >= MANY_CROWDS and all(map(_is_crowd, document["annotations"]))
    crowds_are_instances = crowds == "instances" or (crowds is None and all_crowds)
    if categories is None:
        categories = _instance_categories(document, str(instances_json))
    by_id = {category.id: category for category in categories}
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in document["annotations"]:
        try:
            by_image[record["image_id"]].append(record)
            if by_id[record["category_id"]].isthing is False:
                raise BadDataset(
                    f"{instances_json}: an instance is of category {record['category_id']}, which is stuff."
                )
        except (KeyError, TypeError) as error:
            raise BadDataset(f"{instances_json}: an annotation lacks or has an unknown {error}.") from error
    images = ImageFolder(images_from)
    maps = None if semantic is None else SemanticMaps(semantic, categories, offset)
    things = [category.id for category in categories if category.isthing]

    def mask_of(record: dict[str, Any], height: int, width: int) -> tuple[npt.NDArray[np.bool_], bool]:
        """The mask of an instance, and whether it had to be clipped."""
        where = f"{instances_json}: annotation {record.get('id')}"
        return instance_mask(record.get("segmentation"), height, width, where)

    def background_of(record: dict[str, Any], name: str) -> tuple[IdMap, dict[int, tuple[int, bool]]]:
        """The map and segments of an image's stuff; all void without semantic PNGs."""
        try:
            size = record["height"], record["width"]
            check_pixels(size, DEFAULT_MAX_PIXELS)
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataset(f"{instances_json}: the image {name} has no height and width ({error}).") from error
        if maps is None:
            return np.zeros(size, np.int32), {}
        labels = maps.read(name, size)
        labels[np.isin(labels, things)] = NOTHING
        return segments_of_labels(labels, np.zeros_like(labels), by_id, name, void=(NOTHING,))

    def read(record: dict[str, Any]) -> LabelledImage:
        image_id, name = record["id"], str(record["file_name"])
        stem = Path(name).stem
        ids, segments = background_of(record, name)
        height, width = ids.shape
        found = [(*mask_of(item, height, width), item) for item in by_image.get(image_id, [])]
        clipped = sum(was_clipped for _, was_clipped, _ in found)
        masks = [(mask, item) for mask, _, item in found]
        masks.sort(key=lambda pair: (crowds_are_instances or not _is_crowd(pair[1]), -int(pair[0].sum())))
        for mask, item in masks:
            segment_id = fresh_id(by_id[item["category_id"]], segments)
            segments[segment_id] = (item["category_id"], _is_crowd(item) and not crowds_are_instances)
            ids[mask] = segment_id
        left_out = (f"edges of polygons up to {OUTSIDE_PIXELS} pixels outside of their image",) * clipped
        return LabelledImage(name, ids, segments, images.path(stem, name), image_id, left_out)

    made = write_set(root, split, categories, document["images"], read, reads=[instances_json, semantic], **options)
    if crowds is not None or not all_crowds:
        return made
    note = (
        f"All {len(document['annotations']):,} instances are crowds, as CVAT marks what was painted with its brush: "
        "they were taken for single instances. If they are groups of objects, add --crowds keep."
    )
    return replace(made, notes=(note,))


def _is_crowd(record: Any) -> bool:
    return isinstance(record, dict) and record.get("iscrowd") == 1


def _instance_categories(document: dict[str, Any], where: str) -> tuple[Category, ...]:
    records = document.get("categories")
    if not isinstance(records, list) or not records:
        raise BadDataset(f"{where} lists no categories. Give them by --categories.")
    things = [{"isthing": 1, **record} if isinstance(record, dict) else record for record in records]
    return read_categories(things, where)


# COCO-like panoptic sets of others


def convert_panoptic(
    panoptic_json: str | os.PathLike[str],
    pngs: str | os.PathLike[str] | None,
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    images_from: str | os.PathLike[str] | None = None,
    categories: Sequence[Category] | None = None,
    **options: Any,
) -> Converted:
    """A set from a panoptic JSON that is almost COCO's: areas and boxes may be wrong or absent.

    categories: instead of the JSON's
    """
    keys = ("images", "annotations") if categories is not None else ("images", "annotations", "categories")
    document = read_json(panoptic_json, keys)
    folder = Path(pngs) if pngs is not None else Path(str(panoptic_json).replace(".json", ""))
    if categories is None:
        categories = read_categories(document["categories"], str(panoptic_json))
    known = {category.id for category in categories}
    images = ImageFolder(images_from)
    by_id = {record["id"]: record for record in document["images"] if isinstance(record, dict) and "id" in record}

    def read(record: dict[str, Any]) -> LabelledImage:
        try:
            image = by_id[record["image_id"]]
            png, name = Path(str(record["file_name"])).with_suffix(".png"), str(image["file_name"])
            segments = {
                int(segment["id"]): (int(segment["category_id"]), segment.get("iscrowd", 0) == 1)
                for segment in record["segments_info"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataset(f"{panoptic_json}: an annotation lacks or has a wrong {error}.") from error
        if leaves_folder(str(png)):
            raise BadDataset(f"{panoptic_json}: {str(png)!r} leaves its folder.")
        unknown = {category_id for category_id, _ in segments.values()} - known
        left_out = tuple(f"segments of category {category_id}, which is not listed" for category_id in sorted(unknown))
        segments = {key: value for key, value in segments.items() if value[0] in known}
        ids = read_id_png(folder / png)
        if not Path(name).suffix:
            name += ".jpg"
        picture = images.path(Path(name).stem, name)
        return LabelledImage(name, ids, segments, picture, record["image_id"], left_out)

    return write_set(root, split, categories, document["annotations"], read, reads=[panoptic_json, folder], **options)


# Back to COCO's detection format


def panoptic_to_detection(
    panoptic_json: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pngs: str | os.PathLike[str] | None = None,
    things_only: bool = False,
    progress: Counting | None = None,
    threads: int | None = None,
) -> int:
    """Writes a panoptic set as COCO detection JSON with run-length masks; returns the number of annotations.

    The same content as panopticapi's converter panoptic2detection_coco_format.py writes.
    """
    from pycocotools import mask as rle_masks

    if Path(out).resolve() == Path(panoptic_json).resolve():
        raise BadArgument(f"{out} is the JSON that is read. Give another name for the new one.")
    panoptic = read_panoptic_json(panoptic_json, pngs)
    things = {category.id for category in panoptic.categories if category.isthing}

    def read(annotation: Annotation) -> list[dict[str, Any]]:
        ids = read_id_png(panoptic.png_path(annotation.image_id), image_id=annotation.image_id)
        records = []
        for segment in annotation.segments:
            if things_only and segment.category_id not in things:
                continue
            rle = rle_masks.encode(np.asfortranarray(ids == segment.id, dtype=np.uint8))
            records.append(
                {
                    "area": segment.area,
                    "category_id": segment.category_id,
                    "iscrowd": int(segment.iscrowd),
                    "bbox": list(segment.bbox or ()),
                    "image_id": annotation.image_id,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
        return records

    records: list[dict[str, Any]] = []
    with _pool(threads) as pool:
        for number, found in enumerate(pool.map(read, panoptic.annotations.values()), 1):
            first = len(records)
            records.extend({**record, "id": first + offset} for offset, record in enumerate(found))
            if progress is not None:
                progress(number, len(panoptic.annotations))
    write_json(
        out,
        {
            "images": [
                {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in panoptic.images.values()
            ],
            "annotations": records,
            "categories": [
                {"id": category.id, "name": category.name, "supercategory": category.supercategory}
                for category in panoptic.categories
                if category.isthing or not things_only
            ],
        },
        indent=None,
    )
    return len(records)


# Categories


def read_categories(source: str | os.PathLike[str] | list[Any], where: str = "categories") -> tuple[Category, ...]:
    """Categories from a JSON file (a list, or an object with `categories`) or from records (id, name, isthing)."""
    if not isinstance(source, list):
        where = str(source)
        document = read_json(source, ())
        records = document if isinstance(document, list) else document.get("categories")
        if not isinstance(records, list):
            raise BadDataset(f"{where} holds no list of categories.")
    else:
        records = source
    found: dict[int, Category] = {}
    for record in records:
        try:
            color = record.get("color")
            category = Category(
                _category_id(record["id"]),
                str(record["name"]),
                {0: False, 1: True}[record["isthing"]],
                str(record.get("supercategory") or ""),
                None if color is None else (int(color[0]), int(color[1]), int(color[2])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BadDataset(
                f"{where}: a category lacks id (below 2³¹), name or isthing (0 or 1): {record!r:.100}."
            ) from error
        if category.id in found:
            raise BadDataset(f"{where}: category id {category.id} is listed twice.")
        found[category.id] = category
    return tuple(found.values())


def _category_id(value: Any) -> int:
    found = int(value)
    if not -(2**31) <= found < 2**31:
        raise ValueError(f"the id {found} does not fit into 32 bits")
    return found


SHIPPED = ("coco", "ade20k", "cityscapes", "mapillary")
"""The sets whose lists of categories travel with the package; Mapillary's is that of Vistas v1.2."""


def shipped_categories(name: str) -> tuple[Category, ...]:
    """The categories of a set of SHIPPED: 133 of `coco`, 150 of `ade20k`, 19 of `cityscapes`, 65 of `mapillary`."""
    try:
        text = resources.files("panbench.datasets").joinpath(f"{name}_categories.json").read_text("utf-8")
    except FileNotFoundError:
        raise BadArgument(f"Unknown categories {name!r}; panbench ships {in_sentence(SHIPPED)}.") from None
    return read_categories(json.loads(text))


def categories_named(name: str) -> tuple[Category, ...]:
    """The categories of `--categories`: of a set of SHIPPED, or of a JSON."""
    return shipped_categories(name) if name in SHIPPED else read_categories(Path(name))


# Small things


def check_split(dataset: str, split: str, splits: Collection[str]) -> None:
    """Raises BadArgument for a split that a dataset does not have, or has no public ground truth of."""
    if split not in splits:
        raise BadArgument(f"{dataset} has ground truth for {' and '.join(splits)}, not for {split!r}.")


class ImageFolder:
    """Finds the image that belongs to a label file in a folder, by its stem, with subfolders or without."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._by_stem: dict[str, Path] = {}
        if self.folder is not None:
            if not self.folder.is_dir():
                raise BadDataset(f"{self.folder} is not a folder. Give the folder of images.")
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"):
                    self._by_stem.setdefault(path.stem, path)

    def path(self, stem: str, name: str) -> Path | None:
        """The image's path; None without a folder of images. Raises BadDataset when the folder lacks it."""
        if self.folder is None:
            return None
        exact = self.folder / name
        found = exact if exact.is_file() else self._by_stem.get(stem)
        if found is None:
            raise BadDataset(f"{self.folder} has no image {name}.")
        return found

    def labelled(self, path: Path, ids: IdMap, segments: dict[int, tuple[int, bool]]) -> LabelledImage:
        """An image named after its label file, with its number when the name is one."""
        image = self.path(path.stem, f"{path.stem}.jpg")
        name = f"{path.stem}{image.suffix if image is not None else '.jpg'}"
        number = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None
        return LabelledImage(name, ids, segments, image, number)


def _tidy(labelled: LabelledImage, known: set[int]) -> tuple[IdMap, tuple[Segment, ...], tuple[str, ...]]:
    """The id map with undescribed pixels set to void, the segments that have pixels, and what was left out."""
    unknown = {category_id for category_id, _ in labelled.segments.values()} - known
    if unknown:
        raise BadDataset(f"{labelled.name} has segments of unknown categories: {listed(sorted(unknown))}.")
    found, areas, boxes = measure_segments(labelled.ids)
    keep = np.array([int(segment_id) in labelled.segments for segment_id in found])
    ids = labelled.ids
    left_out: tuple[str, ...] = ()
    if not keep[found != VOID].all():
        ids = np.where(np.isin(ids, found[keep]), ids, VOID).astype(np.int32)
        left_out = ("images with pixels that no segment describes (now void)",)
    segments = []
    row_of = {int(segment_id): row for row, segment_id in enumerate(found)}
    for segment_id, (category_id, iscrowd) in labelled.segments.items():
        row = row_of.get(segment_id)
        if row is None or segment_id == VOID:
            left_out += ("segments without a pixel of their own",)
            continue
        x, y, width, height = (int(value) for value in boxes[row])
        segments.append(Segment(segment_id, category_id, int(areas[row]), iscrowd, (x, y, width, height)))
    return ids, tuple(segments), left_out


def _refuse_own_input(read: Iterable[str | os.PathLike[str] | None], pngs: Path, json_path: Path) -> None:
    """Raises BadArgument when a conversion would write over what it reads."""
    written = pngs.resolve()
    for path in read:
        found = None if path is None else Path(path).resolve()
        if found is not None and (found in (written, json_path.resolve()) or written in found.parents):
            raise BadArgument(f"{path} is read, but {pngs} would be written. Give another folder for the new set.")


def _write_png(path: Path, ids: IdMap, overwrite: bool) -> None:
    if not overwrite and path.exists():
        # The same PNG comes from the same conversion, interrupted earlier.
        with contextlib.suppress(BadDataset):
            if np.array_equal(read_id_png(path), ids):
                return
        raise BadArgument(f"{path} already exists and differs. Give another folder, or --overwrite.")
    write_id_png(path, ids)


def _place(source: Path, target: Path, *, copy: bool, overwrite: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = source.read_bytes() if is_elsewhere(source) else None
    with contextlib.suppress(FileNotFoundError):
        if target.read_bytes() == packed:
            return
        if packed is None and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
            return
        if not overwrite:
            raise BadArgument(
                f"{target} already exists and differs from {source}. Give another folder, or --overwrite."
            )
        target.unlink()
    if packed is not None:
        with atomic_write(target, durable=False) as handle:
            handle.write(packed)
        return
    if not copy:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    with open(source, "rb") as content, atomic_write(target, durable=False) as handle:
        shutil.copyfileobj(content, handle)


def folder_of(source: Path, folder: str, archives: Sequence[str]) -> Path | None:
    """A folder of a dataset as it was published: unpacked in `source`, or in one of its archives there; None without.

    The files of an archive are read in place, so nothing is unpacked.
    Raises BadDataset for a damaged archive.
    """
    if (source / folder).is_dir():
        return source / folder
    for archive in archives:
        packed = path_at(f"zip://{folder}::{source / archive}")
        try:
            if (source / archive).is_file() and packed.is_dir():
                return packed
        except OSError as error:
            raise BadDataset(f"{source / archive}: {error.strerror or error}.") from error
    return None


@contextlib.contextmanager
def _pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that cancels queued work when something fails or the user interrupts."""
    pool = ThreadPoolExecutor(threads or default_threads(besides=1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
