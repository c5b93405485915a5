"""The same predictions on two ground truths: does another labelling change which model is better, beyond chance?

Resamples are the same images on both truths and for all runs, so a change is separated from the choice of images.
[as metrics/uncertainty.py]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import percentiles, resampled, weigh

__all__ = ["RankChanges", "rank_changes"]

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankChanges:
    """What another truth changes, for PQ of All, Things and Stuff. low and high are ends of intervals at `level`.

    runs: one row a run and group: run, group, and for truth a and b each PQ, PQ_low, PQ_high, rank, rank_low, rank_high
        (with the suffix _a or _b); change (PQ_b − PQ_a), low, high
    pairs: one row a pair of runs and group: run, other, group, difference_a (of run − other), low_a, high_a,
        difference_b, low_b, high_b, change (difference_b − difference_a), low, high, flipped (whether the order is the
        other way round), flips (the share of resamples in which it is)
    """

    runs: pd.DataFrame
    pairs: pd.DataFrame
    level: float
    resamples: int


def rank_changes(
    on_a: Mapping[str, ImageStatistics],
    on_b: Mapping[str, ImageStatistics],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> RankChanges:
    """Ranks and PQ of some runs on two truths of the same images and categories, and how they change.

    Raises BadArgument when the statistics are of different runs or images.
    """
    names = list(on_a)
    if names != list(on_b):
        raise BadArgument("rank_changes needs the same runs on both truths.")
    samples = [Sample.of(side[name]) for side in (on_a, on_b) for name in names]
    if any(not np.array_equal(sample.image_ids, samples[0].image_ids) for sample in samples):
        raise BadArgument("rank_changes needs the same images on both truths.")
    stack = Stack.of(samples)
    n, groups = len(names), len(stack.members)
    drawn = resampled(stack, resamples, seed)[:, 0, :groups]
    exact = stack.exact()[:, 0, :groups]
    standing = [_standing(side, level, seed) for side in (on_a, on_b)]

    runs, pairs = [], []
    changed = percentiles(drawn[n:] - drawn[:n], level)
    for group in range(groups):
        where = {"group": stack.scopes[group][0]}
        for run, name in enumerate(names):
            row: dict[str, object] = {"run": name, **where}
            for side, suffix in enumerate("ab"):
                own = standing[side].loc[(name, where["group"])]
                row |= {
                    f"PQ_{suffix}": exact[side * n + run, group],
                    f"PQ_low_{suffix}": own["low"],
                    f"PQ_high_{suffix}": own["high"],
                    f"rank_{suffix}": own["rank"],
                    f"rank_low_{suffix}": own["rank_low"],
                    f"rank_high_{suffix}": own["rank_high"],
                }
            change = exact[n + run, group] - exact[run, group]
            runs.append({**row, "change": change, "low": changed[0][run, group], "high": changed[1][run, group]})
        for one, other in combinations(range(n), 2):
            apart = [drawn[side * n + one, group] - drawn[side * n + other, group] for side in (0, 1)]
            value = [exact[side * n + one, group] - exact[side * n + other, group] for side in (0, 1)]
            ends = percentiles(np.stack([*apart, apart[1] - apart[0]]), level)
            known = ~np.isnan(apart[0]) & ~np.isnan(apart[1])
            pairs.append(
                {
                    "run": names[one],
                    "other": names[other],
                    **where,
                    **{
                        f"{column}_{suffix}": number
                        for side, suffix in enumerate("ab")
                        for column, number in (
                            ("difference", value[side]),
                            ("low", ends[0][side]),
                            ("high", ends[1][side]),
                        )
                    },
                    "change": value[1] - value[0],
                    "low": ends[0][2],
                    "high": ends[1][2],
                    "flipped": bool(value[0] * value[1] < 0),
                    "flips": float(np.mean((apart[0] * apart[1] < 0)[known])) if known.any() else np.nan,
                }
            )
    return RankChanges(pd.DataFrame(runs), pd.DataFrame(pairs), level, resamples)


def _standing(runs: Mapping[str, ImageStatistics], level: float, seed: int) -> pd.DataFrame:
    """PQ of groups with its interval and rank, by run and group."""
    # The fewest resamples: only intervals of differences need them, which are not asked for here.
    table = weigh(runs, resamples=100, level=level, seed=seed).runs
    return table[(table["metric"] == "PQ") & table["group"].notna()].set_index(["run", "group"])
