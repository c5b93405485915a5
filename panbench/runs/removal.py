"""Removes what panbench wrote into a run folder, and nothing else.

That is what the run's record lists: its parts, what hashes/0000.sha256 names, the id PNGs of predictions.json, and the
files with fixed names; and parts that carry the run's id. Of a run that is not done, the id PNGs that its images would
have count, too, and so do temporary files of all these names. Links are removed, never followed.
"""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadRun
from panbench.base.studies import named
from panbench.panoptic.parts import metadata_of, part_files
from panbench.runs.layout import (
    CANDIDATES,
    HASHES,
    MANIFEST,
    MARK,
    ORACLE,
    ORACLE_BLOCKS,
    PARTS,
    PREDICTIONS,
    PREDICTIONS_JSON,
    RECORD,
)
from panbench.runs.manifest import recorded
from panbench.runs.membership import run_of
from panbench.runs.record import PartRecord, RunInfo, read_info

__all__ = ["foreign_files", "remove_empty_folders", "remove_run_files"]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")  # of base.files.atomic_write
_RESERVE = ".reserve.tmp"
_PART = re.compile(r"\d{4,}-\d{6,}\.parquet")  # as RunWriter names them
_ORACLE_BLOCK = re.compile(r"[0-9a-f]{20}\.parquet")
# In this order: a removal that is cut short leaves what tells which files are the run's.
_FILES = (PREDICTIONS_JSON, ORACLE, MARK, RECORD)

Names = Collection[PurePosixPath]
"""Relative to one of the run's folders."""


def remove_run_files(path: Path) -> Sequence[Path]:
    """Removes the files that a run wrote, its run.json last, and the folder if it is empty then; what is left in it."""
    if not path.is_dir():
        return ()
    folders = _own_files(path)
    for folder, own in folders.items():
        if (path / folder).is_symlink():
            (path / folder).unlink()
        for entry in _entries(path / folder):
            if _is_own(entry, path / folder, own) and (entry.is_symlink() or not entry.is_dir()):
                entry.unlink()
    for entry in path.iterdir():
        if entry.name == _RESERVE or ((found := _TEMPORARY.fullmatch(entry.name)) and found["name"] in _FILES):
            entry.unlink()
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    _remove_empty(path, folders)
    return sorted(_left(path, folders)) if path.is_dir() else ()


def foreign_files(path: Path) -> list[Path]:
    """What is in the folders that a run writes, but was not written by it; links, too."""
    found = []
    for folder, own in _own_files(path).items():
        if (path / folder).is_symlink():
            found.append(path / folder)
        for entry in _entries(path / folder):
            if entry.is_symlink() or not (entry.is_dir() or _is_own(entry, path / folder, own)):
                found.append(entry)
    return sorted(found)


def remove_empty_folders(path: Path) -> None:
    """Removes a run folder and those that panbench makes in it, as far as they are empty."""
    _remove_empty(path, _own_files(path))


def _own_files(path: Path) -> dict[str, Names]:
    """The folders that a run writes, and the files in each that are its own."""
    try:
        info: RunInfo | None = read_info(path)
    except BadRun:
        info = None
    # run.json goes last: without it, no part that is left is the run's.
    tables = dict.fromkeys(named("tables"), ()) | ({} if info is None else dict(info.side_tables))
    blocks = {entry.name for entry in _entries(path / ORACLE_BLOCKS) if _ORACLE_BLOCK.fullmatch(_final_name(entry))}
    by_folder: dict[str, Iterable[str]] = {
        PARTS: _own_parts(path / PARTS, info, () if info is None else info.parts),
        **{name: _own_parts(path / name, info, listed) for name, listed in tables.items()},
        CANDIDATES: _below(CANDIDATES, recorded(path)),
        ORACLE_BLOCKS: blocks,
        HASHES: _below(HASHES, [MANIFEST]),
        PREDICTIONS: _own_predictions(path, info),
    }
    found: dict[str, Names] = {}
    for folder, names in by_folder.items():
        files = {PurePosixPath(name) for name in names}
        # A link in the place of a folder of predictions is as much the run's as the folder.
        found[folder] = files | {parent for file in files for parent in file.parents}
    return found


def _own_parts(folder: Path, info: RunInfo | None, listed: Sequence[PartRecord]) -> Iterator[str]:
    """The parts that run.json lists, those that carry the run's id, and what a killed process left of one."""
    if info is None or info.id is None:
        return
    yield from (record.name for record in listed)
    for part in part_files(folder):
        # One that was written after the list was.
        with contextlib.suppress(OSError, ValueError):
            if run_of(metadata_of(part)) == info.id:
                yield part.name
    for entry in _entries(folder):
        if entry.name != _final_name(entry) and _PART.fullmatch(_final_name(entry)):
            yield entry.name


def _own_predictions(path: Path, info: RunInfo | None) -> Iterator[str]:
    """The id PNGs that predictions.json lists; of a run that is not done, those that its images would have."""
    names = _values(path / PREDICTIONS_JSON, ("annotations",))
    yield from names
    if info is not None and (info.status != "done" or not names) and info.dataset.gt:
        images = _values(recorded_path(info.dataset.gt), ("images", "annotations"))
        yield from (PurePosixPath(name).with_suffix(".png").as_posix() for name in images if PurePosixPath(name).name)


def _values(path: Path, keys: Sequence[str]) -> list[str]:
    """Each `file_name` in some lists of a COCO JSON; none of a file that cannot be read as one."""
    try:
        # A stranger's run may name a device, which has no end.
        document: Any = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return []
    lists = [document.get(key) for key in keys] if isinstance(document, dict) else []
    records = [record for each in lists if isinstance(each, list) for record in each]
    names = [record.get("file_name") for record in records if isinstance(record, dict)]
    return [name for name in names if isinstance(name, str)]


def _below(folder: str, names: Iterable[str]) -> Iterator[str]:
    """The names that are below a folder, from there."""
    yield from (name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/"))


def _final_name(entry: Path) -> str:
    """The name that a temporary file was to have; of others their own."""
    temporary = _TEMPORARY.fullmatch(entry.name)
    return temporary["name"] if temporary else entry.name


def _is_own(entry: Path, folder: Path, own: Names) -> bool:
    name = PurePosixPath(entry.relative_to(folder).as_posix())
    return name in own or name.with_name(_final_name(entry)) in own


def _entries(folder: Path) -> Iterator[Path]:
    """All below a folder, what is in a folder before the folder; links are not followed, not even `folder` itself."""
    if folder.is_symlink():
        return
    for place, folders, files in os.walk(folder, topdown=False):
        yield from (Path(place) / name for name in (*files, *folders))


def _remove_empty(path: Path, folders: Iterable[str]) -> None:
    for folder in folders:
        for entry in (*_entries(path / folder), path / folder):
            with contextlib.suppress(OSError):
                entry.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _left(path: Path, folders: Collection[str]) -> Iterator[Path]:
    """What is left in a run folder: of the run's own folders what is in them."""
    for entry in path.iterdir():
        if entry.name in folders and entry.is_dir() and not entry.is_symlink():
            yield from (inside for inside in _entries(entry) if inside.is_symlink() or not inside.is_dir())
        else:
            yield entry
