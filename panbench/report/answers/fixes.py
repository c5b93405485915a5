"""What to fix first: errors of a cause, category and size by the PQ that mending them would win: a table, and words."""

from typing import Any

import pandas as pd

from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.report.answers.records import as_records

__all__ = ["FIRST", "fix_grid", "fix_record", "fix_sentence", "fix_words"]

FIRST = 10
"""So many rows are printed; a record has more."""

NAMED = 3
"""So many are named in a sentence."""

NOT_ADDED = (
    "Wins: PQ of All once all errors of this cause, category and size are mended, minus PQ now. Wins do not add up: "
    "each is for mending this alone. The first of many are flattered by chance. Their interval is that of PQ; none "
    "where fewer than 10 images hold such an error."
)


def fix_grid(cells: pd.DataFrame) -> Grid:
    """The first rows of `cells_to_fix`, in points of PQ."""
    rows = tuple(
        (
            str(row.cause),
            str(row.name),
            str(row.size),
            percent(row.gain),
            _interval(row.low, row.high) or ABSENT,
            str(row.errors),
            str(row.images),
        )
        for row in cells.head(FIRST).itertuples(index=False)
    )
    heads = ("Fix first", "Category", "Size", "wins", "95 % interval", "errors", "images")
    return Grid(heads, rows, words=3, notes=(NOT_ADDED,), spare=("images",))


def fix_record(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `cells_to_fix` for a record: fractions, None without an interval."""
    return as_records(cells)


def fix_words(cause: str, name: str, size: str) -> str:
    """A cell in words: "missed person, small"."""
    return f"{cause} {name}, {size}"


def fix_sentence(cells: pd.DataFrame, label: str) -> str:
    """The first cells in words, each with what mending it wins; "" where nothing is to be won."""
    parts = []
    for row in cells.head(NAMED).itertuples(index=False):
        known = _interval(row.low, row.high, 1)
        won = f"+{percent(row.gain, 1)}" + (f" {known}" if known else "")
        parts.append(f"{fix_words(row.cause, row.name, row.size)} ({won})")
    if not parts:
        return ""
    return f"To fix first in {label}, in points of PQ that mending each alone would win: {'; '.join(parts)}."


def _interval(low: float, high: float, digits: int = 2) -> str:
    return "" if low != low or high != high else f"[{percent(low, digits)}, {percent(high, digits)}]"
