"""`panbench runs` and `panbench runs verify`: what is stored, whether it is what was written, and what is deleted."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import little_runs
import numpy as np
import pytest
from little_runs import CATEGORIES, everything, row, write_side
from support import edited, panbench, ran, refused

from panbench.base.errors import BadRun
from panbench.panoptic.coco import read_id_png, write_id_png
from panbench.report.answers.tables import comparison_rows
from panbench.runs import DatasetRecord, DeviceRecord, FileHashes, ModelRecord, RuleRecord, RunInfo, RunWriter, load_run
from panbench.scoring.folder import score_folder

TRUTH = {1: "pp..", 2: "pp..", 3: "pp.."}


def scored(folder: Path, name: str = "a", images: int = 3) -> Path:
    """A run, in results, of as many images of a person each, all of them found."""
    drawn = dict(list(TRUTH.items())[:images])
    return little_runs.scored(folder, f"results/{name}", drawn, drawn).path


def changed(folder: Path) -> None:
    """The ground truth of an image has a pixel more than its JSON's area says."""
    write_id_png(folder / "gt" / "2.png", row("ppp."))


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """What `panbench runs` knows of the runs in a folder, by name."""
    return {Path(one["path"]).name: one for one in json.loads(panbench("runs", folder, "--json").stdout)}


def tear(run: Path) -> None:
    run.mkdir()
    (run / "run.json").write_text("{")


def words(text: str) -> str:
    return " ".join(text.split())


def test_runs_are_listed_and_damaged_ones_named(tmp_path):
    run = scored(tmp_path)
    shutil.copytree(run, run.parent / "lost")
    (run.parent / "lost" / "parts" / "0000-000000.parquet").unlink()
    tear(run.parent / "torn")
    result = ran("runs", run.parent)
    shown = words(result.stdout)
    assert "which held 3 images, is missing" in shown
    assert "torn/run.json is damaged" in shown
    found = listed(run.parent)
    assert (found["a"]["PQ"], found["a"]["images"], found["a"]["status"]) == (1.0, 3, "done")
    assert (found["lost"]["status"], found["torn"]["status"]) == ("incomplete", "damaged")


def test_a_list_of_runs_reads_only_records_and_sizes_of_parts(tmp_path):
    run = scored(tmp_path)
    for name, change in {"same-size": lambda content: b"x" * len(content), "cut": lambda content: content[:-1]}.items():
        part = Path(shutil.copytree(run, run.parent / name)) / "parts" / "0000-000000.parquet"
        part.write_bytes(change(part.read_bytes()))
    found = listed(run.parent)
    assert {name: (one["status"], one["images"]) for name, one in found.items()} == {
        "a": ("done", 3),
        "same-size": ("done", 3),
        "cut": ("incomplete", 3),
    }
    assert "has another size" in found["cut"]["problem"]
    assert panbench("runs", "verify", run.parent / "same-size").exit_code == 1


def test_a_list_of_very_many_runs_is_a_plain_table(tmp_path, monkeypatch):
    monkeypatch.setattr("panbench.cli.runs._MOST_LAID_OUT", 0)
    assert re.search(r"^\| a +\| .*\| done +\| .*\| 100.00 \| +3 \|", ran("runs", scored(tmp_path).parent).stdout, re.M)


@pytest.fixture
def damaged(tmp_path) -> Path:
    """A folder of a whole run, one with a torn run.json, and one that lost it; and a folder that is no run."""
    whole = scored(tmp_path)
    shutil.copytree(whole, whole.parent / "lost")
    (whole.parent / "lost" / "run.json").unlink()
    tear(whole.parent / "torn")
    (whole.parent / "notes").mkdir()
    return whole.parent


@pytest.mark.parametrize("command", ["compare", "metrics", "errors", "metrics --json", "errors --json"])
def test_commands_on_a_folder_use_its_runs_and_name_damaged_ones(damaged, command):
    result = ran(*command.split(), damaged)
    said = words(result.stderr)
    assert "torn/run.json is damaged" in said
    assert "lost is not a run: its run.json is lost" in said
    assert "notes" not in said
    if "--json" in command:
        assert [found["run"] for found in json.loads(result.stdout)] == ["a"]


