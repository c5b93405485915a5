"""Score predictions of any framework, compare two runs, and fail a build when one is worse."""

import shutil
from pathlib import Path

from support import panbench

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"
"""A ground truth and predictions in COCO's panoptic format: a JSON each, and a PNG an image."""


def test_score_two_predictions_compare_them_and_gate_the_second(tmp_path):
    shutil.copytree(SCENES, tmp_path / "data")
    for run, predicted in (("perfect", "gt"), ("mine", "pred")):
        line = ("score", "--gt", "data/gt.json", "--pred", f"data/{predicted}.json", "--out", run)
        assert panbench(*line, cwd=tmp_path).exit_code == 0

    compared = panbench("compare", "perfect", "mine", cwd=tmp_path)
    assert "100.00" in compared.stdout

    assert panbench("gate", "perfect", "--baseline", "mine", cwd=tmp_path).exit_code == 0
    assert panbench("gate", "mine", "--baseline", "perfect", cwd=tmp_path).exit_code == 3
