"""`--engine ray`: shards are tasks of a Ray cluster; a worker that dies is replaced, and the run is whole."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support import Recorder, drawn, evaluated, ran, refusal, refused

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation.options import EvaluateOptions, Opening
from panbench.evaluation.sharded import ShardedEvaluation
from panbench.runs import load_run
from panbench.studies.on_ray import options as ray_options
from panbench.studies.on_ray.options import parse_ray_engine

SPEC = find_model("mask2former-tiny")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ray", (16, None)),
        ("ray:64", (64, None)),
        ("ray:64=ray://head:10001", (64, "ray://head:10001")),
        ("ray=auto", (16, "auto")),
    ],
)
def test_the_engine_names_tasks_and_a_cluster(monkeypatch, text, found):
    monkeypatch.setattr(ray_options, "_ray_is_installed", lambda: True)
    assert parse_ray_engine(text) == found


@pytest.mark.parametrize(
    ("text", "message"), [("dask", "the engine is ray"), ("ray:0", "'0' is not a number of tasks")]
)
def test_an_unusable_engine_is_refused(text, message):
    assert message in refusal(BadArgument, parse_ray_engine, text)


def test_without_ray_the_error_has_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_options, "_ray_is_installed", lambda: False)
    line = ("eval", "--model", SPEC.name, "--data", "shapes", "--limit", "2", "--out", tmp_path / "m")
    assert "needs the package ray. Install it with: pip install" in refused(*line, "--engine", "ray:2")


@dataclass(frozen=True)
class Dying(ShardedEvaluation):
    """Its second shard kills the worker, once."""

    place: Path = Path()

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        torch.set_num_threads(1)
        if shard.number == 2 and not (self.place / "died").exists():
            (self.place / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().run_shard(shard, folders, reporter)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(drawn(tmp_path_factory, 7))


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    here = Path(__file__).resolve()
    # Workers import this module to unpickle what it defines.
    paths = os.pathsep.join([str(here.parents[3]), str(here.parents[2]), str(here.parent)])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_the_run_equals_that_of_one_process(cluster, dataset, tmp_path):
    from panbench.studies.on_ray.tasks import run_on_ray

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = evaluated(SPEC, dataset, tmp_path / "whole", save_predictions=True)
    torch.set_num_threads(threads)
    asked = EvaluateOptions(save_predictions=True)
    work = Dying(SPEC, dataset, (tmp_path / "m",), Opening(device="cpu"), asked, place=tmp_path)
    recorder = Recorder()
    (run,) = run_on_ray(work, recorder, 3)
    assert (tmp_path / "died").exists()
    assert run.table.to_arrow().equals(whole.table.to_arrow())
    assert run.summary() == whole.summary()
    for png in (whole.path / "predictions").iterdir():
        assert (run.path / "predictions" / png.name).read_bytes() == png.read_bytes()
    assert recorder.counts[-1] == (f"{SPEC.title} on Ray", 3, 3, "shards")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["died", "m", "whole"]


@pytest.mark.ray
def test_an_error_of_a_task_is_not_retried(cluster, dataset, tmp_path):
    from panbench.studies.on_ray.tasks import run_on_ray

    asked = EvaluateOptions(batch_size=0)
    work = ShardedEvaluation(SPEC, dataset, (tmp_path / "m",), Opening(device="cpu"), asked)
    assert "--batch-size must be at least 1, not 0" in refusal(BadRun, run_on_ray, work, Recorder(), 2)


@pytest.mark.ray
def test_eval_and_score_on_ray_from_the_command_line(cluster, dataset, tmp_path):
    root = dataset.images.parent
    line = ("eval", "--model", SPEC.name, "--data", root, "--device", "cpu", "--out", tmp_path / "m")
    ran(*line, "--engine", "ray:3")
    predicted = tmp_path / "m" / "predictions.json"
    files = ("score", "--gt", dataset.gt, "--pred", predicted)
    ran(*files, "--out", tmp_path / "plain")
    ran(*files, "--out", tmp_path / "s", "--engine", "ray:2")
    plain, scored = load_run(tmp_path / "plain"), load_run(tmp_path / "s")
    assert scored.table.to_arrow().equals(plain.table.to_arrow())
    assert scored.summary() == plain.summary() == load_run(tmp_path / "m").summary()
    assert "give --out" in refused(*files, "--engine", "ray:2")
