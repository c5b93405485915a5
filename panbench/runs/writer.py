"""Writes run folders. Each folder has at most one writer at a time.

With `overwrite` the new run is written next to the old one, and replaces it when it is done (replacing.py).
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

from panbench.base.addresses import refuse_url
from panbench.base.errors import BadRun, OutOfSpace
from panbench.base.files import make_folders, sync_folder, write_json
from panbench.base.locks import Lock
from panbench.base.text import for_file
from panbench.panoptic.overlap import OverlapTable
from panbench.panoptic.parts import compact, next_number, write_part
from panbench.runs.folder import Run, load_run
from panbench.runs.hashes import NO_HASHES, FileHashes, forget_absent_files
from panbench.runs.layout import CORE_NAMES, MARK, PARTS, RECORD, is_own_name
from panbench.runs.lock import lock_run
from panbench.runs.membership import part_metadata
from panbench.runs.record import STATUSES, RunInfo, SummaryRecord, read_info
from panbench.runs.removal import not_own_files, remove_run_files
from panbench.runs.replacing import (
    abandoned_new_run,
    active_run_folder,
    explain_interrupted_replacement,
    finish_run_swap,
    is_replacing_run,
    mark_as_replacement,
    new_run_path,
    old_run_path,
    replacement_of,
    run_bytes,
    swap_runs,
)
from panbench.runs.study_tables import write_study_file

if TYPE_CHECKING:
    import pyarrow as pa

_TEMPORARY = re.compile(r"\..+\.tmp")
_RESERVE = ".reserve.tmp"
# Reserved for the last run.json of a run that ends because the disk is full.
_RESERVED_BYTES = 1 << 17


class RunWriter:
    """Writes one run folder."""

    def __init__(self, home: Path, path: Path, run: Run, lock: Lock) -> None:
        """Use `create` or `resume`."""
        self.home = home
        """The run's folder once it is done."""
        self.path = path
        """The folder that is written: `home`, or one next to it during a replacement."""
        self.info = run.info
        self.done = frozenset(run.images.tolist())
        """The ids of images in readable parts of the run."""
        self.notices = run.notices
        self._lock = lock
        self._next: dict[tuple[str, int], int] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str], info: RunInfo, overwrite: bool = False) -> "RunWriter":
        """Creates the folder and its run.json with status "running".

        info: the record so far; id, panbench and status are filled in, name and started if absent
        overwrite: replaces an existing run, once the new one is done
        Raises BadRun if the folder holds another run (unless `overwrite`) or other files, or is being written;
        OutOfSpace if there is no room for both runs.
        """
        from panbench import __version__

        home = Path(path)
        check_room(home, overwrite)
        lock = lock_run(home)
        try:
            finish_run_swap(home)
            check_room(home, overwrite)
            target = home if _is_free_for_run(home) else new_run_path(home)
            if target != home:
                _require_space_for_both_runs(home)
                remove_run_files(target)
            content = replace(
                info,
                id=secrets.token_hex(16),
                panbench=__version__,
                name=for_file(info.name or home.absolute().name),
                status="running",
                parts=(),
                study_tables={},
                started=info.started or _utc_now(),
            )
            _refuse_unreadable_record(content)
            try:
                make_folders(target)
                if target != home:
                    mark_as_replacement(target, home)
                writer = cls(home, target, Run(content, target, table=OverlapTable.empty()), lock)
                writer.update()
                writer._reserve_disk_space()
                # Created after run.json: a run that is stopped between the two is still valid.
                make_folders(target / PARTS)
            except OSError as problem:
                with contextlib.suppress(OSError):
                    remove_run_files(target)
                raise BadRun(f"{home} cannot be written: {problem.strerror or problem}.") from None
        except BaseException:
            lock.release()
            raise
        return writer

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> "RunWriter":
        """Opens an unfinished run, or the unfinished replacement of a run, to write the missing images.

        `done` has the images in readable parts, `notices` a message for each part that was left out. Raises BadRun if
        there is no run, it has another schema, or it is being written.
        """
        home = Path(path)
        load_run(active_run_folder(home))
        lock = lock_run(home)
        try:
            finish_run_swap(home)
            run = load_run(active_run_folder(home))
            assert run.path is not None
            writer = cls(home, run.path, run, lock)
            try:
                make_folders(run.path / PARTS)
                writer._reserve_disk_space()
                forget_absent_files(run.path)
            except OSError as problem:
                raise BadRun(f"{home} cannot be written: {problem.strerror or problem}.") from None
            # run.json now lists the files that exist.
            writer.update(**_file_lists_of_run(run), status="running", error=None, finished=None)
        except BaseException:
            lock.release()
            raise
        return writer

    def write_part(
        self, table: OverlapTable, files: FileHashes | None = None, pngs: Iterable[Path] = (), shard: int = 0
    ) -> Path:
        """Writes the table of a chunk of images as a new part, complete or not at all; returns its path.

        files: the hashes of the files that were read for these images
        pngs: the id PNGs written for these images; their folders are synced before the part is written
        shard: in a merged run, the number of the shard with these rows; it begins the file's name
        An existing part is never replaced. Raises BadRun if the folder now holds another run.
        """
        for folder in {path.parent for path in pngs}:
            sync_folder(folder)
        metadata = part_metadata(self.info, files or NO_HASHES)
        return self._write_next_part_file(self.path / PARTS, shard, lambda path: write_part(path, table, metadata))

    def _write_next_part_file(self, folder: Path, shard: int, write: Callable[[Path], None]) -> Path:
        """Writes a new Parquet file under the next number that no other file has; returns its path."""
        if read_info(self.path).id != self.info.id:
            raise BadRun(f"{self.path} was replaced by another run while this one was being written.")
        key = (folder.name, shard)
        if key not in self._next:
            self._next[key] = next_number(folder, shard)
        while True:
            target = folder / f"{shard:04d}-{self._next[key]:06d}.parquet"
            self._next[key] += 1
            with contextlib.suppress(FileExistsError):
                write(target)
                return target

    def write_study_rows(self, name: str, table: "pa.Table", shard: int = 0) -> Path:
        """Writes rows of a study's table for some images to a new Parquet file of the run; returns its path.

        name: the table's name in `Study.tables`
        table: rows with a column image_id, at least one per image
        shard: as in `write_part`
        """
        if name in CORE_NAMES or name in {field.name for field in fields(RunInfo)} or not is_own_name(name):
            raise ValueError(f"{name!r} is reserved in a run folder or in run.json, or not a name of a-z, 0-9, ._-")
        if name not in self.info.study_tables:
            # Lists the table when the run is closed, even if its study is not installed here (merged runs).
            self.info = replace(self.info, study_tables={**self.info.study_tables, name: ()})
        metadata = part_metadata(self.info, NO_HASHES)
        return self._write_next_part_file(self.path / name, shard, lambda path: write_study_file(path, table, metadata))

    def update(self, **changes: Any) -> None:
        """Sets fields of run.json and writes it."""
        changed = replace(self.info, **changes)
        write_json(self.path / RECORD, changed.to_json())
        self.info = changed

    def finish(self, status: str, **updates: Any) -> Run:
        """Closes the run with its final status: "done", "interrupted" or "failed". Returns the run.

        updates: further fields of run.json; `summary` is computed from the parts if absent
        A run that is done has its many small parts merged into few, and takes the place of the run that it replaces.
        A run that was already closed as done is not written again, as when a signal arrives at the last moment.
        """
        if status not in STATUSES[1:]:
            raise ValueError(f"status must be one of {', '.join(STATUSES[1:])}, not {status!r}")
        if self._is_closed_as_done:
            self.close()
            return Run(self.info, self.path if self.path.exists() else self.home)
        try:
            if status == "done":
                self._compact_part_files()
            run = Run(self.info, self.path)
            if "summary" not in updates:
                updates["summary"] = SummaryRecord.of(run.summary()) if len(run.images) else None
            self._release_disk_space()
            self.update(**{"status": status, "finished": _utc_now(), **_file_lists_of_run(run), **updates})
            if status == "done" and self.path != self.home:
                swap_runs(self.path, self.home)
                self.path = self.home
        finally:
            self.close()
        return Run(self.info, self.path)

    @property
    def _is_closed_as_done(self) -> bool:
        """True if run.json says done, or if the finished run was already moved to its final folder."""
        try:
            return read_info(self.path).status == "done"
        except BadRun:
            return not self.path.exists()

    def close(self) -> None:
        """Releases the lock on the folder; `finish` calls it."""
        self._release_disk_space()
        self._lock.release()

    def _compact_part_files(self) -> None:
        """Joins the many small parts of a run into few large ones."""
        members = Run(self.info, self.path).members
        compact(
            self.path / PARTS,
            admit=members.admit,
            metadata=lambda images: part_metadata(self.info, members.files().only(images)),
        )

    def _reserve_disk_space(self) -> None:
        """Writes a file that keeps disk space free for the last run.json. Raises OSError if the disk is full."""
        try:
            (self.path / _RESERVE).write_bytes(secrets.token_bytes(_RESERVED_BYTES))
        except OSError:
            self._release_disk_space()
            raise

    def _release_disk_space(self) -> None:
        """Deletes the file that keeps disk space free for the last run.json."""
        with contextlib.suppress(OSError):
            (self.path / _RESERVE).unlink(missing_ok=True)


