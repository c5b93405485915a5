"""A run folder holds what was written whole, says what it could not read, and is never taken for another's."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet
import pytest
from little_runs import CATEGORIES, everything, finished
from little_runs import one_row as table
from support import edited, python, refusal

import panbench
from panbench.base.errors import BadRun, OutOfSpace
from panbench.base.studies import names_in_studies
from panbench.panoptic.overlap import OverlapTable
from panbench.panoptic.types import Category
from panbench.report.answers.tables import comparison_row
from panbench.runs import (
    FileHashes,
    RunInfo,
    RunWriter,
    check_room,
    digest_of,
    finish_replacement,
    list_runs,
    load_run,
    unfinished_run,
)

INFO = RunInfo(categories=CATEGORIES)


class TestWriting:
    def test_a_run_round_trips(self, tmp_path):
        run = load_run(finished(tmp_path / "a", 3, 1))
        assert (run.name, run.path, run.categories, run.notices) == ("a", tmp_path / "a", CATEGORIES, ())
        assert run.image_ids() == (1, 3)
        assert run.segments().query("image_id == 3")[["side", "id", "category_id", "area"]].to_numpy().tolist() == [
            ["gt", 7, 1, 3],
            ["gt", 8, 9, 1],
            ["pred", 5, 1, 2],
            ["pred", 6, 9, 1],
        ]
        assert run.overlaps().query("image_id == 1")[["gt_id", "pred_id", "pixels"]].to_numpy().tolist() == [
            [7, 0, 1],
            [7, 5, 2],
            [8, 6, 1],
        ]
        assert run.boundary() is None
        assert run.pq()["TP"].tolist() == [2, 0, 2]

    def test_run_json_has_every_key_of_the_schema(self, tmp_path):
        info = json.loads((finished(tmp_path / "a", 1) / "run.json").read_text())
        keys = [
            [*names_in_studies("tables")] if field.name == "study_tables" else [field.name]
            for field in dataclasses.fields(RunInfo)
        ]
        assert list(info) == [key for of_field in keys for key in of_field]
        assert (info["schema"], info["panbench"], info["status"]) == (1, panbench.__version__, "done")
        assert info["model"] is None
        assert info["summary"]["All"] == {"PQ": (2 / 3 + 1) / 2, "SQ": (2 / 3 + 1) / 2, "RQ": 1.0, "n": 2}

    def test_a_run_has_status_running_until_it_is_finished(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        assert load_run(tmp_path / "a").info.status == "running"
        writer.update(seed=7)
        writer.write_part(table(1))
        writer.finish("interrupted", error="Ctrl-C")
        info = load_run(tmp_path / "a").info
        assert (info.status, info.error, info.seed, info.summary.All.n) == ("interrupted", "Ctrl-C", 7, 2)

    def test_a_run_without_images_has_no_summary(self, tmp_path):
        assert RunWriter.create(tmp_path / "a", INFO).finish("failed").info.summary is None

    def test_a_record_that_could_not_be_read_back_is_not_written(self, tmp_path):
        with pytest.raises(BadRun, match=r"cannot be stored: `categories\[0\].id` must lie between 0 and 2147483647"):
            RunWriter.create(tmp_path / "a", RunInfo(categories=(Category(-9, "sky", False),)))
        assert not (tmp_path / "a").exists()

    def test_an_unknown_status_is_a_bug(self, tmp_path):
        with pytest.raises(ValueError, match="done, interrupted, failed"):
            RunWriter.create(tmp_path / "a", INFO).finish("finished")

    def test_the_rows_of_a_shard_are_in_files_that_begin_with_its_number(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        names = [writer.write_part(table(image_id), shard=shard).name for image_id, shard in ((1, 0), (2, 1), (3, 0))]
        assert names == ["0000-000000.parquet", "0001-000000.parquet", "0000-000001.parquet"]
        assert load_run(tmp_path / "a").image_ids() == (1, 2, 3)

    def test_load_run_is_the_public_way_to_read_a_run(self, tmp_path):
        assert panbench.load_run(finished(tmp_path / "a", 1) / "run.json").image_ids() == (1,)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = panbench.nothing

    def test_parts_are_plain_parquet(self, tmp_path):
        frame = pd.read_parquet(finished(tmp_path / "a", 1) / "parts" / "0000-000000.parquet")
        assert frame.query("kind == 'overlap'")["pixels"].sum() == 4


class TestResuming:
    def test_a_writer_knows_finished_images_and_continues(self, tmp_path):
        finished(tmp_path / "a", 1, 2)
        writer = RunWriter.resume(tmp_path / "a")
        assert writer.done == {1, 2}
        assert load_run(tmp_path / "a").info.status == "running"
        assert writer.write_part(table(3)).name == "0000-000002.parquet"
        assert load_run(tmp_path / "a").image_ids() == (1, 2, 3)

    def test_a_writer_ignores_a_torn_part(self, tmp_path):
        torn = finished(tmp_path / "a", 1, 2) / "parts" / "0000-000001.parquet"
        torn.write_bytes(torn.read_bytes()[:100])
        writer = RunWriter.resume(tmp_path / "a")
        assert writer.done == {1}
        assert "0000-000001.parquet is torn" in writer.notices[0]
        assert writer.write_part(table(2)).name == "0000-000002.parquet"
        assert load_run(tmp_path / "a").image_ids() == (1, 2)


class TestKilled:
    @pytest.mark.parametrize("at", ["os.link", "os.fsync"])
    def test_a_killed_writer_loses_no_finished_part(self, tmp_path, at):
        program = f"""
