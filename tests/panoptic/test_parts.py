"""Parts of a run read at once and chunk by chunk: the same rows, the same notices, in any order of writing."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panbench.base.errors import BadRun
from panbench.base.program import in_order
from panbench.panoptic import parts as reading
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.parts import LargeParts, compact, part_files, read_parts, rows_of, write_part
from panbench.panoptic.types import Segment


def one(image_id: int, boundary: bool = False) -> OverlapTable:
    """An image of two rows of pixels whose segments depend on its id."""
    gt = np.array([[5, 5, 0, 9], [5, 2, 2, 9]], np.int32)
    pred = np.where(np.arange(8).reshape(2, 4) % (2 + image_id % 4) == 0, 3, gt).astype(np.int32)
    sides = ([Segment(i, 1, int((ids == i).sum())) for i in np.unique(ids[ids > 0])] for ids in (gt, pred))
    gt_segments, pred_segments = sides
    table = overlap_table(image_id, gt, gt_segments[::-1], pred, pred_segments)
    return dataclasses.replace(table, boundary=table.overlaps) if boundary else table


def written(folder: Path, *parts: list[int], boundary: bool = False) -> Path:
    folder.mkdir()
    for number, images in enumerate(parts):
        write_part(folder / f"{number % 3:04d}-{number:06d}.parquet", concat(one(i, boundary) for i in images))
    return folder


def streamed(folder: Path, rows: int = 60) -> OverlapTable:
    with LargeParts(folder).chunks(rows) as chunks:
        tables = list(in_order(chunks))
    ids = [table.image_ids for table in tables]
    assert all(later[0] > earlier[-1] for earlier, later in pairwise(ids)), "chunks in order of ids"
    return concat(tables)


def assert_same(left: OverlapTable, right: OverlapTable) -> None:
    assert left.to_arrow().equals(right.to_arrow())


@pytest.mark.parametrize("boundary", [False, True])
@pytest.mark.parametrize(
    "parts",
    [
        [[1, 2, 3], [4, 5], [6], [7, 8, 9]],
        [[7, 9], [1, 3], [8], [2]],
        [list(range(start, 200, 10)) for start in range(10)],
    ],
    ids=["one after the other", "in no order", "among each other, more than a chunk"],
)
def test_chunks_are_the_rows_of_all_parts_in_order_of_images(tmp_path, parts, boundary):
    folder = written(tmp_path / "parts", *parts, boundary=boundary)
    whole, notices = read_parts(folder)
    assert notices == ()
    assert (whole.boundary is not None) == boundary
    assert_same(streamed(folder), whole)
    assert LargeParts(folder).image_ids.tolist() == sorted(image for part in parts for image in part)
    assert rows_of(folder) == whole.to_arrow().num_rows


def test_chunks_skip_torn_foreign_and_repeated_parts(tmp_path):
    folder = written(tmp_path / "parts", [3, 1], [2, 3, 4], [9, 5], [5, 6])
    (folder / "0000-000007.parquet").write_bytes(b"PAR1 torn")
    (folder / "notes.txt").write_text("mine")
    whole, notices = read_parts(folder)
    assert len(notices) == 4
    assert LargeParts(folder).notices == notices
    assert_same(streamed(folder), whole)
    assert whole.image_ids.tolist() == [1, 2, 3, 4, 5, 6, 9]


def test_boundaries_that_only_some_images_have_are_left_out_of_chunks(tmp_path):
    folder = written(tmp_path / "parts", [1], [2], boundary=True)
    write_part(folder / "0000-000005.parquet", one(3))
    whole, notices = read_parts(folder)
    assert LargeParts(folder).notices == notices
    assert "some images only" in notices[0]
    assert_same(streamed(folder), whole)


def test_a_part_of_repeated_images_does_not_decide_on_boundaries(tmp_path):
    folder = written(tmp_path / "parts", [1, 2], [3], boundary=True)
    write_part(folder / "0003-000000.parquet", concat([one(2), one(3)]))
    whole, notices = read_parts(folder)
    assert LargeParts(folder).notices == notices
    assert notices == (
        f"{folder / '0003-000000.parquet'} repeats 2 images of earlier parts, which were left out of it.",
    )
    assert whole.boundary is not None
    assert_same(streamed(folder), whole)


def test_a_part_that_disappears_during_reading_is_named(tmp_path):
    folder = written(tmp_path / "parts", [1], [2])
    large = LargeParts(folder)
    part_files(folder)[1].write_bytes(b"")
    with large.chunks() as chunks, pytest.raises(BadRun, match="0001-000001"):
        list(in_order(chunks))


@pytest.fixture
def small_parts(tmp_path) -> tuple[Path, OverlapTable]:
    """A folder of 39 parts of two images, and its rows."""
    folder = written(tmp_path / "parts", *([start, 100 - start] for start in range(1, 40)))
    return folder, read_parts(folder)[0]


def test_many_small_parts_are_compacted(small_parts):
    folder, before = small_parts
    assert compact(folder, images_a_part=30)
    assert len(part_files(folder)) <= 3
    after, notices = read_parts(folder)
    assert notices == ()
    assert_same(after, before)
    assert not compact(folder, images_a_part=30), "few parts stay as they are"


def test_a_killed_compaction_loses_nothing(small_parts, monkeypatch):
    folder, before = small_parts

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(folder, images_a_part=30)
    monkeypatch.undo()
    after, notices = read_parts(folder)
    assert_same(after, before)
    assert notices, "the images that are there twice are told"


def test_parallel_work_returns_in_order_and_raises_errors():
    assert list(in_order([lambda n=n: n * n for n in range(50)])) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_order([lambda: 1, lambda: 1 // 0, lambda: 2]))


def test_the_number_of_open_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_FILES", 3)
    folder = written(tmp_path / "parts", *([*range(start, 300, 15)] for start in range(15)))
    with LargeParts(folder).chunks(40) as chunks:
        assert len(chunks) <= 3
    assert_same(streamed(folder, 40), read_parts(folder)[0])


def test_a_part_with_an_absurd_declared_size_is_skipped_before_it_is_loaded(tmp_path, monkeypatch):
    folder = written(tmp_path / "parts", [1, 2], [3])
    forged = folder / "0009-000000.parquet"
    rows = reading.read_part(folder / "0000-000000.parquet").to_arrow()
    monkeypatch.setattr(reading, "MOST_ROWS", 2 * len(rows))
    pq.write_table(pa.concat_tables([rows] * 3), forged)
    read = []
    monkeypatch.setattr(OverlapTable, "from_arrow", watched(OverlapTable.from_arrow, read))
    table, notices = read_parts(folder)
    assert set(table.image_ids.tolist()) == {1, 2, 3}
    assert [str(forged) in notice and "more than the limit of" in notice for notice in notices] == [True]
    assert len(read) == 2
    assert any("more than the limit of" in notice for notice in LargeParts(folder).notices)


def watched(function, calls: list):
    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return call
