"""Files that appear whole or not at all, and their hashes."""

import contextlib
import errno
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from panbench.base.errors import BadArgument, OutOfSpace


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    """A file object whose content stands at `path` when the block ends well, and nowhere when it does not.

    Written beside `path` under a temporary name (`.<name>.<random>.tmp`), flushed to disk, renamed. Missing parent
    folders are made. Raises OutOfSpace when the disk is full; any other error passes through. Nothing is left behind.
    durable: False spares the flush; the file then survives the process being killed, but perhaps not a power cut
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        # mkstemp makes the file private to its owner; results are for everyone the umask allows.
        os.chmod(temporary, 0o666 & ~_umask())
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"No space left while writing {target}. Free some space; everything written before is whole."
            ) from error
        raise
    if durable:
        _sync_folder(target.parent)


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 2) -> None:
    """Writes `content` as UTF-8 JSON, atomically. NaN and infinities are refused (ValueError): absent is null."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as handle:
        handle.write(text + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_dir() -> Path:
    """Where what can be had again is kept: $PANBENCH_CACHE, else `panbench` in the user's cache folder."""
    if chosen := os.environ.get("PANBENCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    try:
        if base := os.environ.get("XDG_CACHE_HOME"):
            folder = Path(base)
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            folder = Path.home() / ".cache"
    except RuntimeError:
        raise BadArgument("There is no home folder to keep files in. Set PANBENCH_CACHE to a folder.") from None
    return folder.absolute() / "panbench"


def leaves_folder(name: str) -> bool:
    """Whether a file name of a JSON is absolute, empty, or climbs out by `..`, by the rules of any system."""
    if name and ".." not in name and name[0] not in "/\\" and ":" not in name and "\0" not in name:
        return False
    windows = PureWindowsPath(name)
    return (
        not name or "\0" in name or ".." in windows.parts or bool(windows.anchor) or PurePosixPath(name).is_absolute()
    )


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; not every system lets a folder be opened, and there it is not needed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
