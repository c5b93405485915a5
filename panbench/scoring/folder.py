"""Scores a folder of predictions in COCO panoptic format, from any framework; the result is a run. Needs no torch.

Every image is decoded once, by threads that return a few rows for it, so memory hardly grows with the number of images.
One pass finds everything that is wrong with the predictions, and one error names it all.
"""

import contextlib
import hashlib
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panbench.base import provenance
from panbench.base.addresses import Address, path_at
from panbench.base.computing import STAGES
from panbench.base.errors import (
    BadArgument,
    BadDataset,
    BadRun,
    PanbenchError,
    PredictionMismatch,
    refuse_overwrite_and_resume,
)
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.base.threads import available_cores
from panbench.metrics.matched import Matched
from panbench.metrics.pq import CategorySums, summarise
from panbench.panoptic import pixels
from panbench.panoptic.boundary import boundary_pairs
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS, IdRuns, check_pixels, count_run_pairs, decode_id_runs
from panbench.panoptic.native import native, why_missing
from panbench.panoptic.overlap import (
    GroundTruthFaults,
    Mismatches,
    OverlapTable,
    Pairs,
    Segments,
    by_image,
    concat,
    tabulate,
    take,
)
from panbench.panoptic.sources import name_of
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
    unfinished_run,
)
from panbench.runs.alike import differing_settings
from panbench.scoring.evaluator import category_numbers
from panbench.scoring.gt_index import GtIndex, IndexWriter, index_paths, key_of, own_key
from panbench.scoring.sides import Side, read_sides, shard_of

__all__ = ["as_json", "score_folder"]

# Images per task: enough that scheduling costs nothing, few enough that progress is smooth.
_IMAGES_A_TASK = 16
# So many tasks are handed out beyond the one that is waited for.
_TASKS_AHEAD = 256

PART_IMAGES = 1000
"""Images of a block: what a killed run loses at most, and what is held of the overlaps of a long one."""

# More faults of one kind become one sentence.
_MOST_TOLD = 10

