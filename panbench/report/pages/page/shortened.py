"""Fractions for the page's scripts: as few digits as read the same as all of them."""

from collections.abc import Iterable

__all__ = ["shortened"]


def shortened(values: Iterable[float]) -> list[float]:
    """Each fraction with as few digits, from four on, as show the same percent with none to two decimals.

    The scripts round once more: 0.80949 as 0.8095 would read 81.0 in a chart and 80.9 in a sentence.
    """
    return [_shortest(float(value)) for value in values]


def _shortest(value: float) -> float:
    # Nearly always four digits do: unless they end where percents with one decimal or none are rounded, up or down.
    if abs(value) < 1e6:
        last = round(tens_of_thousands := 1e4 * value)
        if last % 10 != 5 and last % 100 != 50 and abs(tens_of_thousands - last) < 0.499:
            return round(value, 4)
    reads = _reads(value)
    return next((short for digits in (4, 6, 8, 10, 12) if _reads(short := round(value, digits)) == reads), value)


def _reads(value: float) -> str:
    percent = 100 * value
    return f"{percent:.0f} {percent:.1f} {percent:.2f}"
