"""Tests whether another labelling changes which model is better, beyond chance.

The jackknife leaves an image out of both truths and of all runs at once (metrics/jackknife.py), so the change of labels
is separated from the choice of images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.metrics.jackknife import Jackknife
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import compare_runs

DRAWS = 10_000


@dataclass(frozen=True)
class RankChanges:
    """How PQ and ranks of runs change from one truth to the other, for All, Things and Stuff.

    low and high are the ends of intervals at `level`.
    runs: one row per run and group: run, group, and for truth a and b each PQ, PQ_low, PQ_high, rank, rank_low,
        rank_high (with the suffix _a or _b); change (PQ_b − PQ_a), low, high
    pairs: one row per pair of runs and group: run, other, group, difference_a (run − other), low_a, high_a,
        difference_b, low_b, high_b, change (difference_b − difference_a), low, high, flipped (whether the order is the
        other way round), flips (the share of DRAWS from a normal distribution of the two differences in which it is)
    """

    runs: pd.DataFrame
    pairs: pd.DataFrame
    level: float


def rank_changes(
    on_a: Mapping[str, ImageStatistics], on_b: Mapping[str, ImageStatistics], *, level: float = 0.95, seed: int = 0
) -> RankChanges:
    """Compares ranks and PQ of runs on two truths of the same images and categories.

    Raises BadArgument if the statistics are of different runs or images.
    """
    names = list(on_a)
    if names != list(on_b):
        raise BadArgument("rank_changes needs the same runs on both truths.")
    samples = [Sample.of(side[name]) for side in (on_a, on_b) for name in names]
    if any(not np.array_equal(sample.image_ids, samples[0].image_ids) for sample in samples):
        raise BadArgument("rank_changes needs the same images on both truths.")
    stack = Stack.of(samples)
    n, groups = len(names), len(stack.members)
    of = [Jackknife.of(stack, run) for run in range(2 * n)]
    exact = stack.exact()[:, 0, :groups]
    standing = [_pq_and_ranks(side, level, seed) for side in (on_a, on_b)]

    runs, pairs = [], []
    changed = [(of[n + run] - of[run]).estimate().ends(level) for run in range(n)]
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
            runs.append({**row, "change": change, "low": changed[run][0][0, group], "high": changed[run][1][0, group]})
        for one, other in combinations(range(n), 2):
            apart = [of[side * n + one] - of[side * n + other] for side in (0, 1)]
            value = [exact[side * n + one, group] - exact[side * n + other, group] for side in (0, 1)]
            ends = [[end[0, group] for end in each.estimate().ends(level)] for each in (*apart, apart[1] - apart[0])]
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
                            ("low", ends[side][0]),
                            ("high", ends[side][1]),
                        )
                    },
                    "change": value[1] - value[0],
                    "low": ends[2][0],
                    "high": ends[2][1],
                    "flipped": bool(value[0] * value[1] < 0),
                    "flips": _flip_rate(apart, group, seed),
                }
            )
    return RankChanges(pd.DataFrame(runs), pd.DataFrame(pairs), level)


def _flip_rate(apart: Sequence[Jackknife], group: int, seed: int) -> float:
    """Estimates how often a difference has another sign on the other truth; NaN if it is undefined."""
    left_out = np.stack([each.left_out[0, group] for each in apart])
    units = left_out.shape[1]
    if np.isnan(left_out).any():
        return float("nan")
    covariance = np.cov(left_out, bias=True) * (units - 1)
    centre = [each.estimate().centre[0, group] for each in apart]
    drawn = np.random.default_rng(seed).multivariate_normal(centre, covariance, DRAWS)
    return float((drawn[:, 0] * drawn[:, 1] < 0).mean())


def _pq_and_ranks(runs: Mapping[str, ImageStatistics], level: float, seed: int) -> pd.DataFrame:
    """Returns each run's PQ, its interval and rank, over all categories, things and stuff.

    The index is (run, group).
    """
    table = compare_runs(runs, level=level, seed=seed).runs
    return table[(table["metric"] == "PQ") & table["group"].notna()].set_index(["run", "group"])
