"""Removes what panbench wrote into a run folder, and nothing else.

That is what the run's record lists: its parts, the id PNGs of predictions.json, and the files with fixed names. Of a
run that was interrupted, files with the names that panbench gives count, too. Links are removed, never followed.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from panbench.base.addresses import path_at
from panbench.base.errors import BadRun
from panbench.base.studies import named
from panbench.panoptic.parts import PART, metadata_of
from panbench.runs.layout import (
    CANDIDATES,
    HASHES,
    MARK,
    ORACLE,
    ORACLE_BLOCKS,
    PARTS,
    PREDICTIONS,
    PREDICTIONS_JSON,
    RECORD,
)
from panbench.runs.manifest import MANIFEST
from panbench.runs.membership import run_of
from panbench.runs.record import PartRecord, RunInfo, read_info

__all__ = ["foreign_files", "remove_empty_folders", "remove_run_files"]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")  # of base.files.atomic_write
_RESERVE = ".reserve.tmp"
_CANDIDATES = re.compile(r"\d+-\d+\.arrow")
_ORACLE_BLOCK = re.compile(r"[0-9a-f]{20}\.parquet")
# In this order: a removal that is cut short leaves what tells which files are the run's.
_FILES = (PREDICTIONS_JSON, ORACLE, MARK, RECORD)

IsOwn = Callable[[PurePosixPath], bool]
"""Whether panbench gave a name; the path is relative to one of the run's folders."""


def remove_run_files(path: Path) -> Sequence[Path]:
    """Removes the files that a run wrote, its run.json last, and the folder if it is empty then; what is left in it."""
    if not path.is_dir():
        return ()
    own = _OwnFiles(path)
    folders = own.folders()
    for folder, is_own in folders.items():
        _remove(path / folder, is_own)
    for file in own.temporaries():
        file.unlink()
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    _remove_empty(path, folders)
    return sorted(_left(path, folders)) if path.is_dir() else ()


def foreign_files(path: Path) -> list[Path]:
    """What is in the folders that a run writes, but was not written by it; links, too."""
    own = _OwnFiles(path)
    found = []
    for folder, is_own in own.folders().items():
        if (path / folder).is_symlink():
            found.append(path / folder)
        for entry in _entries(path / folder):
            if entry.is_symlink() or not (entry.is_dir() or _is_own(entry, path / folder, is_own)):
                found.append(entry)
    return sorted(found)


def remove_empty_folders(path: Path) -> None:
    """Removes a run folder and those that panbench makes in it, as far as they are empty."""
    _remove_empty(path, _OwnFiles(path).folders())


def _remove_empty(path: Path, folders: Iterable[str]) -> None:
    for folder in folders:
        for entry in (*_entries(path / folder), path / folder):
            with contextlib.suppress(OSError):
                entry.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


class _OwnFiles:
    """Which files in a run folder are the run's, as far as its record can be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.info: RunInfo | None = read_info(path)
        except BadRun:
            self.info = None

    def folders(self) -> dict[str, IsOwn]:
        """The folders that a run writes, and which names in each are its own."""
        info = self.info
        side_tables = dict.fromkeys(named("tables"), ()) | ({} if info is None else dict(info.side_tables))
        return {
            PARTS: self._part_names(PARTS, None if info is None else info.parts),
            **{name: self._part_names(name, files) for name, files in side_tables.items()},
            HASHES: lambda name: MANIFEST.fullmatch(str(name)) is not None,
            CANDIDATES: lambda name: _CANDIDATES.fullmatch(str(name)) is not None,
            ORACLE_BLOCKS: lambda name: _ORACLE_BLOCK.fullmatch(str(name)) is not None,
            PREDICTIONS: _names_of(self._prediction_names()),
        }

    def temporaries(self) -> Iterator[Path]:
        """What a killed process left of the files with fixed names."""
        for entry in self.path.iterdir():
            found = _TEMPORARY.fullmatch(entry.name)
            if entry.name == _RESERVE or (found is not None and found["name"] in _FILES):
                yield entry

    def _part_names(self, folder: str, records: Sequence[PartRecord] | None) -> IsOwn:
        listed = {record.name for record in records or ()}

        def is_own(name: PurePosixPath) -> bool:
            # run.json goes last: without it, nothing that is left is the run's.
            if PART.fullmatch(str(name)) is None or self.info is None:
                return False
            if str(name) in listed:
                return True
            # Not listed: written after the list was, or torn, unless it says that it is another run's.
            with contextlib.suppress(OSError, ValueError):
                return run_of(metadata_of(self.path / folder / name)) == self.info.id
            return True

        return is_own

    def _prediction_names(self) -> set[str]:
        """The id PNGs that predictions.json lists; of a run that is not done, those that its images would have."""
        names = set(_values(self.path / PREDICTIONS_JSON, ("annotations",)))
        if self.info is not None and (self.info.status != "done" or not names) and self.info.dataset.gt:
            images = _values(path_at(self.info.dataset.gt), ("images", "annotations"))
            names |= {PurePosixPath(name).with_suffix(".png").as_posix() for name in images if PurePosixPath(name).name}
        return names


def _values(path: Path, keys: Sequence[str]) -> Iterator[str]:
    """Each `file_name` in some lists of a COCO JSON; none of a file that cannot be read as one."""
    try:
        document: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    for key in keys:
        records = document.get(key) if isinstance(document, dict) else None
        for record in records if isinstance(records, list) else ():
            if isinstance(record, dict) and isinstance(record.get("file_name"), str):
                yield record["file_name"]


def _names_of(files: set[str]) -> IsOwn:
    """Takes some relative paths, and the folders on the way to them."""
    own = {PurePosixPath(file) for file in files}
    own |= {parent for file in own for parent in file.parents}
    return own.__contains__


def _is_own(entry: Path, folder: Path, is_own: IsOwn) -> bool:
    name = PurePosixPath(entry.relative_to(folder).as_posix())
    if temporary := _TEMPORARY.fullmatch(name.name):
        name = name.with_name(temporary["name"])
    return is_own(name)


def _entries(folder: Path) -> Iterator[Path]:
    """All below a folder, what is in a folder before the folder; links are not followed, not even `folder` itself."""
    if folder.is_symlink():
        return
    for place, folders, files in os.walk(folder, topdown=False):
        yield from (Path(place) / name for name in (*files, *folders))


def _remove(folder: Path, is_own: IsOwn) -> None:
    """Removes the files of a folder that are the run's; links as links."""
    if folder.is_symlink():
        folder.unlink()
        return
    for entry in _entries(folder):
        if not _is_own(entry, folder, is_own):
            continue
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()


def _left(path: Path, folders: Collection[str]) -> Iterator[Path]:
    """What is left in a run folder: of the run's own folders the files in them."""
    for entry in path.iterdir():
        if entry.name in folders and entry.is_dir() and not entry.is_symlink():
            yield from (inside for inside in _entries(entry) if inside.is_symlink() or not inside.is_dir())
        else:
            yield entry
