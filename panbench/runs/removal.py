"""Removes the files that panbench wrote into a run folder, and no others.

These are the files that the run lists (parts in run.json, names in hashes/0000.sha256, id PNGs in predictions.json),
files with fixed names, and parts with the run's id. In an unfinished run they include the id PNGs that its images would
have, and temporary files of all these names. Links are removed, never followed.
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
from panbench.base.studies import names_in_studies
from panbench.panoptic.parts import metadata_of, part_files
from panbench.runs.hashes import recorded
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
from panbench.runs.membership import run_id_of
from panbench.runs.record import PartRecord, RunInfo, read_info

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w{8}\.tmp")  # of base.files.atomic_write
_RESERVE = ".reserve.tmp"
_PART = re.compile(r"\d{4,}-\d{6,}\.parquet")  # as RunWriter names them
_ORACLE_BLOCK = re.compile(r"[0-9a-f]{20}\.parquet")
# Removed in this order: an interrupted removal leaves the records that identify the run's files.
_FILES = (PREDICTIONS_JSON, ORACLE, MARK, RECORD)

Names = Collection[PurePosixPath]
"""Paths relative to one of the run's folders."""


def remove_run_files(path: Path) -> Sequence[Path]:
    """Removes the files of a run, run.json last, and the folder if it is then empty; returns the remaining files."""
    if not path.is_dir():
        return ()
    folders = _own_run_files(path)
    for folder, own in folders.items():
        if (path / folder).is_symlink():
            (path / folder).unlink()
        for entry in _walk(path / folder):
            if _is_own_run_file(entry, path / folder, own) and (entry.is_symlink() or not entry.is_dir()):
                entry.unlink()
    for entry in path.iterdir():
        if entry.name == _RESERVE or ((found := _TEMPORARY.fullmatch(entry.name)) and found["name"] in _FILES):
            entry.unlink()
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    _remove_empty_folders(path, folders)
    return sorted(_remaining_run_files(path, folders)) if path.is_dir() else ()


def not_own_files(path: Path) -> list[Path]:
    """Returns files and links in a run's folders that the run did not write."""
    found = []
    for folder, own in _own_run_files(path).items():
        if (path / folder).is_symlink():
            found.append(path / folder)
        for entry in _walk(path / folder):
            if entry.is_symlink() or not (entry.is_dir() or _is_own_run_file(entry, path / folder, own)):
                found.append(entry)
    return sorted(found)


def remove_empty_run_folders(path: Path) -> None:
    """Removes a run folder and the folders that panbench creates in it, if they are empty."""
    _remove_empty_folders(path, _own_run_files(path))


def _own_run_files(path: Path) -> dict[str, Names]:
    """Returns for each folder of a run the names of the run's own files in it."""
    try:
        info: RunInfo | None = read_info(path)
    except BadRun:
        info = None
    # run.json is removed last; without it, no remaining part belongs to the run.
    tables = dict.fromkeys(names_in_studies("tables"), ()) | ({} if info is None else dict(info.study_tables))
    blocks = {entry.name for entry in _walk(path / ORACLE_BLOCKS) if _ORACLE_BLOCK.fullmatch(_name_without_tmp(entry))}
    by_folder: dict[str, Iterable[str]] = {
        PARTS: _own_part_files(path / PARTS, info, () if info is None else info.parts),
        **{name: _own_part_files(path / name, info, listed) for name, listed in tables.items()},
        CANDIDATES: _names_in_run_folder(CANDIDATES, recorded(path)),
        ORACLE_BLOCKS: blocks,
        HASHES: _names_in_run_folder(HASHES, [MANIFEST]),
        PREDICTIONS: _own_id_pngs(path, info),
    }
    found: dict[str, Names] = {}
    for folder, names in by_folder.items():
        files = {PurePosixPath(name) for name in names}
        # A link that replaces the predictions folder belongs to the run just like the folder.
        found[folder] = files | {parent for file in files for parent in file.parents}
    return found


def _own_part_files(folder: Path, info: RunInfo | None, listed: Sequence[PartRecord]) -> Iterator[str]:
    """Yields names of the run's Parquet files in a folder: listed in run.json, with its id, or temporary ones."""
    if info is None or info.id is None:
        return
    yield from (record.name for record in listed)
    for part in part_files(folder):
        # Parts that were written after run.json have the run's id.
        with contextlib.suppress(OSError, ValueError):
            if run_id_of(metadata_of(part)) == info.id:
                yield part.name
    for entry in _walk(folder):
        if entry.name != _name_without_tmp(entry) and _PART.fullmatch(_name_without_tmp(entry)):
            yield entry.name


def _own_id_pngs(path: Path, info: RunInfo | None) -> Iterator[str]:
    """Yields the id PNGs that predictions.json lists; for an unfinished run, also those that its images would have."""
    names = _file_names_in_json(path / PREDICTIONS_JSON, ("annotations",))
    yield from names
    if info is not None and (info.status != "done" or not names) and info.dataset.gt:
        images = _file_names_in_json(recorded_path(info.dataset.gt), ("images", "annotations"))
        yield from (PurePosixPath(name).with_suffix(".png").as_posix() for name in images if PurePosixPath(name).name)


def _file_names_in_json(path: Path, keys: Sequence[str]) -> list[str]:
    """Returns all values of `file_name` in some lists of a COCO JSON; [] if the file cannot be read as one."""
    try:
        # is_file: someone else's run.json may name a device file, which never ends.
        document: Any = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return []
    lists = [document.get(key) for key in keys] if isinstance(document, dict) else []
    records = [record for each in lists if isinstance(each, list) for record in each]
    names = [record.get("file_name") for record in records if isinstance(record, dict)]
    return [name for name in names if isinstance(name, str)]


def _names_in_run_folder(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Yields the paths of `names` that are in a folder, relative to it."""
    yield from (name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/"))


def _name_without_tmp(entry: Path) -> str:
    """Returns the name that a temporary file would have been renamed to; of other files their own name."""
    temporary = _TEMPORARY.fullmatch(entry.name)
    return temporary["name"] if temporary else entry.name


def _is_own_run_file(entry: Path, folder: Path, own: Names) -> bool:
    """True if the run wrote `entry` in its folder: a file with one of the names `own`, or a temporary file of one."""
    name = PurePosixPath(entry.relative_to(folder).as_posix())
    return name in own or name.with_name(_name_without_tmp(entry)) in own


def _walk(folder: Path) -> Iterator[Path]:
    """Yields all files and folders below a folder, content first; follows no links, not even `folder` itself."""
    if folder.is_symlink():
        return
    for parent, folders, files in os.walk(folder, topdown=False):
        yield from (Path(parent) / name for name in (*files, *folders))


def _remove_empty_folders(path: Path, folders: Iterable[str]) -> None:
    """Removes those folders of a run that hold no files, then the run folder itself if it is empty."""
    for folder in folders:
        for entry in (*_walk(path / folder), path / folder):
            with contextlib.suppress(OSError):
                entry.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _remaining_run_files(path: Path, folders: Collection[str]) -> Iterator[Path]:
    """Yields the files that remain in a run folder, with the content of the run's own folders listed one by one."""
    for entry in path.iterdir():
        if entry.name in folders and entry.is_dir() and not entry.is_symlink():
            yield from (inside for inside in _walk(entry) if inside.is_symlink() or not inside.is_dir())
        else:
            yield entry
