"""Ranks what to fix first, as a table and in words: errors by cause and size, by the PQ that fixing them gains."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from panbench.metrics.samples import FEWEST_IMAGES
from panbench.panoptic.types import Category
from panbench.report.answers.answer import as_records
from panbench.report.answers.grid import Grid, percent

FIRST = 8
"""Number of rows that are printed; a record has all."""

NAMED = 3
"""Number of cells named in a sentence, and of categories in a row."""

NOTHING = f"Nothing to fix stands out: no kind of error is in {FEWEST_IMAGES} images or more."

_NOT_ADDED = (
    "Wins: PQ of All once all errors of this cause and size are fixed, minus PQ now, with its 95 % interval. Wins do "
    f"not add up: each is for fixing this alone. Kinds of error in fewer than {FEWEST_IMAGES} images are left out."
)


def fix_first_grid(cells: pd.DataFrame, categories: Sequence[Category]) -> Grid:
    """Returns the table "Fix first": kinds of error (cause, size) by the points of PQ that fixing them would gain."""
    names = {category.id: category.name for category in categories}
    rows = tuple(
        (
            f"{row.cause}, {row.size}",
            percent(row.gain),
            f"[{percent(row.low)}, {percent(row.high)}]",
            str(row.errors),
            str(row.images),
            ", ".join(f"{names[one]} {percent(gain)}" for one, gain, _ in row.categories[:NAMED]),
        )
        for row in cells.head(FIRST).itertuples(index=False)
    )
    heads = ("Fix first", "wins", "95 % interval", "errors", "images", "most in")
    return Grid(heads, rows, notes=(_NOT_ADDED if rows else NOTHING,), spare=("images", "most in"))


def fix_first_json(cells: pd.DataFrame, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Returns as JSON which kinds of error to fix first, and the categories in which PQ would rise.

    Gains are fractions, not percentages.
    """
    names = {category.id: category.name for category in categories}
    rows = as_records(cells.drop(columns="categories"))
    for row, parts in zip(rows, cells["categories"], strict=True):
        row["categories"] = [
            {"category_id": one, "name": names[one], "gain": gain, "errors": errors} for one, gain, errors in parts
        ]
    return rows


def error_words(cause: str, name: str, size: str) -> str:
    """Describes a single error: "missed person, small"."""
    return f"{cause} {name}, {size}"


def fix_sentence(cells: pd.DataFrame, label: str) -> str:
    """Names the first kinds of error to fix and the PQ that fixing each gains, or says that none stands out."""
    parts = [
        f"{row.cause}, {row.size} (+{percent(row.gain, 1)} [{percent(row.low, 1)}, {percent(row.high, 1)}], "
        f"{row.errors:,} errors)"
        for row in cells.head(NAMED).itertuples(index=False)
    ]
    if not parts:
        return NOTHING
    return f"To fix first in {label}, in points of PQ that fixing each alone would win: {'; '.join(parts)}."