def remove_run(path: str | os.PathLike[str]) -> Sequence[Path]:
    """Removes the files that panbench wrote into a run folder, and the folder if it is then empty.

    Returns the files that remain. Raises BadRun for a folder that is not a run, is a link to one, or is being written.
    """
    home = Path(path)
    read_info(home)
    refuse_link(home)
    with lock_run(home):
        finish_run_swap(home)
        return remove_run_files(home)


def refuse_link(path: Path) -> None:
    """Raises BadRun for a link to a run: only the folder itself can be removed or replaced."""
    if path.is_symlink():
        raise BadRun(f"{path} is a link to {path.resolve()}. Name that folder, or remove the link.")


def finish_replacement(path: str | os.PathLike[str]) -> bool:
    """Completes an interrupted replacement of the run in `path`; returns whether there was one.

    Raises BadRun if the run is being written.
    """
    home = Path(path)
    with lock_run(home):
        return finish_run_swap(home)


def unfinished_run(path: str | os.PathLike[str]) -> Run | None:
    """Returns the run that `resume` would continue: the replacement of `path` if there is one, else `path`, or None.

    Raises BadRun if `path` is missing because its replacement was interrupted.
    """
    home = Path(path)
    target = active_run_folder(home)
    if target == home and (message := explain_interrupted_replacement(home)):
        raise BadRun(f"{message} Or start again without --resume.")
    return load_run(target) if (target / RECORD).exists() else None


