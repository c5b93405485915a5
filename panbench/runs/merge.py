"""Runs of shards joined to one run: `panbench runs merge`."""

import contextlib
import itertools
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
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadRun, PanbenchError
from panbench.base.files import link_or_copy, sha256_of
from panbench.base.shards import Shard, parse_shard
from panbench.base.text import listed
from panbench.panoptic.coco import read_png_names
from panbench.panoptic.fingerprint import fingerprint_of_files, joined_rows
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.panoptic.parts import read_part
from panbench.runs.alike import differing_settings
from panbench.runs.folder import Run, load_run
from panbench.runs.layout import CANDIDATES, PREDICTIONS, PREDICTIONS_JSON, candidate_files, inside
from panbench.runs.manifest import adopt_recorded, check_recorded, recorded
from panbench.runs.predictions import write_predictions_document
from panbench.runs.record import ImagesRecord, MemoryRecord, PredictionsRecord, RunInfo, SecondsRecord, Setting
from panbench.runs.sources import joined_text, paths_in
from panbench.runs.writer import RunWriter

__all__ = ["merge_runs"]

_Value = TypeVar("_Value")

OF_A_SHARD = frozenset({"shard", "images_sha256"})
"""Arguments that say which images a run was asked for: shards differ in them."""

OF_OWN_FILES = frozenset({"dataset", "dataset_fingerprint", "predictions"})
"""Settings that name the JSONs: shards with JSONs of their own differ in them."""


def merge_runs(
    shards: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    allow_missing: bool = False,
    command: Sequence[str] = (),
) -> Run:
    """One run of the images of several, which were made alike on different images of one dataset.

    It is the run that one process would have made, at the same batch size: rows, scores, predictions and candidates
    (those of evaluations; what was scored stays where it is). Times are sums, and there is no rate.
    Shards may have JSONs of their own, of the same categories and other images, if each JSON was scored whole: the run
    is then on all of them, and its fingerprint of rows that of their images together.
    allow_missing: of `--shard I/N`, some I may be absent; the run is then interrupted, and `--resume` scores the rest
    command: the command line, for run.json
    Raises BadRun when shards differ in settings, hold the same image, are not all there, leave out images of a JSON of
    their own, are not done or have parts that cannot be read; nothing is written then.
    """
    if not shards:
        raise BadArgument("No shard is named. Name the runs to merge.")
    runs = [load_run(shard) for shard in shards]
    if any(run.path is not None and run.path.resolve() == Path(out).resolve() for run in runs):
        raise BadArgument(f"{out} is one of the shards. Give another folder with --out.")
    _check(runs)
    missing = _missing_shards(runs)
    if missing and not allow_missing:
        raise BadRun(
            f"{_how_many(missing)} missing: {listed(missing)}. Make the missing part with --shard, or merge without it "
            "by --allow-missing."
        )
    pictures = _Predictions.of(runs)
    infos = [run.info for run in runs]
    first = _on_all(infos)
    info = replace(
        first,
        name=Path(out).absolute().name,
        arguments=_arguments(first, infos),
        command=tuple(command),
        images=_images(runs),
        seconds=_seconds(infos),
        images_per_second=None,
        images_per_second_low=None,
        images_per_second_high=None,
        memory=_memory(infos),
        summary=None,
        started=min((one.started for one in infos if one.started), default=None),
    )
    writer = RunWriter.create(out, info, overwrite)
    try:
        for number, run in sorted(zip(_numbers(runs), runs, strict=True), key=lambda pair: pair[0]):
            files = run.members.files()
            if pictures is None and run.info.predictions is None:
                files = files.without_predictions()
            for part in run.members.admitted:
                table = read_part(part)
                taken = () if pictures is None else pictures.take(run, table.image_ids, writer.path)
                writer.write_part(table, files.only(table.image_ids), taken, shard=number)
            for name, rows in run.side_tables.items():
                if rows.table is not None:
                    writer.write_side_rows(name, rows.table, shard=number)
        if pictures is not None:
            pictures.write_json(writer.path)
        _take_candidates(runs, writer.path)
        if not missing:
            return writer.finish("done")
        return writer.finish("interrupted", error=f"Merged while {_how_many(missing)} missing: {listed(missing)}.")
    except BaseException as problem:
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish("failed", error=str(problem) or type(problem).__name__)
        raise


def _shard(run: Run) -> Shard | None:
    words = run.info.arguments.get("shard")
    return None if words is None else parse_shard(str(words))


def _numbers(runs: Sequence[Run]) -> list[int]:
    """The number by which the files of each run begin in the merged one."""
    shards = [_shard(run) for run in runs]
    numbers = [shard.number for shard in shards if shard is not None]
    return numbers if len(set(numbers)) == len(runs) else list(range(1, len(runs) + 1))


def _missing_shards(runs: Sequence[Run]) -> list[str]:
    """The shards of `--shard I/N` that are not among the runs; none where some run is no such shard."""
    held: dict[str | None, set[Shard]] = {}
    for run in runs:
        if (shard := _shard(run)) is None:
            return []
        held.setdefault(run.info.dataset.fingerprint, set()).add(shard)
    missing = []
    for shards in held.values():
        if len(counts := {shard.of for shard in shards}) > 1:
            raise BadRun(f"These are not the shards of one run: {listed(sorted(map(str, shards)))}.")
        (count,) = counts
        missing += [str(shard) for number in range(1, count + 1) if (shard := Shard(number, count)) not in shards]
    return missing


