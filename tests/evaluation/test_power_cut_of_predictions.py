"""What a power cut leaves of the id PNGs that an evaluation keeps: tests/power_cut.py simulates the disk."""

import os
from pathlib import Path

import numpy as np
import pytest
from power_cut import cuts

from panbench.base.errors import BadRun
from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.functions import FunctionModel
from panbench.runs import finish_replacement, load_run

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the work that is cut short is done in a fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


def one_segment(image):
    return np.ones(image.shape[:2], np.int32), [{"id": 1, "category_id": 1}]


def test_after_a_power_cut_a_run_resumes_with_all_predictions_that_its_parts_list(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("panbench.evaluation.sinks.CHUNK_IMAGES", 1)
    shapes.generate(tmp_path / "data", count=2, size=(32, 48))
    dataset, spec = open_dataset(tmp_path / "data"), find_model("mask2former-tiny")
    results = tmp_path / "results"
    results.mkdir()

    def go(out: Path, resume: bool):
        return evaluate(
            FunctionModel(spec, one_segment),
            dataset,
            out,
            EvaluateOptions(save_predictions=True, resume=resume, workers=1),
        )

    claimed = 0
    for number, left in enumerate(cuts(results, lambda: go(results / "run", False))):
        run = left.restore(tmp_path / f"after-{number}") / "run"
        finish_replacement(run)
        try:
            scored = load_run(run).files.predictions()
        except BadRun:
            continue
        claimed += len(scored)
        assert go(run, True).image_ids() == (1, 2), left.before
    assert claimed > 2
