"""Merges the runs of shards into one run: `panbench runs merge`."""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadRun, PanbenchError
from panbench.base.files import link_or_copy, sha256_of
from panbench.base.shards import Shard, parse_shard
from panbench.base.text import listed
from panbench.panoptic.coco import read_png_names
from panbench.panoptic.fingerprint import fingerprint_of_files, joined_fingerprint
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.panoptic.parts import read_part
from panbench.runs.comparable import differing_settings
from panbench.runs.folder import Run, load_run
from panbench.runs.hashes import check_recorded, copy_recorded, recorded
from panbench.runs.layout import CANDIDATES, PREDICTIONS, PREDICTIONS_JSON, candidate_files, inside
from panbench.runs.predictions import write_predictions_document
from panbench.runs.record import ImagesRecord, MemoryRecord, PredictionsRecord, RunInfo, SecondsRecord, Setting
from panbench.runs.sources import join_paths, split_paths
from panbench.runs.writer import RunWriter

SHARD_SETTINGS = frozenset({"shard", "images_sha256"})
"""Settings that select a run's images, in which shards differ."""

FILE_SETTINGS = frozenset({"dataset", "dataset_fingerprint", "predictions"})
"""Settings with the paths and hashes of JSONs, in which shards on separate JSONs differ."""


def merge_runs(
    shards: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    allow_missing: bool = False,
    command: Sequence[str] = (),
) -> Run:
    """Merges runs of one dataset, made with the same settings on different images, into one run.

    The result is the run that one process would have made, at the same batch size: rows, scores, and of evaluations the
    stored predictions and candidates. Times are sums, and there is no rate.
    Shards may have separate JSONs, with the same categories and other images, if each JSON was scored completely; the
    merged run then covers all their images.
    allow_missing: some I of `--shard I/N` may be absent; the run is then interrupted, and `--resume` scores the rest
    command: the command line, for run.json
    Raises BadRun, and writes nothing, if shards differ in settings, share an image, are missing, unfinished or damaged,
    or leave out images of a JSON of their own.
    """
    if not shards:
        raise BadArgument("No shard is named. Name the runs to merge.")
    runs = [load_run(shard) for shard in shards]
    if any(run.path is not None and run.path.resolve() == Path(out).resolve() for run in runs):
        raise BadArgument(f"{out} is one of the shards. Give another folder with --out.")
    _check_shards(runs)
    missing = _missing_shards(runs)
    if missing and not allow_missing:
        raise BadRun(
            f"{_shards_were(missing)} missing: {listed(missing)}. Make the missing part with --shard, or merge without "
            "it by --allow-missing."
        )
    predictions = _ShardPredictions.of(runs)
    infos = [run.info for run in runs]
    first = _merged_record(infos)
    info = replace(
        first,
        name=Path(out).absolute().name,
        arguments=_merged_arguments(first, infos),
        command=tuple(command),
        images=_merged_images(runs),
        seconds=_total_seconds(infos),
        images_per_second=None,
        images_per_second_low=None,
        images_per_second_high=None,
        memory=_peak_memory(infos),
        summary=None,
        started=min((one.started for one in infos if one.started), default=None),
    )
    writer = RunWriter.create(out, info, overwrite)
    try:
        for number, run in sorted(zip(_numbers_in_file_names(runs), runs, strict=True), key=lambda pair: pair[0]):
            files = run.members.files()
            if predictions is None and run.info.predictions is None:
                files = files.without_predictions()
            for part in run.members.admitted:
                table = read_part(part)
                copied = () if predictions is None else predictions.copy_id_pngs(run, table.image_ids, writer.path)
                writer.write_part(table, files.only(table.image_ids), copied, shard=number)
            for name, rows in run.study_tables.items():
                if rows.table is not None:
                    writer.write_study_rows(name, rows.table, shard=number)
        if predictions is not None:
            predictions.write_merged_json(writer.path)
        _copy_candidate_masks(runs, writer.path)
        if not missing:
            return writer.finish("done")
        return writer.finish("interrupted", error=f"Merged while {_shards_were(missing)} missing: {listed(missing)}.")
    except BaseException as problem:
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish("failed", error=str(problem) or type(problem).__name__)
        raise


