"""Models that were trained several times: is the difference of two methods more than the luck of seeds and of images?

A model is its seeds: runs of the same method that differ in the seed of training. Its PQ is the mean of theirs. Chance
has two levels [Davison & Hinkley 1997, sec. 3.8]: the seeds of each model, and the images, the same for all runs. The
variance of a mean of S seeds is taken apart:

    σ² = σ²_images + s² / S

s: the standard deviation of the seeds' PQ. It holds what a seed gains everywhere, and what it gains on single images
σ²_images: the variance of the seeds' mean over images (metrics/jackknife.py), less the part of single seeds on single
    images, which is in s² / S already (leaving out images shows that part, too; counted twice, intervals cover far
    too much)

The variance of a difference of two models is taken apart in the same way; its images are paired. A few seeds tell their
spread badly, so intervals are Student's with Satterthwaite's degrees of freedom [1946]: seeds have S − 1 each, images
those of the jackknife. docs/simulations.md has the simulation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from panbench.base.errors import BadArgument
from panbench.metrics.jackknife import Estimate, Jackknife
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.uncertainty import holm

__all__ = ["POWER", "SeedComparison", "compare_seeds", "seeds_needed"]

Float = npt.NDArray[np.float64]

POWER = 0.8
"""How often a difference that is there shall be found, when seeds are counted [Cohen 1988]."""

MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedComparison:
    """Results of some models over their seeds: PQ of All, Things and Stuff, fractions 0–1.

    models: one row a model and group: model, group, seeds, PQ (mean of the seeds), spread (their standard deviation,
        NaN of one seed), lowest, highest (of the seeds), low, high (interval over seeds and images; of one seed over
        images alone)
    differences: one row a pair and group: a, b, group, difference (b − a), low, high, p, p_holm, significant, of_seeds
        (the share of the doubt that is the seeds'), needed (seeds of each that a difference of `detect` needs; NaN
        where no number is enough on these images). p, p_holm, of_seeds and needed are NaN where a model has one seed
    images: how many all runs share; detect: the difference that `needed` is for
    """

    models: pd.DataFrame
    differences: pd.DataFrame
    images: int
    detect: float
    level: float


def compare_seeds(
    models: Mapping[str, Sequence[Sample]],
    *,
    level: float = 0.95,
    detect: float = 0.005,
) -> SeedComparison:
    """Compares models by the runs of their seeds, all on the same images.

    detect: the difference of PQ that `needed` is asked for
    Raises BadArgument when runs differ in images, or `detect` is not above 0.
    """
    if not detect > 0:
        raise BadArgument(f"The difference to be found must be above 0, not {100 * detect:g} points.")
    samples = [sample for seeds in models.values() for sample in seeds]
    if not samples or any(not np.array_equal(sample.image_ids, samples[0].image_ids) for sample in samples):
        raise BadArgument("Seeds are compared on the same images. Narrow the statistics of all runs to those first.")
    stack = Stack.of(samples)
    ends = np.cumsum([0, *map(len, models.values())])
    of = {
        name: _Model.of([Jackknife.of(stack, run) for run in range(start, stop)])
        for name, (start, stop) in zip(models, pairwise(ends.tolist()), strict=True)
    }
    groups = [stack.scopes[group][0] for group in range(len(stack.members))]
    rows = []
    for name, model in of.items():
        low, high = model.estimate().interval(level)
        for group, label in enumerate(groups):
            rows.append(
                {
                    "model": name,
                    "group": label,
                    "seeds": model.seeds,
                    "PQ": model.mean.value[0, group],
                    "spread": model.spread[group] if model.seeds > 1 else np.nan,
                    "lowest": model.lowest[group],
                    "highest": model.highest[group],
                    "low": low[group],
                    "high": high[group],
                }
            )
    pairs = []
    for a, b in combinations(of, 2):
        apart = _Difference.of(of[b], of[a])
        estimate = apart.estimate()
        low, high = estimate.ends(level)
        p, total = estimate.p(), estimate.variance
        alone = 1 in (of[a].seeds, of[b].seeds)
        for group, label in enumerate(groups):
            of_images = apart.of_images.variance[group]
            pairs.append(
                {
                    "a": a,
                    "b": b,
                    "group": label,
                    "difference": apart.value[group],
                    "low": low[group],
                    "high": high[group],
                    "p": np.nan if alone else p[group],
                    "of_seeds": np.nan if alone or total[group] <= 0 else apart.of_seeds[group] / total[group],
                    "needed": np.nan
                    if alone
                    else seeds_needed(detect, of[a].spread[group], of[b].spread[group], of_images, level),
                }
            )
    table = pd.DataFrame(pairs, columns=["a", "b", "group", "difference", "low", "high", "p", "of_seeds", "needed"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    table["significant"] = table["p_holm"] < 1 - level
    return SeedComparison(pd.DataFrame(rows), table, len(samples[0].image_ids), detect, level)


@dataclass(frozen=True)
class _Model:
    """A model's seeds: arrays are (groups,).

    mean: of the seeds; spread: their standard deviation, 0 of one seed
    single: the variance of single seeds on single images, of one seed
    """

    seeds: int
    mean: Jackknife
    spread: Float
    lowest: Float
    highest: Float
    single: Float

    @staticmethod
    def of(runs: Sequence[Jackknife]) -> "_Model":
        """Makes it of the seeds' runs on the same images."""
        n, mean = len(runs), Jackknife.mean(runs)
        pq = np.stack([run.value[0] for run in runs])
        spread = pq.std(axis=0, ddof=1) if n > 1 else np.zeros(pq.shape[1])
        single = sum((_by_images(run.left_out[0] - mean.left_out[0]) for run in runs), np.zeros(pq.shape[1]))
        return _Model(n, mean, spread, pq.min(axis=0), pq.max(axis=0), single / max(n - 1, 1))

    @property
    def of_seeds(self) -> Float:
        """The variance of the seeds' mean that is theirs."""
        return self.spread**2 / self.seeds

    def estimate(self) -> Estimate:
        """(groups,) PQ over seeds and images."""
        return _with_seeds(_of_pq(self.mean, self.single / self.seeds), [self])