# From so many on, what all share is no accident.
_MANY_IDS = 20
_MANY_CATEGORIES = 5

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
    resume: bool = False,
    shard: tuple[int, int] | None = None,
    index: bool = True,
    reporter: Reporter = SILENT,
    images: str | os.PathLike[str] | None = None,
    count: "Counting | None" = None,
) -> Run:
    """Scores predictions against ground truth, both COCO panoptic JSON and id PNGs; the same numbers as panopticapi.

    gt_json, pred_json: a JSON each, or several parts of one, as a pattern (`gt-*.json`)
    gt_dir, pred_dir: the folders of PNGs; by default the JSON's path without `.json`
    out: the run folder to write; None gives a run in memory
    threads: None for one per core that this process may use
    ignore_extra: ignore predictions for images that the ground truth lacks; otherwise they are an error
    allow_missing: score images without a prediction as empty; otherwise they are an error
    boundary: also store the overlaps of boundary pixels, for boundary PQ
    max_pixels: a larger PNG is refused before it is decoded
    overwrite: replace the run that exists at `out`
    resume: go on with the run at `out`, if there is one: only images that it lacks are scored
    shard: (i, n) scores the i-th of n parts of the images, by id, from 1; `runs merge` joins the runs
    index: keep decoded ground truth in an index beside its JSON, and use it (gt_index.py)
    images: the folder of photographs, which scoring does not read; the run remembers it for pictures
    count: what looks at the PNGs in place of threads of this process, such as `scoring.spread.spread_counting`
    reporter: receives the progress, ground truth whose PNGs and JSON disagree, and what else looks odd
    Images are written to `out` in blocks of PART_IMAGES, so memory grows with the two JSONs alone, and a run that is
    killed loses a block.
    Raises BadDataset or PredictionMismatch with a sentence for each kind of fault, naming the first images. Blocks
    without a fault are kept then, for `resume`; of fewer than PART_IMAGES images there is none, and no run.
    """
    clock = _Clock()
    if threads is not None and threads < 1:
        raise BadArgument(f"The number of threads must be at least 1, not {threads}.")
    if resume and out is None:
        raise BadArgument("--resume goes on with a stored run. Name its folder with --out.")
    if count is not None and out is None:
        raise BadArgument("--engine keeps what its workers send in a run. Name its folder with --out.")
    refuse_overwrite_and_resume(overwrite, resume)
    resumed = resume and out is not None and unfinished_run(out) is not None
    if out is not None and not resumed:
        check_room(out, overwrite)
    if slower := why_missing():
        reporter.notice(slower)
    if images is not None and not path_at(images).is_dir():
        raise BadDataset(
            f"There is no folder {images} with the images. Give the folder of photographs, or leave it out."
        )
    gt_folder, pred_folder = (None if folder is None else path_at(folder) for folder in (gt_dir, pred_dir))
    gt_side, pred_side = read_sides(path_at(gt_json), path_at(pred_json), gt_folder, pred_folder, shard)
    gt, pred = gt_side.columns, pred_side.columns
    for side, columns, option in (("ground-truth", gt, "--gt-dir"), ("predicted", pred, "--pred-dir")):
        if not columns.folder.is_dir():
            raise BadDataset(f"There is no folder {columns.folder} with the {side} id PNGs. Give theirs with {option}.")
    plan = _Plan.of(gt_side, pred_side, shard)
    misfits = plan.faults(ignore_extra, allow_missing)
    clock.stop("load")

    arguments: dict[str, Setting] = {
        "ignore_extra": ignore_extra,
        "allow_missing": allow_missing,
        "boundary": boundary,
        "max_pixels": max_pixels,
        **({} if shard is None else {"shard": f"{shard[0]}/{shard[1]}"}),
    }
    info = _info(plan, out, arguments, images)
    writer = _goes_on(out, info) if out is not None and resumed else None
    store = _Store(out, info, overwrite, writer, in_order=count is None)
    wrong, gt_wrong, mismatches = list[_Fault](), list[_Fault](), Mismatches.of(OverlapTable.empty())
    for sentence in plan.oddities():
        reporter.notice(sentence)
    try:
        rows = [row for row in plan.rows if gt.image_ids[row] not in store.done]
        settings = CountSettings(threads or available_cores(), boundary, max_pixels, index)
        for block in (count or _count_images)(plan, rows, settings, reporter):
            found = Mismatches.of(block.table)
            mismatches += found
            wrong += block.prediction_faults
            gt_wrong += block.gt_faults
            if not (found or block.prediction_faults or block.gt_faults or misfits):
                store.keep(block.table, block.files)
        # The likely cause comes first: what follows from it can be hundreds of lines.
        found_in_pngs = _told(wrong, "predicted", pred) + mismatches.sentences()
        faults = plan.likely_cause(mismatches) + misfits + found_in_pngs
        if faults or gt_wrong:
            kind = PredictionMismatch if faults else BadDataset
            raise kind("\n".join(_told(gt_wrong, "ground-truth", gt) + faults + store.left()))
        plan.check_ground_truth(store.faults)
        clock.stop("overlap")
        run = store.close(info.images, clock)
        if run.info.images.gt_faults and (notice := run.info.images.gt_faults.notice):
            reporter.notice(notice)
        return run
    except BaseException as problem:
        store.fail(problem)
        raise


def as_json(run: Run) -> dict[str, Any]:
    """The object that `score --json` prints: fractions 0–1, None for means over nothing.

    `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …, "per_category": {"<id>": {"name", "isthing", "PQ", "SQ",
    "RQ", "TP", "FP", "FN"}}}` with every category of the ground truth; one that occurs nowhere has zeros.
    """
    table = run.pq()
    per_category = {str(category_id): numbers for category_id, numbers in category_numbers(table).items()}
    return {**summarise(table), "per_category": per_category}


class _Paired:
    """The annotations of both sides, and which belong to each other: `pred_row[i]` is that of the ground truth's row i,
    -1 if there is none."""

    if TYPE_CHECKING:
        # A field of a dataclass would take a property for its default.
        @property
        def gt(self) -> AnnotationColumns:
            """The ground truth."""

        @property
        def pred(self) -> AnnotationColumns:
            """The predictions."""

    pred_row: list[int]

    def segments(self, side: str, images: Sequence[int]) -> Segments:
        """The segments of one side for some images, in the order of the JSON."""
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


