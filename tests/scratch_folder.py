"""Temporary files of a session of tests in memory, where the system has room for them.

A session makes and deletes tens of thousands of small files; on a disk half of its time may go into that. On Linux,
/dev/shm is a folder in memory. It is used where it and the memory have room for far more than a session writes; in a
container it often has 64 MB, and then everything lies where it lay. TMPDIR, if it is set, is obeyed.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ROOM = 8 << 30
"""Bytes that must be free of the folder and of the memory: a session of all tests writes 1.1 GB."""
_PREFIX = "panbench-tests-"


def begin() -> Path | None:
    """Makes the folder of this session, takes away those of ended ones, and sets TMPDIR; None: files stay on disk."""
    if "TMPDIR" in os.environ or not _has_room():
        return None
    for old in SHARED_MEMORY.glob(f"{_PREFIX}*"):
        if not Path(f"/proc/{old.name.removeprefix(_PREFIX).partition('-')[0]}").exists():
            shutil.rmtree(old, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=SHARED_MEMORY)
    tempfile.tempdir = None  # asked for again
    return Path(os.environ["TMPDIR"])


def _has_room() -> bool:
    with contextlib.suppress(OSError):
        sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(sizes["MemAvailable"].split()[0]) << 10
        return min(available, shutil.disk_usage(SHARED_MEMORY).free) >= ROOM and os.access(SHARED_MEMORY, os.W_OK)
    return False


def own_cache(folder: Path, beside: Path | None = None) -> str:
    """Makes a folder for PANBENCH_CACHE that shares with another, or the session's, what takes a second or more to
    make: generated scenes and the texts of configs. Two programs may write both at once."""
    folder.mkdir(exist_ok=True)
    kept = beside or Path(os.environ["PANBENCH_CACHE"])
    for name in ("shapes", "configs"):
        (kept / name).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # Windows links for administrators alone
            (folder / name).symlink_to((kept / name).resolve(), target_is_directory=True)
    return str(folder)