@dataclass(frozen=True)
class _Difference:
    """The difference of two models, with the estimate by images alone and the variance that is the seeds'."""

    value: Float
    of_images: Estimate
    of_seeds: Float
    models: tuple[_Model, _Model]

    @staticmethod
    def of(model: _Model, less: _Model) -> "_Difference":
        """Makes it for the difference `model` − `less`."""
        apart = model.mean - less.mean
        of_images = _of_pq(apart, model.single / model.seeds + less.single / less.seeds)
        return _Difference(apart.value[0], of_images, model.of_seeds + less.of_seeds, (model, less))

    def estimate(self) -> Estimate:
        """(groups,) estimates over seeds and images."""
        return _with_seeds(self.of_images, self.models)


def _by_images(left_out: Float) -> Float:
    """The variance over images of a score with each of them left out, (…, images)."""
    units = left_out.shape[-1]
    return np.asarray(left_out.var(axis=-1) * (units - 1))


def _of_pq(jackknife: Jackknife, single: Float) -> Estimate:
    """PQ by images alone; single: the part of its variance that is single seeds' on single images."""
    found = jackknife.estimate()
    return Estimate(found.centre[0], np.maximum(found.variance[0] - single, 0), found.freedom[0])


def _with_seeds(by_images: Estimate, models: Sequence[_Model]) -> Estimate:
    """The estimate over images and the seeds of some models."""
    total = by_images.variance + sum(model.of_seeds for model in models)
    parts = by_images.variance**2 / by_images.freedom
    parts = parts + sum(model.of_seeds**2 / (model.seeds - 1) for model in models if model.seeds > 1)
    freedom = np.divide(total**2, parts, out=by_images.freedom.copy(), where=parts > 0)
    return Estimate(by_images.centre, total, freedom)


def seeds_needed(detect: float, spread_a: float, spread_b: float, of_images: float, level: float = 0.95) -> float:
    """How many seeds of each of two models find a difference `detect` in POWER of all cases; NaN if none are enough.

    The smallest n ≥ 2 with detect ≥ (t₁ + t₂) · √(σ²_images + (s_a² + s_b²)/n), t₁ and t₂ the quantiles of Student's
    t at (1 + level)/2 and POWER with 2(n − 1) degrees of freedom: power analysis of Welch's test as Colas et al. [2018]
    have it for seeds, with what the images leave open added, which no number of seeds takes away.
    spread_a, spread_b: standard deviations between seeds; of_images: variance of the difference by images
    """
    sure, power = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(POWER)
    if detect <= (sure + power) * math.sqrt(of_images):
        return math.nan
    for n in range(2, MOST_SEEDS + 1):
        quantiles = stdtrit(2 * (n - 1), np.array([(1 + level) / 2, POWER])).sum()
        if detect >= quantiles * math.sqrt(of_images + (spread_a**2 + spread_b**2) / n):
            return float(n)
    return math.nan
