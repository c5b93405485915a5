"""An evaluation by the workers of an engine: the run of one process to the last bit, whichever of them are lost."""

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
import torch
from engine_here import HereEngine
from support import panbench

from panbench.base import provenance
from panbench.base.engines import Spread
from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.base.reporter import SILENT, Collected
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset, shapes
from panbench.evaluation.opening import Opening
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.several import check_models, evaluate_models
from panbench.evaluation.spread import EvalTask, EvalWorker, Job
from panbench.runs import Run, load_run

SPEC = find_model("mask2former-tiny")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # Workers have one thread each, and the number of threads changes the order of sums within the model.
    before, given = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    os.environ.pop("OMP_NUM_THREADS") if given is None else os.environ.update(OMP_NUM_THREADS=given)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("set")
    shapes.generate(root / "set", count=11, size=(64, 96))
    return open_dataset(root / "set")


def run(dataset: Dataset, out: Path, engine: HereEngine | None = None, tasks: int = 4, reporter=SILENT, **options):
    asked = EvaluateOptions(batch_size=2, spread=None if engine is None else Spread(engine, tasks), **options)
    check_models([SPEC], dataset, [out], Opening(device="cpu"), asked, reporter)
    evaluate_models(
        [SPEC],
        dataset,
        [out],
        Opening(device="cpu"),
        asked,
        reporters=lambda: contextlib.nullcontext(reporter),
        finished=lambda outcome: None,
    )
    return load_run(out)


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory) -> Run:
    return run(dataset, tmp_path_factory.mktemp("alone") / "run", save_predictions=True)


def of_numbers(run: Run) -> dict:
    record = run.info.to_json()
    left_out = ("id", "name", "started", "finished", "seconds", "memory", "parts", "ranks")
    return {key: value for key, value in record.items() if key not in left_out and "per_second" not in key}


def assert_same(run: Run, alone: Run) -> None:
    assert run.notices == ()
    assert run.table.to_arrow().equals(alone.table.to_arrow())
    assert [f"{row[name]:.17g}" for row in run.summary().values() for name in ("PQ", "SQ", "RQ") if row["n"]] == [
        f"{row[name]:.17g}" for row in alone.summary().values() for name in ("PQ", "SQ", "RQ") if row["n"]
    ]
    assert of_numbers(run) == of_numbers(alone)
    assert run.files.to_bytes() == alone.files.to_bytes()


def test_the_run_is_that_of_one_process_to_the_last_bit_predictions_included(dataset, alone, tmp_path):
    spread = run(dataset, tmp_path / "run", HereEngine(2), save_predictions=True)
    assert_same(spread, alone)
    for kept in sorted((alone.path / "predictions").iterdir()):
        assert (spread.path / "predictions" / kept.name).read_bytes() == kept.read_bytes()
    assert (spread.path / "predictions.json").read_bytes() == (alone.path / "predictions.json").read_bytes()
    assert panbench("runs", "verify", spread.path).exit_code == 0


@pytest.mark.parametrize("seed", range(3))
def test_whichever_workers_are_lost_when_nothing_is_lost_and_nothing_comes_twice(seed, dataset, alone, tmp_path):
    engine = HereEngine(3, losses=0.25, seed=seed)
    assert_same(run(dataset, tmp_path / "run", engine, save_predictions=True), alone)
    assert engine.sessions[0].lost > 0


def test_ctrl_c_keeps_what_came_and_resume_goes_on_without_the_engine(dataset, alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "run", HereEngine(1, stop_after=5), save_predictions=True)
    kept = load_run(tmp_path / "run")
    assert kept.info.status == "interrupted"
    assert 0 < len(kept.images) < 11
    assert_same(run(dataset, tmp_path / "run", resume=True, save_predictions=True), alone)


def test_a_bad_image_is_named_as_in_one_process_and_can_be_skipped(dataset, tmp_path):
    scenes = list(dataset.scenes)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no PNG")
    scenes[4] = dataclasses.replace(scenes[4], image_path=damaged)
    broken = dataclasses.replace(dataset, scenes=tuple(scenes))
    with pytest.raises(BadDataset, match=r"damaged\.png"):
        run(broken, tmp_path / "stops", HereEngine())
    notices = Collected()
    skipped = run(broken, tmp_path / "skips", HereEngine(), skip_bad_images=True, reporter=notices)
    assert skipped.info.images.skipped == 1
    assert (skipped.info.status, len(skipped.images)) == ("done", 10)
    assert any("damaged.png" in notice for notice in notices.notices)


def test_workers_with_other_packages_are_refused(dataset, tmp_path, monkeypatch):
    versions = iter([{"torch": "2.1.0"}, {"torch": "2.1.1"}])  # neither is here
    real = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**real, **next(versions, {})})
    with pytest.raises(BadModel, match=r"torch 2\.1"):
        run(dataset, tmp_path / "run", HereEngine(1))


def test_what_an_engine_does_not_do_is_refused_before_anything_is_written(dataset, tmp_path):
    with pytest.raises(BadArgument, match="--engine makes the runs of `panbench eval` themselves, without"):
        run(dataset, tmp_path / "run", HereEngine(), keep_candidates=True)
    assert not (tmp_path / "run").exists()


def test_one_gpu_of_a_machine_is_no_device_of_a_cluster(tmp_path):
    pytest.importorskip("ray")
    line = ["--model", "mask2former-tiny", "--data", "shapes", "--limit", "2", "--out", tmp_path / "run"]
    refused = panbench("eval", *line, "--engine", "ray", "--device", "cuda:1")
    assert refused.exit_code == 2
    assert "--device cuda:1 names a GPU of one machine" in refused.stderr


def test_torchrun_and_an_engine_are_one_too_many(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadArgument, match="--engine and torchrun both start processes"):
        run(dataset, tmp_path / "run", HereEngine())


def test_predictions_go_nowhere_that_workers_do_not_see(dataset, tmp_path):
    job = Job((), (tmp_path / "elsewhere" / "predictions",), (), None, False, None)
    worker = object.__new__(EvalWorker)
    with pytest.raises(BadArgument, match=r"where predictions are to be kept\. Put --out on a file system that all"):
        next(worker.run(EvalTask(job, ((dataset.scenes[0],),), ())))
