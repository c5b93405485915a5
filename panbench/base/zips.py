"""Reads single members of a local or remote zip archive: the archive only needs to support byte ranges.

zipfile reads the archive's directory; this file reads the ranges, several at a time, and refuses what zipfile accepts:
names that leave the folder, links, bombs, and members that share bytes (zipfile checks that since Python 3.11.8 and
3.12.2). Each member is checked by size and CRC, and gets its final name complete or not at all.
"""

import contextlib
import errno
import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Protocol, cast

from panbench.base.errors import DownloadFailed
from panbench.base.files import atomic_write, leaves_folder
from panbench.base.reporter import Counting

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

# Deflate reaches at most 1032:1; images and annotations stay far below 200:1.
_BOMB_RATIO = 200
_BOMB_BYTES = 16 << 20
# A directory has some 100 bytes per member, so this allows millions; a larger declared size is not credible.
_DIRECTORY_BYTES = 256 << 20
CONNECTIONS = 8
_GROUP_BYTES = 4 << 20
_GAP_BYTES = 16 << 10
_LINK = 0o120000
_BLOCK = 1 << 20

# What zipfile raises for archives that are damaged, or compressed with a method that it cannot read.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error, OSError)


class DamagedArchive(DownloadFailed):
    """An archive is truncated, altered, or malicious."""


class ByteSource(Protocol):
    """Anything that has a size and returns the bytes from `start` up to `stop`."""

    def size(self) -> int:
        """Returns the total number of bytes."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` up to `stop`, exclusive."""
        ...


