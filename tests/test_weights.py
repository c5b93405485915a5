"""The weights of a model: found where other programs keep them, or fetched with consent, verified either way."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Recorder, refusal

from panbench.base.errors import BadCheckpoint, DownloadFailed
from panbench.base.files import hash_in_name, md5_in_name
from panbench.base.reporter import Silent
from panbench.catalog import ModelSpec, find_model, load_catalog, spec_from_config
from panbench.cli.request import find_missing_files
from panbench.weights import fetch_weights, weights_here, weights_path
from scripts.make.coco_mimic import FaultServer

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
def test_a_hash_at_the_end_of_a_name_is_not_a_date(name: str, digits: str | None) -> None:
    assert hash_in_name(name) == digits


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("panbench.base.download._sleep", lambda _: None)
    with FaultServer({}) as server:
        yield server


def published(server: FaultServer, content: bytes = b"weights", name: str | None = None) -> tuple[ModelSpec, Path]:
    """A model whose weights the server has, and where they will be."""
    name = name or f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[f"/{name}"] = content
    spec = dataclasses.replace(CATALOG["mask2former-r50"], weights=f"{server.url}/{name}")
    path = weights_path(spec)
    assert path is not None
    return spec, path


def test_weights_are_downloaded_once_and_verified(server: FaultServer, tmp_path: Path) -> None:
    spec, path = published(server)
    counted = Recorder()
    assert fetch_weights(spec, reporter=counted) == path
    assert path.parent == tmp_path / "cache" / "weights"
    assert path.read_bytes() == b"weights"
    assert counted.counts[-1][1:3] == (7, 7)
    before = list(server.log)
    assert fetch_weights(spec) == path
    assert server.log == before


def test_the_licence_is_shown_once_before_the_download(server: FaultServer) -> None:
    spec, path = published(server)
    spec = dataclasses.replace(spec, license="CC-BY-NC-4.0", license_source="its README.md")
    told: list[tuple[str, bool]] = []

    class Noted(Silent):
        def notice(self, message: str) -> None:
            told.append((message, path.exists()))

    for _ in range(2):
        fetch_weights(spec, reporter=Noted())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == [
        (f"Weights of {spec.title}: CC-BY-NC-4.0, not for commercial use (its README.md).", False),
        (f"Weights of {spec.title}: the SHA-256 of {path.name} is {digest}.", True),
    ]


def test_damaged_weights_in_the_cache_are_downloaded_again(server: FaultServer) -> None:
    spec, path = published(server)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wei")
    assert fetch_weights(spec).read_bytes() == b"weights"


def test_weights_with_a_wrong_hash_are_never_stored_under_their_name(server: FaultServer) -> None:
    spec, path = published(server, b"other", "model-0123abcd.pth")
    with pytest.raises(DownloadFailed, match="0123abcd"):
        fetch_weights(spec)
    assert list(path.parent.glob("*.pth")) == []


WAYS_OUT = ("--checkpoint", "--checkpoint random")


@pytest.mark.parametrize("there", [True, False], ids=["a server without them", "no server"])
def test_unavailable_weights_are_reported_with_url_target_and_hints(server: FaultServer, there: bool) -> None:
    spec, path = published(server)
    server.files.clear()
    if not there:
        spec = dataclasses.replace(spec, weights=f"http://127.0.0.1:9/{path.name}")
    said = refusal(DownloadFailed, fetch_weights, spec)
    for words in (str(spec.weights), str(path), *WAYS_OUT, *["404"][:there]):
        assert words in said
    assert list(path.parent.glob("*.pth")) == []


def test_offline_local_weights_are_used_and_missing_ones_reported(server: FaultServer) -> None:
    spec, path = published(server)
    said = refusal(BadCheckpoint, fetch_weights, spec, offline=True)
    for words in (str(spec.weights), str(path), "does not exist", *WAYS_OUT):
        assert words in said
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wei")
    with pytest.raises(BadCheckpoint, match="SHA-256"):
        fetch_weights(spec, offline=True)
    path.write_bytes(b"weights")
    assert fetch_weights(spec, offline=True) == path
    assert not server.log


def test_weights_given_as_a_path_are_used_where_they_are(tmp_path: Path) -> None:
    spec = dataclasses.replace(CATALOG["mask2former-r50"], weights=str(tmp_path / "w.pth"))
    with pytest.raises(BadCheckpoint, match=r"no weights file .*w\.pth for Mask2Former R50"):
        fetch_weights(spec)
    (tmp_path / "w.pth").touch()
    assert fetch_weights(spec) == tmp_path / "w.pth"


def test_a_model_without_weights_is_reported_with_hints() -> None:
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
def test_weights_cached_by_another_program_are_used(server, home, monkeypatch, place) -> None:
    folder, variables = PLACES[place]
    for name, value in variables.items():
        monkeypatch.setenv(name, str(home / value))
    spec, _ = published(server, name=f"zoo/r50/model-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth")
    spec = dataclasses.replace(spec, config=home / "configs" / "mine.py")
    assert weights_here(spec) is None
    assert find_missing_files([spec]).weights == (spec,)
    copy = put(home / folder, Path(str(spec.weights)).name)
    found, told = weights_here(spec), Recorder()
    assert found is not None
    assert found.samefile(copy)
    assert not find_missing_files([spec])
    for offline in (True, False):
        assert fetch_weights(spec, offline=offline, reporter=told) == found
    assert told.notices == [f"Weights of Mask2Former R50: {found} is used, nothing is downloaded."] * 2
    assert not server.log


def test_panbenchs_own_cache_comes_before_those_of_other_programs(server: FaultServer, home: Path) -> None:
    spec, path = published(server)
    put(home / ".cache/mim", path.name)
    put(path.parent, path.name)
    assert fetch_weights(spec) == weights_here(spec) == path


def test_a_cached_copy_with_another_hash_is_named_and_never_used(server: FaultServer, home: Path) -> None:
    spec, path = published(server)
    copy = put(home / ".cache/mim", path.name, b"half of the wei")
    with pytest.raises(BadCheckpoint, match=f"{path}: it does not exist; nor at {copy}: its SHA-256 begins with"):
        fetch_weights(spec, offline=True)
    assert fetch_weights(spec) == path
    assert path.read_bytes() == b"weights"


def test_a_file_name_without_a_hash_is_not_searched_in_other_caches(server: FaultServer, home: Path) -> None:
    spec, path = published(server, name="model_final.pth")
    put(home / ".cache/mim", path.name)
    assert weights_here(spec) is None
    with pytest.raises(BadCheckpoint, match=r"model_final\.pth: it does not exist\."):
        fetch_weights(spec, offline=True)


def test_the_md5_in_the_names_of_detectron2s_zoo_is_verified(server: FaultServer, home: Path) -> None:
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
    server.files["/" + f"zoo/{path.name}"] = b"another"
    copy.unlink()
    with pytest.raises(DownloadFailed, match="its MD5 begins with"):
        fetch_weights(spec)


def test_a_user_config_finds_the_folder_of_its_checkpoint(server: FaultServer, home: Path, tmp_path: Path) -> None:
    spec, _ = published(server)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(f"panbench = {{'weights': {spec.weights!r}}}\n")
    copy = put(tmp_path / "mine" / "checkpoints", Path(str(spec.weights)).name)
    assert fetch_weights(spec_from_config(tmp_path / "mine" / "own.py"), offline=True) == copy


def test_the_zoos_files_are_found_under_the_names_that_mim_and_mmdet_give_them(home: Path) -> None:
    spec = find_model("mask2former-r50")
    copy = put(home / ".cache/mim", "mask2former_r50_8xb2-lsj-50e_coco-panoptic_20230118_125535-54df384a.pth")
    assert weights_here(spec) == copy


def test_an_unreachable_hub_suggests_another_source_of_the_network(server, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refusal(DownloadFailed, lambda: fetch_weights(find_model("mask2former-hf-swin-t")))
    assert "http://127.0.0.1:9 cannot be reached" in said
    twin = "Run the same network with other weights, Mask2Former Swin-T (authors): --model mask2former-swin-t-authors"
    assert f"{twin} --download, name another server that has it in HF_ENDPOINT, on a machine with a network, " in said
