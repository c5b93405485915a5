"""Evaluations in shards: merged, they are the run of a single process, to the last bit."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import drawn_in_two_sizes, evaluated, ran, refused

from panbench.base.errors import BadArgument, BadRun
from panbench.base.shards import Shard, parse_shard
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset
from panbench.models.stored import StoredOutputs
from panbench.report.answers.findings import metric_findings
from panbench.runs import Run, load_run
from panbench.runs.merge import merge_runs
from panbench.studies.unfused.options import UnfusedOptions

REPO = Path(__file__).resolve().parents[2]
SPEC = find_model("mask2former-tiny")
MEASURED = (UnfusedOptions("pq,ap,miou"),)
IMAGES = 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen scenes of two sizes in turn, so that a batch of two skips over images."""
    return drawn_in_two_sizes(tmp_path_factory.mktemp("scenes"), [(7, (64, 96)), (6, (96, 64))], in_turn=True)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder)


def run(dataset: Dataset, out: Path, **options) -> Run:
    asked = {"batch_size": 2, "save_predictions": True, "keep_candidates": True, "studies": MEASURED, **options}
    return evaluated(SPEC, dataset, out, **asked)


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(dataset, tmp_path_factory.mktemp("whole") / "run")


def of_numbers(run: Run) -> dict:
    """All of run.json but the id, the command, names of files and times."""
    record = run.info.to_json()
    left_out = ("id", "name", "command", "started", "finished", "seconds", "memory", "parts", "unfused")
    return {key: value for key, value in record.items() if key not in left_out and "per_second" not in key}


def assert_same(one: Run, whole: Run) -> None:
    assert one.notices == ()
    assert one.table.to_arrow().equals(whole.table.to_arrow())
    assert one.summary() == whole.summary()
    assert {**metric_findings(one).record, "run": ""} == {**metric_findings(whole).record, "run": ""}
    assert of_numbers(one) == of_numbers(whole)
    assert one.files.to_bytes() == whole.files.to_bytes()
    names = sorted(path.name for path in (whole.path / "predictions").iterdir())
    assert sorted(path.name for path in (one.path / "predictions").iterdir()) == names
    for name in names:
        assert (one.path / "predictions" / name).read_bytes() == (whole.path / "predictions" / name).read_bytes()
    assert (one.path / "predictions.json").read_bytes() == (whole.path / "predictions.json").read_bytes()
    kept, expected = (StoredOutputs(each.path / "candidates") for each in (one, whole))
    assert sorted(kept.image_ids) == sorted(expected.image_ids)
    for image_id in kept.image_ids:
        mine, theirs = kept.read(image_id), expected.read(image_id)
        for name, value in vars(theirs).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(mine, name), value), (image_id, name)
    ran("runs", "verify", one.path)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_merged_shards_equal_the_run_of_one_process(count, dataset, whole, tmp_path):
    shards = [run(dataset, tmp_path / f"m.{n}", shard=Shard(n, count)) for n in range(1, count + 1)]
    held = [image for shard in shards for image in shard.image_ids()]
    assert sorted(held) == list(whole.image_ids())
    assert [shard.info.images.expected for shard in shards] == [len(shard.images) for shard in shards]
    assert {shard.info.images.whole for shard in shards} == {IMAGES}
    merged = merge_runs(sorted(tmp_path.glob("m.*"), reverse=True), tmp_path / "m")
    assert_same(merged, whole)
    assert_same(load_run(tmp_path / "m"), whole)
    assert merged.info.images_per_second is None
    if count == 9:  # more shards than batches
        assert [len(shard.images) for shard in shards][-1] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
from panbench.base.reporter import Silent
from panbench.base.shards import Shard
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation import sinks
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.opening import open_model
from panbench.studies.unfused import measuring
from panbench.studies.unfused.options import UnfusedOptions
sinks.CHUNK_IMAGES = 1
class Ending(Silent):
    def progress(self, task, done, total, unit="images"):
        if done >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
options = EvaluateOptions(batch_size=2, save_predictions=True, keep_candidates=True, shard=Shard(2, 2),
                          studies=(UnfusedOptions("pq,ap,miou"),))
model = open_model(find_model("mask2former-tiny"), device="cpu")
evaluate(model, open_dataset(sys.argv[1]), Path(sys.argv[2]), options, Ending())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_killed_shard_resumes_and_the_merged_run_is_complete(dataset, folder, whole, tmp_path):
    run(dataset, tmp_path / "m.1", shard=Shard(1, 2))
    line = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "m.2"), str(torch.get_num_threads())]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONWARNINGS": "ignore"}
    killed = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = load_run(tmp_path / "m.2")
    assert left.info.status == "running"
    assert 0 < len(left.images) < left.info.images.expected
    with pytest.raises(BadRun, match=r"m\.2 is not done \(running\)\. Finish it with --resume, or leave it out with"):
        merge_runs([tmp_path / "m.1", tmp_path / "m.2"], tmp_path / "m", allow_missing=True)
    resumed = run(dataset, tmp_path / "m.2", shard=Shard(2, 2), resume=True)
    assert len(resumed.images) == left.info.images.expected
    assert_same(merge_runs([tmp_path / "m.1", tmp_path / "m.2"], tmp_path / "m"), whole)


