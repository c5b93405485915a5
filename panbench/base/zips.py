"""Members of a local or remote zip archive, one by one: the archive only needs to be readable by byte ranges.

zipfile reads the archive's directory; here are the ranges, several at a time, and what zipfile lets pass: names that
leave the folder, links, bombs, and members that share bytes (zipfile's own check of that came with Python 3.11.8 and
3.12.2). Each member is checked by size and CRC, and gets its final name complete or not at all.
"""

import errno
import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from panbench.base.errors import DownloadFailed
from panbench.base.files import atomic_write, leaves_folder
from panbench.base.reporter import Counting

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

# Deflate reaches at most 1032:1; images and annotations stay far below 200:1.
_BOMB_RATIO = 200
_BOMB_BYTES = 16 << 20
# A directory has some 100 bytes a member, so this is one of millions; a declared size beyond it is a lie.
_DIRECTORY_BYTES = 256 << 20
# zipfile reads the end of an archive in several small steps; these bytes come in one request.
_TAIL_BYTES = 4 << 10
_GROUP_BYTES = 4 << 20
_GAP_BYTES = 16 << 10
_LINK = 0o120000
_BLOCK = 1 << 20

# What zipfile raises for archives that are damaged, or packed in ways that it does not read.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OverflowError, struct.error, OSError)


class DamagedArchive(DownloadFailed):
    """An archive is truncated, altered, or malicious."""


class ByteSource(Protocol):
    """Something that has a size and returns the bytes from `start` up to `stop`."""

    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. `at` … `stop` are the bytes of its record, header included; sizes in bytes."""

    name: str
    at: int
    stop: int
    packed_size: int
    size: int
    crc: int
    is_stored: bool


class Slice:
    """A range of another source, as a source of its own: a zip stored in a zip."""

    def __init__(self, source: ByteSource, start: int, stop: int) -> None:
        self._source, self._start, self._stop = source, start, stop

    def size(self) -> int:
        """Bytes of the range."""
        return self._stop - self._start

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop` of the range."""
        if not 0 <= start <= stop <= self.size():
            raise DamagedArchive(f"bytes {start}–{stop} lie outside the archive of {self.size()} bytes")
        return self._source.read(self._start + start, self._start + stop)


