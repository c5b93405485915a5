"""Every metric of a run that is read chunk by chunk is, to the last bit, that of the run read at once."""

import json

import numpy as np
import pytest
from drawn_scenes import CATEGORIES, table_of_scenes

from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Matched
from panbench.metrics.samples import Sample, SampleAccumulator
from panbench.metrics.slices import SLICINGS, StatisticsAccumulator
from panbench.metrics.uncertainty import compare_runs
from panbench.panoptic import parts
from panbench.panoptic.overlap import concat
from panbench.report.answers.comparison import compare
from panbench.report.answers.findings import error_findings, metric_findings
from panbench.runs import RunInfo, RunWriter, folder, load_run


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run whose parts hold images in no order."""
    where = tmp_path_factory.mktemp("chunks") / "run"
    writer = RunWriter.create(where, RunInfo(kind="score", categories=CATEGORIES))
    tables = table_of_scenes(7, images=60)
    for number in range(8):
        writer.write_part(concat(tables[number::8]))
    writer.finish("done")
    return where


@pytest.fixture
def in_chunks(monkeypatch):
    """Reads all runs as if they were large, some images a chunk."""
    monkeypatch.setattr(folder, "ROWS_AT_ONCE", 0)
    monkeypatch.setattr(parts.LargeParts.chunks.__wrapped__, "__defaults__", (60,))


def answers(path):
    run = load_run(path)
    return (
        json.dumps(metric_findings(run, by=list(SLICINGS), per_category=True).record, allow_nan=False),
        json.dumps(error_findings(load_run(path), images=3).record, allow_nan=False),
        compare([load_run(path), load_run(path)], by="size", per_category=True).json(),
        load_run(path).pq(0.7).to_json(double_precision=15),
        load_run(path).ground_truth_faults(),
    )


@pytest.mark.slow
def test_metrics_errors_and_compare_in_chunks_equal_those_of_all_images(path, in_chunks, monkeypatch):
    matchings, match = [], Matched.of

    def counted(table):
        matchings.append(len(table.image_ids))
        return match(table)

    monkeypatch.setattr(Matched, "of", staticmethod(counted))
    found = answers(path)
    assert len(matchings) > 10
    assert max(matchings) < 30
    monkeypatch.undo()
    assert found == answers(path)


def test_iou_sums_continue_across_chunks_bit_for_bit(path, in_chunks, monkeypatch):
    found = load_run(path).pq()["iou_sum"].to_numpy()
    monkeypatch.undo()
    np.testing.assert_array_equal(found, load_run(path).pq()["iou_sum"].to_numpy())


def test_a_subset_read_in_chunks_equals_the_same_subset_read_at_once(path, in_chunks, monkeypatch):
    def table():
        run = load_run(path)
        accumulator = StatisticsAccumulator(run.categories, "size")
        run.accumulate(accumulator, images=run.images[::3])
        return accumulator.result().table

    found = table()
    monkeypatch.undo()
    assert found.astype(float).equals(table().astype(float))


@pytest.fixture(scope="module")
def of_400(random_scenes):
    tables = random_scenes(3, images=400)
    accumulator = StatisticsAccumulator(tables.categories)
    accumulator.add(accumulator.map_chunk(tables.matched))
    return tables, accumulator.result()


def in_groups(monkeypatch) -> None:
    monkeypatch.setattr("panbench.metrics.samples.EXACT_IMAGES", 100)
    monkeypatch.setattr("panbench.metrics.samples.UNITS", 200)


def test_with_many_images_the_jackknife_leaves_out_groups(of_400, monkeypatch):
    tables, statistics = of_400
    one_by_one = intervals(statistics)
    in_groups(monkeypatch)
    grouping = SampleAccumulator(tables.categories, tables.matched.image_ids)
    for images in np.array_split(tables.matched.image_ids, 5):
        grouping.add(grouping.map_chunk(tables.matched.only(images)))
    sample = grouping.result()
    assert sample.sums.shape[1] == 200
    grouped = intervals(sample)
    assert grouped["images"].tolist() == one_by_one["images"].tolist(), "images are counted, not groups"
    np.testing.assert_allclose(grouped["value"], one_by_one["value"], rtol=1e-12)
    of_all = (one_by_one["group"] == "All").to_numpy()
    widths = [(frame["high"] - frame["low"]).to_numpy()[of_all] for frame in (grouped, one_by_one)]
    # The spread of 200 groups' sums tells that of 400 images' to some 5 %.
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.25)
    itself = compare_runs({"a": sample, "b": sample})
    assert (itself.differences["p"].dropna() == 1).all()


def test_statistics_of_many_images_have_the_groups_of_chunks(of_400, monkeypatch):
    tables, statistics = of_400
    in_groups(monkeypatch)
    at_once = Sample.of(statistics)
    grouping = SampleAccumulator(tables.categories, tables.matched.image_ids)
    grouping.add(grouping.map_chunk(tables.matched))
    np.testing.assert_allclose(at_once.sums.toarray(), grouping.result().sums, rtol=1e-12)
    assert (at_once.held != grouping.result().held).nnz == 0
