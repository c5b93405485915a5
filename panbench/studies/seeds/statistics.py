"""Models that were trained several times: is the difference of two methods more than the luck of seeds and of images?

A model is its seeds: runs of the same method that differ in the seed of training. Its PQ is the mean of theirs. What is
resampled has two levels [Davison & Hinkley 1997, sec. 3.8]: the seeds of each model, and the images, the same for all
runs. The variance of a mean of S seeds is taken apart:

    σ² = σ²_images + s² / S

s: the standard deviation of the seeds' PQ. It holds what a seed gains everywhere, and what it gains on single images
σ²_images: the variance of the seeds' mean by resampling images, less the part of single seeds on single images, which
    is in s² / S already (resampling images shows that part, too; counted twice, intervals cover far too much)

The resamples of each level are scaled to its part. As a few seeds tell their spread badly, intervals of differences are
stretched by t/z with Satterthwaite's degrees of freedom [1946]: seeds have S − 1 each, images as good as infinitely
many. The interval of one model's PQ has the jackknife's centre, variance and freedom for the images (jackknife.py), as
PQ of few images is biased; that cancels in differences. docs/simulations.md has the simulation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr, stdtrit

from panbench.base.errors import BadArgument
from panbench.metrics.jackknife import Estimate, Jackknife
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.uncertainty import draw_counts, holm, in_blocks, percentiles

__all__ = ["POWER", "SeedComparison", "compare_seeds", "seeds_needed"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

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
    resamples: int


def compare_seeds(
    models: Mapping[str, Sequence[Sample]],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
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
    own = [slice(start, stop) for start, stop in pairwise(ends.tolist())]
    groups = [stack.scopes[group][0] for group in range(len(stack.members))]
    exact = stack.exact()[:, 0, : len(groups)]
    drawn = _resample_images(stack, resamples, seed)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    of = {name: _Model.of(exact[rows], drawn[rows], rng) for name, rows in zip(models, own, strict=True)}
    runs = {name: range(*rows.indices(stack.n_runs)) for name, rows in zip(models, own, strict=True)}

    rows = []
    for name, model in of.items():
        by_images = Jackknife.mean([Jackknife.of(stack, run) for run in runs[name]]).estimate()
        low, high = model.with_seeds(by_images).interval(level)
        for group, label in enumerate(groups):
            rows.append(
                {
                    "model": name,
                    "group": label,
                    "seeds": model.seeds,
                    "PQ": model.value[group],
                    "spread": model.spread[group] if model.seeds > 1 else np.nan,
                    "lowest": model.lowest[group],
                    "highest": model.highest[group],
                    "low": low[group],
                    "high": high[group],
                }
            )
    pairs = []
    for a, b in combinations(of, 2):
        estimate = _Difference.of(of[b], of[a])
        low, high = estimate.interval(level, stack.images_of(range(stack.n_runs))[: len(groups)])
        alone = 1 in (of[a].seeds, of[b].seeds)
        for group, label in enumerate(groups):
            total = estimate.of_images[group] + estimate.of_seeds[group]
            needed = seeds_needed(detect, of[a].spread[group], of[b].spread[group], estimate.of_images[group], level)
            pairs.append(
                {
                    "a": a,
                    "b": b,
                    "group": label,
                    "difference": estimate.value[group],
                    "low": low[group],
                    "high": high[group],
                    "p": np.nan if alone else _p_value(estimate.value[group], total, estimate.freedom[group]),
                    "of_seeds": np.nan if alone or total <= 0 else estimate.of_seeds[group] / total,
                    "needed": np.nan if alone else needed,
                }
            )
    table = pd.DataFrame(pairs, columns=["a", "b", "group", "difference", "low", "high", "p", "of_seeds", "needed"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    table["significant"] = table["p_holm"] < 1 - level
    return SeedComparison(pd.DataFrame(rows), table, len(samples[0].image_ids), detect, level, resamples)


@dataclass(frozen=True)
class _Model:
    """A model's seeds: arrays are (groups,) unless stated otherwise.

    by_images: (groups, resamples) how far the mean of the seeds is from its value when images are drawn
    by_seeds: the same when seeds are drawn from them, beyond that
    single: the variance of single seeds on single images, of one seed; spread is 0 of one seed
    """

    seeds: int
    value: Float
    spread: Float
    lowest: Float
    highest: Float
    single: Float
    by_images: Float
    by_seeds: Float

    @staticmethod
    def of(exact: Float, drawn: Float, rng: np.random.Generator) -> "_Model":
        """exact: (seeds, groups) PQ; drawn: (seeds, groups, resamples) of resampled images."""
        n, value = len(exact), exact.mean(axis=0)
        means = drawn.mean(axis=0)
        apart = drawn - means
        weights = rng.multinomial(n, np.full(n, 1 / n), size=drawn.shape[-1]) / n
        single = apart.var(axis=-1).mean(axis=0) * n / (n - 1) if n > 1 else np.zeros(len(value))
        return _Model(
            n,
            value,
            exact.std(axis=0, ddof=1) if n > 1 else np.zeros(len(value)),
            exact.min(axis=0),
            exact.max(axis=0),
            single,
            means - value[:, None],
            np.einsum("sgr,rs->gr", apart, weights),
        )

    def with_seeds(self, by_images: Estimate) -> Estimate:
        """The estimate of PQ over seeds and images, from that of the seeds' mean over images alone."""
        of_images = np.maximum(by_images.variance[0] - self.single / self.seeds, 0)
        of_seeds = self.spread**2 / self.seeds
        freedom = by_images.freedom[0]
        parts = of_images**2 / freedom + (of_seeds**2 / (self.seeds - 1) if self.seeds > 1 else 0)
        np.divide((of_images + of_seeds) ** 2, parts, out=freedom, where=parts > 0)
        return Estimate(by_images.centre[0], of_images + of_seeds, freedom)


