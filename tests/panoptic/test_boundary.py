"""Boundary pixels are those that eroding each segment by itself takes away; boundary PQ uses the worse of two IoUs."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadArgument
from panbench.metrics.pq import pq_table
from panbench.panoptic.boundary import INTERIOR, boundary_distance, boundary_mask, boundary_pairs
from panbench.panoptic.overlap import OverlapTable, Pairs, concat, overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.runs import Run, RunInfo


def eroded_away(mask: np.ndarray) -> np.ndarray:
    """The boundary of one mask by its definition: what d erosions by 3×3 remove, the outside counting as foreign."""
    padded = np.pad(mask.astype(np.uint8), 1)
    kept = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=boundary_distance(mask.shape))
    return mask & ~kept[1:-1, 1:-1].astype(bool)


def test_distance_is_two_percent_of_the_diagonal_and_one_at_least():
    assert boundary_distance((480, 640)) == 16
    assert boundary_distance((5, 5)) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_the_mask_is_what_eroding_each_segment_takes_away(height, width, seed):
    rng = np.random.default_rng(seed)
    ids = np.zeros((height * 3, width * 3), np.int32)
    for segment_id in rng.integers(1, 1 << 24, 4):
        y, x = rng.integers(0, height * 3), rng.integers(0, width * 3)
        ids[y : y + rng.integers(1, height * 3 + 1), x : x + rng.integers(1, width * 3 + 1)] = segment_id
    expected = np.zeros(ids.shape, bool)
    for segment_id in np.unique(ids):
        expected |= eroded_away(ids == segment_id)
    np.testing.assert_array_equal(boundary_mask(ids), expected)


def test_overlap_pairs_count_each_boundary_once():
    # In 5×5 pixels the distance is 1; the ring of 16 is the boundary, the inner 3×3 the interior.
    whole = np.full((5, 5), 7, np.int32)
    left = np.where(np.arange(5) < 2, 9, 0)[None].repeat(5, 0).astype(np.int32)
    rows = list(zip(*(column.tolist() for column in boundary_pairs(whole, left)), strict=True))
    # 9 is two columns wide, all boundary: 7 of its pixels are on the ring of segment 7, 3 on its interior.
    assert rows == [(7, 0, 9), (7, 9, 7), (INTERIOR, 9, 3)]


def square_scene(shift: int) -> OverlapTable:
    gt, pred = (np.zeros((60, 60), np.int32) for _ in range(2))
    gt[10:50, 10:50] = 7
    pred[10:50, 10 + shift : 50 + shift] = 5
    gt[:, 55:] = 8
    pred[:, 55:] = 6
    segments = [Segment(7, 1, 1600), Segment(8, 92, 300)], [Segment(5, 1, 0), Segment(6, 92, 0)]
    table = overlap_table(1, gt, segments[0], pred, segments[1])
    gt_id, pred_id, pixels = boundary_pairs(gt, pred)
    return OverlapTable(table.segments, table.overlaps, Pairs(np.ones(len(gt_id), np.int64), gt_id, pred_id, pixels))


def test_boundary_iou_is_that_of_the_two_boundaries():
    run = Run(RunInfo(), table=square_scene(shift=1))
    gt, pred = (np.zeros((60, 60), bool) for _ in range(2))
    gt[10:50, 10:50] = pred[10:50, 11:51] = True
    gt_ring, pred_ring = eroded_away(gt), eroded_away(pred)
    on_void = (pred_ring & ~gt).sum()  # 8 is far away, so what is not 7 there is void
    expected = (gt_ring & pred_ring).sum() / ((gt_ring | pred_ring).sum() - on_void)
    found, plain = (
        dict(zip(matched.overlaps.gt_id[matched.pair].tolist(), matched.iou.tolist(), strict=True))
        for matched in (run.matched.by_boundary(), run.matched)
    )
    assert found[7] == pytest.approx(expected, abs=1e-12)
    assert found[7] < plain[7]
    assert found[8] == 1.0


def test_boundary_pq_is_never_above_pq_and_equal_for_a_perfect_mask():
    categories = (Category(1, "box", True), Category(92, "sky", False))
    for shift, same in ((0, True), (2, False)):
        run = Run(RunInfo(), table=square_scene(shift))
        plain = pq_table(run.matched, categories)["PQ"]
        bounded = pq_table(run.matched.by_boundary(), categories)["PQ"]
        assert (bounded <= plain).all()
        assert (bounded == plain).all() == same


def test_a_run_without_boundary_overlaps_says_so():
    table = square_scene(0)
    run = Run(RunInfo(), table=concat([OverlapTable(table.segments, table.overlaps)]))
    assert run.boundary() is None
    with pytest.raises(BadArgument, match="--boundary"):
        run.pq(boundary=True)
