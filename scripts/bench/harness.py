"""What benchmarks share: arguments, sides in turn by CPU time, the machine's line, a CSV and its Markdown table."""

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base import provenance
from panbench.base.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "benchmarks"


def arguments(about: str | None, **numbers: int) -> argparse.Namespace:
    """The command line: an option for each number, and `--write`, which keeps the table in results/benchmarks."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=f"default: {number}")
    parser.add_argument("--write", action="store_true", help="write results/benchmarks/NAME.csv")
    return parser.parse_args()


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system time of one call, of all threads and of processes that it has ended."""
    own, ended = time.process_time(), os.times()
    work()
    after = os.times()
    return time.process_time() - own + sum(after[2:4]) - sum(ended[2:4])


def in_turn(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side in each round. Sides take turns, so other work on the machine meets them alike."""
    for work in sides.values():
        work()
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            spent[side].append(cpu_seconds(work))
    return spent


def ratios(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of the rounds' ratios."""
    each = [one / other for one, other in zip(slow, fast, strict=True)]
    return statistics.median(each), min(each), max(each)


def machine() -> str:
    """The machine, its load and what ran there, in one line."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    commit = provenance.git_commit() or "unknown"
    cpu = f"{provenance.cpu_name()}, {os.cpu_count()} cores{load}, Python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}, {cpu}, commit {commit[:9]}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as a table, without the column `machine`; the first column holds names, the others numbers."""
    columns = [name for name in rows[0] if name != "machine"]
    lines = [" | ".join(columns), " | ".join(["---", *["---:"] * (len(columns) - 1)])]
    return "\n".join(f"| {line} |" for line in [*lines, *(" | ".join(row[name] for name in columns) for row in rows)])


def finish(name: str, rows: Sequence[Mapping[str, str]], write: bool) -> None:
    """Prints the table and the machine; writes both to results/benchmarks/NAME.csv if asked to."""
    where = machine()
    print(f"{where}\n\n{markdown(rows)}")
    if write:
        with atomic_write(RESULTS / f"{name}.csv", "w") as handle:
            writer = csv.DictWriter(handle, [*rows[0], "machine"], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "machine": where} for row in rows)
