"""Checks whether a panoptic set can be scored, by comparing JSON, id PNGs and images with each other.

A finding is an *error* if it would change a number or stop a run, else a *warning*; KINDS explains all kinds.
"""

import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from panbench.base.addresses import is_remote, path_at
from panbench.base.errors import BadDataset
from panbench.base.files import leaves_folder
from panbench.base.program import default_threads, in_order
from panbench.base.text import listed, shape_in_words
from panbench.datasets.instances import MANY_CROWDS, read_json
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
    """One fault of a set. kind: a key of KINDS; file: relative to the checked path"""

    kind: str
    message: str
    file: str = ""
    image_id: int | str | None = None
    segment_id: int | None = None

    @property
    def severity(self) -> Severity:
        """`error` if the fault changes a number or stops a run, else `warning`."""
        return KINDS[self.kind][0]


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """How often a category occurs in a set; `segments` and `pixels` include crowds."""

    id: int
    name: str
    isthing: bool
    images: int
    segments: int
    crowds: int
    pixels: int


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_set`. Sizes are (height, width) in pixels; void shares 0–1, or None without PNGs."""

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
        """The number of findings that change a number or stop a run."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """The number of findings that neither change a number nor stop a run."""
        return len(self.findings) - self.errors

    def as_record(self) -> dict[str, Any]:
        """Converts the report to JSON values (schema 1)."""
        return {
            "schema": 1,
            "json": str(self.json),
            "pngs": str(self.pngs),
            "images_folder": None if self.images_folder is None else str(self.images_folder),
            "images": self.n_images,
            "annotations": self.n_annotations,
            "segments": self.n_segments,
            "crowds": self.n_crowds,
            "categories": [asdict(category) for category in self.categories],
            "sizes": {"smallest": self.smallest, "median": self.median, "largest": self.largest},
            "void_share": {"mean": self.void_share, "max": self.void_share_max},
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [
                {**asdict(finding), "severity": finding.severity, "file": finding.file or None}
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
    images, pngs: the folders of images and of id PNGs, if they are not the usual ones
    limit: only the first `limit` images of the JSON
    Raises BadDataset if the JSON is missing or not panoptic.
    """
    json_path = find_json(path_at(path), split)
    document = read_json(json_path, ("images", "annotations", "categories"))
    png_folder = path_at(pngs) if pngs is not None else png_folder_of(json_path)
    image_folder = path_at(images) if images is not None else _image_folder(json_path)
    job = _DatasetCheck(json_path, png_folder, image_folder, progress, threads or default_threads(extra=1))
    return job.run(document, limit, images is not None)


def find_json(path: Path, split: str = "val") -> Path:
    """Finds a panoptic JSON: the path itself, or in a folder of mmdet's layout the JSON of `split`."""
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


def measure_segments(ids: IdMap) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the ids in a map (ascending), their areas in pixels, and their boxes (n, 4) as x, y, width, height.

    Void (0) is included if it occurs. Works on runs of equal ids along rows, which are far fewer than pixels.
    """
    height, width = ids.shape
    starts_here = np.ones((height, width), bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=starts_here[:, 1:])
    starts = np.flatnonzero(starts_here)
    lengths = np.diff(starts, append=height * width)
    rows, lefts = np.divmod(starts, width)
    run_ids = ids.ravel()[starts]
    # Sort the runs by id: each segment is then one slice of runs, which `reduceat` sums or minimises.
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
class _JsonSegment:
    """A segment as its JSON lists it; wrong values are None."""

    id: int
    category_id: int
    area: float | None
    box: list[float] | None
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class _ListedImage:
    """One image as in the JSON, with its annotation."""

    image_id: int | str
    name: str | None
    size: tuple[int, int] | None
    png: str | None
    segments: tuple[_JsonSegment, ...]


@dataclass
class _FileFindings:
    """What was found in the files of one image."""

    findings: list[Finding]
    size: tuple[int, int] | None = None
    void_share: float | None = None


@dataclass
class _DatasetCheck:
    """Checks a set; collects the findings of one call of `check_set`."""

    json: Path
    pngs: Path
    images: Path | None
    progress: Callable[[int, int], None] | None
    threads: int
    findings: list[Finding] = field(default_factory=list)

    def run(self, document: dict[str, list[Any]], limit: int | None, images_named: bool) -> CheckReport:
        """Runs all checks and makes the report."""
        categories = self._check_categories(document["categories"])
        listed_images, n_annotations = self._list_images(document, categories, limit)
        if self.images is None or (not images_named and not self.images.is_dir()):
            where = f" ({self.images})" if self.images is not None else ""
            self._add_finding("no-images", f"The folder of images was not found{where}; images were not checked.")
            self.images = None
        seen = self._check_files_of_all(listed_images)
        if limit is None:
            self._report_extra_pngs({image.png for image in listed_images if image.png is not None})
        sizes = sorted((found.size for found in seen if found.size), key=lambda size: size[0] * size[1])
        void = [found.void_share for found in seen if found.void_share is not None]
        segments = [segment for image in listed_images for segment in image.segments]
        counts = tuple(_count_categories(categories, listed_images))
        for count in counts:
            if MANY_CROWDS <= count.segments == count.crowds:
                self._add_finding("only-crowds", f"All {count.segments:,} segments of {count.name!r} are crowds.")
        if void and np.mean(void) > 0.5:
            # One finding for the set instead of one per image.
            self.findings = [finding for finding in self.findings if finding.kind != "much-void"]
            self._add_finding("mostly-void", f"{np.mean(void):.0%} of the ground truth is void.")
        return CheckReport(
            json=self.json,
            pngs=self.pngs,
            images_folder=self.images,
            n_images=len(listed_images),
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

    def _add_finding(self, kind: str, message: str, **where: Any) -> None:
        """Adds a finding on the JSON, or on the file in `where`."""
        self.findings.append(Finding(kind, message, **{"file": self.json.name, **where}))

    # The JSON against itself

    def _check_categories(self, records: list[Any]) -> dict[int, tuple[str, bool]]:
        """Checks `categories`; returns (name, isthing) by id."""
        found: dict[int, tuple[str, bool]] = {}
        names: Counter[str] = Counter()
        for index, record in enumerate(records):
            where = f"categories[{index}]"
            category_id = _json_integer_or_none(record, "id")
            if category_id is None or not 0 <= category_id < 2**31:
                self._add_finding("bad-record", f"{where} has no integer id in 0…{2**31 - 1}.")
                continue
            name = record.get("name")
            if not isinstance(name, str):
                self._add_finding("bad-record", f"{where} (id {category_id}) has no name.")
                name = str(category_id)
            isthing = record.get("isthing")
            if isthing not in (0, 1):
                what = "has no isthing" if isthing is None else f"has isthing {isthing!r}, not 0 or 1"
                self._add_finding("category-without-isthing", f"Category {category_id} ({name}) {what}.")
            if category_id in found:
                self._add_finding(
                    "duplicate-category", f"Category id {category_id} is both {found[category_id][0]!r} and {name!r}."
                )
                continue
            found[category_id] = (name, isthing == 1)
            names[name] += 1
        for name, count in names.items():
            if count > 1:
                self._add_finding("duplicate-category-name", f"{count} categories are called {name!r}.")
        return found

    def _list_images(
        self, document: dict[str, list[Any]], categories: dict[int, tuple[str, bool]], limit: int | None
    ) -> tuple[list[_ListedImage], int]:
        """Checks `images` and `annotations`; returns the images, and the number of their annotations."""
        images: dict[int | str, tuple[str | None, tuple[int, int] | None]] = {}
        for index, record in enumerate(document["images"]):
            where = f"images[{index}]"
            image_id = _json_image_id(record, "id")
            if image_id is None:
                self._add_finding("bad-record", f"{where} has no id.")
                continue
            if isinstance(image_id, int) and not -(2**31) <= image_id <= 2**62:
                self._add_finding("bad-record", f"{where} has the id {image_id}, outside -2^31…2^62.")
                continue
            if image_id in images:
                self._add_finding("duplicate-image", f"{where} repeats the id {image_id}.", image_id=image_id)
                continue
            if limit is not None and len(images) >= limit:
                break
            height, width = _json_integer_or_none(record, "height"), _json_integer_or_none(record, "width")
            size = (height, width) if height and width and height > 0 and width > 0 else None
            if size is None:
                self._add_finding("bad-record", f"{where} has no height and width above 0.", image_id=image_id)
            images[image_id] = (self._checked_file_name(record, where, image_id), size)

        annotations: dict[int | str, tuple[str | None, tuple[_JsonSegment, ...]]] = {}
        for index, record in enumerate(document["annotations"]):
            where = f"annotations[{index}]"
            image_id = _json_image_id(record, "image_id")
            if image_id is None:
                self._add_finding("bad-record", f"{where} has no image_id.")
                continue
            if image_id not in images:
                if limit is None:
                    self._add_finding(
                        "unlisted-image", f"{where} is of image {image_id}, not in `images`.", image_id=image_id
                    )
                continue
            if image_id in annotations:
                self._add_finding(
                    "duplicate-annotation", f"{where} is a second one of image {image_id}.", image_id=image_id
                )
                continue
            segments = tuple(self._check_segments_info(record, where, image_id, categories))
            annotations[image_id] = (self._checked_file_name(record, where, image_id), segments)

        listed_images = []
        for image_id, (name, size) in images.items():
            if image_id not in annotations:
                self._add_finding("image-without-annotation", f"Image {image_id} has no annotation.", image_id=image_id)
            png, segments = annotations.get(image_id, (None, ()))
            listed_images.append(_ListedImage(image_id, name, size, png, segments))
        self._add_shared_files("shared-png", "id PNG", ((image.image_id, image.png) for image in listed_images))
        self._add_shared_files("shared-image", "photograph", ((image.image_id, image.name) for image in listed_images))
        return listed_images, len(annotations)

    def _add_shared_files(self, kind: str, what: str, names: Iterable[tuple[int | str, str | None]]) -> None:
        """Reports images that name the same file. what: the file's kind in words"""
        first: dict[str, int | str] = {}
        for image_id, name in names:
            if name is not None and (other := first.setdefault(name, image_id)) != image_id:
                self._add_finding(kind, f"Images {other} and {image_id} name one {what}, {name}.", image_id=image_id)

    def _checked_file_name(self, record: dict[str, Any], where: str, image_id: int | str) -> str | None:
        """Returns `file_name` of a record; reports a missing or unsafe one and returns None."""
        name = record.get("file_name")
        if not isinstance(name, str):
            self._add_finding("bad-record", f"{where} has no file_name.", image_id=image_id)
            return None
        if leaves_folder(name):
            self._add_finding("bad-name", f"{where}.file_name is {name!r}, which leaves its folder.", image_id=image_id)
            return None
        return name

    def _check_segments_info(
        self, record: dict[str, Any], where: str, image_id: int | str, categories: dict[int, tuple[str, bool]]
    ) -> Iterator[_JsonSegment]:
        """Checks the `segments_info` of an annotation; yields the segments that can be used."""
        records = record.get("segments_info")
        if not isinstance(records, list):
            self._add_finding("bad-record", f"{where} has no list segments_info.", image_id=image_id)
            return
        seen: set[int] = set()
        stuff: Counter[int] = Counter()
        for number, segment in enumerate(records):
            segment_id = _json_integer_or_none(segment, "id")
            if segment_id is None or not 0 < segment_id <= MAX_ID:
                what = f"{where}.segments_info[{number}] has no id in 1…{MAX_ID}."
                self._add_finding("bad-record", what, image_id=image_id, segment_id=segment_id)
                continue
            fields = {"image_id": image_id, "segment_id": segment_id}
            this = f"Segment {segment_id} of image {image_id}"
            if segment_id in seen:
                self._add_finding("duplicate-segment", f"{this} is listed twice.", **fields)
                continue
            seen.add(segment_id)
            category_id = _json_integer_or_none(segment, "category_id")
            if category_id is None:
                self._add_finding("bad-record", f"{this} has no category_id.", **fields)
                continue
            iscrowd = segment.get("iscrowd", 0) == 1
            if segment.get("iscrowd", 0) not in (0, 1):
                self._add_finding("bad-record", f"{this} has iscrowd {segment['iscrowd']!r}, not 0 or 1.", **fields)
            if category_id not in categories:
                self._add_finding(
                    "unknown-category", f"{this} is of category {category_id}, not in `categories`.", **fields
                )
            elif not categories[category_id][1]:
                stuff[category_id] += 1
                if iscrowd:
                    name = categories[category_id][0]
                    self._add_finding("crowd-on-stuff", f"{this} is a crowd of {name!r}, which is stuff.", **fields)
            area, box = segment.get("area"), segment.get("bbox")
            if not _is_finite_json_number(area):
                self._add_finding("bad-record", f"{this} has no area.", **fields)
                area = None
            if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite_json_number, box))):
                if box is not None:
                    self._add_finding("wrong-box", f"{this} has a bbox that is not four numbers.", **fields)
                box = None
            yield _JsonSegment(segment_id, category_id, area, box, iscrowd)
        for category_id, count in stuff.items():
            if count > 1:
                what = f"Image {image_id} has {count} segments of the stuff {categories[category_id][0]!r}."
                self._add_finding("several-stuff-segments", what, image_id=image_id)

    # The JSON against the files

    def _check_files_of_all(self, listed_images: list[_ListedImage]) -> list[_FileFindings]:
        """Checks the files of all images in threads; collects their findings in order."""
        seen, calls = [], [partial(self._check_files, image) for image in listed_images]
        for number, found in enumerate(in_order(calls, self.threads), 1):
            seen.append(found)
            self.findings.extend(found.findings)
            if self.progress is not None and (number % 32 == 0 or number == len(listed_images)):
                self.progress(number, len(listed_images))
        return seen

    def _check_files(self, image: _ListedImage) -> _FileFindings:
        """Checks the id PNG and the photograph of one image."""
        seen = _FileFindings([], image.size)
        if image.png is not None:
            self._check_id_png(image, image.png, seen)
        if image.name is not None and self.images is not None:
            self._check_photograph(image, image.name, self.images, seen)
        return seen

    def _check_id_png(self, image: _ListedImage, name: str, seen: _FileFindings) -> None:
        """Compares the id PNG of an image with its segments."""
        path = self.pngs / name
        file = f"{self.pngs.name}/{name}"

        def add(kind: str, message: str, segment_id: int | None = None) -> None:
            """Adds a finding on this PNG."""
            seen.findings.append(Finding(kind, message, file, image.image_id, segment_id))

        if not path.is_file():
            hint = " Id PNGs end in .png." if not name.endswith(".png") else ""
            add("missing-png", f"The id PNG of image {image.image_id} was not found.{hint}")
            return
        try:
            ids = read_id_png(path)
        except BadDataset as error:
            add("unreadable-png", str(error))
            return
        if image.size is not None and ids.shape != image.size:
            add(
                "png-size",
                f"The PNG is {shape_in_words(ids.shape)}, the JSON says {shape_in_words(image.size)} (height×width).",
            )
        found, areas, boxes = measure_segments(ids)
        at = {int(segment_id): row for row, segment_id in enumerate(found)}
        void = int(areas[at[VOID]]) if VOID in at else 0
        seen.void_share = void / ids.size
        if void == ids.size:
            add("void-image", f"Image {image.image_id} has no labelled pixel.")
        elif 2 * void > ids.size:
            add("much-void", f"{void / ids.size:.0%} of image {image.image_id} is void.")
        known = {segment.id for segment in image.segments}
        for segment_id, row in at.items():
            if segment_id != VOID and segment_id not in known:
                what = f"{areas[row]:,} pixels have the id {segment_id}, which the JSON does not describe."
                add("id-not-in-json", what, segment_id)
        for segment in image.segments:
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

    def _check_photograph(self, image: _ListedImage, name: str, folder: Path, seen: _FileFindings) -> None:
        """Checks that the photograph of an image can be decoded and has the size in the JSON."""
        path = folder / name
        file = f"{folder.name}/{name}"
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as photo:
                width, height = photo.size
                # Decoding a JPEG at an eighth of its size is fast and still reads the file to its last byte.
                photo.draft(None, (max(1, width // 8), max(1, height // 8)))
                photo.load()
        except FileNotFoundError:
            seen.findings.append(
                Finding("missing-image", f"Image {image.image_id} was not found.", file, image.image_id)
            )
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            what = f"Image {image.image_id} cannot be decoded ({error})."
            seen.findings.append(Finding("unreadable-image", what, file, image.image_id))
        else:
            if image.size is not None and (height, width) != image.size:
                found, expected = shape_in_words((height, width)), shape_in_words(image.size)
                what = f"The image is {found}, the JSON says {expected} (height×width)."
                seen.findings.append(Finding("image-size", what, file, image.image_id))

    def _report_extra_pngs(self, known: set[str]) -> None:
        """Reports PNGs in the folder of id PNGs that the JSON does not name."""
        if is_remote(self.pngs) or not self.pngs.is_dir():
            return
        for path in sorted(self.pngs.rglob("*.png")):
            name = path.relative_to(self.pngs).as_posix()
            if name not in known and not path.name.startswith("."):
                self._add_finding("extra-png", "The JSON does not name this PNG.", file=f"{self.pngs.name}/{name}")


def _image_folder(json_path: Path) -> Path | None:
    """Returns <split>/ next to annotations/ for annotations/panoptic_<split>.json; None for other names."""
    split = json_path.stem.removeprefix("panoptic_")
    return json_path.parent.parent / split if json_path.stem != split else None


def _count_categories(
    categories: dict[int, tuple[str, bool]], listed_images: Iterable[_ListedImage]
) -> Iterator[CategoryCount]:
    """Counts images, segments, crowds and pixels of each category."""
    images: dict[int, set[int | str]] = defaultdict(set)
    segments: Counter[int] = Counter()
    crowds: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    for image in listed_images:
        for segment in image.segments:
            images[segment.category_id].add(image.image_id)
            segments[segment.category_id] += 1
            crowds[segment.category_id] += segment.iscrowd
            pixels[segment.category_id] += int(segment.area or 0)
    for one, (name, isthing) in categories.items():
        yield CategoryCount(one, name, isthing, len(images[one]), segments[one], crowds[one], pixels[one])


def _json_integer_or_none(record: Any, key: str) -> int | None:
    """Returns an integer field of a record; None if it is missing or of another type."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _json_image_id(record: Any, key: str) -> int | str | None:
    """Returns an image's id, a number or text; None for anything else."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else _json_integer_or_none(record, key)


def _is_finite_json_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
