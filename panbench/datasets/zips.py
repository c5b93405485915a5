"""Members of a local or remote zip archive, one by one: the archive only needs to be readable by byte ranges.

Names that leave the folder, links, encrypted and overlapping members and bombs are refused; each member is checked by
size and CRC, and gets its final name complete or not at all. [PKWARE APPNOTE.TXT 6.3, sections 4.3–4.5]
"""

import contextlib
import errno
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from panbench.base.download import RangeReader, download
from panbench.base.errors import DownloadFailed, OutOfSpace
from panbench.base.files import atomic_write, leaves_folder

STORED, DEFLATED = 0, 8

# Deflate reaches at most 1032:1; images and annotations stay far below 200:1.
_BOMB_RATIO = 200
_BOMB_BYTES = 16 << 20
_GROUP_BYTES = 4 << 20
_GAP_BYTES = 16 << 10
_LINK = 0o120000


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
    method: int
    crc: int
    packed_size: int
    size: int
    at: int
    stop: int


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


def list_members(source: ByteSource, where: str) -> dict[str, Member]:
    """The files of a zip archive by name, in the order of the archive; folders are left out.

    where: the archive's name in error messages
    Raises DamagedArchive when the archive is truncated, not a zip, or not safe to unpack.
    """
    total = source.size()
    # The end record lies in the last 22 bytes, unless a comment of up to 64 KiB follows it.
    for length in (4 << 10, 65_557):
        tail_at = max(0, total - length)
        tail = source.read(tail_at, total)
        end = tail.rfind(b"PK\x05\x06")
        if end >= 0:
            break
    if end < 0 or len(tail) - end < 22:
        raise DamagedArchive(f"{where} is not a zip archive, or its end is missing. Fetch it again.")
    count, length, at = struct.unpack("<HII", tail[end + 10 : end + 20])
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":
        (record_at,) = struct.unpack("<Q", tail[end - 12 : end - 4])
        _within(record_at, record_at + 56, total, where)
        record = source.read(record_at, record_at + 56)
        if record[:4] != b"PK\x06\x06":
            raise DamagedArchive(f"{where} has a damaged ZIP64 record. Fetch it again.")
        count, length, at = struct.unpack("<QQQ", record[32:56])
    _within(at, at + length, total, where)
    directory = tail[at - tail_at : at - tail_at + length] if at >= tail_at else source.read(at, at + length)
    members = list(_parse_directory(directory, where))
    if len(members) != count:
        raise DamagedArchive(f"{where} lists {len(members)} members and declares {count}. Fetch it again.")
    return _checked(members, at, where)


def data_start(source: ByteSource, member: Member, where: str) -> int:
    """The position of a member's first packed byte."""
    header = source.read(member.at, min(member.at + 30, member.stop))
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise DamagedArchive(f"{where}: the record of {member.name} is damaged.")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start: int = member.at + 30 + name_length + extra_length
    if start + member.packed_size > member.stop:
        raise DamagedArchive(f"{where}: {member.name} overlaps the member after it.")
    return start


def unpack(record: bytes, member: Member, where: str) -> bytes:
    """The content of a member from its record (the bytes `at` … `stop`), checked by size and CRC."""
    start = data_start(_Record(record, member.at), member, where) - member.at
    packed = record[start : start + member.packed_size]
    if member.method == STORED:
        content = packed
    else:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise DamagedArchive(f"{where}: {member.name} cannot be unpacked ({error}).") from error
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise DamagedArchive(f"{where}: {member.name} is damaged: its size or CRC is wrong.")
    return content


def read_member(source: ByteSource, member: Member, where: str) -> bytes:
    """The content of one member; read once more when it arrives damaged."""
    try:
        return unpack(source.read(member.at, member.stop), member, where)
    except DamagedArchive:
        return unpack(source.read(member.at, member.stop), member, where)


