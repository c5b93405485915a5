"""A report of very many images: the numbers of all of them from one pass, the rest of a sample, and it says so."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from drawn_scenes import CATEGORIES, table_of_scenes
from support import refusal

from panbench.metrics import fixes, samples
from panbench.metrics.fixes import FixAccumulator
from panbench.metrics.matched import Matched
from panbench.panoptic import parts
from panbench.panoptic.overlap import concat
from panbench.report.answers import totals, views
from panbench.report.answers.totals import sample_of, totals_of
from panbench.report.pages.live.queries import Query
from panbench.report.pages.live.selection import Selection
from panbench.report.pages.page.document import report_page
from panbench.runs import RunInfo, RunWriter, folder, load_run

IMAGES = 60


def write_run(where, worse=False):
    """A run on drawn scenes; a worse one takes all segments of every third image for the first category."""
    writer = RunWriter.create(where, RunInfo(kind="score", categories=CATEGORIES))
    tables = table_of_scenes(7, images=IMAGES)
    if worse:
        tables = [mistaken(table) if number % 3 == 0 else table for number, table in enumerate(tables)]
    for number in range(8):
        writer.write_part(concat(tables[number::8]))
    writer.finish("done")
    return where


def mistaken(table):
    segments = table.segments
    category_id = np.where(segments.is_gt, segments.category_id, CATEGORIES[0].id).astype(np.int32)
    return replace(table, segments=replace(segments, category_id=category_id))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The run of `path`, written once."""
    return write_run(tmp_path_factory.mktemp("folded") / "run")


@pytest.fixture
def path(written, tmp_path, monkeypatch):
    """A run in parts that hold images in no order, and a cache folder of its own."""
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(written, tmp_path / "run")


@pytest.fixture
def large(monkeypatch):
    """Takes all runs for large: read some images a chunk, of which ten are shown."""
    monkeypatch.setattr(folder, "ROWS_AT_ONCE", 0)
    monkeypatch.setattr(parts.LargeParts.chunks.__wrapped__, "__defaults__", (60,))
    monkeypatch.setattr(totals, "SAMPLED", 10)
    monkeypatch.setattr(views, "SAMPLED", 10)
    monkeypatch.setattr(views, "WORST", 3)


@pytest.fixture
def grouped(monkeypatch):
    """Deals images into groups, as those of very many are."""
    for room in (fixes, samples):
        monkeypatch.setattr(room, "EXACT_IMAGES", 20)
        monkeypatch.setattr(room, "UNITS", 15)


def numbers(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


OF_ALL = ("overview", "pairs", "perCategory", "confusion", "objects", "fixes")


@pytest.mark.parametrize("groups", [False, True])
def test_totals_equal_those_of_all_images_bit_for_bit(path, large, monkeypatch, request, groups):
    if groups:
        request.getfixturevalue("grouped")
    other = write_run(path.parent / "other", worse=True)
    page = report_page([load_run(path), load_run(other)])
    found = numbers(page)
    assert len(found["images"]["ids"]) <= 10 + 3
    monkeypatch.setattr(folder, "ROWS_AT_ONCE", 10**9)
    expected = numbers(report_page([load_run(path), load_run(other)]))
    assert len(expected["images"]["ids"]) == IMAGES
    assert [found[name] for name in OF_ALL] == [expected[name] for name in OF_ALL]
    assert [found["causes"][name] for name in ("lost", "gain", "counts")] == [
        expected["causes"][name] for name in ("lost", "gain", "counts")
    ]
    assert [(one["PQ"], one["truths"]) for one in found["slices"]] == [
        (one["PQ"], one["truths"]) for one in expected["slices"]
    ]


def test_the_page_marks_what_comes_from_a_sample(path, large):
    page = report_page([load_run(path)])
    assert f"are of all {IMAGES} images" in page
    assert "a sample, 10 images drawn at random" in page


def test_a_page_of_all_images_does_not_mention_samples(path):
    assert 'id="sampled"' not in report_page([load_run(path)])


def test_the_worst_of_all_images_are_on_the_page(path, large, monkeypatch):
    (member,), _ = views.compared([load_run(path)])
    asked = int(member.run.images[17])
    shown = views.per_image([member], [asked])
    monkeypatch.undo()
    (whole,), _ = views.compared([load_run(path)])
    of_all = views.per_image([whole])
    worst = of_all.sort_values("PQ", kind="stable")["image_id"].tolist()[:3]
    assert {*worst, asked} <= set(shown["image_id"])
    same = of_all[of_all["image_id"].isin(shown["image_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(shown.reset_index(drop=True), same)


def test_a_page_reads_a_run_only_once(path, large, monkeypatch):
    read = []
    chunks = parts.LargeParts.chunks
    monkeypatch.setattr(parts.LargeParts, "chunks", lambda *given: read.append(1) or chunks(*given))
    report_page([load_run(path)])
    assert read == [1]


def test_the_summary_of_totals_equals_that_of_the_run(path, large):
    run = load_run(path)
    assert totals_of(run).summary == run.summary()
    read = load_run(path)
    totals_of(read).read()
    assert totals_of(read).summary == run.summary()


def test_selected_images_of_a_large_run_are_read_alone(path, large, monkeypatch):
    run = load_run(path)
    wanted = run.images[[3, 4, 40]]
    found = run.matched_of(wanted.tolist())
    assert "matched" not in vars(run)
    monkeypatch.undo()
    expected = load_run(path).matched.only(wanted.tolist())
    np.testing.assert_array_equal(found.image_ids, expected.image_ids)
    np.testing.assert_array_equal(found.iou, expected.iou)
    np.testing.assert_array_equal(found.verdict, expected.verdict)


def test_cells_of_groups_do_not_depend_on_chunks(path, grouped):
    run = load_run(path)
    by_chunks, at_once = (FixAccumulator(run.categories, run.images, of_images) for of_images in (False, True))
    for images in np.array_split(run.images, 7):
        by_chunks.add(by_chunks.map_chunk(run.matched.only(images)))
    at_once.add(at_once.map_chunk(run.matched))
    pd.testing.assert_frame_equal(by_chunks.cells(), at_once.cells(), check_exact=True)
    assert by_chunks.errors() == at_once.errors()
    np.testing.assert_array_equal(by_chunks.now(), at_once.now())


def test_a_served_page_selects_from_the_sample_and_shows_any_image(path, large, monkeypatch):
    selection = Selection([load_run(path)])
    found = selection.find(Query())
    run = load_run(path)
    assert set(sample_of(run.images).tolist()) <= set(found)
    assert len(found) <= 10 + 3
    assert 'id="sampled"' in selection.page("/api", "/")
    other = next(image for image in run.image_ids() if image not in found)
    assert "No run has stored predictions" in refusal(Exception, selection.example, other)
    assert "have no image 999999" in refusal(Exception, selection.example, 999999)


def test_a_page_matches_only_the_sample_and_the_worst_images(path, large, monkeypatch):
    """After the pass nothing is matched but the sample and the worst images."""
    run = load_run(path)
    totals_of(run).read()
    matched, of = [], Matched.of

    def counted(table):
        matched.append(len(table.image_ids))
        return of(table)

    monkeypatch.setattr(Matched, "of", staticmethod(counted))
    report_page([run])
    # The sample, the worst, and both together.
    assert sum(matched) <= 2 * (10 + 3)
