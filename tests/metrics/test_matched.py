"""One table of matches a run: what it holds, and that parts of it are what matching the part would give."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadDataset
from panbench.metrics.errors import assign_causes
from panbench.metrics.matched import TP, VERDICTS, Matched
from panbench.metrics.pq import panoptic_quality, pq_table
from panbench.metrics.semantic import semantic_scores
from panbench.metrics.slices import image_statistics
from panbench.panoptic.overlap import OverlapTable, Pairs, Segments


def assert_same(left: Matched, right: Matched) -> None:
    for field in dataclasses.fields(Matched):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(ours, Segments | Pairs):
            ours, theirs = (np.stack([*map(np.float64, vars(columns).values())]) for columns in (ours, theirs))
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def test_a_pair_has_the_rows_of_both_segments_and_their_iou(scene):
    matched = scene(("aaab", "aa.b")).matched
    assert matched.segments.id[matched.gt].tolist() == [ord("a"), ord("b")]
    assert matched.segments.id[matched.pred].tolist() == [ord("a"), ord("b")]
    assert matched.iou.tolist() == [2 / 3, 1]
    assert matched.verdict.tolist() == [TP] * 4


def test_verdicts_agree_with_the_segments(scene):
    matched = scene(("aaaa..bC", "aaabbb.."), crowds="C").matched
    verdicts = [VERDICTS[code] for code in matched.verdict]
    # The crowd C and the predicted b, two of its three pixels on void, are neither right nor wrong.
    assert dict(zip(map(chr, matched.segments.id[:3]), verdicts, strict=False)) == {
        "C": "ignored",
        "a": "TP",
        "b": "FN",
    }
    assert verdicts[3:] == ["TP", "ignored"]


def test_an_image_without_segments_is_among_the_images(scene):
    assert scene(("..", ".."), ("aa", "..")).matched.image_ids.tolist() == [1, 2]


@pytest.mark.parametrize("metric", [pq_table, assign_causes, semantic_scores, image_statistics])
def test_an_unknown_category_is_refused_by_every_metric(scene, metric):
    matched, categories = scene(("aabb", "aabb"))
    with pytest.raises(BadDataset, match=r"(not among the categories|does not list): 2\."):
        metric(matched, [category for category in categories if category.id != 2])


def test_a_table_without_images_is_matched():
    matched = Matched.of(OverlapTable.empty())
    assert len(matched.image_ids) == len(matched.verdict) == len(matched.pair) == 0


def test_pq_is_the_quotient_of_sums_and_the_caller_chooses_its_value_if_empty():
    iou_sum, hits, mistakes = np.array([1.5, 0.0, 0.0]), np.array([2, 0, 0]), np.array([2, 1, 0])
    assert panoptic_quality(iou_sum, hits, mistakes).tolist() == [0.5, 0, 0]
    assert panoptic_quality(iou_sum, hits, mistakes, empty=1.0).tolist() == [0.5, 0, 1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_matching_a_subset_of_images_equals_selecting_it_afterwards(random_scenes, seed):
    tables = random_scenes(seed, images=8)
    wanted = tables.matched.image_ids[seed % 3 :: 2].tolist()
    alone = Matched.from_frames(
        *(frame[frame["image_id"].isin(wanted)] for frame in (tables.segments, tables.overlaps))
    )
    assert_same(tables.matched.only(wanted), alone)
    assert_same(tables.matched.only(tables.matched.image_ids), tables.matched)
    assert len(tables.matched.only([]).segments) == 0
