"""Runs of shards joined to one run: `panbench runs merge`."""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from panbench.base.errors import BadArgument, BadRun, PanbenchError
from panbench.base.text import listed
from panbench.panoptic.fingerprint import fingerprint_of_files, joined_rows
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.panoptic.parts import read_part
from panbench.panoptic.sources import joined_text, name_of
from panbench.runs.alike import differing_settings, settings_of
from panbench.runs.folder import Run, load_run
from panbench.runs.record import ImagesRecord, PredictionsRecord, RunInfo, SecondsRecord
from panbench.runs.writer import RunWriter

__all__ = ["merge_runs", "settings_hash"]

_Value = TypeVar("_Value")

OF_A_SHARD = frozenset({"shard", "images_sha256"})
"""Arguments that say which images a run was asked for: shards differ in them."""

OF_OWN_FILES = frozenset({"dataset", "dataset_fingerprint", "predictions"})
"""Settings that name the JSONs: shards with JSONs of their own differ in them."""


def settings_hash(info: RunInfo) -> str:
    """The SHA-256 of all that makes a run's numbers, whatever its images: runs of one hash can be joined."""
    return hashlib.sha256(json.dumps(settings_of(info, OF_A_SHARD), sort_keys=True).encode()).hexdigest()


def merge_runs(
    shards: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, overwrite: bool = False
) -> Run:
    """One run of the images of several, which were made alike on different images of one dataset.

    Shards may have JSONs of their own, of the same categories and other images, if each JSON was scored whole: the run
    is then on all of them, and its fingerprint of rows that of their images together.
    run.json then lists the parts, each with its images and its SHA-256. Predictions of shards are not copied.
    Raises BadRun when shards differ in settings, hold the same image, leave out images of a JSON of their own, are not
    done or have parts that cannot be read; nothing is written then.
    """
    if not shards:
        raise BadArgument("No shard is named. Name the runs to merge.")
    runs = [load_run(shard) for shard in shards]
    if any(run.path is not None and run.path.resolve() == Path(out).resolve() for run in runs):
        raise BadArgument(f"{out} is one of the shards. Give another folder with --out.")
    _check(runs)
    infos = [run.info for run in runs]
    first = _on_all(infos)
    arguments = {name: value for name, value in first.arguments.items() if name not in OF_A_SHARD}
    info = replace(
        first,
        name=Path(out).absolute().name,
        arguments={**arguments, "merged_shards": len(runs), "settings_sha256": settings_hash(first)},
        images=_images(infos, sum(len(run.images) for run in runs)),
        seconds=_seconds(infos),
        images_per_second=None,
        summary=None,
        started=min((one.started for one in infos if one.started), default=None),
    )
    writer = RunWriter.create(out, info, overwrite)
    try:
        for rank, run in enumerate(runs):
            files = run.members.files()
            if run.info.predictions is None:  # what was predicted stays in the shards
                files = files.without_predictions()
            for part in run.members.admitted:
                table = read_part(part)
                writer.write_part(table, rank, files.only(table.image_ids))
            for name, rows in run.side_tables.items():
                if rows.table is not None:
                    writer.write_side_rows(name, rows.table, rank)
        return writer.finish("done")
    except BaseException as problem:
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish("failed", error=str(problem) or type(problem).__name__)
        raise


def _on_all(infos: Sequence[RunInfo]) -> RunInfo:
    """The first run's record, on the ground truth and the predictions of all."""
    first = infos[0]
    if not _has_own_jsons(infos):
        return first
    datasets = _distinct([info.dataset for info in infos], lambda dataset: dataset.fingerprint)
    images = {dataset.images for dataset in datasets}
    gt = joined_text(dataset.gt for dataset in datasets if dataset.gt)
    fingerprint = fingerprint_of_files(dataset.fingerprint for dataset in datasets if dataset.fingerprint)
    dataset = replace(
        first.dataset,
        name=first.dataset.name if len({one.name for one in datasets}) == 1 else name_of(gt).removeprefix("panoptic_"),
        gt=gt,
        gt_dir=joined_text(one.gt_dir for one in datasets if one.gt_dir) or None,
        images=images.pop() if len(images) == 1 else None,
        fingerprint=fingerprint,
        rows=joined_rows(one.rows for one in datasets if one.rows),
        n_images=sum(one.n_images or 0 for one in datasets),
    )
    arguments = dict(first.arguments)
    if "dataset_fingerprint" in arguments:
        arguments["dataset_fingerprint"] = fingerprint
    return replace(first, dataset=dataset, predictions=_predictions_of_all(infos), arguments=arguments)


