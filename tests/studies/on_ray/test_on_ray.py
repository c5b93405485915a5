"""Runs on a Ray cluster of several processes on this machine, whose workers, nodes and drivers are killed meanwhile.

A lane of its own (`make engines`): Ray takes seconds to start, so that the ordinary run leaves these out.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from panbench.base.engines import EngineFailed, Spread
from panbench.base.errors import BadArgument
from panbench.base.reporter import Collected
from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.evaluation.opening import Opening
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.several import evaluate_models
from panbench.runs import Run, load_run
from panbench.scoring.folder import score_folder
from panbench.scoring.spread import spread_counting

ray = pytest.importorskip("ray")
from panbench.studies.on_ray.engine import RayEngine  # noqa: E402

pytestmark = pytest.mark.ray

REPO = Path(__file__).resolve().parents[3]
SCENES = REPO / "tests" / "reference" / "pq_scenes"
COPIES = 25


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The 16 scenes, 25 times under new ids: 400 images."""
    folder = tmp_path_factory.mktemp("data")
    for side in ("gt", "pred"):
        document = json.loads((SCENES / f"{side}.json").read_text())
        (folder / side).symlink_to(SCENES / side)
        for key, name in (("annotations", "image_id"), ("images", "id")):
            records = document.get(key, [])
            document[key] = [{**one, name: one[name] + 10_000 * copy} for copy in range(COPIES) for one in records]
        (folder / f"{side}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two nodes, two workers each."""
    from ray.cluster_utils import Cluster

    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(REPO)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    os.environ.pop("PYTHONPATH") if environment is None else os.environ.update(PYTHONPATH=environment)


class Watched(RayEngine):
    """The engine, whose session a test can look into."""

    @contextlib.contextmanager
    def session(self, *arguments):
        with super().session(*arguments) as self.now:
            yield self.now

    def processes(self) -> list[int]:
        return [hired.place.process for hired in self.now._hired if hired.place is not None]


class Meddling(Collected):
    """Does something to the cluster whenever images are reported."""

    def __init__(self, meddle: Callable[[int], None]) -> None:
        super().__init__()
        self.meddle, self.calls = meddle, 0

    def progress(self, task, done, total, unit="images"):
        self.calls += 1
        self.meddle(self.calls)


def score(data: Path, out: Path, engine=None, tasks: int = 8, **options) -> Run:
    count = None if engine is None else spread_counting(Spread(engine, tasks), block_images=20)
    score_folder(data / "gt.json", data / "pred.json", out=out, count=count, index=False, **options)
    return load_run(out)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Run:
    return score(data, tmp_path_factory.mktemp("alone") / "run")


def digits(run: Run) -> list[str]:
    return [f"{row[name]:.17g}" for row in run.summary().values() for name in ("PQ", "SQ", "RQ")]


def assert_same(run: Run, alone: Run) -> None:
    assert run.info.status == "done"
    assert run.notices == ()
    assert run.table.to_arrow().equals(alone.table.to_arrow())
    assert digits(run) == digits(alone)
    assert run.info.summary == alone.info.summary
    assert run.files.to_bytes() == alone.files.to_bytes()


def test_a_cluster_makes_the_run_of_one_go(cluster, data, alone, tmp_path):
    run = score(data, tmp_path / "run", Watched(cluster.address))
    assert_same(run, alone)
    assert run.info.dataset == alone.info.dataset
    assert run.info.predictions == alone.info.predictions


@pytest.mark.parametrize("seed", range(4))
def test_workers_that_are_killed_at_random_cost_nothing(seed, cluster, data, alone, tmp_path):
    chance, engine, killed = random.Random(seed), Watched(cluster.address), []

    def kill(call: int) -> None:
        # The engine still lists a worker that was killed a moment ago.
        alive = [process for process in engine.processes() if process not in killed]
        if alive and len(killed) < 4 and chance.random() < 0.4:
            killed.append(chance.choice(alive))
            os.kill(killed[-1], signal.SIGKILL)

    reporter = Meddling(kill)
    assert_same(score(data, tmp_path / "run", engine, reporter=reporter), alone)
    assert killed


def test_a_node_that_dies_is_done_without_and_one_that_joins_is_used(cluster, data, alone, tmp_path):
    engine = Watched(cluster.address)

    def meddle(call: int) -> None:
        if call == 3:
            cluster.remove_node(sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0], allow_graceful=False)
        if call == 8:
            cluster.add_node(num_cpus=1)

    assert_same(score(data, tmp_path / "run", engine, tasks=20, reporter=Meddling(meddle)), alone)


