"""Pairs ground truth with predictions, finds likely mistakes, and counts which segments share pixels.

`ImagePairs` pairs the annotations of the two JSONs; `count_images` decodes their id PNGs in threads.
"""

import contextlib
import hashlib
import itertools
import re
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.program import in_order
from panbench.base.reporter import Reporter
from panbench.base.text import listed, shape_in_words
from panbench.panoptic import pixels
from panbench.panoptic.boundary import boundary_pairs
from panbench.panoptic.idmap import IdRuns, count_run_pairs, decode_id_runs
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.native import native
from panbench.panoptic.overlap import (
    GroundTruthFaults,
    Mismatches,
    OverlapTable,
    Pairs,
    Segments,
    listed_by_image,
    tabulate,
    take,
)
from panbench.panoptic.types import AnnotationColumns
from panbench.runs import FileHashes

MOST_MESSAGES = 10
"""With more faults of one kind, a single message summarises them."""

# From these numbers on, a property shared by all is not considered an accident.
_MANY_IDS = 20
_MANY_CATEGORIES = 5


@dataclass(frozen=True)
class ImagePairs:
    """Pairs each ground-truth image with its prediction, by image id.

    gt, pred: the annotations of the two JSONs
    pred_row: for each image of `gt` its row in `pred`, -1 if there is none
    rows: the images to score, as rows of `gt`, by ascending image id
    """

    gt: AnnotationColumns
    pred: AnnotationColumns
    pred_row: list[int]
    rows: list[int]

    @staticmethod
    def of(gt: AnnotationColumns, pred: AnnotationColumns, shard: tuple[int, int] | None = None) -> "ImagePairs":
        """Pairs images by id, only those of a shard if given. Raises BadArgument for an unknown or empty shard."""
        row_of = {image_id: row for row, image_id in enumerate(pred.image_ids)}
        pred_row = [row_of.get(image_id, -1) for image_id in gt.image_ids]
        # Sorted by image id, so that the parts of a run, and shards, have consecutive ranges.
        rows = np.argsort(np.array(gt.image_ids, np.int64), kind="stable").tolist()
        return ImagePairs(gt, pred, pred_row, rows if shard is None else _rows_of_shard(rows, *shard))

    def segments(self, side: str, images: Sequence[int]) -> Segments:
        """Returns the segments of some images, in the JSON's order.

        side: "gt" or "pred" (the predictions)
        """
        columns = self.gt if side == "gt" else self.pred
        chosen = np.flatnonzero(np.isin(np.array(columns.image_ids, np.int64), np.array(images, np.int64)))
        count = np.diff(columns.first)[chosen]
        image_id = np.repeat(np.array(columns.image_ids, np.int64)[chosen], count)
        # The rows first[i], first[i] + 1, … of each chosen image i.
        start = np.repeat(columns.first[chosen] - np.cumsum(count) + count, count)
        rows = start + np.arange(len(image_id))
        return Segments(
            image_id=image_id,
            is_gt=np.full(len(image_id), side == "gt"),
            id=columns.id[rows],
            category_id=columns.category_id[rows],
            area=columns.area[rows],
            iscrowd=columns.iscrowd[rows] & (side == "gt"),
            score=columns.score[rows] if side == "pred" else np.full(len(image_id), np.nan, np.float32),
        )

    def missing_predictions(self) -> list[int]:
        """Returns the ids of images without a prediction."""
        return [self.gt.image_ids[row] for row in self.rows if self.pred_row[row] < 0]

    def extra_predictions(self) -> list[int]:
        """Returns the ids of images that only the predictions have."""
        known = frozenset(self.gt.image_ids)
        return [image_id for image_id in self.pred.image_ids if image_id not in known]

    def faults(self, ignore_extra: bool, allow_missing: bool) -> list[str]:
        """Returns a message for each way in which images or category ids of the two JSONs do not match."""
        faults = []
        missing, extra = self.missing_predictions(), self.extra_predictions()
        if extra and not (allow_missing and ignore_extra):
            faults += self._cause_of_few_shared_images(extra)
            if len(extra) == len(self.pred):
                return faults
        if missing and len(missing) == len(self.rows) and not allow_missing:
            return [f"{self.pred.path} has no prediction for any of the {_images_in_words(missing)} of {self.gt.path}."]
        if missing and not allow_missing:
            faults.append(
                f"{self.pred.path} has no prediction for {len(missing)} of {len(self.rows)} images: "
                f"{listed(missing)}. Add them, or score them as empty with --allow-missing."
            )
        if extra and not ignore_extra:
            faults.append(
                f"{self.pred.path} has predictions for images that {self.gt.path} lacks ({len(extra)}): "
                f"{listed(extra)}. Remove them, or leave them out with --ignore-extra."
            )
        pred = self.segments("pred", [self.gt.image_ids[row] for row in self.rows])
        unknown = take(pred, ~np.isin(pred.category_id, [category.id for category in self.gt.categories]))
        if len(unknown):
            faults.append(
                f"{self.pred.path} uses category ids that {self.gt.path} does not list: "
                f"{listed_by_image(unknown.image_id, unknown.category_id)}. Write the dataset's own category ids."
            )
            faults = self._cause_of_unknown_categories(pred.category_id) + faults
        return faults

    def _cause_of_few_shared_images(self, extra: Sequence[int]) -> list[str]:
        """Returns the likely cause if ground truth and predictions share few images or none, as a list; else []."""
        truth, predicted = self.gt.image_ids, self.pred.image_ids
        shared = len(predicted) - len(extra)
        if 2 * shared >= min(len(truth), len(predicted)):
            return []
        likely = "These are predictions of another set" if not shared else "Likely cause: predictions of another set"
        return [
            f"{likely}: {shared:,} of the {_images_in_words(truth)} of {self.gt.path} "
            f"{'is' if shared == 1 else 'are'} in {self.pred.path} (ground truth: {listed(sorted(truth), 3)}; "
            f"predictions: {listed(sorted(predicted), 3)}). Give the ground truth of their split; ids "
            "that were numbered anew have to be the dataset's own."
        ]

    def _cause_of_unknown_categories(self, used: npt.NDArray[np.int32]) -> list[str]:
        """Returns the likely cause, if any, of many unknown category ids, as a list.

        used: all predicted ids
        """
        known = {category.id for category in self.gt.categories}
        ids = set(np.unique(used).tolist())
        if len(ids) < _MANY_CATEGORIES:
            return []
        shifted = min(ids) == 0 and 0 not in known
        if min(ids) in (0, 1) and max(ids) < len(known) + min(ids) and (shifted or max(known) > len(known)):
            return [
                f"Likely cause: the predictions have labels counted from {min(ids)}, and {self.gt.path} has category "
                f"ids up to {max(known)}. Write for each label the id of its category."
            ]
        if not ids & known:
            return [
                f"Likely cause: the two are of different datasets; they have no category id in common "
                f"({listed(sorted(ids), 5)} and {listed(sorted(known), 5)})."
            ]
        return []

    def cause_of_absent_segments(self, mismatches: Mismatches) -> list[str]:
        """Returns the likely cause if no segment of the predictions' JSON is in its PNGs, as a list; else []."""
        absent = len(mismatches.absent[0])
        pred = self.segments("pred", [self.gt.image_ids[row] for row in self.rows])
        if absent < _MANY_IDS or absent < len(pred):
            return []
        return [
            f"Likely cause: no segment of {self.pred.path} is in the PNGs of {self.pred.folder}. Is that the folder of "
            "other predictions, or of the ground truth, or were the PNGs not written as id = R + 256·G + 256²·B?"
        ]

    def check_ground_truth_pngs(self, faults: GroundTruthFaults) -> None:
        """Raises BadDataset if no segment of the ground truth is in its PNGs, so they belong to another set."""
        expected = len(self.segments("gt", [self.gt.image_ids[row] for row in self.rows]))
        if expected >= _MANY_IDS and faults.segments_not_in_png >= expected:
            raise BadDataset(
                f"None of the {expected:,} segments of {self.gt.path} is in the PNGs of {self.gt.folder}: that is the "
                "folder of another set. Name the one of this ground truth with --gt-dir (gt_dir)."
            )

    def likely_mistakes(self) -> list[str]:
        """Returns a message for each likely mistake in input that can be scored, such as two images with one PNG."""
        gt, pred = self.gt, self.pred
        found = [
            f"{columns.path}: images {listed(map(own_id, images))} name one {what}. {so}"
            for columns, groups, what, so in (
                (gt, gt.same_png, "id PNG", "Each image needs its own."),
                (pred, pred.same_png, "id PNG", "Each image needs its own prediction."),
                (gt, gt.same_photograph, "photograph", "It counts as often."),
            )
            for images in groups[:MOST_MESSAGES]
        ]
        if exchanged := self._exchanged_predictions():
            row = exchanged[0]
            found.append(
                f"{pred.path}: predictions with the file name of another image's ground truth: {len(exchanged):,}. "
                f"Image {gt.image_ids[row]} is {gt.file_names[row]} in the ground truth and "
                f"{pred.file_names[self.pred_row[row]]} here. Images are matched by id: check them."
            )
        names = Counts(category.name for category in gt.categories)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            found.append(
                f"{gt.path}: several categories are called {listed(map(repr, twice))}. Tables show each of them."
            )
        if different := self._contradicting_categories():
            found.append(
                f"{pred.path} and {gt.path} differ in the meaning of category ids: {listed(different, 3)}. Scores "
                "follow the ground truth: check that the predictions' ids are the dataset's."
            )
        if gt.has_scores and not pred.has_scores:
            found.append(
                f"The ground truth {gt.path} has scores, as predictions do, and {pred.path} has none: are the two "
                "swapped?"
            )
        return found

    def _exchanged_predictions(self) -> list[int]:
        """Returns the rows of images whose prediction has the file name of another image's ground truth."""
        of_gt, of_pred = ([PurePath(name).stem for name in side.file_names] for side in (self.gt, self.pred))
        known = set(of_gt)
        return [row for row, pred in enumerate(self.pred_row) if pred >= 0 and of_gt[row] != of_pred[pred] in known]

    def _contradicting_categories(self) -> list[str]:
        """Returns a phrase for each category whose name or kind (thing, stuff) differs between the two JSONs."""
        found = []
        for category in self.gt.categories:
            name, isthing = self.pred.own_categories.get(category.id, (category.name, None))
            if name != category.name:
                found.append(f"{category.id} is {category.name!r} in the ground truth, {name!r} in the predictions")
            elif isthing not in (None, category.isthing):
                truth, predicted = ("thing", "stuff") if category.isthing else ("stuff", "thing")
                found.append(f"{category.id} ({name!r}) is {truth} in the ground truth, {predicted} in the predictions")
        return found


