"""How a run takes the place of another without a moment in which neither is whole.

The new run lies in `RUN.new` until it is done. Then `RUN` becomes `RUN.old`, `RUN.new` becomes `RUN`, and the files of
the old run are removed, its run.json last. Cut short anywhere, `finish_swap` ends it.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.panoptic.parts import part_files
from panbench.runs.layout import (
    CANDIDATES,
    ORACLE,
    ORACLE_BLOCKS,
    PARTS,
    PREDICTIONS,
    PREDICTIONS_JSON,
    RECORD,
    UNFUSED,
    WRITTEN,
)
from panbench.runs.record import read_info

__all__ = ["beside", "finish_swap", "foreign_files", "old_of", "place_of", "remove_run_files", "run_bytes", "swap"]


def beside(home: Path) -> Path:
    """Where a run is written that is to replace the one in `home`."""
    return _sibling(home, ".new")


def finish_swap(home: Path) -> None:
    """Ends the replacement of a run that was cut short between its renames."""
    new, old = beside(home), old_of(home)
    if not (old / RECORD).is_file():
        return
    if not home.exists() and (new / RECORD).is_file() and read_info(new).status == "done":
        os.rename(new, home)
    if home.exists():
        _clear_away(old, home)
    else:
        os.rename(old, home)


def foreign_files(path: Path) -> list[Path]:
    """What stands among the predictions of a run but is no id PNG."""
    predictions = path / PREDICTIONS
    if predictions.is_symlink():
        return [predictions]
    inside = predictions.rglob("*") if predictions.is_dir() else ()
    return [entry for entry in inside if entry.is_symlink() or not (entry.is_dir() or entry.suffix in (".png", ".tmp"))]


def run_bytes(path: Path) -> int:
    """How many bytes the files of a run folder take."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def remove_run_files(path: Path) -> Sequence[Path]:
    """Removes the files that a run wrote, its run.json last, and the folder if it is empty then; what is left in it."""
    if not path.is_dir():
        return ()
    for part in (*part_files(path / PARTS), *part_files(path / UNFUSED)):
        part.unlink()
    for folder in (path, path / PARTS, path / CANDIDATES, path / UNFUSED):
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
    if (path / PREDICTIONS).is_dir() and not foreign_files(path):
        shutil.rmtree(path / PREDICTIONS)
    for kept in (path / CANDIDATES).glob("[0-9]*.arrow"):
        kept.unlink()
    for block in (path / ORACLE_BLOCKS).glob("*.parquet"):
        block.unlink()
    for name in (PREDICTIONS_JSON, ORACLE, RECORD):
        (path / name).unlink(missing_ok=True)
    for folder in (path / PARTS, path / CANDIDATES, path / UNFUSED, path / ORACLE_BLOCKS, path):
        with contextlib.suppress(OSError):
            folder.rmdir()
    return sorted(path.iterdir()) if path.is_dir() else ()


def place_of(home: Path) -> Path:
    """Where the run that is being written lies: beside `home` while it replaces another one."""
    new = beside(home)
    return new if (new / RECORD).is_file() else home


def old_of(home: Path) -> Path:
    """Where the run that is replaced lies until its files are removed."""
    return _sibling(home, ".old")


def swap(new: Path, home: Path) -> None:
    """Puts the run in `new` in the place of the one in `home`, whose files are removed."""
    old = old_of(home)
    try:
        os.rename(home, old)
        os.rename(new, home)
    except OSError as problem:
        raise BadRun(
            f"The new run is complete in {new} but cannot take the place of {home}: {problem.strerror}."
        ) from None
    _clear_away(old, home)


def _clear_away(old: Path, home: Path) -> None:
    """Removes a run that was replaced; files that are not a run's go where they were, into the new run's folder."""
    with contextlib.suppress(OSError):
        for entry in list(old.iterdir()):
            if entry.name not in WRITTEN and not (home / entry.name).exists():
                os.rename(entry, home / entry.name)
        remove_run_files(old)


def _sibling(home: Path, suffix: str) -> Path:
    """`home` with a longer name; "." is named by its absolute path."""
    return (home if home.name else home.absolute()).with_name(f"{home.absolute().name}{suffix}")
