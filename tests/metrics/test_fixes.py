"""What mending errors would win is what PQ is, computed again by hand, once they are mended."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from drawn_scenes import BUS, CAR, SKY, draw
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.metrics.errors import assign_causes, lost_pq
from panbench.metrics.fixes import FixAccumulator, cells_to_fix, in_cell, priced_errors
from panbench.metrics.jackknife import intervals
from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.slices import image_statistics
from panbench.panoptic.types import Category

SEEDS = st.integers(0, 2**32 - 1)
FOUND_AROUND = ("merged", "duplicate", "hallucinated")


def fixes(tables) -> pd.DataFrame:
    return priced_errors(assign_causes(*tables), *tables)


def cells(tables, fewest=1, **settings) -> pd.DataFrame:
    return cells_to_fix(assign_causes(*tables), *tables, fewest=fewest, **settings)


def pq_of_all(tables) -> float:
    return summarise(pq_table(*tables))["All"]["PQ"]


def members(errors: pd.DataFrame) -> dict[tuple, list]:
    """The rows of `assign_causes` that each error consists of, by image, cause and the segment it is found around."""
    found = defaultdict(list)
    for row in errors.itertuples():
        if row.verdict != "TP" or row.iou < 1:
            found[row.image_id, row.cause, row.pred_id if row.cause in FOUND_AROUND else row.gt_id].append(row)
    return found


def pq_once_mended(errors: pd.DataFrame, mended: set[int]) -> Fraction:
    """PQ of All, counted one by one: rows in `mended` (by Index) are as their fix leaves them."""
    iou, whole, ever = defaultdict(Fraction), defaultdict(Fraction), set()
    for row in errors.itertuples():
        ever.add(row.category_id)
        if row.verdict == "TP":
            whole[row.category_id] += 1
            iou[row.category_id] += 1 if row.Index in mended else Fraction(row.iou)
        elif row.Index not in mended:
            whole[row.category_id] += Fraction(1, 2)
        elif row.verdict == "FN":
            whole[row.category_id] += 1
            iou[row.category_id] += Fraction(row.iou)
    each = [iou[one] / whole[one] if whole[one] else Fraction(1) for one in ever]
    return sum(each) / len(each)


def scenes_by_hand(random_scenes, seed: int):
    """Random scenes, their errors, and their PQ counted by hand."""
    tables = random_scenes(seed, images=6)
    errors = assign_causes(*tables)
    return tables, errors, pq_once_mended(errors, set())


@settings(max_examples=25)
@given(seed=SEEDS)
def test_the_gain_of_fixing_an_error_equals_a_count_by_hand(random_scenes, seed):
    tables, errors, now = scenes_by_hand(random_scenes, seed)
    table = fixes(tables)
    by_hand = {}
    for (image, cause, _), rows in members(errors).items():
        gts = tuple(sorted({row.gt_id for row in rows} - {0}))
        preds = tuple(sorted({row.pred_id for row in rows} - {0}))
        by_hand[image, cause, gts, preds] = float(pq_once_mended(errors, {row.Index for row in rows}) - now)
    found = {
        (row.image_id, row.cause, tuple(sorted(row.gt_ids)), tuple(sorted(row.pred_ids))): row.gain
        for row in table.itertuples()
    }
    assert found == pytest.approx(by_hand, abs=1e-12)
    assert (table["gain"].diff().dropna() < 1e-11).all()


@settings(max_examples=25)
@given(seed=SEEDS)
def test_the_gain_of_fixing_a_cell_equals_a_count_by_hand(random_scenes, seed):
    tables, errors, now = scenes_by_hand(random_scenes, seed)
    of_cell = defaultdict(set)
    rows_of = members(errors)
    for one in fixes(tables).itertuples():
        around = one.pred_ids if one.cause in FOUND_AROUND else one.gt_ids
        of_cell[one.cause, one.size] |= {row.Index for row in rows_of[one.image_id, one.cause, around[0]]}
    by_hand = {cell: float(pq_once_mended(errors, rows) - now) for cell, rows in of_cell.items()}
    table = cells(tables)
    found = {(row.cause, row.size): row.gain for row in table.itertuples()}
    assert found == pytest.approx({cell: gain for cell, gain in by_hand.items() if gain > 1e-12}, abs=1e-12)


@settings(max_examples=15)
@given(seed=SEEDS)
def test_each_error_is_in_one_cell_of_its_cause(random_scenes, seed):
    tables = random_scenes(seed, images=8)
    errors = assign_causes(*tables)
    table = fixes(tables)
    counts = table.groupby(["cause", "size"], observed=True).size()
    listed = cells(tables).set_index(["cause", "size"])["errors"]
    assert counts[listed.index].tolist() == listed.tolist()
    wrong = errors[(errors["verdict"] != "TP") | (errors["iou"] < 1)]
    segments = sum(len(one) for one in table["gt_ids"]) + sum(len(one) for one in table["pred_ids"])
    assert len(table) <= len(wrong) <= segments


def test_rescoring_without_hallucinations_gains_what_their_cell_says():
    # A bus on the sky, another over a cat's edge: with both off the map, the rest scores as before.
    before = draw(("ssssssss", "ssbb.sss"), ("ccccssss", "ccccsbbs"), ("bbbb..ss", "bbbb..ss"))
    after = draw(("ssssssss", "ss...sss"), ("ccccssss", "ccccs..s"), ("bbbb..ss", "bbbb..ss"))
    (cell,) = cells(before)[lambda table: table["cause"] == "hallucinated"].itertuples()
    assert (cell.size, cell.errors, cell.images) == ("small", 2, 2)
    assert [(category, errors) for category, _, errors in cell.categories] == [(BUS, 2)]
    assert cell.gain == pytest.approx(pq_of_all(after) - pq_of_all(before), abs=1e-12)


def test_rescoring_with_right_categories_gains_what_their_cell_says():
    before = draw(("aaaass", "bbb.ss"), ("bbbb..", "bbb..."), ("aaaa..", "aaaa.."))
    after = draw(("aaaass", "aaa.ss"), ("bbbb..", "bbb..."), ("aaaa..", "aaaa.."))
    (cell,) = cells(before)[lambda table: table["cause"] == "wrong category"].itertuples()
    # One error, of the object's category, though PQ of the bus that goes with it rises, too.
    assert cell.errors == 1
    assert {category: errors for category, _, errors in cell.categories} == {CAR: 1, BUS: 0}
    assert cell.gain == pytest.approx(pq_of_all(after) - pq_of_all(before), abs=1e-12)


@pytest.mark.parametrize(
    ("images", "cause", "sides"),
    [([("aaabbb", "111111"), ("aaaAAA", "111111")], "merged", (2, 1)), ([("aaaaaa", "112233")], "split", (1, 3))],
)
def test_a_merge_or_a_split_is_one_error(images, cause, sides):
    (one,) = fixes(draw(*images))[lambda table: table["cause"] == cause].itertuples()
    assert (len(one.gt_ids), len(one.pred_ids)) == sides


def test_an_error_has_the_size_of_its_largest_object():
    def wide(letter, n):
        return "\n".join([letter * 64] * n)

    tables = draw((wide("a", 15), wide("s", 15)), (wide("a", 16), wide("s", 16)), (wide("a", 144), wide("s", 144)))
    missed = fixes(tables)[lambda table: table["cause"] == "missed"]
    confused = fixes(tables)[lambda table: table["cause"] == "thing/stuff confusion"].sort_values("image_id")
    assert missed.empty
    # 960, 1,024 and 9,216 pixels: at 32² and 96² the next size begins.
    assert confused["size"].tolist() == ["small", "medium", "large"]
    assert confused["category_id"].tolist() == [CAR] * 3
    for image, size in zip(confused["image_id"], ("small", "medium", "large"), strict=True):
        own = fixes(tables)[lambda table, size=size: in_cell(table, "thing/stuff confusion", size)]
        assert own["image_id"].tolist() == [image]


def test_a_miss_in_a_rare_category_costs_more():
    tables = draw(("aaaaaa", "......"), *[("bbbb..", "bbbb..")] * 8, ("bbbb..", "......"))
    table = fixes(tables)
    assert table["category_id"].tolist() == [CAR, BUS]
    assert table["gain"].tolist() == pytest.approx([(1 - 0) / 2, (1 - 8 / 8.5) / 2])


def test_gains_of_cells_do_not_add_up_to_the_lost_pq():
    tables = draw(("aabb..", "......"), ("aa....", "aa...."), ("aa....", "bb...."))
    table = cells(tables)
    assert table["gain"].sum() != pytest.approx(1 - pq_of_all(tables))


def test_a_cell_with_all_errors_of_a_cause_gains_as_much_as_the_cause():
    # With one category and one size a cell is its cause.
    tables = draw(("aaaa..", "1111.."), ("aaaa..", "111..."), ("aaaa..", "......"), ("......aaaa", "11....1111"))
    lost = lost_pq(assign_causes(*tables), tables.categories)
    own = lost[(lost["group"] == "All") & (lost["gain"] > 0)].set_index("cause")["gain"]
    assert cells(tables).set_index("cause")["gain"].to_dict() == pytest.approx(own.to_dict(), abs=1e-12)


def test_a_perfect_run_has_nothing_to_fix():
    tables = draw(("aaass", "aaass"))
    assert fixes(tables).empty
    assert cells(tables).empty


@pytest.mark.slow
@settings(max_examples=8)
@given(seed=SEEDS)
def test_the_gain_without_an_image_is_that_of_the_other_images(random_scenes, seed):
    tables = random_scenes(seed, images=14)
    errors = assign_causes(*tables)
    images = tables.matched.image_ids
    without = []
    for image in images:
        chosen = np.setdiff1d(images, [image])
        rows = errors[errors["image_id"].isin(chosen)]
        without.append(cells_to_fix(rows, tables.matched.only(chosen), tables.categories, fewest=1))
    for cell in cells(tables).head(4).itertuples():

        def gain(table, key=(cell.cause, cell.size)):
            return float(table[(table["cause"] == key[0]) & (table["size"] == key[1])]["gain"].sum())

        # The jackknife by its formula, with the correction for bias as the centre.
        n = len(images)
        each = np.array([gain(table) for table in without])
        centre = n * cell.gain - (n - 1) * each.mean()
        if cell.images >= 10 and 0 < cell.low and cell.high < 1:
            assert (cell.low + cell.high) / 2 == pytest.approx(centre, abs=1e-9)
        else:
            assert np.isnan(cell.low) == (cell.images < 10)


@pytest.mark.parametrize("rare", [(), (("wwss", "wwss"),), (("wwss", "wwss"), ("bbbss", "bbbss"), ("cc.ss", "cc.ss"))])
def test_if_a_fix_makes_all_perfect_its_interval_is_that_of_pq(rare):
    # All that is wrong is missed cars: what mending them wins is what PQ lacks. Of a rare category, which one image
    # holds, the means without this image have one category less, and the corrections for bias come into it.
    rng = np.random.default_rng(3)
    tables = draw(*[("aaass", "aaass" if lucky else "...ss") for lucky in rng.random(40) < 0.6], *rare)
    (cell,) = cells(tables).itertuples()
    pq = intervals(image_statistics(*tables))
    (own,) = pq[(pq["group"] == "All") & (pq["metric"] == "PQ")].itertuples()
    assert (cell.gain, cell.low, cell.high) == pytest.approx((1 - own.value, 1 - own.high, 1 - own.low), abs=1e-12)


def test_a_cell_in_fewer_than_ten_images_is_not_significant():
    few = draw(*[("aass", "..ss")] * 9, *[("aass", "aass")] * 20)
    enough = draw(*[("aass", "..ss")] * 10, *[("aass", "aass")] * 20)
    assert cells(few, fewest=10).empty
    assert cells(few)[["low", "high"]].isna().all(axis=None)
    (cell,) = cells(enough, fewest=10).itertuples()
    assert cell.low < cell.gain < cell.high


def test_the_gains_of_categories_add_up_to_their_cell(random_scenes):
    tables = random_scenes(5, images=30)
    for cell in cells(tables).itertuples():
        assert sum(gain for _, gain, _ in cell.categories) == pytest.approx(cell.gain, abs=1e-12)
        assert sum(errors for *_, errors in cell.categories) <= cell.errors
        assert list(cell.categories) == sorted(cell.categories, key=lambda one: -round(one[1], 12))


def test_cells_computed_in_chunks_equal_those_of_all_images(random_scenes):
    tables = random_scenes(11, images=30)
    images = tables.matched.image_ids
    accumulator = FixAccumulator(tables.categories, images)
    for start in range(0, 30, 7):
        accumulator.add(accumulator.map_chunk(tables.matched.only(images[start : start + 7])))
    pd.testing.assert_frame_equal(accumulator.cells(fewest=1), cells(tables), check_exact=True)
    expected = lost_pq(assign_causes(*tables), tables.categories)
    pd.testing.assert_frame_equal(accumulator.explained.lost(), expected, check_exact=True)


def in_groups(monkeypatch) -> None:
    """From forty images on, thirty groups of them are left out, as of very many."""
    monkeypatch.setattr("panbench.metrics.fixes.EXACT_IMAGES", 40)
    monkeypatch.setattr("panbench.metrics.fixes.UNITS", 30)


def test_with_very_many_images_groups_are_left_out_and_gains_do_not_change(random_scenes, monkeypatch):
    tables = random_scenes(11, images=60)
    exact = cells(tables)
    in_groups(monkeypatch)
    grouped = cells(tables)
    pd.testing.assert_frame_equal(grouped.drop(columns=["low", "high"]), exact.drop(columns=["low", "high"]))
    known = exact["low"].notna()
    width = (grouped["high"] - grouped["low"]) / (exact["high"] - exact["low"])
    assert known.any()
    assert width[known].between(0.5, 2).all()


def test_1300_unused_categories_change_no_cell_even_with_very_many_images(random_scenes, monkeypatch):
    tables = random_scenes(11, images=60)
    others = tuple(Category(1000 + number, f"other {number}", True) for number in range(1300))
    in_groups(monkeypatch)

    def of(categories):
        accumulator = FixAccumulator(categories, tables.matched.image_ids)
        accumulator.add(accumulator.map_chunk(tables.matched))
        return accumulator.cells()

    pd.testing.assert_frame_equal(of((*others, *tables.categories)), of(tables.categories))


def test_a_stuff_category_that_is_never_found_has_a_gain():
    tables = draw(*[("aass", "aa..")] * 12)
    (cell,) = cells(tables).itertuples()
    assert (cell.cause, cell.size, cell.gain, cell.categories) == ("missed", "small", 0.5, ((SKY, 0.5, 12),))
    assert (cell.low, cell.high) == pytest.approx((0.5, 0.5))
