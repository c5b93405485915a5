"""The words of an address that asks for something, as the values of a query."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from panbench.base.errors import BadArgument

__all__ = ["MOST", "check_bounds", "values_of"]

MOST = 96
"""Images, or errors, of one answer, at most."""

_FRACTIONS = ("low", "high", "differ")


def values_of(query: type, words: Mapping[str, str]) -> dict[str, Any]:
    """The values of a query's fields that an address gives, by name.

    query: a dataclass; a field whose default is text is text, others are numbers. Raises BadArgument.
    """
    values: dict[str, Any] = {}
    for field in fields(query):
        word = words.get(field.name, "")
        if word == "":
            continue
        kind = str if isinstance(field.default, str) else float if field.name in _FRACTIONS else int
        try:
            values[field.name] = kind(word)
        except ValueError:
            raise BadArgument(f"{field.name}={word!r} is not a number.") from None
        if kind is float and not np.isfinite(values[field.name]):
            raise BadArgument(f"{field.name}={word!r} is not a number.")
    return values


def check_bounds(offset: int, limit: int) -> None:
    """Raises BadArgument for an unknown page of an answer."""
    if offset < 0 or not 0 <= limit <= MOST:
        raise BadArgument(f"offset is at least 0, and limit is 0 to {MOST}.")
