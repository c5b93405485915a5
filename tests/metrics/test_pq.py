"""PQ equals panopticapi's, where its code is installed, and the corners of its rules.

Its recorded answers are held against the evaluator's and the command's (tests/scoring)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadArgument, BadDataset
from panbench.metrics.matched import Matched
from panbench.metrics.pq import per_image_statistics, pq_table, segment_verdicts, summarise
from panbench.panoptic.coco import write_panoptic_json
from panbench.panoptic.idmap import encode_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment

REFERENCE = Path(__file__).parent.parent / "reference"
CATEGORIES = (Category(1, "person", True), Category(2, "dog", True), Category(92, "sky", False))


def row(
    gt: str, pred: str, *, crowds: str = "", areas: dict[str, int] | None = None, image_id: int = 1
) -> OverlapTable:
    """One row of pixels a side: `.` is void, a letter a segment; p q r are persons, d e dogs, others sky."""

    def side(marks: str) -> tuple[np.ndarray, list[Segment]]:
        ids = np.array([[0 if mark == "." else ord(mark) for mark in marks]], np.int32)
        segments = []
        for mark in dict.fromkeys(marks.replace(".", "")):
            category_id = 1 if mark in "pqr" else 2 if mark in "de" else 92
            area = (areas or {}).get(mark, marks.count(mark))
            segments.append(Segment(ord(mark), category_id, area, iscrowd=mark in crowds))
        return ids, segments

    return overlap_table(image_id, *side(gt), *side(pred))


def verdicts(table: OverlapTable) -> dict[str, str]:
    found = segment_verdicts(Matched.of(table))
    names = found["side"].str[0] + ":" + found["id"].map(chr)
    return dict(zip(names, found["verdict"], strict=True))


class TestRules:
    @pytest.mark.parametrize(
        ("truth", "prediction", "crowds", "expected"),
        [
            # A match needs more than half.
            ("pp", "pq", "", {"g:p": "FN", "p:p": "FP", "p:q": "FP"}),
            ("ppp", "ppq", "", {"g:p": "TP", "p:p": "TP", "p:q": "FP"}),
            # Half on void is a false positive, and more is not.
            ("ss..", "pppp", "", {"g:s": "FN", "p:p": "FP"}),
            ("s...", "pppp", "", {"g:s": "FN", "p:p": "ignored"}),
            # A crowd of its category excuses a prediction, and is never missed.
            ("ppps", "rrrr", "p", {"g:p": "ignored", "g:s": "FN", "p:r": "ignored"}),
            ("ddds", "rrrr", "d", {"g:d": "ignored", "g:s": "FN", "p:r": "FP"}),
            # Of two crowds, the one listed last excuses.
            ("pqqq", "rrrr", "pq", {"g:p": "ignored", "g:q": "ignored", "p:r": "ignored"}),
            ("qqqp", "rrrr", "pq", {"g:q": "ignored", "g:p": "ignored", "p:r": "FP"}),
            # Void and crowd add up.
            ("s.p.", "rrrr", "p", {"g:s": "FN", "g:p": "ignored", "p:r": "ignored"}),
            # A right mask of the wrong category is missed and wrong.
            ("pp", "dd", "", {"g:p": "FN", "p:d": "FP"}),
        ],
    )
    def test_each_segment_gets_its_verdict(self, truth, prediction, crowds, expected):
        assert verdicts(row(truth, prediction, crowds=crowds)) == expected

    def test_the_union_excludes_predicted_void_pixels(self):
        # 2 shared of 2 true and 4 predicted, 2 of these on void: IoU 1, not 0.5.
        matched = Matched.of(row("pp..", "pppp"))
        assert (matched.union.tolist(), matched.iou.tolist()) == ([2], [1.0])

    def test_ground_truth_areas_come_from_the_json(self):
        matched = Matched.of(row("pppp", "pp..", areas={"p": 3}))
        assert matched.iou.tolist() == [pytest.approx(2 / 3)]

    @pytest.mark.parametrize("area", [0, 1, 3])
    def test_an_area_that_would_make_an_iou_above_one_is_refused(self, area):
        message = f"Image 1: the ground truth lists area {area} for segment 112, less than the 4 pixels it shares"
        with pytest.raises(BadDataset, match=message):
            Matched.of(row("pppp", "pppp", areas={"p": area}))

    def test_matches_have_the_matched_id_and_the_iou(self):
        found = segment_verdicts(Matched.of(row("pppd", "rrrs")))
        assert found.loc[found["id"] == ord("p"), ["matched_id", "iou"]].to_numpy().tolist() == [[ord("r"), 1.0]]
        assert found.loc[found["id"] == ord("d"), "matched_id"].tolist() == [0]

    def test_a_higher_threshold_keeps_better_matches_only(self):
        matched = Matched.of(row("pppp", "ppp."))
        counts = {limit: pq_table(matched, CATEGORIES, limit)["TP"].sum() for limit in (0.5, 0.74, 0.75, 0.9)}
        assert counts == {0.5: 1, 0.74: 1, 0.75: 0, 0.9: 0}

    @pytest.mark.parametrize("limit", [0.49, 1.0, float("nan")])
    def test_a_threshold_that_lets_a_segment_match_twice_is_refused(self, limit):
        with pytest.raises(BadArgument, match=r"at least 0\.5"):
            pq_table(Matched.of(row("p", "p")), CATEGORIES, limit)


class TestMeans:
    def test_means_are_over_the_categories_that_occur(self):
        table = pq_table(Matched.of(row("ppdd", "ppss")), CATEGORIES)
        assert table["PQ"].tolist() == [1.0, 0.0, 0.0]
        assert summarise(table) == {
            "All": {"PQ": 1 / 3, "SQ": 1 / 3, "RQ": 1 / 3, "n": 3},
            "Things": {"PQ": 0.5, "SQ": 0.5, "RQ": 0.5, "n": 2},
            "Stuff": {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 1},
        }

    def test_empty_input_has_no_scores_and_absent_categories_have_zero_counts(self):
        table = pq_table(Matched.of(row("pp", "pp")), CATEGORIES)
        assert table[["PQ", "SQ", "RQ", "TP", "FP", "FN"]].to_numpy().tolist()[1:] == [[0] * 6] * 2
        assert summarise(table)["Stuff"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}
        empty = pq_table(Matched.of(OverlapTable.empty()), CATEGORIES)
        assert summarise(empty)["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}


class TestPerImage:
    def test_per_image_rows_add_up_to_the_total(self):
        table = concat([row("ppsd", "ppss", image_id=7), row("ddp.", "d.pp", image_id=3)])
        rows = per_image_statistics(Matched.of(table))
        assert rows[["image_id", "category_id"]].to_numpy().tolist() == [[3, 1], [3, 2], [7, 1], [7, 2], [7, 92]]
        whole = pq_table(Matched.of(table), CATEGORIES).set_index("category_id")
        sums = rows.groupby("category_id")[["iou_sum", "TP", "FP", "FN"]].sum()
        pd.testing.assert_frame_equal(sums, whole.loc[sums.index, sums.columns], check_names=False)


SLOW_MACHINE = [HealthCheck.too_slow, HealthCheck.data_too_large]


# Random scenes --------------------------------------------------------------------------------------------------------


@st.composite
def scene(draw) -> tuple[np.ndarray, list[Segment], np.ndarray, list[Segment]]:
    """Id maps of few segments, with void, crowds, ids up to 2²⁴-1, and faults in the ground truth."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sides = []
    for side in ("gt", "pred"):
        top = int(rng.choice([8, 1 << 24]))
        ids = np.append(0, 1 + rng.choice(top - 1, int(rng.integers(0, 7)), replace=False))
        labels = rng.choice(len(ids), shape)
        if len(sides) and rng.random() < 0.7:  # mostly right
            labels = np.where(rng.random(shape) < 0.8, np.minimum(sides[0][2], len(ids) - 1), labels)
        labels = np.repeat(labels, 2, axis=1)
        id_map = ids[labels].astype(np.int32)
        listing = ids[1:] if side == "gt" else np.intersect1d(ids[1:], id_map)
        segments = []
        for segment_id in rng.permutation(listing):
            area = int((id_map == segment_id).sum())
            if side == "gt" and rng.random() < 0.1:
                continue
            area += int(side == "gt" and rng.random() < 0.1)
            crowd = side == "gt" and rng.random() < 0.25
            segments.append(Segment(int(segment_id), int(rng.choice([1, 2, 92])), max(area, 1), crowd))
        sides.append((id_map, segments, labels[:, ::2]))
    return (*sides[0][:2], *sides[1][:2])


