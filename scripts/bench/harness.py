"""What benchmarks share: arguments, sides in turn by CPU time, the machine's line, a CSV and its Markdown table."""

import argparse
import csv
import functools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "benchmarks"
sys.path.insert(0, str(ROOT))
Row = dict[str, str]
Found = TypeVar("Found")
Side = TypeVar("Side")


def arguments(about: str | None, **defaults: Any) -> argparse.Namespace:
    """The command line: an option of each default's type (a tuple: several; a type: none by default), and `--write`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**defaults, "write": False}.items():
        one = default[0] if isinstance(default, tuple) else default
        how: dict[str, Any] = {"type": one if isinstance(one, type) else type(one), "help": f"default: {default}"}
        how = {"action": "store_true"} if one is False else {**how, "nargs": "+"} if one is not default else how
        parser.add_argument(f"--{name.replace('_', '-')}", default=None if isinstance(one, type) else default, **how)
    return parser.parse_args()


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system time of one call, of all threads and of processes that it has ended."""
    own, ended = time.process_time(), os.times()
    work()
    return time.process_time() - own + sum(os.times()[2:4]) - sum(ended[2:4])


def turns(sides: Mapping[Side, Callable[[], Found]], rounds: int) -> dict[Side, list[Found]]:
    """What each side returned in each round. Sides take turns, so other work on the machine meets them alike."""
    each = [{side: work() for side, work in sides.items()} for _ in range(rounds)]
    return {side: [found[side] for found in each] for side in sides}


def in_turn(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side in each round, after one that is not counted."""
    turns(sides, 1)
    return turns({side: functools.partial(cpu_seconds, work) for side, work in sides.items()}, rounds)


def compared(slow: Sequence[float], fast: Sequence[float], name: str = "ratio", digits: int = 2) -> Row:
    """Two cells: median of the rounds' ratios, and the lowest and the highest."""
    each = [one / max(other, 1e-9) for one, other in zip(slow, fast, strict=True)]
    return {name: f"{statistics.median(each):.{digits}f}", "from–to": f"{min(each):.{digits}f}–{max(each):.{digits}f}"}


def machine() -> str:
    """The machine, its load and what ran there, in one line."""
    from panbench.base import provenance  # not at the top: a child may measure another checkout's

    cpu = f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    commit = (provenance.git_commit() or "unknown")[:9]
    return f"{time.strftime('%Y-%m-%d')}, {cpu}, Python {platform.python_version()}, commit {commit}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as a table, without the column `machine`; the first column and columns of text are aligned left."""
    columns = [name for name in rows[0] if name != "machine"]
    rule = ["---", *("---:" if all(len(row[name]) < 25 for row in rows) else "---" for name in columns[1:])]
    lines = [columns, rule, *([row[name] for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def finish(
    name: str, rows: Sequence[Mapping[str, str]], write: bool, absent: Sequence[str] = (), quiet: bool = False
) -> None:
    """Prints the table and the machine; if `write`, fills results/benchmarks/NAME.csv, unless a side is absent.

    Rows that took long have the machine as it was then, under `machine`. quiet: the table comes later
    """
    from panbench.base.files import atomic_write

    where = machine()
    if not quiet:
        print(f"\n{name}: {where}\n\n{markdown(rows)}", *(f"\n{peer}: not installed, so no CSV" for peer in absent))
    if write and not absent:
        with atomic_write(RESULTS / f"{name}.csv", "w") as handle:
            heads = [column for column in rows[0] if column != "machine"]
            writer = csv.DictWriter(handle, [*heads, "machine"], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"machine": where, **row} for row in rows)
