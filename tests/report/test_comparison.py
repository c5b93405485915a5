import csv
import io
import json
import re
from functools import cache

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from support import refusal

from panbench.base.errors import BadArgument
from panbench.metrics.jackknife import interval_notes, simulated_coverage
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.report.answers.comparison import compare, corrected_p
from panbench.report.answers.findings import error_findings, metric_findings
from panbench.runs import Run, RunInfo, category_record

BALL = Category(1, "ball", isthing=True, supercategory="toy")
SKY = Category(2, "sky", isthing=False, supercategory="outdoor")
IMAGES = 20


@cache
def found_table(balls: int, skies: int, images: int) -> OverlapTable:
    """The table of `run`; made once, as runs read it only."""
    gt = np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.int32)
    segments = [Segment(1, BALL.id, 4), Segment(2, SKY.id, 4)]
    tables = []
    for image_id in range(1, images + 1):
        found = [segment for segment, hits in zip(segments, (balls, skies), strict=True) if image_id <= hits]
        pred = np.where(np.isin(gt, [segment.id for segment in found]), gt, 0).astype(np.int32)
        tables.append(overlap_table(image_id, gt, segments, pred, found))
    return concat(tables)


def run(name: str, balls: int, skies: int = IMAGES, images: int = IMAGES, model: str | None = None) -> Run:
    """Images with a ball above sky; found are the balls of the first `balls` images, the skies of the first `skies`."""
    info = {
        "name": name,
        "status": "done",
        "model": {"name": model or name, "title": name.title()},
        "dataset": {"name": "balls", "split": "val", "fingerprint": "f00d", "n_images": images},
        "categories": [category_record(BALL), category_record(SKY)],
        "images": {"expected": images, "scored": images},
    }
    return Run(RunInfo.from_json(info), table=found_table(balls, skies, images))


def test_runs_are_ranked_by_pq_with_an_interval_each():
    poor, good = compare([run("poor", balls=5), run("good", balls=15)]).rows
    assert (poor.rank, good.rank) == (2, 1)
    assert poor.PQ_low < poor.PQ < poor.PQ_high


def test_machine_readable_formats_have_the_range_of_ranks():
    sure = compare([run("poor", balls=0), run("good", balls=20)])
    open_ = compare([run("a", balls=10), run("b", balls=11)])
    for compared, expected in ((sure, [(2, 2, 2), (1, 1, 1)]), (open_, [(2, 1, 2), (1, 1, 2)])):
        columns = ("rank", "rank_low", "rank_high")
        assert [tuple(record[name] for name in columns) for record in json.loads(compared.json())] == expected
        lines = csv.DictReader(io.StringIO(compared.csv()))
        assert [tuple(int(line[name]) for name in columns) for line in lines] == expected
        table = pyarrow.parquet.read_table(io.BytesIO(compared.parquet()))
        assert list(zip(*(table[name].to_pylist() for name in columns), strict=True)) == expected


def test_equal_runs_share_a_rank_and_do_not_differ():
    rows = compare([run("a", balls=10), run("b", balls=10)]).rows
    assert [row.rank for row in rows] == [1, 1]
    assert rows[0].versus[0]["PQ_difference"] == 0
    assert not rows[0].versus[0]["significant"]


def test_a_clear_difference_is_significant_and_marked():
    compared = compare([run("poor", balls=0), run("good", balls=20)])
    (versus,) = compared.rows[1].versus
    # The ball's PQ goes from 0 to 1 and the sky's stays: half of it in the mean.
    assert versus["PQ_difference"] == 0.5
    assert versus["significant"]
    differences = compared.grids[1]
    assert differences.rows[0][:4] == ("Good", "Poor", "PQ", "+50.00")
    assert differences.rows[0][-1] == "*"


def test_a_run_compared_with_itself_gets_distinct_names():
    rows = compare([run("same", balls=10), run("same", balls=10)]).rows
    assert rows[0].versus[0]["run"] == "same (2)"


def test_without_intervals_only_the_scores_are_compared():
    compared = compare([run("a", balls=5), run("b", balls=15)], intervals=False)
    assert len(compared.grids) == 1
    assert compared.rows[0].rank is None


