"""Locks between processes: one holder of a lock file at a time, named in `<lock file>.owner` next to it.

filelock takes a lock of the operating system, released whenever its process ends. On a file system without such locks
it writes a marker file, `<lock file>.soft`: a marker of an ended process of this machine is taken over; one of another
machine counts until somebody deletes it.
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

# The error numbers of file systems that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Lock:
    """A lock file held by this process, from `acquire` to `release` or the end of the process."""

    def __init__(self, path: Path, held: "BaseFileLock") -> None:
        """Stores a lock that is already held; `acquire` makes one."""
        self.path = path
        self._held: BaseFileLock | None = held

    @classmethod
    def acquire(cls, path: Path, *, patience: float = 0.0) -> "Lock | None":
        """Acquires a lock; None if another process holds it for longer than `patience` seconds.

        The lock file's folder must exist. Raises OSError when it cannot be written.
        """
        # Imported here: a command that only reads runs locks nothing.
        from filelock import FileLock, SoftFileLock, Timeout

        # Not bound to a thread: a run may be closed by a different thread.
        held: BaseFileLock
        if _supports_locks(path.parent):
            held = FileLock(path, thread_local=False)
        else:
            held = SoftFileLock(_marker_file(path), thread_local=False)
        try:
            try:
                held.acquire(timeout=patience)
            except Timeout:
                # Without a wait, a dead owner's marker is only removed by the first attempt.
                held.acquire(blocking=False)
        except Timeout:
            return None
        try:
            _owner_file(path).write_text(json.dumps(_own_holder_record()), "utf-8")
        except BaseException:
            cls(path, held).release()
            raise
        return cls(path, held)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lock and removes its files; a second call does nothing."""
        if self._held is None:
            return
        held, self._held = self._held, None
        try:
            with contextlib.suppress(OSError):
                # Removed before the lock file: after that, the next holder may write its own record.
                _owner_file(self.path).unlink(missing_ok=True)
            if sys.platform != "win32":  # filelock removes it there
                with contextlib.suppress(OSError):
                    # Unlinked while held: filelock gives up a lock whose file was unlinked: no other holder.
                    self.path.unlink(missing_ok=True)
        finally:
            with contextlib.suppress(OSError):
                held.release(force=True)


@dataclass(frozen=True)
class Holder:
    """The process recorded as holding a lock, which may have ended. since: when it acquired the lock"""

    pid: int
    host: str
    since: datetime

    @property
    def has_ended(self) -> bool:
        """True if the process ran on this machine and has ended, or its number was reused.

        Takes no lock, so a writer that starts now is not refused. False where it is unknown: for other machines, and
        on Windows.
        """
        if self.host != platform.node() or sys.platform == "win32":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # somebody else's process
        started = _process_start(self.pid)
        return started is not None and started > self.since.timestamp() + _CLOCK_SECONDS


# The record has whole seconds, and the clock of the kernel's records may be set while it runs.
_CLOCK_SECONDS = 5


def _process_start(pid: int) -> float | None:
    """Returns when a process of this machine started, in seconds since 1970; None if the system does not report it."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text("utf-8").splitlines() if line.startswith("btime "))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def holder_of(path: Path) -> Holder | None:
    """Reads who holds a lock file; None if there is no record."""
    try:
        record = json.loads(_owner_file(path).read_text("utf-8"))
        return Holder(int(record["pid"]), str(record["host"]), datetime.fromisoformat(record["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def owner_of(path: Path) -> str:
    """Describes the holder of a lock file: "process 12 on host a since …"."""
    holder = holder_of(path)
    if holder is None:
        return "another process"
    since = f"{holder.since.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    return f"process {holder.pid} on {holder.host} since {since}"


def stale_lock_hint(path: Path) -> str:
    """Explains how to remove the lock of an ended process, starting with a space; "" where the system releases it."""
    if not _marker_file(path).exists():
        return ""
    return f" The file system has no locks: if that process has ended, delete {_marker_file(path)}."


def lock_exists(path: Path) -> bool:
    """True if there is a lock file, held or left behind."""
    return path.exists() or _marker_file(path).exists()


def _own_holder_record() -> dict[str, Any]:
    """Returns the record that names this process as the holder: process id, host and time."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now}


def _owner_file(path: Path) -> Path:
    return path.with_name(path.name + ".owner")


def _marker_file(path: Path) -> Path:
    """Returns the file whose existence is the lock, on file systems that cannot lock files."""
    return path.with_name(path.name + ".soft")


def _supports_locks(folder: Path) -> bool:
    """True if the file system of a folder can lock files.

    Tried on a separate file: another process's lock file proves nothing; a new one could be mistaken for a holder's.
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
