"""Replaces a run so that one of both, the old or the new one, is whole at any moment.

The new run is written to `.RUN.panbench-new` beside RUN. A mark in it (`.replaces.json`) names the run that it
replaces. When it is done, RUN becomes `.RUN.panbench-old`, the new run becomes RUN, the files of the old run are
removed (its run.json last), then the mark. `finish_swap` ends a replacement that was cut short. Without the mark
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
from panbench.runs.removal import remove_empty_folders, remove_run_files

__all__ = [
    "beside",
    "cut_short",
    "finish_swap",
    "ghost_of",
    "is_replacing",
    "mark_as_replacement",
    "moved_away",
    "old_of",
    "place_of",
    "replaced_home",
    "replacement_of",
    "run_bytes",
    "swap",
]

_NEW, _OLD = ".panbench-new", ".panbench-old"


@dataclass(frozen=True)
class _Mark:
    """Says which run a run replaces: the name of its folder, and what tells it from others (`_identity`)."""

    home: str
    run: str


def beside(home: Path) -> Path:
    """Where a run is written that is to replace the one in `home`."""
    return _sibling(home, _NEW)


def old_of(home: Path) -> Path:
    """Where the run that is replaced lies until its files are removed."""
    return _sibling(home, _OLD)


def replaced_home(path: Path) -> Path | None:
    """The run that the folder `path` has to do with as its replacement or its old version; None of other folders."""
    for suffix in (_NEW, _OLD):
        if path.name.startswith(".") and path.name.endswith(suffix) and len(path.name) > 1 + len(suffix):
            return path.with_name(path.name[1 : -len(suffix)])
    return None


def mark_as_replacement(new: Path, home: Path) -> None:
    """Says in `new` that it replaces the run in `home` as it is now."""
    write_json(new / MARK, {"home": home.absolute().name, "run": _identity(home)})


def is_replacing(folder: Path, home: Path) -> bool:
    """Whether a mark in `folder` names `home`, whichever run was there."""
    mark = _mark_of(folder)
    return mark is not None and mark.home == home.absolute().name


def replacement_of(home: Path) -> Path | None:
    """The folder of the run that is to replace the one in `home`, done or not; None if there is none."""
    new, mark = beside(home), _mark_of(beside(home))
    if mark is None or mark.home != home.absolute().name or not os.path.isfile(new / RECORD):
        return None
    return new if not os.path.lexists(home) or _identity(home) == mark.run else None


def ghost_of(home: Path) -> Path | None:
    """A folder beside `home` with the record of a replacement, but neither mark nor part: nothing is lost with it."""
    new = beside(home)
    is_run = not new.is_symlink() and _identity(new) is not None
    return new if is_run and not is_replacing(new, home) and not part_files(new / PARTS) else None


def place_of(home: Path) -> Path:
    """Where the run that is being written lies: beside `home` while it replaces another one."""
    return replacement_of(home) or home


def swap(new: Path, home: Path) -> None:
    """Puts the run in `new` in the place of the one that its mark names, whose files are removed.

    Raises BadRun, and leaves both where they are, when `home` has become another run or a folder cannot be renamed.
    """
    old = old_of(home)
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
        raise BadRun(
            f"The new run is complete in {new} but cannot take the place of {home}: {problem.strerror}."
        ) from None
    _clear_away(home)


def finish_swap(home: Path) -> bool:
    """Ends the replacement of a run that was cut short between its steps; whether there was one. Lock `home` before."""
    new = replacement_of(home)
    if not os.path.lexists(home) and new is not None and read_info(new).status == "done":
        os.rename(new, home)
        sync_folder(new.parent)
    if (ghost := ghost_of(home)) is not None:
        remove_run_files(ghost)
    return _clear_away(home)


def cut_short(home: Path) -> str | None:
    """What to do when `home` is missing because its replacement was cut short; None when it was not."""
    if os.path.lexists(home):
        return None
    new, old = replacement_of(home), old_of(home)
    if new is not None and read_info(new).status == "done":
        return (
            f"{home} was not found: panbench was stopped while it replaced it. The new run is complete in {new}. "
            f"`panbench runs finish {shlex.quote(str(home))}` puts it in place."
        )
    if os.path.isfile(old / RECORD):
        return f"{home} was not found. The run that was there is in {old}: {_move(old, home)} puts it back."
    return None


def moved_away(home: Path) -> str | None:
    """Where the run is that was in `home`, as far as the names beside it tell; None when they do not."""
    if os.path.lexists(home):
        return None
    if (new := replacement_of(home)) is not None:
        return (
            f"{home} was not found, but an unfinished run that was to replace it is in {new}. The command that began "
            "it goes on with --resume."
        )
    found = [path for suffix in (".old", ".new") if _is_done(path := _sibling(home, suffix, hidden=False))]
    if not found:
        return None
    return f"{home} was not found, but {found[0]} was: {_move(found[0], home)} makes it {home.name}."


def _move(path: Path, home: Path) -> str:
    return f"`mv {shlex.quote(str(path))} {shlex.quote(str(home))}`"


def _is_done(path: Path) -> bool:
    try:
        return os.path.isfile(path / RECORD) and read_info(path).status == "done"
    except BadRun:
        return False


def _mark_of(folder: Path) -> _Mark | None:
    """What the mark in a folder says; None where there is none that can be read."""
    try:
        content = json.loads((folder / MARK).read_bytes())
        home, run = content["home"], content["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _Mark(home, run) if isinstance(home, str) and isinstance(run, str) else None


def _identity(folder: Path) -> str | None:
    """What tells the run in a folder from others: its id; None where there is no run."""
    try:
        return read_info(folder).id
    except BadRun:
        return None


def run_bytes(path: Path) -> int:
    """How many bytes the files of a run folder take."""
    size = 0
    for place, _, files in os.walk(path):
        for name in files:
            # While a run is written, temporary files come and go.
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(place, name)).st_size
    return size


def _clear_away(home: Path) -> bool:
    """Removes the run that the one in `home` has replaced, then its mark; whether there was a mark.

    Files that are not a run's go where they were, into the new run's folder.
    """
    old, mark = old_of(home), _mark_of(home)
    if mark is None or mark.home != home.absolute().name:
        return False
    with contextlib.suppress(OSError):
        # A run whose run.json is gone was being removed when panbench was stopped.
        if old.is_dir() and (_identity(old) == mark.run or not (old / RECORD).exists()):
            for file in remove_run_files(old):
                _move_over(file, home / file.relative_to(old))
            remove_empty_folders(old)
        (home / MARK).unlink(missing_ok=True)
    return True


def _move_over(file: Path, target: Path) -> None:
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(file, target)


def _sibling(home: Path, suffix: str, hidden: bool = True) -> Path:
    """`home` with a longer name; "." is named by its absolute path."""
    place = home if home.name else home.absolute()
    return place.with_name(f"{'.' if hidden else ''}{home.absolute().name}{suffix}")
