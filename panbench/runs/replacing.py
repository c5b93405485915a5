"""Replaces a run so that at any moment either the old or the new one is complete.

The new run is written to `.RUN.panbench-new` next to RUN. A mark in it (`.replaces.json`) names the run that it
replaces. When it is done, RUN is renamed to `.RUN.panbench-old` and the new run to RUN; then the files of the old run
are removed (its run.json last), and the mark. `finish_run_swap` completes an interrupted replacement. Without the mark
nothing is renamed or removed: RUN.old and RUN.new are names that users give to their own runs.
"""

import contextlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.base.files import sync_folder, write_json
from panbench.panoptic.parts import part_files
from panbench.runs.layout import MARK, PARTS, RECORD
from panbench.runs.record import read_info
from panbench.runs.removal import remove_empty_run_folders, remove_run_files

_NEW, _OLD = ".panbench-new", ".panbench-old"


@dataclass(frozen=True)
class _ReplacementMark:
    """The content of `.replaces.json`: the name of the run folder to replace, and the id of the run in it."""

    home: str
    run: str


def new_run_path(home: Path) -> Path:
    """Returns the folder next to the run folder `home` in which its replacement is written."""
    return _folder_beside_run(home, _NEW)


def old_run_path(home: Path) -> Path:
    """Returns the folder that the old run in `home` is moved to, before its files are removed."""
    return _folder_beside_run(home, _OLD)


def home_of_replacement(path: Path) -> Path | None:
    """Returns the run folder (`m`) that a temporary folder `.m.panbench-new` or `-old` stands for; else None."""
    for suffix in (_NEW, _OLD):
        if path.name.startswith(".") and path.name.endswith(suffix) and len(path.name) > 1 + len(suffix):
            return path.with_name(path.name[1 : -len(suffix)])
    return None


def mark_as_replacement(new: Path, home: Path) -> None:
    """Writes `.replaces.json`, which makes `new` the replacement of the run in `home`."""
    write_json(new / MARK, {"home": home.absolute().name, "run": _run_id(home)})


def is_replacing_run(folder: Path, home: Path) -> bool:
    """True if the run in `folder` will replace the one in the run folder `home`, as `.replaces.json` says.

    It does not matter which run was in `home`.
    """
    mark = _replacement_mark(folder)
    return mark is not None and mark.home == home.absolute().name


def replacement_of(home: Path) -> Path | None:
    """Returns the folder of the run, done or not, that will replace the run in `home`; None if there is none."""
    new, mark = new_run_path(home), _replacement_mark(new_run_path(home))
    if mark is None or mark.home != home.absolute().name or not os.path.isfile(new / RECORD):
        return None
    return new if not os.path.lexists(home) or _run_id(home) == mark.run else None


def abandoned_new_run(home: Path) -> Path | None:
    """Returns the folder of a new run that was stopped before its first image and can be deleted; else None."""
    new = new_run_path(home)
    is_run = not new.is_symlink() and _run_id(new) is not None
    return new if is_run and not is_replacing_run(new, home) and not part_files(new / PARTS) else None


def active_run_folder(home: Path) -> Path:
    """Returns the folder that a run is written to: `home`, or that of its unfinished replacement."""
    return replacement_of(home) or home


def swap_runs(new: Path, home: Path) -> None:
    """Replaces the run in the folder `home` by the finished run in `new`, and removes the old one.

    Raises BadRun, and leaves both in place, if `home` now has another run than the mark says or cannot be renamed.
    """
    old = old_run_path(home)
    if os.path.lexists(home) and replacement_of(home) != new:
        raise BadRun(
            f"The new run is complete in {new}, but {home} is no longer the run that it was to replace. Move one of "
            "them."
        )
    try:
        if os.path.lexists(home):
            os.rename(home, old)
        try:
            os.rename(new, home)
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(old, home)
            raise
        sync_folder(new.parent)
    except OSError as problem:
        raise BadRun(f"The new run is complete in {new} but cannot replace {home}: {problem.strerror}.") from None
    _remove_old_run(home)


