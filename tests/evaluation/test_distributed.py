"""Several processes on one run, as torchrun starts them: gloo on this CPU."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import python

from panbench.datasets import shapes
from panbench.datasets.index import build_index
from panbench.runs import Run, load_run

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    shapes.generate(root / "set", count=14, size=(96, 128))
    return root


# One thread each whatever the number of ranks: the number of threads changes the order of sums within the model.
ENVIRONMENT = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def command(folder: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", str(folder / "set"), "--out", str(out), "--batch-size", "2"]
    return ["eval", "--model", "mask2former-tiny", *data, *more]


def torchrun(ranks: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "panbench"]


def finished(ranks: int, folder: Path, out: Path, *more: str) -> tuple[Run, str]:
    line = [*torchrun(ranks), *command(folder, out, *more)]
    done = python(*line, env={**os.environ, **ENVIRONMENT}, timeout=600)
    assert done.returncode == 0, done.stderr
    return load_run(out), done.stdout


def tables(run: Run) -> tuple[str, str]:
    return run.segments().to_json(), run.overlaps().to_json()


@pytest.fixture(scope="module")
def alone(folder: Path) -> Run:
    return finished(1, folder, folder / "alone")[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_results_do_not_depend_on_the_number_of_ranks(ranks: int, folder: Path, alone: Run):
    run, output = finished(ranks, folder, folder / f"with-{ranks}")
    assert tables(run) == tables(alone)
    assert run.info.summary == alone.info.summary
    assert run.info.ranks == ranks
    assert {part.name.split("-")[0] for part in (run.path / "parts").iterdir()} == {f"{r:04d}" for r in range(ranks)}
    assert output.count("| All") == 1, "one rank speaks for all"


def test_ranks_on_an_index_make_the_run_on_the_json(folder: Path, alone: Run):
    index = build_index([folder / "set" / "annotations" / "panoptic_val.json"])
    try:
        run, _ = finished(3, folder, folder / "indexed")
    finally:
        index.unlink()
    assert tables(run) == tables(alone)
    assert run.info.summary == alone.info.summary
    assert run.info.dataset == alone.info.dataset


def test_a_rank_that_dies_loses_nothing_and_the_rerun_may_have_other_ranks(folder: Path, alone: Run):
    out = folder / "broken"
    line = [sys.executable, *torchrun(2), *command(folder, out)]
    with (folder / "words").open("wb") as words:
        agent = subprocess.Popen(line, stdout=words, stderr=words, env={**os.environ, **ENVIRONMENT})
        try:
            while not (out / "run.json").exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(0.005)
                assert agent.returncode is None, (folder / "words").read_text()
            ranks = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True)
            os.kill(int(ranks.stdout.split()[-1]), signal.SIGKILL)
            assert agent.wait(300) != 0
        finally:
            agent.send_signal(signal.SIGTERM)  # the agent ends its ranks
        assert "SIGKILL" in (folder / "words").read_text(), "the run ended before the rank could be killed"
    assert json.loads((out / "run.json").read_text())["status"] != "done"
    run, _ = finished(1, folder, out, "--resume")
    assert run.info.status == "done"
    assert tables(run) == tables(alone)


def test_ranks_score_earlier_layers_as_one_process_does(folder: Path):
    """`--layers` makes its runs in the same pass: each rank writes parts of all of them, and one rank the times."""
    for ranks in (1, 2):
        finished(ranks, folder, folder / f"layers-{ranks}", "--layers", "1,3")
    one, two = (load_run(folder / f"layers-{ranks}@layer1") for ranks in (1, 2))
    assert tables(two) == tables(one)
    assert tables(load_run(folder / "layers-2")) == tables(load_run(folder / "layers-1"))
    times = json.loads((folder / "layers-2@layers.json").read_text())["milliseconds"]
    assert [len(each) for each in times.values()] == [10, 10]


def test_ranks_put_tiles_together_as_one_process_does(folder: Path):
    one, two = (finished(ranks, folder, folder / f"tiles-{ranks}", "--tiles", "1x2")[0] for ranks in (1, 2))
    assert tables(two) == tables(one)
