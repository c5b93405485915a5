"""An ensemble of stored runs: their id maps voted into one map an image, scored and stored as a run of its own.

Any framework's predictions will do, as long as the maps were stored (`eval --save-predictions`, or a scored folder).
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from panbench.base import provenance
from panbench.base.errors import BadRun, PredictionMismatch
from panbench.base.files import sha256_of
from panbench.base.program import default_threads, in_order
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.evaluation.stored.tuning import best_by_turns
from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table, summarise
from panbench.panoptic.coco import read_id_png, read_ids, write_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import PanopticPrediction, PanopticSet
from panbench.runs import (
    PREDICTIONS,
    PREDICTIONS_JSON,
    FileHashes,
    ImagesRecord,
    PredictionsRecord,
    Run,
    RunInfo,
    RunWriter,
    check_room,
    stored_predictions,
    unfinished_run,
    write_predictions_json,
)
from panbench.runs.comparable import differing_settings, refuse_other_settings, why_incomparable
from panbench.runs.sources import read_ground_truth
from panbench.studies.ensembles.shares import (
    STEPS,
    ChosenShares,
    Shares,
    check_run_weights,
    chosen_on_halves,
    ensemble_record,
    given_shares,
    shares_record,
)
from panbench.studies.ensembles.vote import JointTable, count_joint_pixels, fuse_maps, voted_overlap_table

IMAGES_A_PART = 200
SECONDS_A_PART = 10.0


def ensemble_runs(
    runs: Sequence[Run],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    tuned: bool = False,
    seed: int = 0,
    title: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Run, tuple[Shares, ...]]:
    """Votes the maps of runs into one, and writes the run `out` with its predictions; returns it and the weights used.

    weights: one number per run; None weights all runs equally
    tuned: chooses weights for things and for stuff by PQ on one half of the images (drawn by `seed`) and fuses the
        other half with them, both ways: no image is fused with weights that saw its ground truth
    title: the name of the ensemble in tables
    resume: continue the run in the folder, which must have been made with the same settings
    Raises BadArgument for fewer than two runs or weights that do not fit, BadRun if runs differ in ground truth or
    categories or stored no maps, PredictionMismatch if maps differ in size.
    """
    check_run_weights(runs, weights, tuned)
    if reason := why_incomparable(runs, "ground truth", "categories"):
        raise BadRun(f"{reason}: there is nothing to vote on.")
    if not resume:
        check_room(out, overwrite)
    gt_json = runs[0].info.dataset.gt
    if gt_json is None or not Path(gt_json).is_file():
        raise BadRun(f"{runs[0].name}: its ground truth {gt_json} was not found. Put it back, or score the run again.")
    truth = read_ground_truth(gt_json, runs[0].info.dataset.gt_dir)
    members = [_stored_maps(run) for run in runs]
    images = _images_to_vote_on(runs, members, truth)
    isthing = {category.id: category.isthing for category in truth.categories}
    workers = threads or default_threads()

    def read_maps(image_id: int) -> list[PanopticPrediction]:
        """Returns the stored map of an image from each run."""
        shape = None
        if info := truth.images.get(image_id):
            shape = (info.height, info.width)
        return [
            PanopticPrediction(
                image_id, read_ids(member, image_id, shape, PredictionMismatch), member.annotations[image_id].segments
            )
            for member in members
        ]

    if tuned:
        shares, share_of = _tune_votes(truth, images, read_maps, isthing, len(runs), seed, workers, reporter)
    else:
        shares, share_of = given_shares(weights, len(runs), images)

    info = _ensemble_info(runs, Path(out), title, shares, tuned, seed, len(images))
    stored = unfinished_run(out) if resume else None
    if stored is not None:
        # run.json names the predictions only once a run is done.
        refuse_other_settings(out, differing_settings(replace(stored.info, predictions=None), info))
    if stored is not None and stored.info.status == "done" and not stored.faults and stored.path == Path(out):
        reporter.notice(f"{out} is already complete.")
        return stored, shares
    writer = RunWriter.create(out, info, overwrite) if stored is None else RunWriter.resume(out)
    try:
        run = _write_voted(writer, truth, images, read_maps, share_of, isthing, workers, reporter)
    except BaseException as problem:
        status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        writer.finish(status, error=str(problem) or type(problem).__name__)
        raise
    return run, shares


def _write_voted(
    writer: RunWriter,
    truth: PanopticSet,
    images: Sequence[int],
    read_maps: Callable[[int], list[PanopticPrediction]],
    share_of: Mapping[int, Shares],
    isthing: Mapping[int, bool],
    workers: int,
    reporter: Reporter,
) -> Run:
    """Votes, scores and writes the images that the run still lacks; returns the finished run."""
    folder = writer.path / PREDICTIONS

    def fused(image_id: int) -> tuple[OverlapTable, bytes]:
        """Writes an image's voted map as a PNG; returns its overlap table with the ground truth, and the PNG's hash."""
        prediction = fuse_maps(read_maps(image_id), isthing, share_of[image_id].of(isthing))
        digest = write_id_png(folder / _voted_png(truth, image_id), prediction.ids, durable=True)
        gt_ids = read_id_png(truth.png_path(image_id), prediction.ids.shape, image_id=image_id)  # type: ignore[arg-type]
        segments = truth.annotations[image_id].segments
        return overlap_table(image_id, gt_ids, segments, prediction.ids, prediction.segments), digest

    left = [image_id for image_id in images if image_id not in writer.done]
    chunk: list[tuple[OverlapTable, bytes]] = []
    since = time.monotonic()
    for number, found in enumerate(in_order([partial(fused, image_id) for image_id in left], workers), start=1):
        chunk.append(found)
        if len(chunk) == IMAGES_A_PART or time.monotonic() - since >= SECONDS_A_PART or number == len(left):
            written = left[number - len(chunk) : number]
            files = FileHashes.of([(one, b"", b"") for one in written], predictions=[digest for _, digest in chunk])
            beside = [folder / _voted_png(truth, image_id) for image_id in written]
            writer.write_part(concat([table for table, _ in chunk]), files=files, pngs=beside)
            chunk, since = [], time.monotonic()
        reporter.progress("Voting", len(images) - len(left) + number, len(images), "images")
    path = write_predictions_json(
        Run(writer.info, writer.path), {image_id: _voted_png(truth, image_id) for image_id in images}
    )
    # The run may still be in a temporary folder before it replaces another: name the files by their final path.
    final = writer.home.absolute()
    predictions = PredictionsRecord(str(final / path.name), str(final / folder.name), sha256_of(path))
    return writer.finish("done", predictions=predictions, images=ImagesRecord(expected=len(images), scored=len(images)))


def _tune_votes(
    truth: PanopticSet,
    images: Sequence[int],
    read_maps: Callable[[int], list[PanopticPrediction]],
    isthing: Mapping[int, bool],
    models: int,
    seed: int,
    workers: int,
    reporter: Reporter,
) -> ChosenShares:
    """Chooses weights by PQ on each half of the images, to vote on the maps of the other half."""

    def joint_table_with_truth(image_id: int) -> JointTable:
        """Counts an image's pixels for each combination of a true segment and one segment of each run."""
        predictions = read_maps(image_id)
        shape = predictions[0].ids.shape
        gt_ids = read_id_png(truth.png_path(image_id), shape, image_id=image_id)  # type: ignore[arg-type]
        return count_joint_pixels(predictions, isthing, gt_ids)

    tables: dict[int, JointTable] = {}
    for table in in_order([partial(joint_table_with_truth, image_id) for image_id in images], workers):
        tables[table.image_id] = table
        reporter.progress("Matching", len(tables), len(images), "images")

    def pq_on(of: Sequence[int], chosen: Mapping[str, Sequence[float]]) -> float:
        """Returns PQ of the vote by these weights, on some images."""
        weights = {category: chosen["things" if thing else "stuff"] for category, thing in isthing.items()}
        voted = concat([voted_overlap_table(tables[one], weights, truth.annotations[one].segments) for one in of])
        return summarise(pq_table(Matched.of(voted), truth.categories))["All"]["PQ"] or 0.0

    choices = [choice for choice in product(STEPS, repeat=models) if max(choice) == 1.0]
    alike = (1.0,) * models
    start: dict[str, tuple[float, ...]] = {"things": alike, "stuff": alike}

    def best_shares_on(images_of_half: Sequence[int]) -> Shares:
        """Finds the models' voting weights with the highest PQ on some images, first for things, then for stuff."""
        chosen = best_by_turns(start, choices, lambda weights: pq_on(images_of_half, weights), rounds=2)
        return Shares(chosen["things"], chosen["stuff"], len(images_of_half), pq_on(images_of_half, chosen))

    return chosen_on_halves(images, seed, best_shares_on)


