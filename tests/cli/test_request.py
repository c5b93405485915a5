"""What a command is asked to run, and what this machine lacks for it, before PyTorch is loaded."""

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import refusal

from panbench.base import hub
from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model, resolve_models
from panbench.cli.eval_request import EvalRequest
from panbench.cli.prepare import _keeps_predictions
from panbench.cli.request import MissingFiles, ask_once, default_data, find_missing_files, leave_out_others
from panbench.datasets import CocoMissing
from panbench.runs import RunInfo, RunWriter

R50, FPN, TINY = find_model("mask2former-r50"), find_model("panoptic-fpn-r50-1x"), find_model("mask2former-tiny")
OWN = dataclasses.replace(TINY, name="mine", trained_on=None)
MISSING = MissingFiles((R50,), CocoMissing(Path("data/coco"), True, 5000, 5000, 900_000_000, "panbench data coco"))


def never(words: str) -> str:
    raise AssertionError(f"asked: {words}")


def test_the_default_data_of_models_is_what_they_were_trained_on():
    assert default_data([R50, FPN]) == "coco"
    assert default_data([TINY]) == "shapes"


@pytest.mark.parametrize("data", ["ade20k", "data/ade20k", "/somewhere/ade20k/"])
def test_the_models_of_a_set_are_those_trained_on_it(data):
    names = ["mask2former-*"]
    kept, others = leave_out_others(resolve_models(names), names, data)
    assert [spec.name for spec in kept] == ["mask2former-ade20k-l"]
    assert {"mask2former-r50", "mask2former-cityscapes-l"} <= {spec.name for spec in others}


def test_models_of_different_data_are_refused_by_name():
    with pytest.raises(BadArgument, match=r"mask2former-r50 on coco and mask2former-tiny on shapes.*--data"):
        default_data([R50, TINY])


def test_a_model_that_does_not_say_what_it_was_trained_on_has_no_default_data():
    with pytest.raises(BadArgument, match=r"mine does not say.*--data, or give --images and --gt"):
        default_data([OWN])


def test_missing_downloads_are_confirmed_once_with_all_sizes():
    asked: list[str] = []

    def answer(words: str) -> str:
        asked.append(words)
        return "\n"

    assert ask_once(MISSING, False, answer)
    assert asked == [
        "With the authors' weights of the same network: --model mask2former-r50-authors. "
        "Fetch 176 MB of weights (Apache-2.0) and 900 MB of COCO val2017? [Y/n] "
    ]


@pytest.mark.parametrize(("answer", "words"), [("n", "Nothing was fetched."), ("maybe", "'maybe' is neither y nor n")])
def test_an_answer_other_than_yes_fetches_nothing(answer, words):
    assert words in refusal(BadArgument, ask_once, MISSING, False, lambda question: answer)