class ZipArchive:
    """A zip archive of which single members are read, each by the range of its bytes. Several threads may share it."""

    def __init__(self, source: ByteSource, where: str) -> None:
        """Reads the list of members: `members`, by name, in the order of the archive, without folders.

        where: the archive's name in error messages
        Raises DamagedArchive when the archive is truncated, not a zip, or not safe to unpack.
        """
        self.source, self.where = source, where
        file = _SourceFile(source, where)
        try:
            archive = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise DamagedArchive(
                f"{where} is not a zip archive, or it is truncated or damaged ({error}). Fetch it again."
            ) from error
        infos = archive.infolist()
        if len(infos) != (count := self._declared(file, len(archive.comment))):
            raise DamagedArchive(f"{where} lists {len(infos)} members and declares {count}. Fetch it again.")
        self.members = _checked(infos, archive.start_dir, where)

    def _declared(self, file: "_SourceFile", comment: int) -> int:
        """How many members the end of the archive declares; zipfile does not compare it with those that it finds."""
        end = self.source.size() - 22 - comment
        file.seek(max(0, end - 76))
        record = file.read(min(98, end + 22))
        if record[-22:-18] != b"PK\x05\x06":
            raise DamagedArchive(f"{self.where} has a damaged end, or bytes after it. Fetch it again.")
        (count,) = struct.unpack_from("<H", record, len(record) - 12)
        if count == 0xFFFF and record[:4] == b"PK\x06\x06":
            (count,) = struct.unpack_from("<Q", record, 32)
        return int(count)

    def data_start(self, member: Member) -> int:
        """The position of a member's first packed byte."""
        return self._data_start(member, self.source.read(member.at, min(member.at + 30, member.stop)))

    def _data_start(self, member: Member, header: bytes) -> int:
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise DamagedArchive(f"{self.where}: the record of {member.name} is damaged.")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start: int = member.at + 30 + name_length + extra_length
        if start + member.packed_size > member.stop:
            raise DamagedArchive(f"{self.where}: {member.name} overlaps the member after it.")
        return start

    def unpack(self, member: Member, record: bytes) -> bytes:
        """The content of a member from its record (the bytes `at` … `stop`), checked by name, size and CRC."""
        start = self._data_start(member, record[:30]) - member.at
        name = record[30 : 30 + struct.unpack_from("<H", record, 26)[0]]
        if name not in (member.name.encode(), member.name.encode("cp437", "replace")):
            raise DamagedArchive(f"{self.where}: the record of {member.name} is damaged: it has another name.")
        return b"".join(self._blocks(member, [record[start : start + member.packed_size]]))

    def _blocks(self, member: Member, packed: Iterable[bytes]) -> Iterator[bytes]:
        """A member's content from its packed bytes; raises DamagedArchive at the latest after the last."""
        inflate = None if member.is_stored else zlib.decompressobj(-zlib.MAX_WBITS)
        size = crc = 0
        try:
            for block in packed:
                while block:
                    # One byte more than it should have, and no more, whatever the stream says.
                    most = member.size + 1 - size
                    content = block[:most] if inflate is None else inflate.decompress(block, min(most, _BLOCK))
                    block = b"" if inflate is None else inflate.unconsumed_tail
                    size, crc = size + len(content), zlib.crc32(content, crc)
                    if size > member.size:
                        break
                    yield content
        except zlib.error as error:
            raise DamagedArchive(
                f"{self.where}: {member.name} is damaged ({error}): its size or CRC is wrong."
            ) from error
        if (size, crc) != (member.size, member.crc) or (inflate is not None and not inflate.eof):
            raise DamagedArchive(f"{self.where}: {member.name} is damaged: its size or CRC is wrong.")

    def read(self, member: Member) -> bytes:
        """The content of one member; read once more when it arrives damaged."""
        try:
            return self.unpack(member, self.source.read(member.at, member.stop))
        except DamagedArchive:
            return self.unpack(member, self.source.read(member.at, member.stop))

    def extract(
        self,
        members: Iterable[Member],
        target_of: Callable[[Member], Path],
        *,
        progress: Callable[[int], None] | None = None,
        connections: int = 8,
        gap: int = _GAP_BYTES,
    ) -> None:
        """Writes members to disk, each complete or not at all, over several connections.

        Neighbours in the archive are read in one request; `gap` is how many unneeded bytes between them may be read
        too.

        target_of: the path for a member. The caller chooses the folder, never the name in the archive alone
        progress: called with the bytes unpacked by this call so far
        Raises DamagedArchive when a member stays damaged; those written before are complete.
        """
        groups = list(_groups(sorted(members, key=lambda member: member.at), gap))
        for folder in {target_of(member).parent for group in groups for member in group}:
            folder.mkdir(parents=True, exist_ok=True)
        stop, lock, done = threading.Event(), threading.Lock(), 0

        def work(group: Sequence[Member]) -> None:
            nonlocal done
            if stop.is_set():
                return
            first, last = group[0].at, group[-1].stop
            content = memoryview(self.source.read(first, last))
            for member in group:
                if stop.is_set():
                    return
                try:
                    unpacked = self.unpack(member, bytes(content[member.at - first : member.stop - first]))
                except DamagedArchive:
                    unpacked = self.read(member)
                _write_whole(target_of(member), unpacked)
                with lock:
                    done += member.size
                    if progress is not None:
                        progress(done)

        with ThreadPoolExecutor(connections) as pool:
            jobs = [pool.submit(work, group) for group in groups]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        for job in jobs:
            if not job.cancelled():
                job.result()

    def fetch(self, member: Member, target: Path, progress: Counting | None = None) -> Path:
        """One big member at `target`: its packed bytes come block by block, resumable, and are unpacked and checked."""
        start, part = self.data_start(member), target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        before = part.stat().st_size if part.exists() else 0

        def blocks() -> Iterator[bytes]:
            with open(part, "rb") as handle:
                yield from self._blocks(member, iter(lambda: handle.read(_BLOCK), b""))

        with open(part, "ab") as handle:
            handle.truncate(min(before, member.packed_size))
            while (done := handle.seek(0, os.SEEK_END)) < member.packed_size:
                stop = min(done + _GROUP_BYTES, member.packed_size)
                handle.write(self.source.read(start + done, start + stop))
                if progress is not None:
                    progress(stop, member.packed_size)
        try:
            with atomic_write(target) as unpacked:
                unpacked.writelines(blocks())
        except DamagedArchive:
            part.unlink()
            if not before:
                raise
            return self.fetch(member, target, progress)  # what had arrived before was not of this archive
        part.unlink()
        return target