def driver(cluster, data: Path, out: Path, *more: str) -> subprocess.Popen:
    files = ["--gt", str(data / "gt.json"), "--pred", str(data / "pred.json"), "--out", str(out)]
    program = (
        "from panbench.scoring import spread\n"
        # Small blocks, so that there is something to kill between them.
        "spread.spread_counting.__defaults__ = (20,)\n"
        "from panbench.cli.app import main\n"
        "main()\n"
    )
    line = [sys.executable, "-c", program, "score", *files, "--engine", f"ray={cluster.address}", "--tasks", "8", *more]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(("how", "parts"), [(signal.SIGKILL, 2), (signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_a_driver_that_is_stopped_keeps_what_came_and_resume_needs_no_engine(
    how, parts, cluster, data, alone, tmp_path
):
    out = tmp_path / "run"
    process = driver(cluster, data, out)
    while process.poll() is None and len(list((out / "parts").glob("*.parquet"))) < parts:
        os.sched_yield()
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    if how != signal.SIGKILL:
        assert process.returncode in (130, 143), errors
    kept = load_run(out)
    assert kept.info.status != "done"
    assert len(kept.images) >= 10 * parts, "a task of 50 images comes in blocks of 20, 20 and 10"
    assert_same(score(data, out, resume=True), alone)


def test_a_stopped_driver_is_gone_on_with_by_the_cluster(cluster, data, alone, tmp_path):
    out = tmp_path / "run"
    process = driver(cluster, data, out)
    while process.poll() is None and len(list((out / "parts").glob("*.parquet"))) < 2:
        os.sched_yield()
    process.kill()
    process.communicate(timeout=120)
    assert_same(score(data, out, Watched(cluster.address), resume=True), alone)


def test_images_that_end_each_worker_end_the_run_in_a_sentence_and_what_came_stays(cluster, data, tmp_path):
    class Hunting(Watched):
        """Its workers end at their first image, as where memory runs out."""

        def session(self, make_worker, needs, reporter):
            return super().session(Deadly(make_worker), needs, reporter)

    with pytest.raises(EngineFailed, match=r"ended 4 workers, one after the other"):
        score(data, tmp_path / "run", Hunting(cluster.address), tasks=1)


class Deadly:
    """Makes workers that end their own process."""

    def __init__(self, make_worker) -> None:
        self.make_worker = make_worker

    def __call__(self):
        return self

    def run(self, task):
        os.kill(os.getpid(), signal.SIGKILL)
        yield None


def test_an_evaluation_is_that_of_one_process_though_workers_are_killed(cluster, tmp_path):
    shapes.generate(tmp_path / "set", count=12, size=(64, 96))
    line = ["eval", "--model", "mask2former-tiny", "--data", str(tmp_path / "set"), "--batch-size", "2"]
    line += ["--device", "cpu", "--no-save-predictions", "--out", str(tmp_path / "one")]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    one = subprocess.run([sys.executable, "-m", "panbench", *line], capture_output=True, text=True, env=environment)
    assert one.returncode == 0, one.stderr
    engine, killed = Watched(cluster.address), []

    def kill(call: int) -> None:
        if len(killed) < 2:
            killed.append(random.Random(call).choice(engine.processes()))
            os.kill(killed[-1], signal.SIGKILL)

    evaluate_models(
        [find_model("mask2former-tiny")],
        open_dataset(tmp_path / "set"),
        [tmp_path / "spread"],
        Opening(device="cpu"),
        EvaluateOptions(batch_size=2, spread=Spread(engine, 4)),
        reporters=lambda: contextlib.nullcontext(Meddling(kill)),
        finished=lambda outcome: None,
    )
    alone, run = load_run(tmp_path / "one"), load_run(tmp_path / "spread")
    assert_same(run, alone)
    assert len(killed) == 2
    assert run.info.arguments == alone.info.arguments
    assert run.info.device == alone.info.device


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("localhost", "is not an address"),
        ("ray://127.0.0.1:10001", "is an address of Ray Client"),
    ],
)
def test_an_address_without_a_cluster_is_refused_in_a_sentence(address, sentence):
    with pytest.raises(BadArgument, match=sentence):
        Watched(address)._connect()