@dataclass(frozen=True)
class _Difference:
    """The difference of two models, with the variances of its levels and resamples of both together."""

    value: Float
    of_images: Float
    of_seeds: Float
    freedom: Float
    drawn: Float

    @staticmethod
    def of(model: _Model, less: _Model) -> "_Difference":
        """Makes it for the difference `model` − `less`."""
        shown = np.asarray(model.by_images - less.by_images)
        parts = [one.spread**2 / one.seeds for one in (model, less)]
        single = model.single / model.seeds + less.single / less.seeds
        of_images = np.maximum(shown.var(axis=-1) - single, 0)
        drawn = shown * _scale(of_images, shown.var(axis=-1))
        for sign, one, part in zip((1, -1), (model, less), parts, strict=True):
            drawn = drawn + sign * one.by_seeds * _scale(part, one.by_seeds.var(axis=-1))
        of_seeds = np.sum(parts, axis=0)
        least = sum(part**2 / (one.seeds - 1) for part, one in zip(parts, (model, less), strict=True) if one.seeds > 1)
        freedom = np.full(len(of_seeds), np.inf)
        np.divide((of_images + of_seeds) ** 2, least, out=freedom, where=np.asarray(least) > 0)
        return _Difference(model.value - less.value, of_images, of_seeds, freedom, drawn)

    def interval(self, level: float, images: Int) -> tuple[Float, Float]:
        """(low, high), the percentiles of the resamples, widened because few seeds underestimate their spread.

        images: (groups,) how many hold each group
        """
        low, high = percentiles(self.drawn, level, images)
        z = NormalDist().inv_cdf((1 + level) / 2)
        stretch = stdtrit(np.minimum(self.freedom, 1e9), (1 + level) / 2) / z
        return self.value + low * stretch, self.value + high * stretch


def _scale(wanted: Float, shown: Float) -> Float:
    """(groups, 1) what resamples of variance `shown` are multiplied by to have the variance `wanted`."""
    return np.sqrt(np.divide(wanted, shown, out=np.zeros_like(shown), where=shown > 0))[:, None]


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


def _resample_images(stack: Stack, resamples: int, seed: int) -> Float:
    """(runs, groups, resamples) PQ of resampled images, the same for all runs."""
    n_groups = len(stack.members)
    drawn = np.empty((stack.n_runs, n_groups, resamples))

    def draw(rng: np.random.Generator, span: slice) -> None:
        for run, sums in enumerate(stack.weighted(draw_counts(rng, stack.n_units, span.stop - span.start))):
            drawn[run, :, span] = stack.scores(sums)[0, :n_groups]

    in_blocks(draw, stack.n_units, resamples, seed)
    return drawn


def _p_value(difference: float, variance: float, freedom: float) -> float:
    """Two-sided, of Student's t; of a difference without any variance 1 if it is 0, else 0."""
    if variance <= 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(min(freedom, 1e9), -abs(difference) / math.sqrt(variance)))
