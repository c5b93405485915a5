"""A repository's preprocessor_config.json: what of it is for the rule `transformers`, and what for all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import panbench

from panbench.base.errors import BadModel
from panbench.catalog import find_model
from panbench.models.opening import open_model
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.models.transformers.processor import Processor
from panbench.runs import load_run
from tests.models.transformers.test_adapter import BUILDERS, saved

STRETCHED = {"size": {"height": 64, "width": 96}, "threshold": 0.3, "overlap_mask_area_threshold": 0.6}


def with_processor(kind: str, folder: Path, **stated: Any) -> Path:
    saved(BUILDERS[kind](), folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


@pytest.mark.parametrize(
    ("family", "stated", "rule"),
    [
        ("mask2former", {}, "transformers"),
        ("mask2former", {"threshold": 0.9, "mask_threshold": 0.4}, "transformers:score=0.9,mask=0.4"),
        ("maskformer", {"overlap_mask_area_threshold": 0.5}, "transformers:overlap=0.5,processor=maskformer"),
        ("detr", {"label_ids_to_fuse": []}, "transformers:processor=maskformer"),
    ],
)
def test_the_rule_has_the_processors_thresholds(family: str, stated: dict[str, Any], rule: str) -> None:
    assert str(Processor(stated, "a model", family).rule) == rule


def test_an_impossible_threshold_names_its_file() -> None:
    with pytest.raises(
        BadModel, match=r"a model: its preprocessor_config.json has an impossible threshold.*from 0 to 1"
    ):
        _ = Processor({"threshold": 7}, "a model", "detr").rule


@pytest.mark.parametrize(
    ("stated", "sides", "exact"),
    [
        ({"size": 800, "max_size": 1333}, {"short": 800, "long": 1333}, None),
        ({"size": {"shortest_edge": 640, "longest_edge": 2560}}, {"short": 640, "long": 2560}, None),
        ({"size": {"height": 384, "width": 512}}, {}, (384, 512)),
        ({"size": {"height": 384, "width": 512}, "do_resize": False}, {"short": None}, None),
        ({"size": {"height": 0, "width": "512"}}, {}, None),
        ({}, {}, None),
    ],
)
def test_sizes_are_read_in_every_form(stated: Any, sides: dict[str, Any], exact: tuple[int, int] | None) -> None:
    processor = Processor(stated, "a model", "mask2former")
    assert (processor.sides, processor.exact) == (sides, exact)


def test_the_processor_that_transformers_5_saved_with_a_tokenizer_is_read(tmp_path: Path) -> None:
    folder = saved(BUILDERS["oneformer"](), tmp_path / "m")
    inner = {"size": {"shortest_edge": 320, "longest_edge": 640}, "image_std": [0.5, 0.5, 0.5], "threshold": 0.3}
    whole = {"image_processor": inner, "processor_class": "OneFormerProcessor", "task_seq_length": 77}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64}))
    adapter = TransformersAdapter(find_model(str(folder)))
    assert (adapter.resize.short, adapter.resize.long, adapter.std) == (320, 640, (127.5, 127.5, 127.5))
    assert "score=0.3" in str(adapter.declared_rules["transformers"])
    # Of earlier versions it says nothing of images.
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "OneFormerProcessor"}))
    assert TransformersAdapter(find_model(str(folder))).resize.short == 64


@pytest.mark.parametrize(
    "stated",
    [
        {"do_resize": False},
        {"do_resize": False, "do_normalize": False},
        {"do_resize": False, "do_rescale": False, "image_mean": [99, 88.5, 77], "image_std": [9, 8, 7.5]},
        {"do_resize": False, "rescale_factor": 1 / 128, "image_mean": [1, 0.5, 0.2]},
        {"do_resize": False, "do_normalize": False, "rescale_factor": 1},
    ],
)
def test_skipped_preprocessing_steps_are_those_that_transformers_skips(stated: dict[str, Any], tmp_path: Path) -> None:
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    adapter = TransformersAdapter(find_model(str(with_processor("mask2former", tmp_path / "m", **stated))))
    pixels, frame = adapter.prepare(image)
    height, width = frame.resized
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (adapter.mean, adapter.std))
    ours = (pixels.double() - mean) / std
    theirs = torch.as_tensor(np.asarray(Mask2FormerImageProcessorPil(**stated)(images=[image])["pixel_values"][0]))
    torch.testing.assert_close(ours, theirs[:, :height, :width].double(), rtol=1e-5, atol=1e-5)


def test_unsupported_processor_settings_are_refused(tmp_path: Path) -> None:
    square = with_processor("eomt", tmp_path / "e", do_resize=False)
    with pytest.raises(BadModel, match=r"preprocessor_config\.json has do_resize: false, but EoMT takes squares"):
        TransformersAdapter(find_model(str(square)))
    for factor in (0, "1/255", True):
        with pytest.raises(BadModel, match=r"rescale_factor in its preprocessor_config\.json is "):
            Processor({"rescale_factor": factor}, "a model", "detr").mean_and_std((1, 1, 1), (1, 1, 1))


def test_a_model_runs_at_its_papers_size_or_on_request_at_its_processors(tmp_path: Path) -> None:
    model = open_model(find_model(str(with_processor("mask2former", tmp_path / "m", **STRETCHED))), device="cpu")
    paper, own = model, model.as_its_processor()
    assert (paper.adapter.padded_size(60, 80), own.adapter.padded_size(60, 80)) == ((800, 1088), (64, 96))  # type: ignore[attr-defined]
    assert (paper.settings, own.settings) == (
        {"processor_size": "64×96", "processor_size_used": False},
        {"processor_size": "64×96", "processor_size_used": True},
    )
    square = open_model(find_model(str(with_processor("eomt", tmp_path / "e", **STRETCHED))), device="cpu")
    assert (square.as_its_processor() is square, square.settings) == (True, {})


def test_the_rule_transformers_uses_the_processors_size_and_thresholds(tmp_path: Path) -> None:
    folder = with_processor("mask2former", tmp_path / "m", **STRETCHED)
    line = ("eval", "--model", folder, "--data", "shapes", "--limit", "1", "--device", "cpu", "--out")
    assert panbench(*line, tmp_path / "own", "--rule", "transformers").exit_code == 0
    run = load_run(tmp_path / "own")
    assert str(run.info.rule).startswith("transformers:score=0.3,overlap=0.6,mask=0.5,")
    assert run.info.arguments["processor_size_used"] is True
    shown = panbench("compare", tmp_path / "own", "--no-intervals").stdout
    assert "mages stretched to 64×96, as its image processor does and its paper does not" in shown
    # In one pass with the paper's rule, the network sees the paper's size.
    record = json.loads((tmp_path / "own" / "run.json").read_text())
    record["arguments"]["processor_size_used"] = False
    (tmp_path / "own" / "run.json").write_text(json.dumps(record))
    shown = panbench("compare", tmp_path / "own", "--no-intervals").stdout
    assert "mages resized as in its paper; its image processor stretches them to 64×96" in shown
