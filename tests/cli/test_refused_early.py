"""Mistakes that are refused before PyTorch is imported, and hints that fit what was typed."""

import json
import sys

import pytest
from support import Recorder, refusal, refused, refuses_without_torch

import panbench
from panbench.base.computing import refuse_device
from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model
from panbench.datasets import shapes
from panbench.evaluation.tools.photographs import segment_photographs

EVAL = ["eval", "--data", "shapes", "--limit", "1"]
TINY = [*EVAL, "--model", "mask2former-tiny"]


def test_files_rules_and_labels_are_refused_before_pytorch(tmp_path):
    for folder in ("folder", "foreign", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    config = {"model_type": "mask2former", "architectures": ["Mask2FormerForUniversalSegmentation"]}
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (tmp_path / "labels" / "config.json").write_text(json.dumps(config))
    not_a_run = "foreign exists and is not a run that may be replaced"
    refuses_without_torch(
        tmp_path,
        [
            ([*TINY, "--checkpoint", "folder"], "There is no weights file"),
            ([*TINY, "--out", "file"], "file is a file; give a folder for the run."),
            ([*TINY, "--out", "foreign"], not_a_run),
            ([*TINY, "--out", "foreign", "--overwrite"], not_a_run),
            ([*TINY, "--rule", "mask2former:score=2"], "score is '2' but must be a number from 0 to 1"),
            ([*TINY, "--rule", "paper,mask2former:sore=0.5"], "has no threshold 'sore'. Did you mean score?"),
            (
                [*TINY, "--rule", "paper,combine"],
                "combine takes boxes with masks and a semantic map, and Mask2Former",
            ),
            ([*EVAL, "--model", "panoptic-fpn-tiny", "--rule", "eomt"], "Rules that fit it: panoptic-fpn, combine."),
            ([*EVAL, "--model", "./labels", "--checkpoint", "random"], "names none of its 2 labels"),
        ],
    )


def test_a_cuda_device_is_refused_by_the_version_of_pytorch(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert "--device cuda:1: this PyTorch has no CUDA" in refusal(BadArgument, refuse_device, "cuda:1")
    refuse_device("cpu")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cu126")
    refuse_device("cuda")


def test_the_url_of_a_models_page_means_its_repository():
    named = find_model("hf:facebook/mask2former-swin-tiny-coco-panoptic")
    for address in (
        "https://huggingface.co/facebook/mask2former-swin-tiny-coco-panoptic",
        "huggingface.co/facebook/mask2former-swin-tiny-coco-panoptic/tree/main",
    ):
        assert find_model(address) == named


def test_a_misspelled_dataset_is_guessed():
    said = refused("eval", "--model", "mask2former-tiny", "--data", "shapez")
    assert "There is no dataset shapez. Did you mean shapes?" in said


@pytest.mark.skipif(sys.platform == "win32", reason="a path of Windows is at home there")
def test_a_windows_path_is_refused_with_the_path_to_use():
    said = refused("score", "--gt", "C:\\data\\gt.json", "--pred", "C:\\data\\pred.json")
    assert "drive C: is /mnt/c/" in said


def test_pictures_are_not_written_into_a_data_set(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"x")
    said = refused("predict", tmp_path / "photo.jpg", "--model", "mask2former-tiny", "--out", tmp_path)
    assert "is a folder of data" in said


@pytest.mark.slow
def test_predict_shows_progress(tmp_path):
    shapes.generate(tmp_path / "set", count=2, size=(64, 96))
    said = Recorder()
    segment_photographs(find_model("mask2former-tiny"), [tmp_path / "set" / "val"], tmp_path / "out", reporter=said)
    counts = [(done, total) for task, done, total, _ in said.counts if task == "Mask2Former tiny"]
    assert counts == [(0, 2), (1, 2), (2, 2)]


def test_without_pytorch_commands_with_models_say_what_to_install(monkeypatch):
    monkeypatch.setattr(panbench.importlib, "import_module", _no_torch)
    monkeypatch.delitem(panbench.__dict__, "load_model", raising=False)
    with pytest.raises(BadModel, match="PyTorch is not installed"):
        _ = panbench.load_model


def _no_torch(name):
    raise ModuleNotFoundError("No module named 'torch'", name="torch")
