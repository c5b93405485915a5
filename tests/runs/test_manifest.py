"""Files beside the parts are recorded before they are written: whatever a kill leaves, what is there can be checked."""

import hashlib

import numpy as np
import pytest
from little_runs import CATEGORIES, finished, one_row
from support import refusal

from panbench.base.errors import BadRun
from panbench.runs import FileHashes, RunInfo, RunWriter, check_recorded, load_run, recorded, write_recorded
from panbench.runs.merge import merge_runs

BLOCK = "candidates/7.parquet"


def test_a_written_file_matches_its_record_until_it_changes(tmp_path):
    path = write_recorded(tmp_path, BLOCK, b"one")
    assert (tmp_path / "hashes" / "0000.sha256").read_text() == f"{hashlib.sha256(b'one').hexdigest()}  {BLOCK}\n"
    assert check_recorded(tmp_path, BLOCK)
    path.write_bytes(b"two")
    assert "7.parquet is not what the run wrote" in refusal(BadRun, check_recorded, tmp_path, BLOCK)
    assert not check_recorded(tmp_path, "oracle.parquet")


def test_the_later_hash_of_a_rewritten_file_counts(tmp_path):
    for content in (b"one", b"two"):
        write_recorded(tmp_path, "predictions.json", content)
        assert check_recorded(tmp_path, "predictions.json")


def test_a_truncated_line_is_skipped_and_the_next_one_valid(tmp_path):
    write_recorded(tmp_path, BLOCK, b"one")
    manifest = tmp_path / "hashes" / "0000.sha256"
    manifest.write_bytes(manifest.read_bytes() + b"0123456789abcdef")
    assert set(recorded(tmp_path)) == {BLOCK}
    write_recorded(tmp_path, "oracle.parquet", b"two")
    assert check_recorded(tmp_path, BLOCK)
    assert check_recorded(tmp_path, "oracle.parquet")


def test_a_kill_between_record_and_file_leaves_no_unrecorded_file(tmp_path, monkeypatch):
    run = finished(tmp_path / "a", 1)
    write_recorded(run, BLOCK, b"one")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_recorded(run, "candidates/8.parquet", b"two")
    assert set(recorded(run)) == {BLOCK, "candidates/8.parquet"}
    RunWriter.resume(run).finish("done")
    assert set(recorded(run)) == {BLOCK}


@pytest.mark.parametrize("kill", ["os.fsync", "os.replace"])
def test_every_existing_file_was_recorded_whenever_it_is_killed(tmp_path, monkeypatch, kill):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kill, killed)
    with pytest.raises(KeyboardInterrupt):
        write_recorded(tmp_path, BLOCK, b"one")
    assert not (tmp_path / BLOCK).exists()


class TestPredictions:
    def digests(self, *image_ids: int) -> FileHashes:
        rows = [(image_id, b"", b"") for image_id in image_ids]
        return FileHashes.of(rows, predictions=[bytes([image_id]) * 32 for image_id in image_ids])

    def test_hashes_of_predictions_are_read_from_the_parts(self, tmp_path):
        writer = RunWriter.create(tmp_path / "a", RunInfo(categories=CATEGORIES))
        writer.write_part(one_row(2), files=self.digests(2))
        writer.write_part(one_row(1), files=self.digests(1))
        writer.write_part(one_row(3))
        files = writer.finish("done").files
        assert files.predictions() == {1: b"\x01" * 32, 2: b"\x02" * 32}
        assert files.only(np.array([2])).predictions() == {2: b"\x02" * 32}

    def test_facts_of_an_image_round_trip_through_parts(self):
        kept = FileHashes.of([(1, b"a" * 32, b"b" * 32)], [6], [b"c" * 32])
        again = FileHashes.from_bytes(kept.to_bytes())
        assert (again.rows["image"].tobytes(), again.rows["truth"].tobytes()) == (b"a" * 32, b"b" * 32)
        assert (again.oriented.tolist(), again.predictions()) == ([1], {1: b"c" * 32})
        assert FileHashes.from_bytes(FileHashes.of([(1, b"", b"")]).to_bytes()).predictions() == {}

    def test_a_merged_run_has_no_predictions_to_check(self, tmp_path):
        for image_id in (1, 2):
            writer = RunWriter.create(tmp_path / str(image_id), RunInfo(categories=CATEGORIES))
            writer.write_part(one_row(image_id), files=self.digests(image_id))
            writer.finish("done")
        merged = merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "all")
        assert (load_run(merged.path).image_ids(), merged.files.predictions()) == ((1, 2), {})
