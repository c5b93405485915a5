"""What benchmarks share: arguments, sides in turn by CPU time, the machine's line, a CSV and its Markdown table."""

import argparse
import csv
import functools
import itertools
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
    """Parses the command line: an option per default, of its type (a tuple: some of its words), and `--write`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**defaults, "write": False}.items():
        one = default[0] if isinstance(default, tuple) else default
        how: dict[str, Any] = {"type": one if isinstance(one, type) else type(one), "help": f"default: {default}"}
        if isinstance(default, tuple) and isinstance(one, str):
            how["choices"] = default
        how = {"action": "store_true"} if one is False else {**how, "nargs": "+"} if one is not default else how
        parser.add_argument(f"--{name.replace('_', '-')}", default=None if isinstance(one, type) else default, **how)
    return parser.parse_args()


def checkouts(before: Path | None) -> dict[str, Path]:
    """Returns the checkouts to measure: the one that `--before` names, if any, and this one."""
    return {**({"before": before.resolve()} if before else {}), "now": ROOT}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Measures user and system time of one call, of all threads and finished child processes."""
    own, ended = time.process_time(), os.times()
    work()
    return time.process_time() - own + sum(os.times()[2:4]) - sum(ended[2:4])


def turns(sides: Mapping[Side, Callable[[], Found]], rounds: int) -> dict[Side, list[Found]]:
    """Runs the sides in turn, so that other load hits all alike; returns the result of each side in each round."""
    each = [{side: work() for side, work in sides.items()} for _ in range(rounds)]
    return {side: [found[side] for found in each] for side in sides}


def in_turn(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Measures CPU seconds of each side in each round, without the warm-up round."""
    turns(sides, 1)
    return turns({side: functools.partial(cpu_seconds, work) for side, work in sides.items()}, rounds)


def compared(slow: Sequence[float], fast: Sequence[float], name: str = "ratio", digits: int = 2) -> Row:
    """Returns two cells: the median ratio of the rounds, and its range."""
    each = [one / max(other, 1e-9) for one, other in zip(slow, fast, strict=True)]
    return {name: f"{statistics.median(each):.{digits}f}", "from–to": f"{min(each):.{digits}f}–{max(each):.{digits}f}"}


def machine() -> str:
    """Describes the machine, its load and the software in one line."""
    from panbench.base import provenance  # not at the top: a child may measure another checkout's

    cpu = f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    commit = (provenance.git_commit() or "unknown")[:9]
    return f"{time.strftime('%Y-%m-%d')}, {cpu}, Python {platform.python_version()}, commit {commit}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Formats rows as a Markdown table without the column `machine`; the first and textual columns are left-aligned."""
    columns = [name for name in rows[0] if name != "machine"]
    rule = ["---", *("---:" if all(len(row[name]) < 25 for row in rows) else "---" for name in columns[1:])]
    head, *body = (
        f"| {' | '.join(cells)} |" for cells in (columns, *([row[name] for name in columns] for row in rows))
    )
    return "\n".join([head, f"|{'|'.join(rule)}|", *body])


def stored(name: str) -> list[Row]:
    """Reads the rows of results/benchmarks/NAME.csv, each with its machine; none if the file does not exist."""
    path = RESULTS / f"{name}.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines())) if path.exists() else []


def finish(
    name: str, rows: Sequence[Mapping[str, str]], write: bool, absent: Sequence[str] = (), quiet: bool = False
) -> None:
    """Prints the table and the machine; if `write`, stores results/benchmarks/NAME.csv, unless a side is absent.

    Rows that took long have the machine as it was then, under `machine`; a row without some columns gets dashes there.
    quiet: the table comes later
    """
    from panbench.base.files import atomic_write

    where = machine()
    heads = [column for column in dict.fromkeys(itertools.chain(*rows)) if column != "machine"]
    rows = [{**dict.fromkeys(heads, "–"), **row} for row in rows]
    if not quiet:
        print(f"\n{name}: {where}\n\n{markdown(rows)}", *(f"\n{peer}: not installed, so no CSV" for peer in absent))
    if write and not absent:
        with atomic_write(RESULTS / f"{name}.csv", "w") as handle:
            writer = csv.DictWriter(handle, [*heads, "machine"], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"machine": where, **row} for row in rows)
