"""Overlap tables say which segments share pixels, and hold what was given to them."""

import numpy as np
import pyarrow as pa
import pytest

from panbench.base.errors import PredictionMismatch
from panbench.panoptic.overlap import (
    GroundTruthFaults,
    OverlapTable,
    Pairs,
    arrow_schema,
    concat,
    count_pairs,
    overlap_table,
)
from panbench.panoptic.types import Segment

GT = np.array([[0, 7, 7], [8, 8, 7]], np.int32)
PRED = np.array([[5, 5, 5], [0, 6, 5]], np.int32)


def table(image_id: int = 1, gt: list[Segment] | None = None, pred: list[Segment] | None = None) -> OverlapTable:
    gt = [Segment(7, 1, 3), Segment(8, 92, 2, iscrowd=True)] if gt is None else gt
    pred = [Segment(5, 1, 0, score=0.75), Segment(6, 92, 0)] if pred is None else pred
    return overlap_table(image_id, GT, gt, PRED, pred)


def rows(pairs: Pairs) -> list[tuple[int, ...]]:
    return list(
        zip(*(getattr(pairs, name).tolist() for name in ("image_id", "gt_id", "pred_id", "pixels")), strict=True)
    )


def test_each_pair_of_ids_that_share_pixels_is_counted_once():
    gt_id, pred_id, pixels = count_pairs(GT, PRED)
    assert np.stack([gt_id, pred_id, pixels], axis=1).tolist() == [[0, 5, 1], [7, 5, 3], [8, 0, 1], [8, 6, 1]]
    assert pixels.sum() == GT.size


def test_ids_near_24_bits_stay_distinct():
    top = np.array([[(1 << 24) - 1, (1 << 24) - 2]], np.int32)
    gt_id, pred_id, _ = count_pairs(top, top[:, ::-1].copy())
    assert gt_id.tolist() == [(1 << 24) - 2, (1 << 24) - 1]
    assert pred_id.tolist() == [(1 << 24) - 1, (1 << 24) - 2]


def test_maps_of_different_size_have_no_pairs():
    with pytest.raises(ValueError, match="differ in shape"):
        count_pairs(GT, PRED[:, :2])


def test_a_map_without_pixels_has_no_pairs():
    assert [len(column) for column in count_pairs(GT[:0], PRED[:0])] == [0, 0, 0]


def test_segments_keep_their_order_and_predicted_areas_are_counted_in_the_map():
    segments = table(gt=[Segment(8, 92, 2, iscrowd=True), Segment(7, 1, 99)]).segments
    assert segments.is_gt.tolist() == [True, True, False, False]
    assert segments.id.tolist() == [8, 7, 5, 6]
    assert segments.area.tolist() == [2, 99, 4, 1]
    assert segments.iscrowd.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(segments.score, np.array([np.nan, np.nan, 0.75, np.nan], np.float32))


def test_inputs_are_not_modified():
    gt, pred = GT.copy(), PRED.copy()
    table()
    np.testing.assert_array_equal(GT, gt)
    np.testing.assert_array_equal(PRED, pred)


class TestPredictionFaults:
    def test_a_map_of_another_size_is_refused(self):
        with pytest.raises(PredictionMismatch, match="Image 4: the prediction is 2×2 but the ground truth is 2×3"):
            overlap_table(4, GT, [], PRED[:, :2], [])

    def test_ids_missing_in_json_or_png_are_all_named(self):
        with pytest.raises(PredictionMismatch) as caught:
            table(pred=[Segment(9, 1, 0), Segment(11, 1, 0)])
        assert str(caught.value).splitlines() == [
            "Predicted PNGs have ids that their JSON lacks: image 1: 5, 6. List each id of the PNG.",
            "Predicted segments of the JSON are not in their PNG: image 1: 9, 11. Remove them from the JSON.",
        ]


