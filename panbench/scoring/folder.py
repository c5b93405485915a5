"""Scores a folder of predictions in COCO panoptic format, from any framework; the result is a run. Needs no torch.

Every image is decoded once, by threads that return a few rows for it, so memory hardly grows with the number of images.
One pass finds everything that is wrong with the predictions, and one error names it all.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from panbench.base import provenance
from panbench.base.errors import BadArgument, BadDataset, PanbenchError, PredictionMismatch
from panbench.base.files import sha256_of
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.metrics.pq import summarise
from panbench.panoptic.boundary import boundary_pairs
from panbench.panoptic.coco import read_annotation_columns
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, IdRuns, check_pixels, count_run_pairs, decode_id_runs
from panbench.panoptic.native import native, why_missing
from panbench.panoptic.overlap import OverlapTable, Pairs, Segments, by_image, prediction_faults, tabulate, take
from panbench.panoptic.types import AnnotationColumns
from panbench.runs import (
    DatasetRecord,
    DeviceRecord,
    FileHashes,
    ImagesRecord,
    PredictionsRecord,
    Run,
    RunInfo,
    RunWriter,
    SecondsRecord,
    Setting,
    SummaryRecord,
    check_room,
)
from panbench.scoring.evaluator import category_numbers
from panbench.scoring.gt_index import GtIndex, IndexWriter, index_paths, key_of, own_key

__all__ = ["as_json", "score_folder"]

Progress = Callable[[int, int], None]

# Images per task: enough that scheduling costs nothing, few enough that progress is smooth.
_IMAGES_A_TASK = 16
# For fewer images an index saves too little to leave a file beside the user's data.
_FEWEST_IMAGES_INDEXED = 64


def score_folder(
    gt_json: str | os.PathLike[str],
    pred_json: str | os.PathLike[str],
    gt_dir: str | os.PathLike[str] | None = None,
    pred_dir: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    ignore_extra: bool = False,
    allow_missing: bool = False,
    boundary: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    index: bool = True,
    progress: Progress | None = None,
    reporter: Reporter = SILENT,
    images: str | os.PathLike[str] | None = None,
) -> Run:
    """Scores predictions against ground truth, both COCO panoptic JSON and id PNGs; the same numbers as panopticapi.

    gt_dir, pred_dir: the folders of PNGs; by default the JSON's path without `.json`
    out: the run folder to write; None gives a run in memory
    threads: None for one per core that this process may use
    ignore_extra: ignore predictions for images that the ground truth lacks; otherwise they are an error
    allow_missing: score images without a prediction as empty; otherwise they are an error
    boundary: also store the overlaps of boundary pixels, for boundary PQ
    max_pixels: a larger PNG is refused before it is decoded
    overwrite: replace the run that exists at `out`
    index: keep decoded ground truth in an index beside its JSON, and use it (gt_index.py)
    progress: called with (images done, images in all)
    images: the folder of photographs, which scoring does not read; the run remembers it for pictures
    reporter: hears where ground-truth PNGs and their JSON disagree, and when scoring is slow without compiled code
    Raises BadDataset or PredictionMismatch with a sentence for each kind of fault, naming all images and ids; no run is
    written then.
    """
    clock = _Clock()
    if threads is not None and threads < 1:
        raise BadArgument(f"The number of threads must be at least 1, not {threads}.")
    if out is not None:
        check_room(out, overwrite)
    if slower := why_missing():
        reporter.notice(slower)
    if images is not None and not Path(images).is_dir():
        raise BadDataset(
            f"There is no folder {images} with the images. Give the folder of photographs, or leave it out."
        )
    gt = read_annotation_columns(gt_json, gt_dir)
    pred = read_annotation_columns(pred_json, pred_dir, predictions=True)
    for side, columns in (("ground-truth", gt), ("predicted", pred)):
        if not columns.folder.is_dir():
            raise BadDataset(
                f"There is no folder {columns.folder} with the {side} id PNGs. Give their folder if it is elsewhere."
            )
    plan = _Plan.of(gt, pred)
    wrong = plan.faults(ignore_extra, allow_missing)
    clock.stop("load")

    counted = _count_images(plan, threads or _cores(), boundary, max_pixels, index, progress, reporter)
    table = counted.table(plan)
    wrong += counted.prediction_faults + prediction_faults(table)
    if wrong:
        raise PredictionMismatch("\n".join(counted.gt_faults + wrong))
    if counted.gt_faults:
        raise BadDataset("\n".join(counted.gt_faults))
    if faults := table.ground_truth_faults().notice:
        reporter.notice(faults)
    clock.stop("overlap")

    arguments = {
        "ignore_extra": ignore_extra,
        "allow_missing": allow_missing,
        "boundary": boundary,
        "max_pixels": max_pixels,
    }
    info = _info(plan, table, out, arguments, images)
    summary = SummaryRecord.of(Run(info, table=table).summary())
    if out is None:
        return Run(replace(info, summary=summary, **clock.seconds(len(gt))), table=table)
    writer = RunWriter.create(out, info, overwrite)
    try:
        writer.write_part(table, files=FileHashes.of(counted.files))
        clock.stop("write")
        return writer.finish("done", summary=summary, **clock.seconds(len(gt)))
    except BaseException as problem:
        status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish(status, error=str(problem) or type(problem).__name__)
        raise


def as_json(run: Run) -> dict[str, Any]:
    """What `score --json` prints: fractions 0–1, None where there is nothing to average.

    `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …, "per_category": {"<id>": {"name", "isthing", "PQ", "SQ",
    "RQ", "TP", "FP", "FN"}}}` with every category of the ground truth; one that occurs nowhere has zeros.
    """
    table = run.pq()
    per_category = {str(category_id): numbers for category_id, numbers in category_numbers(table).items()}
    return {**summarise(table), "per_category": per_category}


@dataclass(frozen=True)
class _Plan:
    """Which prediction belongs to which image: `pred_row[i]` is its row among the predictions, -1 if there is none."""

    gt: AnnotationColumns
    pred: AnnotationColumns
    pred_row: list[int]

    @staticmethod
    def of(gt: AnnotationColumns, pred: AnnotationColumns) -> "_Plan":
        rows = {image_id: row for row, image_id in enumerate(pred.image_ids)}
        return _Plan(gt, pred, [rows.get(image_id, -1) for image_id in gt.image_ids])

    def missing(self) -> list[int]:
        """The images without a prediction."""
        return [image_id for image_id, row in zip(self.gt.image_ids, self.pred_row, strict=True) if row < 0]

    def extra(self) -> list[int]:
        """The images that were predicted but are not in the ground truth."""
        known = set(self.gt.image_ids)
        return [image_id for image_id in self.pred.image_ids if image_id not in known]

    def faults(self, ignore_extra: bool, allow_missing: bool) -> list[str]:
        """A sentence for each way in which the two JSONs do not fit, naming all images."""
        faults = []
        missing, extra = self.missing(), self.extra()
        if missing and len(missing) == len(self.gt) and not allow_missing:
            return [
                f"{self.pred.path} has no prediction for any of the {len(self.gt)} images of {self.gt.path}. "
                "Are the two of the same split?"
            ]
        if missing and not allow_missing:
            faults.append(
                f"{self.pred.path} has no prediction for {len(missing)} of {len(self.gt)} images: "
                f"{listed(missing, len(missing))}. Add them, or allow missing predictions to score them as empty."
            )
        if extra and not ignore_extra:
            faults.append(
                f"{self.pred.path} has predictions for images that {self.gt.path} lacks ({len(extra)}): "
                f"{listed(extra, len(extra))}. Remove them, or ignore extra predictions to leave them out."
            )
        pred = self.segments("pred")
        unknown = take(pred, ~np.isin(pred.category_id, [category.id for category in self.gt.categories]))
        if len(unknown):
            faults.append(
                f"{self.pred.path} uses category ids that {self.gt.path} does not list: "
                f"{by_image(unknown.image_id, unknown.category_id)}. Write the dataset's own category ids."
            )
        return faults

    def segments(self, side: str, without: frozenset[int] = frozenset()) -> Segments:
        """The segments of one side for the images of the ground truth, `without` some."""
        columns = self.gt if side == "gt" else self.pred
        image_id = np.repeat(np.array(columns.image_ids, np.int64), np.diff(columns.first))
        segments = Segments(
            image_id=image_id,
            is_gt=np.full(len(image_id), side == "gt"),
            id=columns.id,
            category_id=columns.category_id,
            area=columns.area,
            iscrowd=columns.iscrowd & (side == "gt"),
            score=columns.score if side == "pred" else np.full(len(image_id), np.nan, np.float32),
        )
        wanted = [image for image in self.gt.image_ids if image not in without]
        return take(segments, np.isin(image_id, wanted))


@dataclass
class _Counted:
    """The result of one pass over the PNGs: counted pairs of each image, and a sentence for each unusable PNG."""

    pairs: list[tuple[int, "_Counts"]] = field(default_factory=list)
    boundary: list[tuple[int, "_Counts"]] = field(default_factory=list)
    bad_images: set[int] = field(default_factory=set)
    files: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    gt_faults: list[str] = field(default_factory=list)
    prediction_faults: list[str] = field(default_factory=list)

    def table(self, plan: _Plan) -> OverlapTable:
        """The rows of all images that could be decoded."""
        without = frozenset(self.bad_images)
        return tabulate(
            _joined(self.pairs),
            plan.segments("gt", without),
            plan.segments("pred", without),
            _joined(self.boundary) if self.boundary else None,
        ).in_order_of_images()


_Counts = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class _Answer:
    """What a thread returns for one image; `packed` is its ground truth for the index."""

    counts: _Counts | None = None
    boundary: _Counts | None = None
    sha: bytes = b""
    packed: bytes | None = None
    gt_fault: str | None = None
    prediction_fault: str | None = None


@dataclass(frozen=True)
class _Counter:
    """Looks at one image: decodes both PNGs and counts which segments share pixels."""

    plan: _Plan
    boundary: bool
    max_pixels: int
    index: GtIndex | None

    def count(self, row: int) -> _Answer:
        gt, pred = self.plan.gt, self.plan.pred
        image_id = gt.image_ids[row]
        gt_path = gt.folder / gt.file_names[row]
        try:
            sha, packed, gt_runs = self.ground_truth(gt_path)
        except ValueError as problem:
            return _Answer(gt_fault=f"{gt_path} (image {image_id}) {problem}")
        answer = _Answer(sha=sha, packed=packed)
        if self.plan.pred_row[row] < 0:
            pred_runs = IdRuns.empty(gt_runs.shape)
        else:
            pred_path = pred.folder / pred.file_names[self.plan.pred_row[row]]
            try:
                pred_runs = decode_id_runs(_content(pred_path), max_pixels=self.max_pixels)
                if pred_runs.shape != gt_runs.shape:
                    raise ValueError(
                        f"is {_size(pred_runs.shape)} but its ground truth is {_size(gt_runs.shape)} (height × width). "
                        "Write predictions at the image's original size."
                    )
            except ValueError as problem:
                return replace(answer, prediction_fault=f"{pred_path} (image {image_id}) {problem}")
        boundary = boundary_pairs(gt_runs.to_map(), pred_runs.to_map()) if self.boundary else None
        return replace(answer, counts=count_run_pairs(gt_runs, pred_runs), boundary=boundary)

    def ground_truth(self, path: Path) -> tuple[bytes, bytes | None, IdRuns]:
        """The hash of a PNG, its packed runs if they are new to the index, and its runs."""
        content = _content(path)
        sha = hashlib.sha256(content).digest()
        if self.index is None:
            return sha, None, decode_id_runs(content, max_pixels=self.max_pixels)
        packed = self.index.entry(key_of(sha))
        known = None if packed is None else _unpacked(packed)
        if known is not None:
            check_pixels(known.shape, self.max_pixels)
            return sha, None, known
        runs = decode_id_runs(content, max_pixels=self.max_pixels)
        return sha, runs.to_bytes(), runs


def _unpacked(packed: bytes) -> IdRuns | None:
    try:
        return IdRuns.from_bytes(packed)
    except ValueError:
        return None


def _count_images(
    plan: _Plan,
    threads: int,
    boundary: bool,
    max_pixels: int,
    index: bool,
    progress: Progress | None,
    reporter: Reporter,
) -> _Counted:
    """Looks at all images, in the order of the ground truth."""
    images = len(plan.gt)
    native()  # loaded here, once, before the threads start
    keeper = _IndexKeeper.of(plan.gt.path, reporter) if index and images >= _FEWEST_IMAGES_INDEXED else None
    counter = _Counter(plan, boundary, max_pixels, keeper.index if keeper else None)
    counted = _Counted()
    pool = ThreadPoolExecutor(threads)
    opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the images are already distributed over threads
    try:
        for row, answer in enumerate(_in_order(pool, counter, images)):
            image_id = plan.gt.image_ids[row]
            if keeper and not answer.gt_fault:
                keeper.keep(key_of(answer.sha), answer.packed)
            if answer.gt_fault:
                counted.gt_faults.append(answer.gt_fault)
            elif answer.prediction_fault:
                counted.prediction_faults.append(answer.prediction_fault)
            if answer.counts is None:
                counted.bad_images.add(image_id)
            else:
                counted.pairs.append((image_id, answer.counts))
                counted.files.append((image_id, b"", answer.sha))
            if answer.boundary is not None:
                counted.boundary.append((image_id, answer.boundary))
            if progress and ((row + 1) % _IMAGES_A_TASK == 0 or row + 1 == images):
                progress(row + 1, images)
        if keeper:
            keeper.finish()
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(opencv_threads)
        if keeper:
            keeper.discard()
    return counted


def _in_order(pool: ThreadPoolExecutor, counter: _Counter, images: int) -> Iterator[_Answer]:
    def task(start: int) -> list[_Answer]:
        return [counter.count(row) for row in range(start, min(start + _IMAGES_A_TASK, images))]

    for answers in pool.map(task, range(0, images, _IMAGES_A_TASK)):
        yield from answers


class _IndexKeeper:
    """Reads the index of a ground truth and rewrites it when images are missing from it."""

    def __init__(self, places: list[Path], key: bytes, index: GtIndex) -> None:
        self._places, self._key = places, key
        self.index = index
        self._old: list[bytes] = []
        self._writer: IndexWriter | None = None

    @staticmethod
    def of(gt_json: Path, reporter: Reporter) -> "_IndexKeeper | None":
        """The keeper of a ground truth's index; None where this user's key cannot be kept."""
        key = own_key()
        if key is None:
            return None
        found = {place: GtIndex.open(place, key) for place in index_paths(gt_json)}
        for place, index in found.items():
            if index.foreign:
                reporter.notice(
                    f"{place} was made by somebody else or on another machine and is not used: the PNGs are decoded. "
                    "An index of your own is kept in the cache folder."
                )
        places = [place for place, index in found.items() if not index.foreign]
        return _IndexKeeper(places, key, next((index for index in found.values() if len(index)), GtIndex.empty()))

    def keep(self, sha: bytes, packed: bytes | None) -> None:
        """Adds an image: `packed` is its entry, None when the index already has it."""
        if packed is None and self._writer is None:
            self._old.append(sha)
            return
        if self._writer is None:
            self._writer = IndexWriter(self._places, self._key)
            for old in self._old:
                self._writer.add(old, self.index.entry(old) or b"")
        self._writer.add(sha, packed if packed is not None else self.index.entry(sha) or b"")

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.finish()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.discard()


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def stop(self, stage: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self._stages[stage] = now - self._last
        self._last = now

    def seconds(self, images: int) -> dict[str, Any]:
        """The fields `seconds` and `images_per_second` of RunInfo."""
        wall = time.perf_counter() - self._began
        stages = {stage: self._stages.get(stage) for stage in ("load", "forward", "fusion", "overlap", "write")}
        rounded = {stage: None if spent is None else round(spent, 4) for stage, spent in stages.items()}
        return {
            "seconds": SecondsRecord(**rounded, wall=round(wall, 4)),
            "images_per_second": round(images / wall, 2) if images else None,
        }


def _info(
    plan: _Plan,
    table: OverlapTable,
    out: str | os.PathLike[str] | None,
    arguments: Mapping[str, Setting],
    images: str | os.PathLike[str] | None,
) -> RunInfo:
    """What run.json records about the inputs."""
    gt, pred = plan.gt, plan.pred
    missing = plan.missing()
    return RunInfo(
        kind="score",
        name=pred.path.stem if out is None else Path(out).absolute().name,
        dataset=DatasetRecord(
            name=gt.path.stem,
            gt=str(gt.path.absolute()),
            gt_dir=str(gt.folder.absolute()),
            images=None if images is None else str(Path(images).absolute()),
            fingerprint=sha256_of(gt.path),
            n_images=len(gt),
        ),
        predictions=PredictionsRecord(
            json=str(pred.path.absolute()), folder=str(pred.folder.absolute()), sha256=sha256_of(pred.path)
        ),
        categories=tuple(gt.categories),
        arguments=arguments,
        versions={**provenance.versions(), "decoder": "opencv" if native() is None else "native"},
        git_commit=None if out is None else provenance.git_commit(),
        device=DeviceRecord(**provenance.describe_device("cpu", None)),
        images=ImagesRecord(
            expected=len(gt),
            scored=len(gt),
            missing=len(missing),
            missing_ids=tuple(missing),
            extra=len(plan.extra()),
            gt_faults=table.ground_truth_faults(),
        ),
    )


def _joined(counts: list[tuple[int, _Counts]]) -> Pairs:
    if not counts:
        return Pairs.empty()
    gt_id, pred_id, pixels = (np.concatenate([columns[place] for _, columns in counts]) for place in range(3))
    images = np.array([image_id for image_id, _ in counts], np.int64)
    return Pairs(np.repeat(images, [len(columns[0]) for _, columns in counts]), gt_id, pred_id, pixels)


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as handle:
            return handle.read()
    except FileNotFoundError:
        raise ValueError("was not found. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise ValueError(f"cannot be read: {problem.strerror or problem}.") from None


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"


def _cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
