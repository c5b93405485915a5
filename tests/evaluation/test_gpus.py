"""`--gpus`: a process for each card makes a shard; one that dies is named and resumed, and the run is whole."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import Recorder, Stop, drawn, evaluated, refused

from panbench.base.errors import BadRun
from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation.options import EvaluateOptions, Opening
from panbench.evaluation.sharded import ATTEMPTS, ShardedEvaluation, run_on_cards
from panbench.runs import RunWriter, load_run
from panbench.runs.merge import merge_runs
from panbench.runs.sharded import are_all_done, merge_shards, shard_folders
from panbench.scoring.folder import ShardedScoring, score_folder

SPEC = find_model("mask2former-tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(drawn(tmp_path_factory, 7))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Evaluation(ShardedEvaluation):
    """The process of the second shard dies once, when it has stored two images."""

    place: Path = Path()
    threads: int = 1

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        import torch

        from panbench.evaluation import sinks

        sinks.CHUNK_IMAGES = 1
        torch.set_num_threads(self.threads)
        if shard.number == 2 and not (self.place / "died").exists():
            (self.place / "died").touch()
            reporter = Stop(2, kill)
        super().run_shard(shard, folders, reporter)


@pytest.mark.slow
def test_a_run_on_several_gpus_with_a_killed_process_equals_a_single_process_run(dataset, tmp_path):
    import torch

    whole = evaluated(SPEC, dataset, tmp_path / "whole", save_predictions=True)
    recorder, options = Recorder(), EvaluateOptions(save_predictions=True)
    threads = torch.get_num_threads()
    home, opening = tmp_path / "m", Opening(device="cpu")
    work = Evaluation(SPEC, dataset, (home,), opening, options, place=tmp_path, threads=threads)
    (run,) = run_on_cards(work, recorder, ["0", "1"])
    assert "Shard 2/2 died (signal SIGKILL) and is resumed." in recorder.notices
    assert run.info.status == "done"
    assert run.table.to_arrow().equals(whole.table.to_arrow())
    assert run.summary() == whole.summary()
    for png in (whole.path / "predictions").iterdir():
        assert (run.path / "predictions" / png.name).read_bytes() == png.read_bytes()
    assert recorder.counts[-1] == (SPEC.title, 7, 7, "images")
    assert {count[2] for count in recorder.counts} <= {None, 7}, "the total is that of all, or not known yet"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["died", "m", "whole"]


@dataclass(frozen=True)
class Sized(ShardedEvaluation):
    """A trial would now choose another batch size."""

    @property
    def needs_size(self) -> bool:
        return self.options.batch_size is None

    def best_size(self, reporter: Reporter) -> int:
        return 3


@pytest.mark.slow
def test_a_run_on_several_gpus_resumes_with_its_first_batch_size(dataset, tmp_path):
    work = Sized(SPEC, dataset, (tmp_path / "m",), Opening(device="cpu"), EvaluateOptions())
    work.with_size(2).run_shard(Shard(1, 1), shard_folders(work, 1), Recorder())
    (run,) = run_on_cards(work.resumed(), Recorder(), ["0"])
    assert (run.info.status, run.info.batch_size, len(run.images)) == ("done", 2, 7)


@dataclass(frozen=True)
class Scoring(ShardedScoring):
    """Writes down which card each shard sees; the process of the second dies so often."""

    place: Path = Path()
    deaths: int = 0

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        (self.place / f"card of {shard.number}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        died = len(list(self.place.glob("died *")))
        if shard.number == 2 and died < self.deaths:
            (self.place / f"died {died}").touch()
            kill()
        super().run_shard(shard, folders, reporter)


def scoring(dataset: Dataset, place: Path, **settings) -> Scoring:
    return Scoring(Path(dataset.gt), Path(dataset.gt), place / "s", {}, place=place, **settings)


def test_each_shard_sees_only_its_gpu_and_one_progress_bar_counts_all(dataset, tmp_path):
    recorder = Recorder()
    (run,) = run_on_cards(scoring(dataset, tmp_path, deaths=1), recorder, ["4", "GPU-7"])
    assert [(tmp_path / f"card of {n}").read_text() for n in (1, 2)] == ["4", "GPU-7"]
    assert recorder.notices == ["Shard 2/2 died (signal SIGKILL) and is resumed."]
    whole = score_folder(dataset.gt, dataset.gt, out=tmp_path / "whole")
    assert run.table.to_arrow().equals(whole.table.to_arrow())
    assert run.summary() == whole.summary()
    assert recorder.counts[-1] == ("Scoring", 7, 7, "images")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card of 1", "card of 2", "died 0", "s", "whole"]


def test_a_shard_that_keeps_dying_is_named_and_the_others_are_kept_for_resume(dataset, tmp_path):
    work = scoring(dataset, tmp_path, deaths=ATTEMPTS)
    with pytest.raises(BadRun, match=rf"s, shard 2/2 died {ATTEMPTS} times \(signal SIGKILL\).*--resume continues"):
        run_on_cards(work, Recorder(), ["0", "1"])
    assert load_run(tmp_path / "s.1").info.status == "done"
    assert not (tmp_path / "s").exists()
    (run,) = run_on_cards(replace(work, resume=True), Recorder(), ["0", "1"])
    assert len(run.images) == 7
    (again,) = run_on_cards(replace(work, resume=True), Recorder(), ["0", "1"])
    assert again.info.id == run.info.id


@dataclass(frozen=True)
class Stuck(Scoring):
    """The first shard's process does not end when it is asked to; the second is refused once it is so far."""

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        if shard.number == 2:
            (self.place / "begun").read_bytes()  # a pipe: waits until the first shard writes
            raise BadRun("The second shard is refused.")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (self.place / "begun").write_bytes(b"")
        signal.pause()


