"""Writes run folders. One writer a folder at a time; what a run replaces is there until the new run is whole.

With `overwrite` the new run is written beside the old one, and takes its place when it is done (replacing.py).
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.addresses import refuse_address
from panbench.base.errors import BadRun, OutOfSpace
from panbench.base.files import make_folders, sync_folder, write_json
from panbench.base.text import for_file
from panbench.panoptic.overlap import OverlapTable
from panbench.panoptic.parts import compact, part_files, write_part
from panbench.runs.folder import Run, load_run
from panbench.runs.hashes import NO_HASHES, FileHashes
from panbench.runs.layout import CORE_NAMES, MARK, PARTS, RECORD, is_own_name
from panbench.runs.lock import RunLock
from panbench.runs.manifest import forget_absent
from panbench.runs.membership import part_metadata
from panbench.runs.record import STATUSES, RunInfo, SummaryRecord, read_info
from panbench.runs.removal import foreign_files, remove_run_files
from panbench.runs.replacing import (
    beside,
    cut_short,
    finish_swap,
    ghost_of,
    is_replacing,
    mark_as_replacement,
    old_of,
    place_of,
    replacement_of,
    run_bytes,
    swap,
)
from panbench.runs.side_tables import compact_side_table, write_side_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RunWriter", "check_room", "finish_replacement", "refuse_link", "remove_run", "unfinished_run"]

_TEMPORARY = re.compile(r"\..+\.tmp")
_RESERVE = ".reserve.tmp"
# Kept free for the last run.json of a run that ends because the disk is full.
_RESERVED_BYTES = 1 << 17


class RunWriter:
    """Writes a run folder. One writer a run."""

    def __init__(self, home: Path, path: Path, run: Run, lock: RunLock) -> None:
        """Use `create` or `resume`."""
        self.home = home
        """Where the run lies when it is done."""
        self.path = path
        """Where it is written: `home`, or beside it while it replaces another run."""
        self.info = run.info
        self.done = frozenset(run.images.tolist())
        """The images in readable parts of the run."""
        self.notices = run.notices
        self._lock = lock
        self._next: dict[tuple[str, int], int] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str], info: RunInfo, overwrite: bool = False) -> "RunWriter":
        """Makes the folder and its run.json with status "running".

        info: what is known by now; id, panbench and status are filled in, name and started where absent
        overwrite: replaces a run that is already there, once the new one is done
        Raises BadRun when the folder holds another run (unless `overwrite`) or anything else, or somebody writes it,
        and OutOfSpace when there is no room for both runs.
        """
        from panbench import __version__

        home = Path(path)
        check_room(home, overwrite)
        lock = RunLock.acquire(home)
        try:
            finish_swap(home)
            check_room(home, overwrite)
            place = home if _is_free(home) else beside(home)
            if place != home:
                _check_space(home)
                remove_run_files(place)
            content = replace(
                info,
                id=secrets.token_hex(16),
                panbench=__version__,
                name=for_file(info.name or home.absolute().name),
                status="running",
                parts=(),
                side_tables={},
                started=info.started or _now(),
            )
            _check_readable(content)
            try:
                make_folders(place)
                if place != home:
                    mark_as_replacement(place, home)
                writer = cls(home, place, Run(content, place, table=OverlapTable.empty()), lock)
                writer.update()
                writer._reserve()
                # After run.json: a run that is stopped between the two is a run all the same.
                make_folders(place / PARTS)
            except OSError as problem:
                with contextlib.suppress(OSError):
                    remove_run_files(place)
                raise BadRun(f"{home} cannot be written: {problem.strerror or problem}.") from None
        except BaseException:
            lock.release()
            raise
        return writer

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> "RunWriter":
        """Goes on with a run, or with the one that was to replace it: `done` holds the images in its readable parts.

        `notices` names the parts that were left out. Raises BadRun when there is no run, it is of another schema, or
        somebody writes it.
        """
        home = Path(path)
        load_run(place_of(home))
        lock = RunLock.acquire(home)
        try:
            finish_swap(home)
            run = load_run(place_of(home))
            assert run.path is not None
            writer = cls(home, run.path, run, lock)
            try:
                make_folders(run.path / PARTS)
                writer._reserve()
                forget_absent(run.path)
            except OSError as problem:
                raise BadRun(f"{home} cannot be written: {problem.strerror or problem}.") from None
            # From here on the list is of what is there now.
            writer.update(**_listed(run), status="running", error=None, finished=None)
        except BaseException:
            lock.release()
            raise
        return writer

    def write_part(
        self, table: OverlapTable, files: FileHashes | None = None, beside: Iterable[Path] = (), shard: int = 0
    ) -> Path:
        """Writes the table of a block of images as a new part, which appears whole or not at all; its path.

        files: the hashes of the files that were read for these images
        beside: the id PNGs that were written for them, durably: their names are synced before the part counts on them
        shard: in a merged run, the number of the shard that the rows are from; it begins the name of the file
        A part that exists is never replaced. Raises BadRun when the folder has become another run's.
        """
        for folder in {path.parent for path in beside}:
            sync_folder(folder)
        metadata = part_metadata(self.info, files or NO_HASHES)
        return self._write_next(self.path / PARTS, shard, lambda path: write_part(path, table, metadata))

    def _write_next(self, folder: Path, shard: int, write: Callable[[Path], None]) -> Path:
        if read_info(self.path).id != self.info.id:
            raise BadRun(f"{self.path} was replaced by another run while this one was being written.")
        key = (folder.name, shard)
        if key not in self._next:
            mine = [part for part in part_files(folder) if part.stem.startswith(f"{shard:04d}-")]
            self._next[key] = max((int(part.stem.split("-")[1]) for part in mine), default=-1) + 1
        while True:
            target = folder / f"{shard:04d}-{self._next[key]:06d}.parquet"
            self._next[key] += 1
            with contextlib.suppress(FileExistsError):
                write(target)
                return target

    def _of_run(self) -> dict[bytes, bytes]:
        return part_metadata(self.info, NO_HASHES)

    def write_side_rows(self, name: str, table: "pa.Table", shard: int = 0) -> Path:
        """Writes rows of a block of images into a side table; the path of the new file.

        name: of the table, as a study declares it (`Study.tables`); table: with a column image_id, and a row or more
        of each image; shard: as of `write_part`
        """
        if name in CORE_NAMES or name in {field.name for field in fields(RunInfo)} or not is_own_name(name):
            raise ValueError(f"{name!r} is something else in a run folder or in run.json, or no name of a-z, 0-9, ._-")
        if name not in self.info.side_tables:
            # So that it is listed when the run is closed, also where the study is not installed (merged runs).
            self.info = replace(self.info, side_tables={**self.info.side_tables, name: ()})
        return self._write_next(self.path / name, shard, lambda path: write_side_file(path, table, self._of_run()))

    def update(self, **changes: Any) -> None:
        """Replaces fields of run.json."""
        changed = replace(self.info, **changes)
        write_json(self.path / RECORD, changed.to_json())
        self.info = changed

    def finish(self, status: str, **updates: Any) -> Run:
        """Closes the run with its last status ("done", "interrupted" or "failed") and further fields; the run.

        `summary` is computed from the parts unless it is given. The many small parts of a long run that is done are
        joined to few. A run that is done takes the place of the one that it replaces. Of a run that was closed as done,
        as when a signal comes in the last moment of that, nothing is written any more.
        """
        if status not in STATUSES[1:]:
            raise ValueError(f"status must be one of {', '.join(STATUSES[1:])}, not {status!r}")
        if self._is_done:
            self.close()
            return Run(self.info, self.path if self.path.exists() else self.home)
        try:
            if status == "done":
                self._compact()
            run = Run(self.info, self.path)
            if "summary" not in updates:
                updates["summary"] = SummaryRecord.of(run.summary()) if len(run.images) else None
            self._release_reserve()
            self.update(**{"status": status, "finished": _now(), **_listed(run), **updates})
            if status == "done" and self.path != self.home:
                swap(self.path, self.home)
                self.path = self.home
        finally:
            self.close()
        return Run(self.info, self.path)

    @property
    def _is_done(self) -> bool:
        """Whether run.json says that the run is done, or the run lies in its home already."""
        try:
            return read_info(self.path).status == "done"
        except BadRun:
            return not self.path.exists()

    def close(self) -> None:
        """Lets others write the folder; `finish` does it, too."""
        self._release_reserve()
        self._lock.release()

    def _compact(self) -> None:
        members = Run(self.info, self.path).members
        compact(
            self.path / PARTS,
            admit=members.admit,
            metadata=lambda images: part_metadata(self.info, members.files().only(images)),
        )
        for rows in Run(self.info, self.path).side_tables.values():
            compact_side_table(rows, self._of_run())

    def _reserve(self) -> None:
        """Keeps room for the last run.json. Raises OSError where there is none: such a run could not even say so."""
        try:
            (self.path / _RESERVE).write_bytes(secrets.token_bytes(_RESERVED_BYTES))
        except OSError:
            self._release_reserve()
            raise

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / _RESERVE).unlink(missing_ok=True)


def remove_run(path: str | os.PathLike[str]) -> Sequence[Path]:
    """Removes the files that panbench wrote into a run folder, and the folder if it is empty then; what is left in it.

    Raises BadRun for a folder that is no run, is a link to one, or that somebody writes.
    """
    home = Path(path)
    read_info(home)
    refuse_link(home)
    lock = RunLock.acquire(home)
    try:
        finish_swap(home)
        return remove_run_files(home)
    finally:
        lock.release()


def refuse_link(path: Path) -> None:
    """Raises BadRun for a link to a run: what is removed or replaced must be named itself."""
    if path.is_symlink():
        raise BadRun(f"{path} is a link to {path.resolve()}. Name that folder, or remove the link.")


def finish_replacement(path: str | os.PathLike[str]) -> bool:
    """Ends a replacement of the run in `path` that was stopped between its renames; whether there was one to end.

    Raises BadRun when somebody writes the run.
    """
    home = Path(path)
    lock = RunLock.acquire(home)
    try:
        return finish_swap(home)
    finally:
        lock.release()


def unfinished_run(path: str | os.PathLike[str]) -> Run | None:
    """The run that `resume` would go on with: the one that is to replace `path`, else `path`; None if there is none.

    Raises BadRun when there may be a run that was stopped while it replaced `path`.
    """
    home = Path(path)
    place = place_of(home)
    if place == home and (sentence := cut_short(home)):
        raise BadRun(f"{sentence} Or begin anew, without --resume.")
    return load_run(place) if (place / RECORD).exists() else None


def check_room(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raises BadRun when a run cannot be written to `path`: it holds another run (unless `overwrite`) or else."""
    refuse_address(path, "--out")
    path = Path(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadRun(f"{path} is a file; give a folder for the run.")
    if _is_free(path):
        return
    try:
        read_info(path)
    except BadRun as problem:
        raise BadRun(f"{path} exists and is not a run that may be replaced; give another folder. ({problem})") from None
    if not overwrite:
        raise BadRun(f"{path} holds another run. Give another folder, or --overwrite to replace it.")
    refuse_link(path)
    if strangers := foreign_files(path):
        raise BadRun(f"{strangers[0]} is not ours to overwrite; move it away first.")
    new, old = beside(path), old_of(path)
    ours = (replacement_of(path), old if is_replacing(path, path) else None)
    for other in (new, old):
        if os.path.lexists(other) and other not in ours and not _is_free(other) and ghost_of(path) != other:
            raise BadRun(
                f"{other} is in the way: the new run is written beside the old one. Move it, or give another --out."
            )


def _check_space(home: Path) -> None:
    """Raises OutOfSpace when a run of the size of the one in `home` does not fit beside it."""
    needed = run_bytes(home)
    free = shutil.disk_usage(home.absolute().parent).free
    if free < needed:
        raise OutOfSpace(
            f"{home} is kept until the new run is done, but only {free / 1e6:,.0f} MB are free beside its "
            f"{needed / 1e6:,.0f} MB. Free some space, or delete the old run first."
        )


def _is_free(path: Path) -> bool:
    """Whether nothing stands at `path` but, at most, what a process left that was killed while it wrote run.json."""
    if not os.path.isdir(path):
        return True
    for entry in path.iterdir():
        ours = entry.name == MARK or _TEMPORARY.fullmatch(entry.name)
        if not ours and not (entry.name == PARTS and not any(entry.iterdir())):
            return False
    return True


def _listed(run: Run) -> dict[str, Any]:
    """What run.json lists of a run's files."""
    side_tables = {name: rows.records() for name, rows in run.side_tables.items()}
    return {"parts": run.members.records(), "side_tables": {name: rows for name, rows in side_tables.items() if rows}}


def _check_readable(info: RunInfo) -> None:
    """Raises BadRun for a record that could be written but not read again: such a run would be lost."""
    try:
        RunInfo.from_json(info.to_json())
    except BadRun as problem:
        raise BadRun(f"The run cannot be stored: {problem}") from None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
