"""`panbench runs` and `panbench runs verify`: what is stored, whether it is what was written, and what is deleted."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import panbench, ran, refused

from panbench.base.errors import BadRun
from panbench.panoptic.coco import read_id_png, write_id_png, write_panoptic_json
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.report.answers.tables import comparison_rows
from panbench.runs import (
    DatasetRecord,
    DeviceRecord,
    FileHashes,
    ModelRecord,
    RuleRecord,
    RunInfo,
    RunWriter,
    load_run,
)
from panbench.scoring.folder import score_folder

BALL = Category(1, "ball", isthing=True)


def panoptic_set(folder: Path, name: str, images: int = 3) -> Path:
    """Images of one ball each; the JSON's path."""
    ids = np.array([[1, 1, 0, 0]], np.int32)
    infos, annotations = {}, {}
    for image_id in range(1, images + 1):
        write_id_png(folder / name / f"{image_id}.png", ids)
        infos[image_id] = ImageInfo(image_id, f"{image_id}.jpg", 1, 4)
        annotations[image_id] = Annotation(image_id, f"{image_id}.png", (Segment(1, BALL.id, 2),))
    path = folder / f"{name}.json"
    write_panoptic_json(path, PanopticSet((BALL,), infos, annotations, folder / name, path))
    return path


def scored(folder: Path, name: str = "a", images: int = 3) -> Path:
    gt, pred = panoptic_set(folder, "gt", images), panoptic_set(folder, "pred", images)
    score_folder(gt, pred, out=folder / "results" / name)
    return folder / "results" / name


def words(text: str) -> str:
    return " ".join(text.split())


def test_runs_are_listed_and_damaged_ones_named(tmp_path):
    run = scored(tmp_path)
    shutil.copytree(run, run.parent / "lost")
    (run.parent / "lost" / "parts" / "0000-000000.parquet").unlink()
    (run.parent / "torn").mkdir()
    (run.parent / "torn" / "run.json").write_text("{")
    result = ran("runs", run.parent)
    shown = words(result.stdout)
    assert "which held 3 images, is missing" in shown
    assert "torn/run.json is damaged" in shown
    found = {Path(one["path"]).name: one for one in json.loads(panbench("runs", run.parent, "--json").stdout)}
    assert (found["a"]["PQ"], found["a"]["images"], found["a"]["status"]) == (1.0, 3, "done")
    assert (found["lost"]["status"], found["torn"]["status"]) == ("incomplete", "damaged")


def test_a_list_of_runs_reads_their_records_and_only_looks_at_the_sizes_of_parts(tmp_path):
    run = scored(tmp_path)
    for name, change in {"same-size": lambda content: b"x" * len(content), "cut": lambda content: content[:-1]}.items():
        part = Path(shutil.copytree(run, run.parent / name)) / "parts" / "0000-000000.parquet"
        part.write_bytes(change(part.read_bytes()))
    found = {Path(one["path"]).name: one for one in json.loads(panbench("runs", run.parent, "--json").stdout)}
    assert {name: (one["status"], one["images"]) for name, one in found.items()} == {
        "a": ("done", 3),
        "same-size": ("done", 3),
        "cut": ("incomplete", 3),
    }
    assert "has another size" in found["cut"]["problem"]
    assert panbench("runs", "verify", run.parent / "same-size").exit_code == 1


def test_a_list_of_very_many_runs_is_a_plain_table(tmp_path, monkeypatch):
    monkeypatch.setattr("panbench.cli.runs._LAID_OUT", 0)
    assert re.search(r"^\| a +\| .*\| done +\| .*\| 100.00 \| +3 \|", ran("runs", scored(tmp_path).parent).stdout, re.M)


def test_a_comparison_of_a_folder_names_its_damaged_runs(tmp_path):
    run = scored(tmp_path)
    (run.parent / "torn").mkdir()
    (run.parent / "torn" / "run.json").write_text("{")
    result = ran("compare", run.parent)
    assert "torn/run.json is damaged" in words(result.stderr)


def folder_with_damage(folder: Path) -> Path:
    """Three runs: a whole one, one with a torn run.json, and one that lost it; and a folder that is no run."""
    whole = scored(folder)
    shutil.copytree(whole, whole.parent / "lost")
    (whole.parent / "lost" / "run.json").unlink()
    (whole.parent / "torn").mkdir()
    (whole.parent / "torn" / "run.json").write_text("{")
    (whole.parent / "notes").mkdir()
    return whole.parent


