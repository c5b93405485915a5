"""Lists and counts in sentences."""

from collections.abc import Iterable
from typing import Any


def listed(values: Iterable[Any], most: int = 10) -> str:
    """`1, 2, 3 and 4 more`: values for a sentence."""
    items = [str(value) for value in values]
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
