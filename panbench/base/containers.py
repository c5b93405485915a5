"""What reads the members of zips, tar files and Parquet by offset (packed.py has their paths).

Nothing is unpacked, but for a zip that lies compressed in another, which is unpacked once into the cache folder.
Threads and processes share nothing but files: each process opens a container once.

The members of a Parquet file are the values of its columns: `COLUMN/ROW` is an image or id PNG, `COLUMN/ROW.rle` the
run lengths of the segments of a row, as JSON: {"size": [height, width], "segments": [[id, counts], …]}.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import tarfile
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panbench.base.errors import PanbenchError
from panbench.base.files import atomic_write, cache_dir
from panbench.base.packed import ENDS, first_file
from panbench.base.zips import DamagedArchive, Member, Slice, ZipArchive

__all__ = ["Container", "opened", "tar_names"]

_MOST_OPEN = 64
"""Containers that a process keeps open; of a thousand shards the others are opened again."""

_ROW_GROUPS_BYTES = 256_000_000
"""Of a Parquet file's values so many bytes stay decoded, at least one row group."""

_RACY_NS = 2_000_000_000


class Container(Protocol):
    """A file with members. Names have no slash at either end. Threads share it."""

    def has(self, name: str) -> bool:
        """Whether there is a member of that name."""

    def has_below(self, folder: str) -> bool:
        """Whether any member lies in a folder."""

    def below(self, folder: str) -> Iterator[str]:
        """The names of the members below a folder, without it: `a.png`, `b/c.png`."""

    def read(self, name: str) -> bytes:
        """A member's content. Raises KeyError, and OSError with a reason."""


class _Named:
    """What zips and tar files have in common: a table of names."""

    def __init__(self, names: "dict[str, Any]") -> None:
        self._places = names

    def has(self, name: str) -> bool:
        return name in self._places

    def has_below(self, folder: str) -> bool:
        return folder in self._folders

    def below(self, folder: str) -> Iterator[str]:
        begin = f"{folder}/" if folder else ""
        return (name[len(begin) :] for name in self._places if name.startswith(begin))

    @functools.cached_property
    def _folders(self) -> frozenset[str]:
        last = {name.rpartition("/")[0] for name in self._places}
        return frozenset(folder[:end] for folder in last for end in _slashes(folder))


def _slashes(folder: str) -> list[int]:
    return [*(at for at, letter in enumerate(folder) if letter == "/"), len(folder)]


class _OpenFile:
    """A file that several threads read by offset; closed when nobody refers to it."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._size = os.fstat(self._descriptor).st_size
        self._guard = threading.Lock()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def size(self) -> int:
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, stop - start, start)
        with self._guard:  # Windows
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, stop - start)


class _Zip(_Named):
    """A zip, on disk or stored within another."""

    def __init__(self, source: Any, where: str) -> None:
        try:
            self._archive = ZipArchive(source, where)
        except DamagedArchive as problem:
            raise _damaged(where, str(problem)) from None
        super().__init__(self._archive.members)

    def read(self, name: str) -> bytes:
        member: Member = self._places[name]
        archive = self._archive
        try:
            start = archive.data_start(member)
            content = archive.source.read(start, start + member.packed_size)
            if not member.is_stored:
                # Not more than the member should have, whatever the stream says.
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        except (DamagedArchive, zlib.error) as problem:
            raise _damaged(archive.where, f"the member {name} is damaged ({problem})") from None
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise _damaged(archive.where, f"the member {name} is damaged: its size or CRC is wrong")
        return content

    def inner(self, name: str) -> "_Zip":
        """A zip that is a member of this one."""
        member, archive = self._places[name], self._archive
        where = f"{archive.where}/{name}"
        if member.is_stored:
            start = archive.data_start(member)
            return _Zip(Slice(archive.source, start, start + member.size), where)
        return _Zip(_OpenFile(str(_unpacked(self, name, where))), where)


def _unpacked(outer: _Zip, name: str, where: str) -> Path:
    """A zip that lies compressed in another, in the cache folder; a zip of PNGs is large, and read from everywhere."""
    member = outer._places[name]
    key = hashlib.sha256(f"{where}\0{member.size}\0{member.crc}".encode()).hexdigest()[:16]
    place = cache_dir() / "unpacked-zips" / f"{key}.zip"
    if not (place.is_file() and place.stat().st_size == member.size):
        content = outer.read(name)
        with atomic_write(place) as handle:
            handle.write(content)
    return place


class _Tar(_Named):
    """A tar file, not compressed, by its list of offsets."""

    def __init__(self, path: str) -> None:
        self._path, self._file = path, _OpenFile(path)
        super().__init__(tar_names(path))

    def read(self, name: str) -> bytes:
        start, size = self._places[name]
        content = self._file.read(start, start + size)
        if len(content) != size:
            raise _damaged(self._path, f"it ends within {name}: it is truncated")
        return content


def tar_names(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Each file of a tar file, with its offset and size in bytes; the list is made once and kept in the cache folder.

    Raises OSError for a tar file that is truncated, damaged, compressed, or has a name twice.
    """
    path = os.path.abspath(path)
    stat = os.stat(path)
    state = f"{path}\n{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    place = _tar_list_of(path)
    if place is not None and (kept := _read_tar_list(place, state)) is not None:
        return kept
    names = _scanned(path)
    # A file that was written just now may change without another time.
    if place is not None and max(stat.st_mtime_ns, stat.st_ctime_ns) + _RACY_NS < time.time_ns():
        _write_tar_list(place, state, names)
    return names