def check_room(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raises BadRun if `path` is not free for a new run: it has another run (unless `overwrite`) or other files."""
    refuse_url(path, "--out")
    path = Path(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadRun(f"{path} is a file; give a folder for the run.")
    if _is_free_for_run(path):
        return
    try:
        read_info(path)
    except BadRun as problem:
        raise BadRun(f"{path} exists and is not a run that may be replaced; give another folder. ({problem})") from None
    if not overwrite:
        raise BadRun(f"{path} holds another run. Give another folder, or --overwrite to replace it.")
    refuse_link(path)
    if others := not_own_files(path):
        raise BadRun(f"{others[0]} was not written by panbench, so it is not overwritten; move it away first.")
    new, old = new_run_path(path), old_run_path(path)
    ours = (replacement_of(path), old if is_replacing_run(path, path) else None)
    for other in (new, old):
        if (
            os.path.lexists(other)
            and other not in ours
            and not _is_free_for_run(other)
            and abandoned_new_run(path) != other
        ):
            raise BadRun(
                f"{other} is in the way: the new run is written next to the old one. Move it, or give another --out."
            )


def _require_space_for_both_runs(home: Path) -> None:
    """Raises OutOfSpace if a run as large as the one in `home` does not fit next to it."""
    needed = run_bytes(home)
    free = shutil.disk_usage(home.absolute().parent).free
    if free < needed:
        raise OutOfSpace(
            f"{home} is kept until the new run is done, but only {free / 1e6:,.0f} MB are free besides its "
            f"{needed / 1e6:,.0f} MB. Free some space, or delete the old run first."
        )


def _is_free_for_run(path: Path) -> bool:
    """True if `path` does not exist, or holds only leftovers of a process that was killed before it wrote run.json."""
    if not os.path.isdir(path):
        return True
    for entry in path.iterdir():
        ours = entry.name == MARK or _TEMPORARY.fullmatch(entry.name)
        if not ours and not (entry.name == PARTS and not any(entry.iterdir())):
            return False
    return True


def _file_lists_of_run(run: Run) -> dict[str, Any]:
    """Returns the fields of run.json that list a run's files: `parts` and `study_tables`."""
    study_tables = {name: rows.records() for name, rows in run.study_tables.items()}
    return {"parts": run.members.records(), "study_tables": {name: rows for name, rows in study_tables.items() if rows}}


def _refuse_unreadable_record(info: RunInfo) -> None:
    """Raises BadRun for a record that could be written but not read again, so that the run would be lost."""
    try:
        RunInfo.from_json(info.to_json())
    except BadRun as problem:
        raise BadRun(f"The run cannot be stored: {problem}") from None


def _utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
