"""An ensemble of stored runs: their id maps voted into one map an image, scored and stored as a run of its own.

Any framework's predictions will do, as long as the maps were kept (`eval --save-predictions`, or a scored folder).
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TypeVar

from panbench.base import provenance
from panbench.base.errors import BadRun, PredictionMismatch
from panbench.base.files import sha256_of
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.base.threads import default_threads
from panbench.evaluation.kept.tuning import best_by_turns
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
    ModelRecord,
    PredictionsRecord,
    Run,
    RunInfo,
    RunWriter,
    check_room,
    stored_predictions,
    unfinished_run,
    write_predictions_json,
)
from panbench.runs.alike import differing_settings, unlike
from panbench.runs.sources import ground_truth
from panbench.studies.ensembles.shares import (
    STEPS,
    Found,
    Shares,
    check_weights,
    chosen_on_halves,
    given_shares,
    shares_record,
)
from panbench.studies.ensembles.vote import JointTable, fuse_maps, join, overlaps_of

__all__ = ["ensemble_runs"]

IMAGES_A_PART = 200
SECONDS_A_PART = 10.0
Result = TypeVar("Result")


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
    """Votes the maps of runs into one, and writes the run `out` with its predictions. Also the weights that were used.

    weights: one number a run; None counts all alike
    tuned: chooses weights for things and for stuff by PQ on one half of the images (drawn by `seed`) and fuses the
        other half with them, both ways: no image is fused by weights that have seen its ground truth
    title: what tables call it
    resume: go on with the run in the folder, which must have been made with the same settings
    Raises BadArgument for fewer than two runs or weights that do not fit, BadRun when runs differ in ground truth or
    categories or kept no maps, PredictionMismatch when maps differ in size.
    """
    check_weights(runs, weights, tuned)
    _check_data(runs)
    if not resume:
        check_room(out, overwrite)
    truth = ground_truth(_required(runs[0].info.dataset.gt, runs[0]), runs[0].info.dataset.gt_dir)
    members = [_predictions(run) for run in runs]
    images = _shared_images(runs, members, truth)
    isthing = {category.id: category.isthing for category in truth.categories}
    workers = threads or default_threads()

    def read(image_id: int) -> list[PanopticPrediction]:
        shape = None
        if info := truth.images.get(image_id):
            shape = (info.height, info.width)
        return [
            PanopticPrediction(
                image_id,
                read_ids(member, image_id, shape, PredictionMismatch),
                member.annotations[image_id].segments,
            )
            for member in members
        ]

    if tuned:
        shares, share_of = _tuned(truth, images, read, isthing, len(runs), seed, workers, reporter)
    else:
        shares, share_of = given_shares(weights, len(runs), images)

    info = _info(runs, Path(out), title, shares, tuned, seed, len(images))
    stored = unfinished_run(out) if resume else None
    if stored is not None and (
        different := differing_settings(replace(stored.info, predictions=None), info)  # named when it is done
    ):
        raise BadRun(
            f"{out} cannot be resumed with other settings: {'; '.join(different)}. Give the settings it was made with, "
            "or another --out."
        )
    if stored is not None and stored.info.status == "done" and not stored.faults and stored.path == Path(out):
        reporter.notice(f"{out} is already complete.")
        return stored, shares
    writer = RunWriter.create(out, info, overwrite) if stored is None else RunWriter.resume(out)
    try:
        run = _write(writer, truth, images, read, share_of, isthing, workers, reporter)
    except BaseException as problem:
        status = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        writer.finish(status, error=str(problem) or type(problem).__name__)
        raise
    return run, shares


def _write(
    writer: RunWriter,
    truth: PanopticSet,
    images: Sequence[int],
    read: Callable[[int], list[PanopticPrediction]],
    share_of: Mapping[int, Shares],
    isthing: Mapping[int, bool],
    workers: int,
    reporter: Reporter,
) -> Run:
    folder = writer.path / PREDICTIONS

    def fused(image_id: int) -> tuple[OverlapTable, bytes]:
        prediction = fuse_maps(read(image_id), isthing, share_of[image_id].of(isthing))
        digest = write_id_png(folder / _png_name(truth, image_id), prediction.ids, durable=True)
        gt_ids = read_id_png(truth.png_path(image_id), prediction.ids.shape, image_id=image_id)  # type: ignore[arg-type]
        segments = truth.annotations[image_id].segments
        return overlap_table(image_id, gt_ids, segments, prediction.ids, prediction.segments), digest

    left = [image_id for image_id in images if image_id not in writer.done]
    block: list[tuple[OverlapTable, bytes]] = []
    since = time.monotonic()
    for number, found in enumerate(_in_order(fused, left, workers), start=1):
        block.append(found)
        if len(block) == IMAGES_A_PART or time.monotonic() - since >= SECONDS_A_PART or number == len(left):
            written = left[number - len(block) : number]
            files = FileHashes.of([(one, b"", b"") for one in written], predictions=[digest for _, digest in block])
            beside = [folder / _png_name(truth, image_id) for image_id in written]
            writer.write_part(concat([table for table, _ in block]), files=files, beside=beside)
            block, since = [], time.monotonic()
        reporter.progress("Voting", len(images) - len(left) + number, len(images), "images")
    path = write_predictions_json(
        Run(writer.info, writer.path), {image_id: _png_name(truth, image_id) for image_id in images}
    )
    # The run may be about to take the place of another: its files are named where they will be.
    final = writer.home.absolute()
    predictions = PredictionsRecord(str(final / path.name), str(final / folder.name), sha256_of(path))
    return writer.finish("done", predictions=predictions, images=ImagesRecord(expected=len(images), scored=len(images)))


def _tuned(
    truth: PanopticSet,
    images: Sequence[int],
    read: Callable[[int], list[PanopticPrediction]],
    isthing: Mapping[int, bool],
    models: int,
    seed: int,
    workers: int,
    reporter: Reporter,
) -> Found:
    """The weights chosen on each half, and for each image those of the half that it is not in."""

    def joint(image_id: int) -> JointTable:
        predictions = read(image_id)
        shape = predictions[0].ids.shape
        gt_ids = read_id_png(truth.png_path(image_id), shape, image_id=image_id)  # type: ignore[arg-type]
        return join(predictions, isthing, gt_ids)

    tables: dict[int, JointTable] = {}
    for table in _in_order(joint, images, workers):
        tables[table.image_id] = table
        reporter.progress("Matching", len(tables), len(images), "images")

    def pq(of: Sequence[int], chosen: Mapping[str, Sequence[float]]) -> float:
        weights = {category: chosen["things" if thing else "stuff"] for category, thing in isthing.items()}
        voted = concat([overlaps_of(tables[one], weights, truth.annotations[one].segments) for one in of])
        return summarise(pq_table(Matched.of(voted), truth.categories))["All"]["PQ"] or 0.0

    choices = [choice for choice in product(STEPS, repeat=models) if max(choice) == 1.0]
    alike = (1.0,) * models
    start: dict[str, tuple[float, ...]] = {"things": alike, "stuff": alike}

    def choose(here: Sequence[int]) -> Shares:
        chosen = best_by_turns(start, choices, lambda weights: pq(here, weights), rounds=2)
        return Shares(chosen["things"], chosen["stuff"], len(here), pq(here, chosen))

    return chosen_on_halves(images, seed, choose)


def _in_order(work: Callable[[int], Result], images: Sequence[int], workers: int) -> Iterator[Result]:
    """What `work` gives for each image, in order, by threads that run a few images ahead."""
    waiting = iter(images)
    with ThreadPoolExecutor(workers, "vote") as pool:
        ahead = deque(pool.submit(work, image_id) for image_id in islice(waiting, 2 * workers))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(work, image_id) for image_id in islice(waiting, 1))
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_data(runs: Sequence[Run]) -> None:
    if reason := unlike(runs, "ground truth", "categories"):
        raise BadRun(f"{reason}: there is nothing to vote on.")


def _required(path: str | None, run: Run) -> str:
    if path is None or not Path(path).is_file():
        raise BadRun(f"{run.name}: its ground truth {path} was not found. Put it back, or score the run again.")
    return path


def _predictions(run: Run) -> PanopticSet:
    """The maps that a run kept. Raises BadRun when there are none."""
    found = stored_predictions(run)
    if found is None:
        if run.info.predictions is None and run.path is None:
            raise BadRun(f"{run.name} is not on disk, so its maps cannot be read.")
        kept = run.info.predictions.json if run.info.predictions else run.path and run.path / PREDICTIONS_JSON
        raise BadRun(f"{run.name} kept no maps ({kept} was not found). Make it again with --save-predictions.")
    return found


def _shared_images(runs: Sequence[Run], members: Sequence[PanopticSet], truth: PanopticSet) -> list[int]:
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


def _png_name(truth: PanopticSet, image_id: int) -> str:
    return str(Path(truth.annotations[image_id].file_name).with_suffix(".png"))


def _info(
    runs: Sequence[Run], out: Path, title: str | None, shares: Sequence[Shares], tuned: bool, seed: int, images: int
) -> RunInfo:
    known = [run.info.model.params for run in runs if run.info.model and run.info.model.params]
    return RunInfo(
        kind="score",
        name=out.absolute().name,
        model=ModelRecord(
            name="ensemble",
            title=title or f"Ensemble of {len(runs)} runs",
            family="ensemble",
            params=sum(known) if len(known) == len(runs) else None,
        ),
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