def test_waiting_for_a_process_that_does_not_end_is_bounded(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("panbench.evaluation.sharded.PATIENCE", 0.1)
    os.mkfifo(tmp_path / "begun")
    work = Stuck(Path(dataset.gt), Path(dataset.gt), tmp_path / "s", {}, place=tmp_path)
    with pytest.raises(BadRun, match="The second shard is refused"):
        run_on_cards(work, Recorder(), ["0", "1"])


@dataclass(frozen=True)
class TwoRuns(ShardedScoring):
    """A second run beside the first, as of a second rule."""

    @property
    def merged_folders(self) -> tuple[Path, ...]:
        return self.out, self.out.with_name("t")


@pytest.mark.parametrize("stopped", ["between two runs", "in the first"])
def test_resume_completes_an_interrupted_merge(dataset, tmp_path, stopped):
    work = TwoRuns(Path(dataset.gt), Path(dataset.gt), tmp_path / "s", {}, resume=True)
    for number in (1, 2):
        for folder in shard_folders(work, number):
            score_folder(dataset.gt, dataset.gt, out=folder, shard=(number, 2))
    writer = RunWriter.create(tmp_path / "s", load_run(tmp_path / "s.1").info)
    writer.finish("interrupted")
    if stopped == "between two runs":
        merge_runs([tmp_path / "s.1", tmp_path / "s.2"], tmp_path / "s", overwrite=True)
    assert not are_all_done(work, 2)
    runs = merge_shards(work, 2)
    assert [(run.info.status, len(run.images)) for run in runs] == [("done", 7)] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "t"]
    assert are_all_done(work, 2)


def test_a_run_of_one_process_is_not_resumed_by_shards(dataset, tmp_path):
    work = replace(scoring(dataset, tmp_path), resume=True)
    score_folder(dataset.gt, dataset.gt, out=tmp_path / "s.1", shard=(1, 2))
    RunWriter.create(tmp_path / "s", load_run(tmp_path / "s.1").info).finish("interrupted")
    with pytest.raises(BadRun, match=r"s is a run of one process, or lacks shards\. Resume it in one process"):
        run_on_cards(work, Recorder(), ["0", "1"])


def test_an_error_of_a_shard_ends_the_run_with_its_message(dataset, tmp_path):
    work = replace(scoring(dataset, tmp_path), pred=tmp_path / "nowhere.json")
    with pytest.raises(BadRun, match="nowhere"):
        run_on_cards(work, Recorder(), ["0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "64"), "--gpus 64: PyTorch finds"),
        (("--gpus", "2", "--shard", "1/2"), "each share out the images"),
        (("--gpus", "2", "--device", "cpu"), "--device is cpu"),
        (("--gpus", "2", "--corrupt", "fog:1"), "are not shared out: give --shard"),
    ],
)
def test_runs_that_cannot_be_sharded_are_refused(dataset, tmp_path, options, message):
    line = ("eval", "--model", SPEC.name, "--data", dataset.images.parent, "--out", tmp_path / "m")
    assert message in refused(*line, *options)
    assert list(tmp_path.iterdir()) == []
