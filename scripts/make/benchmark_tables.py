"""Writes the tables of docs/benchmarks.md from results/benchmarks/*.csv, between their marks.

python scripts/make/benchmark_tables.py
"""

import csv
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base.files import atomic_write
from scripts.bench.harness import RESULTS, ROOT, markdown

PAGE = ROOT / "docs" / "benchmarks.md"
MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def documented(page: str) -> str:
    """The text of the page with each marked table as its CSV has it."""

    def table(match: re.Match[str]) -> str:
        with (RESULTS / f"{match[2]}.csv").open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        return f"{match[1]}{markdown(rows)}\n\n{rows[0]['machine']}.\n{match[3]}"

    return MARKED.sub(table, page)


if __name__ == "__main__":
    with atomic_write(PAGE, "w") as handle:
        handle.write(documented(PAGE.read_text("utf-8")))
