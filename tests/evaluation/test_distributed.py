"""Several processes on one run, as torchrun starts them: gloo on this CPU."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def start(ranks: int, folder: Path, out: Path, *more: str) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, "-m", "panbench", "eval", "--model", "mask2former-tiny", "--data", str(folder / "set")]
    # One thread each whatever the number of ranks: the number of threads changes the order of sums within the model.
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [*command, "--out", str(out), "--batch-size", "2", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finished(ranks: int, folder: Path, out: Path, *more: str) -> tuple[Run, str]:
    process = start(ranks, folder, out, *more)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return load_run(out), output


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
    process = start(2, folder, out)
    try:
        while not (out / "run.json").exists():
            assert process.poll() is None, process.communicate()[1]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(ranks.stdout.split()[-1]), signal.SIGKILL)
        process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert json.loads((out / "run.json").read_text())["status"] != "done"
    run, _ = finished(1, folder, out, "--resume")
    assert run.info.status == "done"
    assert tables(run) == tables(alone)