def test_categories_are_sorted_by_the_difference():
    compared = compare([run("a", balls=5, skies=20), run("b", balls=15, skies=18)], per_category=True)
    grid = compared.grids[-1]
    assert [row[0] for row in grid.rows] == ["ball", "sky"]
    assert [row[3][0] for row in grid.rows] == ["+", "-"]


def test_a_difference_keeps_its_sign_when_the_second_run_is_the_baseline():
    runs = [run("a", balls=5), run("b", balls=15)]
    of_first = compare(runs, per_category=True, baseline="a").grids[-1]
    of_second = compare(runs, per_category=True, baseline="b").grids[-1]
    assert of_first.columns[3] == of_second.columns[3] == "B - A"
    assert of_first.rows[0][3] == of_second.rows[0][3]


def test_three_runs_are_compared_by_category_with_the_widest_spread_first():
    runs = [run("a", balls=5, skies=20), run("b", balls=15, skies=20), run("c", balls=20, skies=19)]
    grid = compare(runs, per_category=True).grids[-1]
    assert grid.columns == ("Category", "A", "B", "C")
    assert [row[0] for row in grid.rows] == ["ball", "sky"]
    assert grid.notes == ("A: A", "B: B", "C: C")


@pytest.mark.parametrize("by", ["size", "share", "segments", "supercategory"])
def test_every_slicing_can_be_compared(by):
    grid = compare([run("a", balls=5), run("b", balls=15)], by=by).grids[-1]
    assert grid.rows
    assert "B - A" in grid.columns


def test_empty_slices_are_left_out():
    grid = compare([run("a", balls=5)], by="size").grids[-1]
    assert [row[0] for row in grid.rows] == ["small (< 32²)"]


def test_an_unknown_slicing_or_baseline_is_refused():
    assert "no slicing 'colour'" in refusal(BadArgument, compare, [run("a", balls=5)], by="colour")
    with pytest.raises(BadArgument, match="'z' is not among the runs: a, b"):
        compare([run("a", balls=5), run("b", balls=5)], baseline="z")
    with pytest.raises(BadArgument, match="'m' names several runs"):
        compare([run("a", balls=5, model="m"), run("b", balls=5, model="m")], baseline="m")


def test_json_and_csv_have_the_requested_details():
    compared = compare([run("a", balls=5), run("b", balls=15)], per_category=True, by="size")
    first = json.loads(compared.json())[0]
    names = {(record["name"], record["metric"]) for record in first["per_category"]}
    assert ("ball", "PQ") in names
    assert {record["group"] for record in first["by"]} == {"small (< 32²)", "medium (32²–96²)", "large (≥ 96²)"}
    assert "ball" in compared.csv()
    assert compare([run("a", balls=5)]).csv().startswith("run,model,dataset,images,PQ")


def test_markdown_and_latex_have_every_table():
    compared = compare([run("a", balls=5), run("b", balls=15)], per_category=True)
    assert compared.markdown().count("\n| :--") == len(compared.grids) == 3
    assert compared.latex().count(r"\begin{tabular}") == 3


def test_latex_prints_pq_plus_minus_half_the_interval_and_marks_only_the_value():
    runs = [run(name, balls, skies=400, images=400) for name, balls in (("a", 120), ("b", 280), ("c", 200))]
    compared = compare(runs, digits=1)
    printed = compared.latex()
    _, best, second = compared.rows
    half = f"{50 * (best.PQ_high - best.PQ_low):.1f}"
    assert rf"B & \textbf{{{100 * best.PQ:.1f}}} {{\scriptsize $\pm$ {half}}} & " in printed
    assert rf"C & \underline{{{100 * second.PQ:.1f}}} {{\scriptsize $\pm$ " in printed
    assert r"$\pm$: half the width of the 95 \% interval." in printed
    assert r"\pm" not in compare(runs, digits=1, intervals=False).latex()
    assert "±" not in compared.markdown()


def test_latex_prints_both_ends_of_a_skewed_interval():
    # Above 100 an interval is cut.
    compared = compare([run("a", balls=5), run("b", balls=19)], digits=1)
    first, best = compared.rows
    low, high = 100 * best.PQ_low, 100 * best.PQ_high
    assert high - 100 * best.PQ < (100 * best.PQ - low) / 1.5
    printed = compared.latex()
    assert rf"B & \textbf{{{100 * best.PQ:.1f}}} {{\scriptsize [{low:.1f}, {high:.1f}]}} & " in printed
    assert rf"A & {100 * first.PQ:.1f} {{\scriptsize [{100 * first.PQ_low:.1f}, " in printed
    assert r"\pm" not in printed


