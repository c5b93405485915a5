"""Decoded ground truth kept beside its JSON, so that scoring the next model need not decode it again.

An index maps the SHA-256 of a PNG's bytes to the runs of its id map. So it can never be stale: a PNG that changed has
another hash and is decoded. An index that is deleted or damaged costs time, and nothing else.
`val.json` has `val.panbench-index` beside it, or in the cache folder where that folder cannot be written.

An index is believed without reading the PNGs, so it is signed with a key of the user (`own_key`): one that
came with a data set, or that somebody else wrote, is not used.

The file: MAGIC, the entries one after the other, the directory (hash, offset, length, digest of each entry), and a
footer with the directory's offset, entries, checksum and signature. Each entry is what `IdRuns.to_bytes` returns.
"""

import contextlib
import glob
import hashlib
import hmac
import mmap
import os
import secrets
import stat
import struct
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PanbenchError
from panbench.base.files import cache_dir

__all__ = ["GtIndex", "IndexWriter", "index_paths", "key_of", "own_key", "sha_of"]

MAGIC = b"panbench index 2\n"

_LEFTOVER_SECONDS = 24 * 3600

_DIRECTORY = np.dtype([("sha", "V16"), ("offset", "<u8"), ("length", "<u4"), ("digest", "V16")])
_PLACE = struct.Struct("<QQ")
_FOOTER = struct.Struct("<16sI32s")
_KEY_BYTES = 32


def sha_of(content: bytes) -> bytes:
    """The key of a PNG: 16 bytes of its SHA-256."""
    return key_of(hashlib.sha256(content).digest())


def key_of(sha256: bytes) -> bytes:
    """The key of a PNG with this SHA-256."""
    return sha256[:16]


def index_paths(gt_json: Path) -> list[Path]:
    """The paths where the index of a JSON may be: beside it, and in the cache folder."""
    beside = gt_json.with_suffix(".panbench-index")
    places = [beside]
    with contextlib.suppress(PanbenchError):
        name = hashlib.sha256(os.fsencode(gt_json.absolute())).hexdigest()[:16]
        places.append(cache_dir() / "gt-index" / f"{gt_json.stem}-{name}.panbench-index")
    return places


def own_key() -> bytes | None:
    """The secret that this user's indexes are signed with, made on first use; None where it cannot be kept.

    It lies in the cache folder, readable by its owner only. One that others can read or replace is not used.
    """
    try:
        path = cache_dir() / "gt-index" / "key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(secrets.token_bytes(_KEY_BYTES))
        with open(path, "rb") as handle:
            status, key = os.fstat(handle.fileno()), handle.read()
    except (OSError, PanbenchError):
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)):
        return None
    return key if len(key) == _KEY_BYTES else None


class GtIndex:
    """An index that is open for reading, by any number of threads. The file is mapped; 16 bytes an entry are held."""

    def __init__(
        self, content: mmap.mmap | bytes = b"", directory: npt.NDArray[Any] | None = None, *, foreign: bool = False
    ) -> None:
        """Use `open` or `empty`. foreign: the file is an index, whole, but signed with another key."""
        self._content = content
        self._directory = np.zeros(0, _DIRECTORY) if directory is None else directory
        self.foreign = foreign
        # Half of each hash, sorted: a dictionary of a million entries would take 0.4 GB in every shard.
        halves = _halves(self._directory)
        self._order = np.argsort(halves, kind="stable")
        self._sorted = halves[self._order]

    @staticmethod
    def empty() -> "GtIndex":
        """An index without entries."""
        return GtIndex()

    @staticmethod
    def open(path: Path, key: bytes) -> "GtIndex":
        """The index in a file; empty when there is none, it is damaged, or it is signed with another key."""
        try:
            with open(path, "rb") as handle:
                content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            footer_at = len(content) - _FOOTER.size
            place, crc, signature = _FOOTER.unpack_from(content, footer_at)
            start, entries = _PLACE.unpack(place)
            if content[: len(MAGIC)] != MAGIC or start > footer_at:
                return GtIndex.empty()
            listing = memoryview(content)[start:footer_at]
            if zlib.crc32(place, zlib.crc32(listing)) != crc:
                return GtIndex.empty()
            if not hmac.compare_digest(_signature(key, listing, place), signature):
                return GtIndex(foreign=True)
            return GtIndex(content, np.frombuffer(listing, _DIRECTORY, entries))
        except (OSError, ValueError, OverflowError, struct.error):
            return GtIndex.empty()

    def __len__(self) -> int:
        return len(self._directory)

    def entry(self, sha: bytes) -> bytes | None:
        """The runs of the PNG with this hash, as `IdRuns.to_bytes` returned them; None when absent or damaged."""
        half = int.from_bytes(sha[:8], "little")
        place = int(np.searchsorted(self._sorted, np.uint64(half)))
        while place < len(self) and int(self._sorted[place]) == half:
            found = self._directory[self._order[place]]
            if found["sha"].tobytes() == sha:
                offset, length = int(found["offset"]), int(found["length"])
                packed = self._content[offset : offset + length]
                return packed if len(packed) == length and _digest(packed) == found["digest"].tobytes() else None
            place += 1
        return None


def _halves(directory: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each hash as a number."""
    whole = np.dtype({"names": ["half"], "formats": ["<u8"], "offsets": [0], "itemsize": _DIRECTORY.itemsize})
    halves: npt.NDArray[np.uint64] = directory.view(whole)["half"]
    return halves


class IndexWriter:
    """Writes an index atomically. Write errors are ignored: the index only saves time."""

    def __init__(self, places: list[Path], key: bytes) -> None:
        """Opens a temporary file in the first folder that is writable."""
        self._rows: list[tuple[bytes, int, int, bytes]] = []
        self._key = key
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
        self._rows.append((sha, self._offset, len(packed), _digest(packed)))
        self._offset += len(packed)

    def finish(self) -> Path | None:
        """Renames the finished index to its final path and returns it; None when it could not be written."""
        if self._target is None:
            return None
        try:
            listing = np.array(self._rows, _DIRECTORY).tobytes()
            place = _PLACE.pack(self._offset, len(self._rows))
            self._handle.write(listing)
            signature = _signature(self._key, listing, place)
            self._handle.write(_FOOTER.pack(place, zlib.crc32(place, zlib.crc32(listing)), signature))
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


def _digest(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=16).digest()


def _signature(key: bytes, listing: bytes | memoryview, place: bytes) -> bytes:
    signing = hmac.new(key, listing, "sha256")
    signing.update(place)
    return signing.digest()


def _remove_leftovers(place: Path) -> None:
    """Removes temporary files that killed writers of this index left a day ago or earlier."""
    for leftover in place.parent.glob(f".{glob.escape(place.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink()
