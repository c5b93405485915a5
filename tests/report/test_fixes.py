"""What to fix first, as `panbench errors` prints it and as the page says it."""

import json

import pytest
from drawn_scenes import CATEGORIES, one_table

from panbench.metrics.errors import assign_causes
from panbench.metrics.fixes import cells_to_fix
from panbench.panoptic.overlap import concat
from panbench.report.answers.findings import error_findings
from panbench.report.answers.fixes import fix_sentence
from panbench.runs import Run, RunInfo


def run_of(*scenes: tuple[str, str]) -> Run:
    tables = [one_table(number, *scene) for number, scene in enumerate(scenes, start=1)]
    return Run(RunInfo(kind="score", name="toy", categories=CATEGORIES), table=concat(tables))


# In 12 images of 24 the car is missed, in 3 a bus is seen where nothing is.
SCENES = (*[("aass..", "..ss..")] * 12, *[("aass..", "aass..")] * 9, *[("aassss", "aasssb")] * 3)


def test_errors_begin_with_what_to_fix_first_after_its_causes():
    found = error_findings(run_of(*SCENES))
    grid = found.grids[1]
    assert grid.columns[0] == "Fix first"
    # The bus has nothing but false positives, and 1 once they are gone; in three images, so without an interval.
    assert grid.rows[0] == ("hallucinated", "bus", "small", "33.33", "–", "3", "3")
    # Of cars 12 of 24 are found: PQ 12 / 18, and 1 once all are. It is a third of the mean of car, bus and sky.
    assert grid.rows[1][:4] == ("missed", "car", "small", "11.11")
    assert grid.rows[1][5:] == ("12", "12")


def test_the_record_has_the_numbers_of_the_table_and_no_interval_is_null():
    run = run_of(*SCENES)
    record = json.loads(error_findings(run).json())["fix_first"]
    first, *_ = [row for row in record if row["cause"] == "missed"]
    assert first["gain"] == pytest.approx((1 - 12 / 18) / 3)
    assert first["low"] < first["gain"] < first["high"]
    bus = next(row for row in record if row["name"] == "bus")
    assert (bus["low"], bus["high"], bus["category_id"], bus["size"]) == (None, None, 2, "small")


def test_the_sentence_names_the_first_three_with_what_they_win():
    run = run_of(*SCENES)
    cells = cells_to_fix(assign_causes(run.matched, run.categories), run.matched, run.categories)
    words = fix_sentence(cells, "toy")
    assert words.startswith("To fix first in toy, in points of PQ that mending each alone would win: ")
    assert "hallucinated bus, small (+33.3)" in words
    assert "missed car, small (+11.1 [" in words
    assert words.count("(+") == min(3, len(cells))


def test_of_a_perfect_run_there_is_nothing_to_fix():
    found = error_findings(run_of(*[("aass", "aass")] * 3))
    assert all(grid.columns[0] != "Fix first" for grid in found.grids)
    assert found.record["fix_first"] == []