import os, signal, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]}
from test_run_folder import INFO, table
from panbench.runs import RunWriter
writer = RunWriter.create({str(tmp_path / "a")!r}, INFO)
writer.write_part(table(1))
writer.write_part(table(2))
{at} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
writer.write_part(table(3))
"""
        killed = python("-c", program)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list((tmp_path / "a" / "parts").iterdir())) == 3  # the third under a temporary name
        run = load_run(tmp_path / "a")
        assert (run.image_ids(), run.notices, run.info.status) == ((1, 2), (), "running")
        assert RunWriter.resume(tmp_path / "a").done == {1, 2}

    def test_a_writer_killed_at_its_first_file_does_not_block_the_folder(self, tmp_path):
        (tmp_path / ".run.json.abc.tmp").write_text("{")
        check_room(tmp_path)
        assert RunWriter.create(tmp_path, INFO).finish("done").image_ids() == ()

    def test_a_full_disk_keeps_written_parts(self, tmp_path, monkeypatch):
        writer = RunWriter.create(tmp_path / "a", INFO)
        writer.write_part(table(1))

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert "files written before are complete" in refusal(OutOfSpace, writer.write_part, table(2))
        assert load_run(tmp_path / "a").image_ids() == (1,)
        assert [path.name for path in (tmp_path / "a" / "parts").iterdir()] == ["0000-000000.parquet"]


class TestReading:
    def test_unreadable_parts_are_named_and_the_rest_is_read(self, tmp_path):
        parts = finished(tmp_path / "a", 1, 2, 3) / "parts"
        (parts / "0000-000001.parquet").write_bytes(b"PAR1 torn")
        pd.DataFrame({"x": [1]}).to_parquet(parts / "0007-000000.parquet")
        (parts / "notes.txt").write_text("hello")
        (parts / ".0000-000003.parquet.x.tmp").write_bytes(b"half")
        run = load_run(tmp_path / "a")
        assert run.image_ids() == (1, 3)
        assert [notice.split(str(parts) + "/")[1].split(" (")[0] for notice in run.notices] == [
            "notes.txt is not a part of a run and was left out.",
            "0000-000001.parquet is torn and was left out",
            "0007-000000.parquet is foreign and was left out: it lacks the columns kind, image_id, gt_id, pred_id, "
            "category_id, pixels, iscrowd, score.",
        ]

    def test_an_image_that_comes_twice_counts_once(self, tmp_path):
        parts = finished(tmp_path / "a", 1, 2) / "parts"
        (parts / "0001-000000.parquet").write_bytes((parts / "0000-000001.parquet").read_bytes())
        run = load_run(tmp_path / "a")
        assert run.pq()["TP"].tolist() == [2, 0, 2]
        assert "0001-000000.parquet repeats 1 images" in run.notices[0]

    def test_boundary_overlaps_that_only_some_images_have_are_left_out(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        one = table(1)
        writer.write_part(OverlapTable(one.segments, one.overlaps, one.overlaps))
        assert len(load_run(tmp_path / "a").boundary()) == 3
        writer.write_part(table(2))
        run = load_run(tmp_path / "a")
        assert (run.boundary(), run.image_ids()) == (None, (1, 2))
        assert "boundary overlaps of some images only" in run.notices[0]

    def test_a_folder_named_like_a_partition_is_no_problem(self, tmp_path):
        run = load_run(finished(tmp_path / "image_id=9" / "a", 1))
        assert run.image_ids() == (1,)

    def test_a_missing_run_is_reported_with_its_neighbours(self, tmp_path):
        assert "`panbench eval` writes runs" in refusal(BadRun, load_run, tmp_path / "baseline")
        finished(tmp_path / "baseline", 1)
        with pytest.raises(BadRun, match=f"Did you mean {re.escape(str(tmp_path / 'baseline'))}\\?"):
            load_run(tmp_path / "basline")
        assert "Runs in that folder: baseline." in refusal(BadRun, load_run, tmp_path / "new")

    def test_a_folder_that_is_not_a_run_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "empty").mkdir()
        for path, message in (("none", "no such folder"), ("empty", "no run.json"), ("file", "is a file")):
            with pytest.raises(BadRun, match=message):
                load_run(tmp_path / path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "is damaged"),
            ('{"schema": 1, "panbench": "0.2.0", "seed": NaN}', "is damaged: NaN is not a number that JSON has"),
            ("[" * 100_000, "is damaged: it is nested too deeply"),
            ("[]", "not the record of a panbench run"),
            ('{"schema": "x", "panbench": "0"}', "not the record of a panbench run"),
            ('{"schema": 1}', "not the record of a panbench run"),
            (
                '{"schema": 2, "panbench": "9.9"}',
                r'schema 2, written by panbench "9\.9"; this version reads schema 1\.',
            ),
        ],
    )
    def test_a_foreign_record_or_another_schema_is_refused(self, tmp_path, content, message):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(BadRun, match=message):
            load_run(tmp_path)

    def test_a_record_with_only_required_keys_can_be_read(self, tmp_path):
        (tmp_path / "run.json").write_text(
            '{"schema": 1, "panbench": "0.1.0", "categories": [{"id": 1, "name": "a", "isthing": true}]}'
        )
        run = load_run(tmp_path)
        assert (run.name, run.info.model, run.image_ids()) == (tmp_path.name, None, ())
        assert run.categories == (Category(1, "a", True),)
        assert run.summary()["All"] == {"PQ": None, "SQ": None, "RQ": None, "n": 0}

    def test_inconsistent_categories_are_refused(self, tmp_path):
        (tmp_path / "run.json").write_text('{"schema": 1, "panbench": "0.1.0", "categories": [{"id": 1}]}')
        assert "run.json is damaged: `categories[0].name` is missing" in refusal(BadRun, load_run, tmp_path)

    def test_runs_are_listed_by_age_and_other_folders_ignored(self, tmp_path):
        for name, started in (("b", "2026-01-01"), ("a", "2026-01-02")):
            RunWriter.create(tmp_path / name, dataclasses.replace(INFO, started=started))
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "run.json").write_text("{}")
        assert [run.name for run in list_runs(tmp_path)] == ["b", "a"]
        assert list_runs(tmp_path / "none") == []


class TestOverwriting:
    def test_another_run_is_kept_unless_overwrite_is_given(self, tmp_path):
        before = everything(finished(tmp_path / "a", 1))
        with pytest.raises(BadRun, match=r"holds another run.*--overwrite"):
            RunWriter.create(tmp_path / "a", INFO)
        assert everything(tmp_path / "a") == before

    def test_overwriting_removes_all_of_the_old_run(self, tmp_path):
        old = finished(tmp_path / "a", 1, 2)
        (old / "predictions").mkdir()
        (old / "predictions" / "1.png").write_bytes(b"x")
        (old / "predictions.json").write_text('{"annotations": [{"image_id": 1, "file_name": "1.png"}]}')
        (old / "notes.md").write_text("mine")
        RunWriter.create(old, INFO, overwrite=True).finish("done")
        assert set(everything(tmp_path)) == {"a/run.json", "a/notes.md"}
        assert load_run(old).image_ids() == ()

    def test_a_folder_with_other_content_is_never_touched(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("…")
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn" / "run.json").write_text("{")
        before = everything(tmp_path)
        for name in ("thesis", "torn"):
            with pytest.raises(BadRun, match="exists and is not a run that may be replaced"):
                RunWriter.create(tmp_path / name, INFO, overwrite=True)
        assert everything(tmp_path) == before

    def test_foreign_files_among_predictions_prevent_any_removal(self, tmp_path):
        old = finished(tmp_path / "a", 1)
        (old / "predictions").mkdir()
        (old / "predictions" / "diary.txt").write_text("mine")
        before = everything(old)
        assert "diary.txt was not written by panbench" in refusal(BadRun, RunWriter.create, old, INFO, overwrite=True)
        (old / "predictions" / "diary.txt").unlink()
        (old / "predictions").rmdir()
        (old / "predictions").symlink_to(tmp_path)
        assert "predictions was not written by panbench" in refusal(BadRun, RunWriter.create, old, INFO, overwrite=True)
        assert {name: content for name, content in before.items() if "diary" not in name}.items() <= everything(
            old
        ).items()

    def test_the_old_run_exists_until_the_new_one_is_done(self, tmp_path):
        old = finished(tmp_path / "a", 1, 2)
        before = everything(old)
        writer = RunWriter.create(old, INFO, overwrite=True)
        writer.write_part(table(3))
        assert (everything(old), load_run(old).image_ids()) == (before, (1, 2))
        writer.finish("failed", error="Full.")
        assert everything(old) == before
        # Resuming goes on with the new run, and that takes the old one's place.
        assert unfinished_run(old).info.status == "failed"
        resumed = RunWriter.resume(old)
        assert resumed.done == {3}
        resumed.write_part(table(4))
        assert resumed.finish("done").path == old
        assert load_run(old).image_ids() == (3, 4)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("calls", range(3), ids=["before", "between the renames", "before the old run is removed"])
    def test_killed_during_the_swap_one_of_both_runs_is_complete(self, tmp_path, calls):
        old = finished(tmp_path / "a", 1, 2)
        program = f"""
