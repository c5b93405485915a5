"""Models by their seeds: means, spread, intervals over both levels, and how many seeds a difference needs."""

import math

import numpy as np
import pytest
import scipy.stats
from support import refusal

from panbench.base.errors import BadArgument
from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import Sample
from panbench.metrics.uncertainty import compare_runs
from panbench.studies.seeds.statistics import POWER, compare_seeds, seeds_needed
from scripts.check.simulated_trainings import Images, statistics_of, sums_of_model


def seeds(images, gains, start=0):
    """A seed of a model for each gain in the log-odds of finding an object, on the same images."""
    return [
        Sample.of(statistics_of(sums_of_model(np.random.default_rng(start + number), images, better=gain)))
        for number, gain in enumerate(gains)
    ]


@pytest.fixture(scope="module")
def images():
    return Images.sample(np.random.default_rng(7), 300)


@pytest.fixture(scope="module")
def models(images):
    return {"a": seeds(images, (-0.2, 0.0, 0.2)), "b": seeds(images, (0.3, 0.5, 0.7, 0.9), 50)}


def pq_of(sample):
    table = intervals(sample)
    return table.query("group == 'All' and metric == 'PQ'")["value"].item()


def row(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    (only,) = table.to_dict("records")
    return only


def test_a_models_pq_is_the_mean_of_its_seeds_and_the_spread_their_standard_deviation(models):
    found = compare_seeds(models)
    for name, samples in models.items():
        own = [pq_of(sample) for sample in samples]
        told = row(found.models, model=name, group="All")
        assert told["PQ"] == pytest.approx(np.mean(own))
        assert told["spread"] == pytest.approx(np.std(own, ddof=1))
        assert (told["lowest"], told["highest"]) == pytest.approx((min(own), max(own)))
        assert told["seeds"] == len(samples)
        assert told["low"] < told["PQ"] < told["high"]
    pair = row(found.differences, group="All")
    assert pair["difference"] == pytest.approx(
        row(found.models, model="b", group="All")["PQ"] - row(found.models, model="a", group="All")["PQ"]
    )


def test_with_one_seed_each_the_interval_is_over_images_and_there_is_no_p(images):
    one, other = seeds(images, (0.0,))[0], seeds(images, (0.5,), 9)[0]
    found = row(compare_seeds({"a": [one], "b": [other]}).differences, group="All")
    usual = compare_runs({"a": one, "b": other}, permutations=1).differences
    usual = row(usual, group="All", metric="PQ")
    assert (found["low"], found["high"]) == pytest.approx((usual["low"], usual["high"]))
    assert math.isnan(found["p"])
    assert math.isnan(found["needed"])
    assert not found["significant"]


def test_seeds_widen_the_interval_and_more_of_them_narrow_it(images):
    def width(n, luck):
        gains = luck * np.linspace(-1, 1, n)
        found = compare_seeds({"a": seeds(images, gains), "b": seeds(images, 1 + gains, 80)})
        pair = row(found.differences, group="All")
        return pair["high"] - pair["low"]

    assert width(3, 2.0) > 1.5 * width(3, 0.0)
    assert width(12, 2.0) < width(3, 2.0)


def test_a_model_does_not_differ_from_itself(models):
    found = row(compare_seeds({"a": models["a"], "b": models["a"]}).differences, group="All")
    assert found["difference"] == 0
    assert found["p"] == 1


def test_identical_seeds_add_no_variance(images):
    """Copies of a run have no spread: the interval is that of its images."""
    one, other = seeds(images, (0.0,))[0], seeds(images, (0.5,), 9)[0]
    found = row(compare_seeds({"a": [one] * 3, "b": [other] * 3}).differences, group="All")
    usual = row(compare_runs({"a": one, "b": other}, permutations=1).differences, group="All", metric="PQ")
    assert (found["low"], found["high"]) == pytest.approx((usual["low"], usual["high"]))
    assert found["of_seeds"] == pytest.approx(0)


def test_the_same_seed_gives_the_same_numbers(models):
    first, again = (compare_seeds(models).differences for _ in range(2))
    assert first.equals(again)


def test_the_seeds_needed_are_the_fewest_that_the_formula_takes():
    def found_by(n, spread, of_images):
        quantiles = scipy.stats.t.ppf([0.975, POWER], 2 * (n - 1)).sum()
        return quantiles * math.sqrt(of_images + 2 * spread**2 / n)

    for spread in (0.002, 0.004, 0.01):
        n = int(seeds_needed(0.005, spread, spread, 1e-7))
        assert found_by(n, spread, 1e-7) <= 0.005 < found_by(n - 1, spread, 1e-7) if n > 2 else True
    assert seeds_needed(0.005, 0.01, 0.01, 1e-7) > seeds_needed(0.005, 0.004, 0.004, 1e-7)
    assert seeds_needed(0.02, 0.01, 0.01, 1e-7) < seeds_needed(0.005, 0.01, 0.01, 1e-7)
    # Without images' doubt it is the sample size of a two-sample test [Cohen 1988]: 17 of each for d = 1.
    assert seeds_needed(0.01, 0.01, 0.01, 0) == 17


def test_if_the_variance_over_images_is_too_large_no_number_of_seeds_is_enough():
    assert math.isnan(seeds_needed(0.005, 0.001, 0.001, 0.01))


def test_other_images_and_a_zero_difference_are_refused(images, models):
    other = Sample.of(
        statistics_of(sums_of_model(np.random.default_rng(0), Images.sample(np.random.default_rng(0), 9)))
    )
    assert "same images" in refusal(BadArgument, compare_seeds, {"a": models["a"], "b": [other]})
    assert "above 0" in refusal(BadArgument, compare_seeds, models, detect=0)
