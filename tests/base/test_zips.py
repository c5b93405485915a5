import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from support import refusal

from panbench.base import zips as zips_module
from panbench.base.errors import DownloadFailed
from panbench.base.zips import DamagedArchive, StoredMember, ZipArchive, crc_of


class Bytes:
    """A source in memory that counts what is read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.reads = content, []

    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        return self.content[start:stop]


FILES = {"a/one.txt": b"one" * 100, "a/zwei é.txt": b"", "three.bin": bytes(range(256)) * 40}


def zipped(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"x" * 65_535])
def test_members_are_listed_and_read_by_ranges(method, comment):
    archive = ZipArchive(Bytes(zipped(method=method, comment=comment)), "x.zip")
    assert list(archive.members) == list(FILES)
    assert {name: archive.read(member) for name, member in archive.members.items()} == FILES


def test_zips_written_as_a_stream_are_read():
    class Stream(io.RawIOBase):
        """A pipe: zipfile cannot seek back, so sizes and CRCs come after the data."""

        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, block: bytes) -> int:  # type: ignore[override]
            self.content += bytes(block)
            return len(block)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.txt", b"one" * 100)
    archive = ZipArchive(Bytes(stream.content), "x.zip")
    assert archive.read(archive.members["one.txt"]) == b"one" * 100


def test_zip64_sizes_and_offsets_are_read():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("one.txt", "w", force_zip64=True) as handle:
        handle.write(b"one")
    content = buffer.getvalue()
    at = content.index(b"PK\x01\x02")
    header = bytearray(content[at : at + 46 + 7])
    (header_at,) = struct.unpack("<I", header[42:46])
    extra = struct.pack("<HHQQQ", 1, 24, 3, 3, header_at)
    header[20:28] = b"\xff" * 8
    header[42:46] = b"\xff" * 4
    header[30:32] = struct.pack("<H", len(extra))
    directory = bytes(header) + extra
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at + len(directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    source = Bytes(content[:at] + directory + record + locator + end)
    archive = ZipArchive(source, "x.zip")
    member = archive.members["one.txt"]
    assert (member.file_size, member.compress_size) == (3, 3)
    assert archive.read(member) == b"one"


def test_a_zip_stored_in_a_zip_is_read_in_place():
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as written:
        written.writestr("before.bin", bytes(5000))
        written.writestr("inner.zip", zipped())
    source = Bytes(outer.getvalue())
    archive = ZipArchive(source, "outer.zip")
    member = archive.members["inner.zip"]
    start = archive.data_start(member)
    inner = StoredMember(archive, member)
    source.reads.clear()
    within = ZipArchive(inner, "inner.zip")
    assert within.read(within.members["a/one.txt"]) == FILES["a/one.txt"]
    assert min(first for first, _ in source.reads) >= start
    assert "outside" in refusal(DamagedArchive, inner.read, 0, member.file_size + 1)


# Damage.


@pytest.mark.parametrize("keep", [0, 10, 100, -1, -10, -30])
def test_a_truncated_zip_is_refused(keep):
    assert "x.zip" in refusal(DamagedArchive, ZipArchive, Bytes(zipped()[:keep]), "x.zip")


def test_every_flipped_bit_is_detected_or_harmless():
    content = zipped({"one.txt": b"one" * 100})
    for at in range(len(content)):
        for bit in (1, 128):
            damaged = Bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            try:
                archive = ZipArchive(damaged, "x.zip")
                read = {name: archive.read(member) for name, member in archive.members.items()}
            except DownloadFailed:
                continue
            assert b"one" * 100 in read.values()
            assert set(read.values()) <= {b"one" * 100, b""}  # the empty one is the folder, renamed


def test_a_member_damaged_in_transit_is_read_again():
    class Flaky(Bytes):
        flaky = False

        def read(self, start: int, stop: int) -> bytes:
            content = super().read(start, stop)
            damaged, self.flaky = self.flaky, False
            return content[:-20] + bytes(20) if damaged else content

    source = Flaky(zipped())
    archive = ZipArchive(source, "x.zip")
    source.reads.clear()
    source.flaky = True
    assert archive.read(archive.members["three.bin"]) == FILES["three.bin"]
    assert len(source.reads) == 2


# Harm.


@pytest.mark.parametrize(
    "name", ["../up.txt", "a/../../up.txt", "/etc/passwd", "C:/x.txt", "a\\..\\..\\x", "\\\\host\\x"]
)
def test_names_that_leave_the_folder_are_refused(name):
    content = zipped({"placeholder" * 2: b"x"}).replace(b"placeholder" * 2, name.encode().ljust(22, b"_"))
    assert "leaves its folder" in refusal(DamagedArchive, ZipArchive, Bytes(content), "x.zip")


def test_an_empty_zip_is_refused():
    with pytest.raises(DamagedArchive, match=r"x\.zip is an empty zip archive"):
        ZipArchive(Bytes(b"PK\x05\x06" + bytes(18)), "x.zip")


def test_links_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "link" in refusal(DamagedArchive, ZipArchive, Bytes(buffer.getvalue()), "x.zip")


def test_a_bomb_is_refused_before_it_is_unpacked():
    assert "bomb" in refusal(DamagedArchive, ZipArchive, Bytes(zipped({"zeros": bytes(20 << 20)})), "x.zip")


def test_a_member_that_lies_about_its_size_is_not_unpacked_further():
    content = bytearray(zipped({"zeros": bytes(1 << 20)}))
    at = content.index(b"PK\x01\x02")
    at = content.index(b"PK\x01\x02", at + 4)
    content[at + 24 : at + 28] = struct.pack("<I", 1000)
    source = Bytes(bytes(content))
    archive = ZipArchive(source, "x.zip")
    assert "size or CRC" in refusal(DamagedArchive, archive.read, archive.members["zeros"])


def test_overlapping_members_are_refused():
    content = zipped({"one.txt": b"one" * 100, "two.txt": b"two" * 100}, zipfile.ZIP_STORED)
    second = content.rindex(b"PK\x01\x02")
    same = content[: second + 42] + struct.pack("<I", content.index(b"PK\x03\x04", 4)) + content[second + 46 :]
    assert "share their bytes" in refusal(DamagedArchive, ZipArchive, Bytes(same), "x.zip")


def test_overlapping_records_are_refused():
    content = bytearray(zipped({"one.txt": b"one" * 100, "two.txt": b"two" * 100}, zipfile.ZIP_STORED))
    at = content.index(b"PK\x03\x04", 4)
    content[at + 28 : at + 30] = struct.pack("<H", 20)  # the length of an extra field that is not there
    archive = ZipArchive(Bytes(bytes(content)), "x.zip")
    with pytest.raises(DamagedArchive, match=r"(?i)one\.txt.*overlap"):
        archive.read(archive.members["one.txt"])
    assert "one.txt overlaps" in refusal(DamagedArchive, archive.data_start, archive.members["one.txt"])


def test_members_hidden_in_a_comment_are_refused():
    content = bytearray(zipped({"one.txt": b"1", "two.txt": b"2"}))
    at = content.index(b"PK\x01\x02")
    content[at + 32 : at + 34] = struct.pack("<H", 1000)  # the length of the folder's comment
    assert "lists 1 members and declares 3" in refusal(DamagedArchive, ZipArchive, Bytes(bytes(content)), "x.zip")


def test_a_directory_that_declares_a_gigabyte_is_not_read():
    class Sparse(Bytes):
        def size(self) -> int:
            return (2 << 30) + len(self.content)

        def read(self, start: int, stop: int) -> bytes:
            self.reads.append((start, stop))
            return self.content[max(0, start - (2 << 30)) : stop - (2 << 30)]

    source = Sparse(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 1 << 30, 1 << 30, 0))
    assert "declares a list of 1,073,741,824 bytes" in refusal(DamagedArchive, ZipArchive, source, "x.zip")
    assert sum(stop - start for start, stop in source.reads) < 100_000


def test_repeated_names_are_refused():
    content = zipped({"one.txt": b"1", "two.txt": b"2"}).replace(b"two.txt", b"one.txt")
    assert "twice" in refusal(DamagedArchive, ZipArchive, Bytes(content), "x.zip")


@pytest.mark.parametrize(("field", "value", "word"), [(8, 1, "encrypted"), (10, 9, "method 9")])
def test_unsupported_compression_is_reported(field, value, word):
    content = bytearray(zipped({"one.txt": b"one" * 100}))
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[at + field] = value
    assert word in refusal(DamagedArchive, ZipArchive, Bytes(bytes(content)), "x.zip")


# Extraction.


def target_in(folder: Path):
    return lambda member: folder / Path(member.filename).name


def test_neighbours_are_read_in_one_request(tmp_path):
    files = {f"{number}.txt": bytes([number]) * 100 for number in range(50)}
    source = Bytes(zipped(files, zipfile.ZIP_STORED))
    archive = ZipArchive(source, "x.zip")
    source.reads.clear()
    archive.extract(archive.members.values(), target_in(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert len(source.reads) == 1


def test_only_requested_members_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zips_module, "_GAP_BYTES", 0)
    files = {f"{number}.txt": bytes([number]) * 1000 for number in range(50)}
    source = Bytes(zipped(files, zipfile.ZIP_STORED))
    archive = ZipArchive(source, "x.zip")
    source.reads.clear()
    archive.extract([archive.members["3.txt"], archive.members["40.txt"]], target_in(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.txt", "40.txt"]
    assert sum(stop - start for start, stop in source.reads) < 2200


def test_a_damaged_member_ends_the_extraction_and_leaves_no_wrong_file(tmp_path):
    content = zipped({"good.txt": b"good" * 50, "evil.txt": b"evil" * 50}, zipfile.ZIP_STORED)
    source = Bytes(content.replace(b"evilevil", b"evilEvil", 1))
    archive = ZipArchive(source, "x.zip")
    assert "evil.txt" in refusal(DamagedArchive, archive.extract, archive.members.values(), target_in(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"good.txt"}


def test_progress_ends_at_the_unpacked_size(tmp_path):
    archive = ZipArchive(Bytes(zipped()), "x")
    seen: list[int] = []
    archive.extract(archive.members.values(), target_in(tmp_path), progress=seen.append)
    assert seen[-1] == sum(map(len, FILES.values()))


def test_an_unwritable_folder_is_one_message(tmp_path, monkeypatch):
    archive = ZipArchive(Bytes(zipped()), "x")
    monkeypatch.setattr("os.replace", _refuse)
    assert "Read-only" in refusal(DownloadFailed, archive.extract, archive.members.values(), target_in(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _refuse(*_: object) -> None:
    raise OSError(30, "Read-only file system")


def test_the_crc_of_a_file_is_computed_from_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert crc_of(tmp_path / "x") == zlib.crc32(b"abc")


def test_a_record_can_be_unpacked_without_its_archive():
    source = Bytes(zipped())
    archive = ZipArchive(source, "x")
    member = archive.members["three.bin"]
    source.reads.clear()
    assert archive.unpack(member, source.content[slice(*archive.member_span(member))]) == FILES["three.bin"]
    assert source.reads == []