def test_metrics_and_errors_of_several_runs_name_each_and_skip_empty_ones(tmp_path):
    one = scored(tmp_path)
    shutil.copytree(one, one.parent / "b")
    info = dataclasses.replace(load_run(one).info, name="empty")
    empty = RunWriter.create(one.parent / "empty", info, False).finish("failed")
    for command in ("metrics", "errors"):
        result = ran(command, one.parent)
        lines = [line.rstrip() for line in result.stdout.splitlines()]
        assert str(one) in lines
        assert str(one.parent / "b") in lines
        assert "empty holds no scored image" in words(result.stderr)
        assert len(json.loads(panbench(command, one, one.parent / "b", "--json").stdout)) == 2
        assert json.loads(panbench(command, one, "--json").stdout)["run"] == "a"
        refused = panbench(command, empty.path)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)


def test_a_folder_with_only_damaged_runs_is_refused_with_the_reasons(damaged):
    shutil.rmtree(damaged / "a")
    said = words(refused("metrics", damaged))
    assert "holds no run that can be read" in said
    assert "torn/run.json is damaged" in said


def test_a_folder_with_a_damaged_run_is_not_verified(damaged):
    result = panbench("runs", "verify", damaged)
    assert result.exit_code == 1
    assert result.stdout.startswith("a: verified")
    assert "torn/run.json is damaged" in words(result.stderr)


def test_a_command_for_one_run_lists_the_runs_of_a_folder(tmp_path):
    assert "it holds no run.json, but folders of runs: a" in words(refused("calibration", scored(tmp_path).parent))


def test_runs_in_nested_folders_are_found(tmp_path):
    one = scored(tmp_path, "demo/one")
    results = tmp_path / "results"
    assert f"{results} holds no run itself, but its folders do. Name them: {results / 'demo'}." in words(
        refused("compare", results)
    )
    shutil.copytree(one, results / "two")
    found = panbench("compare", results, "--format", "json")
    assert len(json.loads(found.stdout)) == 1
    assert f"Runs further down are left out; their folders are {results / 'demo'}." in words(found.stderr)


def test_runs_of_one_name_are_labelled_by_their_folders(tmp_path):
    one = scored(tmp_path, "one/run")
    two = shutil.copytree(one, tmp_path / "results" / "two" / "run")
    found = json.loads(panbench("compare", one, two, "--format", "json").stdout)
    assert [row["run"] for row in found] == ["one/run", "two/run"]


def test_only_what_panbench_wrote_is_deleted(tmp_path):
    run = scored(tmp_path)
    (run / "notes.md").write_text("mine")
    assert "--yes" in refused("runs", "delete", run)
    assert (run / "run.json").exists()
    ran("runs", "delete", run, "--yes")
    assert [path.name for path in run.iterdir()] == ["notes.md"]
    refused("runs", "delete", run, "--yes")


@pytest.mark.parametrize(("name", "message"), [("thesis", "holds no run.json"), ("results/a", "is being written by")])
def test_a_folder_without_a_run_or_being_written_is_not_deleted(tmp_path, name, message):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    writer = RunWriter.resume(scored(tmp_path))
    before = everything(tmp_path)
    assert message in words(refused("runs", "delete", tmp_path / name, "--yes"))
    assert everything(tmp_path) == before
    writer.finish("done")


def test_an_unchanged_run_is_verified(tmp_path):
    result = ran("runs", "verify", scored(tmp_path))
    assert result.stdout.startswith("a: verified")
    assert "The files of 3 images are unchanged." in result.stdout


def lose_a_part(run: Path) -> None:
    (run / "parts" / "0000-000000.parquet").unlink()


def embellish(run: Path) -> None:
    with edited(run / "run.json") as content:
        content["summary"]["All"]["PQ"] = 0.99


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lose_a_part, "which held 3 images, is missing"),
        (embellish, "run.json says PQ 99.00, but the parts give 100.00."),
        (lambda run: changed(run.parents[1]), "1 files changed since they were read"),
    ],
    ids=["part", "summary", "ground truth"],
)
def test_a_changed_run_is_not_verified(tmp_path, harm, message):
    run = scored(tmp_path)
    harm(run)
    assert_damaged(run, message)