import os, signal, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]}
from test_run_folder import INFO, table
from panbench.runs import RunWriter
writer = RunWriter.create({str(old)!r}, INFO, overwrite=True)
writer.write_part(table(3))
rename, left = os.rename, [{calls}]
def killed(*arguments):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*arguments)
os.rename = killed
import pathlib
pathlib.Path.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL) if left[0] == 0 else None
writer.finish("done")
"""
        killed = python("-c", program)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if calls == 1:
            with pytest.raises(BadRun, match=r"The new run is complete.*`panbench runs finish .*a` puts it in place"):
                load_run(old)
            assert finish_replacement(old)
        assert load_run(old).image_ids() == ((1, 2) if calls == 0 else (3,))
        RunWriter.resume(old).finish("done")
        assert load_run(old).image_ids() == (3,)
        assert {path.name for path in tmp_path.iterdir()} == {"a"}

    def test_space_for_both_runs_is_checked_first(self, tmp_path, monkeypatch):
        old = finished(tmp_path / "a", 1)
        before = everything(old)
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(OutOfSpace, match="is kept until the new run is done, but only 0 MB are free"):
            RunWriter.create(old, INFO, overwrite=True)
        assert everything(tmp_path) == {f"a/{name}": content for name, content in before.items()}

    def test_a_foreign_folder_in_the_swaps_path_is_refused(self, tmp_path):
        old = finished(tmp_path / "a", 1)
        for name in (".a.panbench-new", ".a.panbench-old"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "thesis.tex").write_text("mine")
            with pytest.raises(BadRun, match=rf"{name} is in the way"):
                RunWriter.create(old, INFO, overwrite=True)
            (tmp_path / name / "thesis.tex").unlink()


class TestTwoWriters:
    def test_a_second_writer_is_refused_with_the_first_one_named(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        for second in (
            lambda: RunWriter.create(tmp_path / "a", INFO, overwrite=True),
            lambda: RunWriter.resume(tmp_path / "a"),
        ):
            with pytest.raises(BadRun, match=rf"is being written by process {os.getpid()} on .* since 20"):
                second()
        writer.finish("interrupted")
        assert RunWriter.resume(tmp_path / "a").finish("done").info.status == "done"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_parts_of_another_run_are_refused_by_name(self, tmp_path):
        parts = finished(tmp_path / "a", 1) / "parts"
        other = finished(tmp_path / "b", 2) / "parts"
        (parts / "0001-000000.parquet").write_bytes((other / "0000-000000.parquet").read_bytes())
        run = load_run(tmp_path / "a")
        assert run.image_ids() == (1,)
        assert run.notices == (f"{parts / '0001-000000.parquet'} was written by another run and was left out.",)

    def test_parts_of_other_settings_are_refused_by_name(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", dataclasses.replace(INFO, arguments={"seed": 0}))
        writer.write_part(table(1))
        writer.update(arguments={"seed": 1})
        assert "was made with other settings" in load_run(tmp_path / "a").notices[0]

    def test_a_part_is_never_replaced(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        assert writer.write_part(table(1), shard=1).name == "0001-000000.parquet"
        writer._next["parts", 1] = 0
        assert writer.write_part(table(2), shard=1).name == "0001-000001.parquet"
        assert writer.finish("done").image_ids() == (1, 2)

    def test_a_writer_stops_if_its_run_was_replaced(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", INFO)
        writer.finish("interrupted")
        RunWriter.create(tmp_path / "a", INFO, overwrite=True).finish("done")
        assert "was replaced by another run" in refusal(BadRun, writer.write_part, table(1))


class TestChanged:
    @pytest.mark.parametrize("harm", ["lost", "torn", "changed"])
    def test_a_done_run_that_does_not_match_its_list_of_parts_is_incomplete(self, tmp_path, harm):
        run = finished(tmp_path / "a", 1, 2)
        part = run / "parts" / "0000-000001.parquet"
        if harm == "lost":
            part.unlink()
        elif harm == "torn":
            part.write_bytes(part.read_bytes()[:200])
        else:
            arrow = pyarrow.parquet.read_table(part)
            pyarrow.parquet.write_table(arrow, part)
        found = load_run(run)
        assert found.image_ids() == (1,)
        assert part.name in found.faults[0]
        assert not comparison_row(found).complete
        writer = RunWriter.resume(run)
        assert writer.done == {1}
        writer.write_part(table(2))
        again = writer.finish("done")
        assert (again.image_ids(), load_run(run).faults) == ((1, 2), ())

    def test_numbers_come_from_the_parts_not_from_run_json(self, tmp_path):
        run = finished(tmp_path / "a", 1)
        with edited(run / "run.json") as content:
            content["summary"]["All"]["PQ"] = 0.99
        assert comparison_row(load_run(run)).PQ == (2 / 3 + 1) / 2


class TestFullDisk:
    def test_a_full_disk_ends_with_status_failed(self, tmp_path, monkeypatch):
        """The disk has no byte left but those that panbench kept free for this."""
        writer = RunWriter.create(tmp_path / "a", INFO)
        writer.write_part(table(1))
        reserve = tmp_path / "a" / ".reserve.tmp"
        assert reserve.stat().st_size > 100_000
        fsync = os.fsync

        def full(descriptor):
            if reserve.exists():
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OutOfSpace):
            writer.write_part(table(2))
        assert writer.finish("failed", error="No space left.").info.status == "failed"
        assert (load_run(tmp_path / "a").info.status, reserve.exists()) == ("failed", False)

    @pytest.mark.skipif(sys.platform == "win32", reason="files are bounded by setrlimit")
    def test_a_run_starts_only_if_its_end_can_be_recorded(self, tmp_path):
        import resource

        old = finished(tmp_path / "old", 1)
        bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, bounds[1]))
        try:
            for begin in (
                lambda: RunWriter.create(tmp_path / "a", INFO),
                lambda: RunWriter.create(old, INFO, overwrite=True),
                lambda: RunWriter.resume(old),
            ):
                assert "cannot be written: File too large" in refusal(BadRun, begin)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
        assert sorted(path.name for path in tmp_path.rglob("*") if path.name != "parts") == [
            "0000-000000.parquet",
            "old",
            "run.json",
        ]
        assert load_run(old).info.status == "done"


class TestOddPlaces:
    def test_a_name_too_long_for_the_file_system_is_reported_in_one_sentence(self, tmp_path):
        with pytest.raises(BadRun, match=r"cannot be (written|made).*[Nn]ame too long"):
            RunWriter.create(tmp_path / ("x" * 300), INFO)
        with pytest.raises(BadRun, match=r"[Nn]ame too long"):
            load_run(tmp_path / ("x" * 300))

    def test_the_current_folder_can_be_a_run_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        RunWriter.create(".", INFO).finish("done")
        assert RunWriter.create(".", INFO, overwrite=True).path.name == f".{tmp_path.name}.panbench-new"


class TestFilesRead:
    def test_hashes_of_the_files_that_were_read_round_trip(self, tmp_path):
        (tmp_path / "1.png").write_bytes(b"one")
        digest = digest_of(tmp_path / "1.png")
        writer = RunWriter.create(tmp_path / "a", INFO)
        writer.write_part(table(2), files=FileHashes.of([(2, digest, b"")]))
        writer.write_part(table(1), files=FileHashes.of([(1, digest, digest)]))
        files = writer.finish("done").files
        assert files.rows["image_id"].tolist() == [1, 2]
        assert digest.hex() == hashlib.sha256(b"one").hexdigest()
        other = FileHashes.of([(1, digest, hashlib.sha256(b"two").digest()), (2, b"", digest)])
        assert files.differing(other) == ([], [1])


class TestFilesInTheWay:
    def test_a_file_instead_of_a_folder_is_refused(self, tmp_path):
        (tmp_path / "a").write_text("x")
        assert "is a file" in refusal(BadRun, RunWriter.create, tmp_path / "a", INFO)
        assert "cannot be made" in refusal(BadRun, RunWriter.create, tmp_path / "a" / "b", INFO)
