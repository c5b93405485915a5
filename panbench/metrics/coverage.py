"""Simulated coverage of the intervals, quoted beside them where it is below nominal.

scripts/check/simulate_intervals.py writes coverage.csv; docs/simulations.md has the same numbers and what they are of.
"""

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from panbench.base.text import in_sentence
from panbench.metrics.samples import FEWEST_IMAGES

__all__ = ["coverage_note", "interval_notes", "measured_coverage"]

FULL_IMAGES = 200
"""On fewer images the measured coverage is always printed."""

LEAST = 0.92
"""On more images it is printed if it is lower."""


@cache
def _rates() -> tuple[tuple[int, str, float], ...]:
    """(images, metric, rate) of each population and group."""
    with (Path(__file__).parent / "coverage.csv").open(encoding="utf-8", newline="") as file:
        return tuple((int(row["images"]), row["metric"], float(row["covered"])) for row in csv.DictReader(file))


def measured_coverage(images: int, metrics: Sequence[str] = ("PQ",)) -> tuple[int, float, float]:
    """(images, lowest, highest): how often 95 % intervals of All, Things and Stuff held the population's score.

    Of the largest simulated number of images up to `images`, or the least of all, over the simulated populations.
    """
    simulated = sorted({of for of, _, _ in _rates()})
    closest = max((of for of in simulated if of <= images), default=simulated[0])
    rates = [rate for of, metric, rate in _rates() if of == closest and metric in metrics]
    return closest, min(rates), max(rates)


def coverage_note(images: int, metrics: Sequence[str] = ("PQ",)) -> str | None:
    """A sentence on the coverage of intervals from this many images, by measure; None if it is about nominal."""
    of_metrics = {metric: measured_coverage(images, (metric,)) for metric in metrics}
    simulated = next(iter(of_metrics.values()))[0]
    if images >= FULL_IMAGES and min(lowest for _, lowest, _ in of_metrics.values()) >= LEAST:
        return None
    fewer = "; fewer hold less often" if images < simulated else ""
    rates = [f"of {name} in {100 * low:.0f} to {100 * high:.0f} %" for name, (_, low, high) in of_metrics.items()]
    return (
        f"In simulations 95 % intervals from {simulated:,} images held the truth {in_sentence(rates)} of data sets"
        f"{fewer} (docs/simulations.md)."
    )


def interval_notes(images: int, metrics: Sequence[str] = ("PQ",)) -> tuple[str, ...]:
    """Notes below a table of intervals from this many images: how they were made, and their coverage."""
    if images < FEWEST_IMAGES:
        return (f"Fewer than {FEWEST_IMAGES} images: no intervals.",)
    how = (
        f"Intervals: jackknife over {images:,} images, corrected for the bias of small samples, so PQ can lie near the "
        "lower end of its interval."
    )
    often = coverage_note(images, metrics)
    return (how,) if often is None else (how, often)
