"""run.json is read and written in one place: what is not as it should be is named by its field."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
from support import refusal, refused

from panbench.base.errors import BadRun
from panbench.panoptic.overlap import GroundTruthFaults
from panbench.panoptic.types import Category
from panbench.runs import (
    CategoryMapRecord,
    DatasetRecord,
    ImagesRecord,
    ModelRecord,
    RuleRecord,
    RunInfo,
    SecondsRecord,
    SummaryRecord,
    load_run,
)
from scripts.make.run_json import page, rows

FULL = RunInfo(
    panbench="0.1.0",
    name="a",
    model=ModelRecord(name="m", params=3),
    rule=RuleRecord("mask2former", {"score": 0.8, "overlap": 0.8, "drop": True}),
    dataset=DatasetRecord(name="shapes", split="val", n_images=2),
    category_map=CategoryMapRecord("map", {"a": "b"}, ("c",), ()),
    categories=(Category(1, "ball", True, "toy", (1, 2, 3)), Category(2, "sky", False)),
    arguments={"seed": 0, "compiled": False, "precision": "fp32", "weights": None},
    versions={"python": "3.11"},
    batch_size=1,
    command=("panbench", "eval"),
    images=ImagesRecord(expected=2, scored=1, skipped=1, skipped_ids={3: "torn"}, gt_faults=GroundTruthFaults()),
    seconds=SecondsRecord(load=0.5, wall=1),
    summary=SummaryRecord.of({group: {"PQ": 0.5, "SQ": None, "RQ": 1, "n": 2} for group in ("All", "Things", "Stuff")}),
    started="2026-11-21T13:14:25+00:00",
)


def written(folder: Path, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    return folder


def test_a_record_round_trips(tmp_path):
    folder = written(tmp_path, FULL.to_json())
    assert load_run(folder).info == FULL
    assert load_run(folder).info.to_json() == FULL.to_json()


def test_the_page_of_run_json_has_every_field_of_the_records():
    text = page()
    for field in (
        "`model.weights_sha256` | text or null",
        "`summary.All.PQ`",
        "`parts.sha256`",
        "`images.skipped_ids`",
    ):
        assert field in text
    assert text.count("\n| `") == len(list(rows(RunInfo)))


def test_every_field_is_documented():
    assert [path for path, _, meaning in rows(RunInfo) if not meaning] == []


# (the way to a field, what stands there instead, the field as the sentence names it)
WRONG = [
    (("kind",), "train", "kind"),
    (("kind",), ["eval"], "kind"),
    (("name",), 7, "name"),
    (("name",), "\ud800", "name"),
    (("status",), "finished", "status"),
    (("status",), {"is": "done"}, "status"),
    (("error",), {"message": "x"}, "error"),
    (("model",), [], "model"),
    (("model",), "mask2former", "model"),
    (("model", "title"), 3, "model.title"),
    (("model", "params"), "44M", "model.params"),
    (("model", "params"), -1, "model.params"),
    (("model", "random_weights"), 1, "model.random_weights"),
    (("model", "published"), {"PQ": 0.5}, "model.published.dataset"),
    (("rule",), "mask2former", "rule"),
    (("rule", "thresholds"), {"score": [0.8]}, "rule.thresholds.score"),
    (("dataset",), None, "dataset"),
    (("dataset", "fingerprint"), 12, "dataset.fingerprint"),
    (("dataset", "n_images"), 2.5, "dataset.n_images"),
    (("dataset", "gt"), ["a"], "dataset.gt"),
    (("category_map", "categories"), ["a"], "category_map.categories"),
    (("category_map", "unmapped_model"), "c", "category_map.unmapped_model"),
    (("categories",), {"1": "ball"}, "categories"),
    (("categories",), None, "categories"),
    (("categories", 0), "ball", "categories[0]"),
    (("categories", 0, "id"), "1", "categories[0].id"),
    (("categories", 0, "id"), 2**31, "categories[0].id"),
    (("categories", 0, "id"), -1, "categories[0].id"),
    (("categories", 1, "id"), 1, "categories[1].id"),
    (("categories", 0, "isthing"), "yes", "categories[0].isthing"),
    (("categories", 0, "color"), [1, 2], "categories[0].color"),
    (("categories", 0, "color"), [1, 2, 300], "categories[0].color"),
    (("arguments",), [], "arguments"),
    (("arguments", "seed"), [0], "arguments.seed"),
    (("versions", "python"), 3.11, "versions.python"),
    (("device",), "cuda", "device"),
    (("batch_size",), "auto", "batch_size"),
    (("seed",), 10**40, "seed"),
    (("command",), "panbench eval", "command"),
    (("command",), [1], "command[0]"),
    (("images",), 12, "images"),
    (("images", "expected"), "12", "images.expected"),
    (("images", "scored"), -3, "images.scored"),
    (("images", "skipped_ids"), {"three": "torn"}, "images.skipped_ids"),
    (("images", "skipped_ids"), ["3"], "images.skipped_ids"),
    (("images", "gt_faults"), 0, "images.gt_faults"),
    (("seconds",), [1], "seconds"),
    (("seconds", "wall"), "1", "seconds.wall"),
    (("seconds", "wall"), True, "seconds.wall"),
    (("images_per_second",), 10**400, "images_per_second"),
    (("memory",), "1 GB", "memory"),
    (("summary",), [0.5], "summary"),
    (("summary", "All"), 0.5, "summary.All"),
    (("summary", "All", "PQ"), "0.5", "summary.All.PQ"),
    (("started",), 1763730865, "started"),
]


@pytest.mark.parametrize(("place", "value", "field"), WRONG, ids=lambda part: str(part)[:40])
def test_a_value_of_the_wrong_type_is_reported_with_file_and_field(tmp_path, place, value, field):
    content = copy.deepcopy(FULL.to_json())
    inside = content
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    written(tmp_path, content)
    message = refusal(BadRun, load_run, tmp_path)
    assert message.startswith(f"{tmp_path / 'run.json'} is damaged: `{field}")
    assert "\n" not in message
    assert "run.json is damaged" in refused("metrics", tmp_path)


@pytest.mark.parametrize("command", ["compare", "metrics", "errors", "report"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_in_a_record(tmp_path, command, value):
    written(tmp_path, {**FULL.to_json(), "images_per_second": value})
    assert "run.json is damaged" in refused(command, tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        json.dumps(dataclasses.replace(FULL, images_per_second=value).to_json(), allow_nan=False)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"schema": 1', b'"run"', b"", b"null", b'{"schema": true}'])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(BadRun, match=r"run\.json is (damaged|not the record)"):
        load_run(tmp_path)


def test_unknown_keys_are_ignored(tmp_path):
    content = FULL.to_json()
    content["model"]["color"] = "red"
    assert load_run(written(tmp_path, {**content, "mood": "good"})).info == FULL


def test_a_rule_is_recorded_with_all_its_thresholds():
    rule = RuleRecord.of({"name": "mask2former", "score": 0.7, "overlap": 0.8})
    assert rule == RuleRecord("mask2former", {"score": 0.7, "overlap": 0.8})
    assert str(rule) == "mask2former:score=0.7,overlap=0.8"