def test_a_missing_shard_is_named_and_can_be_evaluated_later(dataset, whole, tmp_path):
    for number in (1, 3):
        run(dataset, tmp_path / f"m.{number}", shard=Shard(number, 3))
    shards = [tmp_path / "m.1", tmp_path / "m.3"]
    with pytest.raises(BadRun, match=r"^1 shard was missing: 2/3\. .*--allow-missing\.$"):
        merge_runs(shards, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    partial = merge_runs(shards, tmp_path / "m", allow_missing=True)
    assert partial.info.status == "interrupted"
    assert partial.info.error == "Merged while 1 shard was missing: 2/3."
    images = partial.info.images
    assert (images.expected, images.missing) == (IMAGES, IMAGES - len(partial.images))
    assert_same(run(dataset, tmp_path / "m", resume=True), whole)


def test_a_resumed_shard_keeps_its_share_and_its_settings(dataset, tmp_path):
    done = run(dataset, tmp_path / "m.1", shard=Shard(1, 2))
    again = run(dataset, tmp_path / "m.1", shard=Shard(1, 2), resume=True)
    assert again.info.id == done.info.id
    with pytest.raises(BadRun, match="shard was '1/2' and is now '2/2'"):
        run(dataset, tmp_path / "m.1", shard=Shard(2, 2), resume=True)
    with pytest.raises(BadRun, match="shard was '1/2' and is now None"):
        run(dataset, tmp_path / "m.1", resume=True)
    with pytest.raises(BadArgument, match="could differ from shard to shard"):
        run(dataset, tmp_path / "m.2", shard=Shard(2, 2), batch_size="auto")


def test_shards_with_different_batch_sizes_or_counts_are_not_merged(dataset, tmp_path):
    plain = {"studies": (), "keep_candidates": False}
    run(dataset, tmp_path / "a", shard=Shard(1, 3), **plain)
    run(dataset, tmp_path / "b", shard=Shard(2, 3), **plain, batch_size=1)
    with pytest.raises(BadRun, match="batch_size was 2 and is 1"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    run(dataset, tmp_path / "c", shard=Shard(2, 8), **plain)
    with pytest.raises(BadRun, match=r"not the shards of one run: 1/3, 2/8"):
        merge_runs([tmp_path / "a", tmp_path / "c"], tmp_path / "m", allow_missing=True)
    (tmp_path / "a" / "predictions.json").unlink()
    run(dataset, tmp_path / "d", shard=Shard(2, 3), **plain)
    with pytest.raises(BadRun, match=r"a has no predictions\.json, and other shards do"):
        merge_runs([tmp_path / "a", tmp_path / "d"], tmp_path / "m", allow_missing=True)
    assert not (tmp_path / "m").exists()


def test_each_shard_records_the_best_score_that_a_rule_dropped(folder, tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--data", folder, "--batch-size", 2]
    line += ["--rule", "mask2former:score=1"]
    one_go = re.sub(r"\s+", " ", ran(*line, "--out", tmp_path / "whole").output)
    for share in ("1/2", "2/2"):
        ran(*line, "--shard", share, "--out", tmp_path / f"m.{share[0]}")
    merged = re.sub(
        r"\s+", " ", ran("runs", "merge", tmp_path / "m.1", tmp_path / "m.2", "--out", tmp_path / "m").output
    )
    (said,) = re.findall(r"No segment is predicted in 13 of 13 images; the best score was 0\.\d+, [^|]*?1\.0", one_go)
    assert said.endswith("the rule's threshold is 1.0")
    for printed in (one_go, merged):
        assert printed.index(said) < printed.index("| All |"), "first the sentence, then the numbers"


def test_shards_run_and_merged_by_commands_equal_the_whole_run(folder, whole, tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--data", folder, "--device", "cpu", "--batch-size", "2"]
    line += ["--keep-candidates", "--metrics", "pq,ap,miou"]
    for number in (1, 2):
        ran(*line, "--shard", f"{number}/2", cwd=tmp_path)
    (first, second) = sorted((tmp_path / "results").iterdir())
    assert (first.name, second.name) == ("set-mask2former-tiny.1", "set-mask2former-tiny.2")
    assert "1 shard was missing: 2/2." in refused("runs", "merge", first, "--out", tmp_path / "m")
    ran("runs", "merge", first, second, "--out", tmp_path / "m")
    assert_same(load_run(tmp_path / "m"), whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/8", r"There is no shard 0/8\. Shards are numbered from 1 to 8\. For Slurm: `sbatch --array=1-8`\."),
        ("0/5", r"For Slurm: `sbatch --array=1-5`\.$"),
        ("9/8", r"There is no shard 9/8\. Shards are numbered from 1 to 8\.$"),
        ("2", "give the number of the shard and of all shards, as in 3/16"),
        ("a/b", "give the number of the shard"),
        ("1/0", "There is no shard 1/0"),
    ],
)
def test_an_impossible_shard_is_refused(text, message):
    with pytest.raises(BadArgument, match=message):
        parse_shard(text)


@pytest.mark.parametrize("command", ["eval", "score"])
def test_under_torchrun_the_commands_to_use_instead_are_named(command, tmp_path):
    files = {
        "eval": ["--model", "mask2former-tiny", "--data", "shapes"],
        "score": ["--gt", tmp_path / "gt.json", "--pred", tmp_path / "pred.json"],
    }
    said = refused(command, *files[command], "--out", tmp_path / "m", cwd=tmp_path, WORLD_SIZE="4", RANK="2")
    lines = re.findall(r"`(panbench [^`]+)`", said)
    assert lines[:2] == [
        f"panbench {command} … --shard I/4 --out results/NAME.I",
        "panbench runs merge results/NAME.* --out results/NAME",
    ]
    assert list(tmp_path.iterdir()) == []
