"""Writes files atomically, hashes them, and finds the cache folder."""

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

from panbench.base.addresses import is_remote, path_at
from panbench.base.errors import BadArgument, OutOfSpace
from panbench.base.text import for_file

_SPARE_BYTES = 8 << 20


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    durable: bool = True,
    names_later: bool = False,
    exclusive: bool = False,
) -> Iterator[IO[Any]]:
    """Opens a temporary file that is renamed to `path` when the block succeeds, and removed when it raises.

    The temporary file is in the same folder (`.<name>.<random>.tmp`) and is flushed to disk before it is renamed.
    Missing parent folders are created. Undecodable bytes of a file name in text are spelled out, as `\\udcff`.
    durable: False skips the flush; the file then survives a killed process, but perhaps not a power cut
    names_later: True flushes the content only; the caller calls `sync_folder` once for many files, and a power cut
        before that may lose their names
    exclusive: raise FileExistsError instead of replacing an existing file
    Raises OutOfSpace when the disk is full; other errors pass through.
    """
    target = Path(path)
    if durable:
        make_folders(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        # mkstemp makes the file readable by its owner only; give it the permissions of an ordinary new file.
        os.chmod(temporary, 0o666 & ~_current_umask())
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
        with os.fdopen(descriptor, mode, **text) as handle:  # type: ignore[call-overload]
            yield handle
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        if exclusive:
            _rename_without_overwrite(temporary, target)
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
    """Creates a folder and its missing parents, synced so that they survive a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _rename_without_overwrite(temporary: str, target: Path) -> None:
    """Renames a file. Raises FileExistsError if the target exists."""
    try:
        # Unlike a rename, a link never replaces a file that another process has just written.
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (some network drives, FAT): check, then rename.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-links a file under a second name, or copies it where the file system has no such links.

    panbench replaces its files and never changes them in place, so sharing the bytes is safe. A copy's bytes survive a
    power cut; the new name does once the caller has synced the folder (`sync_folder`).
    """
    make_folders(target.parent)
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as content, atomic_write(target, names_later=True) as handle:
            shutil.copyfileobj(content, handle)


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 2) -> None:
    """Writes `content` as UTF-8 JSON, atomically. Raises ValueError for NaN and infinities: absent values are null."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8, atomically; control characters and undecodable bytes are spelled out (`for_file`)."""
    with atomic_write(path, "w") as handle:
        handle.write(for_file(text))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hex digits."""
    path = path_at(path)
    if is_remote(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _hash_file(path, hashlib.sha256())


def _hash_file(path: Path, digest: "hashlib._Hash") -> str:
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_in_name(name: str) -> str | None:
    """Reads the SHA-256 prefix at the end of a file's name, as in `model-54df384a.pth`; None if there is none."""
    match = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z]+$", name)
    if match is None or re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", match[1]):
        # Eight digits that form a valid date are a date, not a hash.
        return None
    return match[1]


def md5_in_name(name: str) -> str | None:
    """Reads the MD5 prefix in a file name of detectron2's zoo, as in `model_final_94dc52.pkl`; None for other names."""
    match = re.fullmatch(r"model_final_([0-9a-f]{6})\.pkl", name)
    return None if match is None else match[1]


def file_mismatch(
    path: Path, sha256: str | None = None, size: int | None = None, *, md5: str | None = None
) -> str | None:
    """Compares a file with its expected hash and size: returns the difference in words, None if it is the right file.

    sha256, md5: may be prefixes of the hash
    """
    try:
        found = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "it does not exist"
    if not path.is_file():
        return "it is not a file"
    if size is not None and found != size:
        return f"it has {found:,} bytes, not {size:,}"
    for name, expected, kind in (("SHA-256", sha256, "sha256"), ("MD5", md5, "md5")):
        digest = "" if expected is None else _hash_file(path, hashlib.new(kind, usedforsecurity=False))
        if expected is not None and not digest.startswith(expected.lower()):
            length = min(len(expected), 16)
            return f"its {name} begins with {digest[:length]}, not with {expected.lower()[:length]}"
    return None


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises OutOfSpace if the disk of `folder` (which need not exist yet) has less than `needed` bytes free."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise OutOfSpace(
            f"{what} needs {needed:,} bytes and a little more, but {folder} has {free:,} free. Free some space or "
            "choose another folder."
        )


def publish(part: Path, target: Path) -> None:
    """Syncs a finished file and renames it to `target`, so that content and name survive a power cut."""
    with open(part, "r+b") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
    sync_folder(target.parent)


def cache_dir() -> Path:
    """Returns the folder for files that can be downloaded or generated again; PANBENCH_CACHE overrides it."""
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
    """True if a file name is absolute, empty, or contains `..`, by the rules of POSIX or of Windows."""
    # The common case first, without building path objects: this runs once for each of a million names.
    if name and ".." not in name and name[0] not in "/\\" and ":" not in name and "\0" not in name:
        return False
    windows = PureWindowsPath(name)
    return (
        not name or "\0" in name or ".." in windows.parts or bool(windows.anchor) or PurePosixPath(name).is_absolute()
    )


def _current_umask() -> int:
    """Returns the process's file-mode mask, which the system only reveals when it is set."""
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