def _shard_of_run(run: Run) -> Shard | None:
    """Returns which shard I/N a run is; None if it was made without --shard."""
    words = run.info.arguments.get("shard")
    return None if words is None else parse_shard(str(words))


def _numbers_in_file_names(runs: Sequence[Run]) -> list[int]:
    """Returns each run's number, with which its files' names begin in the merged run.

    It is the number of its shard, or 1, 2, … by position if these are not distinct.
    """
    shards = [_shard_of_run(run) for run in runs]
    numbers = [shard.number for shard in shards if shard is not None]
    return numbers if len(set(numbers)) == len(runs) else list(range(1, len(runs) + 1))


def _missing_shards(runs: Sequence[Run]) -> list[str]:
    """Returns which of the N shards of `--shard I/N` are not among the runs; [] for runs without --shard."""
    held: dict[str | None, set[Shard]] = {}
    for run in runs:
        if (shard := _shard_of_run(run)) is None:
            return []
        held.setdefault(run.info.dataset.fingerprint, set()).add(shard)
    missing = []
    for shards in held.values():
        if len(counts := {shard.of for shard in shards}) > 1:
            raise BadRun(f"These are not the shards of one run: {listed(sorted(map(str, shards)))}.")
        (count,) = counts
        missing += [str(shard) for number in range(1, count + 1) if (shard := Shard(number, count)) not in shards]
    return missing


def _shards_were(missing: Sequence[str]) -> str:
    """Returns "1 shard was" or "2 shards were", for messages."""
    return "1 shard was" if len(missing) == 1 else f"{len(missing)} shards were"


def _merged_arguments(first: RunInfo, infos: Sequence[RunInfo]) -> Mapping[str, Setting]:
    """Returns the settings for the merged run's record, without those in which the shards differ."""
    alike = {name for name in SHARD_SETTINGS - {"shard"} if len({str(info.arguments.get(name)) for info in infos}) == 1}
    return {name: value for name, value in first.arguments.items() if name not in SHARD_SETTINGS or name in alike}


class _ShardPredictions:
    """The id PNGs and predictions.json that the shards of an evaluation stored; copies them to the merged run."""

    def __init__(self, documents: Mapping[Path, Mapping[str, Any]]) -> None:
        """Takes what predictions.json in each run folder contains.

        `of` reads it and calls this.
        """
        self._documents = documents
        self._names = {path: read_png_names(path / PREDICTIONS_JSON) for path in documents}

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "_ShardPredictions | None":
        """Reads predictions.json of all runs; None if none has it. Raises BadRun if only some do, or if it changed."""
        paths = [run.path for run in runs if run.path is not None]
        lacking = [path for path in paths if not (path / PREDICTIONS_JSON).is_file()]
        if len(lacking) == len(paths):
            return None
        if lacking:
            raise BadRun(
                f"{listed(lacking)} {'has' if len(lacking) == 1 else 'have'} no {PREDICTIONS_JSON}, and other shards "
                "do. Restore it, make the shard again, or delete the predictions of all shards."
            )
        for path in paths:
            check_recorded(path, PREDICTIONS_JSON)
        return cls({path: json.loads((path / PREDICTIONS_JSON).read_bytes()) for path in paths})

    def copy_id_pngs(self, run: Run, images: npt.NDArray[np.int64], out: Path) -> list[Path]:
        """Copies the id PNGs of some images into the run folder `out`; returns their paths. Raises BadRun."""
        assert run.path is not None
        copied = []
        for image in images.tolist():
            name = f"{PREDICTIONS}/{self._names[run.path].get(image)}"
            source, target = inside(run.path, name), inside(out, name)
            if not source.is_file():
                raise BadRun(f"{source} is missing. Restore it, or make the shard again.")
            link_or_copy(source, target)
            copied.append(target)
        return copied

    def write_merged_json(self, out: Path) -> None:
        """Writes the merged predictions.json."""
        first = next(iter(self._documents.values()))
        annotations = [record for document in self._documents.values() for record in document["annotations"]]
        write_predictions_document(out, annotations, first["categories"])


