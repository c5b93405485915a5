"""Decoded ground truth kept beside its JSON, so that scoring the next model need not decode it again.

An index maps the SHA-256 of a PNG's bytes to the runs of its id map. So it can never be stale: a PNG that changed has
another hash and is decoded. An index that is deleted or damaged costs time, and nothing else.
`val.json` has `val.panbench-index` beside it, or in the cache folder where that folder cannot be written.

The file: MAGIC, the entries one after the other, the directory (hash, offset, length, checksum of each entry), and a
footer with the directory's offset, entries and checksum. Each entry is what `IdRuns.to_bytes` returns.
"""

import contextlib
import glob
import hashlib
import mmap
import os
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from panbench.base.errors import PanbenchError
from panbench.base.files import cache_dir

__all__ = ["GtIndex", "IndexWriter", "index_paths", "sha_of"]

MAGIC = b"panbench index 1\n"

_LEFTOVER_SECONDS = 24 * 3600

_DIRECTORY = np.dtype([("sha", "V16"), ("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
_FOOTER = struct.Struct("<QQI")


def sha_of(content: bytes) -> bytes:
    """The key of a PNG: 16 bytes of its SHA-256."""
    return hashlib.sha256(content).digest()[:16]


def index_paths(gt_json: Path) -> list[Path]:
    """The paths where the index of a JSON may be: beside it, and in the cache folder."""
    beside = gt_json.with_suffix(".panbench-index")
    places = [beside]
    with contextlib.suppress(PanbenchError):
        name = hashlib.sha256(os.fsencode(gt_json.absolute())).hexdigest()[:16]
        places.append(cache_dir() / "gt-index" / f"{gt_json.stem}-{name}.panbench-index")
    return places


class GtIndex:
    """An index that is open for reading, by any number of threads."""

    def __init__(self, content: mmap.mmap | bytes, places: dict[bytes, list[int]]) -> None:
        """Use `open` or `empty`."""
        self._content = content
        self._places = places

    @staticmethod
    def empty() -> "GtIndex":
        """An index without entries."""
        return GtIndex(b"", {})

    @staticmethod
    def open(path: Path) -> "GtIndex":
        """The index in a file; empty when there is none or it is damaged."""
        try:
            with open(path, "rb") as handle:
                content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            start, entries, crc = _FOOTER.unpack_from(content, len(content) - _FOOTER.size)
            listing = content[start : len(content) - _FOOTER.size]
            if content[: len(MAGIC)] != MAGIC or zlib.crc32(listing) != crc:
                return GtIndex.empty()
            directory = np.frombuffer(listing, _DIRECTORY, entries)
        except (OSError, ValueError, struct.error):
            return GtIndex.empty()
        return GtIndex(content, {sha: place for sha, *place in directory.tolist()})

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, sha: bytes) -> bytes | None:
        """The runs of the PNG with this hash, as `IdRuns.to_bytes` returned them; None when absent or damaged."""
        if sha not in self._places:
            return None
        offset, length, crc = self._places[sha]
        packed = self._content[offset : offset + length]
        return packed if len(packed) == length and zlib.crc32(packed) == crc else None


class IndexWriter:
    """Writes an index atomically. Write errors are ignored: the index only saves time."""

    def __init__(self, places: list[Path]) -> None:
        """Opens a temporary file in the first folder that is writable."""
        self._rows: list[tuple[bytes, int, int, int]] = []
        self._target: Path | None = None
        for place in places:
            with contextlib.suppress(OSError):
                if place != places[0]:
                    place.parent.mkdir(parents=True, exist_ok=True)
                _remove_leftovers(place)
                descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent)
                self._handle, self._temporary, self._target = os.fdopen(descriptor, "wb"), name, place
                self._handle.write(MAGIC)
                self._offset = len(MAGIC)
                return

    def add(self, sha: bytes, packed: bytes) -> None:
        """Appends an entry."""
        if self._target is None:
            return
        try:
            self._handle.write(packed)
        except OSError:
            self.discard()
            return
        self._rows.append((sha, self._offset, len(packed), zlib.crc32(packed)))
        self._offset += len(packed)

    def finish(self) -> Path | None:
        """Renames the finished index to its final path and returns it; None when it could not be written."""
        if self._target is None:
            return None
        try:
            listing = np.array(self._rows, _DIRECTORY).tobytes()
            self._handle.write(listing)
            self._handle.write(_FOOTER.pack(self._offset, len(self._rows), zlib.crc32(listing)))
            self._handle.close()
            # Readable by all, as the JSON beside it. Not synced: a torn index is recognised and written again.
            os.chmod(self._temporary, 0o644)
            os.replace(self._temporary, self._target)
        except OSError:
            self.discard()
            return None
        target, self._target = self._target, None
        return target

    def discard(self) -> None:
        """Removes the temporary file."""
        if self._target is not None:
            self._target = None
            with contextlib.suppress(OSError):
                self._handle.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


def _remove_leftovers(place: Path) -> None:
    """Removes temporary files that killed writers of this index left a day ago or earlier."""
    for leftover in place.parent.glob(f".{glob.escape(place.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink()
