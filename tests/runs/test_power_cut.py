"""What a power cut leaves of runs and downloads at each step: tests/power_cut.py simulates the disk."""

import hashlib
import os
from pathlib import Path

import pytest
from little_runs import CATEGORIES, finished, one_row
from power_cut import Left, cuts

from panbench.base.download import download
from panbench.base.errors import BadRun
from panbench.base.files import write_json
from panbench.runs import Run, RunInfo, RunWriter, finish_replacement, load_run
from panbench.runs.hashes import check_recorded, recorded, write_recorded
from scripts.make.coco_mimic import Fault, FaultServer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the work that is cut short is done in a fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def restored(left: Left, number: int, tmp_path: Path) -> Path:
    return left.restore(tmp_path / f"after-{number}")


def run_in(folder: Path) -> Run | None:
    try:
        return load_run(folder)
    except BadRun:
        return None


def is_whole(run: Run, *images: int) -> bool:
    return run.info.status == "done" and not run.faults and run.shortfall is None and run.image_ids() == images


@pytest.mark.parametrize("few", [16, 2], ids=["as they were written", "joined to few"])
def test_a_run_that_reads_as_done_has_all_parts(results, tmp_path, monkeypatch, few):
    monkeypatch.setattr("panbench.panoptic.parts.FEW_PARTS", few)
    images = (1, 2, 3)
    found = cuts(results, lambda: finished(results / "run", *images))
    runs = [run_in(restored(left, number, tmp_path) / "run") for number, left in enumerate(found)]
    assert len(found) > 2 * len(images)  # the steps were seen
    assert {run.info.status for run in runs if run} == {"running", "done"}
    assert all(is_whole(run, *images) for run in runs if run and run.info.status == "done")
    assert not any("torn" in notice for run in runs if run for notice in run.notices)


def test_written_parts_survive_a_power_cut(results, tmp_path):
    def work() -> None:
        writer = RunWriter.create(results / "run", RunInfo(categories=CATEGORIES))
        writer.write_part(one_row(1))

    last = [left for left in cuts(results, work) if left.last]
    runs = [run_in(restored(left, number, tmp_path) / "run") for number, left in enumerate(last)]
    assert runs
    assert all(run and run.image_ids() == (1,) for run in runs)


def test_a_finished_run_is_done_after_a_power_cut(results, tmp_path):
    last = [left for left in cuts(results, lambda: finished(results / "run", 1, 2)) if left.last]
    runs = [run_in(restored(left, number, tmp_path) / "run") for number, left in enumerate(last)]
    assert runs
    assert all(run and is_whole(run, 1, 2) for run in runs)


@pytest.mark.slow
def test_after_a_power_cut_the_old_or_the_new_run_is_complete(results, tmp_path):
    finished(results / "run", 1, 2, 3)

    def work() -> None:
        writer = RunWriter.create(results / "run", RunInfo(categories=CATEGORIES), overwrite=True)
        writer.write_part(one_row(8))
        writer.write_part(one_row(9))
        writer.finish("done")

    seen = set()
    for number, left in enumerate(cuts(results, work)):
        folder = restored(left, number, tmp_path)
        finish_replacement(folder / "run")
        run = run_in(folder / "run") or run_in(folder / ".run.panbench-old")
        assert run
        assert is_whole(run, *((1, 2, 3) if 1 in run.image_ids() else (8, 9))), left
        seen.add(run.image_ids())
        assert not left.last or run.image_ids() == (8, 9)
    assert seen == {(1, 2, 3), (8, 9)}


def test_a_file_never_exists_without_its_recorded_hash(results, tmp_path):
    def work() -> None:
        write_recorded(results, "candidates/7.parquet", b"first")
        write_recorded(results, "predictions.json", b"{}")

    there = 0
    for number, left in enumerate(cuts(results, work)):
        folder = restored(left, number, tmp_path)
        for name in ("candidates/7.parquet", "predictions.json"):
            if (folder / name).exists():
                there += 1
                assert check_recorded(folder, name, recorded(folder)), left
    assert there


def test_after_a_power_cut_a_record_is_the_old_or_the_new_one(results, tmp_path):
    write_json(results / "one.json", "old")
    found = cuts(results, lambda: write_json(results / "one.json", "new"))
    contents = [(restored(left, number, tmp_path) / "one.json").read_text() for number, left in enumerate(found)]
    assert set(contents) == {'"old"\n', '"new"\n'}


@pytest.mark.parametrize("with_hash", [True, False])
def test_a_download_resumed_after_a_power_cut_has_all_bytes(results, tmp_path, with_hash, monkeypatch):
    monkeypatch.setattr("panbench.base.download._sleep", lambda seconds: None)
    content = bytes(range(256)) * 512
    digest = hashlib.sha256(content).hexdigest() if with_hash else None
    with FaultServer({"/file.bin": content}) as server:
        url = f"{server.url}/file.bin"

        def fetch(folder: Path) -> Path:
            return download(url, folder / "file.bin", sha256=digest)

        server.faults["/file.bin"] = [Fault(drop_after=30_000, block=4000), Fault(block=4000)]
        for number, left in enumerate(cuts(results, lambda: fetch(results))):
            folder = restored(left, number, tmp_path)
            if (folder / "file.bin").exists():
                assert (folder / "file.bin").read_bytes() == content, left
            assert fetch(folder).read_bytes() == content, left