def finish_run_swap(home: Path) -> bool:
    """Completes an interrupted replacement of the run in `home`; returns whether there was one. Lock `home` first."""
    new = replacement_of(home)
    if not os.path.lexists(home) and new is not None and read_info(new).status == "done":
        os.rename(new, home)
        sync_folder(new.parent)
    if (abandoned := abandoned_new_run(home)) is not None:
        remove_run_files(abandoned)
    return _remove_old_run(home)


def explain_interrupted_replacement(home: Path) -> str | None:
    """Explains what to do if `home` is missing because its replacement was interrupted; None if it is not."""
    if os.path.lexists(home):
        return None
    new, old = replacement_of(home), old_run_path(home)
    if new is not None and read_info(new).status == "done":
        return (
            f"{home} was not found: panbench was stopped while it replaced it. The new run is complete in {new}. "
            f"`panbench runs finish {shlex.quote(str(home))}` puts it in place."
        )
    if os.path.isfile(old / RECORD):
        return f"{home} was not found. The run that was there is in {old}: {_mv_command(old, home)} puts it back."
    return None


def explain_moved_run(home: Path) -> str | None:
    """Explains where a missing run may have been moved, judged by the folders next to it; None if unknown."""
    if os.path.lexists(home):
        return None
    if (new := replacement_of(home)) is not None:
        return (
            f"{home} was not found, but an unfinished run that was to replace it is in {new}. The command that began "
            "it continues with --resume."
        )
    found = [
        path for suffix in (".old", ".new") if _is_done_run(path := _folder_beside_run(home, suffix, hidden=False))
    ]
    if not found:
        return None
    return f"{home} was not found, but {found[0]} was: {_mv_command(found[0], home)} makes it {home.name}."


def _mv_command(path: Path, home: Path) -> str:
    """Returns the `mv` command, for a message, that moves a run folder back to its original path."""
    return f"`mv {shlex.quote(str(path))} {shlex.quote(str(home))}`"


def _is_done_run(path: Path) -> bool:
    """True if a folder has a readable run with status "done"."""
    try:
        return os.path.isfile(path / RECORD) and read_info(path).status == "done"
    except BadRun:
        return False


def _replacement_mark(folder: Path) -> _ReplacementMark | None:
    """Reads which run a new run will replace, from its `.replaces.json`; None if that is absent or unreadable."""
    try:
        content = json.loads((folder / MARK).read_bytes())
        home, run = content["home"], content["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _ReplacementMark(home, run) if isinstance(home, str) and isinstance(run, str) else None


def _run_id(folder: Path) -> str | None:
    """Reads the id of the run in a folder; None if there is no run."""
    try:
        return read_info(folder).id
    except BadRun:
        return None


def run_bytes(path: Path) -> int:
    """Returns the total size of a run folder's files in bytes."""
    size = 0
    for parent, _, files in os.walk(path):
        for name in files:
            # While a run is written, temporary files appear and disappear.
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(parent, name)).st_size
    return size


def _remove_old_run(home: Path) -> bool:
    """Removes the old run and `.replaces.json` after a replacement; returns whether there was one.

    Files that do not belong to the old run are moved to the same path in the new run's folder.
    """
    old, mark = old_run_path(home), _replacement_mark(home)
    if mark is None or mark.home != home.absolute().name:
        return False
    with contextlib.suppress(OSError):
        # An old folder without run.json was being removed when panbench was stopped.
        if old.is_dir() and (_run_id(old) == mark.run or not (old / RECORD).exists()):
            for file in remove_run_files(old):
                _move_into_new_run(file, home / file.relative_to(old))
            remove_empty_run_folders(old)
        (home / MARK).unlink(missing_ok=True)
    return True


def _move_into_new_run(file: Path, target: Path) -> None:
    """Moves a file, unless its target exists."""
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(file, target)


def _folder_beside_run(home: Path, suffix: str, hidden: bool = True) -> Path:
    """Returns the path of a folder next to a run folder, with the same name and a suffix.

    hidden: its name begins with a dot
    The home "." is resolved to its absolute path first.
    """
    parent = home if home.name else home.absolute()
    return parent.with_name(f"{'.' if hidden else ''}{home.absolute().name}{suffix}")
