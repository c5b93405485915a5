"""`panbench metrics`, `errors` and `compare`: their JSON is plain, and each run is matched once."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_runs import store
from support import ran

from panbench.metrics.matched import Matched
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.runs import DatasetRecord, ImagesRecord, RunInfo, load_run

CAR, SKY = Category(1, "car", True, "vehicle"), Category(2, "sky", False, "outdoor")


def stored_run(path: Path, cars: int, boundary: bool = False) -> Path:
    """Twelve images of a car and the sky; the sky of all is found, and the cars of the first `cars`."""
    gt = np.array([[1, 1, 2, 2]], np.int32)
    return _stored(path, [(gt, np.where((gt == 1) & (place >= cars), 0, gt)) for place in range(12)], boundary)


def empty_run(path: Path) -> Path:
    """Two images without a segment on either side."""
    return _stored(path, [(np.zeros((1, 4), np.int32),) * 2] * 2)


def _stored(path: Path, maps: list[tuple[np.ndarray, np.ndarray]], boundary: bool = False) -> Path:
    dataset = DatasetRecord(name="cars", split="val", fingerprint="cars", n_images=len(maps))
    images = ImagesRecord(expected=len(maps))
    info = RunInfo(kind="score", categories=(CAR, SKY), dataset=dataset, images=images)
    tables = []
    for image_id, pair in enumerate(maps, start=1):
        gt, pred = (ids.astype(np.int32) for ids in pair)
        gt_segments, pred_segments = (
            [Segment(c.id, c.id, int((ids == c.id).sum())) for c in (CAR, SKY) if c.id in ids] for ids in (gt, pred)
        )
        table = overlap_table(image_id, gt, gt_segments, pred, pred_segments)
        # In images this small every pixel is near a boundary.
        tables.append(dataclasses.replace(table, boundary=table.overlaps) if boundary else table)
    store(path, info, tables)
    return path


def printed(*arguments: str | Path) -> Any:
    return json.loads(ran(*arguments).stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_json_of_metrics_has_the_values_of_single_metrics(tmp_path):
    path = stored_run(tmp_path / "run", cars=6)
    slicings = ("size", "share", "segments", "supercategory")
    found = printed("metrics", path, "--json", *(word for name in slicings for word in ("--by", name)))
    run = load_run(path)
    assert found["images"] == 12
    assert found["summary"] == run.summary()
    at_half = {row["group"]: row for row in found["thresholds"] if row["threshold"] == 0.5}
    for group, scores in run.summary().items():
        assert {name: at_half[group][name] for name in scores} == scores
    # Cars: 6 found, 6 missed: 6 / (6 + 3). Sky is always right.
    assert found["PQ_dagger"] == pytest.approx({"All": (2 / 3 + 1) / 2, "Things": 2 / 3, "Stuff": 1})
    assert found["semantic"]["pixel_accuracy"] == pytest.approx(36 / 48)
    assert tuple(found["by"]) == slicings
    assert found["boundary"] is None
    car = found["per_category"][0]
    assert (car["name"], car["TP"], car["FN"]) == ("car", 6, 6)
    assert type(car["TP"]) is type(at_half["All"]["n"]) is int


def test_missing_values_are_null_in_the_json_of_metrics(tmp_path):
    found = printed("metrics", empty_run(tmp_path / "run"), "--json")
    assert found["summary"]["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
    assert found["PQ_dagger"] == {"All": None, "Things": None, "Stuff": None}
    assert found["weighted_PQ"] == {"pixels": None, "segments": None}
    assert set(found["semantic"].values()) == {None}
    assert {row["PQ"] for row in found["thresholds"]} == {None}
    assert {row[name] for row in found["per_category"] for name in ("PQ", "SQ", "RQ", "PQ_dagger", "IoU")} == {None}
    assert {row[name] for row in found["intervals"] for name in ("value", "low", "high")} == {None}


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        (["metrics", "--json"], 1),
        (["errors", "--json"], 1),
        (["compare", "--format", "json", "--by", "size", "--per-category"], 3),
    ],
)
def test_a_command_matches_each_run_only_once(command, runs, tmp_path, monkeypatch):
    paths = [stored_run(tmp_path / f"run-{number}", cars=3 * number, boundary=True) for number in range(runs)]
    matchings, match = [], Matched.of
    monkeypatch.setattr(Matched, "of", staticmethod(lambda table: matchings.append(table) or match(table)))
    printed(*command, *paths)
    assert len(matchings) == runs