@dataclass(frozen=True)
class _Plan(_Paired):
    """Which prediction belongs to which image: `pred_row[i]` is its row among the predictions, -1 if there is none.

    rows: the images to score, as rows of the ground truth, in order of image ids
    """

    gt_side: Side
    pred_side: Side
    pred_row: list[int]
    rows: list[int]

    @staticmethod
    def of(gt: Side, pred: Side, shard: tuple[int, int] | None = None) -> "_Plan":
        place = {image_id: row for row, image_id in enumerate(pred.columns.image_ids)}
        pred_row = [place.get(image_id, -1) for image_id in gt.columns.image_ids]
        return _Plan(gt, pred, pred_row, shard_of(gt, shard).tolist())

    @property
    def gt(self) -> AnnotationColumns:
        return self.gt_side.columns

    @property
    def pred(self) -> AnnotationColumns:
        return self.pred_side.columns

    def missing(self) -> list[int]:
        """The images without a prediction."""
        return [self.gt.image_ids[row] for row in self.rows if self.pred_row[row] < 0]

    def extra(self) -> list[int]:
        """The images that were predicted but are not in the ground truth."""
        if self.gt_side.has_images_of(self.pred_side):
            return []
        predicted = self.pred_side.ids
        found: list[int] = predicted[~np.isin(predicted, self.gt_side.ids)].tolist()
        return found

    def faults(self, ignore_extra: bool, allow_missing: bool) -> list[str]:
        """A sentence for each way in which the two JSONs do not fit, naming the first images."""
        faults = []
        missing, extra = self.missing(), self.extra()
        if extra and not (allow_missing and ignore_extra):
            faults += self._other_set(extra)
            if len(extra) == self.pred_side.n_images:
                return faults
        if missing and len(missing) == len(self.rows) and not allow_missing:
            return [f"{self.pred.path} has no prediction for any of the {_images(missing)} of {self.gt.path}."]
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
                f"{by_image(unknown.image_id, unknown.category_id)}. Write the dataset's own category ids."
            )
            faults = self._other_categories(pred.category_id) + faults
        return faults

    def _other_set(self, extra: Sequence[int]) -> list[str]:
        """The likely cause where the ground truth and the predictions have few images or none in common."""
        truth, predicted = self.gt_side.ids.tolist(), self.pred_side.ids.tolist()
        shared = len(predicted) - len(extra)
        if 2 * shared >= min(len(truth), len(predicted)):
            return []
        likely = "These are predictions of another set" if not shared else "Likely cause: predictions of another set"
        return [
            f"{likely}: {shared:,} of the {_images(truth)} of {self.gt.path} {'is' if shared == 1 else 'are'} in "
            f"{self.pred.path} (ground truth: {listed(sorted(truth), 3)}; predictions: "
            f"{listed(sorted(predicted), 3)}). Give the ground truth of their split; ids that were numbered anew have "
            "to be the dataset's own."
        ]

    def _other_categories(self, used: npt.NDArray[np.int32]) -> list[str]:
        """The likely cause of many unknown category ids."""
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

    def likely_cause(self, mismatches: Mismatches) -> list[str]:
        """Why many ids of predictions are not where they should be."""
        absent = len(mismatches.absent[0])
        pred = self.segments("pred", [self.gt.image_ids[row] for row in self.rows])
        if absent < _MANY_IDS or absent < len(pred):
            return []
        return [
            f"Likely cause: no segment of {self.pred.path} is in the PNGs of {self.pred.folder}. Is that the folder of "
            "other predictions, or of the ground truth, or were the PNGs not written as id = R + 256·G + 256²·B?"
        ]

    def check_ground_truth(self, faults: GroundTruthFaults) -> None:
        """Raises BadDataset when no segment of the ground truth is in its PNGs: they are another set's."""
        expected = len(self.segments("gt", [self.gt.image_ids[row] for row in self.rows]))
        if expected >= _MANY_IDS and faults.segments_not_in_png >= expected:
            raise BadDataset(
                f"None of the {expected:,} segments of {self.gt.path} is in the PNGs of {self.gt.folder}: that is the "
                "folder of another set. Name the one of this ground truth with --gt-dir (gt_dir)."
            )

    def oddities(self) -> list[str]:
        """Sentences on input that can be scored but is probably a mistake."""
        gt, pred = self.gt, self.pred
        found = [
            f"{columns.path}: images {listed(images)} name one {what}. {so}"
            for columns, groups, what, so in (
                (gt, self.gt_side.same_png, "id PNG", "Each image needs its own."),
                (pred, self.pred_side.same_png, "id PNG", "Each image needs its own prediction."),
                (gt, gt.same_photograph, "photograph", "It counts as often."),
            )
            for images in groups[:_MOST_TOLD]
        ]
        names = Counter(category.name for category in gt.categories)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            found.append(
                f"{gt.path}: several categories are called {listed(map(repr, twice))}. Tables show each of them."
            )
        if different := self._contradictions():
            found.append(
                f"{pred.path} says otherwise than {gt.path} what its category ids mean: {listed(different, 3)}. Scores "
                "follow the ground truth: check that the predictions' ids are the dataset's."
            )
        if self.gt_side.has_scores and not self.pred_side.has_scores:
            found.append(
                f"The ground truth {gt.path} has scores, as predictions do, and {pred.path} has none: are the two "
                "swapped?"
            )
        return found

    def _contradictions(self) -> list[str]:
        """A phrase for each category whose name or kind differs in the predictions' own list."""
        found = []
        for category in self.gt.categories:
            name, isthing = self.pred.own_categories.get(category.id, (category.name, None))
            if name != category.name:
                found.append(f"{category.id} is {category.name!r} in the ground truth, {name!r} in the predictions")
            elif isthing not in (None, category.isthing):
                here, there = ("thing", "stuff") if category.isthing else ("stuff", "thing")
                found.append(f"{category.id} ({name!r}) is {here} in the ground truth, {there} in the predictions")
        return found


