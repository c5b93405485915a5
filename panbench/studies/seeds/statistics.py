"""Tests whether the difference of two methods is more than chance of training seeds and of images.

A model is a set of seeds: runs of the same method that differ in the seed of training. Its PQ is their mean. Chance has
two levels [Davison & Hinkley 1997, sec. 3.8]: the seeds of each model, and the images, the same for all runs. The
variance of the mean of S seeds is decomposed:

    σ² = σ²_images + s² / S

s: the standard deviation of the seeds' PQ; it includes effects of a seed on all images and on single images
σ²_images: the variance of the seeds' mean over images (metrics/jackknife.py), less the effects of single seeds on
    single images, which s² / S already includes (counted twice, intervals would be far too wide)

The variance of a difference of two models is decomposed in the same way; its images are paired. Few seeds estimate s
poorly, so intervals are Student's with Satterthwaite's degrees of freedom [1946]: seeds have S − 1 each, images
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

Float = npt.NDArray[np.float64]

POWER = 0.8
"""The power for which needed seeds are counted: how often an existing difference is found [Cohen 1988]."""

MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedComparison:
    """Results of some models over their seeds: PQ of All, Things and Stuff, fractions 0–1.

    models: one row per model and group: model, group, seeds, PQ (mean of the seeds), spread (their standard deviation,
        NaN for one seed), lowest, highest (of the seeds), low, high (interval over seeds and images; for one seed over
        images alone)
    differences: one row per pair and group: a, b, group, difference (b − a), low, high, p, p_holm, significant,
        of_seeds (the seeds' share of the variance), needed (seeds per model to find a difference of `detect`; NaN if no
        number is enough on these images). p, p_holm, of_seeds and needed are NaN if a model has one seed
    images: the number of images that all runs share; detect: the difference that `needed` is for
    """

    models: pd.DataFrame
    differences: pd.DataFrame
    images: int
    detect: float
    level: float


def compare_seeds(
    models: Mapping[str, Sequence[Sample]], *, level: float = 0.95, detect: float = 0.005
) -> SeedComparison:
    """Compares models by the runs of their seeds, all on the same images.

    detect: the difference of PQ for which `needed` is computed
    Raises BadArgument if runs differ in images, or `detect` is not above 0.
    """
    if not detect > 0:
        raise BadArgument(f"The difference to be found must be above 0, not {100 * detect:g} points.")
    samples = [sample for seeds in models.values() for sample in seeds]
    if not samples or any(not np.array_equal(sample.image_ids, samples[0].image_ids) for sample in samples):
        raise BadArgument("Seeds are compared on the same images. Narrow the statistics of all runs to those first.")
    stack = Stack.of(samples)
    ends = np.cumsum([0, *map(len, models.values())])
    of = {
        name: _ModelSeeds.of([Jackknife.of(stack, run) for run in range(start, stop)])
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
        more, less = of[b], of[a]
        apart = more.mean - less.mean
        by_images = _image_estimate(apart, more.single / more.seeds + less.single / less.seeds)
        estimate = _add_seed_variance(by_images, [more, less])
        of_seeds = more.of_seeds + less.of_seeds
        low, high = estimate.ends(level)
        p, total = estimate.p(), estimate.variance
        alone = 1 in (more.seeds, less.seeds)
        for group, label in enumerate(groups):
            pairs.append(
                {
                    "a": a,
                    "b": b,
                    "group": label,
                    "difference": apart.value[0, group],
                    "low": low[group],
                    "high": high[group],
                    "p": np.nan if alone else p[group],
                    "of_seeds": np.nan if alone or total[group] <= 0 else of_seeds[group] / total[group],
                    "needed": np.nan
                    if alone
                    else seeds_needed(detect, less.spread[group], more.spread[group], by_images.variance[group], level),
                }
            )
    table = pd.DataFrame(pairs, columns=["a", "b", "group", "difference", "low", "high", "p", "of_seeds", "needed"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    table["significant"] = table["p_holm"] < 1 - level
    return SeedComparison(pd.DataFrame(rows), table, len(samples[0].image_ids), detect, level)


@dataclass(frozen=True)
class _ModelSeeds:
    """The PQ of one model trained with several seeds: mean, spread and extremes.

    Arrays are (groups,): all categories, things, stuff.
    mean: over the seeds; spread: their standard deviation, 0 for one seed
    single: the variance of one seed that comes from effects on single images
    """

    seeds: int
    mean: Jackknife
    spread: Float
    lowest: Float
    highest: Float
    single: Float

    @staticmethod
    def of(runs: Sequence[Jackknife]) -> "_ModelSeeds":
        """Computes a model's statistics from the runs of its seeds, all on the same images."""
        n, mean = len(runs), Jackknife.mean(runs)
        pq = np.stack([run.value[0] for run in runs])
        spread = pq.std(axis=0, ddof=1) if n > 1 else np.zeros(pq.shape[1])
        single = sum((_jackknife_variance(run.left_out[0] - mean.left_out[0]) for run in runs), np.zeros(pq.shape[1]))
        return _ModelSeeds(n, mean, spread, pq.min(axis=0), pq.max(axis=0), single / max(n - 1, 1))

    @property
    def of_seeds(self) -> Float:
        """The variance of the mean PQ that comes from seeds, (groups,)."""
        return self.spread**2 / self.seeds

    def estimate(self) -> Estimate:
        """Estimates the model's PQ and its variance over seeds and images, (groups,)."""
        return _add_seed_variance(_image_estimate(self.mean, self.single / self.seeds), [self])


