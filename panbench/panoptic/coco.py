"""Reads and writes the COCO panoptic format: a JSON that describes each segment id, and an RGB id PNG per image.

In a PNG, id = R + 256 G + 256² B. [Kirillov et al. 2019; https://cocodataset.org/#format-data]
"""

import difflib
import hashlib
import json
import math
import os
import re
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import is_remote, path_at
from panbench.base.errors import BadDataset, PanbenchError
from panbench.base.files import atomic_write, leaves_folder, write_json
from panbench.base.text import listed
from panbench.panoptic.fingerprint import fingerprint_of_files
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, decode_id_png, encode_id_png
from panbench.panoptic.image_ids import image_id_of, own_id
from panbench.panoptic.types import (
    MAX_ID,
    MAX_SCORE,
    Annotation,
    AnnotationColumns,
    Category,
    IdMap,
    ImageInfo,
    PanopticSet,
    Segment,
    ids_sharing_a_name,
)


def read_id_png(
    path: str | os.PathLike[str],
    shape: tuple[int, int] | None = None,
    *,
    image_id: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    error: type[PanbenchError] = BadDataset,
    digest: bytes = b"",
) -> IdMap:
    """Reads an id PNG: (H, W) int32.

    shape: (H, W) that the map must have; None accepts any
    image_id: for error messages
    max_pixels: a larger PNG is refused before it is decoded
    error: the exception to raise if the file is missing, not a PNG, truncated, not 8-bit RGB, or of another shape
    digest: the SHA-256 that the file must have; empty if none was recorded
    """
    return read_hashed_id_png(path, shape, image_id=image_id, max_pixels=max_pixels, error=error, digest=digest)[0]


