import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import refusal

from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Category, PanopticPrediction, Segment
from panbench.studies.ensembles.vote import count_joint_pixels, fuse_maps, vote, voted_overlap_table

CATEGORIES = (
    Category(1, "cat", True),
    Category(2, "dog", True),
    Category(7, "grass", False),
    Category(8, "sky", False),
)
ISTHING = {category.id: category.isthing for category in CATEGORIES}


def prediction(rows: list[str], **categories: int) -> PanopticPrediction:
    """A map drawn in letters, "." for void; categories: of each letter."""
    names = sorted(categories)
    ids = np.array([[names.index(letter) + 1 if letter != "." else 0 for letter in row] for row in rows], np.int32)
    segments = [Segment(number, categories[name], int((ids == number).sum())) for number, name in enumerate(names, 1)]
    return PanopticPrediction(4, ids, tuple(segment for segment in segments if segment.area))


def equal(models: int) -> dict[int, list[float]]:
    return {category: [1.0] * models for category in ISTHING}


def drawn(fused: PanopticPrediction) -> list[list[int]]:
    """The category id at each pixel, 0 for void."""
    of = {segment.id: segment.category_id for segment in fused.segments} | {0: 0}
    return [[of[int(one)] for one in row] for row in fused.ids]


A = prediction(["aaabbb", "aaabbb", "ggggg."], a=1, b=1, g=7)


def same_partition(one: PanopticPrediction, other: PanopticPrediction) -> bool:
    pairs = {(int(a), int(b)) for a, b in zip(one.ids.ravel(), other.ids.ravel(), strict=True)}
    return len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) and drawn(one) == drawn(other)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_identical_maps_vote_for_the_same_map(copies):
    fused = fuse_maps([A] * copies, ISTHING, equal(copies))
    assert same_partition(A, fused)
    assert sorted((segment.category_id, segment.area) for segment in fused.segments) == [(1, 6), (1, 6), (7, 5)]


def test_an_object_seen_by_one_of_three_models_is_dropped():
    without = prediction(["gggggg", "gggggg"], g=7)
    with_cat = prediction(["gccccg", "gccccg"], g=7, c=1)
    assert drawn(fuse_maps([without, with_cat, without], ISTHING, equal(3))) == [[7] * 6] * 2
    assert drawn(fuse_maps([with_cat, without, with_cat], ISTHING, equal(3))) == [[7, 1, 1, 1, 1, 7]] * 2


def test_two_objects_of_a_category_stay_two():
    near = prediction(["aaabbb", "aaabbb"], a=1, b=1)
    shifted = prediction(["aaaabb", "aaaabb"], a=1, b=1)
    fused = fuse_maps([near, shifted, near], ISTHING, equal(3))
    assert same_partition(near, fused)


def test_models_that_split_and_merge_objects_follow_the_majority():
    apart = prediction(["aaabbb", "aaabbb"], a=1, b=1)
    merged = prediction(["aaaaaa", "aaaaaa"], a=1)
    assert same_partition(apart, fuse_maps([apart, merged, apart], ISTHING, equal(3)))
    assert same_partition(merged, fuse_maps([merged, apart, merged], ISTHING, equal(3)))


def test_stuff_of_a_category_is_one_segment():
    pieces = prediction(["gg.hh.", "gg.hh."], g=7, h=7)
    (segment,) = fuse_maps([pieces, pieces], ISTHING, equal(2)).segments
    assert (segment.category_id, segment.area) == (7, 8)


def test_weights_by_category_decide_between_models():
    cats = prediction(["aaabbb", "ssssss"], a=1, b=1, s=8)
    stuff = prediction(["aaaaaa", "gggggg"], a=1, g=7)
    weights = {1: [1.0, 0.0], 2: [1.0, 0.0], 7: [0.0, 1.0], 8: [0.0, 1.0]}
    assert drawn(fuse_maps([cats, stuff], ISTHING, weights)) == [[1] * 6, [7] * 6]
    assert len(fuse_maps([cats, stuff], ISTHING, weights).segments) == 3


def test_scores_decide_between_models_of_equal_weight():
    def sees(category: int, score: float) -> PanopticPrediction:
        ids = np.ones((2, 3), np.int32)
        return PanopticPrediction(4, ids, (Segment(1, category, 6, score=score),))

    (segment,) = fuse_maps([sees(1, 0.6), sees(2, 0.9)], ISTHING, equal(2)).segments
    assert segment.category_id == 2
    assert segment.score == pytest.approx(0.45)


def test_void_wins_where_most_models_have_no_segment():
    nothing = prediction(["......"], a=1)
    assert not fuse_maps([nothing, prediction(["aaaaaa"], a=1), nothing], ISTHING, equal(3)).segments


def test_maps_of_different_size_are_refused():
    assert "one size" in refusal(ValueError, count_joint_pixels, [A, prediction(["aaa"], a=1)], ISTHING)


@st.composite
def maps(draw: st.DrawFn) -> PanopticPrediction:
    ids = np.array(draw(st.lists(st.integers(0, 4), min_size=48, max_size=48)), np.int32).reshape(6, 8)
    ids = np.repeat(np.repeat(ids[::2, ::2], 2, axis=0), 2, axis=1)
    of = [draw(st.sampled_from(sorted(ISTHING))) for _ in range(5)]
    scored = draw(st.booleans())
    segments = tuple(
        Segment(int(one), of[one], int((ids == one).sum()), score=draw(st.floats(0.1, 1)) if scored else None)
        for one in np.unique(ids)
        if one
    )
    return PanopticPrediction(4, ids, segments)


@given(st.lists(maps(), min_size=1, max_size=4), maps(), st.data())
def test_scoring_a_vote_equals_scoring_its_map(predictions, truth, data):
    weights = {
        category: [data.draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in predictions] for category in sorted(ISTHING)
    }
    painted = fuse_maps(predictions, ISTHING, weights)
    expected = overlap_table(4, truth.ids, truth.segments, painted.ids, painted.segments)
    voted = voted_overlap_table(count_joint_pixels(predictions, ISTHING, truth.ids), weights, truth.segments)
    assert pq_table(Matched.of(voted), CATEGORIES).equals(pq_table(Matched.of(expected), CATEGORIES))


def test_every_row_of_the_table_has_a_winner_or_void():
    table = count_joint_pixels([A, A], ISTHING)
    winner, score = vote(table, equal(2))
    assert table.pixels.sum() == A.ids.size
    assert set(winner.tolist()) == {-1, 0, 1, 2}
    assert score.tolist() == [1.0, 1.0, 1.0]
