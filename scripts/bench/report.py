"""Times `panbench report`, `compare`, `metrics` and `errors` on five models of a set like COCO's val2017.

    python scripts/bench/report.py [--images 5000] [--folder DIR] [--before PATH]

The set is made by scripts/make/coco_like.py (500 scenes under as many ids as are asked for; kept in DIR, if given) and
scored by `panbench score`. PATH is another checkout of panbench (`git worktree add PATH COMMIT`); both read the same
runs, each command in a process of its own, in turn. Wall and CPU seconds (of all threads) and the peak of memory are
those of the whole process, Python's start and imports included.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.make.coco_like import MODELS, write_set  # noqa: E402


def make_runs(folder: Path, images: int) -> list[Path]:
    """The runs of the five models in the folder; made unless they are there."""
    runs = [folder / "results" / name for name in MODELS]
    if not all((run / "run.json").exists() for run in runs):
        write_set(folder, images, min(images, 500))
        for name, run in zip(MODELS, runs, strict=True):
            given: list[str | Path] = [
                "--gt",
                folder / "gt.json",
                "--pred",
                folder / f"{name}.json",
                "--images",
                folder / "images",
            ]
            panbench(ROOT, "score", *given, "--out", run, "--overwrite")
    return runs


def panbench(checkout: Path, *words: str | Path) -> tuple[float, float, float]:
    """Runs a command of a checkout: wall seconds, CPU seconds and peak memory in GB."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    timed = ["/usr/bin/env", "time", "-f", "%M", sys.executable, "-m", "panbench", *map(str, words)]
    # Python looks into the current folder first.
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    ran = subprocess.run(timed, cwd=checkout, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{checkout}: {ran.stderr.strip()}")
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu, int(ran.stderr.strip().splitlines()[-1]) / 1e6


def main() -> None:
    """Reads the arguments, makes the runs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where the set goes and stays; a temporary folder by default")
    parser.add_argument("--before", type=Path, metavar="PATH", help="a checkout of panbench to set against this one")
    parser.add_argument("--make-only", action="store_true", help="make the set and measure nothing")
    options = parser.parse_args()
    checkouts = {**({"before": options.before.resolve()} if options.before else {}), "now": ROOT}
    with tempfile.TemporaryDirectory() as scratch:
        runs = make_runs((options.folder or Path(scratch)).resolve(), options.images)
        if options.make_only:
            return
        commands: dict[str, list[str | Path]] = {
            "report of 5": ["report", *runs, "--out", Path(scratch) / "report.html"],
            "compare of 5": ["compare", *runs],
            "metrics of 1": ["metrics", runs[0]],
            "errors of 1": ["errors", runs[0]],
        }
        print(f"{options.images:,} images; load of the machine: {os.getloadavg()[0]:.1f}")
        for name, words in commands.items():
            for checkout, path in checkouts.items():
                wall, cpu, peak = panbench(path, *words)
                print(
                    f"{name:>13}, {checkout:<6}: {wall:5.1f} s wall, {cpu:5.1f} s CPU, peak {peak:.2f} GB", flush=True
                )


if __name__ == "__main__":
    main()
