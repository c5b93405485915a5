"""Atomic file writes, hashes, and the cache folder."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from panbench.base.addresses import is_elsewhere, path_at
from panbench.base.errors import BadArgument, OutOfSpace
from panbench.base.text import for_file


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    durable: bool = True,
    names_later: bool = False,
    exclusive: bool = False,
) -> Iterator[IO[Any]]:
    """A file object whose content appears at `path` when the block succeeds, and nowhere when it raises.

    Written beside `path` under a temporary name (`.<name>.<random>.tmp`), flushed to disk, then renamed. Missing parent
    folders are created. Raises OutOfSpace when the disk is full; any other error passes through. The temporary file is
    always removed. Undecodable bytes of a file name in text are spelled out, as `\\udcff`.
    durable: False skips the flush; the file then survives a killed process, but perhaps not a power cut
    names_later: the content is flushed, and the caller does sync_folder once for many files: until then their names
        may be lost
    """
    target = Path(path)
    if durable:
        make_folders(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        # mkstemp makes the file readable by its owner only; give it the permissions of an ordinary new file.
        os.chmod(temporary, 0o666 & ~_umask())
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
        with os.fdopen(descriptor, mode, **text) as handle:  # type: ignore[call-overload]
            yield handle
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        if exclusive:
            _rename_to_new(temporary, target)
        else:
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"No space left while writing {target}. Free some space; files written before are complete."
            ) from error
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # the system does not say where a write failed (EFBIG, EIO)
        raise
    if durable and not names_later:
        sync_folder(target.parent)


def make_folders(folder: Path) -> None:
    """Makes a folder and those above it, as far as they are missing; they outlive a power cut."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def _rename_to_new(temporary: str, target: Path) -> None:
    """Renames a file, unless the target exists (FileExistsError)."""
    try:
        # A link, unlike a rename, never replaces what another process has just put there.
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (some network drives, FAT): the nearest thing.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no such links.

    Files that panbench wrote are replaced and never changed, so the two cannot get in each other's way. The bytes of a
    copy outlive a power cut; either name does once the caller has synced the folder (`sync_folder`).
    """
    make_folders(target.parent)
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as content, atomic_write(target, names_later=True) as handle:
            shutil.copyfileobj(content, handle)


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 2) -> None:
    """Writes `content` as UTF-8 JSON, atomically. NaN and infinities are refused (ValueError): absent is null."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8, atomically, with control characters and undecodable bytes spelled out."""
    with atomic_write(path, "w") as handle:
        handle.write(for_file(text))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    path = path_at(path)
    if is_elsewhere(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _hashed(path, hashlib.sha256())


def _hashed(path: Path, digest: "hashlib._Hash") -> str:
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_in_name(name: str) -> str | None:
    """The first digits of a file's SHA-256 that end its name, as in `model-54df384a.pth`; None when none do."""
    match = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z]+$", name)
    if match is None or re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", match[1]):
        # Eight digits that read as a day are a date.
        return None
    return match[1]


def md5_in_name(name: str) -> str | None:
    """The first digits of a file's MD5 that end its name in detectron2's zoo, as in `model_final_94dc52.pkl`."""
    match = re.fullmatch(r"model_final_([0-9a-f]{6})\.pkl", name)
    return None if match is None else match[1]


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, as 32 hex digits: for the names that have one."""
    return _hashed(path, hashlib.md5(usedforsecurity=False))


def cache_dir() -> Path:
    """The folder of files that can be downloaded or generated again: $PANBENCH_CACHE, else the user's cache folder."""
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
        raise BadArgument("No home folder was found for the cache. Set PANBENCH_CACHE to a folder.") from None
    return folder.absolute() / "panbench"


def leaves_folder(name: str) -> bool:
    """Whether a file name is absolute, empty, or contains `..`, by the rules of POSIX or of Windows."""
    # The common case first, without building path objects: this runs once for each of a million names.
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


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that created, renamed and removed entries survive a power cut.

    Windows cannot open folders, and does not need it.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
