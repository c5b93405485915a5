"""Admits one writer per run folder: a lock file next to the folder names its holder and is released with its process.

`results/.demo.lock` guards `results/demo` and its replacement (`.demo.panbench-new`). See panbench/base/locks.py.
"""

from datetime import datetime
from pathlib import Path

from panbench.base import locks
from panbench.base.errors import BadRun


def lock_path(folder: Path) -> Path:
    """Returns the lock file of a run folder."""
    path = folder.absolute()
    return path.parent / f".{path.name}.lock"


def lock_run(folder: Path) -> locks.Lock:
    """Locks a run folder for writing, until `release` or the end of the process.

    Raises BadRun if another process is writing it (named in the message) or it cannot be locked.
    """
    path = lock_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BadRun(f"{folder} cannot be made: {problem.strerror or problem}.") from None
    try:
        lock = locks.Lock.acquire(path)
    except OSError as problem:
        raise BadRun(f"{folder} cannot be written: {path}: {problem.strerror or problem}.") from None
    if lock is None:
        raise BadRun(
            f"{folder} is being written by {owner_of(folder)}. Wait for it, or give another --out."
            f"{locks.stale_lock_hint(path)}"
        )
    return lock


def owner_of(folder: Path) -> str:
    """Describes the process that holds the lock of a run folder: "process 12 on host a since …"."""
    return locks.owner_of(lock_path(folder))


def may_be_written(folder: Path) -> bool:
    """True if a process may be writing the run folder, judged by the lock's files without locking.

    For readers: they must not take the lock even briefly, or a writer that starts at that moment would be refused.
    `is_locked` is certain.
    """
    if not locks.lock_exists(lock_path(folder)):
        return False
    holder = locks.holder_of(lock_path(folder))
    return holder is None or not holder.has_ended


def written_since(folder: Path) -> datetime | None:
    """Returns when the current writer of the run folder acquired the lock; None if no writer is recorded."""
    holder = locks.holder_of(lock_path(folder))
    return None if holder is None else holder.since


def is_locked(folder: Path) -> bool:
    """True if a process is writing the run folder, found out by trying to lock it. Leaves no file behind."""
    if not locks.lock_exists(lock_path(folder)):
        return False
    try:
        with lock_run(folder):
            return False
    except BadRun:
        return True
