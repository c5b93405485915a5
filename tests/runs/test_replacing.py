"""Runs that users named X.old and X.new are theirs, and a replacement touches only the run that its mark names."""

import os
import shutil
from pathlib import Path

import pytest
from little_runs import CATEGORIES, everything, finished, one_row, write_side
from support import panbench, refusal, refused

from panbench.base.errors import BadRun
from panbench.runs import (
    RunInfo,
    RunWriter,
    finish_replacement,
    load_run,
    read_runs,
    remove_run,
    unfinished_run,
    writer,
)

INFO = RunInfo(categories=CATEGORIES)


def replaced(path: Path, *image_ids: int) -> None:
    writer = RunWriter.create(path, INFO, overwrite=True)
    for image_id in image_ids:
        writer.write_part(one_row(image_id))
    writer.finish("done")


def cut_between_the_renames(path: Path) -> tuple[Path, Path]:
    """The state that a kill between the two renames leaves: the places of the new and of the old run."""
    finished(path, 1)
    writer = RunWriter.create(path, INFO, overwrite=True)
    writer.write_part(one_row(2))
    run = writer.path
    writer.home = writer.path  # so that finish does not swap
    writer.finish("done")
    path.rename(path.with_name(f".{path.name}.panbench-old"))
    return run, path.with_name(f".{path.name}.panbench-old")


class TestNamesOfUsers:
    @pytest.mark.parametrize("kept", ["a.old", "a.new"])
    @pytest.mark.parametrize("what", ["delete", "overwrite", "resume"])
    def test_a_run_named_like_a_backup_is_not_touched(self, tmp_path, kept, what):
        run, backup = finished(tmp_path / "a", 1), finished(tmp_path / kept, 2)
        before = everything(backup)
        if what == "delete":
            remove_run(run)
        elif what == "overwrite":
            replaced(run, 3)
            assert load_run(run).image_ids() == (3,)
        else:
            assert unfinished_run(run).path == run
            assert RunWriter.resume(run).finish("done").image_ids() == (1,)
        assert everything(backup) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_moving_a_run_to_a_backup_frees_its_name(self, tmp_path, overwrite):
        backup = finished(tmp_path / "a", 1).rename(tmp_path / "a.old")
        before = everything(backup)
        RunWriter.create(tmp_path / "a", INFO, overwrite=overwrite).finish("done")
        assert everything(backup) == before
        assert load_run(tmp_path / "a").image_ids() == ()

    def test_reading_does_not_rename_and_reports_the_backup(self, tmp_path):
        backup = finished(tmp_path / "a", 1).rename(tmp_path / "a.old")
        before = everything(tmp_path)
        assert f"`mv {backup} {tmp_path / 'a'}`" in " ".join(refused("compare", tmp_path / "a").split())
        assert everything(tmp_path) == before

    def test_resume_starts_over_next_to_a_backup(self, tmp_path):
        finished(tmp_path / "a", 1).rename(tmp_path / "a.old")
        assert unfinished_run(tmp_path / "a") is None


class TestCutShort:
    def test_reading_reports_the_command_that_finishes_a_replacement(self, tmp_path):
        cut_between_the_renames(tmp_path / "a")
        before = everything(tmp_path)
        with pytest.raises(BadRun, match=r"complete in .*panbench-new\. `panbench runs finish .*a` puts it in place"):
            load_run(tmp_path / "a")
        found, problems = read_runs(tmp_path)
        assert found == []
        assert "panbench runs finish" in problems[0]
        assert everything(tmp_path) == before
        assert panbench("runs", "finish", tmp_path / "a").exit_code == 0
        assert load_run(tmp_path / "a").image_ids() == (2,)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert not finish_replacement(tmp_path / "a")

    def test_an_old_run_whose_replacement_is_lost_is_named(self, tmp_path):
        new, old = cut_between_the_renames(tmp_path / "a")
        shutil.rmtree(new)
        with pytest.raises(BadRun, match=rf"The run that was there is in {old}: `mv {old} .*` puts it back"):
            load_run(tmp_path / "a")


