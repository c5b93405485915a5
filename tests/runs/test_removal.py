"""Only what the record of a run lists is deleted, links are removed and not followed, and what is left is named."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_runs import CATEGORIES, everything, finished, one_row, write_side
from support import edited, panbench, refusal, refused

from panbench.base.errors import BadRun
from panbench.panoptic.coco import write_id_png
from panbench.runs import DatasetRecord, RunInfo, RunWriter, load_run, remove_run
from panbench.runs.removal import not_own_files

INFO = RunInfo(categories=CATEGORIES)


def with_predictions(run: Path, *names: str) -> Path:
    for name in names:
        write_id_png(run / "predictions" / name, np.zeros((1, 4), np.int32))
    annotations = [{"image_id": place, "file_name": name, "segments_info": []} for place, name in enumerate(names)]
    (run / "predictions.json").write_text(json.dumps({"annotations": annotations}))
    return run


def test_a_link_inside_a_run_is_removed_and_not_followed(tmp_path):
    one, two = finished(tmp_path / "r1", 1, 2), finished(tmp_path / "r2", 1, 2)
    before = everything(one)
    shutil.rmtree(two / "parts")
    (two / "parts").symlink_to("../r1/parts")
    assert panbench("runs", "delete", two, "--yes").exit_code == 0
    assert everything(one) == before
    assert not two.exists()


def test_a_link_among_the_predictions_is_removed_and_not_followed(tmp_path):
    run, mine = with_predictions(finished(tmp_path / "a", 1), "train/1.png", "2.png"), tmp_path / "mine"
    shutil.move(run / "predictions" / "train", mine)
    (run / "predictions" / "train").symlink_to(mine)
    (run / "predictions" / "2.png").unlink()
    (run / "predictions" / "2.png").symlink_to(mine / "1.png")
    assert remove_run(run) == ()
    assert [path.name for path in mine.iterdir()] == ["1.png"]


def test_a_link_to_a_run_is_neither_deleted_nor_overwritten(tmp_path):
    run = finished(tmp_path / "a", 1)
    before = everything(run)
    (tmp_path / "link").symlink_to(run)
    assert f"link is a link to {run}" in " ".join(refused("runs", "delete", run, tmp_path / "link", "--yes").split())
    assert "is a link to" in refusal(BadRun, RunWriter.create, tmp_path / "link", INFO, overwrite=True)
    assert everything(run) == before


def test_a_users_file_among_predictions_is_kept_and_named(tmp_path):
    run = with_predictions(finished(tmp_path / "a", 1), "1.png", "train/2.png")
    (run / "predictions" / "my-figure.png").write_bytes(b"mine")
    (run / "candidates").mkdir()
    (run / "candidates" / "notes.arrow").write_bytes(b"mine")
    assert "candidates/notes.arrow was not written by panbench" in refusal(
        BadRun, RunWriter.create, run, INFO, overwrite=True
    )
    deleted = panbench("runs", "delete", run, "--yes")
    assert "deleted, except for candidates/notes.arrow, predictions/my-figure.png." in " ".join(deleted.stderr.split())
    assert everything(run) == {"candidates/notes.arrow": b"mine", "predictions/my-figure.png": b"mine"}


def test_a_users_file_that_appeared_during_replacement_moves_to_the_new_run(tmp_path):
    run = with_predictions(finished(tmp_path / "a", 1), "1.png")
    writer = RunWriter.create(run, INFO, overwrite=True)
    (run / "predictions" / "my-figure.png").write_bytes(b"mine")
    writer.finish("done")
    assert set(everything(tmp_path)) == {"a/run.json", "a/predictions/my-figure.png"}


def test_files_named_after_images_of_an_interrupted_run_are_deleted(tmp_path):
    gt = write_side(tmp_path, "gt", {1: "ps", 2: "ps"})
    writer = RunWriter.create(tmp_path / "a", dataclasses.replace(INFO, dataset=DatasetRecord(gt=str(gt))))
    writer.write_part(one_row(1))
    for name in ("1.png", "my-figure.png", ".2.png.abcdefgh.tmp"):
        (tmp_path / "a" / "predictions" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / "predictions" / name).write_bytes(b"x")
    (tmp_path / "a" / "parts" / ".0000-000001.parquet.abcdefgh.tmp").write_bytes(b"x")
    writer.finish("interrupted")
    assert not_own_files(tmp_path / "a") == [tmp_path / "a" / "predictions" / "my-figure.png"]
    assert remove_run(tmp_path / "a") == [tmp_path / "a" / "predictions" / "my-figure.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.timeout(60)
def test_an_endless_ground_truth_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "gt.json")
    info = RunInfo(kind="eval", name="x", dataset=DatasetRecord(gt=str(tmp_path / "gt.json")), categories=CATEGORIES)
    RunWriter.create(tmp_path / "run", info).finish("interrupted")
    assert remove_run(tmp_path / "run") == ()
    assert not (tmp_path / "run").exists()


def test_an_unlisted_foreign_part_is_kept(tmp_path):
    run, other = finished(tmp_path / "a", 1), finished(tmp_path / "b", 2)
    mine = [run / "parts" / "0001-000000.parquet", run / "parts" / "0002-000000.parquet", run / "parts" / "7-7.parquet"]
    shutil.copy(other / "parts" / "0000-000000.parquet", mine[0])
    mine[1].write_bytes(b"torn")
    pq.write_table(pa.table({"mine": [1]}), mine[2])
    record = json.loads((run / "run.json").read_text())
    for id in (record["id"], None):
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        (copy / "run.json").write_text(json.dumps({**record, "id": id}))
        assert remove_run(copy)[-3:] == [copy / path.relative_to(run) for path in mine]
        shutil.rmtree(copy)


def test_predictions_outside_the_run_are_never_deleted(tmp_path):
    run = with_predictions(finished(tmp_path / "a", 1), "1.png")
    (tmp_path / "mine.png").write_bytes(b"mine")
    with edited(run / "predictions.json") as document:
        document["annotations"] += [{"file_name": "../../mine.png"}, {"file_name": str(tmp_path / "mine.png")}]
    assert remove_run(run) == ()
    assert (tmp_path / "mine.png").exists()


def test_a_killed_removal_can_be_repeated(tmp_path, monkeypatch):
    run = with_predictions(finished(tmp_path / "a", 1, 2), "1.png", "2.png")
    files = len(everything(run))
    for before in range(files):
        copy = Path(shutil.copytree(run, tmp_path / f"copy-{before}"))
        left, unlink = [before], Path.unlink

        def killed(path, left=left, unlink=unlink, **options):
            if path.exists():
                left[0] -= 1
            if left[0] < 0 and ".lock" not in path.name:  # the system takes the lock of a killed process
                raise KeyboardInterrupt
            unlink(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                remove_run(copy)
        load_run(copy)
        assert remove_run(copy) == ()
        assert not copy.exists()