def _rows_of_shard(rows: list[int], number: int, of: int) -> list[int]:
    """Selects shard `number` (from 1) of `of`; sizes differ by at most one image, larger shards first."""
    if not 1 <= number <= of:
        raise BadArgument(f"There is no shard {number} of {of}. Shards are numbered from 1 to {of}.")
    size, longer = divmod(len(rows), of)
    if number > longer and not size:
        raise BadArgument(f"Shard {number} of {of} has no image: there are {len(rows)}. Use fewer shards.")
    start = (number - 1) * size + min(number - 1, longer)
    return rows[start : start + size + (number <= longer)]


def _images_in_words(image_ids: Sequence[int]) -> str:
    """Returns the number of images in words: "1 image", "5,000 images"."""
    return f"{len(image_ids):,} image{'s' * (len(image_ids) != 1)}"


# Images per task: enough that scheduling costs nothing, few enough that progress is smooth.
_IMAGES_A_TASK = 16
# Enough that threads have work while a chunk is stored.
_TASKS_AHEAD = 256

PART_IMAGES = 1000
"""Images per chunk: the most that a killed run loses, and the most whose overlaps are in memory."""


@dataclass(frozen=True)
class Fault:
    """A PNG that cannot be scored.

    what: the reason, as the end of a sentence that begins with the PNG's path
    """

    path: Path
    image_id: int
    what: str

    def __str__(self) -> str:
        """Returns the error message: the PNG's path, its image id, and why it cannot be scored."""
        return f"{self.path} (image {self.image_id}) {self.what}"

    @property
    def kind(self) -> str:
        """The reason with each number replaced by #, so that the same fault of different images can be grouped."""
        return re.sub(r"\d+", "#", self.what)