def _copy_candidate_masks(runs: Sequence[Run], out: Path) -> None:
    """Copies the files of candidate masks into the merged run, if every run with images stored them."""
    linked: dict[str, tuple[Path, str]] = {}
    for run in runs:
        assert run.path is not None
        files = candidate_files(run.path)
        if not files and len(run.images):
            return
        digests = recorded(run.path)
        for file in files:
            name = f"{CANDIDATES}/{file.name}"
            source = inside(run.path, name)
            linked[name] = source, digests.get(name) or sha256_of(source)
    for name, (file, digest) in linked.items():
        copy_recorded(out, name, file, digest)


def _merged_record(infos: Sequence[RunInfo]) -> RunInfo:
    """Returns the first shard's record, with datasets and predictions of all shards if they have separate JSONs."""
    first = infos[0]
    if not _have_separate_ground_truths(infos):
        return first
    datasets = list({info.dataset.fingerprint: info.dataset for info in infos}.values())
    images = {dataset.images for dataset in datasets}
    gt = join_paths(dataset.gt for dataset in datasets if dataset.gt)
    fingerprint = fingerprint_of_files(dataset.fingerprint for dataset in datasets if dataset.fingerprint)
    dataset = replace(
        first.dataset,
        name=first.dataset.name if len({one.name for one in datasets}) == 1 else _common_dataset_name(gt),
        gt=gt,
        gt_dir=join_paths(one.gt_dir for one in datasets if one.gt_dir) or None,
        images=images.pop() if len(images) == 1 else None,
        fingerprint=fingerprint,
        rows=joined_fingerprint(one.rows for one in datasets if one.rows),
        n_images=sum(one.n_images or 0 for one in datasets),
    )
    arguments = dict(first.arguments)
    if "dataset_fingerprint" in arguments:
        arguments["dataset_fingerprint"] = fingerprint
    return replace(first, dataset=dataset, predictions=_merged_predictions(infos), arguments=arguments)


def _common_dataset_name(gt: str) -> str:
    """Names a dataset after the common prefix of its JSONs: gt for gt-00.json and gt-01.json."""
    letters = zip(*(path.stem for path in split_paths(gt)), strict=False)
    begin = "".join(each[0] for each in itertools.takewhile(lambda each: len(set(each)) == 1, letters))
    return begin.removeprefix("panoptic_").rstrip("-_. 0") or "several"


def _merged_predictions(infos: Sequence[RunInfo]) -> PredictionsRecord | None:
    """Returns the record of all scored predictions; with several JSONs, their paths are joined."""
    each = list({info.predictions.sha256: info.predictions for info in infos if info.predictions}.values())
    if len(each) < 2:
        return infos[0].predictions
    rows = [one.rows for one in each if one.rows is not None]
    return PredictionsRecord(
        json=join_paths(one.json for one in each),
        folder=join_paths(one.folder for one in each),
        sha256=fingerprint_of_files(one.sha256 for one in each),
        rows=joined_fingerprint(rows) if len(rows) == len(each) else None,
    )


def _have_separate_ground_truths(infos: Sequence[RunInfo]) -> bool:
    """True if not all shards were scored on the same ground-truth JSON."""
    return len({info.dataset.fingerprint for info in infos}) > 1


def _check_separate_ground_truths(runs: Sequence[Run]) -> None:
    """Raises BadRun unless every image of each shard's own ground-truth JSON was scored."""
    by_json: dict[str | None, list[Run]] = {}
    for run in runs:
        by_json.setdefault(run.info.dataset.fingerprint, []).append(run)
    for of_json in by_json.values():
        dataset = of_json[0].info.dataset
        if dataset.rows is None:
            raise BadRun(
                f"{of_json[0].path} does not record the fingerprint of its rows, which runs on other JSONs are joined "
                "by. Make it again."
            )
        held = sum(len(run.images) + run.info.images.skipped for run in of_json)
        if held != dataset.n_images:
            raise BadRun(
                f"{of_json[0].path} has {held:,} of the {dataset.n_images or 0:,} images of its ground truth "
                f"{dataset.gt}. Runs on different JSONs can be merged if each JSON was scored completely."
            )