def _tar_list_of(path: str) -> Path | None:
    try:
        return cache_dir() / "tar-lists" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.npz"
    except PanbenchError:
        return None


def _read_tar_list(place: Path, state: str) -> dict[str, tuple[int, int]] | None:
    try:
        with np.load(place, allow_pickle=False) as kept:
            if kept["state"].tobytes().decode() != state:
                return None
            names = kept["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            return dict(zip(names, map(tuple, kept["places"].tolist()), strict=True))
    except Exception:  # whatever is wrong with it: it is made again
        return None


def _write_tar_list(place: Path, state: str, names: dict[str, tuple[int, int]]) -> None:
    with contextlib.suppress(OSError, PanbenchError), atomic_write(place, durable=False) as handle:
        np.savez(
            handle,
            state=np.frombuffer(state.encode(), np.uint8),
            names=np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8),
            places=np.array(list(names.values()), np.int64).reshape(-1, 2),
        )


def _scanned(path: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    size = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isfile():
                    name = info.name.removeprefix("./").strip("/")
                    if name in found:
                        raise _damaged(path, f"it holds {name} twice. Each key may be there once")
                    if info.offset_data + info.size > size:
                        raise _damaged(path, f"it ends within {name}: it is truncated")
                    found[name] = (info.offset_data, info.size)
            end = archive.offset
    except tarfile.ReadError as problem:
        last = f" after {next(reversed(found))}" if found else ""
        raise _damaged(path, f"it is truncated or damaged{last}, or compressed ({problem})") from None
    except tarfile.TarError as problem:
        raise _damaged(path, f"it is damaged ({problem})") from None
    # tarfile takes a damaged header, and the end of the file, for the end of the archive, which is a block of zeros.
    with open(path, "rb") as handle:
        handle.seek(end)
        is_whole = handle.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    if not is_whole:
        last = f" after {next(reversed(found))}" if found else ""
        raise _damaged(path, f"it has no end{last}: it is truncated or damaged")
    return found


class _Parquet:
    """The values of a Parquet file's columns. A row group is decoded as a whole, and the last ones stay decoded."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        except (OSError, pa.ArrowException) as problem:
            raise _damaged(path, f"it is not a Parquet file, or is truncated ({problem})") from None
        metadata = self._file.metadata
        self._rows = metadata.num_rows
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._columns = frozenset(self._file.schema_arrow.names)
        self._guard = threading.Lock()
        self._decoded: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def has(self, name: str) -> bool:
        column, _, row = name.partition("/")
        number = row.removesuffix(".rle")
        if column not in self._columns or not (number.isascii() and number.isdigit() and int(number) < self._rows):
            return False
        return row != number or self._value(column, int(number)) is not None

    def has_below(self, folder: str) -> bool:
        return folder in self._columns

    def below(self, folder: str) -> Iterator[str]:
        return map(str, range(self._rows)) if folder in self._columns else iter(())

    def read(self, name: str) -> bytes:
        column, _, row = name.partition("/")
        if not self.has(name):
            raise KeyError(name)
        if row.endswith(".rle"):
            return self._run_lengths(column, int(row.removesuffix(".rle")))
        content = self._value(column, int(row))
        assert isinstance(content, bytes)
        return content

    def _value(self, column: str, row: int) -> bytes | None:
        """The bytes of an image: those of the cell, or of its field `bytes` as Hugging Face has it."""
        value = self._cell(column, row)
        value = value.get("bytes") if isinstance(value, dict) else value
        return value if isinstance(value, bytes) else None

    def _run_lengths(self, column: str, row: int) -> bytes:
        segments = self._cell(column, row) or []
        size = [self._cell(name, row) if name in self._columns else None for name in ("height", "width")]
        counts = []
        for segment in json.loads(segments) if isinstance(segments, str) else segments:
            runs = segment.get("counts")
            if runs is None:
                runs = (segment.get("segmentation") or {}).get("counts")
            counts.append([segment.get("id"), runs.decode("ascii", "replace") if isinstance(runs, bytes) else runs])
        return json.dumps({"size": size, "segments": counts}, separators=(",", ":")).encode()

    def _cell(self, column: str, row: int) -> Any:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._guard:
            values = self._decoded.get((group, column))
            if values is None:
                values = self._decoded[group, column] = self._group(group, column)
                spent = sum(each.nbytes for each in self._decoded.values())
                while spent > _ROW_GROUPS_BYTES and len(self._decoded) > 1:
                    spent -= self._decoded.popitem(last=False)[1].nbytes
            self._decoded.move_to_end((group, column))
        return values[row - int(self._starts[group])].as_py()

    def _group(self, group: int, column: str) -> Any:
        import pyarrow as pa

        try:
            return self._file.read_row_group(group, [column], use_threads=False).column(column).combine_chunks()
        except (OSError, pa.ArrowException) as problem:
            raise _damaged(self._path, f"row group {group} of {column} is damaged ({problem})") from None


def _damaged(where: str, why: str) -> OSError:
    return OSError(errno.EIO, f"{why.rstrip('.')}".removeprefix(f"{where} ").removeprefix(f"{where}: "), where)


class _Open:
    """The containers that this process has open, by path, as long as the file stays the same."""

    def __init__(self) -> None:
        self._containers: OrderedDict[str, tuple[tuple[int, ...], Container]] = OrderedDict()
        self._guard = threading.RLock()

    def get(self, path: str) -> Container:
        first = first_file(path)
        if first is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        stat = os.stat(first[0])
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        with self._guard:
            known = self._containers.get(path)
            if known is None or known[0] != state:
                known = self._containers[path] = (state, self._open(*first))
                while len(self._containers) > _MOST_OPEN:
                    self._containers.popitem(last=False)
            self._containers.move_to_end(path)
            return known[1]

    def _open(self, file: str, rest: str) -> Container:
        """The container that `rest` names within a file, the file itself for none."""
        if not rest:
            ending = os.path.splitext(file)[1].lower()
            if ending == ".zip":
                return _Zip(_OpenFile(file), file)
            return _Tar(file) if ending == ".tar" else _Parquet(file)
        outer, name = _inner(rest)
        parent = self.get(os.path.join(file, outer) if outer else file)
        if not isinstance(parent, _Zip) or not parent.has(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.join(file, rest))
        return parent.inner(name)


def _inner(rest: str) -> tuple[str, str]:
    """The container that holds a container: what names it, and the name within it."""
    ends = [found.end() for found in ENDS.finditer(rest)][:-1]
    return (rest[: ends[-1]], rest[ends[-1] + 1 :]) if ends else ("", rest)


_open = _Open()


def opened(path: str) -> Container:
    """The container at a path, which stays open. Raises FileNotFoundError, and OSError with a reason."""
    return _open.get(path)
