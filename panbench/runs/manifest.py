"""The SHA-256 of files that a run keeps besides its parts: candidates, predictions.json and the oracle.

`hashes/0000.sha256` has a line for each, in the format of `sha256sum`. A line is on disk
before its file is, so a file that is there was recorded, whenever the process was killed; of two lines on a file the
later one counts. (The id PNGs are many and belong to images: their hashes are in the parts, see hashes.py.)
"""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from panbench.base.errors import BadRun, OutOfSpace
from panbench.base.files import atomic_write, link_or_copy, make_folders, sha256_of, sync_folder
from panbench.runs.layout import MANIFEST

__all__ = ["adopt_recorded", "check_recorded", "forget_absent", "recorded", "write_recorded"]

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_recorded(run: Path, name: str, content: bytes) -> Path:
    """Writes a file of a run, atomically, after its hash; its path. name: relative to the run folder, with slashes."""
    _append(run / MANIFEST, f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    path = run / name
    with atomic_write(path) as handle:
        handle.write(content)
    return path


def adopt_recorded(run: Path, name: str, source: Path, digest: str) -> None:
    """Takes a recorded file of another run into a run, after its hash. Other arguments as of `write_recorded`."""
    _append(run / MANIFEST, f"{digest}  {name}\n")
    link_or_copy(source, run / name)
    sync_folder((run / name).parent)


def recorded(run: Path) -> dict[str, str]:
    """The SHA-256 of each recorded file, by name; lines that were cut short are passed over."""
    found: dict[str, str] = {}
    manifest = run / MANIFEST
    try:
        text = manifest.read_text("utf-8", errors="replace") if manifest.is_file() else ""
    except OSError as problem:
        raise BadRun(f"{manifest} cannot be read: {problem.strerror or problem}.") from None
    # What comes after the last line end is a line that was cut short.
    for line in text.split("\n")[:-1]:
        if match := _LINE.fullmatch(line):
            found[match[2]] = match[1]
    return found


def check_recorded(run: Path, name: str, hashes: Mapping[str, str] | None = None) -> bool:
    """Whether a file of a run is what was recorded of it; False when nothing was.

    hashes: what `recorded` found, where many files are checked
    Raises BadRun for a file that differs or cannot be read.
    """
    expected = (recorded(run) if hashes is None else hashes).get(name)
    if expected is None:
        return False
    path = run / name
    try:
        found = sha256_of(path)
    except OSError as problem:
        raise BadRun(f"{path} cannot be read: {problem.strerror or problem}.") from None
    if found != expected:
        raise BadRun(f"{path} is not what the run wrote (its SHA-256 differs). Restore it, or make the run again.")
    return True


def forget_absent(run: Path) -> None:
    """Drops the lines of files that a process was killed before it wrote. Lock the run first."""
    lines = recorded(run)
    kept = {name: digest for name, digest in lines.items() if (run / name).is_file()}
    if kept != lines:
        with atomic_write(run / MANIFEST, "w") as handle:
            handle.writelines(f"{digest}  {name}\n" for name, digest in kept.items())


def _append(manifest: Path, line: str) -> None:
    make_folders(manifest.parent)
    is_new = not manifest.exists()
    try:
        with open(manifest, "ab+") as handle:
            if handle.tell():
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    line = f"\n{line}"
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            sync_folder(manifest.parent)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"No space left while writing {manifest}. Free some space.") from problem
        raise
