"""A repository's preprocessor_config.json: what of it is for the rule `transformers`, and what for all."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import panbench

from panbench.base.errors import BadModel
from panbench.catalog import find_model
from panbench.models.opening import open_model
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
def test_thresholds_of_the_processor_are_those_of_the_rule(family: str, stated: dict[str, Any], rule: str) -> None:
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
        ({"size": {"height": 384, "width": 512}, "do_resize": False}, {}, None),
        ({"size": {"height": 0, "width": "512"}}, {}, None),
        ({}, {}, None),
    ],
)
def test_sizes_are_read_in_every_spelling(stated: Any, sides: dict[str, int], exact: tuple[int, int] | None) -> None:
    processor = Processor(stated, "a model", "mask2former")
    assert (processor.sides, processor.exact) == (sides, exact)


def test_a_model_is_run_at_its_papers_size_and_on_request_at_its_processors(tmp_path: Path) -> None:
    model = open_model(find_model(str(with_processor("mask2former", tmp_path / "m", **STRETCHED))), device="cpu")
    paper, own = model, model.as_its_processor()
    assert (paper.adapter.padded_size(60, 80), own.adapter.padded_size(60, 80)) == ((800, 1088), (64, 96))  # type: ignore[attr-defined]
    assert (paper.settings, own.settings) == (
        {"processor_size": "64×96", "processor_size_used": False},
        {"processor_size": "64×96", "processor_size_used": True},
    )
    square = open_model(find_model(str(with_processor("eomt", tmp_path / "e", **STRETCHED))), device="cpu")
    assert (square.as_its_processor() is square, square.settings) == (True, {})


def test_the_rule_transformers_takes_size_and_thresholds_and_compare_says_so(tmp_path: Path) -> None:
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
