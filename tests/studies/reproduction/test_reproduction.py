"""Is a published number reproduced: the tolerance, what there is no verdict on, and what is suspected."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import panbench, ran, refusal, refused

from panbench.base.errors import BadModel, BadRun
from panbench.base.files import sha256_of
from panbench.catalog import find_model, load_catalog
from panbench.runs import CategoryMapRecord, DatasetRecord, ImagesRecord, ModelRecord, RuleRecord, RunInfo, list_runs
from panbench.scoring.folder import score_folder
from panbench.studies.reproduction.answer import claim_for, files_not_to_commit, judge
from panbench.studies.robustness.definitions import VERSION

ROOT = Path(__file__).resolve().parents[3]
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
    assert found.message.startswith("Reproduced" if reproduced else "Not reproduced")


def test_a_printed_number_must_agree_to_0_15_points():
    claimed = claim_for(PRINTED).values["All", "PQ"]
    assert claimed == pytest.approx(53.4)
    assert judge(run_of(PRINTED, claimed - 0.1), PRINTED).reproduced
    assert judge(run_of(PRINTED, claimed + 0.15), PRINTED).reproduced
    assert not judge(run_of(PRINTED, claimed - 0.5), PRINTED).reproduced
    assert "(0.15 allowed)" in judge(run_of(PRINTED, claimed), PRINTED).message


def test_recorded_departures_come_before_suspicions():
    run = run_of(
        MEASURED,
        48.0,
        scored=4997,
        precision="bf16",
        rule=RuleRecord(name="mask2former", thresholds={"score": 0.5}, default=True),
        model=ModelRecord(name=MEASURED.name, published=None),
        images=ImagesRecord(expected=5000, skipped=3),
        versions={"torch": "2.13.0"},
    )
    found = judge(run, MEASURED)
    for messages, words in (
        (found.departures, ("The weights are not those", "Images are missing", "The precision was bf16")),
        (found.suspects, ("score 0.5", "torch 2.13.0")),
    ):
        assert [word in message for word, message in zip(words, messages, strict=True)] == [True] * len(words)


MAPPED = CategoryMapRecord(name="coco-to-shapes", categories={"person": "ball"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"tta": "flip,scales=1:1.25"}}, "Test-time augmentation was on (flip,scales=1:1.25)"),
        (
            {"arguments": {"corruption": "fog:1", "definitions": f"corruptions={VERSION}"}},
            "The images were corrupted (fog:1).",
        ),
        (
            {"rule": RuleRecord(name="argmax", default=False)},
            "The fusion rule was argmax, which is not the model's own",
        ),
        ({"model": ModelRecord(name=PRINTED.name)}, "The weights are not those of the catalogue"),
        (
            {"model": ModelRecord(name=PRINTED.name, published=PRINTED.published, weights_sha256="00" * 32)},
            "their SHA-256 begins with 00000000, that of the published ones with 3ec9e0ae",
        ),
        ({"model": ModelRecord(name=PRINTED.name, random_weights=True)}, "The weights are random"),
        ({"precision": "bf16"}, "The precision was bf16; the claim is of fp32."),
        ({"category_map": MAPPED}, "Categories were mapped by coco-to-shapes"),
        ({"scored": 4999, "images": ImagesRecord(expected=5000, skipped=1)}, "missing from the score: 1 skipped"),
        ({"arguments": {"compiled": True}}, "The backbone was compiled"),
        ({"arguments": {"exif": "ignore"}}, "--exif ignore"),
        ({"arguments": {"candidates": "results/x/candidates"}}, "The network was not run"),
        ({"arguments": {"a_setting_of_tomorrow": 3}}, "The setting a_setting_of_tomorrow was 3."),
    ],
)
def test_agreeing_numbers_of_another_evaluation_are_not_a_reproduction(changes, message):
    claimed = claim_for(PRINTED).values["All", "PQ"]
    plain = judge(run_of(PRINTED, claimed), PRINTED)
    assert plain.reproduced
    assert plain.departures == ()
    found = judge(run_of(PRINTED, claimed, **changes), PRINTED)
    assert not found.reproduced
    assert found.agrees
    (departure,) = found.departures
    assert message in departure
    assert found.message.startswith("Not reproduced, though the numbers agree, as the run departs from the claimed")
    assert found.record()["departures"] == [departure]


def test_a_run_by_older_definitions_is_not_a_reproduction():
    claimed = claim_for(PRINTED).values["All", "PQ"]
    found = judge(run_of(PRINTED, claimed, arguments={"corruption": "fog:1", "definitions": "corruptions=0"}), PRINTED)
    assert "It was made by definitions of panbench that changed since: corruptions=0." in found.departures


def test_settings_without_influence_are_not_departures():
    arguments = {"tta": "scales=1", "exif": "apply", "device": "cuda", "metrics": "pq,ap", "batch_size": 8, "seed": 0}
    found = judge(run_of(MEASURED, 51.865, arguments=arguments, precision="ieee"), MEASURED)
    assert found.departures == ()
    assert found.reproduced


def test_other_weights_of_a_shipped_model_are_recognized_by_hash():
    tiny = find_model("maskformer-tiny")
    other = ModelRecord(name=tiny.name, weights_sha256="ab" * 32)
    images = claim_for(tiny).images
    data = DatasetRecord(name="shapes", split="val", n_images=images)
    claimed = claim_for(tiny).values["All", "PQ"]
    (departure,) = judge(run_of(tiny, claimed, scored=images, model=other, dataset=data), tiny).departures
    assert "begins with abababab" in departure
    own = dataclasses.replace(other, weights_sha256=sha256_of(tiny.weights))
    assert judge(run_of(tiny, claimed, scored=images, model=own, dataset=data), tiny).reproduced


@pytest.mark.parametrize(
    ("pq", "within", "words"),
    [
        (51.915, "Reproduced", "51.91, claimed 51.865, +0.05 points"),
        (51.9151, "Not reproduced", "51.9151, claimed 51.865, +0.0501 points (0.05 allowed)"),
        (51.8149, "Not reproduced", "51.8149, claimed 51.865, -0.0501 points (0.05 allowed)"),
        (51.9149, "Reproduced", "51.91, claimed 51.865, +0.05 points (0.05 allowed)"),
    ],
)
def test_a_difference_has_enough_digits_to_explain_the_verdict(pq, within, words):
    found = judge(run_of(MEASURED, pq), MEASURED)
    assert found.message.startswith(f"{within}: ")
    assert words in found.message
    shown = abs(float(found.grid().rows[0][4]))
    assert (shown <= 0.05) is found.reproduced


def test_runs_record_whether_the_rule_is_the_models_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran("eval", "--model", "maskformer-tiny", "--rule", "paper,argmax", "--limit", "2", "--out", "runs")
    by_rule = {run.info.rule.name: run.info.rule.default for run in list_runs(tmp_path / "runs")}
    assert by_rule == {"maskformer": True, "argmax": False}


def test_the_command_lists_departures_even_if_numbers_agree(tmp_path, monkeypatch):
    found = judge(run_of(PRINTED, claim_for(PRINTED).values["All", "PQ"], precision="bf16"), PRINTED)
    monkeypatch.setattr("panbench.runs.load_run", lambda folder: folder)
    monkeypatch.setattr("panbench.studies.reproduction.answer.judge", lambda run, spec: found)
    told = panbench("reproduce", PRINTED.name, "--run", tmp_path)
    assert told.exit_code == 3
    assert "What differs from the claimed evaluation:\n1. The precision was bf16" in told.stdout
    assert "suspect" not in told.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scored": 50}, "has 50 of 5,000 images scored, and a subset proves nothing"),
        (
            {"scored": 10, "images": ImagesRecord(expected=5000, skipped=1)},
            "has 10 of 5,000 images scored and 1 skipped, and a subset proves nothing",
        ),
        ({"status": "interrupted"}, "a subset proves nothing"),
        ({"dataset": DatasetRecord(name="shapes", split="val")}, "is on shapes val; what is claimed"),
        ({"model": ModelRecord(name="maskformer-r50")}, "is not a run of mask2former-r50"),
    ],
)
def test_there_is_no_verdict_on_other_runs(changes, message):
    with pytest.raises(BadRun, match=re.escape(message)):
        judge(run_of(MEASURED, 51.865, **changes), MEASURED)


def test_a_model_without_a_number_has_nothing_to_reproduce():
    silent = [spec for spec in load_catalog().values() if spec.published is None and not spec.name.endswith("-tiny")]
    for spec in silent[:1]:
        assert "has no published PQ" in refusal(BadModel, claim_for, spec)
    refused("reproduce", "mask2former-r5")


def test_the_claims_of_tiny_models_are_those_of_their_cards():
    rows = list(csv.DictReader((ROOT / "panbench" / "measured.csv").read_text("utf-8").splitlines()))
    for name in ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny", "oneformer-tiny", "eomt-tiny"):
        card = (ROOT / "configs" / "weights" / f"{name}.md").read_text("utf-8")
        printed = re.findall(r"^\| (All|Things|Stuff) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", card, re.MULTILINE)
        claimed = [(row["group"], row["PQ"], row["SQ"], row["RQ"]) for row in rows if row["name"] == name]
        assert claimed == printed


@pytest.mark.slow
def test_the_command_reproduces_a_tiny_model_and_judges_the_stored_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = ran("reproduce", "mask2former-tiny")
    assert "Reproduced: Mask2Former tiny" in made.stdout
    stored = tmp_path / "results" / "published" / "mask2former-tiny"
    again = panbench("reproduce", "mask2former-tiny", "--run", stored, "--json")
    assert json.loads(again.stdout[again.stdout.index("{") :])["reproduced"] is True
    assert "is not a run of maskformer-tiny" in refused("reproduce", "maskformer-tiny", "--run", stored)


@pytest.mark.slow
def test_generated_data_of_cocos_shape_are_suspected_first(tmp_path, monkeypatch):
    """A model for COCO's 133 categories, with a claim on val2017, on the dozen images of a small copy of COCO."""
    from safetensors.torch import save_file

    from panbench.datasets.fetch import panoptic_categories
    from panbench.models.mmdet.config import build_model, load_config
    from scripts.make.coco_mimic import build_mimic

    for name, content in build_mimic(n_val=3, n_train=1, n_test=1, size=(64, 96)).expected.items():
        file = tmp_path / "coco" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    names = tuple(c["name"] for c in sorted(panoptic_categories(), key=lambda c: not c["isthing"]))
    claim = {"PQ": 0.519, "dataset": "coco", "split": "val2017", "source": "a test"}
    text = (ROOT / "configs" / "mask2former-tiny.py").read_text("utf-8")
    for old, new in {
        "./_shapes.py": f"{ROOT}/configs/_shapes.py",
        '"Mask2Former tiny"': '"Mask2Former for COCO"',
        '"weights/mask2former-tiny.safetensors"': repr(str(tmp_path / "coco-tiny.safetensors")),
        '"trained_on": "shapes"': '"trained_on": "coco"',
        '"published": None': f'"published": {claim!r}',
        "num_things_classes = 5": "num_things_classes = 80",
        "num_stuff_classes = 4": "num_stuff_classes = 53",
        "{{_base_.shapes_metainfo}}": f"dict(classes={names!r})",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    config = tmp_path / "configs" / "coco-tiny.py"
    config.parent.mkdir()
    config.write_text(text, "utf-8")
    weights = build_model(load_config(config)).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "coco-tiny.safetensors")
    monkeypatch.setenv("PANBENCH_CONFIGS", str(config.parent))
    monkeypatch.chdir(tmp_path)
    told = panbench("reproduce", "coco-tiny", "--data", tmp_path / "coco")
    assert told.exit_code == 3, told.output
    assert "Not reproduced on 3 images that are not the claim's: Mask2Former for COCO" in told.stdout
    assert "1. The data are others" in told.stdout
    assert "lists 3 images, and the claim is of 5,000" in told.stdout
    ran("reproduce", "--page", "results/published/README.md")
    text = (tmp_path / "results" / "published" / "README.md").read_text("utf-8")
    assert "| Mask2Former for COCO | coco val2017 | not reproduced |" in " ".join(text.split())


def test_the_page_has_a_verdict_or_a_reason_for_each_run(tmp_path):
    assert "holds no run" in refused("reproduce", "--page", tmp_path / "README.md")
    reference = ROOT / "tests" / "reference" / "pq_edges"
    score_folder(reference / "gt.json", reference / "pred.json", out=tmp_path / "mine")
    ran("reproduce", "--page", tmp_path / "README.md")
    assert "mine is not a run of a model in the catalogue" in (tmp_path / "README.md").read_text("utf-8")
    refused("reproduce", "mask2former-tiny", "--page", tmp_path / "README.md")
    assert panbench("reproduce").exit_code == 2


def test_files_too_large_for_version_control_are_named(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.parquet").write_bytes(b"0" * 2_000_001)
    (tmp_path / "predictions").mkdir()
    first, second = files_not_to_commit(tmp_path)
    assert "a.parquet has 2.0 MB" in first
    assert "predictions is not needed" in second
