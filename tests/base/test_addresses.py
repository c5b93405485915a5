"""Addresses as paths: what is one, what is read from it, and what a failing store comes to."""

import pickle
from pathlib import Path

import fsspec
import pytest
from support import refused

from panbench.base import remote_paths
from panbench.base.addresses import is_url, path_at, refuse_url
from panbench.base.errors import BadArgument
from panbench.base.files import sha256_of
from panbench.base.remote_paths import UrlPath
from panbench.runs import digest_of


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(remote_paths, "WAITS", (0, 0, 0))
    system = fsspec.filesystem("memory")
    yield system
    # Class-wide, and so for all tests of the process.
    system.store.clear()
    system.pseudo_dirs[:] = [""]


class Failing:
    """A store that fails so many times, and counts what it is asked."""

    def __init__(self, system, error: Exception, times: int) -> None:
        self.system, self.error, self.times, self.asked = system, error, times, 0

    def __getattr__(self, name):
        def ask(*arguments, **options):
            self.asked += 1
            if self.asked <= self.times:
                raise self.error
            return getattr(self.system, name)(*arguments, **options)

        return getattr(self.system, name) if name.startswith("_") else ask


@pytest.mark.parametrize("text", ["s3://bucket/a.png", "gs://b/c", "hf://datasets/a/b", "memory://a", "s3:/bucket/a"])
def test_text_with_a_scheme_is_a_url(text):
    assert is_url(text)
    assert isinstance(path_at(text), UrlPath)


@pytest.mark.parametrize("text", ["data/coco", "/data/coco", "C:/data", "C:\\data", "a:b", "coco:test-dev", "./s3:/x"])
def test_text_without_a_scheme_is_a_path(text):
    assert not is_url(text)
    assert path_at(text) == Path(text)
    assert type(path_at(text)) is type(Path())


def test_a_url_that_lost_a_slash_is_restored():
    assert str(path_at(Path("s3://bucket/coco/a.png"))) == "s3://bucket/coco/a.png"


def test_a_file_url_is_a_local_path(tmp_path):
    assert path_at(f"file://{tmp_path}/a.png") == tmp_path / "a.png"


def test_urls_are_joined_like_folders():
    address = path_at("s3://bucket/coco") / "val2017" / "1.jpg"
    assert str(address) == "s3://bucket/coco/val2017/1.jpg"
    assert (address.name, address.suffix, str(address.parent)) == ("1.jpg", ".jpg", "s3://bucket/coco/val2017")
    assert str(address.with_suffix(".png")) == "s3://bucket/coco/val2017/1.png"
    assert address.absolute() is address
    carried = pickle.loads(pickle.dumps(address))
    assert (carried, type(carried)) == (address, UrlPath)


def test_a_password_in_a_url_is_refused_and_not_printed():
    with pytest.raises(BadArgument, match="Give credentials by the environment") as refused:
        path_at("s3://KEY:hunter2@bucket/coco")
    assert "hunter2" not in str(refused.value)
    assert "KEY" not in str(refused.value)


def test_writing_to_a_url_is_refused():
    with pytest.raises(BadArgument, match=r"--out s3://bucket/run is a URL, and panbench writes to file systems"):
        refuse_url(Path("s3://bucket/run"), "--out")
    refuse_url("results/run", "--out")
    refuse_url(None, "--out")


def test_objects_are_read_listed_and_hashed(memory, tmp_path):
    memory.pipe("/set/a.json", b"{}")
    memory.pipe("/set/pngs/1.png", b"one")
    folder = path_at("memory://set")
    assert folder.is_dir()
    assert not folder.is_file()
    assert (folder / "a.json").is_file()
    assert (folder / "pngs" / "1.png").read_bytes() == b"one"
    assert [str(each) for each in folder.glob("*.json")] == ["memory://set/a.json"]
    (tmp_path / "one").write_bytes(b"one")
    assert sha256_of(folder / "pngs" / "1.png") == sha256_of(tmp_path / "one")
    assert digest_of(folder / "pngs" / "1.png") == digest_of(tmp_path / "one")
    assert digest_of(folder / "pngs" / "2.png") == b""


@pytest.mark.parametrize("count", [3, 40])
def test_missing_objects_are_detected_one_by_one_and_in_listings(count, memory):
    names = [f"pngs/{number}.png" for number in range(count)]
    for name in names[:-1]:
        memory.pipe(f"/set/{name}", b"x")
    assert path_at("memory://set").missing_of(names) == [names[-1]]


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), OSError(16, "SlowDown: reduce your request rate"), ConnectionError("reset")]
)
def test_a_store_that_fails_a_few_times_is_retried(error, memory, monkeypatch):
    memory.pipe("/a.png", b"one")
    store = Failing(memory, error, times=3)
    monkeypatch.setattr(UrlPath, "fs", store)
    assert path_at("memory://a.png").read_bytes() == b"one"
    assert store.asked == 4


def test_retries_of_a_failing_store_are_bounded(memory, monkeypatch):
    store = Failing(memory, TimeoutError("read timed out"), times=100)
    monkeypatch.setattr(UrlPath, "fs", store)
    with pytest.raises(OSError, match=r"the store gave no answer after 4 tries \(TimeoutError: read timed out\)"):
        path_at("memory://a.png").read_bytes()
    assert store.asked == 4


def test_a_refusing_store_is_not_retried_and_reported(memory, monkeypatch):
    store = Failing(memory, PermissionError("Access Denied"), times=100)
    monkeypatch.setattr(UrlPath, "fs", store)
    said = refused("eval", "--model", "mask2former-tiny", "--data", "memory://bucket/coco")
    assert "memory://bucket/coco cannot be used: the store refuses it (PermissionError: Access Denied)" in said
    assert store.asked == 1


def test_a_missing_object_is_not_retried(memory, monkeypatch):
    store = Failing(memory, OSError(), times=0)
    monkeypatch.setattr(UrlPath, "fs", store)
    with pytest.raises(FileNotFoundError):
        path_at("memory://a.png").read_bytes()
    assert store.asked == 1


def test_an_unknown_scheme_is_refused():
    with pytest.raises(BadArgument, match="nosuch:// is not a URL that panbench can read"):
        path_at("nosuch://a/b").is_file()


def test_a_store_without_its_package_is_reported_with_the_install_line(monkeypatch, tmp_path):
    def absent(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(UrlPath, "fs", property(absent))
    assert "This needs the extra cloud (s3fs is not installed). Install with: pip install" in refused(
        "score", "--gt", "s3://bucket/gt.json", "--pred", "s3://bucket/pred.json", cwd=tmp_path
    )
