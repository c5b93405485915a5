"""The weights of a model: found where other programs keep them, or fetched with consent, verified either way."""

import dataclasses
import functools
import hashlib
import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Recorder, serve

from panbench import weights
from panbench.base.download import download
from panbench.base.errors import BadCheckpoint, DownloadFailed
from panbench.base.files import hash_in_name, md5_in_name
from panbench.base.reporter import Silent, Unit
from panbench.catalog import ModelSpec, find_model, load_catalog, spec_from_config
from panbench.cli.request import missing_for
from panbench.weights import fetch_weights, weights_here, weights_path

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("m_20230118_125535-54df384a.pth", "54df384a"),
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("mine-20230118.pth", None),
        ("mine-final.pth", None),
        ("mine.pth", None),
    ],
)
def test_the_hash_at_the_end_of_a_name_is_told_from_a_date(name: str, digits: str | None) -> None:
    assert hash_in_name(name) == digits


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` and counts requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content: dict[str, bytes] = {}
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        content = self.server.content.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(weights, "download", functools.partial(download, tries=2, sleep=lambda _: None))
    with Server() as server:
        thread = serve(server)
        yield server
        server.shutdown()
        thread.join()


def published(server: Server, content: bytes = b"weights", name: str | None = None) -> tuple[ModelSpec, Path]:
    """A model whose weights the server has, and where they will be."""
    name = name or f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.content[f"/{name}"] = content
    spec = dataclasses.replace(CATALOG["mask2former-r50"], weights=f"{server.url}/{name}")
    path = weights_path(spec)
    assert path is not None
    return spec, path


def test_weights_are_downloaded_once_and_verified(server: Server, tmp_path: Path) -> None:
    spec, path = published(server)
    seen: list[tuple[int, int | None]] = []

    class Counted(Silent):
        def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
            seen.append((done, total))

    assert fetch_weights(spec, reporter=Counted()) == path
    assert path.parent == tmp_path / "cache" / "weights"
    assert path.read_bytes() == b"weights"
    assert seen[-1] == (7, 7)
    before = server.requests
    assert fetch_weights(spec) == path
    assert server.requests == before


def test_the_licence_is_told_before_the_download_and_not_again(server: Server) -> None:
    spec, path = published(server)
    spec = dataclasses.replace(spec, license="CC-BY-NC-4.0", license_source="its README.md")
    told: list[tuple[str, bool]] = []

    class Noted(Silent):
        def notice(self, sentence: str) -> None:
            told.append((sentence, path.exists()))

    for _ in range(2):
        fetch_weights(spec, reporter=Noted())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == [
        (f"Weights of {spec.title}: CC-BY-NC-4.0, not for commercial use (its README.md).", False),
        (f"Weights of {spec.title}: the SHA-256 of {path.name} is {digest}.", True),
    ]


def test_weights_that_were_damaged_in_the_cache_are_fetched_anew(server: Server) -> None:
    spec, path = published(server)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wei")
    assert fetch_weights(spec).read_bytes() == b"weights"


def test_weights_with_another_hash_than_their_name_says_never_get_their_name(server: Server) -> None:
    spec, path = published(server, b"other", "model-0123abcd.pth")
    with pytest.raises(DownloadFailed, match="0123abcd"):
        fetch_weights(spec)
    assert list(path.parent.glob("*.pth")) == []


def test_weights_that_the_server_does_not_have_name_url_target_and_ways_out(server: Server) -> None:
    spec, path = published(server)
    server.content.clear()
    with pytest.raises(DownloadFailed) as caught:
        fetch_weights(spec)
    for words in (str(spec.weights), str(path), "404", "--checkpoint", "--checkpoint random"):
        assert words in str(caught.value)
    assert list(path.parent.glob("*.pth")) == []


def test_a_server_that_is_not_there_names_url_target_and_ways_out(server: Server) -> None:
    spec, path = published(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadFailed) as caught:
        fetch_weights(spec)
    for words in (str(spec.weights), str(path), "--checkpoint", "--checkpoint random"):
        assert words in str(caught.value)


def test_offline_weights_are_used_when_they_are_here_and_missed_in_words_when_not(server: Server) -> None:
    spec, path = published(server)
    with pytest.raises(BadCheckpoint) as caught:
        fetch_weights(spec, offline=True)
    for words in (str(spec.weights), str(path), "does not exist", "--checkpoint", "--checkpoint random"):
        assert words in str(caught.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wei")
    with pytest.raises(BadCheckpoint, match="SHA-256"):
        fetch_weights(spec, offline=True)
    path.write_bytes(b"weights")
    assert fetch_weights(spec, offline=True) == path
    assert server.requests == 0


def test_weights_given_as_a_path_are_used_where_they_are(tmp_path: Path) -> None:
    spec = dataclasses.replace(CATALOG["mask2former-r50"], weights=str(tmp_path / "w.pth"))
    with pytest.raises(BadCheckpoint, match=r"no weights file .*w\.pth for Mask2Former R50"):
        fetch_weights(spec)
    (tmp_path / "w.pth").touch()
    assert fetch_weights(spec) == tmp_path / "w.pth"


def test_a_model_without_weights_names_the_ways_out() -> None:
    with pytest.raises(BadCheckpoint, match=r"Give a file with --checkpoint FILE, or .* --checkpoint random"):
        fetch_weights(dataclasses.replace(CATALOG["mask2former-r50"], weights=None))


# Files that people already have.


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder of its own, and no variable that names another cache."""
    for name in ("TORCH_HOME", "FVCORE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def put(folder: Path, name: str, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


PLACES = {
    "PyTorch's hub cache": (".cache/torch/hub/checkpoints", {}),
    "PyTorch's under XDG_CACHE_HOME": ("xdg/torch/hub/checkpoints", {"XDG_CACHE_HOME": "xdg"}),
    "TORCH_HOME": ("mine/hub/checkpoints", {"TORCH_HOME": "mine", "XDG_CACHE_HOME": "xdg"}),
    "mim's cache": (".cache/mim", {}),
    "detectron2's cache": (".torch/iopath_cache/zoo/r50", {}),
    "FVCORE_CACHE": ("d2/zoo/r50", {"FVCORE_CACHE": "d2"}),
    "checkpoints/ beside the config": ("configs/checkpoints", {}),
    "checkpoints/ in the current folder": ("../checkpoints", {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_of_another_program_is_used_and_nothing_is_downloaded(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder, variables = PLACES[place]
    for name, value in variables.items():
        monkeypatch.setenv(name, str(home / value))
    spec, _ = published(server, name=f"zoo/r50/model-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth")
    spec = dataclasses.replace(spec, config=home / "configs" / "mine.py")
    assert weights_here(spec) is None
    assert missing_for([spec]).weights == (spec,)
    copy = put(home / folder, Path(str(spec.weights)).name)
    found, told = weights_here(spec), Recorder()
    assert found is not None
    assert found.samefile(copy)
    assert not missing_for([spec])
    for offline in (True, False):
        assert fetch_weights(spec, offline=offline, reporter=told) == found
    assert told.notices == [f"Weights of Mask2Former R50: {found} is used, nothing is downloaded."] * 2
    assert server.requests == 0


def test_panbenchs_own_file_comes_before_a_copy(server: Server, home: Path) -> None:
    spec, path = published(server)
    put(home / ".cache/mim", path.name)
    put(path.parent, path.name)
    assert fetch_weights(spec) == weights_here(spec) == path


def test_a_copy_with_another_hash_is_named_offline_and_never_used(server: Server, home: Path) -> None:
    spec, path = published(server)
    copy = put(home / ".cache/mim", path.name, b"half of the wei")
    with pytest.raises(BadCheckpoint, match=f"{path}: it does not exist; nor at {copy}: its SHA-256 begins with"):
        fetch_weights(spec, offline=True)
    assert fetch_weights(spec) == path
    assert path.read_bytes() == b"weights"


def test_a_name_without_a_hash_is_looked_for_nowhere_else(server: Server, home: Path) -> None:
    spec, path = published(server, name="model_final.pth")
    put(home / ".cache/mim", path.name)
    assert weights_here(spec) is None
    with pytest.raises(BadCheckpoint, match=r"model_final\.pth: it does not exist\."):
        fetch_weights(spec, offline=True)


def test_the_md5_in_the_names_of_detectron2s_zoo_is_verified(server: Server, home: Path) -> None:
    digits = hashlib.md5(b"weights").hexdigest()[:6]
    assert md5_in_name(f"model_final_{digits}.pkl") == digits
    assert md5_in_name("model_final.pkl") is None
    spec, path = published(server, name=f"zoo/model_final_{digits}.pkl")
    copy = put(home / ".torch/iopath_cache/zoo", path.name, b"other")
    with pytest.raises(BadCheckpoint, match=rf"{copy}: its MD5 begins with \w{{6}}, not with {digits}"):
        fetch_weights(spec, offline=True)
    assert fetch_weights(spec) == path
    path.write_bytes(b"other")
    copy.write_bytes(b"weights")
    assert fetch_weights(spec, offline=True) == copy
    server.content["/" + f"zoo/{path.name}"] = b"another"
    copy.unlink()
    with pytest.raises(DownloadFailed, match="its MD5 begins with"):
        fetch_weights(spec)


def test_a_config_of_ones_own_finds_its_checkpoints_folder(server: Server, home: Path, tmp_path: Path) -> None:
    spec, _ = published(server)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(f"panbench = {{'weights': {spec.weights!r}}}\n")
    copy = put(tmp_path / "mine" / "checkpoints", Path(str(spec.weights)).name)
    assert fetch_weights(spec_from_config(tmp_path / "mine" / "own.py"), offline=True) == copy


def test_the_zoos_files_are_found_under_the_names_that_mim_and_mmdet_give_them(home: Path) -> None:
    spec = find_model("mask2former-r50")
    copy = put(home / ".cache/mim", "mask2former_r50_8xb2-lsj-50e_coco-panoptic_20230118_125535-54df384a.pth")
    assert weights_here(spec) == copy
