"""Files inside zips, tar files and Parquet, read in place: `val2017.zip/val2017/139.jpg` is a path.

A path leads through a container as through a folder; a zip in a zip is one, too. What reads them is containers.py,
which is imported when the first member is read.
"""

import errno
import importlib
import io
import os
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.elsewhere import Elsewhere

if TYPE_CHECKING:
    from typing_extensions import Self

    LocalPath = Path
else:
    LocalPath = type(Path())

__all__ = ["ENDS", "SHARDS", "Packed", "first_file", "is_shard", "leads_into"]

SHARDS = (".tar", ".parquet")
"""The endings of files that hold some images of a set, with their annotations (panoptic/shards.py)."""

_INTO = re.compile(r"\.(?:zip|tar|parquet)[\\/]", re.IGNORECASE)

ENDS = re.compile(r"\.(?:zip|tar|parquet)(?=[\\/]|$)", re.IGNORECASE)
"""Where the name of a container ends in a path."""


def leads_into(text: str) -> bool:
    """Whether a path may lead into a container: `set.zip/1.png`, and not `set.zip`."""
    return _INTO.search(text) is not None


def is_shard(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds images of a set by its name: `val-000.tar`, `val-000.parquet`."""
    return os.fspath(path).lower().endswith(SHARDS)


class Packed(Elsewhere, LocalPath):
    """A path that may lead into containers. Where it leads through folders alone, it is a path as any other."""

    __slots__ = ()

    def fetch_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, and OSError whose `strerror` says what is wrong with the container."""
        where = _parted(str(self))
        if where is None:
            with open(self, "rb") as handle:
                return handle.read()
        container, name = _opened(where[0]), where[1]
        try:
            return container.read(name)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None

    def read_text(self, encoding: Any = None, errors: Any = None, newline: Any = None) -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        """The content as an open file, in memory where it is a member of a container."""
        if "b" not in mode or _parted(str(self)) is None:
            return super().open(mode, *arguments, **options)
        return io.BytesIO(self.read_bytes())

    def stat(self, **options: Any) -> os.stat_result:
        """Of a member what is known of its outermost container: size and times change with it."""
        first = first_file(str(self))
        return super().stat(**options) if first is None else os.stat(first[0])

    def is_file(self, **options: Any) -> bool:
        """Whether it is a file or a member. Raises OSError for a damaged container."""
        where = _parted(str(self))
        return super().is_file(**options) if where is None else _has(*where)

    def is_dir(self, **options: Any) -> bool:
        """Whether it is a folder, a container, or there is a member below."""
        where = _parted(str(self))
        if where is None:
            return super().is_dir(**options)
        try:
            return _opened(where[0]).has_below(where[1])
        except FileNotFoundError:  # no such zip in the zip
            return False

    def exists(self, **options: Any) -> bool:
        """Whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def glob(self, pattern: str, **options: Any) -> "Generator[Self, None, None]":
        """The files of this folder whose names fit; within a container, with `*` alone (`*/*.png`)."""
        where = _parted(str(self))
        if where is None:
            yield from super().glob(pattern, **options)
            return
        fits = re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
        names = (name for name in _opened(where[0]).below(where[1]) if fits.fullmatch(name))
        yield from (self / name for name in sorted(names))

    def iterdir(self) -> "Generator[Self, None, None]":
        """What lies in this folder; within a container its files."""
        yield from super().iterdir() if _parted(str(self)) is None else self.glob("*")

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """The names, relative to this folder, of which there is no file."""
        missing = []
        for name in names:
            where = _parted(os.path.join(self, name))
            if not (os.path.isfile(os.path.join(self, name)) if where is None else _has(*where)):
                missing.append(name)
        return missing


def _opened(path: str) -> Any:
    """The `Container` of a path. By name: containers.py needs the cache folder, whose module imports this one."""
    return importlib.import_module("panbench.base.containers").opened(path)


def _has(container: str, name: str) -> bool:
    try:
        return _opened(container).has(name)
    except FileNotFoundError:  # no such zip in the zip
        return False


def first_file(text: str) -> tuple[str, str] | None:
    """The outermost container of a path, a file, and the rest of the path; None where it leads through folders."""
    for found in ENDS.finditer(text):
        if os.path.isfile(text[: found.end()]):
            return text[: found.end()], text[found.end() + 1 :].replace("\\", "/").rstrip("/")
    return None


def _parted(text: str) -> tuple[str, str] | None:
    """The innermost container of a path, and the name in it; None where it is a plain path.

    A container itself, such as `set.tar`, is a plain path; `set.zip/inner.zip` is the member of a zip.
    """
    first = first_file(text)
    if first is None or not first[1]:
        return None
    file, rest = first
    for found in reversed(list(ENDS.finditer(rest))):
        inner = rest[: found.end()]
        if found.end() < len(rest) and inner.lower().endswith(".zip") and file.lower().endswith(".zip"):
            return os.path.join(file, inner), rest[found.end() + 1 :]
    return file, rest
