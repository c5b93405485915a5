"""Scores a folder of predictions in COCO panoptic format, from any framework; the result is a run. Needs no torch.

Each image is decoded once, in threads, and only a few rows per image are retained, so memory hardly grows with the
number of images. One pass finds all faults of the predictions, and one error lists them.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panbench.base import provenance
from panbench.base.addresses import path_at
from panbench.base.computing import STAGES
from panbench.base.errors import BadArgument, BadDataset, PanbenchError, PredictionMismatch, refuse_overwrite_and_resume
from panbench.base.program import available_cores
from panbench.base.reporter import SILENT, Reporter
from panbench.base.shards import Shard
from panbench.metrics.matched import Matched
from panbench.metrics.pq import CategorySums
from panbench.panoptic.coco import read_annotation_columns
from panbench.panoptic.fingerprint import fingerprint_of_columns
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.panoptic.native import native, why_not_compiled
from panbench.panoptic.overlap import GroundTruthFaults, Mismatches, OverlapTable, concat
from panbench.runs import (
    DatasetRecord,
    DeviceRecord,
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
from panbench.runs.comparable import differing_settings, refuse_other_settings
from panbench.runs.sharded import Sharded
from panbench.scoring.counting import CountedChunk, Fault, ImagePairs, count_images, reported_faults


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
    resume: continue the run at `out`, if there is one: only images that it lacks are scored
    shard: (i, n) scores the i-th of n parts of the images, by id, from 1; `runs merge` joins the runs
    images: the folder of photographs, which scoring does not read; it is recorded for pictures
    reporter: receives progress, and notices on ground truth whose PNGs and JSON disagree and on likely mistakes
    Images are written to `out` in chunks of PART_IMAGES, so memory depends on the two JSONs only, and a killed run
    loses one chunk.
    Raises BadDataset or PredictionMismatch with a message for each kind of fault and its first images. Complete chunks
    without a fault are then stored for `resume`; with fewer than PART_IMAGES images there is none, and no run.
    """
    clock = _ScoringClock()
    if threads is not None and threads < 1:
        raise BadArgument(f"The number of threads must be at least 1, not {threads}.")
    if resume and out is None:
        raise BadArgument("--resume continues a stored run. Name its folder with --out.")
    refuse_overwrite_and_resume(overwrite, resume)
    resumed = resume and out is not None and unfinished_run(out) is not None
    if out is not None and not resumed:
        check_room(out, overwrite)
    if slower := why_not_compiled():
        reporter.notice(slower)
    if images is not None and not path_at(images).is_dir():
        raise BadDataset(
            f"There is no folder {images} with the images. Give the folder of photographs, or leave it out."
        )
    gt = read_annotation_columns(gt_json, gt_dir)
    pred = read_annotation_columns(pred_json, pred_dir, predictions=True)
    for side, columns, option in (("ground-truth", gt, "--gt-dir"), ("predicted", pred, "--pred-dir")):
        if not columns.folder.is_dir():
            raise BadDataset(f"There is no folder {columns.folder} with the {side} id PNGs. Give theirs with {option}.")
    paired = ImagePairs.of(gt, pred, shard)
    misfits = paired.faults(ignore_extra, allow_missing)
    clock.end_stage("load")

    arguments: dict[str, Setting] = {
        "ignore_extra": ignore_extra,
        "allow_missing": allow_missing,
        "boundary": boundary,
        "max_pixels": max_pixels,
        **({} if shard is None else {"shard": f"{shard[0]}/{shard[1]}"}),
    }
    info = _score_run_info(paired, out, arguments, images)
    writer = _resume_writer(out, info) if out is not None and resumed else None
    store = _ScoredImages(out, info, overwrite, writer)
    wrong, gt_wrong, mismatches = list[Fault](), list[Fault](), Mismatches.of(OverlapTable.empty())
    for message in paired.likely_mistakes():
        reporter.notice(message)
    try:
        rows = [row for row in paired.rows if gt.image_ids[row] not in store.done]
        workers = threads or available_cores()
        for chunk in count_images(paired, rows, reporter, threads=workers, boundary=boundary, max_pixels=max_pixels):
            found = Mismatches.of(chunk.table)
            mismatches += found
            wrong += chunk.prediction_faults
            gt_wrong += chunk.gt_faults
            if not (found or chunk.prediction_faults or chunk.gt_faults or misfits):
                store.add_chunk(chunk)
        # The likely cause comes first, as its consequences can fill hundreds of lines.
        found_in_pngs = reported_faults(wrong, "predicted", pred) + mismatches.messages()
        faults = paired.cause_of_absent_segments(mismatches) + misfits + found_in_pngs
        if faults or gt_wrong:
            kind = PredictionMismatch if faults else BadDataset
            raise kind("\n".join(reported_faults(gt_wrong, "ground-truth", gt) + faults + store.resume_hint()))
        paired.check_ground_truth_pngs(store.faults)
        clock.end_stage("overlap")
        run = store.finish_run(info.images, clock)
        if run.info.images.gt_faults and (notice := run.info.images.gt_faults.notice):
            reporter.notice(notice)
        return run
    except BaseException as problem:
        store.mark_failed(problem)
        raise


