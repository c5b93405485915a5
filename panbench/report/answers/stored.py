"""What lies in a folder of runs, whether a run is still what was written, and what is removed with it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.base.studies import named
from panbench.base.text import listed, size_in_words
from panbench.report.answers.data_files import DataFiles
from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.report.answers.kept_files import kept_files
from panbench.runs import (
    Run,
    SummaryRecord,
    digest_of,
    load_run,
    looks_like_run,
    refuse_link,
    remove_run,
    replacement_of,
    run_bytes,
    written,
)

__all__ = [
    "StoredRun",
    "Verification",
    "delete_runs",
    "refuse_inputs",
    "run_places",
    "runs_grid",
    "stored_run",
    "stored_runs",
    "verify",
]

VERIFIED, DAMAGED = "verified", "damaged"
_LISTED = ("id", "status", "model", "dataset", "images", "summary", "parts", "started")
"""The fields of run.json that a list of runs shows, or needs to."""


@dataclass(frozen=True)
class StoredRun:
    """A run in a folder, or why it cannot be read. Fractions 0–1; None without a value."""

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
class Verification:
    """The result of checking a run against its own record.

    state: verified, or damaged: something differs
    checked: sentences on what is as it was; problems: on what is not
    """

    run: str
    state: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]


def stored_runs(folder: Path) -> list[StoredRun]:
    """The runs in a folder and in its folders, oldest first; what cannot be read is named. Raises BadRun."""
    if not folder.is_dir():
        raise BadRun(f"There is no folder {folder}. `panbench eval` writes its runs to results/.")
    found = [stored_run(path) for path in run_places(folder)]
    return sorted(found, key=lambda run: (run.started or "", run.path))


def runs_grid(runs: Sequence[StoredRun], folder: Path = Path()) -> Grid:
    """The runs in a folder as a table, with the damaged ones explained below."""
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
    """Removes what panbench wrote into run folders; a sentence on each.

    Raises BadRun, before anything is removed, for a folder that is no run, or a link to one.
    """
    for path in paths:
        load_run(path)
        refuse_link(path)
    return [_deleted(path, remove_run(path)) for path in paths]


def _deleted(path: Path, left: Sequence[Path]) -> str:
    """The sentence on a run that was deleted; left: what was not."""
    sentence = (
        f"{path} was deleted, except for {listed([str(file.relative_to(path)) for file in left])}."
        if left
        else f"{path} was deleted."
    )
    if (unfinished := replacement_of(path)) is not None:
        sentence += f" Its unfinished replacement is in {unfinished}: delete that, too, or continue it with --resume."
    return sentence


def refuse_inputs(target: Path, runs: Sequence[Run]) -> None:
    """Raises BadArgument for a file that one of the runs consists of or was made from: a result never replaces it."""
    if not target.is_file():
        return
    place = _resolved(target)
    for run in runs:
        dataset, predictions = run.info.dataset, run.info.predictions
        own = [] if run.path is None else [run.path / name for name in written()]
        read = [Path(file) for file in (dataset.gt, predictions and predictions.json) if file]
        inside = [_resolved(folder) for folder in (dataset.gt_dir, predictions and predictions.folder) if folder]
        mine = {_resolved(path) for path in (*own, *read)}
        if not mine.isdisjoint((place, *place.parents)) or (
            place.suffix == ".png" and not set(inside).isdisjoint(place.parents)
        ):
            raise BadArgument(
                f"{target} is a file of the run {run.name}, or one that it was made from. Give another name."
            )
        if dataset.images and _resolved(dataset.images) in place.parents:
            with contextlib.suppress(BadDataset):
                images = DataFiles(run).panoptic.images
                if place in (_resolved(Path(dataset.images) / image.file_name) for image in images.values()):
                    raise BadArgument(f"{target} is a photograph of the data of {run.name}. Give another name.")


def _resolved(path: str | Path) -> Path:
    """A path with links resolved; unchanged if it is not a valid path, as a foreign run.json may have."""
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return Path(path)


def verify(run: Run, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Compares a run's parts, summary and input files with what the run stored of them.

    progress: called with (images whose files were hashed, images)
    """
    checked, problems = [], list(run.notices)
    problems += [fault for fault in run.faults if fault not in problems]
    problems += [notice for rows in run.side_tables.values() for notice in rows.notices]
    if not problems:
        n_parts = len(run.info.parts)
        how = "part is unchanged" if n_parts == 1 else "parts are unchanged"
        checked.append(f"{n_parts:,} {how}.")
        for name, files in run.info.side_tables.items():
            checked.append(f"{len(files):,} files of {named('tables').get(name, name)} are unchanged.")
    if run.info.summary is not None and len(run.images):
        if SummaryRecord.of(run.summary()) == run.info.summary:
            checked.append("The summary in run.json matches the parts.")
        else:
            stored, found = run.info.summary.All.PQ, run.summary()["All"]["PQ"]
            problems.append(f"run.json says PQ {percent(stored)}, but the parts give {percent(found)}.")
    for sentence, is_problem in (*_changed_files(run, progress), *kept_files(run, progress)):
        (problems if is_problem else checked).append(sentence)
    return Verification(run.name, DAMAGED if problems else VERIFIED, tuple(checked), tuple(problems))


def run_places(folder: Path) -> Iterator[Path]:
    """The folders below a folder that are runs, damaged ones too; the many files that a run holds are not looked at."""
    for path, inside, _ in os.walk(folder):
        is_run = looks_like_run(Path(path))
        inside[:] = sorted(set(inside) - set(written()) if is_run else inside)
        if is_run:
            yield Path(path)


def stored_run(path: Path) -> StoredRun:
    """What a run's record says, or why it cannot be read.

    Of its parts only the sizes are looked at, which tell lost and torn ones; what is in them is `verify`'s. A run that
    is being written has no sums in its record yet: its parts are read.
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


def _changed_files(run: Run, progress: Callable[[int, int], None] | None) -> list[tuple[str, bool]]:
    """Sentences on the images and id PNGs that the run read, and whether each is a problem."""
    files = run.files
    if not len(files):
        return [("The run did not store which files it read.", False)]
    data = DataFiles(run)
    try:
        panoptic = data.panoptic
    except BadDataset as problem:
        return [(f"The files that were read could not be checked: {problem}", False)]
    changed: list[str] = []
    absent = 0
    rows = zip(files.image_id.tolist(), files.image, files.truth, strict=True)
    for number, (image_id, image, truth) in enumerate(rows, 1):
        places: list[tuple[Path, bytes]] = []
        try:
            if image.any():
                places.append((data.path(image_id), image.tobytes()))
            if truth.any():
                places.append((panoptic.png_path(image_id), truth.tobytes()))
        except (BadDataset, KeyError):
            absent += 1
        for path, stored in places:
            now = digest_of(path)
            absent += not now
            if now and now != stored:
                changed.append(str(path))
        if progress is not None:
            progress(number, len(files))
    found = []
    if changed:
        found.append((f"{len(changed):,} files changed since they were read: {listed(changed, most=5)}.", True))
    if absent:
        found.append((f"{absent:,} files that were read no longer exist.", False))
    return found or [(f"The files of {len(files):,} images are unchanged.", False)]