class StoredMember:
    """The bytes of an uncompressed member, to read a zip inside a zip in place."""

    def __init__(self, archive: "ZipArchive", member: zipfile.ZipInfo) -> None:
        """Takes a zip archive, and the entry of an uncompressed file in it."""
        self._source, self._start, self._size = archive.source, archive.data_start(member), member.file_size

    def size(self) -> int:
        """The number of bytes of the member."""
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` up to `stop` of the member."""
        if not 0 <= start <= stop <= self._size:
            raise DamagedArchive(f"bytes {start}–{stop} lie outside the archive of {self._size} bytes")
        return self._source.read(self._start + start, self._start + stop)


class ZipArchive:
    """A zip archive whose members are read one by one, by byte range. Several threads may share it."""

    def __init__(self, source: ByteSource, where: str) -> None:
        """Reads the archive's directory into `members`: by name, in the order of the archive, without folders.

        where: the archive's name in error messages
        Raises DamagedArchive when the archive is truncated, not a zip, or not safe to unpack.
        """
        self.source, self.where = source, where
        file = _ArchiveEnd(source, where)
        try:
            archive = zipfile.ZipFile(cast(IO[bytes], file))
        except _ZIP_ERRORS as error:
            raise DamagedArchive(
                f"{where} is not a zip archive, or it is truncated or damaged ({error}). Fetch it again."
            ) from error
        infos = archive.infolist()
        if len(infos) != (count := file.declared_member_count(len(archive.comment))):
            raise DamagedArchive(f"{where} lists {len(infos)} members and declares {count}. Fetch it again.")
        self._stops = _ends_of_members(infos, archive.start_dir, where)
        self.members = {info.filename: info for info in infos if not info.is_dir()}

    def member_span(self, member: zipfile.ZipInfo) -> tuple[int, int]:
        """Returns start and stop of a member's record (local header and packed bytes) in the archive."""
        return member.header_offset, self._stops[member.header_offset]

    def data_start(self, member: zipfile.ZipInfo, header: bytes = b"") -> int:
        """Returns the position of a member's first packed byte. header: its local header, if it was read already"""
        at, stop = self.member_span(member)
        header = header or self.source.read(at, min(at + 30, stop))
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise DamagedArchive(f"{self.where}: the record of {member.filename} is damaged.")
        start: int = at + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + member.compress_size > stop:
            raise DamagedArchive(f"{self.where}: {member.filename} overlaps the member after it.")
        return start

    def unpack(self, member: zipfile.ZipInfo, record: bytes) -> bytes:
        """Unpacks a member from its bytes in the archive (local header and packed data); checks name, size and CRC."""
        start = self.data_start(member, record[:30]) - member.header_offset
        name = record[30 : 30 + struct.unpack_from("<H", record, 26)[0]]
        if name not in (member.filename.encode(), member.filename.encode("cp437", "replace")):
            raise DamagedArchive(f"{self.where}: the record of {member.filename} is damaged: it has another name.")
        return b"".join(self._unpacked_bytes(member, io.BytesIO(record[start : start + member.compress_size])))

    def _unpacked_bytes(self, member: zipfile.ZipInfo, packed: IO[bytes]) -> Iterator[bytes]:
        """Yields a member's content block by block. Raises DamagedArchive at the end if size or CRC is wrong."""
        size, problem = 0, ""
        try:
            with zipfile.ZipExtFile(packed, "r", member) as unpacked:
                while block := unpacked.read(_BLOCK):
                    size += len(block)
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            problem = f" ({error})"
        if problem or size != member.file_size:
            raise DamagedArchive(f"{self.where}: {member.filename} is damaged{problem}: its size or CRC is wrong.")

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """Reads and unpacks one member; tries a second time if it arrives damaged."""
        with contextlib.suppress(DamagedArchive):
            return self.unpack(member, self.source.read(*self.member_span(member)))
        return self.unpack(member, self.source.read(*self.member_span(member)))

    def extract(
        self,
        members: Iterable[zipfile.ZipInfo],
        target_of: Callable[[zipfile.ZipInfo], Path],
        progress: Callable[[int], object] = lambda done: None,
    ) -> None:
        """Writes members to disk, each complete or not at all, over several connections.

        Neighbours in the archive are read in one request, with up to _GAP_BYTES unneeded bytes between them.

        target_of: maps a member to its path on disk, so that names in the archive never choose the folder
        progress: called with the bytes unpacked by this call so far
        Raises DamagedArchive when a member is damaged twice, DownloadFailed when it cannot be written; files written
        before are complete.
        """
        groups = list(self._adjacent_members(sorted(members, key=lambda member: member.header_offset)))
        for folder in {target_of(member).parent for group in groups for member in group}:
            folder.mkdir(parents=True, exist_ok=True)

        lock, done = threading.Lock(), 0

        def extract_members(group: Sequence[zipfile.ZipInfo]) -> None:
            """Extracts a group of adjacent members that are read in one request."""
            nonlocal done
            first, last = self.member_span(group[0])[0], self.member_span(group[-1])[1]
            records = self.source.read(first, last)
            for member in group:
                at, stop = self.member_span(member)
                try:
                    content = self.unpack(member, records[at - first : stop - first])
                except DamagedArchive:
                    content = self.read(member)
                try:
                    # Unsynced: the caller's CRCs reveal losses in a power cut.
                    with atomic_write(target_of(member), durable=False) as handle:
                        handle.write(content)
                except OSError as error:
                    raise DownloadFailed(f"Cannot write {target_of(member)}: {error.strerror or error}.") from error
                with lock:
                    done += member.file_size
                    progress(done)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                for job in as_completed([pool.submit(extract_members, group) for group in groups]):
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _adjacent_members(self, members: Sequence[zipfile.ZipInfo]) -> Iterator[list[zipfile.ZipInfo]]:
        """Groups members (sorted by position) that are close enough to be read in one request."""
        group: list[zipfile.ZipInfo] = []
        for member in members:
            at, stop = self.member_span(member)
            if group and (
                at - self.member_span(group[-1])[1] > _GAP_BYTES or stop - self.member_span(group[0])[0] > _GROUP_BYTES
            ):
                yield group
                group = []
            group.append(member)
        if group:
            yield group

    def fetch(self, member: zipfile.ZipInfo, target: Path, progress: Counting) -> Path:
        """Downloads one large member block by block (resumable), unpacks it to `target` and checks it."""
        start, part = self.data_start(member), target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as handle:
            before = handle.tell()
            handle.truncate(min(before, member.compress_size))
            while (done := handle.seek(0, os.SEEK_END)) < member.compress_size:
                stop = min(done + _GROUP_BYTES, member.compress_size)
                handle.write(self.source.read(start + done, start + stop))
                progress(stop, member.compress_size)
        try:
            with open(part, "rb") as packed, atomic_write(target) as unpacked:
                unpacked.writelines(self._unpacked_bytes(member, packed))
        except DamagedArchive:
            part.unlink()
            if not before:
                raise
            return self.fetch(member, target, progress)  # the earlier bytes were of another archive
        part.unlink()
        return target


def crc_of(path: Path) -> int:
    """Returns the CRC-32 of a file's bytes."""
    crc = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


class _ArchiveEnd:
    """The file object that zipfile reads the archive's directory from; limits how much it may read."""

    def __init__(self, source: ByteSource, where: str) -> None:
        """Takes the bytes of a zip archive, and its path or URL for error messages."""
        self._source, self._where, self._size = source, where, source.size()
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        if self._position < 0:
            raise OSError(errno.EINVAL, "the archive is too short")
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Reads bytes as a file does. Raises DamagedArchive for more than _DIRECTORY_BYTES at once."""
        start = min(self._position, self._size)
        stop = self._size if size < 0 else min(start + size, self._size)
        if stop - start > _DIRECTORY_BYTES:
            raise DamagedArchive(
                f"{self._where} declares a list of {stop - start:,} bytes: it is damaged or malicious."
            )
        self._position = stop
        return self._source.read(start, stop)

    def declared_member_count(self, comment: int) -> int:
        """Returns the number of members in the end record, which zipfile does not compare with those it finds.

        comment: length of the archive's comment, which follows the end record
        """
        # The end record has 22 bytes; in Zip64 a locator (20) and its own end record (56) stand before it.
        self.seek(max(0, self._size - 98 - comment))
        record = self.read(min(98, self._size - comment))
        if record[-22:-18] != b"PK\x05\x06":
            raise DamagedArchive(f"{self._where} has a damaged end, or bytes after it. Fetch it again.")
        (count,) = struct.unpack_from("<H", record, len(record) - 12)
        if count == 0xFFFF and record[:4] == b"PK\x06\x06":
            (count,) = struct.unpack_from("<Q", record, 32)
        return int(count)


def _ends_of_members(infos: Sequence[zipfile.ZipInfo], directory_at: int, where: str) -> dict[int, int]:
    """Maps the start of each member's record to its end, for members that are safe to unpack.
    Raises DamagedArchive for unsafe, overlapping or repeated members.
    """
    if not infos:
        raise DamagedArchive(f"{where} is an empty zip archive. Fetch it again.")
    for info in infos:
        if problem := _why_member_is_unsafe(info):
            raise DamagedArchive(f"{where}: {info.orig_filename!r} {problem}")
    starts = sorted(info.header_offset for info in infos)
    stops = dict(zip(starts, [*starts[1:], directory_at], strict=True))
    if len(stops) != len(infos):
        raise DamagedArchive(f"{where}: members share their bytes: damaged, or a zip bomb. Do not unpack it.")
    names = set()
    for info in infos:
        at, name = info.header_offset, info.filename
        if not 0 <= at <= at + 30 + info.compress_size <= stops[at]:
            raise DamagedArchive(f"{where}: members overlap at {name}: damaged, or a zip bomb. Do not unpack it.")
        if name in names:
            raise DamagedArchive(f"{where} holds {name} twice.")
        names.add(name)
    return stops


def _why_member_is_unsafe(info: zipfile.ZipInfo) -> str | None:
    """Explains why a member must not, or cannot, be unpacked; None if it can."""
    size, packed_size, method = info.file_size, info.compress_size, info.compress_type
    is_bomb = size > _BOMB_BYTES and size > _BOMB_RATIO * packed_size
    problems = {
        "is encrypted; such archives cannot be used.": info.flag_bits & 1,
        "leaves its folder. Do not unpack this archive.": leaves_folder(info.orig_filename),
        "is a link. Do not unpack this archive.": (info.external_attr >> 16) & 0o170000 == _LINK,
        f"is packed by method {method}; only stored and deflated can be read.": method not in (STORED, DEFLATED),
        "is stored, but its two sizes differ.": method == STORED and size != packed_size,
        f"would grow from {packed_size:,} to {size:,} bytes: a zip bomb. Do not unpack it.": is_bomb,
    }
    return next((problem for problem, found in problems.items() if found), None)