def _images(image_ids: Sequence[int]) -> str:
    return f"{len(image_ids):,} image{'s' * (len(image_ids) != 1)}"


class _Store:
    """Stores the tables of blocks: in a run folder, created with the first block, or in memory."""

    def __init__(
        self,
        out: str | os.PathLike[str] | None,
        info: RunInfo,
        overwrite: bool,
        writer: RunWriter | None,
        in_order: bool = True,
    ) -> None:
        """in_order: whether blocks come in order of image ids; sums over others would end in other digits"""
        self._out, self._info, self._overwrite, self._writer = out, info, overwrite, writer
        self._sums_hold = writer is None and in_order
        self.done: frozenset[int] = writer.done if writer else frozenset()
        self._tables: list[OverlapTable] = []
        self._sums, self.faults = CategorySums(info.categories), GroundTruthFaults()

    def keep(self, table: OverlapTable, files: FileHashes) -> None:
        """Takes a block without a fault. Raises BadDataset for an area that cannot be; the block is not kept then."""
        self._sums.add(self._sums.look(Matched.of(table)))
        self.faults = self.faults + table.ground_truth_faults()
        if self._out is None:
            self._tables.append(table)
        else:
            self._written(self._out).write_part(table, files=files)

    def left(self) -> list[str]:
        """What to do after mending the faults, if anything was kept."""
        if self._writer is None:
            return []
        return [f"All blocks of images without a fault are kept in {self._out}: mend the rest and add --resume."]

    def close(self, images: ImagesRecord, clock: "_Clock") -> Run:
        """The run of all that was kept."""
        n = images.expected or 0
        images = replace(images, scored=n)
        if self._out is None:
            summary = SummaryRecord.of(summarise(self._sums.table()))
            info = replace(self._info, images=replace(images, gt_faults=self.faults), summary=summary)
            return Run(replace(info, **clock.seconds(n)), table=concat(self._tables))
        writer = self._written(self._out)
        # What an earlier sitting wrote was not added up here.
        stored = None if self._sums_hold else Run(writer.info, writer.path)
        summary = SummaryRecord.of(summarise(self._sums.table()) if stored is None else stored.summary())
        faults = self.faults if stored is None else stored.ground_truth_faults()
        clock.stop("write")
        return writer.finish("done", images=replace(images, gt_faults=faults), summary=summary, **clock.seconds(n))

    def fail(self, problem: BaseException) -> None:
        """Marks the run as incomplete, if any of it was written."""
        if self._writer is None:
            return
        status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, PanbenchError):
            self._writer.finish(status, error=str(problem) or type(problem).__name__)

    def _written(self, out: str | os.PathLike[str]) -> RunWriter:
        if self._writer is None:
            self._writer = RunWriter.create(out, self._info, self._overwrite)
        return self._writer


def _goes_on(out: str | os.PathLike[str], info: RunInfo) -> RunWriter:
    """The writer of a stored run. Raises BadRun when that was made with other settings."""
    stored = unfinished_run(out)
    assert stored is not None
    if different := differing_settings(stored.info, info):
        raise BadRun(
            f"{out} cannot be resumed with other settings: {'; '.join(different)}. "
            "Give the settings it was made with, or another --out."
        )
    return RunWriter.resume(out)