def _jackknife_variance(left_out: Float) -> Float:
    """Returns the jackknife's variance of a score, given its values without each image, (…, images)."""
    units = left_out.shape[-1]
    return np.asarray(left_out.var(axis=-1) * (units - 1))


def _image_estimate(jackknife: Jackknife, single: Float) -> Estimate:
    """Estimates PQ and the part of its variance that comes from the choice of images, not from seeds.

    single: the variance from single seeds on single images, which is subtracted
    """
    found = jackknife.estimate()
    return Estimate(found.centre[0], np.maximum(found.variance[0] - single, 0), found.freedom[0])


def _add_seed_variance(by_images: Estimate, models: Sequence[_ModelSeeds]) -> Estimate:
    """Adds the variance of the models' seeds to an estimate over images; degrees of freedom are Satterthwaite's."""
    total = by_images.variance + sum(model.of_seeds for model in models)
    parts = by_images.variance**2 / by_images.freedom
    parts = parts + sum(model.of_seeds**2 / (model.seeds - 1) for model in models if model.seeds > 1)
    freedom = np.divide(total**2, parts, out=by_images.freedom.copy(), where=parts > 0)
    return Estimate(by_images.centre, total, freedom)


def seeds_needed(detect: float, spread_a: float, spread_b: float, of_images: float, level: float = 0.95) -> float:
    """Returns how many seeds per model find a difference `detect` in POWER of all cases; NaN if no number is enough.

    The smallest n ≥ 2 with detect ≥ (t₁ + t₂) · √(σ²_images + (s_a² + s_b²)/n), t₁ and t₂ the quantiles of Student's
    t at (1 + level)/2 and POWER with 2(n − 1) degrees of freedom: power analysis of Welch's test for seeds as in Colas
    et al. [2018], plus the variance over images, which no number of seeds reduces.
    spread_a, spread_b: standard deviations between seeds; of_images: variance of the difference over images
    """
    sure, power = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(POWER)
    if detect <= (sure + power) * math.sqrt(of_images):
        return math.nan
    for n in range(2, MOST_SEEDS + 1):
        quantiles = stdtrit(2 * (n - 1), np.array([(1 + level) / 2, POWER])).sum()
        if detect >= quantiles * math.sqrt(of_images + (spread_a**2 + spread_b**2) / n):
            return float(n)
    return math.nan
