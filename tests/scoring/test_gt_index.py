"""An index of decoded ground truth saves time and never changes a number."""

import os
from pathlib import Path

import pytest

from panbench.scoring.gt_index import GtIndex, IndexWriter, index_paths, own_key, sha_of

KEY = b"k" * 32
ENTRIES = {sha_of(b"one"): b"runs of one", sha_of(b"two"): b"", b"\0" * 16: b"all zeros", b"ends in zero\0\0\0\0": b"z"}


@pytest.fixture
def path(tmp_path):
    writer = IndexWriter([tmp_path / "gt.panbench-index"], KEY)
    for sha, packed in ENTRIES.items():
        writer.add(sha, packed)
    written = writer.finish()
    assert written is not None
    return written


def test_entries_come_back_by_hash(path):
    index = GtIndex.open(path, KEY)
    assert len(index) == 4
    assert {sha: index.entry(sha) for sha in ENTRIES} == ENTRIES
    assert index.entry(sha_of(b"three")) is None


def test_an_absent_or_foreign_file_is_an_empty_index(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "foreign").write_bytes(b"PNG" * 100)
    for name in ("none", "empty", "foreign"):
        assert len(GtIndex.open(tmp_path / name, KEY)) == 0


def test_damage_is_noticed_wherever_it_is(path):
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        index = GtIndex.open(path, KEY)
        assert all(index.entry(sha) in (packed, None) for sha, packed in ENTRIES.items())
        assert any(index.entry(sha) is None for sha in ENTRIES), f"byte {place} does not matter"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert len(GtIndex.open(path, KEY)) == 0


def test_an_index_signed_with_another_key_is_foreign_and_empty(path):
    index = GtIndex.open(path, b"x" * 32)
    assert index.foreign
    assert len(index) == 0
    assert not GtIndex.open(path, KEY).foreign


def test_the_key_is_made_once_and_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    key = own_key()
    assert key is not None
    assert own_key() == key
    (path,) = (tmp_path / "cache" / "gt-index").iterdir()
    assert path.stat().st_mode & 0o077 == 0 or os.name == "nt"
    path.chmod(0o644)
    assert own_key() is None or os.name == "nt"


@pytest.mark.parametrize("cache", ["/dev/null", "file"])
def test_without_a_cache_folder_there_is_no_key(tmp_path, monkeypatch, cache):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / cache))
    assert own_key() is None


def test_it_lies_beside_the_json_or_else_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    beside, cached = index_paths(tmp_path / "val.json")
    assert beside == tmp_path / "val.panbench-index"
    assert cached.parent == tmp_path / "cache" / "gt-index"
    assert cached != index_paths(tmp_path / "other" / "val.json")[1]
    # A file where the JSON's folder should be stands for a folder that cannot be written.
    (tmp_path / "file").touch()
    writer = IndexWriter([tmp_path / "file" / "val.panbench-index", cached], KEY)
    writer.add(b"0" * 16, b"x")
    assert writer.finish() == cached
    assert len(GtIndex.open(cached, KEY)) == 1


def test_nowhere_to_write_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    writer = IndexWriter([tmp_path / "file" / "a", tmp_path / "file" / "b"], KEY)
    writer.add(b"0" * 16, b"x")
    assert writer.finish() is None


def test_what_is_not_finished_leaves_nothing(tmp_path):
    writer = IndexWriter([tmp_path / "gt.panbench-index"], KEY)
    writer.add(b"0" * 16, b"x")
    assert len(list(tmp_path.iterdir())) == 1
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path):
    old, young, other = (tmp_path / name for name in (".gt.panbench-index.a.tmp", ".gt.panbench-index.b.tmp", ".x.tmp"))
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    IndexWriter([tmp_path / "gt.panbench-index"], KEY).discard()
    assert {path.name for path in tmp_path.iterdir()} == {young.name, other.name}


def test_a_full_disk_is_no_error(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    writer = IndexWriter([tmp_path / "gt.panbench-index"], KEY)
    writer._handle.close()
    writer._handle = open("/dev/full", "wb")  # noqa: SIM115
    for _ in range(3):
        writer.add(b"0" * 16, b"x" * 10000)
    assert writer.finish() is None
    assert list(tmp_path.iterdir()) == []