@pytest.mark.parametrize("command", [["compare"], ["metrics"], ["errors"], ["metrics", "--json"], ["errors", "--json"]])
def test_commands_on_a_folder_take_the_runs_in_it_and_name_the_damaged_ones(tmp_path, command):
    folder = folder_with_damage(tmp_path)
    result = ran(*command, folder)
    said = words(result.stderr)
    assert "torn/run.json is damaged" in said
    assert "lost is not a run: its run.json is lost" in said
    assert "notes" not in said
    if "--json" in command:
        assert [found["run"] for found in json.loads(result.stdout)] == ["a"]


def test_metrics_and_errors_of_several_runs_name_each_and_leave_out_what_holds_nothing(tmp_path):
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


def test_a_folder_of_damaged_runs_only_is_refused_with_what_is_wrong(tmp_path):
    folder = folder_with_damage(tmp_path)
    shutil.rmtree(folder / "a")
    said = refused("metrics", folder)
    assert "holds no run that can be read" in words(said)
    assert "torn/run.json is damaged" in words(said)


def test_a_folder_with_a_damaged_run_is_not_verified(tmp_path):
    result = panbench("runs", "verify", folder_with_damage(tmp_path))
    assert result.exit_code == 1
    assert result.stdout.startswith("a: verified")
    assert "torn/run.json is damaged" in words(result.stderr)


def test_a_command_for_one_run_says_which_runs_lie_in_a_folder(tmp_path):
    assert "it holds no run.json, but folders of runs: a" in words(refused("calibration", scored(tmp_path).parent))


def test_runs_further_down_in_a_folder_are_not_passed_over(tmp_path):
    one = scored(tmp_path, "demo/one")
    results = tmp_path / "results"
    assert f"{results} holds no run itself, but its folders do. Name them: {results / 'demo'}." in words(
        refused("compare", results)
    )
    shutil.copytree(one, results / "two")
    found = panbench("compare", results, "--format", "json")
    assert len(json.loads(found.stdout)) == 1
    assert f"Runs further down are left out; their folders are {results / 'demo'}." in words(found.stderr)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    one = scored(tmp_path, "one/run")
    two = tmp_path / "results" / "two" / "run"
    shutil.copytree(one, two)
    found = panbench("compare", one, two, "--format", "json")
    assert [row["run"] for row in json.loads(found.stdout)] == ["one/run", "two/run"]


def test_only_what_panbench_wrote_is_deleted(tmp_path):
    run = scored(tmp_path)
    (run / "notes.md").write_text("mine")
    refused = panbench("runs", "delete", run)
    assert (refused.exit_code, (run / "run.json").exists()) == (2, True)
    assert "--yes" in refused.stderr
    ran("runs", "delete", run, "--yes")
    assert [path.name for path in run.iterdir()] == ["notes.md"]
    assert panbench("runs", "delete", run, "--yes").exit_code == 2


@pytest.mark.parametrize("what", ["no run", "locked"])
def test_a_folder_that_is_no_run_or_is_being_written_is_not_deleted(tmp_path, what):
    run = scored(tmp_path)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("mine")
    writer = RunWriter.resume(run) if what == "locked" else None
    assert ("is being written by" if writer else "holds no run.json") in words(
        refused("runs", "delete", run if writer else other, "--yes")
    )
    assert (run / "run.json").exists()
    assert (other / "chapter.tex").exists()


def test_a_run_that_is_as_it_was_written_is_verified(tmp_path):
    result = ran("runs", "verify", scored(tmp_path))
    assert result.stdout.startswith("a: verified")
    assert "The files of 3 images are unchanged." in result.stdout