def _stored_maps(run: Run) -> PanopticSet:
    """Returns the predictions that a run stored. Raises BadRun if there are none."""
    found = stored_predictions(run)
    if found is None:
        if run.info.predictions is None and run.path is None:
            raise BadRun(f"{run.name} is not on disk, so its maps cannot be read.")
        stored = run.info.predictions.json if run.info.predictions else run.path and run.path / PREDICTIONS_JSON
        raise BadRun(f"{run.name} kept no maps ({stored} was not found). Make it again with --save-predictions.")
    return found


def _images_to_vote_on(runs: Sequence[Run], members: Sequence[PanopticSet], truth: PanopticSet) -> list[int]:
    """Returns the images that the runs and the truth share. Raises BadRun if a run has further images."""
    shared = set(truth.annotations)
    for run, member in zip(runs, members, strict=True):
        shared &= set(member.annotations) & set(run.image_ids())
    if not shared:
        raise BadRun(f"{listed(run.name for run in runs)} have no image in common.")
    for run in runs:
        if len(run.image_ids()) != len(shared):
            raise BadRun(
                f"{run.name} has {len(run.image_ids())} images and the runs have {len(shared)} in common. An ensemble "
                "takes runs of the same images: evaluate them with the same --limit."
            )
    return [image_id for image_id in truth.annotations if image_id in shared]


def _voted_png(truth: PanopticSet, image_id: int) -> str:
    """Returns the file name of an image's voted PNG, taken from its ground truth's PNG."""
    return str(Path(truth.annotations[image_id].file_name).with_suffix(".png"))


def _ensemble_info(
    runs: Sequence[Run], out: Path, title: str | None, shares: Sequence[Shares], tuned: bool, seed: int, images: int
) -> RunInfo:
    """Returns the content of run.json before the first image is voted."""
    return RunInfo(
        kind="score",
        name=out.absolute().name,
        model=ensemble_record(runs, title or f"Ensemble of {len(runs)} runs"),
        dataset=runs[0].info.dataset,
        categories=runs[0].categories,
        arguments={
            "members": "; ".join(str(run.path or run.name) for run in runs),
            "tuned": tuned,
            "seed": seed,
            **shares_record(shares),
        },
        versions=provenance.versions(),
        git_commit=provenance.git_commit(),
        images=ImagesRecord(expected=images),
    )