def as_json(run: Run) -> dict[str, Any]:
    """Returns the object that `score --json` prints: fractions 0–1, None for empty means.

    `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …, "per_category": {"<id>": {"name", "isthing", "PQ", "SQ",
    "RQ", "TP", "FP", "FN"}}}` with every category of the ground truth; one that occurs nowhere has zeros.
    """
    from panbench.metrics.pq import summarise
    from panbench.scoring.evaluator import pq_by_category

    table = run.pq()
    per_category = {str(category_id): numbers for category_id, numbers in pq_by_category(table).items()}
    return {**summarise(table), "per_category": per_category}


class _ScoredImages:
    """Stores the overlap tables of scored images in memory, or in a run folder that it creates with the first ones."""

    def __init__(
        self, out: str | os.PathLike[str] | None, info: RunInfo, overwrite: bool, writer: RunWriter | None
    ) -> None:
        """Takes the run folder to create (None: keep all in memory), its run.json, and a resumed run's writer."""
        self._out, self._info, self._overwrite, self._writer = out, info, overwrite, writer
        self._sums_are_complete = writer is None
        self.done: frozenset[int] = writer.done if writer else frozenset()
        self._tables: list[OverlapTable] = []
        self._sums, self.faults = CategorySums(info.categories), GroundTruthFaults()

    def add_chunk(self, chunk: CountedChunk) -> None:
        """Stores the overlap table of images whose PNGs have no fault. Raises BadDataset for an impossible area.

        A table that has one is not stored.
        """
        self._sums.add(self._sums.map_chunk(Matched.of(chunk.table)))
        self.faults = self.faults + chunk.table.ground_truth_faults()
        if self._out is None:
            self._tables.append(chunk.table)
        else:
            self._open_writer(self._out).write_part(chunk.table, files=chunk.files)

    def resume_hint(self) -> list[str]:
        """Returns a hint on how to resume once the faults are fixed, as a list; [] if nothing was stored."""
        if self._writer is None:
            return []
        return [f"All chunks of images without a fault are stored in {self._out}: fix the rest and add --resume."]

    def finish_run(self, images: ImagesRecord, clock: "_ScoringClock") -> Run:
        """Completes the run once all images are scored, and returns it."""
        n = images.expected or 0
        images = replace(images, scored=n)
        if self._out is None:
            summary = SummaryRecord.of(self._sums.summary())
            info = replace(self._info, images=replace(images, gt_faults=self.faults), summary=summary)
            return Run(replace(info, **clock.run_info_seconds(n)), table=concat(self._tables))
        writer = self._open_writer(self._out)
        # Parts that an earlier session wrote are not in the sums, so they are computed from all parts.
        stored = None if self._sums_are_complete else Run(writer.info, writer.path)
        summary = SummaryRecord.of(self._sums.summary() if stored is None else stored.summary())
        faults = self.faults if stored is None else stored.ground_truth_faults()
        clock.end_stage("write")
        return writer.finish(
            "done", images=replace(images, gt_faults=faults), summary=summary, **clock.run_info_seconds(n)
        )

    def mark_failed(self, problem: BaseException) -> None:
        """Marks the run as interrupted or failed, if any of it was written."""
        if self._writer is None:
            return
        status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, PanbenchError):
            self._writer.finish(status, error=str(problem) or type(problem).__name__)

    def _open_writer(self, out: str | os.PathLike[str]) -> RunWriter:
        """Returns the writer of the run folder `out`; the first call creates the folder."""
        if self._writer is None:
            self._writer = RunWriter.create(out, self._info, self._overwrite)
        return self._writer


