"""Converts other formats to COCO panoptic, and COCO panoptic to COCO detection.

Every converter writes the same layout, which `panbench eval --data ROOT` and `panbench data check ROOT` read:

    ROOT/annotations/panoptic_<split>.json · ROOT/annotations/panoptic_<split>/*.png · ROOT/<split>/ images

Areas and boxes are measured on the written PNG; segments without pixels are left out.
"""

import contextlib
import json
import os
import re
import threading
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import is_remote
from panbench.base.errors import BadArgument, BadDataset
from panbench.base.files import atomic_write, leaves_folder, write_json
from panbench.base.program import default_threads, in_order
from panbench.base.reporter import Counting
from panbench.base.text import in_sentence, listed
from panbench.datasets.check import measure_segments
from panbench.datasets.instances import MANY_CROWDS, OUTSIDE_PIXELS, instance_mask, read_instances_json, read_json
from panbench.datasets.label_maps import NOTHING, SemanticMaps, files_with_suffix, read_label_png
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
    segments: category id and iscrowd by segment id; ids of the map that are not listed become void
    image: the path or the bytes of the image, or None
    image_id: the image's id, or None to take its name without suffix
    left_out: descriptions of what could not be converted
    scores: of predictions, by segment id
    """

    name: str
    ids: IdMap
    segments: Mapping[int, tuple[int, bool]]
    image: Path | bytes | None = None
    image_id: int | str | None = None
    left_out: tuple[str, ...] = ()
    scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """What a converter wrote, and in `left_out` how many of what it could not convert.

    notes: messages on what the converter assumed
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
    sources: Iterable[Source],
    read: Callable[[Source], LabelledImage],
    *,
    images: Images = "link",
    overwrite: bool = False,
    reads: Iterable[str | os.PathLike[str] | None] = (),
    progress: Counting | None = None,
    threads: int | None = None,
) -> Converted:
    """Writes a panoptic set; `read` converts each source to an image with labels, in parallel.

    images: `link` puts hard links to the images next to the annotations (copies if the disk has no hard links, and from
        archives), `copy` copies, `none` leaves the images where they are
    overwrite: replace an existing set, with its PNGs and images of the same names
    reads: files and folders that `read` reads, in addition to sources that are paths
    The JSON is written last: an interrupted conversion leaves none, and the same call starts it over.
    Raises BadDataset if there is nothing to convert or a source is wrong; BadArgument if the set already exists or an
    existing file differs from the one to be written (both unless `overwrite`), and always if an input lies where the
    set would be written.
    """
    root = Path(root)
    json_path = root / "annotations" / f"panoptic_{split}.json"
    pngs = root / "annotations" / f"panoptic_{split}"
    image_folder = root / split
    if not re.fullmatch(r"[\w.-]+", split):
        raise BadArgument(f"{split!r} is not a name for a split: use letters, digits, '-', '_' and '.'.")
    if json_path.exists() and not overwrite:
        raise BadArgument(f"{json_path} already exists. Give another folder, or --overwrite.")
    total = len(sources) if isinstance(sources, Sequence) else None
    paths = [source for source in sources if isinstance(source, Path)] if isinstance(sources, Sequence) else []
    _refuse_overwriting_input([*paths, *reads], pngs, json_path)
    known = {category.id for category in categories}
    names: dict[str, str] = {}
    names_lock = threading.Lock()

    def convert_source(source: Source) -> tuple[ImageInfo, Annotation, tuple[str, ...]]:
        """Converts one labelled image of the source dataset and writes its files; returns its entries for the JSON."""
        labelled = read(source)
        if leaves_folder(labelled.name):
            raise BadDataset(f"The image name {labelled.name!r} leaves its folder.")
        ids, segments, empty = _void_undescribed_pixels(labelled, known)
        png = str(Path(labelled.name).with_suffix(".png"))
        with names_lock:
            if png in names:
                raise BadDataset(
                    f"Two images are called {names[png]} and {labelled.name}; their id PNGs would overwrite each other."
                )
            names[png] = labelled.name
        _write_new_id_png(pngs / png, ids, overwrite)
        if images != "none" and labelled.image is not None:
            _place_photograph(labelled.image, image_folder / labelled.name, copy=images == "copy", overwrite=overwrite)
        image_id = str(Path(labelled.name).with_suffix("")) if labelled.image_id is None else labelled.image_id
        image = ImageInfo(image_id_of(image_id), labelled.name, ids.shape[0], ids.shape[1])
        return image, Annotation(image.id, png, segments), labelled.left_out + empty

    infos: dict[int, ImageInfo] = {}
    annotations: dict[int, Annotation] = {}
    left_out: Counter[str] = Counter()
    try:
        calls = (partial(convert_source, source) for source in sources)
        for number, (image, annotation, words) in enumerate(in_order(calls, threads or default_threads(extra=1)), 1):
            if image.id in infos:
                raise BadDataset(f"Two images have the id {image.id}: {infos[image.id].file_name}, {image.file_name}.")
            infos[image.id], annotations[image.id] = image, annotation
            left_out.update(words)
            if progress is not None:
                progress(number, total)
        if not infos:
            raise BadDataset("There is nothing to convert.")
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
    """Converts PNGs whose first channel is the category and second the instance (Kirillov et al. 2019, sec. 3).

    images_from: the folder of images with the same stems
    options: as in `write_set`
    """
    by_id = {category.id: category for category in categories}
    images = ImageFolder(images_from)

    def read(path: Path) -> LabelledImage:
        """Reads a two-channel PNG as the labels of an image."""
        pixels = read_label_png(path)
        if pixels.ndim != 3:
            raise BadDataset(f"{path} has one channel; two-channel PNGs hold category and instance in the first two.")
        ids, segments = segments_of_labels(pixels[..., 0], pixels[..., 1], by_id, str(path))
        return images.labelled_image(path, ids, segments)

    return write_set(root, split, categories, files_with_suffix(folder, ".png"), read, **options)