def test_equal_runs_are_not_called_better():
    compared = compare([run("a", balls=10), run("b", balls=10), run("c", balls=15)])
    differences = compared.grids[1]
    assert {(row[0], row[1], row[2]) for row in differences.rows} == {
        ("C", "A", "PQ"),
        ("C", "B", "PQ"),
        ("C", "A", "PQ_th"),
        ("C", "B", "PQ_th"),
    }
    assert "A and B: no difference in PQ, PQ_th and PQ_st." in differences.notes
    assert "C and A: no difference in PQ_st." in differences.notes
    alone = compare([run("a", balls=10), run("b", balls=10)])
    assert alone.verdict.text() == "There is no difference between A and B (PQ 83.3)."
    assert "Better" not in alone.text()
    assert "A and B: no difference in PQ, PQ_th and PQ_st." in alone.text()


def test_a_difference_too_small_to_print_is_not_printed_as_zero():
    small = compare([run("a", balls=1999, skies=2000, images=2000), run("b", balls=2000, skies=2000, images=2000)])
    assert 0 < small.rows[1].versus[0]["PQ_difference"] < 0.0005
    coarse = compare([run("a", balls=1999, skies=2000, images=2000), run("b", 2000, 2000, 2000)], digits=1)
    assert coarse.grids[1].rows[0][3] == "<0.1"


def test_parquet_has_types_and_the_requested_details():
    runs = [run("a", balls=5), run("b", balls=15)]
    plain = pyarrow.parquet.read_table(io.BytesIO(compare(runs).parquet()))
    types = {name: str(plain.schema.field(name).type) for name in ("run", "images", "PQ", "complete", "published_PQ")}
    assert types == {"run": "string", "images": "int64", "PQ": "double", "complete": "bool", "published_PQ": "double"}
    compared = compare(runs, per_category=True, by="size")
    detailed = pd.read_parquet(io.BytesIO(compared.parquet()))
    printed = pd.read_csv(io.StringIO(compared.csv()))
    assert list(detailed.columns) == list(printed.columns)
    assert list(detailed["value"]) == pytest.approx(list(printed["value"]), nan_ok=True)


def test_few_images_have_no_interval():
    row = compare([run("a", balls=1, images=3)]).rows[0]
    assert row.PQ_low is None


# What one run tells


def test_findings_agree_with_the_runs_pq():
    found = metric_findings(run("a", balls=5), per_category=True).record
    # Ball: 5 found, 15 missed: 5 / (5 + 7.5) = 0.4. Sky: 1.
    assert found["summary"]["Things"]["PQ"] == pytest.approx(0.4)
    assert found["semantic"]["pixel_accuracy"] == pytest.approx(25 / 40)
    assert found["thresholds"][0]["PQ"] == pytest.approx(0.7)
    assert [record["name"] for record in found["per_category"]] == ["ball", "sky"]
    assert found["by"]["supercategory"][0]["PQ"] == pytest.approx(0.4)


def test_findings_are_json_without_nan():
    for found in (metric_findings(run("a", balls=0)), error_findings(run("a", balls=0))):
        json.dumps(found.record, allow_nan=False)


def test_missed_objects_have_the_cause_missed():
    found = error_findings(run("a", balls=5), images=2)
    lost = pd.DataFrame(found.record["lost"])
    things = lost[lost["group"] == "Things"].set_index("cause")
    assert things.loc["missed", "gain"] == pytest.approx(0.6)
    assert things["lost"].sum() == pytest.approx(0.6)
    places = dict(next(grid.rows for grid in found.grids if grid.columns[1] == "Images where it costs most"))
    assert places["missed"] == "6, 7"
    # Causes without an error are named below the first table alone.
    assert "split" not in places
    assert "No errors of these causes: " in found.grids[0].notes[-1]
    assert "split" in found.grids[0].notes[-1]


def test_causes_are_sorted_by_loss_and_add_up_as_printed():
    found = error_findings(run("a", balls=5, skies=13))
    parts = [float(row[4]) for row in found.grids[0].rows]
    assert parts == sorted(parts, reverse=True)
    printed = float(re.search(r"PQ ([\d.]+)", found.grids[0].title)[1])
    assert round(sum(parts), 2) == round(100 - printed, 2)


