"""Members of a local or remote zip archive, one by one: the archive only needs to be readable by byte ranges.

zipfile reads the archive's directory and unpacks; here are the ranges, several at a time, and what zipfile lets pass:
names that leave the folder, links, bombs, and members that share bytes (zipfile's own check of that came with Python
3.11.8 and 3.12.2). Each member is checked by size and CRC, and gets its final name complete or not at all.
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
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from panbench.base.download import RangeReader, download
from panbench.base.errors import DownloadFailed, OutOfSpace
from panbench.base.files import atomic_write, leaves_folder

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

    info: zipfile.ZipInfo
    stop: int

    @property
    def name(self) -> str:
        """Its name as the archive has it, with its folders."""
        return self.info.orig_filename

    @property
    def at(self) -> int:
        """Where its record begins."""
        return self.info.header_offset

    @property
    def packed_size(self) -> int:
        """Bytes in the archive."""
        return self.info.compress_size

    @property
    def size(self) -> int:
        """Bytes once unpacked."""
        return self.info.file_size

    @property
    def crc(self) -> int:
        """CRC-32 of the unpacked bytes."""
        return self.info.CRC

    @property
    def is_stored(self) -> bool:
        """Whether it lies in the archive as it is, not packed."""
        return self.info.compress_type == STORED


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
        self._file = _SourceFile(source, where)
        self._opening = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _ZIP_ERRORS as error:
            raise DamagedArchive(
                f"{where} is not a zip archive, or it is truncated or damaged ({error}). Fetch it again."
            ) from error
        infos = self._zip.infolist()
        if len(infos) != (count := self._declared()):
            raise DamagedArchive(f"{where} lists {len(infos)} members and declares {count}. Fetch it again.")
        self.members = _checked(infos, self._zip.start_dir, where)

    def _declared(self) -> int:
        """How many members the end of the archive declares; zipfile does not compare it with those that it finds."""
        end = self.source.size() - 22 - len(self._zip.comment)
        self._file.seek(max(0, end - 76))
        record = self._file.read(min(98, end + 22))
        if record[-22:-18] != b"PK\x05\x06":
            raise DamagedArchive(f"{self.where} has a damaged end, or bytes after it. Fetch it again.")
        (count,) = struct.unpack_from("<H", record, len(record) - 12)
        if count == 0xFFFF and record[:4] == b"PK\x06\x06":
            (count,) = struct.unpack_from("<Q", record, 32)
        return int(count)

    def data_start(self, member: Member) -> int:
        """The position of a member's first packed byte."""
        header = self.source.read(member.at, min(member.at + 30, member.stop))
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise DamagedArchive(f"{self.where}: the record of {member.name} is damaged.")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start: int = member.at + 30 + name_length + extra_length
        if start + member.packed_size > member.stop:
            raise DamagedArchive(f"{self.where}: {member.name} overlaps the member after it.")
        return start

    def unpack(self, member: Member, record: bytes) -> bytes:
        """The content of a member from its record (the bytes `at` … `stop`), checked by size and CRC."""
        # One byte more than it should have, so that zipfile reaches the end, where it compares the CRC.
        return b"".join(self._blocks(member, _Held(record, member.at), member.size + 1))

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

    def fetch(
        self,
        member: Member,
        target: Path,
        *,
        progress: Callable[[int, int | None], None] | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> Path:
        """One big member at `target`: its packed bytes are downloaded (resumable), unpacked and checked.

        The archive's source must be a RangeReader.
        """
        assert isinstance(self.source, RangeReader)
        start = self.data_start(member)
        header = self.source.read(member.at, start)
        packed = target if member.is_stored else target.with_name(target.name + ".deflate")

        def blocks(path: Path) -> Iterator[bytes]:
            return self._blocks(member, _HeldOnDisk(header, member.at, path))

        def check(path: Path) -> str | None:
            try:
                for _ in blocks(path):
                    pass
            except DamagedArchive as error:
                return str(error).removesuffix(".")
            return None

        if packed.exists() and check(packed) is not None:
            packed.unlink()
        window = (start, start + member.packed_size)
        download(self.source.url, packed, window=window, check=check, progress=progress, sleep=sleep)
        if not member.is_stored:
            with atomic_write(target) as handle:
                for block in blocks(packed):
                    handle.write(block)
            packed.unlink()
        return target

    def _blocks(self, member: Member, record: ByteSource, length: int = _BLOCK) -> Iterator[bytes]:
        """A member's content from its record, in blocks; raises DamagedArchive at the latest after the last."""
        size = 0
        try:
            with self._file.reading(record, member):
                # zipfile counts its open members without a lock.
                with self._opening:
                    handle = self._zip.open(member.info)
                try:
                    while block := handle.read(length):
                        size += len(block)
                        yield block
                finally:
                    with self._opening:
                        handle.close()
        except (*_ZIP_ERRORS, zlib.error) as error:
            raise DamagedArchive(
                f"{self.where}: {member.name} is damaged: its size or CRC is wrong, or its record ({error})."
            ) from error
        if size != member.size:
            raise DamagedArchive(f"{self.where}: {member.name} is damaged: its size or CRC is wrong.")


def crc_of(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


@dataclass(frozen=True)
class _Held:
    """Bytes in memory, addressed as in the archive."""

    content: bytes
    at: int

    def size(self) -> int:
        return self.at + len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        return self.content[start - self.at : stop - self.at]


@dataclass(frozen=True)
class _HeldOnDisk:
    """A record whose header is in memory and whose packed bytes are a file, addressed as in the archive."""

    header: bytes
    at: int
    path: Path

    def size(self) -> int:
        return self.at + len(self.header) + self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        begin = self.at + len(self.header)
        if start < begin:
            return self.header[start - self.at : stop - self.at]
        with open(self.path, "rb") as handle:
            handle.seek(start - begin)
            return handle.read(stop - start)


class _SourceFile(io.RawIOBase):
    """A byte source as the seekable file that zipfile reads.

    zipfile seeks and reads under a lock of its own, so threads share the position. While a thread unpacks a member,
    what it reads comes from that member's record, and nothing outside of the record is read.
    """

    def __init__(self, source: ByteSource, where: str) -> None:
        super().__init__()
        self._source, self._where = source, where
        self._size = source.size()
        tail_at = max(0, self._size - _TAIL_BYTES)
        self._tail = _Held(source.read(tail_at, self._size), tail_at)
        self._position = 0
        self._reading = threading.local()

    @contextlib.contextmanager
    def reading(self, record: ByteSource, member: Member) -> Iterator[None]:
        """For this thread, reads from the record of a member alone."""
        self._reading.now = record, member
        try:
            yield
        finally:
            self._reading.now = None

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
        content = self._bytes(start, stop)
        self._position = start + len(content)
        return content

    def _bytes(self, start: int, stop: int) -> bytes:
        now = getattr(self._reading, "now", None)
        if now is not None:
            record, member = now
            if not member.at <= start <= stop <= member.stop:
                raise DamagedArchive(f"{self._where}: {member.name} overlaps the member after it.")
            found: bytes = record.read(start, stop)
            return found
        if start >= self._tail.at:
            return self._tail.read(start, stop)
        if stop - start > _DIRECTORY_BYTES:
            raise DamagedArchive(
                f"{self._where} declares a list of {stop - start:,} bytes: it is damaged or malicious."
            )
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
    """Writes a temporary file, then renames it. Not synced: the caller's record of CRCs finds what a power cut lost."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(content)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(
                    f"No space left while writing {target}. Free some space and run the same command again: "
                    "files written before are complete."
                ) from error
            raise DownloadFailed(f"Cannot write {target}: {error.strerror or error}.") from error
        raise


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
        member = Member(info, following[info.header_offset])
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