def convert_arrays(
    folder: str | os.PathLike[str],
    categories: Sequence[Category],
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    images_from: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Converted:
    """Converts .npz files with the (H, W) integer arrays `labels` (category ids) and `instances` (0 = none)."""
    by_id = {category.id: category for category in categories}
    images = ImageFolder(images_from)

    def read(path: Path) -> LabelledImage:
        """Reads the category and instance of each pixel of an image from an .npz file."""
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
        return images.labelled_image(path, ids, segments)

    return write_set(root, split, categories, files_with_suffix(folder, ".npz"), read, **options)


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
    """Converts a COCO instance JSON (and semantic PNGs of the images' stems, if given) to a panoptic set.

    Crowds are painted first, then instances from the largest to the smallest, so that small ones stay visible; stuff
    fills the rest. Pixels that the semantic map labels as a thing but no instance covers become void.
    semantic: None makes a set of things only: what no instance covers is void
    categories: None uses the JSON's own, all of them things unless they declare `isthing`
    offset: how to read pixel values of the semantic PNGs (`SemanticMaps`)
    crowds: what instances with `iscrowd: 1` become; None keeps them, unless there are at least MANY_CROWDS instances
        and all are crowds, as CVAT marks everything painted with its brush
    """
    document = read_instances_json(instances_json)
    all_crowds = len(document["annotations"]) >= MANY_CROWDS and all(map(_is_crowd_instance, document["annotations"]))
    crowds_are_instances = crowds == "instances" or (crowds is None and all_crowds)
    if categories is None:
        categories = _read_instance_categories(document, str(instances_json))
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
        """Returns the mask of an instance, and whether its polygons had to be clipped to the image."""
        where = f"{instances_json}: annotation {record.get('id')}"
        return instance_mask(record.get("segmentation"), height, width, where)

    def stuff_of_image(record: dict[str, Any], name: str) -> tuple[IdMap, dict[int, tuple[int, bool]]]:
        """Returns the id map and segments of an image's stuff; all void without semantic PNGs."""
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
        """Returns the labels of one image: its instance masks, painted over its stuff regions."""
        image_id, name = record["id"], str(record["file_name"])
        stem = Path(name).stem
        ids, segments = stuff_of_image(record, name)
        height, width = ids.shape
        found = [(*mask_of(item, height, width), item) for item in by_image.get(image_id, [])]
        clipped = sum(was_clipped for _, was_clipped, _ in found)
        masks = [(mask, item) for mask, _, item in found]
        masks.sort(key=lambda pair: (crowds_are_instances or not _is_crowd_instance(pair[1]), -int(pair[0].sum())))
        for mask, item in masks:
            segment_id = fresh_id(by_id[item["category_id"]], segments)
            segments[segment_id] = (item["category_id"], _is_crowd_instance(item) and not crowds_are_instances)
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


def _is_crowd_instance(record: Any) -> bool:
    return isinstance(record, dict) and record.get("iscrowd") == 1


def segments_by_id(records: Iterable[dict[str, Any]]) -> dict[int, tuple[int, bool]]:
    """Maps the segment ids of a JSON's `segments_info` to (category id, iscrowd)."""
    return {int(one["id"]): (int(one["category_id"]), one.get("iscrowd", 0) == 1) for one in records}


def _read_instance_categories(document: dict[str, Any], where: str) -> tuple[Category, ...]:
    """Reads the categories of an instance JSON; those without `isthing` are things."""
    records = document.get("categories")
    if not isinstance(records, list) or not records:
        raise BadDataset(f"{where} lists no categories. Give them by --categories.")
    things = [{"isthing": 1, **record} if isinstance(record, dict) else record for record in records]
    return read_categories(things, where)


# Panoptic sets that are almost COCO's


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
    """Converts a panoptic JSON that is almost COCO's: its areas and boxes may be wrong or absent.

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
        """Reads the id PNG of an annotation, with its segments."""
        try:
            image = by_id[record["image_id"]]
            png, name = Path(str(record["file_name"])).with_suffix(".png"), str(image["file_name"])
            segments = segments_by_id(record["segments_info"])
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
        """Returns the detection records of the segments of an image."""
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
    calls = [partial(read, annotation) for annotation in panoptic.annotations.values()]
    for number, found in enumerate(in_order(calls, threads or default_threads(extra=1)), 1):
        first = len(records)
        records.extend({**record, "id": first + offset} for offset, record in enumerate(found))
        if progress is not None:
            progress(number, len(calls))
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
    """Reads categories from a JSON file (a list, or an object with `categories`) or records (id, name, isthing)."""
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
                _checked_category_id(record["id"]),
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


def _checked_category_id(value: Any) -> int:
    """Returns a category id as an integer. Raises ValueError for one that does not fit into 32 bits."""
    found = int(value)
    if not -(2**31) <= found < 2**31:
        raise ValueError(f"the id {found} does not fit into 32 bits")
    return found


SHIPPED = ("coco", "ade20k", "cityscapes", "mapillary")
"""The sets whose categories ship with the package; Mapillary's are those of Vistas v1.2."""


def shipped_categories(name: str) -> tuple[Category, ...]:
    """Returns the categories of a set in SHIPPED: coco (133), ade20k (150), cityscapes (19) or mapillary (65)."""
    try:
        text = resources.files("panbench.datasets").joinpath(f"{name}_categories.json").read_text("utf-8")
    except FileNotFoundError:
        raise BadArgument(f"Unknown categories {name!r}; panbench ships {in_sentence(SHIPPED)}.") from None
    return read_categories(json.loads(text))


def categories_named(name: str) -> tuple[Category, ...]:
    """Returns the categories that `--categories` names: those of a set in SHIPPED, or of a JSON file."""
    return shipped_categories(name) if name in SHIPPED else read_categories(Path(name))


# Helpers


class ImageFolder:
    """Finds the image of a label file in a folder by its stem, with or without subfolders."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        """Indexes the images of a folder and its subfolders by file stem; None stands for no images."""
        self.folder = None if folder is None else Path(folder)
        self._by_stem: dict[str, Path] = {}
        if self.folder is not None:
            if not self.folder.is_dir():
                raise BadDataset(f"{self.folder} is not a folder. Give the folder of images.")
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"):
                    self._by_stem.setdefault(path.stem, path)

    def path(self, stem: str, name: str) -> Path | None:
        """Returns the path of an image, None without a folder of images. Raises BadDataset if the folder lacks it."""
        if self.folder is None:
            return None
        exact = self.folder / name
        found = exact if exact.is_file() else self._by_stem.get(stem)
        if found is None:
            raise BadDataset(f"{self.folder} has no image {name}.")
        return found

    def labelled_image(self, path: Path, ids: IdMap, segments: dict[int, tuple[int, bool]]) -> LabelledImage:
        """Makes a LabelledImage named after its label file; its id is that name if it is a number."""
        image = self.path(path.stem, f"{path.stem}.jpg")
        name = f"{path.stem}{image.suffix if image is not None else '.jpg'}"
        number = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None
        return LabelledImage(name, ids, segments, image, number)


def _void_undescribed_pixels(
    labelled: LabelledImage, known: set[int]
) -> tuple[IdMap, tuple[Segment, ...], tuple[str, ...]]:
    """Sets pixels that no segment describes to void; returns the map, its segments, and notes on what was left out."""
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
        box, score = (x, y, width, height), labelled.scores.get(segment_id)
        segments.append(Segment(segment_id, category_id, int(areas[row]), iscrowd, box, score))
    return ids, tuple(segments), left_out


def _refuse_overwriting_input(read: Iterable[str | os.PathLike[str] | None], pngs: Path, json_path: Path) -> None:
    """Raises BadArgument if a conversion would overwrite what it reads."""
    written = pngs.resolve()
    for path in read:
        found = None if path is None else Path(path).resolve()
        if found is not None and (found in (written, json_path.resolve()) or written in found.parents):
            raise BadArgument(f"{path} is read, but {pngs} would be written. Give another folder for the new set.")


def _write_new_id_png(path: Path, ids: IdMap, overwrite: bool) -> None:
    """Writes an id PNG. Raises BadArgument if another one has its name, unless it may be overwritten."""
    if not overwrite and path.exists():
        # An equal PNG comes from the same conversion, interrupted earlier.
        with contextlib.suppress(BadDataset):
            if np.array_equal(read_id_png(path), ids):
                return
        raise BadArgument(f"{path} already exists and differs. Give another folder, or --overwrite.")
    write_id_png(path, ids)


def _place_photograph(source: Path | bytes, target: Path, *, copy: bool, overwrite: bool) -> None:
    """Links or copies an image into the new set. Raises BadArgument if another file has its name."""
    if not isinstance(source, bytes) and not source.is_file():
        raise BadDataset(f"{source} was not found.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (copy or isinstance(source, bytes) or is_remote(source)):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    content = source if isinstance(source, bytes) else source.read_bytes()
    with contextlib.suppress(FileNotFoundError):
        if target.read_bytes() == content:
            return
        if not overwrite:
            raise BadArgument(f"{target} already exists and differs. Give another folder, or --overwrite.")
        target.unlink()
        return _place_photograph(source, target, copy=copy, overwrite=False)
    with atomic_write(target, durable=False) as handle:
        handle.write(content)