def reported_faults(faults: Sequence[Fault], side: str, columns: AnnotationColumns) -> list[str]:
    """Returns a message for each fault, or one for all of a kind if there are more than MOST_MESSAGES."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    lines = []
    for alike in kinds.values():
        if len(alike) <= MOST_MESSAGES:
            lines += [str(fault) for fault in alike]
            continue
        images = listed([fault.image_id for fault in alike])
        if len(alike) == len(columns) and " is #×# but" in f" {alike[0].kind}":
            lines.append(
                "Likely cause: the predictions are of other images, or have the network's size, not the image's."
            )
        lines.append(f"{len(alike):,} {side} PNGs have the same fault, images {images}. The first: {alike[0]}")
    return lines


@dataclass(frozen=True)
class CountedChunk:
    """The result for a chunk of images: overlap table and hashes of those whose PNGs decode, faults of the others."""

    table: OverlapTable
    files: FileHashes
    gt_faults: Sequence[Fault]
    prediction_faults: Sequence[Fault]


@dataclass
class ChunkCollector:
    """Collects the results of a chunk of images, image by image: pixels that segments share, hashes, and faults."""

    pairs: list[tuple[int, "_Counts"]] = field(default_factory=list)
    boundary: list[tuple[int, "_Counts"]] = field(default_factory=list)
    files: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    predictions: list[bytes] = field(default_factory=list)
    gt_faults: list[Fault] = field(default_factory=list)
    prediction_faults: list[Fault] = field(default_factory=list)

    def add_image(self, image_id: int, answer: "CountedImage") -> None:
        """Adds the result of one image: pixels of its segment pairs, hashes of its PNGs, or a fault."""
        if answer.gt_fault:
            self.gt_faults.append(answer.gt_fault)
        elif answer.prediction_fault:
            self.prediction_faults.append(answer.prediction_fault)
        if answer.counts is not None:
            self.pairs.append((image_id, answer.counts))
            self.files.append((image_id, b"", answer.sha))
            self.predictions.append(answer.pred_sha)
        if answer.boundary is not None:
            self.boundary.append((image_id, answer.boundary))

    def chunk(self, paired: ImagePairs) -> CountedChunk:
        """Returns the overlap table, PNG hashes and faults of all images added so far."""
        images = [image_id for image_id, _ in self.pairs]
        gt, pred = paired.segments("gt", images), paired.segments("pred", images)
        boundary = _pairs_of_images(self.boundary) if self.boundary else None
        table = tabulate(_pairs_of_images(self.pairs), gt, pred, boundary).in_order_of_images()
        files = FileHashes.of(self.files, predictions=self.predictions)
        return CountedChunk(table, files, self.gt_faults, self.prediction_faults)


_Counts = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class CountedImage:
    """The result for one image: the pixels that its segments share and its PNGs' hashes, or a fault."""

    counts: _Counts | None = None
    boundary: _Counts | None = None
    sha: bytes = b""
    pred_sha: bytes = b""
    gt_fault: Fault | None = None
    prediction_fault: Fault | None = None


