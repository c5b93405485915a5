"""All metrics of a run in one record."""

import json
import math

import pytest

from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.semantic import semantic_scores
from panbench.metrics.summary import all_metrics


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [n for item in value for n in numbers(item)] if isinstance(value, list) else [value]


def test_the_record_is_json_and_holds_what_the_single_metrics_say(random_scenes):
    tables = random_scenes(11, images=20)
    record = all_metrics(*tables)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["images"] == 20
    for group, scores in summarise(pq_table(*tables)).items():
        assert record[group] == pytest.approx(scores)
        assert record["thresholds"][0][group] == pytest.approx(scores)
    assert record["semantic"]["mIoU"] == semantic_scores(*tables).mIoU
    assert list(record["by"]) == ["size", "share", "segments", "supercategory"]
    cars = record["per_category"]["1"]
    assert cars["name"] == "car"
    assert type(cars["TP"]) is int
    assert type(record["thresholds"][0]["All"]["n"]) is int


def test_what_does_not_exist_is_null(scene):
    record = all_metrics(*scene(("....", "....")))
    assert record["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
    assert record["PQ_dagger"] == {"All": None, "Things": None, "Stuff": None}
    assert record["weighted_PQ"] == {"pixels": None, "segments": None}
    assert all(value is None for value in record["semantic"].values())
    assert not any(isinstance(value, float) and math.isnan(value) for value in numbers(record))