def _check_shards(runs: Sequence[Run]) -> None:
    """Raises BadRun for runs that cannot be merged: unfinished, damaged, of other settings, or with a shared image."""
    first = runs[0]
    own = _have_separate_ground_truths([run.info for run in runs])
    may_differ = SHARD_SETTINGS | FILE_SETTINGS if own else SHARD_SETTINGS
    for run in runs:
        if run.info.status != "done":
            raise BadRun(
                f"{run.path} is not done ({run.info.status}). Finish it with --resume, or leave it out with "
                "--allow-missing."
            )
        notices = (*run.notices, *(notice for rows in run.study_tables.values() for notice in rows.notices))
        if notices:
            raise BadRun(f"{run.path} is incomplete: {' '.join(notices)}")
        if different := differing_settings(first.info, run.info, may_differ):
            raise BadRun(
                f"{first.path} and {run.path} were made with other settings, so they are not shards of one run: "
                f"{'; '.join(different)}."
            )
    known = np.zeros(0, np.int64)
    for run in runs:
        both = np.intersect1d(known, run.images)
        if len(both):
            owner = next(one for one in runs if one is not run and np.isin(both[0], one.images))
            raise BadRun(
                f"{owner.path} and {run.path} share {len(both):,} images ({listed(map(own_id, both))}). Each image may "
                "be in one shard only."
            )
        known = np.union1d(known, run.images)
    if own:
        _check_separate_ground_truths(runs)


def _merged_images(runs: Sequence[Run]) -> ImagesRecord:
    """Sums the images of all shards: scored, missing, skipped, and their faults."""
    infos = [run.info for run in runs]
    each = [info.images for info in infos]
    faults = [run.info.images.gt_faults for run in runs if len(run.images)]
    skipped = {image: reason for one in each for image, reason in one.skipped_ids.items()}
    expected = None if None in [one.expected for one in each] else sum(one.expected or 0 for one in each)
    if not _have_separate_ground_truths(infos) and each[0].whole is not None:
        expected = each[0].whole
    scored, missing = sum(len(run.images) for run in runs), sum(one.missing for one in each)
    if infos[0].kind == "eval" and expected is not None:
        missing = expected - scored - len(skipped)
    # Each shard counts the images that the ground truth lacks in its complete JSON.
    extra = {info.dataset.fingerprint: info.images.extra for info in sorted(infos, key=lambda info: info.images.extra)}
    return ImagesRecord(
        expected=expected,
        scored=scored,
        missing=missing,
        missing_ids=tuple(image for one in each for image in one.missing_ids),
        extra=sum(extra.values()),
        skipped=len(skipped),
        skipped_ids=skipped,
        oriented=sum(one.oriented for one in each),
        extraneous=sum(one.extraneous for one in each),
        gt_faults=None if None in faults else reduce(add, (one for one in faults if one), GroundTruthFaults()),
    )


def _peak_memory(infos: Sequence[RunInfo]) -> MemoryRecord:
    """Returns the largest peak memory of all shards."""
    each = [asdict(info.memory) for info in infos]
    peaks = {name: [one[name] for one in each if one[name] is not None] for name in each[0]}
    return MemoryRecord(**{name: max(found, default=None) for name, found in peaks.items()})


def _total_seconds(infos: Sequence[RunInfo]) -> SecondsRecord:
    """Returns the sum of all shards' seconds, as if one machine had run them one after the other."""
    each = [asdict(info.seconds) for info in infos]
    return SecondsRecord(**{name: sum(one[name] or 0 for one in each) or None for name in each[0]})