@dataclass(frozen=True)
class ImageCounter:
    """Counts one image: decodes its two PNGs and counts the pixels that each pair of segments shares."""

    paired: ImagePairs
    boundary: bool
    max_pixels: int

    def count_image(self, row: int) -> CountedImage:
        """Counts the pixels that the true and predicted segments of one image share, or returns its fault.

        row: the image's row in the ground truth
        """
        gt, pred = self.paired.gt, self.paired.pred
        image_id = gt.image_ids[row]
        gt_path = gt.folder / gt.file_names[row]
        try:
            content = _read_png_bytes(gt_path)
            sha, gt_runs = hashlib.sha256(content).digest(), decode_id_runs(content, max_pixels=self.max_pixels)
        except ValueError as problem:
            return CountedImage(gt_fault=Fault(gt_path, image_id, str(problem)))
        answer = CountedImage(sha=sha)
        if self.paired.pred_row[row] < 0:
            pred_runs = IdRuns.all_void(gt_runs.shape)
        else:
            pred_path = pred.folder / pred.file_names[self.paired.pred_row[row]]
            try:
                content = _read_png_bytes(pred_path)
                answer = replace(answer, pred_sha=hashlib.sha256(content).digest())
                pred_runs = decode_id_runs(content, max_pixels=self.max_pixels)
                if pred_runs.shape != gt_runs.shape:
                    raise ValueError(
                        f"is {shape_in_words(pred_runs.shape)} but its ground truth is {shape_in_words(gt_runs.shape)} "
                        "(height × width). Write predictions at the image's original size."
                    )
            except ValueError as problem:
                return replace(answer, prediction_fault=Fault(pred_path, image_id, str(problem)))
        boundary = boundary_pairs(gt_runs.to_id_map(), pred_runs.to_id_map()) if self.boundary else None
        return replace(answer, counts=count_run_pairs(gt_runs, pred_runs), boundary=boundary)