def read_hashed_id_png(
    path: str | os.PathLike[str],
    shape: tuple[int, int] | None = None,
    *,
    image_id: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    error: type[PanbenchError] = BadDataset,
    digest: bytes = b"",
) -> tuple[IdMap, bytes]:
    """Reads an id PNG as `read_id_png` does, and also returns the SHA-256 of its bytes."""
    where = f"{path}" if image_id is None else f"{path} (image {image_id})"
    try:
        content = path_at(path).read_bytes()
    except FileNotFoundError:
        raise error(f"{where} was not found. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise error(f"{where} cannot be read: {problem.strerror or problem}.") from None
    found = hashlib.sha256(content).digest()
    if digest and found != digest:
        raise error(f"{where} changed since its run was made (its SHA-256 differs). Restore it, or make the run again.")
    try:
        return decode_id_png(content, shape=shape, max_pixels=max_pixels), found
    except ValueError as problem:
        raise error(f"{where} {problem}") from None


def read_ids(
    panoptic: PanopticSet, image_id: int, shape: tuple[int, int] | None = None, error: type[PanbenchError] = BadDataset
) -> IdMap:
    """Reads an image's id map as `read_id_png` does. Raises if a recorded SHA-256 differs: the PNG has changed."""
    return read_id_png(
        panoptic.png_path(image_id), shape, image_id=image_id, error=error, digest=panoptic.digests.get(image_id, b"")
    )


def write_id_png(path: str | os.PathLike[str], ids: npt.NDArray[np.integer], *, durable: bool = False) -> bytes:
    """Writes an (H, W) id map as RGB PNG, atomically; returns the file's SHA-256, 32 bytes.

    durable: the bytes survive a power cut; the name does once the caller has synced the folder
    Raises ValueError for ids outside 0…2²⁴-1.
    """
    content = encode_id_png(ids)
    with atomic_write(path, durable=durable, names_later=True) as handle:
        handle.write(content)
    return hashlib.sha256(content).digest()


def read_panoptic_json(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, *, images_suffice: bool = False
) -> PanopticSet:
    """Reads and checks a COCO panoptic JSON of ground truth. Id PNGs are not opened.

    folder: of the id PNGs; by default the JSON's path without `.json`, as in panopticapi
    images_suffice: accept a JSON without the key `annotations`, such as a list of test images
    Raises BadDataset with file, record and field if the JSON is not COCO panoptic.
    """
    reader = _PanopticJsonReader(path, folder)
    optional = ("annotations",) if images_suffice else ()
    document = reader.read_json_lists(("images", "annotations", "categories"), optional)
    categories = reader.parse_categories(document["categories"])
    images = reader.parse_images(document["images"])
    annotations = reader.parse_annotations(
        document["annotations"], {category.id for category in categories}, counted=False
    )
    if unlisted := [image_id for image_id in annotations if image_id not in images]:
        raise BadDataset(
            f"{path}: annotations name image ids that `images` does not list: {listed(unlisted)}. "
            "Add the images or drop the annotations."
        )
    return PanopticSet(categories, images, annotations, reader.folder, reader.path, sha256=reader.sha256)


def read_predictions_json(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> PanopticSet:
    """Reads a COCO panoptic JSON of predictions; only `annotations` is needed.

    Segments need `id` and `category_id`; `score` is optional. Areas are 0, to be counted from the PNGs. Categories are
    not checked. Otherwise as `read_panoptic_json`.
    """
    reader = _PanopticJsonReader(path, folder)
    document = reader.read_json_lists(("annotations",))
    annotations = reader.parse_annotations(document["annotations"], None, counted=True)
    return PanopticSet((), {}, annotations, reader.folder, reader.path, sha256=reader.sha256)


def read_png_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Reads the file names of id PNGs by image id from a panoptic JSON, without its segments. Raises BadDataset."""
    reader = _PanopticJsonReader(path)
    records = enumerate(reader.read_json_lists(("annotations",))["annotations"])
    named = ((f"annotations[{index}]", record) for index, record in records)
    return {reader.image_id(record, "image_id", where): reader.file_name(record, where) for where, record in named}


def joined_set(sets: Sequence[PanopticSet]) -> PanopticSet:
    """Joins panoptic datasets with different images and the same categories; a single one is returned unchanged."""
    first = sets[0]
    if len(sets) == 1:
        return first
    annotations = {
        # An absolute name stands for itself in any folder.
        image_id: replace(annotation, file_name=os.path.abspath(one.png_path(image_id)))
        for one in sets
        for image_id, annotation in one.annotations.items()
    }
    images = {image_id: image for one in sets for image_id, image in one.images.items()}
    sha256 = fingerprint_of_files(one.sha256 for one in sets)
    return PanopticSet(first.categories, images, annotations, first.folder, first.path, sha256=sha256)


def read_annotation_columns(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, *, predictions: bool = False
) -> AnnotationColumns:
    """Reads a panoptic JSON of ground truth or predictions as arrays, record by record, to save memory.

    `images` may be absent, as in panopticapi. Other checks and messages are those of `read_panoptic_json`.
    """
    reader = _PanopticJsonReader(path, folder)
    rows = _AnnotationColumnBuilder()
    categories: tuple[Category, ...] = ()
    photographs, names = array("q"), array("q")
    own_categories: dict[int, tuple[str, bool | None]] = {}
    keys = ("annotations",) if predictions else ("annotations", "categories")
    for key, records in reader.walk_json_lists(keys, also=("images", "categories")):
        if key == "annotations":
            for index, record in enumerate(records):
                rows.add_annotation(reader, record, index, predictions)
        elif key == "images":
            for image_id, name in _photograph_names(records):
                photographs.append(image_id)
                names.append(hash(name))
        elif predictions:
            own_categories = _own_categories(records)
        else:
            categories = reader.parse_categories(list(records))
    columns = replace(
        rows.annotation_columns(categories, reader.folder, reader.path),
        own_categories=own_categories,
        same_photograph=ids_sharing_a_name(photographs, np.array(names, np.int64)),
        sha256=reader.sha256,
    )
    if not predictions:
        _check_category_ids(reader, columns)
    return columns


def _photograph_names(records: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """Yields id and file name of each record of `images` that has both."""
    for record in records:
        given, name = (record.get("id"), record.get("file_name")) if isinstance(record, dict) else (None, None)
        if isinstance(name, str) and isinstance(given, int | str) and type(given) is not bool:
            image_id = image_id_of(given)
            if -(2**63) <= image_id < 2**63:
                yield image_id, name


def _own_categories(records: Iterable[Any]) -> dict[int, tuple[str, bool | None]]:
    """Returns the categories that predictions list: id, name, and whether it is a thing (None if unknown)."""
    return {
        record["id"]: (record["name"], bool(record["isthing"]) if record.get("isthing") in (0, 1) else None)
        for record in records
        if isinstance(record, dict) and type(record.get("id")) is int and isinstance(record.get("name"), str)
    }


def write_panoptic_json(path: str | os.PathLike[str], panoptic_set: PanopticSet) -> None:
    """Writes a set as COCO panoptic JSON, atomically; panopticapi and mmdet can read it."""
    write_json(
        path,
        {
            "images": [
                {"id": own_id(image.id), "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in panoptic_set.images.values()
            ],
            "annotations": [
                {
                    "image_id": own_id(annotation.image_id),
                    "file_name": annotation.file_name,
                    "segments_info": [_segment_record(segment) for segment in annotation.segments],
                }
                for annotation in panoptic_set.annotations.values()
            ],
            "categories": [
                {
                    "id": category.id,
                    "name": category.name,
                    "isthing": int(category.isthing),
                    "supercategory": category.supercategory,
                    **({} if category.color is None else {"color": list(category.color)}),
                }
                for category in panoptic_set.categories
            ],
        },
        indent=None,
    )


def _check_category_ids(reader: "_PanopticJsonReader", columns: AnnotationColumns) -> None:
    """Raises BadDataset if a segment's category id is not among the categories."""
    known = np.array([category.id for category in columns.categories], np.int32)
    unknown = np.flatnonzero(~np.isin(columns.category_id, known))
    if len(unknown):
        image = int(np.searchsorted(columns.first, unknown[0], side="right")) - 1
        raise reader.unknown_categories(
            f"annotations[{image}] (image {columns.image_ids[image]})", set(columns.category_id[unknown].tolist())
        )


class _AnnotationColumnBuilder:
    """Collects annotations record by record into the columns of AnnotationColumns."""

    def __init__(self) -> None:
        """Starts with empty columns."""
        self.image_ids: dict[int, None] = {}
        self.file_names: list[str] = []
        self.first = array("q", [0])
        self.id, self.category_id, self.area = array("i"), array("i"), array("q")
        self.iscrowd, self.score = array("b"), array("f")

    def add_annotation(self, reader: "_PanopticJsonReader", record: Any, index: int, counted: bool) -> None:
        """Appends one record of `annotations`.

        The fast path reads whole columns of the record; anything unusual goes through the reader, field by field, which
        names what is wrong.
        """
        try:
            segments = record["segments_info"]
            image_id, name = record["image_id"], record["file_name"]
            ids = array("i", [segment["id"] for segment in segments])
            category_ids = array("i", [segment["category_id"] for segment in segments])
            area = array("q", bytes(8 * len(ids)) if counted else [segment["area"] for segment in segments])
            scores = [segment.get("score") for segment in segments]
            iscrowd = [segment.get("iscrowd", 0) for segment in segments]
            # array() takes True for 1, which is neither an id nor an area.
            numbers = [segment[key] for segment in segments for key in ("id", "category_id", "area") if key in segment]
            plain = (
                type(image_id) is int
                and type(segments) is list
                and image_id not in self.image_ids
                and -(2**31) <= image_id <= 2**62
                and not leaves_folder(name)
                and len(set(ids)) == len(ids)
                and (not ids or (1 <= min(ids) and max(ids) <= MAX_ID and min(area) >= 0 and min(category_ids) >= 0))
                and scores.count(None) == len(scores)
                and bool not in map(type, numbers)
                and (counted or iscrowd.count(0) + iscrowd.count(1) == len(iscrowd))
            )
        except (KeyError, TypeError, AttributeError, OverflowError, ValueError):
            plain = False
        if plain:
            crowds = array("b", [value == 1 for value in iscrowd])
            score = array("f", [math.nan]) * len(ids)
        else:
            annotation = reader.parse_annotation(record, index, self.image_ids, counted)
            image_id, name, listing = annotation.image_id, annotation.file_name, annotation.segments
            ids = array("i", [segment.id for segment in listing])
            category_ids = array("i", [segment.category_id for segment in listing])
            area = array("q", [segment.area for segment in listing])
            crowds = array("b", [segment.iscrowd for segment in listing])
            score = array("f", [math.nan if segment.score is None else segment.score for segment in listing])
        self.image_ids[image_id] = None
        self.file_names.append(name)
        self.id.extend(ids)
        self.category_id.extend(category_ids)
        self.area.extend(area)
        self.iscrowd.extend(crowds)
        self.score.extend(score)
        self.first.append(len(self.id))

    def annotation_columns(self, categories: tuple[Category, ...], folder: Path, path: Path) -> AnnotationColumns:
        """Returns the collected segments as arrays."""
        return AnnotationColumns(
            categories=categories,
            image_ids=list(self.image_ids),
            file_names=self.file_names,
            first=np.array(self.first, np.int64),
            id=np.array(self.id, np.int32),
            category_id=np.array(self.category_id, np.int32),
            area=np.array(self.area, np.int64),
            iscrowd=np.array(self.iscrowd, np.bool_),
            score=np.array(self.score, np.float32),
            folder=folder,
            path=path,
        )


def _segment_record(segment: Segment) -> dict[str, Any]:
    """Converts a segment to its record in `segments_info` of a COCO panoptic JSON."""
    record: dict[str, Any] = {
        "id": segment.id,
        "category_id": segment.category_id,
        "area": segment.area,
        "iscrowd": int(segment.iscrowd),
    }
    if segment.bbox is not None:
        record["bbox"] = list(segment.bbox)
    if segment.score is not None:
        record["score"] = segment.score
    return record


def png_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the folder of a JSON's id PNGs, unless another is named."""
    # panopticapi removes every ".json" from the path, not only the suffix; so do we.
    return path_at(os.fspath(path).replace(".json", ""))


# Columns of a run hold category ids in 32 bits; a negative id is refused here, before anything is scored.
_MAX_CATEGORY_ID = 2**31 - 1

_SCAN = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def _skip_space(text: str, at: int) -> int:
    """Returns the position of the next character at or after `at` that is not white space."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


class _JsonListParser:
    """Iterates over a list in the text of a JSON file, parsing one element at a time.

    at: where the list begins in the text; once it is exhausted, the position after it
    """

    def __init__(self, reader: "_PanopticJsonReader", text: str, at: int) -> None:
        """Takes the text of a JSON file, and the position of the list's opening bracket in it."""
        self.reader, self.text, self.at = reader, text, at

    def __iter__(self) -> Iterator[Any]:
        """Yields the elements of the JSON list, each parsed when it is asked for. Raises BadDataset."""
        text, at = self.text, _skip_space(self.text, self.at + 1)
        more = text[at : at + 1] != "]"
        while more:
            try:
                record, at = _SCAN(text, at)
            except (ValueError, RecursionError) as problem:
                raise self.reader.bad_json_syntax(problem) from None
            yield record
            at = _skip_space(text, at)
            more = text[at : at + 1] == ","
            if more:
                at = _skip_space(text, at + 1)
            elif text[at : at + 1] != "]":
                raise self.reader.bad_json_syntax(f"a comma or ] is missing at character {at}")
        self.at = at + 1


class _PanopticJsonReader:
    """Reads a COCO panoptic JSON and checks its records; error messages name the file, the record and the field."""

    def __init__(self, path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> None:
        """Takes the path of the JSON, and the folder of its PNGs unless that is named after the JSON."""
        self.folder = png_folder(path) if folder is None else path_at(folder)
        self.path = path_at(path)
        self.sha256 = ""
        """of the file, once it has been read"""

    def bad_json(self, what: str) -> BadDataset:
        """Returns a BadDataset whose message begins with the path of the JSON."""
        return BadDataset(f"{self.path}: {what}")

    def bad_json_syntax(self, why: object) -> BadDataset:
        """Returns the BadDataset for a file that cannot be parsed as JSON."""
        return self.bad_json(f"is not JSON ({why}).")

    def read_json_lists(self, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, list[Any]]:
        """Reads the lists named by `keys` at once; an `optional` one that is absent is empty."""
        absent: dict[str, list[Any]] = {key: [] for key in optional}
        return absent | {key: list(records) for key, records in self.walk_json_lists(keys, optional)}

    def walk_json_lists(
        self, keys: tuple[str, ...], optional: tuple[str, ...] = (), also: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, Iterable[Any]]]:
        """Yields (key, records) for each list named by `keys`, in the order of the file; records are parsed one by one.

        `records` parses one record at a time, so the objects of a large JSON are never all in memory. Exhaust it before
        taking the next key.
        optional: those of `keys` that may be absent; also: further keys to yield if they exist and are lists
        """
        text = self.read_json_text()
        missing = {key: None for key in keys if key not in optional}
        start = _skip_space(text, 0)
        if start == len(text):
            raise self.bad_json("the file is empty. Write or copy it again.")
        if text[start] == "[":
            raise self.bad_json(f"is not COCO panoptic: {self._explain_json_list(text)}")
        try:
            at = self.expect_character(text, start, "{", f"an object with {', '.join(keys)}")
            while text[at : at + 1] != "}":
                key, at = _SCAN(text, at)
                at = self.expect_character(text, _skip_space(text, at), ":", "a colon")
                if key in keys or (key in also and text[at : at + 1] == "["):
                    self.expect_character(text, at, "[", f"a list as `{key}`")
                    missing.pop(key, None)
                    records = _JsonListParser(self, text, at)
                    yield key, records
                    at = records.at
                else:
                    _, at = _SCAN(text, at)
                at = _skip_space(text, at)
                if text[at : at + 1] != "}":
                    at = self.expect_character(text, at, ",", "a comma")
            if _skip_space(text, at + 1) != len(text):
                raise self.bad_json_syntax(f"extra data after the object at character {at + 1}")
        except (ValueError, RecursionError) as problem:
            raise self.bad_json_syntax(problem) from None
        if missing:
            raise self.bad_json(f"is not COCO panoptic: the key `{next(iter(missing))}` is missing.")

    def read_json_text(self) -> str:
        """Reads the JSON's text and sets `sha256`. Raises BadDataset."""
        try:
            content = self.path.read_bytes()
            self.sha256 = hashlib.sha256(content).hexdigest()
            return content.decode("utf-8-sig")
        except FileNotFoundError:
            raise BadDataset(f"{self.path} was not found. {self._suggest_json_file()}") from None
        except IsADirectoryError:
            raise BadDataset(f"{self.path} is a folder. {self._suggest_json_of_folder()}") from None
        except OSError as problem:
            raise BadDataset(f"{self.path} cannot be read: {problem.strerror or problem}.") from None
        except ValueError as problem:
            raise self.bad_json_syntax(problem) from None

    def _explain_json_list(self, text: str) -> str:
        """Explains what a JSON that begins with a list probably is."""
        expected = "expected an object with the key `annotations`, found a list."
        if '"segments_info"' in text:
            return f'{expected} Write {{"annotations": [...]}} around it.'
        return f"{expected} COCO's results of detection are such a list; PQ needs a PNG of segment ids for each image."

    def _suggest_json_file(self) -> str:
        """Suggests what was meant by a path that does not exist, from the files in its folder."""
        if is_remote(self.path):
            return "Give the URL of a COCO panoptic JSON."
        slashed = Path(str(self.path).replace("\\", "/"))
        if slashed != self.path and slashed.exists():
            return f"Did you mean {slashed}, with / between folders?"
        if os.name != "nt" and (drive := re.match(r"([A-Za-z]):[\\/]", str(self.path))):
            return (
                f"This is a path of Windows. From Linux under Windows, drive {drive[1]}: is /mnt/{drive[1].lower()}/."
            )
        others = [path.name for path in self.path.parent.glob("*.json")]
        if near := difflib.get_close_matches(self.path.name, others, n=1, cutoff=0.8):
            return f"Did you mean {self.path.with_name(near[0])}?"
        return "Give the path of a COCO panoptic JSON."

    def _suggest_json_of_folder(self) -> str:
        """Suggests which JSON was meant by a folder, from the files in it and next to it."""
        near = [self.path.with_name(f"{self.path.name}.json"), *sorted(self.path.glob("*.json"))[:1]]
        found = next((path for path in near if path.is_file()), None)
        return "Give the JSON that lists its segments" + (f": {found}?" if found else ".")

    def expect_character(self, text: str, at: int, sign: str, what: str) -> int:
        """Returns the position after the character `sign` and white space. Raises BadDataset if it is not at `at`."""
        if text[at : at + 1] != sign:
            raise self.bad_json(
                f"is not COCO panoptic: expected {what} at character {at}, found {text[at : at + 10]!r}."
            )
        return _skip_space(text, at + 1)

    def parse_categories(self, records: list[Any]) -> tuple[Category, ...]:
        """Parses the records of `categories`. Raises BadDataset for a wrong or repeated one."""
        found: dict[int, Category] = {}
        for index, record in enumerate(records):
            where = f"categories[{index}]"
            category_id = self.integer_field(record, "id", where, low=0, high=_MAX_CATEGORY_ID)
            color = record.get("color")
            isthing = self.json_field(record, "isthing", where)
            if isthing not in (0, 1):
                raise self.bad_json(f"{where}.isthing must be 0 or 1, not {isthing!r}.")
            if category_id in found:
                raise self.bad_json(f"{where} repeats category id {category_id}.")
            found[category_id] = Category(
                id=category_id,
                name=self.text_field(record, "name", where),
                isthing=isthing == 1,
                supercategory=str(record.get("supercategory") or ""),
                color=_valid_color(color),
            )
        return tuple(found.values())

    def parse_images(self, records: list[Any]) -> dict[int, ImageInfo]:
        """Parses the records of `images`; returns ImageInfo by image id. Raises BadDataset."""
        found: dict[int, ImageInfo] = {}
        for index, record in enumerate(records):
            where = f"images[{index}]"
            image = self.parse_image(record, where)
            if image.id in found:
                raise self.bad_json(f"{where} repeats image id {image.id}.")
            found[image.id] = image
        return found

    def parse_image(self, record: Any, where: str) -> ImageInfo:
        """Parses one record of `images`: id, file name, height and width. Raises BadDataset."""
        return ImageInfo(
            id=self.image_id(record, "id", where),
            file_name=self.file_name(record, where),
            height=self.integer_field(record, "height", where, low=1),
            width=self.integer_field(record, "width", where, low=1),
        )

    def parse_annotations(
        self, records: list[Any], category_ids: set[int] | None, counted: bool
    ) -> dict[int, Annotation]:
        """Parses the records of `annotations`; returns them by image id.

        category_ids: those that segments may have; None allows any
        counted: for predictions, whose areas are counted from the PNG: `area` is not read
        """
        found: dict[int, Annotation] = {}
        for index, record in enumerate(records):
            annotation = self.parse_annotation(record, index, found, counted)
            unknown = {segment.category_id for segment in annotation.segments} - (category_ids or set())
            if category_ids is not None and unknown:
                raise self.unknown_categories(f"annotations[{index}] (image {annotation.image_id})", unknown)
            found[annotation.image_id] = annotation
        return found

    def parse_annotation(self, record: Any, index: int, taken: Container[int], counted: bool) -> Annotation:
        """Parses one record of `annotations`.

        taken: image ids of earlier records
        """
        where = f"annotations[{index}]"
        image_id = self.image_id(record, "image_id", where)
        where = f"{where} (image {image_id})"
        if image_id in taken:
            raise self.bad_json(f"{where} repeats an image id; each image has one annotation.")
        if "segments_info" not in record and ("segmentation" in record or "bbox" in record):
            raise self.bad_json(
                f"{where} lacks the key `segments_info` and has one instance: this is an instance JSON. "
                "Give a panoptic JSON; `panbench data convert instances` makes one of instances."
            )
        segments_info = self.json_field(record, "segments_info", where)
        if not isinstance(segments_info, list):
            raise self.bad_json(f"{where}.segments_info must be a list, not {type(segments_info).__name__}.")
        segments = tuple(
            self.parse_segment(segment, f"{where}.segments_info[{number}]", counted)
            for number, segment in enumerate(segments_info)
        )
        ids = [segment.id for segment in segments]
        twice = [segment_id for number, segment_id in enumerate(ids) if segment_id in ids[:number]]
        if twice:
            raise self.bad_json(f"{where} lists segment ids twice: {listed(twice)}.")
        return Annotation(image_id, self.file_name(record, where), segments)

    def unknown_categories(self, where: str, category_ids: set[int]) -> BadDataset:
        """Returns the BadDataset for category ids that `categories` does not list."""
        return self.bad_json(
            f"{where} uses category ids that `categories` does not list: {listed(sorted(category_ids))}."
        )

    def parse_segment(self, record: Any, where: str, counted: bool) -> Segment:
        """Parses one record of `segments_info`.

        counted: leave `area` to the PNG
        """
        return Segment(
            id=self.integer_field(record, "id", where, low=1, high=MAX_ID),
            category_id=self.integer_field(record, "category_id", where, low=0, high=_MAX_CATEGORY_ID),
            area=0 if counted else self.segment_area(record, where),
            iscrowd=self.segment_iscrowd(record, where, counted),
            bbox=_valid_bbox(record.get("bbox")),
            score=self.segment_score(record, where),
        )

    def json_field(self, record: Any, key: str, where: str) -> Any:
        """Returns a field of a record. Raises BadDataset if the record is not an object or lacks it."""
        if not isinstance(record, Mapping):
            raise self.bad_json(f"{where} must be an object, not {type(record).__name__}.")
        if key not in record:
            raise self.bad_json(f"{where} lacks the key `{key}`.")
        return record[key]

    def integer_field(self, record: Any, key: str, where: str, low: int = -(2**31), high: int = 2**62) -> int:
        """Returns an integer field of a record. Raises BadDataset for another type or a value outside low…high."""
        value = self.json_field(record, key, where)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.bad_json(f"{where}.{key} must be an integer, not {value!r}.")
        if not low <= value <= high:
            raise self.bad_json(f"{where}.{key} is {value}, outside {low}…{high}.")
        return value

    def image_id(self, record: Any, key: str, where: str) -> int:
        """Returns a record's image id as an integer; text is replaced by its hash."""
        value = self.json_field(record, key, where)
        return image_id_of(value) if isinstance(value, str) else self.integer_field(record, key, where)

    def text_field(self, record: Any, key: str, where: str) -> str:
        """Returns a text field of a record. Raises BadDataset for another type."""
        value = self.json_field(record, key, where)
        if not isinstance(value, str):
            raise self.bad_json(f"{where}.{key} must be text, not {value!r}.")
        return value

    def file_name(self, record: Any, where: str) -> str:
        """Returns the file name in a record of the JSON. Raises BadDataset if it leads out of its folder."""
        name = self.text_field(record, "file_name", where)
        if leaves_folder(name):
            raise self.bad_json(
                f"{where}.file_name is {name!r}, which leaves its folder. "
                "Use a name relative to the folder, without `..`."
            )
        return name

    def segment_iscrowd(self, record: Mapping[str, Any], where: str, counted: bool) -> bool:
        """Returns whether `iscrowd` is 1. Raises BadDataset for values other than 0 and 1, except in predictions."""
        value = record.get("iscrowd", 0)
        if value not in (0, 1) and not counted:
            raise self.bad_json(f"{where}.iscrowd must be 0 or 1, not {value!r}.")
        return bool(value == 1)

    def segment_area(self, record: Any, where: str) -> int:
        """Returns a segment's `area`. Raises BadDataset if it is missing or negative."""
        if isinstance(record, Mapping) and "area" not in record:
            raise self.bad_json(
                f"{where} lacks the key `area`, which a ground truth has and predictions need not have. If this is "
                "a file of predictions, give the ground truth instead."
            )
        return self.integer_field(record, "area", where, low=0)

    def segment_score(self, record: Mapping[str, Any], where: str) -> float | None:
        """Returns a segment's `score`, None if it has none. Raises BadDataset unless it is finite."""
        score = record.get("score")
        if score is None:
            return None
        if type(score) not in (int, float) or not abs(score) <= MAX_SCORE:
            raise self.bad_json(f"{where}.score must be a finite number, not {score!r} (32 bits hold it).")
        return float(score)


def _valid_color(value: Any) -> tuple[int, int, int] | None:
    """Returns a category's colour as three values from 0 to 255; None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if not all(isinstance(part, (int, float)) and 0 <= part <= 255 for part in value):
        return None
    return (int(value[0]), int(value[1]), int(value[2]))


def _valid_bbox(value: Any) -> tuple[float, float, float, float] | None:
    """Returns a segment's `bbox` as four numbers; None for anything else."""
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(isinstance(part, (int, float)) for part in value):
        return (value[0], value[1], value[2], value[3])
    return None