def _how_many(missing: Sequence[str]) -> str:
    return "1 shard was" if len(missing) == 1 else f"{len(missing)} shards were"


def _arguments(first: RunInfo, infos: Sequence[RunInfo]) -> Mapping[str, Setting]:
    """The settings of the run of all images: without what says which images a shard was asked for."""
    alike = {name for name in OF_A_SHARD - {"shard"} if len({str(info.arguments.get(name)) for info in infos}) == 1}
    return {name: value for name, value in first.arguments.items() if name not in OF_A_SHARD or name in alike}


class _Predictions:
    """The id PNGs that shards of an evaluation kept, on their way into the merged run."""

    def __init__(self, documents: Mapping[Path, Mapping[str, Any]]) -> None:
        """Use `of`. documents: the predictions.json of each run folder"""
        self._documents = documents
        self._names = {path: read_png_names(path / PREDICTIONS_JSON) for path in documents}

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "_Predictions | None":
        """None where no run keeps predictions. Raises BadRun where only some do, and for a JSON that changed."""
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

    def take(self, run: Run, images: npt.NDArray[np.int64], out: Path) -> list[Path]:
        """Takes the id PNGs of some images of a run into another; their new paths. Raises BadRun for a missing one."""
        assert run.path is not None
        taken = []
        for image in images.tolist():
            name = f"{PREDICTIONS}/{self._names[run.path].get(image)}"
            source, target = inside(run.path, name), inside(out, name)
            if not source.is_file():
                raise BadRun(f"{source} is missing. Restore it, or make the shard again.")
            link_or_copy(source, target)
            taken.append(target)
        return taken

    def write_json(self, out: Path) -> None:
        """Writes the predictions.json of all."""
        first = next(iter(self._documents.values()))
        annotations = [each for document in self._documents.values() for each in document["annotations"]]
        write_predictions_document(out, annotations, first["categories"])


def _take_candidates(runs: Sequence[Run], out: Path) -> None:
    """Takes the candidates of all runs into another, if all that have images kept them."""
    kept: dict[str, tuple[Path, str]] = {}
    for run in runs:
        assert run.path is not None
        files = candidate_files(run.path)
        if not files and len(run.images):
            return
        digests = recorded(run.path)
        for file in files:
            name = f"{CANDIDATES}/{file.name}"
            source = inside(run.path, name)
            kept[name] = source, digests.get(name) or sha256_of(source)
    for name, (file, digest) in kept.items():
        adopt_recorded(out, name, file, digest)


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
        name=first.dataset.name if len({one.name for one in datasets}) == 1 else _common_name(gt),
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


def _common_name(gt: str) -> str:
    """What the names of several JSONs begin with: gt of gt-00.json and gt-01.json."""
    letters = zip(*(path.stem for path in paths_in(gt)), strict=False)
    begin = "".join(each[0] for each in itertools.takewhile(lambda each: len(set(each)) == 1, letters))
    return begin.removeprefix("panoptic_").rstrip("-_. 0") or "several"


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
            raise BadRun(
                f"{run.path} is not done ({run.info.status}). Finish it with --resume, or leave it out with "
                "--allow-missing."
            )
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
                f"{owner.path} and {run.path} share {len(both):,} images ({listed(map(own_id, both))}). Each image may "
                "be in one shard only."
            )
        known = np.union1d(known, run.images)
    if own:
        _check_own_jsons(runs)


def _images(runs: Sequence[Run]) -> ImagesRecord:
    infos = [run.info for run in runs]
    each = [info.images for info in infos]
    faults = [run.info.images.gt_faults for run in runs if len(run.images)]
    skipped: Mapping[int, str] = reduce(lambda all, one: {**all, **one.skipped_ids}, each, {})
    expected = None if None in [one.expected for one in each] else sum(one.expected or 0 for one in each)
    if not _has_own_jsons(infos) and each[0].whole is not None:
        expected = each[0].whole
    scored, missing = sum(len(run.images) for run in runs), sum(one.missing for one in each)
    if infos[0].kind == "eval" and expected is not None:
        missing = expected - scored - len(skipped)
    return ImagesRecord(
        expected=expected,
        scored=scored,
        missing=missing,
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


def _memory(infos: Sequence[RunInfo]) -> MemoryRecord:
    """The most that a shard needed."""
    peaks = {
        field.name: [peak for info in infos if (peak := getattr(info.memory, field.name)) is not None]
        for field in fields(MemoryRecord)
    }
    return MemoryRecord(**{name: max(found, default=None) for name, found in peaks.items()})


def _seconds(infos: Sequence[RunInfo]) -> SecondsRecord:
    """Seconds of all shards, as if one machine had run them one after the other."""
    sums: Counter[str] = Counter()
    for info in infos:
        sums.update({field.name: getattr(info.seconds, field.name) or 0 for field in fields(SecondsRecord)})
    return SecondsRecord(**{name: value or None for name, value in sums.items()})
