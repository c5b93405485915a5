"""One forward pass, several fusion rules: a run for each, as if each had been evaluated alone."""

import json
from pathlib import Path

import pytest
from support import Stop, panbench, ran, refused

from panbench.catalog import find_model
from panbench.cli.command import rule_names
from panbench.evaluation.evaluate import evaluate, evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.several import run_folders
from panbench.evaluation.wrapping import rules_of
from panbench.models.model import Model
from panbench.models.opening import open_model
from panbench.models.rules import PAPER, RULES
from panbench.report.answers.tables import ComparisonRow, labels
from panbench.runs import load_run

TINY = find_model("mask2former-tiny")
NAMES = ["paper", "argmax", "mask2former:score=0.5"]


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(TINY, device="cpu")


class CountedPasses:
    """A model that counts its forward passes."""

    def __init__(self, model: Model) -> None:
        self._model, self.images = model, 0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def candidates(self, batch):
        self.images += len(batch)
        return self._model.candidates(batch)


def test_one_pass_gives_each_rule_the_run_that_it_would_have_alone(model, dataset, tmp_path):
    counted = CountedPasses(model)
    chosen = rules_of(model, NAMES)
    folders = {rule: tmp_path / f"{index}" for index, rule in enumerate(chosen)}
    runs = evaluate_rules(counted, dataset, folders, EvaluateOptions(save_predictions=True))
    assert counted.images == 4, "each image goes through the model once"
    assert [str(run.info.rule) for run in runs] != [str(runs[0].info.rule)] * 3
    for rule, run in zip(chosen, runs, strict=True):
        alone = evaluate_rules(model, dataset, {rule: tmp_path / "alone" / rule.name / str(folders[rule].name)})[0]
        assert run.overlaps().equals(alone.overlaps())
        assert run.segments().equals(alone.segments())
        assert run.info.summary == alone.info.summary
        assert len(list((run.path / "predictions").iterdir())) == 4
    assert runs[0].summary() == evaluate(model, dataset, tmp_path / "plain").summary()
    assert runs[0].summary() != runs[1].summary(), "the rules differ"
    assert runs[0].info.images_per_second is None, "a shared pass is nobody's speed"


def test_an_interrupted_pass_resumes_for_all_rules(model, dataset, tmp_path):
    folders = {rule: tmp_path / f"{index}" for index, rule in enumerate(rules_of(model, NAMES))}
    with pytest.raises(KeyboardInterrupt):
        evaluate_rules(model, dataset, folders, EvaluateOptions(), Stop(0, KeyboardInterrupt()))
    assert {load_run(folder).info.status for folder in folders.values()} == {"interrupted"}
    resumed = evaluate_rules(model, dataset, folders, EvaluateOptions(resume=True))
    assert [(run.info.status, len(run.image_ids())) for run in resumed] == [("done", 4)] * 3
    whole = evaluate_rules(model, dataset, {rule: tmp_path / f"whole {i}" for i, rule in enumerate(folders)})
    assert [run.summary() for run in resumed] == [run.summary() for run in whole]


def test_a_rule_that_does_not_fit_the_model_is_refused_before_anything_is_written(scenes, tmp_path):
    said = refused("eval", "--model", TINY.name, "--data", scenes, "--rule", "panoptic-fpn", "--out", tmp_path / "run")
    assert "The rule panoptic-fpn takes boxes" in said
    assert "Rules that fit it: detr, maskformer, mask2former" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("mask2fromer", "Did you mean mask2former?"),
        ("mask2former:scor=1", "Did you mean score?"),
        (",", "--rule names no rule"),
        ("paper,mask2former", "are the same rule of Mask2Former tiny"),
    ],
)
def test_bad_rules_are_refused_in_one_sentence(scenes, tmp_path, rule, words):
    out = tmp_path / "run"
    assert words in refused(
        "eval", "--model", TINY.name, "--data", scenes, "--limit", "1", "--rule", rule, "--out", out
    )
    assert not out.exists()


def test_the_command_writes_a_distinguishable_run_for_each_rule(scenes, tmp_path):
    result = ran("eval", "--model", TINY.name, "--data", scenes, "--rule", ",".join(NAMES), cwd=tmp_path)
    folders = [f"scenes-{TINY.name}-{rule}" for rule in ("paper", "argmax", "mask2former-score-0.5")]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(folders)
    assert "| Mask2Former tiny [argmax] |" in result.stdout
    shown = panbench("compare", "results", cwd=tmp_path)
    assert "Mask2Former tiny [argmax]" in shown.stdout
    assert "Mask2Former tiny [mask2former:score=0.5]" in shown.stdout
    rows = json.loads(panbench("compare", "results", "--format", "json", cwd=tmp_path).stdout)
    assert len({row["rule"] for row in rows}) == 3


def test_rows_of_one_model_are_labelled_by_the_difference_of_their_rules():
    rows = [
        ComparisonRow(run=name, title="M", rule=rule)
        for name, rule in (("a", "x:score=0.5,overlap=0.8"), ("b", "x:score=0.7,overlap=0.8"), ("c", "y:k=1"))
    ]
    assert labels(rows) == ["M [x:score=0.5]", "M [x:score=0.7]", "M [y]"]
    assert labels(rows[:1]) == ["M"]
    same = [ComparisonRow(run=name, title="M", rule="y") for name in ("a", "b")]
    assert labels(same) == ["a", "b"]


def test_run_folders_are_named_after_their_rules():
    assert run_folders([TINY], "coco", None, rules=["argmax"]) == [Path(f"results/coco-{TINY.name}-argmax")]
    assert run_folders([TINY], "coco", Path("x"), rules=["argmax"]) == [Path("x")]
    assert run_folders([TINY], "coco", Path("x"), rules=["argmax", "mask2former:score=0.7,overlap=0.5"]) == [
        Path("x") / f"{TINY.name}-argmax",
        Path("x") / f"{TINY.name}-mask2former-score-0.7-overlap-0.5",
    ]


def test_an_empty_list_of_rules_means_all_rules():
    assert set(rule_names("")) == {PAPER, *RULES} - {"given"}
