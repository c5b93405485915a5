"""Fractions for the page's scripts: as few digits as read the same as all of them."""

from collections.abc import Iterable, Iterator

__all__ = ["shortened"]


def shortened(values: Iterable[float]) -> list[float]:
    """Each fraction with as few digits, from four on, as show the same percent with none to two decimals.

    The scripts round once more: 0.80949 as 0.8095 would read 81.0 in a chart and 80.9 in a sentence.
    """
    exact = [float(value) for value in values]
    return [next(short for short in _shorter(value) if _reads(short) == _reads(value)) for value in exact]


def _shorter(value: float) -> Iterator[float]:
    yield from (round(value, digits) for digits in (4, 6, 8, 10, 12))
    yield value


def _reads(value: float) -> list[str]:
    return [f"{100 * value:.{digits}f}" for digits in range(3)]
