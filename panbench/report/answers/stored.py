"""Lists, verifies and deletes the runs in a folder."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.base.studies import names_in_studies
from panbench.base.text import listed, size_in_words
from panbench.report.answers.data_files import DataFiles
from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.runs import (
    CANDIDATES,
    ORACLE,
    PREDICTIONS,
    PREDICTIONS_JSON,
    Run,
    SummaryRecord,
    candidate_files,
    check_predictions_json,
    check_recorded,
    deletable_names,
    digest_of,
    load_run,
    looks_like_run,
    predictions_paths,
    recorded,
    refuse_link,
    remove_run,
    replacement_of,
    run_bytes,
)
from panbench.runs.sources import png_names

VERIFIED, DAMAGED = "verified", "damaged"
_LISTED = ("id", "status", "model", "dataset", "images", "summary", "parts", "started")
"""The fields of run.json that a list of runs prints or depends on."""

Found = tuple[str, bool]
"""A sentence, and whether it reports a problem."""


@dataclass(frozen=True)
class StoredRun:
    """What a list of runs shows of a run, or why it cannot be read. Fractions 0–1; None for absent values."""

    path: str
    model: str | None = None
    dataset: str | None = None
    PQ: float | None = None
    images: int | None = None
    status: str = DAMAGED
    started: str | None = None
    bytes: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RunVerification:
    """The result of checking a run against its own record.

    state: verified, or damaged if something differs
    checked: sentences on what is unchanged; problems: sentences on what is not
    """

    run: str
    state: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]


def stored_runs(folder: Path) -> list[StoredRun]:
    """Returns the runs in a folder and its subfolders, oldest first, unreadable ones included. Raises BadRun."""
    if not folder.is_dir():
        raise BadRun(f"There is no folder {folder}. `panbench eval` writes its runs to results/.")
    found = [stored_run(path) for path in run_places(folder)]
    return sorted(found, key=lambda run: (run.started or "", run.path))


def runs_grid(runs: Sequence[StoredRun], folder: Path = Path()) -> Grid:
    """Returns the runs in a folder as a table, with the damaged ones explained below."""
    rows = [
        (
            os.path.relpath(run.path, folder) if folder in Path(run.path).parents else run.path,
            run.model or ABSENT,
            run.dataset or ABSENT,
            run.status,
            (run.started or ABSENT)[:10],
            percent(run.PQ),
            ABSENT if run.images is None else f"{run.images:,}",
            ABSENT if run.bytes is None else size_in_words(run.bytes),
        )
        for run in runs
    ]
    columns = ("run", "model", "data", "status", "begun", "PQ", "images", "size")
    notes = tuple(f"Problem: {run.problem}" for run in runs if run.problem)
    return Grid(columns, tuple(rows), words=5, title=f"Runs in {folder}", notes=notes, spare=("model", "size", "begun"))


def delete_runs(paths: Sequence[Path]) -> list[str]:
    """Removes what panbench wrote into run folders and returns a sentence on each.

    Raises BadRun, before anything is removed, for a folder that is not a run, or a link to one.
    """
    for path in paths:
        load_run(path)
        refuse_link(path)
    return [_deletion_sentence(path, remove_run(path)) for path in paths]


def _deletion_sentence(path: Path, left: Sequence[Path]) -> str:
    """Returns the sentence on a deleted run, which names what was left in its folder."""
    message = (
        f"{path} was deleted, except for {listed([str(file.relative_to(path)) for file in left])}."
        if left
        else f"{path} was deleted."
    )
    if (unfinished := replacement_of(path)) is not None:
        message += f" Its unfinished replacement is in {unfinished}: delete that, too, or continue it with --resume."
    return message


def refuse_inputs(target: Path, runs: Sequence[Run]) -> None:
    """Raises BadArgument if an output file belongs to one of the runs or their inputs: these are never overwritten."""
    if not target.is_file():
        return
    index = _resolved_path(target)
    for run in runs:
        dataset, predictions = run.info.dataset, run.info.predictions
        own = [] if run.path is None else [run.path / name for name in deletable_names()]
        read = [Path(file) for file in (dataset.gt, predictions and predictions.json) if file]
        inside = [_resolved_path(folder) for folder in (dataset.gt_dir, predictions and predictions.folder) if folder]
        mine = {_resolved_path(path) for path in (*own, *read)}
        if not mine.isdisjoint((index, *index.parents)) or (
            index.suffix == ".png" and not set(inside).isdisjoint(index.parents)
        ):
            raise BadArgument(
                f"{target} is a file of the run {run.name}, or one that it was made from. Give another name."
            )
        if dataset.images and _resolved_path(dataset.images) in index.parents:
            with contextlib.suppress(BadDataset):
                images = DataFiles(run).panoptic.images
                if index in (_resolved_path(Path(dataset.images) / image.file_name) for image in images.values()):
                    raise BadArgument(f"{target} is a photograph of the data of {run.name}. Give another name.")


def _resolved_path(path: str | Path) -> Path:
    """Returns a path with links resolved; unchanged if it is not valid, as in a run.json from another system."""
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return Path(path)


def verify(run: Run, progress: Callable[[int, int], None] | None = None) -> RunVerification:
    """Checks whether a run's tables, summary and input files are still as its run.json recorded them.

    progress: called with (images whose files were hashed, images)
    """
    checked, problems = [], list(run.notices)
    problems += [fault for fault in run.faults if fault not in problems]
    problems += [notice for rows in run.study_tables.values() for notice in rows.notices]
    if not problems:
        n_parts = len(run.info.parts)
        how = "part is unchanged" if n_parts == 1 else "parts are unchanged"
        checked.append(f"{n_parts:,} {how}.")
        for name, files in run.info.study_tables.items():
            checked.append(f"{len(files):,} files of {names_in_studies('tables').get(name, name)} are unchanged.")
    if run.info.summary is not None and len(run.images):
        if SummaryRecord.of(run.summary()) == run.info.summary:
            checked.append("The summary in run.json matches the parts.")
        else:
            stored, found = run.info.summary.All.PQ, run.summary()["All"]["PQ"]
            problems.append(f"run.json says PQ {percent(stored)}, but the parts give {percent(found)}.")
    for message, is_problem in (*_check_input_files(run, progress), *check_stored_files(run, progress)):
        (problems if is_problem else checked).append(message)
    return RunVerification(run.name, DAMAGED if problems else VERIFIED, tuple(checked), tuple(problems))


def run_places(folder: Path) -> Iterator[Path]:
    """Yields the folders below a folder that are runs, damaged ones too, without descending into runs."""
    for path, inside, _ in os.walk(folder):
        is_run = looks_like_run(Path(path))
        inside[:] = sorted(set(inside) - set(deletable_names()) if is_run else inside)
        if is_run:
            yield Path(path)


def stored_run(path: Path) -> StoredRun:
    """Returns the facts in a run's record, or the reason why it cannot be read.

    Only the sizes of its parts are checked, which reveals lost and torn ones; `verify` checks their contents. A run
    that is being written has no sums in its record yet, so its parts are read.
    """
    try:
        run = load_run(path, _LISTED)
        info = run.info
        data = f"{info.dataset.name or ABSENT} {info.dataset.split or ''}".strip()
        if info.status == "running":
            run = load_run(path)
            images, quality, problem = len(run.images), run.summary()["All"]["PQ"] if len(run.images) else None, ""
        else:
            images = info.images.scored or sum(part.images for part in info.parts)
            quality = None if info.summary is None else info.summary.All.PQ
            problem = " ".join(run.members.other_sizes()) if info.status == "done" else ""
        return StoredRun(
            str(path),
            None if info.model is None else info.model.title or info.model.name,
            data,
            quality,
            images,
            "incomplete" if problem else info.status,
            info.started,
            run_bytes(path),
            f"{path}: {problem}" if problem else None,
        )
    except BadRun as problem:
        return StoredRun(str(path), problem=str(problem))


def _check_input_files(run: Run, progress: Callable[[int, int], None] | None) -> Iterator[Found]:
    """Checks the images and id PNGs that the run read, and yields sentences on changed and absent ones."""
    files, data = run.files, DataFiles(run)
    if not len(files):
        yield "The run did not store which files it read.", False
        return
    try:
        panoptic = data.panoptic
    except BadDataset as problem:
        yield f"The files that were read could not be checked: {problem}", False
        return
    changed: list[str] = []
    absent = 0
    rows = zip(files.rows["image_id"].tolist(), files.rows["image"], files.rows["truth"], strict=True)
    for number, (image_id, image, truth) in enumerate(rows, 1):
        for digest, find in ((image, data.path), (truth, panoptic.png_path)):
            if not digest.any():
                continue
            try:
                path = find(image_id)
                now = digest_of(path)
            except (BadDataset, KeyError):
                now = b""
            absent += not now
            if now and now != digest.tobytes():
                changed.append(str(path))
        if progress is not None:
            progress(number, len(files))
    if changed:
        yield f"{len(changed):,} files changed since they were read: {listed(changed, most=5)}.", True
    if absent:
        yield f"{absent:,} files that were read no longer exist.", False
    if not changed and not absent:
        yield f"The files of {len(files):,} images are unchanged.", False


def check_stored_files(run: Run, progress: Callable[[int, int], None] | None = None) -> Iterator[Found]:
    """Checks the predictions, candidate masks and `fuse --oracle` results that a run stored; yields a sentence on each.

    progress: called with (id PNGs that were hashed, id PNGs)
    """
    if run.path is None:
        return
    hashes = recorded(run.path)
    here = {f"{CANDIDATES}/{path.name}" for path in candidate_files(run.path)}
    here |= {ORACLE} if (run.path / ORACLE).is_file() else set()
    gone = set(hashes) - here - {PREDICTIONS_JSON}
    # Users who need disk space remove all candidates or the oracle; a few missing files are a loss.
    removed = gone if not any(name.startswith(CANDIDATES) for name in here) else gone & {ORACLE}
    sound, unknown = 0, []
    for name in sorted(here | gone - removed):
        try:
            if check_recorded(run.path, name, hashes):
                sound += 1
            else:
                unknown.append(name)
        except BadRun as problem:
            yield str(problem), True
    if sound:
        yield f"{sound:,} files of candidates and oracle are unchanged.", False
    if unknown:
        yield f"No hashes were recorded for {listed(unknown, 3)}.", False
    if removed:
        yield f"{listed(sorted(removed), 3)} was stored and no longer exists.", False
    yield from _check_stored_predictions(run, hashes, progress)


def _check_stored_predictions(
    run: Run, hashes: dict[str, str], progress: Callable[[int, int], None] | None
) -> Iterator[Found]:
    """Checks the predictions that a run stored or scored, and yields sentences on the result."""
    assert run.path is not None
    index, digests = predictions_paths(run), run.files.predictions()
    folder = index[1] if index is not None else run.path / PREDICTIONS
    if index is None and not folder.is_dir():
        if digests or PREDICTIONS_JSON in hashes:
            yield "The predictions no longer exist.", False
        return
    if index is None and PREDICTIONS_JSON in hashes:
        yield f"{run.path / PREDICTIONS_JSON} is missing.", True
    if index is not None:
        try:
            if not check_predictions_json(run, index[0]):
                yield f"No hash was recorded for {index[0]}.", False
        except BadRun as problem:
            yield str(problem), True
        except BadDataset as problem:
            yield f"The predictions could not be checked: {problem}", False
            return
    if digests:
        yield from _check_prediction_pngs(run, None if index is None else index[0], folder, digests, progress)
    elif folder.is_dir():
        yield f"No hashes were recorded for the id PNGs in {folder}.", False


def _check_prediction_pngs(
    run: Run, json: Path | None, folder: Path, digests: dict[int, bytes], progress: Callable[[int, int], None] | None
) -> Iterator[Found]:
    """Checks the id PNGs of predictions against their recorded hashes, and yields sentences on the result."""
    data = DataFiles(run)
    changed: list[str] = []
    missing: list[str] = []
    try:
        names = {} if json is None else png_names(json)
        for number, (image_id, digest) in enumerate(digests.items(), 1):
            name = names.get(image_id) or Path(data.file_name(image_id)).with_suffix(".png").as_posix()
            now = digest_of(folder / name)
            if now != digest:
                (changed if now else missing).append(str(folder / name))
            if progress is not None:
                progress(number, len(digests))
    except BadDataset as problem:
        yield f"The predictions in {folder} could not be checked: {problem}", False
        return
    if changed:
        yield f"{len(changed):,} predictions changed since the run was made: {listed(changed, 5)}.", True
    if missing:
        yield f"{len(missing):,} predictions are missing: {listed(missing, 5)}.", True
    if not changed and not missing:
        yield f"{len(digests):,} predictions are unchanged.", False
