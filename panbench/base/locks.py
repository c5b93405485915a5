"""Locks between processes: one holder of a lock file at a time, named beside it in `<lock file>.owner`.

filelock takes them: a lock of the operating system, which ends with its process, however that ends. A file system
without such locks gets filelock's marker file, `<lock file>.soft`: a marker whose process has ended on this machine is
taken over; one of another machine counts until somebody deletes it.
"""

import contextlib
import errno
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Holder", "Lock", "holder_of", "is_present", "owner_of", "way_out"]

# What a system answers where the file system has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Lock:
    """The right to what a lock file guards, from `acquire` to `release` or the end of the process."""

    def __init__(self, path: Path, held: "BaseFileLock") -> None:
        """Use `acquire`."""
        self.path = path
        self._held: BaseFileLock | None = held

    @classmethod
    def acquire(cls, path: Path, *, patience: float = 0.0) -> "Lock | None":
        """The lock of a lock file, whose folder exists; None when another holder keeps it for `patience` seconds.

        Raises OSError when the folder cannot be written.
        """
        # Imported here: a command that only reads runs locks nothing.
        from filelock import FileLock, SoftFileLock, Timeout

        # Not bound to a thread: a run may be closed by another one than opened it.
        held: BaseFileLock
        if _has_locks(path.parent):
            held = FileLock(path, thread_local=False)
        else:
            held = SoftFileLock(_marker(path), thread_local=False)
        try:
            try:
                held.acquire(timeout=patience)
            except Timeout:
                # Without a wait, a dead owner's marker is only removed by the first attempt.
                held.acquire(blocking=False)
        except Timeout:
            return None
        try:
            _owner_file(path).write_text(json.dumps(_own_record()), "utf-8")
        except BaseException:
            cls(path, held).release()
            raise
        return cls(path, held)

    def release(self) -> None:
        """Lets others have it and removes the files; a second call does nothing."""
        if self._held is None:
            return
        held, self._held = self._held, None
        with contextlib.suppress(OSError):
            # Before the lock file: from then on the next holder may write its own.
            _owner_file(self.path).unlink(missing_ok=True)
        if sys.platform != "win32":  # filelock removes it there
            with contextlib.suppress(OSError):
                # While it is held: filelock gives up a lock whose file was unlinked, so nobody else holds this one.
                self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            held.release(force=True)


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names as its holder, which may have ended since. `since`: when it took the lock."""

    pid: int
    host: str
    since: datetime

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended: it was of this machine and no longer runs, or another has its number.

        Only looked up: nothing is locked, so that a writer that begins now is not refused. Of another machine, and
        on Windows, nobody can tell.
        """
        if self.host != platform.node() or sys.platform == "win32":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # somebody else's process
        began = _began(self.pid)
        return began is not None and began > self.since.timestamp() + _CLOCK_SECONDS


# The record has whole seconds, and the clock of the kernel's records may be set while it runs.
_CLOCK_SECONDS = 5


def _began(pid: int) -> float | None:
    """When a process of this machine began, in seconds since 1970; None where the system does not say (Linux does)."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text("utf-8").splitlines() if line.startswith("btime "))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def holder_of(path: Path) -> Holder | None:
    """Who holds a lock file, as its record says; None where there is no record."""
    try:
        record = json.loads(_owner_file(path).read_text("utf-8"))
        return Holder(int(record["pid"]), str(record["host"]), datetime.fromisoformat(record["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def owner_of(path: Path) -> str:
    """Who holds a lock file, in words: "process 12 on host a since …"."""
    holder = holder_of(path)
    if holder is None:
        return "another process"
    return f"process {holder.pid} on {holder.host} since {_in_utc(holder.since)}"


def _in_utc(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def way_out(path: Path) -> str:
    """How to remove the lock of a process that ended, as a sentence with a space before it; "" where it ends itself."""
    if not _marker(path).exists():
        return ""
    return f" The file system has no locks: if that process has ended, delete {_marker(path)}."


def is_present(path: Path) -> bool:
    """Whether there is a lock file, held or left behind."""
    return path.exists() or _marker(path).exists()


def _own_record() -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _owner_file(path: Path) -> Path:
    return path.with_name(path.name + ".owner")


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".soft")


def _has_locks(folder: Path) -> bool:
    """Whether the file system of a folder locks files.

    Tried on a file of its own: a lock file that another process made tells nothing, and one that is made for the trial
    could be taken for a holder's.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    with tempfile.TemporaryFile(dir=folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as problem:
            if problem.errno in _NO_LOCKS:
                return False
            raise