def assert_damaged(run: Path, message: str) -> None:
    result = panbench("runs", "verify", run, "--json")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert found["state"] == "damaged"
    assert any(message in problem for problem in found["problems"])


def test_runs_on_changed_ground_truth_are_not_compared(tmp_path):
    first = load_run(scored(tmp_path, "before"))
    changed(tmp_path)
    second = score_folder(
        tmp_path / "gt.json", tmp_path / "results/before-pred.json", out=tmp_path / "results" / "after"
    )
    assert first.info.dataset.fingerprint == second.info.dataset.fingerprint
    with pytest.raises(BadRun, match=r"before and after read different id PNGs of 1 images \(2\)"):
        comparison_rows([first, second])
    assert len(comparison_rows([first, second], mixed=True)) == 2


def test_a_folder_of_incomparable_runs_is_listed_by_data(tmp_path):
    for name, images in (("a", 3), ("b", 3), ("c", 2)):
        scored(tmp_path / name, name, images)
        shutil.move(tmp_path / name / "results" / name, tmp_path / name / "run")
        shutil.copytree(tmp_path / name / "run", tmp_path / "all" / name)
    assert "a and b have 3 images of gt; c has 2 images of gt. Name runs that belong together" in words(
        refused("compare", tmp_path / "all")
    )


@pytest.fixture
def noted(tmp_path) -> Callable[..., list[tuple[str, ...]]]:
    """A function: the notes in a comparison of runs that differ from a scored one in these fields."""
    run = load_run(scored(tmp_path))

    def notes(*changes: dict[str, Any]) -> list[tuple[str, ...]]:
        made = [
            type(run)(dataclasses.replace(run.info, name=str(number), **change), run.path)
            for number, change in enumerate(changes)
        ]
        return [row.notes for row in comparison_rows(made)]

    return notes


def test_a_comparison_says_in_which_rules_and_precisions_runs_differ(noted):
    gentle = {"rule": RuleRecord("mask2former", {"score": 0.5}), "precision": "fp32"}
    strict = {"rule": RuleRecord("mask2former", {"score": 0.8}), "precision": "bf16"}
    other = {"rule": RuleRecord("maskformer", {"score": 0.8}), "precision": "bf16"}
    assert noted(gentle, strict, other) == [
        ("fused by the rule mask2former:score=0.5", "in fp32"),
        ("fused by the rule mask2former:score=0.8", "in bf16"),
        ("fused by the rule maskformer", "in bf16"),
    ]
    assert noted(gentle, gentle) == [(), ()]
    # Each model's own rule is what everybody expects, and needs no word.
    own = {"rule": RuleRecord("maskformer", {"score": 0.8}, default=True), "precision": "fp32"}
    assert noted(own, gentle) == [(), ("fused by the rule mask2former",)]


def test_fp32_and_ieee_differ_where_there_is_tf32_and_not_on_a_cpu(tmp_path):
    run = load_run(scored(tmp_path))

    def made(name: str, precision: str, device: str):
        record = dataclasses.replace(run.info, name=name, precision=precision, device=DeviceRecord(type=device))
        return type(run)(record, run.path)

    assert [row.notes for row in comparison_rows([made("a", "fp32", "cuda"), made("b", "ieee", "cuda")])] == [
        ("in fp32",),
        ("in ieee",),
    ]
    assert [row.notes for row in comparison_rows([made("a", "fp32", "cpu"), made("b", "ieee", "cpu")])] == [(), ()]