def pq_by_panopticapi(folder: Path, scenes: list, evaluation) -> dict[int, tuple[float, int, int, int]]:
    """iou_sum, TP, FP, FN of each category by the official code, on files."""
    for side in ("gt", "pred"):
        (folder / side).mkdir(exist_ok=True)
    annotations: dict[str, dict[int, Annotation]] = {"gt": {}, "pred": {}}
    images = {}
    for image_id, (gt_ids, gt_segments, pred_ids, pred_segments) in enumerate(scenes):
        images[image_id] = ImageInfo(image_id, f"{image_id}.jpg", *gt_ids.shape)
        for side, ids, segments in (("gt", gt_ids, gt_segments), ("pred", pred_ids, pred_segments)):
            (folder / side / f"{image_id}.png").write_bytes(encode_id_png(ids))
            annotations[side][image_id] = Annotation(image_id, f"{image_id}.png", tuple(segments))
    records = {}
    for side in ("gt", "pred"):
        path = folder / f"{side}.json"
        write_panoptic_json(path, PanopticSet(CATEGORIES, images, annotations[side], folder / side, path))
        records[side] = json.loads(path.read_text())["annotations"]
    pairs = list(zip(records["gt"], records["pred"], strict=True))
    categories = {category.id: {"id": category.id} for category in CATEGORIES}
    found = evaluation.pq_compute_single_core(0, pairs, str(folder / "gt"), str(folder / "pred"), categories)
    return {
        category.id: (found[category.id].iou, found[category.id].tp, found[category.id].fp, found[category.id].fn)
        for category in CATEGORIES
    }