@pytest.mark.parametrize("harm", ["part", "summary", "ground truth"])
def test_a_run_that_differs_is_not_verified(tmp_path, harm):
    run = scored(tmp_path)
    if harm == "part":
        (run / "parts" / "0000-000000.parquet").unlink()
        sentence = "which held 3 images, is missing"
    elif harm == "summary":
        content = json.loads((run / "run.json").read_text())
        content["summary"]["All"]["PQ"] = 0.99
        (run / "run.json").write_text(json.dumps(content))
        sentence = "run.json says PQ 99.00, but the parts give 100.00."
    else:
        write_id_png(tmp_path / "gt" / "2.png", np.array([[1, 1, 1, 0]], np.int32))
        sentence = "1 files changed since they were read"
    result = panbench("runs", "verify", run, "--json")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert found["state"] == "damaged"
    assert any(sentence in problem for problem in found["problems"])


def test_runs_on_changed_ground_truth_are_not_compared(tmp_path):
    first = load_run(scored(tmp_path, "before"))
    write_id_png(tmp_path / "gt" / "2.png", np.array([[1, 1, 1, 0]], np.int32))
    score_folder(tmp_path / "gt.json", tmp_path / "pred.json", out=tmp_path / "results" / "after")
    second = load_run(tmp_path / "results" / "after")
    assert first.info.dataset.fingerprint == second.info.dataset.fingerprint
    with pytest.raises(BadRun, match=r"before and after read different id PNGs of 1 images \(2\)"):
        comparison_rows([first, second])
    assert len(comparison_rows([first, second], mixed=True)) == 2


def test_a_folder_of_runs_that_cannot_be_compared_is_sorted(tmp_path):
    for name, images in (("a", 3), ("b", 3), ("c", 2)):
        scored(tmp_path / name, name, images)
        shutil.move(tmp_path / name / "results" / name, tmp_path / name / "run")
        shutil.copytree(tmp_path / name / "run", tmp_path / "all" / name)
    assert "a and b have 3 images of gt; c has 2 images of gt. Name runs that belong together" in words(
        refused("compare", tmp_path / "all")
    )


def test_a_comparison_says_in_which_rules_and_precisions_runs_differ(tmp_path):
    run = load_run(scored(tmp_path))

    def made(name: str, rule: RuleRecord, precision: str):
        run.info = dataclasses.replace(run.info, name=name, rule=rule, precision=precision)
        return load_run(run.path) if rule is None else type(run)(run.info, run.path)

    gentle = made("gentle", RuleRecord("mask2former", {"score": 0.5}), "fp32")
    strict = made("strict", RuleRecord("mask2former", {"score": 0.8}), "bf16")
    other = made("other", RuleRecord("maskformer", {"score": 0.8}), "bf16")
    notes = [row.notes for row in comparison_rows([gentle, strict, other])]
    assert notes == [
        ("fused by the rule mask2former:score=0.5", "in fp32"),
        ("fused by the rule mask2former:score=0.8", "in bf16"),
        ("fused by the rule maskformer", "in bf16"),
    ]
    assert [row.notes for row in comparison_rows([gentle, gentle])] == [(), ()]
    # Each model's own rule is what everybody expects, and needs no word.
    own = made("own", RuleRecord("maskformer", {"score": 0.8}, default=True), "fp32")
    assert [row.notes for row in comparison_rows([own, gentle])] == [(), ("fused by the rule mask2former",)]


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
    gt = panoptic_set(tmp_path, "gt")
    (tmp_path / "photos").mkdir()
    write_id_png(tmp_path / "photos" / "1.jpg", np.zeros((1, 4), np.int32))
    info = RunInfo(
        model=ModelRecord(name="theirs", family="mask2former", config=str(trap), weights=str(gt)),
        dataset=DatasetRecord(gt=str(gt), gt_dir=str(tmp_path / "gt"), images=str(tmp_path / "photos")),
        categories=(BALL,),
    )
    RunWriter.create(tmp_path / "run", info).finish("done")
    assert "which panbench runs only when you name it: add --model FILE.py" in words(
        refused("show", "attention", "--run", tmp_path / "run", "--image", "1", "--out", tmp_path / "a.png")
    )
    assert not (tmp_path / "ran").exists()


def shifted(path: Path) -> None:
    """Moves the map in a PNG by one column, as valid a prediction as before."""
    write_id_png(path, np.roll(read_id_png(path), 1, axis=1))


