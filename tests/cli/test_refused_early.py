"""Mistakes that are refused before PyTorch is imported, and hints that fit what was typed."""

import subprocess
import sys

import pytest
from support import refused

import panbench
from panbench.base.computing import refuse_device
from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model

WITHOUT_TORCH = """
import atexit, sys
atexit.register(lambda: print("PyTorch was imported" if "torch" in sys.modules else "", file=sys.stderr))
from panbench.cli.app import main
sys.argv = ["panbench", *sys.argv[1:]]
main()
"""


def refused_without_torch(*arguments, cwd):
    """What a program says that ends with 2 and has not imported PyTorch."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "PyTorch was imported" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--checkpoint", "folder"), "There is no weights file"),
        (("--out", "file"), "file is a file; give a folder for the run."),
        (("--out", "foreign"), "foreign exists and is not a run that may be replaced"),
        (("--out", "foreign", "--overwrite"), "foreign exists and is not a run that may be replaced"),
    ],
)
def test_eval_refuses_before_pytorch(tmp_path, options, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    line = ("eval", "--model", "mask2former-tiny", "--data", "shapes", "--limit", "1")
    assert sentence in refused_without_torch(*line, *options, cwd=tmp_path)


def test_a_cuda_device_is_refused_by_the_version_of_pytorch(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(BadArgument, match="--device cuda:1: this PyTorch has no CUDA"):
        refuse_device("cuda:1")
    refuse_device("cpu")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cu126")
    refuse_device("cuda")


def test_the_page_of_a_model_on_the_hub_is_its_repository():
    named = find_model("hf:facebook/mask2former-swin-tiny-coco-panoptic")
    for address in (
        "https://huggingface.co/facebook/mask2former-swin-tiny-coco-panoptic",
        "huggingface.co/facebook/mask2former-swin-tiny-coco-panoptic/tree/main",
    ):
        assert find_model(address) == named


def test_a_dataset_that_is_nearly_named_is_guessed():
    said = refused("eval", "--model", "mask2former-tiny", "--data", "shapez")
    assert "There is no dataset shapez. Did you mean shapes?" in said


@pytest.mark.skipif(sys.platform == "win32", reason="a path of Windows is at home there")
def test_a_path_of_windows_is_told_where_it_is():
    said = refused("score", "--gt", "C:\\data\\gt.json", "--pred", "C:\\data\\pred.json")
    assert "drive C: is /mnt/c/" in said


def test_pictures_are_not_written_into_a_data_set(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"x")
    said = refused("predict", tmp_path / "photo.jpg", "--model", "mask2former-tiny", "--out", tmp_path)
    assert "is a folder of data" in said


def test_without_pytorch_what_runs_models_says_what_to_install(monkeypatch):
    monkeypatch.setattr(panbench.importlib, "import_module", _no_torch)
    monkeypatch.delitem(panbench.__dict__, "load_model", raising=False)
    with pytest.raises(BadModel, match="PyTorch is not installed"):
        _ = panbench.load_model


def _no_torch(name):
    raise ModuleNotFoundError("No module named 'torch'", name="torch")