class TestMark:
    def test_replacing_a_vanished_run_does_not_touch_its_successor(self, tmp_path):
        run = finished(tmp_path / "a", 1)
        writer = RunWriter.create(run, INFO, overwrite=True)
        writer.finish("interrupted")
        remove_run(run)
        other = finished(tmp_path / "a", 5)
        assert unfinished_run(other).path == other
        assert "panbench-new is in the way" in refusal(BadRun, RunWriter.create, other, INFO, overwrite=True)
        assert load_run(other).image_ids() == (5,)

    def test_a_run_that_appeared_meanwhile_is_not_replaced(self, tmp_path):
        run, other = finished(tmp_path / "a", 1), finished(tmp_path / "b", 5)
        writer = RunWriter.create(run, INFO, overwrite=True)
        run.rename(tmp_path / "mine")
        other.rename(run)
        assert "no longer the run that it was to replace" in refusal(BadRun, writer.finish, "done")
        assert (load_run(run).image_ids(), load_run(tmp_path / "mine").image_ids()) == ((5,), (1,))

    def test_a_failed_swap_keeps_the_old_run(self, tmp_path, monkeypatch):
        run, rename = finished(tmp_path / "a", 1), os.rename
        writer = RunWriter.create(run, INFO, overwrite=True)

        def refused(source, target):
            if Path(source) == writer.path:
                raise OSError(13, "Permission denied")
            rename(source, target)

        monkeypatch.setattr("os.rename", refused)
        assert "cannot replace" in refusal(BadRun, writer.finish, "done")
        assert load_run(run).image_ids() == (1,)


class TestLastMoment:
    @pytest.fixture
    def a_signal_after_the_swap(self, monkeypatch):
        swap = writer.swap_runs

        def interrupted(new, home):
            swap(new, home)
            raise KeyboardInterrupt

        monkeypatch.setattr(writer, "swap_runs", interrupted)

    @pytest.mark.usefixtures("a_signal_after_the_swap")
    @pytest.mark.parametrize("what", ["score", "merge"])
    def test_an_interruption_after_the_swap_keeps_the_new_run_and_leaves_nothing_behind(self, tmp_path, what):
        run = finished(tmp_path / "a", 1)
        gt, pred = write_side(tmp_path, "gt", {2: "ps"}), write_side(tmp_path, "pred", {2: "ps"})
        lines = {
            "score": ("score", "--gt", gt, "--pred", pred, "--out", run),
            "merge": ("runs", "merge", finished(tmp_path / "shard", 2), "--out", run),
        }
        before = {path.name for path in tmp_path.iterdir()}
        assert panbench(*lines[what], "--overwrite").exit_code == 130
        assert {path.name for path in tmp_path.iterdir()} == before
        assert load_run(run).image_ids() == (2,)
        assert load_run(run).info.status == "done"

    @pytest.mark.parametrize("what", ["finish", "overwrite"])
    def test_a_leftover_record_without_parts_is_removed(self, tmp_path, what):
        run = finished(tmp_path / "a", 1)
        shutil.copytree(run, ghost := tmp_path / ".a.panbench-new", ignore=shutil.ignore_patterns("parts"))
        if what == "finish":
            assert panbench("runs", "finish", run).exit_code == 0
            assert load_run(run).image_ids() == (1,)
        else:
            replaced(run, 3)
            assert load_run(run).image_ids() == (3,)
        assert not ghost.exists()

    def test_a_run_with_parts_in_a_replacements_path_is_kept_and_named(self, tmp_path):
        run, other = finished(tmp_path / "a", 1), finished(tmp_path / ".a.panbench-new", 2)
        before = everything(other)
        assert not finish_replacement(run)
        assert "is in the way" in refusal(BadRun, RunWriter.create, run, INFO, overwrite=True)
        assert everything(other) == before
