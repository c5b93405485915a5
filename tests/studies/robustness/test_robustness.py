"""What corruptions cost: mPC and rPC by their published definition, paired intervals, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import drawn, edited, panbench, ran, refusal, refused

from panbench.base.errors import BadRun
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.metrics.jackknife import Jackknife
from panbench.models.opening import open_model
from panbench.report.answers.findings import metric_findings
from panbench.runs import load_run
from panbench.studies.robustness.answer import (
    Robustness,
    robustness,
    robustness_curves,
    robustness_grids,
    robustness_record,
)
from panbench.studies.robustness.corrupted_runs import evaluate_corrupted
from panbench.studies.robustness.corruptions import CORRUPTIONS, Corruption, parse_corruptions
from panbench.studies.robustness.definitions import VERSION, corrupted_runs

SETTINGS = "fog:2,gaussian_noise:1,gaussian_noise:5,saturate:5"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory, 10)


@pytest.fixture(scope="module")
def clean(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = ran("eval", "--model", "mask2former-tiny", "--data", scenes, "--out", out, "--corrupt", SETTINGS)
    assert f"panbench robustness {out}" in done.output
    return out


def made(values: dict[Corruption, float], clean: float = 0.8) -> Robustness:
    """A model whose PQ is the same without any image."""
    return Robustness("run", "Model", 50, steady(clean), {one: steady(pq) for one, pq in values.items()}, ())


def steady(pq: float) -> Jackknife:
    return Jackknife(np.full((3, 1), pq), np.full((3, 1, 50), pq), np.zeros((3, 1, 1)), np.zeros((3, 1)))


def test_mpc_is_the_mean_over_corruptions_of_the_mean_over_severities():
    # Michaelis et al. 2019: noise at two severities must not count twice as much as fog at one.
    one = made({Corruption("gaussian_noise", 1): 0.6, Corruption("gaussian_noise", 5): 0.2, Corruption("fog", 2): 0.5})
    assert one.mPC.value[0, 0] == pytest.approx((0.4 + 0.5) / 2)
    assert one.rPC.value[0, 0] == pytest.approx(0.45 / 0.8)
    assert not one.is_complete
    assert one.corruptions_in_words == "2 of 15 corruptions at some severities"


def test_clean_pq_has_its_usual_interval(clean):
    found = robustness_record(robustness([load_run(clean)]))["runs"][0]["clean"]
    everywhere = metric_findings(load_run(clean)).record["intervals"][0]
    assert everywhere["metric"] == "PQ"
    assert (found["low"], found["high"]) == pytest.approx((everywhere["low"], everywhere["high"]), abs=1e-9)


def test_extra_kinds_of_corruption_are_listed_and_not_averaged():
    one = made({Corruption("fog", 2): 0.5, Corruption("saturate", 2): 0.1})
    assert one.mPC.value[0, 0] == pytest.approx(0.5)
    assert one.kinds == ["fog", "saturate"]
    assert made({Corruption("saturate", 2): 0.1}).mPC is None


def test_mpc_is_complete_only_with_all_fifteen_kinds_and_severities():
    whole = made(dict.fromkeys(parse_corruptions("all"), 0.5))
    assert whole.is_complete
    assert whole.corruptions_in_words == "15 corruptions at 5 severities"
    assert not made(dict.fromkeys(parse_corruptions("all:3"), 0.5)).is_complete
    assert (
        made(dict.fromkeys(parse_corruptions("all:3"), 0.5)).corruptions_in_words
        == "15 of 15 corruptions at severity 3"
    )


def test_an_mpc_with_a_deviating_corruption_never_claims_the_published_definition():
    whole = made(dict.fromkeys(parse_corruptions("all15"), 0.5))
    assert whole.is_complete
    assert not whole.is_comparable
    assert list(whole.deviations) == ["frost"]
    record = robustness_record([whole])
    assert record["mPC_is_published_definition"] is False
    assert "not ours to ship" in record["deviations"]["frost"]
    notes = " ".join(robustness_grids([whole])[0].notes)
    assert "its mPC does not compare with published ones" in notes
    without = made({one: 0.5 for one in parse_corruptions("all15") if one.name != "frost"})
    assert without.deviations == {}
    assert not without.is_complete


def older(folder: Path, copy: Path) -> Path:
    """A copy of a clean run whose corrupted ones were made by an older version of the definitions."""
    shutil.copytree(folder, copy)
    shutil.copytree(corrupted_runs(folder), corrupted_runs(copy))
    for path in corrupted_runs(copy).glob("*/run.json"):
        with edited(path) as content:
            assert content["arguments"]["definitions"] == f"corruptions={VERSION}"
            content["arguments"]["definitions"] = "corruptions=0"
    return copy


def test_runs_of_older_definitions_are_reported_and_never_mixed_with_newer_ones(clean, scenes, tmp_path):
    old = older(clean, tmp_path / "old")
    assert load_run(clean).info.arguments["definitions"] is None
    (alone,) = robustness([load_run(old)])
    assert alone.version == 0
    assert not alone.is_comparable
    assert "Corrupted by version 0 of panbench's definitions" in " ".join(robustness_grids([alone])[0].notes)
    with pytest.raises(BadRun, match="version 0 of the definitions and tiny by version 1"):
        robustness([load_run(old), load_run(clean)])
    # One corrupted run of today beside three of before.
    shutil.rmtree(corrupted_runs(old) / "fog-2")
    shutil.copytree(corrupted_runs(clean) / "fog-2", corrupted_runs(old) / "fog-2")
    with pytest.raises(BadRun, match="changed its definition of corruptions between the runs: version 0"):
        robustness([load_run(old)])


def test_runs_of_different_definitions_are_not_resumed_and_comparing_them_is_reported(clean, scenes, tmp_path):
    old = older(clean, tmp_path / "old")
    settings = ("--model", "mask2former-tiny", "--data", scenes, "--out", old, "--corrupt", "fog:2")
    assert "definitions was 'corruptions=0' and is now 'corruptions=1'" in " ".join(
        refused("eval", *settings, "--resume").split()
    )
    pair = corrupted_runs(old) / "fog-2", corrupted_runs(clean) / "fog-2"
    for command in (("compare", *pair), ("gate", pair[1], "--baseline", pair[0])):
        assert "panbench changed its definition of corruptions between the runs" in " ".join(refused(*command).split())
    shown = ran("compare", *pair, "--mixed", columns=160)
    assert "here corruptions=0" in shown.stdout
    assert "here corruptions=1" in shown.stdout
    # Clean runs have no part in it.
    assert panbench("compare", clean, old).exit_code == 0


def test_each_corruption_has_a_run_that_records_it(clean):
    folder = corrupted_runs(clean)
    assert sorted(path.name for path in folder.iterdir()) == [
        "fog-2",
        "gaussian_noise-1",
        "gaussian_noise-5",
        "saturate-5",
    ]
    fog = load_run(folder / "fog-2")
    assert fog.info.arguments["corruption"] == "fog:2"
    assert fog.info.model.title == "Mask2Former tiny, fog:2"
    assert fog.summary() != load_run(clean).summary()


def test_only_the_interrupted_corruption_is_resumed(clean, scenes, tmp_path):
    model, dataset = open_model(find_model("mask2former-tiny")), open_dataset(scenes)
    home = tmp_path / "run"
    evaluate(model, dataset, home, EvaluateOptions())
    chosen = parse_corruptions("fog:2,gaussian_noise:1")
    options = EvaluateOptions(resume=True, save_predictions=True)
    first, second = evaluate_corrupted(model, dataset, {model.rule: home}, chosen, options)
    assert not (first.path / "predictions").exists()
    before = (second.path / "run.json").read_bytes()
    (part,) = (first.path / "parts").glob("*.parquet")
    part.unlink()
    again = evaluate_corrupted(model, dataset, {model.rule: home}, chosen, options)
    assert len(again[0].images) == 10
    # The same noise for the same image: the numbers are those of the first time, and of another process.
    assert again[0].summary() == first.summary() == load_run(corrupted_runs(clean) / "fog-2").summary()
    assert (second.path / "run.json").read_bytes() == before


def test_the_command_prints_tables_json_and_a_plot(clean, tmp_path):
    shown = ran("robustness", clean, "--plot", tmp_path / "curve.png")
    for words in ("2 of 15 corruptions at some severities", "gaussian noise", "saturate (extra)"):
        assert words in shown.output
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(panbench("robustness", clean, "--json").stdout)
    (run,) = record["runs"]
    pq = {name: kind["severities"] for name, kind in run["corruptions"].items()}
    noise, fog = pq["gaussian_noise"], pq["fog"]
    assert run["mPC"]["mPC"] == pytest.approx(((noise["1"] + noise["5"]) / 2 + fog["2"]) / 2)
    assert run["rPC"]["rPC"] == pytest.approx(run["mPC"]["mPC"] / run["clean"]["PQ"])
    assert run["mPC"]["low"] <= run["mPC"]["mPC"] <= run["mPC"]["high"]
    assert record["mPC_is_published_definition"] is False
    stored = load_run(corrupted_runs(clean) / "fog-2").summary()["All"]["PQ"]
    assert fog["2"] == pytest.approx(stored)


def test_a_run_does_not_differ_from_itself_under_corruption(clean):
    found = robustness([load_run(clean), load_run(clean)])
    assert np.array_equal(found[0].mPC.left_out, found[1].mPC.left_out)
    differences = robustness_grids(found)[1]
    assert all(row[-1] == "" and row[3] in ("+0.0", "0.0") for row in differences.rows)
    curves = robustness_curves(found[:1])
    assert set(curves["group"]) == {"all", "noise", "weather", "extra"}


def test_runs_that_cannot_be_measured_are_refused(clean, scenes, tmp_path):
    model, dataset = open_model(find_model("mask2former-tiny")), open_dataset(scenes)
    alone = evaluate(model, dataset, tmp_path / "alone", EvaluateOptions())
    assert "--corrupt all --resume" in refusal(BadRun, robustness, [alone])
    assert "Name the clean run" in refusal(BadRun, robustness, [load_run(corrupted_runs(clean) / "fog-2")])
    options = EvaluateOptions(resume=True)
    evaluate_corrupted(model, dataset, {model.rule: alone.path}, [Corruption("fog", 2)], options)
    assert "corrupted in different ways" in refusal(BadRun, robustness, [alone, load_run(clean)])
    some = open_dataset(scenes, limit=4)
    evaluate_corrupted(model, some, {model.rule: alone.path}, [Corruption("snow", 1)], options)
    assert "holds 4 of the 10 images" in refusal(BadRun, robustness, [alone])


@pytest.mark.parametrize(
    ("words", "message"),
    [("fogg:2", "There is no corruption 'fogg'. Did you mean fog?"), ("fog:7", "severities from 1 to 5, not 7")],
)
def test_an_unknown_corruption_is_refused_in_one_sentence(words, message, tmp_path):
    assert message in refused("eval", "--model", "mask2former-tiny", "--corrupt", words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_word_all_means_every_kind_of_corruption():
    assert {one.name for one in parse_corruptions("all")} == set(CORRUPTIONS)