def test_the_comparison_prints_pq_once_with_the_best_first_and_p_values():
    compared = compare([run("poor", balls=0), run("good", balls=20)])
    grid = compared.grids[0]
    assert grid.columns[:5] == ("Model", "PQ", "95 % interval", "ranks at 95 %", "p")
    assert [row[0] for row in grid.rows] == ["Good", "Poor"]
    assert [row[4] for row in grid.rows] == ["–", "<0.001"]
    assert (0, 1) in grid.best
    assert sum(column == "PQ" for one in compared.grids for column in one.columns) == 1


def test_an_unknown_slicing_of_the_metrics_is_refused():
    assert "no slicing 'colour'" in refusal(BadArgument, metric_findings, run("a", balls=5), by=["colour"])


def test_every_pair_of_many_runs_has_a_row_with_its_test():
    runs = [
        run(name, balls=balls, skies=skies)
        for name, balls, skies in (("a", 5, 20), ("b", 15, 12), ("c", 15, 12), ("d", 1, 1))
    ]
    compared = compare(runs)
    _, grid = compared.grids
    value = {row.title: {"PQ": row.PQ, "PQ_th": row.PQ_th, "PQ_st": row.PQ_st} for row in compared.rows}
    tests = compared.comparison.differences
    tests = tests[tests["metric"] == "PQ"].set_index(["group", "a", "b"])
    groups = {"PQ": "All", "PQ_th": "Things", "PQ_st": "Stuff"}
    for better, worse, score, by, interval, p, star in grid.rows:
        assert by == f"{100 * (value[better][score] - value[worse][score]):+.2f}"
        found = tests.loc[(groups[score], *sorted((better.lower(), worse.lower())))]
        ends = sorted((found.low, found.high) if better > worse else (-found.high, -found.low))
        assert interval == f"[{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]"
        assert p == corrected_p(found.p_holm, found.at_floor)
        assert (star == "*") == found.significant
    # Six pairs and three scores; B and C are equal.
    assert len(grid.rows) == 18 - 3
    assert "B and C: no difference in PQ, PQ_th and PQ_st." in grid.notes
    assert "corrected for 18 comparisons (Holm)" in grid.notes[0]


def test_a_p_value_at_its_floor_is_printed_as_a_bound():
    assert corrected_p(0.00299, True) == "<0.003"
    assert corrected_p(0.00299, False) == "0.003"
    assert corrected_p(0.0256, True) == "<0.026"
    assert corrected_p(0.0002, True) == corrected_p(0.0002, False) == "<0.001"
    assert corrected_p(1.0, True) == "1.000"
    assert corrected_p(float("nan"), False) == "–"


def test_the_table_of_categories_first_says_that_no_difference_is_significant():
    level = compare([run("a", balls=10), run("b", balls=11)], per_category=True).grids[-1]
    assert level.title == "PQ by category: no difference is significant"
    sure = compare([run("a", balls=2), run("b", balls=19)], per_category=True).grids[-1]
    assert sure.title == "PQ by category"


def test_few_images_come_with_the_coverage_of_their_intervals():
    images, lowest, highest = simulated_coverage(30)
    assert images == 20
    assert 0.5 < lowest <= highest <= 1
    notes = interval_notes(30)
    assert "jackknife over 30 images" in notes[0]
    assert (
        f"from 20 images held the truth of PQ in {100 * lowest:.0f} to {100 * highest:.0f} % of data sets" in notes[1]
    )
    assert interval_notes(9) == ("Fewer than 10 images: no intervals.",)
    assert "fewer hold less often" in interval_notes(12)[1]
    assert len(interval_notes(5000)) == 1
    assert notes[1] in compare([run("a", balls=5, images=30), run("b", balls=15, images=30)]).grids[0].notes


def test_the_printed_coverage_is_the_measured_one():
    """92 to 97 % from 500 images on, give or take the error of the simulation, and at least 87 % from 200."""
    for images, least in ((200, 0.87), (500, 0.92), (2000, 0.92)):
        assert simulated_coverage(images, ("PQ", "SQ", "RQ"))[1] >= least