def _resume_writer(out: str | os.PathLike[str], info: RunInfo) -> RunWriter:
    """Opens the writer of a stored run. Raises BadRun if the run was made with other settings."""
    stored = unfinished_run(out)
    assert stored is not None
    refuse_other_settings(out, differing_settings(stored.info, info))
    return RunWriter.resume(out)


class _ScoringClock:
    """Measures the seconds of a scoring, by stage and in all."""

    def __init__(self) -> None:
        """Starts the clock, with no stage timed yet."""
        self._began = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def end_stage(self, stage: str) -> None:
        """Records the time since the previous stage ended as the duration of this stage."""
        now = time.perf_counter()
        self._stages[stage] = now - self._last
        self._last = now

    def run_info_seconds(self, images: int) -> dict[str, Any]:
        """Returns the fields `seconds` and `images_per_second` of RunInfo."""
        wall = time.perf_counter() - self._began
        stages = {stage: self._stages.get(stage) for stage in STAGES}
        rounded = {stage: None if spent is None else round(spent, 4) for stage, spent in stages.items()}
        return {
            "seconds": SecondsRecord(**rounded, wall=round(wall, 4)),
            "images_per_second": round(images / wall, 2) if images else None,
        }


def _score_run_info(
    paired: ImagePairs,
    out: str | os.PathLike[str] | None,
    arguments: Mapping[str, Setting],
    images: str | os.PathLike[str] | None,
) -> RunInfo:
    """Makes the record of a run before its first image is scored: inputs, settings, versions."""
    gt, pred = paired.gt, paired.pred
    missing = paired.missing_predictions()
    return RunInfo(
        kind="score",
        name=pred.path.stem if out is None else Path(out).absolute().name,
        dataset=DatasetRecord(
            name=gt.path.stem,
            gt=str(gt.path.absolute()),
            gt_dir=str(gt.folder.absolute()),
            images=None if images is None else str(path_at(images).absolute()),
            fingerprint=gt.sha256,
            rows=fingerprint_of_columns(gt),
            n_images=len(gt),
        ),
        predictions=PredictionsRecord(
            json=str(pred.path.absolute()),
            folder=str(pred.folder.absolute()),
            sha256=pred.sha256,
            rows=fingerprint_of_columns(pred, predictions=True),
        ),
        categories=tuple(gt.categories),
        arguments=arguments,
        versions={**provenance.versions(), "decoder": "opencv" if native() is None else "native"},
        git_commit=None if out is None else provenance.git_commit(),
        device=DeviceRecord(**provenance.describe_device("cpu", None)),
        images=ImagesRecord(
            expected=len(paired.rows),
            whole=len(gt) if "shard" in arguments else None,
            missing=len(missing),
            missing_ids=tuple(missing),
            extra=len(paired.extra_predictions()),
        ),
    )


@dataclass(frozen=True)
class ShardedScoring(Sharded):
    """A call of `score_folder` that several processes do in shards.

    settings: its other arguments
    """

    gt: Path
    pred: Path
    out: Path
    settings: Mapping[str, Any]
    overwrite: bool = False
    resume: bool = False
    command: Sequence[str] = ()
    title: str = "Scoring"

    @property
    def merged_folders(self) -> tuple[Path]:
        """A tuple of one path: the folder of the run that joins all shards."""
        return (self.out,)

    def resumed(self) -> "ShardedScoring":
        """Returns a copy of this sharded scoring that continues from the results that earlier processes stored."""
        return replace(self, overwrite=False, resume=True)

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Scores one shard (share of the images) and writes the result as a run; `folders` holds only its path."""
        (out,) = folders
        settings = {**self.settings, "overwrite": self.overwrite, "resume": self.resume}
        score_folder(self.gt, self.pred, out=out, shard=shard, reporter=reporter, **settings)