def _predictions_of_all(infos: Sequence[RunInfo]) -> PredictionsRecord | None:
    each = _distinct([info.predictions for info in infos if info.predictions], lambda one: one.sha256)
    if len(each) < 2:
        return infos[0].predictions
    rows = [one.rows for one in each if one.rows is not None]
    return PredictionsRecord(
        json=joined_text(one.json for one in each),
        folder=joined_text(one.folder for one in each),
        sha256=fingerprint_of_files(one.sha256 for one in each),
        rows=joined_rows(rows) if len(rows) == len(each) else None,
    )


def _has_own_jsons(infos: Sequence[RunInfo]) -> bool:
    return len({info.dataset.fingerprint for info in infos}) > 1


def _distinct(values: Iterable[_Value], key: Callable[[_Value], Any]) -> list[_Value]:
    found: dict[Any, _Value] = {}
    for value in values:
        found.setdefault(key(value), value)
    return list(found.values())


def _check_own_jsons(runs: Sequence[Run]) -> None:
    """Raises BadRun unless each JSON of ground truth was scored whole: then none has images of another's."""
    for dataset in _distinct([run.info.dataset for run in runs], lambda dataset: dataset.fingerprint):
        of_json = [run for run in runs if run.info.dataset.fingerprint == dataset.fingerprint]
        if dataset.rows is None:
            raise BadRun(
                f"{of_json[0].path} does not record the fingerprint of its rows, which runs on other JSONs are joined "
                "by. Make it again."
            )
        held = sum(len(run.images) + run.info.images.skipped for run in of_json)
        if held != dataset.n_images:
            raise BadRun(
                f"{of_json[0].path} has {held:,} of the {dataset.n_images or 0:,} images of its ground truth "
                f"{dataset.gt}. Runs on different JSONs merge when each JSON was scored whole."
            )


def _check(runs: Sequence[Run]) -> None:
    first = runs[0]
    own = _has_own_jsons([run.info for run in runs])
    may_differ = OF_A_SHARD | OF_OWN_FILES if own else OF_A_SHARD
    for run in runs:
        if run.info.status != "done":
            raise BadRun(f"{run.path} is not done ({run.info.status}). Finish it with --resume before it is merged.")
        notices = (*run.notices, *(notice for rows in run.side_tables.values() for notice in rows.notices))
        if notices:
            raise BadRun(f"{run.path} is not whole: {' '.join(notices)}")
        if different := differing_settings(first.info, run.info, may_differ):
            raise BadRun(
                f"{first.path} and {run.path} were made with other settings, so they are no shards of one run: "
                f"{'; '.join(different)}."
            )
    known, owner = np.zeros(0, np.int64), first
    for run in runs:
        both = np.intersect1d(known, run.images)
        if len(both):
            owner = next(one for one in runs if one is not run and np.isin(both[0], one.images))
            raise BadRun(
                f"{owner.path} and {run.path} share {len(both):,} images ({listed(both.tolist())}). Each image may be "
                "in one shard only."
            )
        known = np.union1d(known, run.images)
    if own:
        _check_own_jsons(runs)


def _images(infos: Sequence[RunInfo], scored: int) -> ImagesRecord:
    each = [info.images for info in infos]
    expected = [one.expected for one in each]
    faults = [one.gt_faults for one in each]
    skipped: Mapping[int, str] = reduce(lambda all, one: {**all, **one.skipped_ids}, each, {})
    return ImagesRecord(
        expected=None if None in expected else sum(one or 0 for one in expected),
        scored=scored,
        missing=sum(one.missing for one in each),
        missing_ids=tuple(image for one in each for image in one.missing_ids),
        # What the ground truth lacks is looked for in the whole JSON by each shard.
        extra=sum(_extra_by_json(infos).values()),
        skipped=len(skipped),
        skipped_ids=skipped,
        oriented=sum(one.oriented for one in each),
        extraneous=sum(one.extraneous for one in each),
        gt_faults=None if None in faults else reduce(add, (one for one in faults if one), GroundTruthFaults()),
    )


def _extra_by_json(infos: Sequence[RunInfo]) -> Mapping[str | None, int]:
    found: dict[str | None, int] = {}
    for info in infos:
        key = info.dataset.fingerprint
        found[key] = max(found.get(key, 0), info.images.extra)
    return found


def _seconds(infos: Sequence[RunInfo]) -> SecondsRecord:
    """Seconds of all shards, as if one machine had run them one after the other."""
    sums: Counter[str] = Counter()
    for info in infos:
        sums.update({field.name: getattr(info.seconds, field.name) or 0 for field in fields(SecondsRecord)})
    return SecondsRecord(**{name: value or None for name, value in sums.items()})