def pq_by_us(scenes: list) -> dict[int, tuple[float, int, int, int]]:
    table = concat(overlap_table(image_id, *scene) for image_id, scene in enumerate(scenes))
    counts = pq_table(Matched.of(table), CATEGORIES).set_index("category_id")
    return {line.Index: (line.iou_sum, line.TP, line.FP, line.FN) for line in counts.itertuples()}


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_MACHINE)
@given(st.lists(scene(), min_size=40, max_size=40))
def test_random_scenes_score_as_panopticapi_scores_them(tmp_path_factory, scenes):
    evaluation = pytest.importorskip("panopticapi.evaluation")
    # Equal to the last bit: the same sums in the same order.
    assert pq_by_us(scenes) == pq_by_panopticapi(tmp_path_factory.mktemp("scenes"), scenes, evaluation)


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW_MACHINE)
@given(st.lists(scene(), min_size=2, max_size=6), st.randoms())
def test_the_order_in_which_tables_are_merged_changes_nothing(scenes, random):
    tables = [overlap_table(image_id, *scene) for image_id, scene in enumerate(scenes)]
    whole = pq_table(Matched.of(concat(tables)), CATEGORIES)
    random.shuffle(tables)
    cut = random.randrange(len(tables))
    merged = concat([concat(tables[:cut]), OverlapTable.empty(), concat(tables[cut:])])
    pd.testing.assert_frame_equal(pq_table(Matched.of(merged), CATEGORIES), whole, check_exact=True)


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW_MACHINE)
@given(scene(), st.integers(0, 2**32))
def test_other_segment_ids_change_nothing(one, seed):
    rng = np.random.default_rng(seed)
    renamed = []
    for ids, segments in (one[:2], one[2:]):
        old = np.unique(np.concatenate([ids.ravel(), [segment.id for segment in segments], [0]])).astype(np.int32)
        new = np.append(0, 1 + rng.choice((1 << 24) - 1, len(old) - 1, replace=False)).astype(np.int32)
        renamed.append(new[np.searchsorted(old, ids)])
        renamed.append(
            [
                Segment(int(new[np.searchsorted(old, segment.id)]), segment.category_id, segment.area, segment.iscrowd)
                for segment in segments
            ]
        )
    before, after = (pq_table(Matched.of(overlap_table(1, *each)), CATEGORIES) for each in (one, renamed))
    # The ids order the sum of IoUs, so it may differ in its last bit; nothing else may.
    pd.testing.assert_frame_equal(after, before, rtol=1e-15)
