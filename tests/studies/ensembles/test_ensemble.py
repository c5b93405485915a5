"""`panbench ensemble`: by masks where all runs kept them, by votes elsewhere, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support import evaluated, panbench, ran, refused

from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.panoptic.coco import read_id_png
from panbench.runs import candidate_files, load_run
from panbench.scoring.folder import score_folder

MODELS = ("mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ensemble")
    shapes.generate(root / "set", count=6, size=(96, 128))
    dataset = open_dataset(str(root / "set"))
    for name in MODELS:
        evaluated(find_model(name), dataset, root / name, keep_candidates=True, save_predictions=True)
    return root


@pytest.fixture(scope="module")
def few(home: Path) -> Path:
    dataset = open_dataset(str(home / "set"), limit=3)
    return evaluated(find_model("maskformer-tiny"), dataset, home / "few", keep_candidates=True).path


def ensemble(home: Path, out: Path, *options: object, runs: tuple[str, ...] = MODELS[:2], exit_code: int = 0) -> str:
    result = panbench("ensemble", *(home / run for run in runs), "--out", out, *options)
    assert result.exit_code == exit_code, result.output
    return result.stderr


def test_masks_are_averaged_if_all_runs_stored_candidates(home, tmp_path):
    said = ensemble(home, tmp_path / "both")
    assert "By masks" in said
    run = load_run(tmp_path / "both")
    assert run.info.model.title == "Ensemble of 2 runs (masks)"
    assert run.info.rule.name == "mask2former"
    assert len(list((run.path / "predictions").glob("*.png"))) == 6
    assert run.pq().equals(panbench_run(home, tmp_path / "again", "--way", "masks").pq())
    assert not run.pq().equals(panbench_run(home, tmp_path / "votes", "--way", "votes").pq())


def panbench_run(home: Path, out: Path, *options: object, runs: tuple[str, ...] = MODELS[:2]):
    ensemble(home, out, *options, runs=runs)
    return load_run(out)


def test_boxes_and_queries_are_combined_by_votes_with_the_reason(home, tmp_path):
    said = ensemble(home, tmp_path / "three", runs=MODELS)
    assert "By votes: panoptic-fpn-tiny gives boxes and mask2former-tiny masks of queries" in said
    assert load_run(tmp_path / "three").info.model.title == "Ensemble of 3 runs"


def test_scored_folders_are_combined_by_votes(home, tmp_path):
    run = load_run(home / "mask2former-tiny")
    dataset = run.info.dataset
    score_folder(
        dataset.gt, run.path / "predictions.json", dataset.gt_dir, run.path / "predictions", tmp_path / "scored"
    )
    out = tmp_path / "votes"
    ran("ensemble", tmp_path / "scored", home / "maskformer-tiny", home / "panoptic-fpn-tiny", "--out", out)
    assert load_run(out).summary()["All"]["PQ"] > 0.5
    assert "scored was not evaluated by panbench, so it has no candidates." in refused(
        "ensemble", tmp_path / "scored", home / "maskformer-tiny", "--way", "masks", "--out", out / "x"
    )


def test_all_weight_on_one_run_reproduces_the_run(home, tmp_path):
    own = load_run(home / "maskformer-tiny")
    for way in ("masks", "votes"):
        out = tmp_path / way
        rule = ("--rule", own.info.rule) if way == "masks" else ()
        run = panbench_run(home, out, "--way", way, "--shares", "0,1", *rule)
        assert run.summary()["All"]["PQ"] == pytest.approx(own.summary()["All"]["PQ"], abs=1e-12), way
        for path in (own.path / "predictions").glob("*.png"):
            one, other = read_id_png(path), read_id_png(out / "predictions" / path.name)
            pairs = {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
            assert len(pairs) == len(np.unique(one)), way


def test_tuned_weights_come_from_the_other_half(home, tmp_path):
    said = ensemble(home, tmp_path / "tuned", "--tune", "--halves", 3)
    assert said.count("3 images: weights of mask2former-tiny, maskformer-tiny chosen on the others") == 2
    arguments = load_run(tmp_path / "tuned").info.arguments
    for name in ("weights_1_things", "weights_2_stuff"):
        assert max(float(word) for word in arguments[name].split()) == 1


def test_an_ensemble_with_stored_averages_can_be_fused_again(home, tmp_path):
    run = panbench_run(home, tmp_path / "both", "--keep-candidates")
    ran("fuse", tmp_path / "both", "--rule", "paper", "--out", tmp_path / "again")
    assert load_run(tmp_path / "again").pq().equals(run.pq())


@pytest.mark.parametrize("way", ["masks", "votes"])
def test_an_interrupted_ensemble_is_resumed(home, tmp_path, way):
    whole = panbench_run(home, tmp_path / "whole", "--way", way)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for part in (tmp_path / "cut" / "parts").glob("*.parquet"):
        part.unlink()
    record = (tmp_path / "cut" / "run.json").read_text("utf-8")
    (tmp_path / "cut" / "run.json").write_text(record.replace('"status": "done"', '"status": "running"'), "utf-8")
    resumed = panbench_run(home, tmp_path / "cut", "--way", way, "--resume")
    assert resumed.pq().equals(whole.pq())
    assert "already complete" in ensemble(home, tmp_path / "cut", "--way", way, "--resume")
    assert "other settings" in ensemble(
        home, tmp_path / "cut", "--way", way, "--resume", "--shares", "1,0.5", exit_code=2
    )


@pytest.mark.parametrize(
    ("options", "runs", "message"),
    [
        (("--way", "boxes"), MODELS[:2], "--way is 'boxes' but is one of auto, masks, votes."),
        (("--way", "masks"), MODELS, "cannot be averaged. `panbench ensemble --way votes` takes finished maps"),
        (("--way", "votes", "--rule", "argmax"), MODELS[:2], "--rule is for --way masks"),
        (("--way", "masks", "--rule", "panoptic-fpn"), MODELS[:2], "takes boxes with masks and a semantic map"),
        (("--shares", "1"), MODELS[:2], "needs 2 weights"),
        (("--shares", "nan,1"), MODELS[:2], "none below 0"),
        (("--shares", "1,x"), MODELS[:2], "write one number a run"),
        (("--shares", "1,1", "--tune"), MODELS[:2], "either given or tuned"),
        (("--overwrite", "--resume"), MODELS[:2], "contradict"),
        ((), MODELS[:1], "at least two runs"),
        (("--way", "masks"), ("maskformer-tiny", "few"), "stored candidates of different images (6 and 3)"),
        ((), ("maskformer-tiny", "set"), "run"),
    ],
)
def test_unfit_runs_are_refused_in_one_sentence(home, few, tmp_path, options, runs, message):
    assert message in ensemble(home, tmp_path / "out", *options, runs=runs, exit_code=2)
    assert not (tmp_path / "out").exists()


def test_damaged_candidates_are_named(home, tmp_path):
    shutil.copytree(home / "mask2former-tiny", tmp_path / "mask2former-tiny")
    file = candidate_files(tmp_path / "mask2former-tiny")[0]
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is not what the run wrote" in refused(
        "ensemble", tmp_path / "mask2former-tiny", home / "maskformer-tiny", "--out", tmp_path / "out"
    )


def test_sweeps_and_oracles_fit_a_narrow_screen(home, tmp_path):
    """What a researcher reads of `fuse RUN`, and its files."""
    sweep = ("--sweep", "mask2former:score=0.2:0.8:0.3,overlap=0.5:0.8:0.3")
    result = ran("fuse", home / "mask2former-tiny", *sweep, "--out", "sweep", columns=80, cwd=tmp_path)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "published" in result.stdout
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["sweep.csv", "sweep.json", "sweep.png"]
    assert "holds a sweep already" in refused("fuse", home / "mask2former-tiny", *sweep, "--out", tmp_path / "sweep")
    shutil.copytree(home / "mask2former-tiny", tmp_path / "run")
    result = ran("fuse", "run", "--oracle", columns=80, cwd=tmp_path)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "because no mask fits" in " ".join(result.stdout.split())
    assert "The least that fusion costs" in panbench("errors", tmp_path / "run", columns=80).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rule", "panoptic-fpn"), "Rules that fit it: detr, maskformer"),
        (("--rule", "kmax"), "kmax takes all candidates, and mask2former-tiny stored those above 0.05"),
        (("--rule", "mask2former:score=0.01"), "from a score of 0.01 on"),
        (("--rule", "mask2former:scor=0.5"), "Did you mean score?"),
        (("--rule", ""), "--rule names no rule"),
        (("--sweep", "mask2former"), "has one point only"),
        (("--sweep", "mask2former:score=0.9:0.1:0.1"), "it goes up from the first to the last"),
        (("--sweep", "mask2former:score=a:b:c"), "write first:last:step"),
        (("--sweep", "mask2former:score=0.1:0.9:0.001,overlap=0.1:0.9:0.001"), "more than 10,000. Add --yes"),
        (("--sweep", "mask2former:score=0.01:0.9:0.1"), "from a score of 0.01 on"),
        (("--sweep", "panoptic-fpn:score=0.1:0.9:0.1"), "Rules that fit it"),
        (("--oracle",), "Leave out --out"),
        ((), "Give one of --rule, --sweep and --oracle"),
        (("--rule", "argmax", "--overwrite", "--resume"), "contradict"),
    ],
)
def test_impossible_fusions_are_refused_in_one_sentence(home, tmp_path, options, message):
    assert message in refused("fuse", home / "mask2former-tiny", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
