"""Writes the tables of benchmarks in the documents from results/benchmarks/*.csv, between their marks.

python scripts/make/benchmark_tables.py
"""

import csv
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base.files import atomic_write
from scripts.bench.harness import RESULTS, ROOT, markdown

MARKED = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Returns the text of each document that has a marked table."""
    found = {path: path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {path: text for path, text in found.items() if MARKED.search(text)}


def documented(page: str) -> str:
    """Returns the text of a page with each marked table replaced by its CSV's."""

    def table(match: re.Match[str]) -> str:
        with (RESULTS / f"{match[2]}.csv").open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        return f"{match[1]}{markdown(rows)}\n\n{rows[0]['machine']}.\n{match[3]}"

    return MARKED.sub(table, page)


if __name__ == "__main__":
    for path, text in pages().items():
        with atomic_write(path, "w") as handle:
            handle.write(documented(text))
