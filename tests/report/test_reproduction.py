"""Is a published number reproduced: the tolerance, what there is no verdict on, and what is suspected."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import panbench

from panbench.base.errors import BadModel, BadRun
from panbench.catalog import find_model, load_catalog
from panbench.report.reproduction import claim_for, judge
from panbench.runs import DatasetRecord, ImagesRecord, ModelRecord, RuleRecord, RunInfo

ROOT = Path(__file__).resolve().parents[2]
MEASURED = find_model("mask2former-r50")
PRINTED = find_model("mask2former-swin-t")


def run_of(spec, pq, *, scored=5000, **changes):
    """A run as far as a verdict reads it: its PQ of all categories is `pq`, and it meets the other claims."""
    claim = claim_for(spec)
    values = dict(claim.values)
    values["All", "PQ"] = pq
    groups = {group for group, _ in values}
    summary = {
        group: {metric: value / 100 for (own, metric), value in values.items() if own == group} for group in groups
    }
    info = RunInfo(
        model=ModelRecord(name=spec.name, title=spec.title, published=spec.published),
        dataset=DatasetRecord(name=claim.dataset, split=claim.split, n_images=5000),
        precision="fp32",
    )
    info = dataclasses.replace(info, **changes)
    return SimpleNamespace(name="mine", info=info, image_ids=lambda: tuple(range(scored)), summary=lambda: summary)


@pytest.mark.parametrize(
    ("pq", "reproduced"), [(51.865, True), (51.9, True), (51.915, True), (51.92, False), (51.5, False)]
)
def test_nine_measured_numbers_must_agree_to_five_hundredths(pq, reproduced):
    found = judge(run_of(MEASURED, pq), MEASURED)
    assert found.reproduced is reproduced
    assert len(found.rows) == 9
    assert found.sentence.startswith("Reproduced" if reproduced else "Not reproduced")


def test_a_printed_number_must_agree_to_its_rounding_and_as_much_again():
    claimed = claim_for(PRINTED).values["All", "PQ"]
    assert claimed == pytest.approx(53.4)
    assert judge(run_of(PRINTED, claimed - 0.1), PRINTED).reproduced
    assert judge(run_of(PRINTED, claimed + 0.15), PRINTED).reproduced
    assert not judge(run_of(PRINTED, claimed - 0.5), PRINTED).reproduced
    assert "0.15 are allowed" in judge(run_of(PRINTED, claimed), PRINTED).sentence


def test_what_the_run_knows_is_suspected_likeliest_first():
    run = run_of(
        MEASURED,
        48.0,
        precision="bf16",
        rule=RuleRecord(name="mask2former", thresholds={"score": 0.5}),
        model=ModelRecord(name=MEASURED.name, published=None),
        images=ImagesRecord(expected=5000, skipped=3),
        versions={"torch": "2.13.0"},
    )
    words = ["The weights are not those", "Images are missing", "The precision is bf16", "score 0.5", "torch 2.13.0"]
    suspects = judge(run, MEASURED).suspects
    assert [word in suspect for word, suspect in zip(words, suspects, strict=True)] == [True] * 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scored": 50}, "has 50 of 5,000 images scored, and a part proves nothing"),
        ({"status": "interrupted"}, "a part proves nothing"),
        ({"dataset": DatasetRecord(name="shapes", split="val")}, "is on shapes val; what is claimed"),
        ({"model": ModelRecord(name="maskformer-r50")}, "is not a run of mask2former-r50"),
    ],
)
def test_there_is_no_verdict_on_other_runs(changes, sentence):
    with pytest.raises(BadRun, match=re.escape(sentence)):
        judge(run_of(MEASURED, 51.865, **changes), MEASURED)


def test_a_model_without_a_number_has_nothing_to_reproduce():
    silent = [spec for spec in load_catalog().values() if spec.published is None and not spec.name.endswith("-tiny")]
    for spec in silent[:1]:
        with pytest.raises(BadModel, match="has no published PQ"):
            claim_for(spec)
    refused = panbench("reproduce", "mask2former-r5")
    assert refused.exit_code == 2


def test_the_tiny_models_claims_are_their_cards():
    rows = list(csv.DictReader((ROOT / "panbench" / "measured.csv").read_text("utf-8").splitlines()))
    for name in ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny"):
        card = (ROOT / "configs" / "weights" / f"{name}.md").read_text("utf-8")
        printed = re.findall(r"^\| (All|Things|Stuff) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", card, re.MULTILINE)
        claimed = [(row["group"], row["PQ"], row["SQ"], row["RQ"]) for row in rows if row["name"] == name]
        assert claimed == printed


@pytest.mark.slow
def test_the_command_reproduces_a_tiny_model_and_judges_the_stored_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = panbench("reproduce", "mask2former-tiny")
    assert made.exit_code == 0, made.output
    assert "Reproduced: Mask2Former tiny" in made.stdout
    stored = tmp_path / "results" / "published" / "mask2former-tiny"
    again = panbench("reproduce", "mask2former-tiny", "--run", stored, "--json")
    assert json.loads(again.stdout[again.stdout.index("{") :])["reproduced"] is True
    other = panbench("reproduce", "maskformer-tiny", "--run", stored)
    assert other.exit_code == 2
    assert "is not a run of maskformer-tiny" in other.output
