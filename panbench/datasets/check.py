"""Checks whether a panoptic set can be scored: JSON against id PNGs against images, each finding with file and id.

A finding is an *error* when it would change a number or stop a run, else a *warning*; KINDS lists them with the reason.
"""

import io
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from panbench.base.addresses import is_elsewhere, path_at
from panbench.base.errors import BadDataset
from panbench.base.files import leaves_folder
from panbench.base.text import listed
from panbench.base.threads import default_threads
from panbench.datasets.instances import MANY_CROWDS
from panbench.panoptic.coco import png_folder as png_folder_of
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.types import MAX_ID, VOID, IdMap

Severity = Literal["error", "warning"]

KINDS: dict[str, tuple[Severity, str]] = {
    "bad-record": ("error", "a record of the JSON lacks a field or has one of the wrong type; no program reads it"),
    "bad-name": ("error", "a file name leaves its folder"),
    "duplicate-category": ("error", "two categories share an id: segments of both are counted as one"),
    "category-without-isthing": ("error", "without isthing a category belongs to neither things nor stuff"),
    "duplicate-image": ("error", "two images share an id: one replaces the other"),
    "duplicate-annotation": ("error", "an image has two annotations: one replaces the other"),
    "duplicate-segment": ("error", "an image lists a segment id twice: one replaces the other"),
    "shared-png": ("error", "an id PNG is named by two images: one of them is scored on the other's map"),
    "unknown-category": ("error", "a segment's category is not listed: it cannot be scored"),
    "unlisted-image": ("error", "an annotation is of an image that is not listed"),
    "image-without-annotation": ("error", "an image has no ground truth: it cannot be scored"),
    "missing-png": ("error", "the id PNG was not found"),
    "unreadable-png": ("error", "the id PNG is damaged or not RGB"),
    "png-size": ("error", "the id PNG has another size than the JSON says"),
    "missing-image": ("error", "the image was not found: no model can see it"),
    "unreadable-image": ("error", "the image is damaged"),
    "image-size": ("error", "the image has another size than the JSON says"),
    "id-not-in-json": ("error", "pixels of the PNG carry an id that the JSON does not describe: they count as void"),
    "segment-not-in-png": ("error", "a segment of the JSON has no pixel: it can never be matched"),
    "wrong-area": (
        "error",
        "the JSON's area, used in scoring, is not the number of pixels; `panbench data convert panoptic` counts them",
    ),
    "crowd-on-stuff": ("error", "a crowd of stuff: its pixels are ignored instead of scored"),
    "only-crowds": (
        "warning",
        "all segments of a category are crowds, as CVAT marks what its brush painted: none of them can be matched; "
        "`panbench data convert instances --crowds instances` takes them for single instances",
    ),
    "wrong-box": ("warning", "the box does not enclose the pixels; PQ does not use it"),
    "several-stuff-segments": (
        "warning",
        "stuff in several segments of one image; each is scored as if it were a thing",
    ),
    "duplicate-category-name": ("warning", "two categories share a name; tables will show it twice"),
    "shared-image": ("warning", "a photograph is named by two images: it counts twice"),
    "void-image": ("warning", "no pixel of the image is labelled"),
    "much-void": ("warning", "more than half of the image is void"),
    "mostly-void": ("warning", "predictions on void are not counted; if 0 is background, give it a category"),
    "extra-png": ("warning", "an id PNG that the JSON does not name"),
    "no-images": ("warning", "the folder of images was not found; scoring does not need it, running a model does"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a key of KINDS, where, and a sentence. `file` is relative to what was checked."""

    kind: str
    message: str
    file: str = ""
    image_id: int | str | None = None
    segment_id: int | None = None

    @property
    def severity(self) -> Severity:
        """`error` when a number would change or a run would stop, else `warning`."""
        return KINDS[self.kind][0]


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """How often a category occurs; `segments` and `pixels` include crowds."""

    id: int
    name: str
    isthing: bool
    images: int
    segments: int
    crowds: int
    pixels: int


@dataclass(frozen=True)
class CheckReport:
    """What `check_set` found. Sizes are (height, width) in pixels; void shares are fractions 0–1, None without PNGs."""

    json: Path
    pngs: Path
    images_folder: Path | None
    n_images: int
    n_annotations: int
    n_segments: int
    n_crowds: int
    categories: tuple[CategoryCount, ...]
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    void_share: float | None
    void_share_max: float | None
    findings: tuple[Finding, ...] = field(repr=False)

    @property
    def errors(self) -> int:
        """How many findings would change a number or stop a run."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings would not."""
        return len(self.findings) - self.errors

    def as_record(self) -> dict[str, Any]:
        """The report as JSON values, schema 1."""
        return {
            "schema": 1,
            "json": str(self.json),
            "pngs": str(self.pngs),
            "images_folder": None if self.images_folder is None else str(self.images_folder),
            "images": self.n_images,
            "annotations": self.n_annotations,
            "segments": self.n_segments,
            "crowds": self.n_crowds,
            "categories": [
                {
                    "id": category.id,
                    "name": category.name,
                    "isthing": category.isthing,
                    "images": category.images,
                    "segments": category.segments,
                    "crowds": category.crowds,
                    "pixels": category.pixels,
                }
                for category in self.categories
            ],
            "sizes": {"smallest": self.smallest, "median": self.median, "largest": self.largest},
            "void_share": {"mean": self.void_share, "max": self.void_share_max},
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "file": finding.file or None,
                    "image_id": finding.image_id,
                    "segment_id": finding.segment_id,
                    "message": finding.message,
                }
                for finding in self.findings
            ],
        }


