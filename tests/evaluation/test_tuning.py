import numpy as np
import pytest

from panbench.base.errors import BadArgument
from panbench.evaluation.stored.tuning import HELD_OUT, best_by_turns, halves, merge_statistics, tune
from panbench.metrics.slices import ImageStatistics, pq_by
from tests.metrics import sums
from tests.metrics.sums import CAR, SKY


def statistics(quality: list[float]) -> ImageStatistics:
    """One matched car and one matched sky an image, both of this IoU; below 0.5 both are missed."""
    pairs = [(image, kind, iou) for image, iou in enumerate(quality, 1) for kind in (CAR, SKY)]
    return sums.statistics([(*at, iou * (iou > 0.5), int(iou > 0.5), 0, int(iou <= 0.5)) for *at, iou in pairs])


def test_halves_hold_every_image_once_and_repeat_with_the_seed():
    one, other = halves(range(1, 12), seed=3)
    assert sorted([*one, *other]) == list(range(1, 12))
    assert {len(one), len(other)} == {5, 6}
    assert np.array_equal(halves(range(1, 12), seed=3)[0], one)
    assert not np.array_equal(halves(range(1, 12), seed=4)[0], one)


def test_one_image_cannot_be_halved():
    with pytest.raises(BadArgument, match="at least 2 images"):
        halves([7])


def test_statistics_of_the_halves_add_up_to_the_whole_set():
    whole = statistics([0.9, 0.8, 0.4, 0.7, 0.6])
    parts = [whole.only(half) for half in halves(whole.image_ids)]
    assert pq_by(merge_statistics(parts[::-1])).equals(pq_by(whole))


def test_a_setting_that_is_better_everywhere_keeps_its_gain_on_held_out_images():
    tuned = tune({"old": statistics([0.6] * 40), "new": statistics([0.8] * 40)}, "old")
    assert tuned.best == "new"
    assert [half.chosen for half in tuned.halves] == ["new", "new"]
    assert tuned.flattery == pytest.approx(0)
    assert tuned.held_out["PQ"] == pytest.approx(0.8)
    row = tuned.comparison.differences.query("group == 'All' and metric == 'PQ'").iloc[0]
    assert (row["a"], row["b"]) == ("old", HELD_OUT)
    assert row["difference"] == pytest.approx(0.2)


@pytest.mark.slow
def test_choosing_among_noise_looks_better_than_it_is():
    random = np.random.default_rng(0)
    settings = {f"s{number}": statistics(random.uniform(0.51, 1, 30).tolist()) for number in range(40)}
    tuned = tune(settings, "s0")
    # Nothing is really better, so what was chosen on one half is worth no more than any on the other.
    assert tuned.flattery > 0.02
    for half in tuned.halves:
        assert half.pq_here > half.pq_there
    assert tuned.table["PQ"].max() == pytest.approx(tuned.held_out["PQ"] + tuned.flattery)


def test_each_half_is_scored_with_the_setting_chosen_on_the_other():
    first = set(halves(range(1, 21))[0].tolist())
    one = statistics([0.9 if image in first else 0.6 for image in range(1, 21)])
    other = statistics([0.6 if image in first else 0.9 for image in range(1, 21)])
    tuned = tune({"one": one, "other": other}, "one")
    assert [half.chosen for half in tuned.halves] == ["one", "other"]
    assert tuned.held_out["PQ"] == pytest.approx(0.6)
    assert tuned.flattery == pytest.approx(0.15)


def test_an_unknown_published_setting_is_refused():
    with pytest.raises(BadArgument, match="not among those"):
        tune({"a": statistics([0.9, 0.8])}, "b")


def test_tuning_by_turns_finds_the_best_value_of_each_parameter():
    target = {"things": 3, "stuff": 1}
    found = best_by_turns(
        {"things": 0, "stuff": 0}, range(5), lambda s: -sum(abs(s[name] - target[name]) for name in s), rounds=2
    )
    assert found == target