class TestPredictions:
    @pytest.fixture
    def runs(self, tmp_path) -> tuple[Path, Path]:
        """Two runs that scored predictions of their own, and after them their vote with the maps that it keeps."""
        gt = panoptic_set(tmp_path, "gt")
        members = []
        for name in ("one", "two"):
            score_folder(gt, panoptic_set(tmp_path, f"pred-{name}"), out=tmp_path / "results" / name)
            members.append(tmp_path / "results" / name)
        assert panbench("ensemble", *members, "--way", "votes", "--out", tmp_path / "results" / "vote").exit_code == 0
        return members[0], tmp_path / "results" / "vote"

    def predictions_of(self, run: Path) -> Path:
        return run / "predictions" if run.name == "vote" else run.parents[1] / f"pred-{run.name}"

    @pytest.mark.parametrize("which", [0, 1], ids=["scored", "kept"])
    def test_shifted_predictions_are_not_verified(self, runs, which):
        run = runs[which]
        assert "3 predictions are unchanged." in panbench("runs", "verify", run).stdout
        shifted(self.predictions_of(run) / "2.png")
        result = panbench("runs", "verify", run, "--json")
        assert result.exit_code == 1
        (found,) = json.loads(result.stdout)
        assert found["state"] == "damaged"
        assert any("1 predictions changed since the run was made" in problem for problem in found["problems"])

    @pytest.mark.parametrize("which", [0, 1], ids=["scored", "kept"])
    def test_a_changed_predictions_json_is_not_verified(self, runs, which):
        folder = self.predictions_of(runs[which])
        path = folder.with_suffix(".json")
        path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 1 '))
        result = panbench("runs", "verify", runs[which])
        assert result.exit_code == 1
        assert f"{path}" in result.stdout

    @pytest.mark.parametrize("which", [0, 1], ids=["scored", "kept"])
    @pytest.mark.parametrize("command", ["ensemble", "relabel", "export", "overlay"])
    def test_who_reads_shifted_predictions_refuses_them(self, runs, which, command, tmp_path):
        run = runs[which]
        line = {
            "ensemble": ("ensemble", run, run.parent / "two", "--way", "votes", "--out", tmp_path / "again"),
            "relabel": ("relabel", tmp_path / "gt.json", tmp_path / "gt.json", "--runs", run),
            "export": ("export", "coco-results", run, "--out", tmp_path / "out"),
            "overlay": ("show", "overlay", run, "--image", "2", "--images", tmp_path, "--out", tmp_path / "a.png"),
        }[command]
        for image_id in (1, 2, 3):
            write_id_png(tmp_path / f"{image_id}.jpg", np.zeros((1, 4), np.int32))
        ran(*line)
        shifted(self.predictions_of(run) / "2.png")
        assert "2.png (image 2) changed since its run was made" in words(
            refused(*line, *(["--overwrite"] if command in ("ensemble", "export") else []))
        )

    def test_missing_predictions_are_named_and_removed_ones_are_no_damage(self, runs):
        vote = runs[1]
        (vote / "predictions" / "2.png").unlink()
        result = panbench("runs", "verify", vote)
        assert (result.exit_code, "1 predictions are missing" in result.stdout) == (1, True)
        shutil.rmtree(vote / "predictions")
        (vote / "predictions.json").unlink()
        result = panbench("runs", "verify", vote)
        assert (result.exit_code, "The predictions no longer exist." in result.stdout) == (0, True)

    def test_of_a_run_that_recorded_nothing_nothing_is_called_damaged(self, tmp_path, monkeypatch):
        of = FileHashes.of
        monkeypatch.setattr(FileHashes, "of", staticmethod(lambda rows, *_, **__: of(rows)))
        run = scored(tmp_path)
        shifted(tmp_path / "pred" / "2.png")
        result = ran("runs", "verify", run)
        assert f"No hashes were recorded for the id PNGs in {tmp_path / 'pred'}." in words(result.stdout)


@pytest.mark.parametrize("command", ["metrics", "errors", "export", "report", "calibration"])
def test_of_a_run_whose_every_part_is_lost_the_refusal_names_them(tmp_path, command):
    run = scored(tmp_path, "lost")
    part = run / "parts" / "0000-000000.parquet"
    part.unlink()
    arguments = {
        "export": ("export", "parquet", run, "--out", tmp_path / "out"),
        "report": ("report", run, "-o", tmp_path / "page.html"),
    }
    assert f"{part}, which held 3 images, is missing." in words(refused(*arguments.get(command, (command, run))))