def test_without_a_terminal_the_error_has_sizes_and_hints():
    with pytest.raises(BadArgument) as caught:
        ask_once(MISSING, False, None)
    for words in (
        "the weights of Mask2Former R50 and COCO val2017 in data/coco",
        "176 MB of weights (Apache-2.0) and 900 MB of COCO val2017",
        "--download (PANBENCH_DOWNLOAD=1)",
        "`panbench models --download mask2former-r50` and `panbench data coco`",
        "Without a network: --model mask2former-tiny needs no download.",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_question_is_asked_if_nothing_is_missing_or_download_is_given():
    assert ask_once(MISSING, True, never)
    assert not ask_once(MissingFiles(), False, never)


def test_missing_sizes_are_summed_over_models_and_data(monkeypatch, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    missing = find_missing_files([R50, TINY, FPN], data="coco", limit=10)
    assert [spec.name for spec in missing.weights] == [R50.name, FPN.name], (
        "the tiny model's weights come with panbench"
    )
    assert missing.data is not None
    assert (missing.data.title, missing.data.images) == ("COCO val2017", 10)
    assert not find_missing_files([R50], weights="random", data="shapes")
    assert not find_missing_files([R50], weights="my.pth")


def test_a_pattern_skips_models_of_other_data_and_a_name_does_not():
    specs = [R50, TINY]
    assert leave_out_others(specs, ["mask2former*"], "coco") == ([R50], [TINY])
    assert leave_out_others(specs, ["mask2former*,mask2former-tiny"], "coco") == (specs, [])
    assert leave_out_others(specs, ["mask2former-r50,mask2former-tiny"], "coco") == (specs, [])
    assert leave_out_others(specs, ["all"], "data/mine") == (specs, [])


def test_a_non_commercial_licence_is_shown_before_any_download(monkeypatch, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    missing = find_missing_files([find_model("maskformer-hf-swin-t")])
    asked: list[str] = []
    assert ask_once(missing, False, lambda words: asked.append(words) or "y")
    assert asked == ["Fetch 167 MB of weights (CC-BY-NC-4.0, not for commercial use)? [Y/n] "]
    with pytest.raises(BadArgument, match=r"-4\.0, not for commercial use\)\. Fetch them \(about 167 MB\)"):
        ask_once(missing, False, None)
    with pytest.raises(
        BadArgument,
        match=r"MaskFormer Swin-T \(transformers\): CC-BY-NC-4\.0, not for commercial use; Mask2Former R50: Apache",
    ):
        ask_once(find_missing_files([find_model("maskformer-hf-swin-t"), R50]), False, None)


def test_the_hub_is_asked_for_a_licence_that_the_catalog_does_not_know(monkeypatch, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    listing = hub.Listing("0" * 40, {}, (), 190_000_000, "cc-by-nc-sa-4.0")
    monkeypatch.setattr(hub, "list_files", lambda repository: listing)
    missing = find_missing_files([find_model("hf:owner/name")])
    asked: list[str] = []
    assert ask_once(missing, False, lambda words: asked.append(words) or "y")
    assert asked == ["Fetch 190 MB of weights (CC-BY-NC-SA-4.0, not for commercial use)? [Y/n] "]
    monkeypatch.setattr(hub, "list_files", never)
    with pytest.raises(BadArgument, match=r"licence: see https://huggingface.co/owner/name.*--download hf:owner/name"):
        ask_once(missing, False, None)


def test_no_download_is_offered_for_weights_that_cannot_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    with pytest.raises(BadModel, match="only differences to the gated weights of DINOv3"):
        find_model("hf:tue-mps/coco_panoptic_eomt_large_640_dinov3")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadModel, match=r"pip install .*\[transformers\]"):
        find_missing_files([find_model("detr-r50")])
    assert find_missing_files([R50])


def dataset(images: int = 3, ground_truth: bool = True, suffix: str = ".jpg") -> Any:
    """A dataset as far as it matters for what is kept."""
    names = [f"{number}.jpg" for number in range(images - 1)] + [f"{max(images - 2, 0)}{suffix}"]
    scenes = [SimpleNamespace(image=SimpleNamespace(id=number, file_name=name)) for number, name in enumerate(names)]
    if suffix == ".jpg":
        scenes[-1].image.file_name = "last.jpg"
    return SimpleNamespace(scenes=scenes, has_ground_truth=ground_truth)


def test_predictions_of_up_to_10_000_images_are_stored_by_default(tmp_path):
    assert _keeps_predictions(EvalRequest(), dataset(3), [tmp_path])
    assert _keeps_predictions(EvalRequest(), dataset(10_000), [tmp_path])
    assert not _keeps_predictions(EvalRequest(), dataset(10_001), [tmp_path])
    assert _keeps_predictions(EvalRequest(save_predictions=True), dataset(10_001), [tmp_path])
    assert not _keeps_predictions(EvalRequest(save_predictions=False), dataset(3), [tmp_path])


def test_predictions_without_ground_truth_are_stored_only_on_request(tmp_path):
    assert not _keeps_predictions(EvalRequest(limit="1,2"), dataset(), [tmp_path])
    assert not _keeps_predictions(EvalRequest(), dataset(ground_truth=False), [tmp_path])
    assert not _keeps_predictions(EvalRequest(), dataset(suffix=".png"), [tmp_path])


def test_shards_store_predictions_like_a_single_process_run(tmp_path):
    assert _keeps_predictions(EvalRequest(shard="1/2"), dataset(), [tmp_path])
    assert not _keeps_predictions(EvalRequest(shard="1/2"), dataset(10_001), [tmp_path])


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_run_stores_predictions_as_before(tmp_path, kept):
    run = tmp_path / "run"
    RunWriter.create(run, RunInfo(arguments={"save_predictions": kept})).finish("interrupted")
    assert _keeps_predictions(EvalRequest(resume=True), dataset(), [tmp_path / "none", run]) is kept
