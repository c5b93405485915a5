"""Counts the matchings of `panbench metrics`, `errors` and `compare`, and times them, before and after a change.

    python scripts/bench/metrics.py [--images 5000] [--before PATH] [--repeat 3]

PATH is another checkout of panbench (`git worktree add PATH COMMIT`). Both read the same generated runs of COCO's shape
(about 10 segments of 133 categories a side and image), each in processes of its own, in turn. A matching joins all
overlaps of a run with the segments of both sides. CPU seconds are those of all threads, the least of the repeats,
without the import of packages; in brackets what the resampling of intervals and tests takes of them.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("metrics", "errors", "compare")


def write_runs(folder: Path, images: int) -> list[Path]:
    """Two runs, as any version of panbench reads them: run.json of schema 1 and one part."""
    import pyarrow.parquet

    sys.path.insert(0, str(ROOT))
    from scripts.bench.scale import repeated, seed_tables

    runs = []
    for seed in (0, 1):
        tables, categories = seed_tables(200, seed)
        run = folder / f"run-{seed}"
        (run / "parts").mkdir(parents=True)
        part = repeated(tables, 0, images)
        pyarrow.parquet.write_table(part.to_arrow(), run / "parts" / "0000-000000.parquet")
        record = {
            "schema": 1,
            "panbench": "0",
            "kind": "score",
            "name": run.name,
            "status": "done",
            "dataset": {"name": "made", "split": "val", "fingerprint": "made", "n_images": images},
            "images": {"expected": images, "scored": images},
            "categories": [
                {"id": c.id, "name": c.name, "isthing": c.isthing, "supercategory": f"group {c.id % 12}", "color": None}
                for c in categories
            ],
        }
        (run / "run.json").write_text(json.dumps(record), "utf-8")
        runs.append(run)
    return runs


def measure(command: str, runs: list[Path]) -> dict[str, float]:
    """Matchings and CPU seconds of a command on the panbench that is on the path."""
    import panbench.metrics.uncertainty as uncertainty
    from panbench.report.answers import comparison, findings
    from panbench.runs import load_run

    # Before there was metrics/matched.py, metrics/pq.py matched.
    there = importlib.util.find_spec("panbench.metrics.matched")
    matching: Any = importlib.import_module("panbench.metrics.matched" if there else "panbench.metrics.pq")
    counts = {"matchings": 0.0, "resampling": 0.0}

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def joined(*arguments: Any) -> Any:
            counts["matchings"] += 1
            return call(*arguments)

        return joined

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def resampled(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            answer = call(*arguments, **options)
            counts["resampling"] += time.process_time() - began
            return answer

        return resampled

    matching._rows = counted(matching._rows)
    # The second name is that of checkouts from before.
    resample = "resampled" if hasattr(uncertainty, "resampled") else "_resampled"
    setattr(uncertainty, resample, timed(getattr(uncertainty, resample)))
    uncertainty._swap_p_values = timed(uncertainty._swap_p_values)
    work: dict[str, Callable[[], Any]] = {
        "metrics": lambda: findings.metric_findings(load_run(runs[0])),
        "errors": lambda: findings.error_findings(load_run(runs[0])),
        "compare": lambda: comparison.standing([load_run(run) for run in runs], by="size"),
    }
    began = time.process_time()
    work[command]()
    return {"seconds": time.process_time() - began, **counts}


def main() -> None:
    """Reads the arguments, writes the runs, measures each checkout in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--before", type=Path, metavar="PATH", help="a checkout of panbench to set against this one")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        command, *runs = options.measure
        print(json.dumps(measure(command, [Path(run) for run in runs])))
        return
    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["now"] = ROOT
    with tempfile.TemporaryDirectory() as scratch:
        runs = write_runs(Path(scratch), options.images)
        best: dict[tuple[str, str], dict[str, float]] = {}
        for _ in range(options.repeat):
            for command in COMMANDS:
                for name, path in checkouts.items():
                    child = [sys.executable, __file__, "--measure", command, *map(str, runs)]
                    environment = {**os.environ, "PYTHONPATH": str(path)}
                    ran = subprocess.run(child, env=environment, capture_output=True, text=True)
                    if ran.returncode:
                        raise SystemExit(f"{name} ({path}): {ran.stderr.strip()}")
                    found = json.loads(ran.stdout)
                    known = best.setdefault((command, name), found)
                    if found["seconds"] < known["seconds"]:
                        best[command, name] = found
    print(f"{options.images:,} images; load of the machine at the end: {os.getloadavg()[0]:.1f}")
    for command in COMMANDS:
        line = f"{command:>8}:"
        for name in checkouts:
            found = best[command, name]
            line += (
                f"  {name} {found['matchings']:.0f} matchings, {found['seconds']:.2f} s CPU "
                f"(resampling {found['resampling']:.2f})"
            )
        if options.before:
            before, now = best[command, "before"], best[command, "now"]
            line += f"  ratio {before['seconds'] / now['seconds']:.2f}"
        print(line)


if __name__ == "__main__":
    main()
