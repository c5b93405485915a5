"""Counts the matchings of `panbench metrics`, `errors` and `compare`, and times them, also before and after a change.

    python scripts/bench/metrics.py [--images 5000] [--before PATH] [--rounds 2]

PATH is another checkout of panbench (`git worktree add PATH COMMIT`). Both read the same generated runs of COCO's shape
(about 10 segments of 133 categories a side and image), each in processes of its own, in turn. A matching joins all
overlaps of a run with the segments of both sides. CPU seconds are those of all threads, the least of the rounds,
without the import of packages; beside them what tests take of them.
"""

import functools
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child
from scripts.bench.harness import Row, arguments, checkouts, compared, finish, turns

COMMANDS = ("metrics", "errors", "compare")


def write_runs(folder: Path, images: int) -> list[Path]:
    """Writes two runs; returns their folders."""
    from panbench.runs import DatasetRecord, ImagesRecord, RunInfo
    from scripts.bench.scale import seed_tables, write_run

    runs = []
    for seed in (0, 1):
        tables, categories = seed_tables(200, seed)
        info = RunInfo(
            kind="score",
            dataset=DatasetRecord(name="made", split="val", fingerprint="made", n_images=images),
            images=ImagesRecord(expected=images, scored=images),
            categories=tuple(replace(c, supercategory=f"group {c.id % 12}", color=None) for c in categories),
        )
        runs.append(folder / f"run-{seed}")
        write_run(runs[-1], tables, info)
    return runs


def counting(command: str, *runs: str) -> Callable[[], dict[str, float]]:
    """Returns a function that runs a command and counts its matchings and the CPU seconds of its tests."""
    import panbench.metrics.uncertainty as uncertainty
    from panbench.report.answers import comparison, findings
    from panbench.runs import load_run

    matching: Any = importlib.import_module("panbench.metrics.matched")
    counts = {"matchings": 0.0, "tests": 0.0}

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def joined(*arguments: Any) -> Any:
            counts["matchings"] += 1
            return call(*arguments)

        return joined

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def spent(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            answer = call(*arguments, **options)
            counts["tests"] += time.process_time() - began
            return answer

        return spent

    matching._rows = counted(matching._rows)
    uncertainty._swap_p_values = timed(uncertainty._swap_p_values)
    work: dict[str, Callable[[], Any]] = {
        "metrics": lambda: findings.metric_findings(load_run(Path(runs[0]))),
        "errors": lambda: findings.error_findings(load_run(Path(runs[0]))),
        "compare": lambda: comparison.compare([load_run(Path(run)) for run in runs], by="size"),
    }

    def run() -> dict[str, float]:
        work[command]()
        return counts

    return run


def main() -> None:
    """Writes the runs, measures each checkout in turn and prints a row for each command."""
    options = arguments(__doc__, images=5000, rounds=2, before=Path)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = write_runs(Path(scratch), options.images)
        for command in COMMANDS:
            sides = {
                name: functools.partial(in_child, counting, command, *runs, checkout=path)
                for name, path in checkouts(options.before).items()
            }
            found = turns(sides, options.rounds)
            row: Row = {f"{options.images:,} images": f"`{command}`"}
            for name, each in found.items():
                best = min(each, key=lambda one: one.cpu)
                of = f", {name}" if options.before else ""
                row[f"matchings{of}"] = f"{best.answer['matchings']:.0f}"
                row[f"CPU s{of}"] = f"{best.cpu:.2f}"
                row[f"of it tests{of}"] = f"{best.answer['tests']:.2f}"
            if options.before:
                row |= compared([one.cpu for one in found["before"]], [one.cpu for one in found["now"]])
            rows.append(row)
    finish("metrics", rows, options.write and not options.before)


if __name__ == "__main__":
    main()