def crc_of(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


class _SourceFile(io.RawIOBase):
    """A byte source as the seekable file of which zipfile reads the directory."""

    def __init__(self, source: ByteSource, where: str) -> None:
        super().__init__()
        self._source, self._where = source, where
        self._size = source.size()
        self._tail_at = max(0, self._size - _TAIL_BYTES)
        self._tail = source.read(self._tail_at, self._size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, "the archive is too short")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        start = min(self._position, self._size)
        stop = self._size if size < 0 else min(start + size, self._size)
        if stop - start > _DIRECTORY_BYTES:
            raise DamagedArchive(
                f"{self._where} declares a list of {stop - start:,} bytes: it is damaged or malicious."
            )
        self._position = stop
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : stop - self._tail_at]
        return self._source.read(start, stop)


def _groups(members: Sequence[Member], gap: int) -> Iterator[list[Member]]:
    group: list[Member] = []
    for member in members:
        if group and (member.at - group[-1].stop > gap or member.stop - group[0].at > _GROUP_BYTES):
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def _write_whole(target: Path, content: bytes) -> None:
    """Not synced: the caller's record of CRCs finds what a power cut lost. Raises OutOfSpace, DownloadFailed."""
    try:
        with atomic_write(target, durable=False) as handle:
            handle.write(content)
    except OSError as error:
        raise DownloadFailed(f"Cannot write {target}: {error.strerror or error}.") from error


def _checked(infos: Sequence[zipfile.ZipInfo], directory_at: int, where: str) -> dict[str, Member]:
    """Members by name; what is not safe to unpack is refused, overlapping members and repeated names included."""
    if not infos:
        raise DamagedArchive(f"{where} is an empty zip archive. Fetch it again.")
    for info in infos:
        _require_safe(info, where)
    starts = sorted(info.header_offset for info in infos)
    following = dict(zip(starts, [*starts[1:], directory_at], strict=True))
    if len(following) != len(infos):
        raise DamagedArchive(f"{where}: members share their bytes: damaged, or a zip bomb. Do not unpack it.")
    found: dict[str, Member] = {}
    for info in infos:
        member = Member(
            info.orig_filename,
            info.header_offset,
            following[info.header_offset],
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type == STORED,
        )
        if not 0 <= member.at <= member.at + 30 + member.packed_size <= member.stop:
            raise DamagedArchive(
                f"{where}: members overlap at {member.name}: damaged, or a zip bomb. Do not unpack it."
            )
        if member.name.endswith("/"):
            continue
        if member.name in found:
            raise DamagedArchive(f"{where} holds {member.name} twice.")
        found[member.name] = member
    return found


def _require_safe(info: zipfile.ZipInfo, where: str) -> None:
    """Raises DamagedArchive for a member that must not, or cannot, be unpacked."""
    name, size, packed_size = info.orig_filename, info.file_size, info.compress_size
    if info.flag_bits & 1:
        raise DamagedArchive(f"{where}: {name} is encrypted; such archives cannot be used.")
    if leaves_folder(name):
        raise DamagedArchive(f"{where} holds the name {name!r}, which leaves its folder. Do not unpack this archive.")
    if (info.external_attr >> 16) & 0o170000 == _LINK:
        raise DamagedArchive(f"{where}: {name} is a link. Do not unpack this archive.")
    if name.endswith("/"):
        return
    if info.compress_type not in (STORED, DEFLATED):
        raise DamagedArchive(
            f"{where}: {name} is packed by method {info.compress_type}; only stored and deflated can be read."
        )
    if info.compress_type == STORED and size != packed_size:
        raise DamagedArchive(f"{where}: {name} is stored, but its two sizes differ.")
    if size > _BOMB_BYTES and size > _BOMB_RATIO * packed_size:
        raise DamagedArchive(
            f"{where}: {name} would grow from {packed_size:,} to {size:,} bytes: a zip bomb. Do not unpack it."
        )
