"""p-values by swapping two runs' answers: against swaps drawn one by one, all swaps of few images, and the level."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse

from panbench.metrics.swaps import Swappable, swap_p_values

THINGS = np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]])


def runs_of(sums, cells=True, dense=False):
    """Swappable runs of (3, runs, cells, images) sums; dense ones give the same p and are sooner made."""
    rows = [one.reshape(-1, one.shape[-1]) for one in sums]
    return Swappable(tuple(rows if dense else map(scipy.sparse.csr_array, rows)), THINGS[:, : sums.shape[2]], cells)


def drawn(rng, runs, images, cells=4):
    """(3, runs, cells, images) Σ IoU, TP, TP + half of the mistakes; rare cells, too, that few images hold."""
    objects = rng.poisson(np.geomspace(1, 0.02, cells)[:, None], (runs, cells, images))
    hits = rng.binomial(objects, 0.6)
    mistakes = objects - hits + rng.poisson(0.05, objects.shape)
    return np.stack([hits * rng.uniform(0.5, 1, hits.shape), hits, hits + mistakes / 2]).astype(float)


def differences(sums, pair, ways=None):
    """(ways, 2, scopes) PQ and RQ of ways of swapping, each (images,), written out; as observed where none is given."""
    ways = np.zeros((1, sums.shape[-1]), bool) if ways is None else ways
    a, b = sums[:, pair[0], None], sums[:, pair[1], None]
    of_a, of_b = (np.where(ways[:, None], *two).sum(axis=-1) for two in ((b, a), (a, b)))

    def scores(iou_sum, hits, whole):
        with np.errstate(invalid="ignore", divide="ignore"):
            single = np.array([iou_sum / whole, hits / whole])
            single[:, whole == 0] = np.nan
            there = (THINGS[:, None] > 0) & (whole > 0)
            groups = [np.where(one, single, 0).sum(axis=-1) / one.sum(axis=-1) for one in there]
        return np.concatenate([np.stack(groups, axis=-1), single], axis=-1).swapaxes(0, 1)

    return scores(*of_b) - scores(*of_a)


def share_of(sums, pair, ways):
    """(2, scopes) of some ways of swapping the share after which the runs differ as much as without."""
    observed = np.abs(differences(sums, pair))[0] - 1e-12
    found = ~(np.abs(differences(sums, pair, ways)) < observed)
    return np.where(np.isnan(observed), np.nan, found.mean(axis=0))


def p_of(sums, pairs, permutations, seed=0, dense=False, **options):
    observed = np.concatenate([differences(sums, pair) for pair in pairs])
    return swap_p_values(
        runs_of(sums, dense=dense), pairs, observed, permutations, np.random.SeedSequence(seed), **options
    )


@pytest.mark.slow
def test_p_equals_that_of_swaps_drawn_one_by_one():
    rng = np.random.default_rng(3)
    sums, pairs = drawn(rng, 3, 60), [(0, 1), (2, 1)]
    p = p_of(sums, pairs, 20_000)
    for place, pair in enumerate(pairs):
        expected = share_of(sums, pair, rng.random((4000, 60)) < 0.5)
        np.testing.assert_allclose(p[place], expected, atol=4.5 * 0.5 / 4000**0.5)


def test_p_of_few_images_counts_all_possible_swaps():
    sums = drawn(np.random.default_rng(5), 2, 7)
    p = p_of(sums, [(0, 1)], 100_000)[0]
    expected = share_of(sums, (0, 1), np.array(list(product([False, True], repeat=7))))
    np.testing.assert_allclose(p, expected, atol=0.006)


@pytest.mark.parametrize("permutations", [1, 2, 99, 1023, 1024, 5000])
def test_p_is_a_share_of_the_requested_swaps_and_never_zero(permutations):
    sums = drawn(np.random.default_rng(7), 2, 200)
    # Run 1 finds everything, run 0 nothing: no way of swapping 200 images differs as much.
    sums[:, 1] = np.maximum(sums[:, 0], sums[:, 1]) + 1
    sums[:2, 0] = 0
    p = p_of(sums, [(0, 1)], permutations)
    assert p.min() == pytest.approx(1 / (1 + permutations), rel=1e-12)
    np.testing.assert_allclose(p * (1 + permutations), np.round(p * (1 + permutations)), rtol=1e-9)


def test_swaps_do_not_separate_a_run_from_itself():
    one = drawn(np.random.default_rng(1), 1, 50)
    assert (p_of(np.concatenate([one, one], axis=1), [(0, 1)], 500) == 1).all()


def test_p_does_not_depend_on_threads_or_storage_of_sums():
    sums, pairs = drawn(np.random.default_rng(9), 3, 80), [(0, 1), (0, 2)]
    steps = []
    expected = p_of(sums, pairs, 3000, done=steps.append)
    np.testing.assert_array_equal(expected, p_of(sums, pairs, 3000, workers=3))
    assert sum(steps) == 3000
    np.testing.assert_array_equal(expected, p_of(sums, pairs, 3000, dense=True))
    assert (expected != p_of(sums, pairs, 3000, seed=1)).any()


@pytest.mark.slow
@pytest.mark.parametrize(("images", "permutations"), [(6, 199), (40, 199), (40, 1999)])
def test_interchangeable_runs_differ_significantly_no_more_often_than_the_level(images, permutations):
    rng = np.random.default_rng(images + permutations)
    sets = 400 if permutations < 1000 else 150
    small = np.zeros((2, 7))
    for seed in range(sets):
        p = p_of(drawn(rng, 2, images), [(0, 1)], permutations, seed, dense=True)[0]
        small += np.nan_to_num(p, nan=1.0) <= 0.05
    # The error of the simulation: four standard errors of each of 14 scores, two of their mean.
    error = (0.05 * 0.95 / sets) ** 0.5
    assert (small / sets <= 0.05 + 4 * error).all()
    assert small.mean() / sets <= 0.05 + 2 * error
    assert small.max() / sets > 0.02
