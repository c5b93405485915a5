"""One writer per run folder: a lock file beside the folder that names its holder and ends with its process.

`results/.demo.lock` guards `results/demo` and what is written beside it (`.demo.panbench-new`). panbench/base/locks.py
takes it.
"""

from datetime import datetime
from pathlib import Path

from panbench.base import locks
from panbench.base.errors import BadRun

__all__ = ["RunLock", "is_locked", "lock_path", "may_be_written", "owner_of", "written_since"]


def lock_path(folder: Path) -> Path:
    """The lock file of a run folder."""
    place = folder.absolute()
    return place.parent / f".{place.name}.lock"


class RunLock:
    """The right to write a run folder, from `acquire` to `release` or the end of the process."""

    def __init__(self, lock: locks.Lock) -> None:
        """Use `acquire`."""
        self._lock = lock

    @classmethod
    def acquire(cls, folder: Path) -> "RunLock":
        """Locks a run folder. Raises BadRun, naming the owner, when another writer has it or it cannot be locked."""
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
                f"{locks.way_out(path)}"
            )
        return cls(lock)

    def release(self) -> None:
        """Lets others write; a second call does nothing."""
        self._lock.release()


def owner_of(folder: Path) -> str:
    """Who has locked a run folder, in words: "process 12 on host a since …"."""
    return locks.owner_of(lock_path(folder))


def may_be_written(folder: Path) -> bool:
    """Whether somebody may be writing the run folder right now, as far as reading alone tells; `is_locked` is sure.

    For those who look on: they must not hold the lock for a moment, as a writer that begins then would be refused.
    """
    if not locks.is_present(lock_path(folder)):
        return False
    holder = locks.holder_of(lock_path(folder))
    return holder is None or not holder.has_ended


def written_since(folder: Path) -> datetime | None:
    """When whoever writes the run folder began; None where nobody does or no record says."""
    holder = locks.holder_of(lock_path(folder))
    return None if holder is None else holder.since


def is_locked(folder: Path) -> bool:
    """Whether somebody writes the run folder right now. Leaves no file behind."""
    if not locks.is_present(lock_path(folder)):
        return False
    try:
        lock = RunLock.acquire(folder)
    except BadRun:
        return True
    lock.release()
    return False
