"""One writer a run folder: a lock file beside the folder, which says who holds it and ends with its process.

`results/.demo.lock` guards `results/demo` and what is written beside it (`demo.new`). The operating system holds the
lock and drops it when the process ends, however it ends (`flock`, on Windows `msvcrt.locking`). Where a file system has
no locks, the owner that the file names counts as long as it lives: its process id and when that process began tell.
"""

import contextlib
import errno
import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from panbench.base.errors import BadRun

__all__ = ["RunLock", "lock_path", "owner_of"]

# The byte that Windows locks; it lies behind the content, which others must be able to read.
_LOCKED_BYTE = 1 << 30


def lock_path(folder: Path) -> Path:
    """The lock file of a run folder."""
    place = folder.absolute()
    return place.parent / f".{place.name}.lock"


class RunLock:
    """The right to write a run folder, from `acquire` to `release` or the end of the process."""

    def __init__(self, path: Path, handle: IO[str]) -> None:
        """Use `acquire`."""
        self.path = path
        self._handle: IO[str] | None = handle

    @classmethod
    def acquire(cls, folder: Path) -> "RunLock":
        """Locks a run folder. Raises BadRun, naming the owner, when another writer has it or it cannot be locked."""
        path = lock_path(folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise BadRun(f"{folder} cannot be made: {problem.strerror or problem}.") from None
        try:
            while True:
                handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115
                try:
                    held = _lock(handle, path)
                except BaseException:
                    handle.close()
                    raise
                if not held:
                    handle.close()
                    raise BadRun(
                        f"{folder} is being written by {owner_of(folder)}. Wait for it, or give another --out."
                    )
                # The file may have been deleted by the owner before us, between our opening and locking it.
                if _is_at(handle, path):
                    break
                handle.close()
            handle.seek(0)
            handle.truncate()
            json.dump(_own_record(), handle)
            handle.flush()
        except OSError as problem:
            raise BadRun(f"{folder} cannot be written: {path}: {problem.strerror or problem}.") from None
        return cls(path, handle)

    def release(self) -> None:
        """Lets others write; a second call does nothing."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):
            if sys.platform != "win32":  # Windows deletes no open file
                self.path.unlink(missing_ok=True)
        handle.close()
        if sys.platform == "win32":
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def owner_of(folder: Path) -> str:
    """Who has locked a run folder, in words: "process 12 on host a since …"."""
    record = _read(lock_path(folder))
    if not record:
        return "another process"
    return f"process {record['pid']} on {record['host']} since {record['since']}"


def is_locked(folder: Path) -> bool:
    """Whether somebody writes the run folder right now. Leaves no file behind."""
    path = lock_path(folder)
    if not path.exists():
        return False
    try:
        lock = RunLock.acquire(folder)
    except BadRun:
        return True
    lock.release()
    return False


def _own_record() -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": now, "began": _start_of(os.getpid())}


def _read(path: Path) -> dict[str, Any] | None:
    """The owner that a lock file names; None when it names none (yet)."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    right = isinstance(record, dict) and type(record.get("pid")) is int and isinstance(record.get("host"), str)
    return {**record, "since": record.get("since")} if right else None


def _lock(handle: IO[str], path: Path) -> bool:
    """Takes the system's lock on an open file; False when another process has it."""
    try:
        return _lock_by_system(handle)
    except OSError as problem:
        if problem.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
    except ImportError:
        pass
    return _lock_by_existence(path)


def _lock_by_system(handle: IO[str]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        handle.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as problem:
            if problem.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True
    import fcntl

    try:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_by_existence(path: Path) -> bool:
    """Where no lock of the system is to be had: the file names its owner, and only a living owner counts."""
    record = _read(path)
    return record is None or not _may_be_alive(record)


def _may_be_alive(record: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock file may still run; of another machine nobody can say."""
    if record["host"] != platform.node():
        return True
    began = _start_of(record["pid"])
    return began is not None and (record.get("began") is None or began == record["began"])


def _start_of(pid: int) -> str | None:
    """When a process began, as far as the system says, so that a number that is used again is not taken for it."""
    try:
        # Field 22, counted behind the name, which may hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    if sys.platform == "win32":
        return _start_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


def _start_on_windows(pid: int) -> str | None:
    # os.kill(pid, 0) would end the process there.
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
    process = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not process:
        return None
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(process, ctypes.byref(code))
    kernel.CloseHandle(process)
    return "alive" if code.value == 259 else None  # STILL_ACTIVE


def _is_at(handle: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        mine, there = os.fstat(handle.fileno()), os.stat(path)
    except OSError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