@dataclass(frozen=True)
class _Fault:
    """A PNG that cannot be scored, and why: a predicate and what to do."""

    path: Path
    image_id: int
    what: str

    def __str__(self) -> str:
        return f"{self.path} (image {self.image_id}) {self.what}"

    @property
    def kind(self) -> str:
        """What faults of one kind share: sizes differ from image to image."""
        return re.sub(r"\d+", "#", self.what)


def _told(faults: Sequence[_Fault], side: str, columns: AnnotationColumns) -> list[str]:
    """A sentence for each fault; one for each kind of which there are more than a screen takes."""
    kinds: dict[str, list[_Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    told = []
    for alike in kinds.values():
        if len(alike) <= _MOST_TOLD:
            told += [str(fault) for fault in alike]
            continue
        images = listed([fault.image_id for fault in alike])
        if len(alike) == len(columns) and " is #×# but" in f" {alike[0].kind}":
            told.append(
                "Likely cause: the predictions are of other images, or have the network's size, not the image's."
            )
        told.append(f"{len(alike):,} {side} PNGs have the same fault, images {images}. The first: {alike[0]}")
    return told


@dataclass(frozen=True)
class CountSettings:
    """How PNGs are looked at. index: by the index of decoded ground truth, which is kept beside its JSON"""

    threads: int
    boundary: bool
    max_pixels: int
    index: bool


@dataclass(frozen=True)
class CountedBlock:
    """What was found in the PNGs of some images: rows and hashes of those that could be decoded, faults of others."""

    table: OverlapTable
    files: FileHashes
    gt_faults: "Sequence[_Fault]"
    prediction_faults: "Sequence[_Fault]"


Counting = Callable[["_Plan", Sequence[int], CountSettings, Reporter], Iterator[CountedBlock]]
"""Looks at the images of some rows of the ground truth, and returns what was found in blocks, in any order."""


@dataclass
class _Counted:
    """The result of one pass over the PNGs: counted pairs of each image, and a sentence for each unusable PNG."""

    pairs: list[tuple[int, "_Counts"]] = field(default_factory=list)
    boundary: list[tuple[int, "_Counts"]] = field(default_factory=list)
    files: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    predictions: list[bytes] = field(default_factory=list)
    gt_faults: "list[_Fault]" = field(default_factory=list)
    prediction_faults: "list[_Fault]" = field(default_factory=list)

    def add(self, image_id: int, answer: "_Answer") -> None:
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

    def block(self, plan: "_Paired") -> CountedBlock:
        """The rows of all images that could be decoded, and the faults."""
        images = [image_id for image_id, _ in self.pairs]
        table = tabulate(
            _joined(self.pairs),
            plan.segments("gt", images),
            plan.segments("pred", images),
            _joined(self.boundary) if self.boundary else None,
        ).in_order_of_images()
        files = FileHashes.of(self.files, predictions=self.predictions)
        return CountedBlock(table, files, self.gt_faults, self.prediction_faults)


_Counts = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class _Answer:
    """What a thread returns for one image; `packed` is its ground truth for the index."""

    counts: _Counts | None = None
    boundary: _Counts | None = None
    sha: bytes = b""
    pred_sha: bytes = b""
    packed: bytes | None = None
    gt_fault: "_Fault | None" = None
    prediction_fault: "_Fault | None" = None


@dataclass(frozen=True)
class _Counter:
    """Looks at one image: decodes both PNGs and counts which segments share pixels."""

    plan: "_Paired"
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
            return _Answer(gt_fault=_Fault(gt_path, image_id, str(problem)))
        answer = _Answer(sha=sha, packed=packed)
        if self.plan.pred_row[row] < 0:
            pred_runs = IdRuns.empty(gt_runs.shape)
        else:
            pred_path = pred.folder / pred.file_names[self.plan.pred_row[row]]
            try:
                content = _content(pred_path)
                answer = replace(answer, pred_sha=hashlib.sha256(content).digest())
                pred_runs = decode_id_runs(content, max_pixels=self.max_pixels)
                if pred_runs.shape != gt_runs.shape:
                    raise ValueError(
                        f"is {_size(pred_runs.shape)} but its ground truth is {_size(gt_runs.shape)} (height × width). "
                        "Write predictions at the image's original size."
                    )
            except ValueError as problem:
                return replace(answer, prediction_fault=_Fault(pred_path, image_id, str(problem)))
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
    rows: Sequence[int],
    settings: CountSettings,
    reporter: Reporter,
) -> Iterator[CountedBlock]:
    """Looks at the images of some rows of the ground truth, and returns what was found in blocks of PART_IMAGES."""
    native()  # loaded here, once, before the threads start
    keeper = (
        _IndexKeeper.of(plan.gt.path, reporter)
        if settings.index and plan.gt_side.n_images >= _FEWEST_IMAGES_INDEXED
        else None
    )
    # An index is written of all images: of some it would be without those that are not looked at.
    written = keeper if len(rows) == plan.gt_side.n_images else None
    counter = _Counter(plan, settings.boundary, settings.max_pixels, keeper.index if keeper else None)
    images, before = len(plan.rows), len(plan.rows) - len(rows)
    pool = ThreadPoolExecutor(settings.threads)
    counted = _Counted()
    with contextlib.ExitStack() as ending:
        if written:
            ending.callback(written.discard)
        # Compiled code decodes id PNGs without OpenCV, which takes a tenth of a second to load.
        if settings.boundary or native() is None:
            ending.enter_context(pixels.one_thread())
        ending.callback(pool.shutdown, cancel_futures=True)
        for done, (row, answer) in enumerate(zip(rows, _in_order(pool, counter, rows), strict=True), start=1):
            if written and not answer.gt_fault:
                written.keep(key_of(answer.sha), answer.packed)
            counted.add(plan.gt.image_ids[row], answer)
            if done % _IMAGES_A_TASK == 0 or done == len(rows):
                reporter.progress("Scoring", before + done, images)
            if done % PART_IMAGES == 0:
                yield counted.block(plan)
                counted = _Counted()
        if written:
            written.finish()
        if len(rows) % PART_IMAGES:
            yield counted.block(plan)


def _in_order(pool: ThreadPoolExecutor, counter: _Counter, rows: Sequence[int]) -> Iterator[_Answer]:
    """The answer for each row. A few tasks are ahead of what is taken, so that answers do not pile up."""

    def task(start: int) -> list[_Answer]:
        return [counter.count(row) for row in rows[start : start + _IMAGES_A_TASK]]

    waiting: deque[Future[list[_Answer]]] = deque()
    for start in range(0, len(rows), _IMAGES_A_TASK):
        waiting.append(pool.submit(task, start))
        if len(waiting) > _TASKS_AHEAD:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


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
        stages = {stage: self._stages.get(stage) for stage in STAGES}
        rounded = {stage: None if spent is None else round(spent, 4) for stage, spent in stages.items()}
        return {
            "seconds": SecondsRecord(**rounded, wall=round(wall, 4)),
            "images_per_second": round(images / wall, 2) if images else None,
        }


def _info(
    plan: _Plan,
    out: str | os.PathLike[str] | None,
    arguments: Mapping[str, Setting],
    images: str | os.PathLike[str] | None,
) -> RunInfo:
    """What run.json records about the inputs."""
    gt, pred = plan.gt, plan.pred
    missing = plan.missing()
    return RunInfo(
        kind="score",
        name=name_of(pred.path) if out is None else Path(out).absolute().name,
        dataset=DatasetRecord(
            name=name_of(gt.path),
            gt=plan.gt_side.json,
            gt_dir=plan.gt_side.folder,
            images=None if images is None else str(path_at(images).absolute()),
            fingerprint=plan.gt_side.fingerprint,
            rows=plan.gt_side.rows,
            n_images=plan.gt_side.n_images,
        ),
        predictions=PredictionsRecord(
            json=plan.pred_side.json,
            folder=plan.pred_side.folder,
            sha256=plan.pred_side.fingerprint,
            rows=plan.pred_side.rows,
        ),
        categories=tuple(gt.categories),
        arguments=arguments,
        versions={**provenance.versions(), "decoder": "opencv" if native() is None else "native"},
        git_commit=None if out is None else provenance.git_commit(),
        device=DeviceRecord(**provenance.describe_device("cpu", None)),
        images=ImagesRecord(
            expected=len(plan.rows),
            missing=len(missing),
            missing_ids=tuple(missing),
            extra=len(plan.extra()),
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
        if isinstance(path, Address):
            return path.read_bytes()
        with open(path, "rb", buffering=0) as handle:
            return handle.read()
    except FileNotFoundError:
        raise ValueError("was not found. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise ValueError(f"cannot be read: {problem.strerror or problem}.") from None


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
