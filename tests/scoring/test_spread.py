"""Scoring by the workers of an engine: the run of one go to the last bit, whichever workers are lost when."""

import json
import shutil
from pathlib import Path

import pytest
from engine_here import HereEngine
from support import panbench

from panbench.base.engines import Spread
from panbench.base.errors import BadArgument, PredictionMismatch
from panbench.base.reporter import Collected
from panbench.runs import Run, load_run
from panbench.scoring.folder import score_folder
from panbench.scoring.spread import spread_counting

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


def score(out: Path | None, engine: HereEngine | None = None, tasks: int = 5, folder: Path = SCENES, **options) -> Run:
    count = None if engine is None else spread_counting(Spread(engine, tasks), block_images=2)
    return score_folder(folder / "gt.json", folder / "pred.json", out=out, count=count, index=False, **options)


def of_numbers(run: Run) -> dict:
    """What of run.json says numbers or where they come from; `name` is the folder's."""
    record = run.info.to_json()
    kept = ("summary", "images", "dataset", "predictions", "categories", "arguments", "versions", "kind", "status")
    return {key: record[key] for key in kept}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Run:
    return score(tmp_path_factory.mktemp("alone") / "run")


def assert_same(run: Run, alone: Run) -> None:
    run = load_run(run.path)
    assert run.notices == ()
    assert run.table.to_arrow().equals(alone.table.to_arrow())
    assert [f"{row[name]:.17g}" for row in run.summary().values() for name in ("PQ", "SQ", "RQ")] == [
        f"{row[name]:.17g}" for row in alone.summary().values() for name in ("PQ", "SQ", "RQ")
    ]
    assert of_numbers(run) == of_numbers(alone)
    assert run.files.to_bytes() == alone.files.to_bytes()


@pytest.mark.parametrize(("workers", "tasks"), [(1, 1), (2, 5), (4, 100)])
def test_the_run_is_that_of_one_go_to_the_last_bit(workers, tasks, alone, tmp_path):
    assert_same(score(tmp_path / "run", HereEngine(workers), tasks), alone)


@pytest.mark.parametrize("seed", range(8))
def test_whichever_workers_are_lost_when_nothing_is_lost_and_nothing_comes_twice(seed, alone, tmp_path):
    engine = HereEngine(3, losses=0.35, seed=seed)
    assert_same(score(tmp_path / "run", engine, 6), alone)
    assert sum(session.lost for session in engine.sessions) > 0


def test_ctrl_c_keeps_what_came_and_resume_goes_on_without_the_engine(alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "run", HereEngine(stop_after=3), tasks=8)
    kept = load_run(tmp_path / "run")
    assert (kept.info.status, len(kept.images)) == ("interrupted", 6)
    assert_same(score(tmp_path / "run", resume=True), alone)


def test_resume_goes_on_with_an_engine_where_there_was_none(alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "run", HereEngine(stop_after=2))
    assert_same(score(tmp_path / "run", HereEngine(losses=0.3, seed=5), resume=True), alone)


def test_the_folders_of_pngs_that_the_run_names_are_there_to_be_verified(tmp_path):
    run = score(tmp_path / "run", HereEngine())
    verified = panbench("runs", "verify", run.path)
    assert verified.exit_code == 0, verified.output


def test_boundaries_are_counted_too(tmp_path):
    here = score(tmp_path / "run", HereEngine(), boundary=True)
    alone = score(None, boundary=True)
    assert here.table.to_arrow().equals(alone.table.to_arrow())


def test_a_fault_in_a_png_is_the_sentence_of_one_go(tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(SCENES, folder)
    damaged = sorted((folder / "pred").glob("*.png"))[3]
    damaged.write_bytes(b"no PNG")
    told = []
    for engine in (None, HereEngine()):
        with pytest.raises(PredictionMismatch) as refused:
            score(tmp_path / f"run-{engine}", engine, folder=folder)
        told.append(str(refused.value).splitlines()[0])
    assert told[0] == told[1]
    assert damaged.name in told[0]


def test_progress_and_notices_come_to_one_place(tmp_path):
    class Counts(Collected):
        def progress(self, task, done, total, unit="images"):
            counts.append((done, total))

    counts: list[tuple[int, int | None]] = []
    score(tmp_path / "run", HereEngine(losses=0.2, seed=1), reporter=Counts())
    total = len(json.loads((SCENES / "gt.json").read_text())["annotations"])
    assert counts[-1] == (total, total)
    assert counts == sorted(counts)


def test_an_engine_without_out_has_nowhere_to_write(tmp_path):
    with pytest.raises(
        BadArgument, match=r"--engine keeps what its workers send in a run\. Name its folder with --out"
    ):
        score(None, HereEngine())
