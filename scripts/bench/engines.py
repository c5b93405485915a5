"""Wall time of `panbench eval` by Ray's workers against torchrun's ranks: as many processes, one thread each.

    pip install 'ray>=2.40'
    python scripts/bench/engines.py --images 64 --processes 1 2 4 --repeats 3

Both sides run in turn, `--repeats` times, on the same generated scenes; the fastest run of each counts. The cluster is
started before the clock; its own start is printed. Prints the ratio of the wall times, and whether PQ, SQ and RQ of
both runs agree in 17 digits. Wall times need an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from panbench.datasets import shapes
from panbench.runs import load_run

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Prints a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="mask2former-tiny")
    given = parser.parse_args()
    print(f"{given.images} images, {given.model}, {given.tasks} tasks, best of {given.repeats}; {os.cpu_count()} cores")
    print("processes  torchrun s   ray s   ray / torchrun   equal in 17 digits   cluster's own start s")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shapes.generate(folder / "set", count=given.images, size=(240, 320))
        for processes in given.processes:
            print(_row(folder, processes, given), flush=True)


def _row(folder: Path, processes: int, given: argparse.Namespace) -> str:
    from ray.cluster_utils import Cluster

    began = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": processes})
    started = time.perf_counter() - began
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    engine = ["--engine", f"ray={cluster.address}", "--tasks", str(given.tasks)]
    sides = {"torchrun": (torchrun, []), "ray": ([sys.executable, "-m"], engine)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for _ in range(given.repeats):
            for name, (launcher, more) in sides.items():
                seconds[name].append(_timed(launcher, folder, folder / f"{name}-{processes}", given.model, more))
    finally:
        cluster.shutdown()
    fastest = {name: min(each) for name, each in seconds.items()}
    digits = [_digits(folder / f"{name}-{processes}") for name in sides]
    ratio, equal = fastest["ray"] / fastest["torchrun"], "yes" if digits[0] == digits[1] else "NO"
    walls = f"{processes:9}  {fastest['torchrun']:10.2f}  {fastest['ray']:6.2f}"
    return f"{walls}  {ratio:14.3f}   {equal:>18}   {started:21.1f}"


def _timed(launcher: Sequence[str], folder: Path, out: Path, model: str, more: Sequence[str]) -> float:
    line = [*launcher, "panbench", "eval", "--model", model, "--data", str(folder / "set"), "--out", str(out)]
    line += ["--overwrite", "--batch-size", "1", "--device", "cpu", "--no-save-predictions", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run(line, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def _digits(run: Path) -> list[str]:
    rows = load_run(run).summary().values()
    return [f"{row[name]:.17g}" for row in rows for name in ("PQ", "SQ", "RQ")]


if __name__ == "__main__":
    main()