def test_the_config_that_a_run_names_is_never_run(tmp_path):
    """A run may come from anybody; what it names is not opened, let alone executed."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    gt = write_side(tmp_path, "gt", TRUTH)
    (tmp_path / "photos").mkdir()
    write_id_png(tmp_path / "photos" / "1.jpg", np.zeros((1, 4), np.int32))
    info = RunInfo(
        model=ModelRecord(name="theirs", family="mask2former", config=str(trap), weights=str(gt)),
        dataset=DatasetRecord(gt=str(gt), gt_dir=str(tmp_path / "gt"), images=str(tmp_path / "photos")),
        categories=CATEGORIES,
    )
    RunWriter.create(tmp_path / "run", info).finish("done")
    assert "which panbench runs only when you name it: add --model FILE.py" in words(
        refused("show", "attention", "--run", tmp_path / "run", "--image", "1", "--out", tmp_path / "a.png")
    )
    assert not (tmp_path / "ran").exists()


@pytest.fixture(params=["scored", "kept"])
def predicted(request, tmp_path) -> tuple[Path, Path]:
    """A run and its predictions: what it scored, or the maps of a vote, which keeps them itself."""
    members = [little_runs.scored(tmp_path, f"results/{name}", TRUTH, TRUTH).path for name in ("one", "two")]
    if request.param == "scored":
        return members[0], tmp_path / "results" / "one-pred"
    ran("ensemble", *members, "--way", "votes", "--out", tmp_path / "results" / "vote")
    return tmp_path / "results" / "vote", tmp_path / "results" / "vote" / "predictions"


def shift(predictions: Path) -> None:
    """Moves the map of an image by one column, as valid a prediction as before."""
    write_id_png(predictions / "2.png", np.roll(read_id_png(predictions / "2.png"), 1, axis=1))


def test_shifted_predictions_are_not_verified(predicted):
    run, predictions = predicted
    assert "3 predictions are unchanged." in ran("runs", "verify", run).stdout
    shift(predictions)
    assert_damaged(run, "1 predictions changed since the run was made")


def test_a_changed_predictions_json_is_not_verified(predicted):
    run, predictions = predicted
    path = predictions.with_suffix(".json")
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 1 '))
    result = panbench("runs", "verify", run)
    assert result.exit_code == 1
    assert f"{path}" in result.stdout


@pytest.mark.parametrize(
    "line",
    [
        "ensemble RUN HERE/results/two --way votes --out HERE/again --overwrite",
        "relabel HERE/gt.json HERE/gt.json --runs RUN",
        "export coco-results RUN --out HERE/out --overwrite",
        "show overlay RUN --image 2 --images HERE --out HERE/a.png",
    ],
    ids=lambda line: line.partition(" ")[0],
)
def test_shifted_predictions_are_refused_by_every_reader(predicted, line, tmp_path):
    run, predictions = predicted
    words_of_line = [word.replace("RUN", str(run)).replace("HERE", str(tmp_path)) for word in line.split()]
    for image_id in (1, 2, 3):
        write_id_png(tmp_path / f"{image_id}.jpg", np.zeros((1, 4), np.int32))
    ran(*words_of_line)
    shift(predictions)
    assert "2.png (image 2) changed since its run was made" in words(refused(*words_of_line))


@pytest.mark.parametrize("predicted", ["kept"], indirect=True)
def test_missing_predictions_are_named_and_removed_ones_are_not_damage(predicted):
    vote, predictions = predicted
    (predictions / "2.png").unlink()
    result = panbench("runs", "verify", vote)
    assert (result.exit_code, "1 predictions are missing" in result.stdout) == (1, True)
    shutil.rmtree(predictions)
    predictions.with_suffix(".json").unlink()
    assert "The predictions no longer exist." in ran("runs", "verify", vote).stdout


def test_a_run_without_recorded_hashes_is_not_called_damaged(tmp_path, monkeypatch):
    of = FileHashes.of
    monkeypatch.setattr(FileHashes, "of", staticmethod(lambda rows, *_, **__: of(rows)))
    run = scored(tmp_path)
    shift(tmp_path / "results" / "a-pred")
    result = ran("runs", "verify", run)
    assert f"No hashes were recorded for the id PNGs in {tmp_path / 'results' / 'a-pred'}." in words(result.stdout)


@pytest.mark.parametrize("command", ["metrics", "errors", "export", "report", "calibration"])
def test_a_run_without_any_readable_part_is_refused_and_its_parts_named(tmp_path, command):
    run = scored(tmp_path, "lost")
    part = run / "parts" / "0000-000000.parquet"
    part.unlink()
    arguments = {
        "export": ("export", "parquet", run, "--out", tmp_path / "out"),
        "report": ("report", run, "-o", tmp_path / "page.html"),
    }
    assert f"{part}, which held 3 images, is missing." in words(refused(*arguments.get(command, (command, run))))