class TestGroundTruthFaults:
    def test_faults_of_the_ground_truth_are_counted_over_all_images(self):
        seven = Segment(7, 1, 3)
        tables = concat([table(1), table(2, [seven]), table(3, [seven, Segment(8, 1, 5), Segment(9, 1, 1)])])
        assert tables.ground_truth_faults() == GroundTruthFaults(
            ids_not_in_json=1,
            segments_not_in_png=1,
            areas_differ=1,
            images=2,
            example="image 2: id 8 is in the PNG but not in the JSON",
        )
        assert tables.ground_truth_faults().notice == (
            "The ground truth has ids that its JSON lacks (1), segments that its PNGs lack (1), segments whose area in "
            "the JSON is not that of the PNG (1); images concerned: 2. Scored as panopticapi scores them. "
            "For example image 2: id 8 is in the PNG but not in the JSON. "
            "`panbench data convert panoptic GT.json --out DIR` makes a set with the areas of the PNGs."
        )

    def test_a_right_ground_truth_has_no_faults(self):
        faults = table().ground_truth_faults()
        assert not faults
        assert faults.notice is None
        kinds = ("ids_not_in_json", "segments_not_in_png", "areas_differ", "images")
        assert faults.as_record() == {**dict.fromkeys(kinds, 0), "example": None}

    def test_each_fault_of_the_ground_truth_has_an_example(self):
        absent = table(gt=[Segment(7, 1, 3), Segment(8, 1, 2), Segment(9, 1, 1)]).ground_truth_faults()
        assert absent.example == "image 1: segment 9 is in the JSON but not in the PNG"
        differs = table(gt=[Segment(7, 1, 4), Segment(8, 1, 2)]).ground_truth_faults()
        assert differs.example == "image 1: segment 7 has 3 pixels in the PNG and area 4 in the JSON"


class TestConcat:
    def test_joining_tables_keeps_all_rows(self):
        both = concat([table(3), OverlapTable.empty(), table(1)])
        assert rows(both.overlaps) == rows(table(3).overlaps) + rows(table(1).overlaps)
        assert both.image_ids.tolist() == [1, 3]

    def test_joining_no_tables_gives_an_empty_table(self):
        assert len(concat([]).overlaps) == 0

    def test_joining_refuses_tables_with_and_without_boundaries(self):
        one = table(1)
        with_boundary = OverlapTable(one.segments, one.overlaps, one.overlaps)
        assert len(concat([with_boundary, OverlapTable.empty()]).boundary) == 4
        with pytest.raises(ValueError, match="boundary"):
            concat([with_boundary, table(2)])


class TestArrow:
    def test_overlap_rows_round_trip(self):
        one = concat([table(2**40), table(-5)])
        one = OverlapTable(one.segments, one.overlaps, one.overlaps)
        arrow = one.to_arrow()
        assert arrow.schema == arrow_schema()
        back = OverlapTable.from_arrow(arrow)
        for name in ("segments", "overlaps", "boundary"):
            for column, values in vars(getattr(one, name)).items():
                found = getattr(getattr(back, name), column)
                np.testing.assert_array_equal(found, values)
                assert found.dtype == values.dtype, column

    def test_absent_values_are_null(self):
        arrow = table().to_arrow()
        assert arrow.column("score").to_pylist() == [None, None, 0.75, None, None, None, None, None]
        assert arrow.column("kind").to_pylist() == ["gt"] * 2 + ["pred"] * 2 + ["overlap"] * 4

    def test_an_empty_table_comes_back_empty(self):
        back = OverlapTable.from_arrow(OverlapTable.empty().to_arrow())
        assert (len(back.segments), len(back.overlaps), back.boundary) == (0, 0, None)

    def test_unknown_columns_and_kinds_are_ignored(self):
        arrow = table().to_arrow()
        later = arrow.set_column(
            0, "kind", pa.array(["gt", "gt", "pred", "pred", "depth", "overlap", "overlap", "overlap"])
        )
        later = later.append_column("depth", pa.array([0.5] * len(later)))
        assert len(OverlapTable.from_arrow(later).overlaps) == 3

    def test_an_arrow_table_without_our_columns_or_types_is_refused(self):
        with pytest.raises(ValueError, match="lacks the columns kind, image_id"):
            OverlapTable.from_arrow(pa.table({"pixels": [1]}))
        foreign = table().to_arrow().set_column(1, "image_id", pa.array(["a"] * 8))
        with pytest.raises(ValueError, match="other types"):
            OverlapTable.from_arrow(foreign)
