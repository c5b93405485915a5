"""Rows of a table as JSON holds them."""

import math
from typing import Any

import pandas as pd

__all__ = ["as_records"]


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table in Python's own types, floats to the last bit; None where a value does not exist."""
    # pandas' to_json rounds to 15 decimals: the same number would differ from itself elsewhere in the record.
    return [
        {str(name): None if _is_absent(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _is_absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