def check_set(
    path: str | os.PathLike[str],
    *,
    split: str = "val",
    images: str | os.PathLike[str] | None = None,
    pngs: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> CheckReport:
    """Finds all faults of a panoptic set, and counts its contents.

    path: a panoptic JSON, or a folder in mmdet's layout (annotations/panoptic_<split>[2017].json, <split>[2017]/)
    images, pngs: the folders of images and of id PNGs, when they are not in their usual places
    limit: only the first `limit` images of the JSON
    Raises BadDataset when there is no JSON, or it is not a panoptic JSON.
    """
    json_path = find_json(path_at(path), split)
    document = _document(json_path)
    png_folder = path_at(pngs) if pngs is not None else png_folder_of(json_path)
    image_folder = path_at(images) if images is not None else _image_folder(json_path)
    job = _Check(json_path, png_folder, image_folder, progress, threads or default_threads(besides=1))
    return job.run(document, limit, images is not None)


def find_json(path: Path, split: str = "val") -> Path:
    """The panoptic JSON for a path: the file itself, or the one of `split` in a folder of mmdet's layout."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadDataset(f"{path} was not found. Give a panoptic JSON or a folder such as data/coco.")
    folder = path / "annotations"
    for name in (f"panoptic_{split}.json", f"panoptic_{split}2017.json"):
        if (folder / name).is_file():
            return folder / name
    there = sorted(found.name for found in folder.glob("panoptic_*.json"))
    hint = f"It has {listed(there)}: give a split or the JSON." if there else "Give the JSON itself, or fetch the set."
    raise BadDataset(f"{path} has no annotations/panoptic_{split}.json. {hint}")


def measure_segments(
    ids: IdMap,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ids of an id map in ascending order, their areas in pixels, and their boxes (n, 4) as x, y, width, height.

    Void (0) is included where it occurs. Works on runs along rows: there are far fewer of them than pixels.
    """
    height, width = ids.shape
    starts_here = np.ones((height, width), bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=starts_here[:, 1:])
    starts = np.flatnonzero(starts_here)
    lengths = np.diff(starts, append=height * width)
    rows, lefts = np.divmod(starts, width)
    run_ids = ids.ravel()[starts]
    order = np.argsort(run_ids, kind="stable")
    ordered = run_ids[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    last = np.append(first[1:], len(ordered)) - 1
    areas = np.add.reduceat(lengths[order], first)
    x = np.minimum.reduceat(lefts[order], first)
    right = np.maximum.reduceat((lefts + lengths)[order], first)
    # The sort is stable and runs come row by row, so a segment's first and last run lie in its outermost rows.
    y, bottom = rows[order[first]], rows[order[last]] + 1
    return ordered[first], areas, np.stack([x, y, right - x, bottom - y], axis=1)


@dataclass(frozen=True, slots=True)
class _Segment:
    id: int
    category_id: int
    area: float | None
    box: list[float] | None
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class _Task:
    """One image as the JSON describes it."""

    image_id: int | str
    name: str | None
    size: tuple[int, int] | None
    png: str | None
    segments: tuple[_Segment, ...]


@dataclass
class _FileFindings:
    """What was found in the files of one image."""

    findings: list[Finding]
    size: tuple[int, int] | None = None
    void_share: float | None = None


class _Check:
    """One call of `check_set`."""

    def __init__(
        self,
        json_path: Path,
        pngs: Path,
        images: Path | None,
        progress: Callable[[int, int], None] | None,
        threads: int,
    ) -> None:
        self.json, self.pngs, self.images = json_path, pngs, images
        self.progress, self.threads = progress, threads
        self.findings: list[Finding] = []

    def run(self, document: dict[str, list[Any]], limit: int | None, images_named: bool) -> CheckReport:
        categories = self._categories(document["categories"])
        tasks, n_annotations = self._tasks(document, categories, limit)
        if self.images is None or (not images_named and not self.images.is_dir()):
            where = f" ({self.images})" if self.images is not None else ""
            self._add("no-images", f"The folder of images was not found{where}; images were not checked.")
            self.images = None
        seen = self._check_all(tasks)
        if limit is None:
            self._extra_pngs({task.png for task in tasks if task.png is not None})
        sizes = sorted((found.size for found in seen if found.size), key=lambda size: size[0] * size[1])
        void = [found.void_share for found in seen if found.void_share is not None]
        segments = [segment for task in tasks for segment in task.segments]
        counts = tuple(_counts(categories, tasks))
        for count in counts:
            if MANY_CROWDS <= count.segments == count.crowds:
                self._add("only-crowds", f"All {count.segments:,} segments of {count.name!r} are crowds.")
        if void and np.mean(void) > 0.5:
            # One finding of the set in place of one for each image.
            self.findings = [finding for finding in self.findings if finding.kind != "much-void"]
            self._add("mostly-void", f"{np.mean(void):.0%} of the ground truth is void.")
        return CheckReport(
            json=self.json,
            pngs=self.pngs,
            images_folder=self.images,
            n_images=len(tasks),
            n_annotations=n_annotations,
            n_segments=len(segments),
            n_crowds=sum(segment.iscrowd for segment in segments),
            categories=counts,
            smallest=sizes[0] if sizes else None,
            median=sizes[len(sizes) // 2] if sizes else None,
            largest=sizes[-1] if sizes else None,
            void_share=float(np.mean(void)) if void else None,
            void_share_max=max(void) if void else None,
            findings=tuple(self.findings),
        )

    def _add(self, kind: str, message: str, **where: Any) -> None:
        self.findings.append(Finding(kind, message, **{"file": self.json.name, **where}))

    # The JSON against itself

    def _categories(self, records: list[Any]) -> dict[int, tuple[str, bool]]:
        """Name and isthing by id."""
        found: dict[int, tuple[str, bool]] = {}
        names: Counter[str] = Counter()
        for index, record in enumerate(records):
            where = f"categories[{index}]"
            category_id = _integer(record, "id")
            if category_id is None or not 0 <= category_id < 2**31:
                self._add("bad-record", f"{where} has no integer id in 0…{2**31 - 1}.")
                continue
            name = record.get("name")
            if not isinstance(name, str):
                self._add("bad-record", f"{where} (id {category_id}) has no name.")
                name = str(category_id)
            isthing = record.get("isthing")
            if isthing not in (0, 1):
                what = "has no isthing" if isthing is None else f"has isthing {isthing!r}, not 0 or 1"
                self._add("category-without-isthing", f"Category {category_id} ({name}) {what}.")
            if category_id in found:
                self._add(
                    "duplicate-category", f"Category id {category_id} is both {found[category_id][0]!r} and {name!r}."
                )
                continue
            found[category_id] = (name, isthing == 1)
            names[name] += 1
        for name, count in names.items():
            if count > 1:
                self._add("duplicate-category-name", f"{count} categories are called {name!r}.")
        return found

    def _tasks(
        self, document: dict[str, list[Any]], categories: dict[int, tuple[str, bool]], limit: int | None
    ) -> tuple[list[_Task], int]:
        images: dict[int | str, tuple[str | None, tuple[int, int] | None]] = {}
        for index, record in enumerate(document["images"]):
            where = f"images[{index}]"
            image_id = _id(record, "id")
            if image_id is None:
                self._add("bad-record", f"{where} has no id.")
                continue
            if isinstance(image_id, int) and not -(2**31) <= image_id <= 2**62:
                self._add("bad-record", f"{where} has the id {image_id}, outside -2^31…2^62.")
                continue
            if image_id in images:
                self._add("duplicate-image", f"{where} repeats the id {image_id}.", image_id=image_id)
                continue
            if limit is not None and len(images) >= limit:
                break
            height, width = _integer(record, "height"), _integer(record, "width")
            size = (height, width) if height and width and height > 0 and width > 0 else None
            if size is None:
                self._add("bad-record", f"{where} has no height and width above 0.", image_id=image_id)
            images[image_id] = (self._name(record, where, image_id), size)

        annotations: dict[int | str, tuple[str | None, tuple[_Segment, ...]]] = {}
        for index, record in enumerate(document["annotations"]):
            where = f"annotations[{index}]"
            image_id = _id(record, "image_id")
            if image_id is None:
                self._add("bad-record", f"{where} has no image_id.")
                continue
            if image_id not in images:
                if limit is None:
                    self._add("unlisted-image", f"{where} is of image {image_id}, not in `images`.", image_id=image_id)
                continue
            if image_id in annotations:
                self._add("duplicate-annotation", f"{where} is a second one of image {image_id}.", image_id=image_id)
                continue
            segments = tuple(self._segments(record, where, image_id, categories))
            annotations[image_id] = (self._name(record, where, image_id), segments)

        tasks = []
        for image_id, (name, size) in images.items():
            if image_id not in annotations:
                self._add("image-without-annotation", f"Image {image_id} has no annotation.", image_id=image_id)
            png, segments = annotations.get(image_id, (None, ()))
            tasks.append(_Task(image_id, name, size, png, segments))
        self._shared("shared-png", "id PNG", ((task.image_id, task.png) for task in tasks))
        self._shared("shared-image", "photograph", ((task.image_id, task.name) for task in tasks))
        return tasks, len(annotations)

    def _shared(self, kind: str, what: str, names: Iterable[tuple[int | str, str | None]]) -> None:
        first: dict[str, int | str] = {}
        for image_id, name in names:
            if name is not None and (other := first.setdefault(name, image_id)) != image_id:
                self._add(kind, f"Images {other} and {image_id} name one {what}, {name}.", image_id=image_id)

    def _name(self, record: dict[str, Any], where: str, image_id: int | str) -> str | None:
        name = record.get("file_name")
        if not isinstance(name, str):
            self._add("bad-record", f"{where} has no file_name.", image_id=image_id)
            return None
        if leaves_folder(name):
            self._add("bad-name", f"{where}.file_name is {name!r}, which leaves its folder.", image_id=image_id)
            return None
        return name

    def _segments(
        self, record: dict[str, Any], where: str, image_id: int | str, categories: dict[int, tuple[str, bool]]
    ) -> Iterator[_Segment]:
        records = record.get("segments_info")
        if not isinstance(records, list):
            self._add("bad-record", f"{where} has no list segments_info.", image_id=image_id)
            return
        seen: set[int] = set()
        stuff: Counter[int] = Counter()
        for number, segment in enumerate(records):
            segment_id = _integer(segment, "id")
            if segment_id is None or not 0 < segment_id <= MAX_ID:
                what = f"{where}.segments_info[{number}] has no id in 1…{MAX_ID}."
                self._add("bad-record", what, image_id=image_id, segment_id=segment_id)
                continue
            place = {"image_id": image_id, "segment_id": segment_id}
            if segment_id in seen:
                self._add("duplicate-segment", f"Segment {segment_id} of image {image_id} is listed twice.", **place)
                continue
            seen.add(segment_id)
            category_id = _integer(segment, "category_id")
            if category_id is None:
                self._add("bad-record", f"Segment {segment_id} of image {image_id} has no category_id.", **place)
                continue
            iscrowd = segment.get("iscrowd", 0) == 1
            if segment.get("iscrowd", 0) not in (0, 1):
                what = f"Segment {segment_id} of image {image_id} has iscrowd {segment['iscrowd']!r}, not 0 or 1."
                self._add("bad-record", what, **place)
            if category_id not in categories:
                what = f"Segment {segment_id} of image {image_id} is of category {category_id}, not in `categories`."
                self._add("unknown-category", what, **place)
            elif not categories[category_id][1]:
                stuff[category_id] += 1
                if iscrowd:
                    name = categories[category_id][0]
                    what = f"Segment {segment_id} of image {image_id} is a crowd of {name!r}, which is stuff."
                    self._add("crowd-on-stuff", what, **place)
            area, box = segment.get("area"), segment.get("bbox")
            if not _number(area):
                self._add("bad-record", f"Segment {segment_id} of image {image_id} has no area.", **place)
                area = None
            if not (isinstance(box, list) and len(box) == 4 and all(map(_number, box))):
                if box is not None:
                    what = f"Segment {segment_id} of image {image_id} has a bbox that is not four numbers."
                    self._add("wrong-box", what, **place)
                box = None
            yield _Segment(segment_id, category_id, area, box, iscrowd)
        for category_id, count in stuff.items():
            if count > 1:
                what = f"Image {image_id} has {count} segments of the stuff {categories[category_id][0]!r}."
                self._add("several-stuff-segments", what, image_id=image_id)

    # The JSON against the files

    def _check_all(self, tasks: list[_Task]) -> list[_FileFindings]:
        seen = []
        with ThreadPoolExecutor(self.threads) as pool:
            for number, found in enumerate(pool.map(self._check_files, tasks), 1):
                seen.append(found)
                self.findings.extend(found.findings)
                if self.progress is not None and (number % 32 == 0 or number == len(tasks)):
                    self.progress(number, len(tasks))
        return seen

    def _check_files(self, task: _Task) -> _FileFindings:
        seen = _FileFindings([], task.size)
        if task.png is not None:
            self._check_png(task, task.png, seen)
        if task.name is not None and self.images is not None:
            self._check_image(task, task.name, self.images, seen)
        return seen

    def _check_png(self, task: _Task, name: str, seen: _FileFindings) -> None:
        path = self.pngs / name
        file = f"{self.pngs.name}/{name}"

        def add(kind: str, message: str, segment_id: int | None = None) -> None:
            seen.findings.append(Finding(kind, message, file, task.image_id, segment_id))

        if not path.is_file():
            hint = " Id PNGs end in .png." if not name.endswith(".png") else ""
            add("missing-png", f"The id PNG of image {task.image_id} was not found.{hint}")
            return
        try:
            ids = read_id_png(path)
        except BadDataset as error:
            add("unreadable-png", str(error))
            return
        if task.size is not None and ids.shape != task.size:
            add("png-size", f"The PNG is {_by(ids.shape)}, the JSON says {_by(task.size)} (height×width).")
        found, areas, boxes = measure_segments(ids)
        at = {int(segment_id): row for row, segment_id in enumerate(found)}
        void = int(areas[at[VOID]]) if VOID in at else 0
        seen.void_share = void / ids.size
        if void == ids.size:
            add("void-image", f"Image {task.image_id} has no labelled pixel.")
        elif 2 * void > ids.size:
            add("much-void", f"{void / ids.size:.0%} of image {task.image_id} is void.")
        known = {segment.id for segment in task.segments}
        for segment_id, row in at.items():
            if segment_id != VOID and segment_id not in known:
                what = f"{areas[row]:,} pixels have the id {segment_id}, which the JSON does not describe."
                add("id-not-in-json", what, segment_id)
        for segment in task.segments:
            row_of = at.get(segment.id)
            if row_of is None:
                add("segment-not-in-png", f"Segment {segment.id} has no pixel in the PNG.", segment.id)
                continue
            area, box = int(areas[row_of]), boxes[row_of].tolist()
            if segment.area is not None and segment.area != area:
                add(
                    "wrong-area",
                    f"Segment {segment.id} has {area:,} pixels, the JSON says {segment.area:,}.",
                    segment.id,
                )
            if segment.box is not None and segment.box != box:
                add("wrong-box", f"Segment {segment.id} lies in {box}, the JSON says {segment.box}.", segment.id)

    def _check_image(self, task: _Task, name: str, folder: Path, seen: _FileFindings) -> None:
        path = folder / name
        file = f"{folder.name}/{name}"
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                width, height = image.size
                # Decoding a JPEG at an eighth of its size is fast and still reads the file to its last byte.
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
                image.load()
        except FileNotFoundError:
            seen.findings.append(Finding("missing-image", f"Image {task.image_id} was not found.", file, task.image_id))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            what = f"Image {task.image_id} cannot be decoded ({error})."
            seen.findings.append(Finding("unreadable-image", what, file, task.image_id))
        else:
            if task.size is not None and (height, width) != task.size:
                what = f"The image is {_by((height, width))}, the JSON says {_by(task.size)} (height×width)."
                seen.findings.append(Finding("image-size", what, file, task.image_id))

    def _extra_pngs(self, known: set[str]) -> None:
        if is_elsewhere(self.pngs) or not self.pngs.is_dir():
            return
        for path in sorted(self.pngs.rglob("*.png")):
            name = path.relative_to(self.pngs).as_posix()
            if name not in known and not path.name.startswith("."):
                self._add("extra-png", "The JSON does not name this PNG.", file=f"{self.pngs.name}/{name}")


def _document(path: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{path} is not JSON ({error}). It may be truncated: fetch or export it again.") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in keys):
        raise BadDataset(f"{path} is not COCO panoptic: it must hold the lists images, annotations and categories.")
    return {key: document[key] for key in keys}


def _image_folder(json_path: Path) -> Path | None:
    """The usual place: annotations/panoptic_<split>.json goes with <split>/ beside annotations/."""
    split = json_path.stem.removeprefix("panoptic_")
    return json_path.parent.parent / split if json_path.stem != split else None


def _counts(categories: dict[int, tuple[str, bool]], tasks: Iterable[_Task]) -> Iterator[CategoryCount]:
    images: dict[int, set[int | str]] = defaultdict(set)
    segments: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    for task in tasks:
        for segment in task.segments:
            images[segment.category_id].add(task.image_id)
            segments[segment.category_id] += 1
            crowds[segment.category_id] += segment.iscrowd
            pixels[segment.category_id] += int(segment.area or 0)
    for category_id, (name, isthing) in categories.items():
        yield CategoryCount(
            category_id,
            name,
            isthing,
            len(images[category_id]),
            segments[category_id],
            crowds[category_id],
            pixels[category_id],
        )


def _integer(record: Any, key: str) -> int | None:
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _id(record: Any, key: str) -> int | str | None:
    """An image's id; text is accepted here, so that the image can still be checked and reported."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else _integer(record, key)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
