"""What to fix first, as `panbench errors` prints it and as the page says it."""

import numpy as np
import pytest
from drawn_scenes import CATEGORIES, one_table

from panbench.datasets import shapes
from panbench.datasets.convert import shipped_categories
from panbench.metrics.errors import assign_causes
from panbench.metrics.fixes import cells_to_fix
from panbench.metrics.matched import Matched
from panbench.panoptic.overlap import concat, overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.report.answers.findings import error_findings
from panbench.report.answers.fixes import NOTHING, fix_sentence
from panbench.runs import Run, RunInfo
from scripts.make import coco_like


def run_of(*scenes: tuple[str, str]) -> Run:
    tables = [one_table(number, *scene) for number, scene in enumerate(scenes, start=1)]
    return Run(RunInfo(kind="score", name="toy", categories=CATEGORIES), table=concat(tables))


# In 12 images of 24 the car is missed, in 3 a bus is seen where nothing is.
SCENES = (*[("aass..", "..ss..")] * 12, *[("aass..", "aass..")] * 9, *[("aassss", "aasssb")] * 3)


def test_the_errors_command_lists_causes_and_then_fixes():
    found = error_findings(run_of(*SCENES))
    grid = found.grids[1]
    assert grid.columns[0] == "Fix first"
    # Of cars 12 of 24 are found: PQ 12 / 18, and 1 once all are. It is a third of the mean of car, bus and sky. The bus
    # where nothing is costs three times as much, but only three images hold it.
    (row,) = grid.rows
    assert row[:2] == ("missed, small", "11.11")
    assert row[3:] == ("12", "12", "car 11.11")
    low, high = (float(end) for end in row[2].strip("[]").split(", "))
    assert low < 11.11 < high


def test_the_record_has_the_numbers_of_the_table_and_its_categories():
    run = run_of(*SCENES)
    (row,) = error_findings(run).record["fix_first"]
    assert (row["cause"], row["size"], row["errors"], row["images"]) == ("missed", "small", 12, 12)
    assert row["gain"] == pytest.approx((1 - 12 / 18) / 3)
    assert row["low"] < row["gain"] < row["high"]
    (category,) = row["categories"]
    assert category == {"category_id": 1, "name": "car", "gain": pytest.approx(row["gain"]), "errors": 12}


def test_the_message_names_significant_fixes_with_their_gains():
    run = run_of(*SCENES)
    words = fix_sentence(cells_to_fix(assign_causes(run.matched, run.categories), run.matched, run.categories), "toy")
    assert words.startswith("To fix first in toy, in points of PQ that fixing each alone would win: ")
    assert "missed, small (+11.1 [" in words
    assert words.endswith("], 12 errors).")


SHAPES = tuple(Category(one["id"], one["name"], one["isthing"] == 1) for one in shapes.CATEGORIES)


def coco_like_scene(number):
    return coco_like.draw_scene(np.random.default_rng((0, number)), shipped_categories("coco"))


def shapes_scene(number):
    scene = shapes.make_scene(number, size=(coco_like.HEIGHT, coco_like.WIDTH))
    told = [
        Segment(**{key: one[key] for key in ("id", "category_id", "area", "iscrowd")}) for one in scene.segments_info
    ]
    return scene.ids, told


@pytest.mark.slow
@pytest.mark.parametrize(("known", "drawn"), [(shipped_categories("coco"), coco_like_scene), (SHAPES, shapes_scene)])
def test_the_first_five_fixes_hold_on_the_other_half_of_the_images(known, drawn):
    """The planted flaws are small things that are missed and wrong categories, as of a set like COCO."""
    tables = []
    for number in range(200):
        ids, truth = drawn(number)
        flaws = coco_like.MODELS["birch"]
        found, segments = coco_like.answer(np.random.default_rng((0, number, 1)), ids, truth, known, flaws)
        tables.append(overlap_table(number + 1, ids, truth, found, segments))
    matched = Matched.of(concat(tables))

    def cells(images, fewest):
        part = matched.only(np.sort(images))
        return cells_to_fix(assign_causes(part, known), part, known, fewest=fewest)

    promised = kept = 0.0
    for seed in range(10):
        images = np.random.default_rng(seed).permutation(matched.image_ids)
        first = cells(images[:100], fewest=10).head(5)
        other = cells(images[100:], fewest=1).set_index(["cause", "size"])["gain"]
        promised += first["gain"].sum()
        kept += other.reindex(zip(first["cause"], first["size"], strict=True)).fillna(0).sum()
    assert kept >= 0.8 * promised


def test_a_perfect_run_has_no_fixes():
    found = error_findings(run_of(*[("aass", "aass")] * 3))
    grid = next(grid for grid in found.grids if grid.columns[0] == "Fix first")
    assert (grid.rows, grid.notes) == ((), (NOTHING,))
    assert found.record["fix_first"] == []