def extract(
    source: ByteSource,
    members: Iterable[Member],
    target_of: Callable[[Member], Path],
    where: str,
    *,
    progress: Callable[[int], None] | None = None,
    connections: int = 8,
    gap: int = _GAP_BYTES,
) -> None:
    """Writes members to disk, each complete or not at all, over several connections.

    Neighbours in the archive are read in one request; `gap` is how many unneeded bytes between them may be read too.

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
        content = memoryview(source.read(first, last))
        for member in group:
            if stop.is_set():
                return
            try:
                unpacked = unpack(bytes(content[member.at - first : member.stop - first]), member, where)
            except DamagedArchive:
                unpacked = read_member(source, member, where)
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


def fetch_member(
    source: RangeReader,
    member: Member,
    target: Path,
    where: str,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    sleep: Callable[[float], object] | None = None,
) -> Path:
    """One big member of an archive at `target`: its packed bytes are downloaded (resumable), unpacked and checked."""
    start = data_start(source, member, where)
    window = (start, start + member.packed_size)
    stored = member.method == STORED
    packed = target if stored else target.with_name(target.name + ".deflate")

    def check(path: Path) -> str | None:
        crc, size = 0, 0
        try:
            for block in _unpacked_blocks(path, member):
                crc, size = zlib.crc32(block, crc), size + len(block)
        except zlib.error as error:
            return f"{member.name} cannot be unpacked ({error})"
        return None if (crc, size) == (member.crc, member.size) else f"{member.name} has a wrong size or CRC"

    if packed.exists() and check(packed) is not None:
        packed.unlink()
    download(source.url, packed, window=window, check=check, progress=progress, sleep=sleep)
    if not stored:
        with atomic_write(target) as handle:
            for block in _unpacked_blocks(packed, member):
                handle.write(block)
        packed.unlink()
    return target


def crc_of(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


@dataclass(frozen=True)
class _Record:
    """The bytes of one record, addressed as in the archive."""

    content: bytes
    at: int

    def size(self) -> int:
        return self.at + len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        return self.content[start - self.at : stop - self.at]


def _unpacked_blocks(path: Path, member: Member) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        if member.method == STORED:
            while block := handle.read(1 << 20):
                yield block
            return
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        left = member.size + 1
        while left > 0 and (block := inflater.unconsumed_tail or handle.read(1 << 20)):
            unpacked = inflater.decompress(block, min(left, 1 << 22))
            left -= len(unpacked)
            yield unpacked


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


def _within(start: int, stop: int, total: int, where: str) -> None:
    if not 0 <= start <= stop <= total:
        raise DamagedArchive(f"{where} points outside of itself: it is truncated or damaged. Fetch it again.")


def _parse_directory(directory: bytes, where: str) -> Iterator[Member]:
    """The records of the central directory; `stop` is not yet known."""
    at = 0
    while directory[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(directory):
        flags, method = struct.unpack("<HH", directory[at + 8 : at + 12])
        crc, packed_size, size, name_length, extra_length, comment_length = struct.unpack(
            "<IIIHHH", directory[at + 16 : at + 34]
        )
        attributes, header_at = struct.unpack("<II", directory[at + 38 : at + 46])
        name_bytes = directory[at + 46 : at + 46 + name_length]
        extra = directory[at + 46 + name_length : at + 46 + name_length + extra_length]
        at += 46 + name_length + extra_length + comment_length
        name = name_bytes.decode("utf-8" if flags & 0x800 else "cp437", errors="replace")
        size, packed_size, header_at = _zip64(extra, size, packed_size, header_at)
        if flags & 1:
            raise DamagedArchive(f"{where}: {name} is encrypted; such archives cannot be used.")
        if leaves_folder(name):
            raise DamagedArchive(
                f"{where} holds the name {name!r}, which leaves its folder. Do not unpack this archive."
            )
        if (attributes >> 16) & 0o170000 == _LINK:
            raise DamagedArchive(f"{where}: {name} is a link. Do not unpack this archive.")
        if name.endswith("/"):
            yield Member(name, STORED, 0, packed_size, 0, header_at, header_at)
            continue
        if method not in (STORED, DEFLATED):
            raise DamagedArchive(f"{where}: {name} is packed by method {method}; only stored and deflated can be read.")
        if method == STORED and size != packed_size:
            raise DamagedArchive(f"{where}: {name} is stored, but its two sizes differ.")
        if size > _BOMB_BYTES and size > _BOMB_RATIO * packed_size:
            raise DamagedArchive(
                f"{where}: {name} would grow from {packed_size:,} to {size:,} bytes: a zip bomb. Do not unpack it."
            )
        yield Member(name, method, crc, packed_size, size, header_at, header_at)


def _zip64(extra: bytes, size: int, packed_size: int, header_at: int) -> tuple[int, int, int]:
    """The three values; those that are 0xFFFFFFFF ("see the ZIP64 field") are read from there."""
    values = [size, packed_size, header_at]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            wide = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            values = [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
        at += 4 + length
    return values[0], values[1], values[2]


def _checked(members: list[Member], directory_at: int, where: str) -> dict[str, Member]:
    """Members by name with their `stop`; repeated names and overlapping members are refused."""
    if not members:
        raise DamagedArchive(f"{where} is an empty zip archive. Fetch it again.")
    starts = sorted(member.at for member in members)
    following = dict(zip(starts, [*starts[1:], directory_at], strict=True))
    if len(following) != len(members):
        raise DamagedArchive(f"{where}: members share their bytes: damaged, or a zip bomb. Do not unpack it.")
    found: dict[str, Member] = {}
    for member in members:
        stop = following[member.at]
        if member.at + 30 + member.packed_size > stop:
            raise DamagedArchive(
                f"{where}: members overlap at {member.name}: damaged, or a zip bomb. Do not unpack it."
            )
        if member.name.endswith("/"):
            continue
        if member.name in found:
            raise DamagedArchive(f"{where} holds {member.name} twice.")
        found[member.name] = Member(
            member.name, member.method, member.crc, member.packed_size, member.size, member.at, stop
        )
    return found