def count_images(
    paired: ImagePairs, rows: Sequence[int], reporter: Reporter, *, threads: int, boundary: bool, max_pixels: int
) -> Iterator[CountedChunk]:
    """Counts in threads the pixels that true and predicted segments share; yields results of 1,000 images at a time.

    rows: the images, as rows of the ground truth
    """
    native()  # loaded here, once, before the threads start
    counter = ImageCounter(paired, boundary, max_pixels)
    images, before = len(paired.rows), len(paired.rows) - len(rows)
    counted = ChunkCollector()

    def count_images_from(start: int) -> list[CountedImage]:
        """Counts the pixels that segments share in a small group of images, which starts at row `start`."""
        return [counter.count_image(row) for row in rows[start : start + _IMAGES_A_TASK]]

    tasks = (partial(count_images_from, start) for start in range(0, len(rows), _IMAGES_A_TASK))
    # Compiled code decodes id PNGs without OpenCV, which takes a tenth of a second to load.
    with pixels.one_thread() if boundary or native() is None else contextlib.nullcontext():
        answers = itertools.chain.from_iterable(in_order(tasks, threads, _TASKS_AHEAD))
        for done, (row, answer) in enumerate(zip(rows, answers, strict=True), start=1):
            counted.add_image(paired.gt.image_ids[row], answer)
            if done % _IMAGES_A_TASK == 0 or done == len(rows):
                reporter.progress("Scoring", before + done, images)
            if done % PART_IMAGES == 0:
                yield counted.chunk(paired)
                counted = ChunkCollector()
        if len(rows) % PART_IMAGES:
            yield counted.chunk(paired)


def _pairs_of_images(counts: list[tuple[int, _Counts]]) -> Pairs:
    """Joins the counted segment pairs of several images to one table; each count comes with its image id."""
    if not counts:
        return Pairs.empty()
    gt_id, pred_id, pixels = (np.concatenate([columns[row_of] for _, columns in counts]) for row_of in range(3))
    images = np.array([image_id for image_id, _ in counts], np.int64)
    return Pairs(np.repeat(images, [len(columns[0]) for _, columns in counts]), gt_id, pred_id, pixels)


def _read_png_bytes(path: Path) -> bytes:
    """Reads the bytes of an id PNG. Raises ValueError for a file that is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("was not found. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise ValueError(f"cannot be read: {problem.strerror or problem}.") from None
