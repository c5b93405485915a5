"""Scoring in chunks: a killed run goes on, shards are joined, and the numbers are those of one go."""

from pathlib import Path

import numpy as np
import pytest
from little_runs import write_side
from support import ran, refusal, refused

from panbench.base.errors import BadArgument, BadRun, PredictionMismatch
from panbench.panoptic.parts import part_files
from panbench.runs import load_run
from panbench.runs.merge import merge_runs
from panbench.scoring import counting as scoring
from panbench.scoring.folder import score_folder

IMAGES = 23


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A JSON and PNGs a side; of each image another part is right. Chunks of four images."""
    monkeypatch.setattr(scoring, "PART_IMAGES", 4)
    rng = np.random.default_rng(3)
    gt = np.array(list("pppspsss"))
    ids, other = rng.permutation(1000)[:IMAGES].tolist(), np.where(gt == "p", "s", "p")
    found = {image_id: np.where(rng.random(8) < 0.2, other, gt) for image_id in ids}
    write_side(tmp_path, "gt", dict.fromkeys(found, "".join(gt)))
    write_side(tmp_path, "pred", {image_id: "".join(marks) for image_id, marks in found.items()})
    return tmp_path


def score(data: Path, out: str | None = None, **options):
    return score_folder(data / "gt.json", data / "pred.json", out=None if out is None else data / out, **options)


def assert_same(one, other):
    assert one.table.to_arrow().equals(other.table.to_arrow())
    assert one.summary() == other.summary()
    assert one.info.images.gt_faults == other.info.images.gt_faults
    assert one.info.images.scored == other.info.images.scored


def test_scoring_in_chunks_equals_the_run_of_one_process(data, monkeypatch):
    stored = score(data, "run")
    assert len(part_files(data / "run" / "parts")) == 6
    monkeypatch.setattr(scoring, "PART_IMAGES", 1000)
    assert_same(stored, score(data))


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_resumes_with_missing_images(data, stopped, monkeypatch):
    whole = score(data)
    count, looked = scoring.ImageCounter.count_image, []

    def stops(counter, row):
        looked.append(row)
        if len(looked) == 15:
            raise stopped("enough")
        return count(counter, row)

    monkeypatch.setattr(scoring.ImageCounter, "count_image", stops)
    monkeypatch.setattr(scoring, "_TASKS_AHEAD", 0)
    monkeypatch.setattr(scoring, "_IMAGES_A_TASK", 1)
    with pytest.raises(stopped):
        score(data, "run", threads=1)
    kept = load_run(data / "run")
    assert kept.info.status == ("interrupted" if stopped is KeyboardInterrupt else "failed")
    assert len(kept.images) == 12, "three chunks of four"
    looked.clear()
    monkeypatch.setattr(
        scoring.ImageCounter, "count_image", lambda counter, row: looked.append(row) or count(counter, row)
    )
    resumed = score(data, "run", resume=True)
    assert len(looked) == IMAGES - 12
    assert resumed.info.status == "done"
    assert_same(resumed, whole)


def test_resume_starts_a_missing_run_and_keeps_a_finished_one(data):
    first = score(data, "run", resume=True)
    assert_same(score(data, "run", resume=True), first)


def test_a_run_with_a_fault_keeps_the_other_chunks_for_resume(data):
    whole = score(data)
    last = int(whole.images[-1])
    good = (data / "pred" / f"{last}.png").read_bytes()
    (data / "pred" / f"{last}.png").write_bytes(b"no PNG")
    with pytest.raises(PredictionMismatch, match="--resume"):
        score(data, "run")
    assert len(load_run(data / "run").images) == 20
    (data / "pred" / f"{last}.png").write_bytes(good)
    assert_same(score(data, "run", resume=True), whole)


def test_a_run_is_not_resumed_with_other_settings(data):
    score(data, "run")
    with pytest.raises(BadRun, match=r"boundary was False and is True"):
        score(data, "run", resume=True, boundary=True)
    with pytest.raises(BadArgument, match="--out"):
        score(data, resume=True)


def test_shards_have_each_image_once_and_merge_to_the_run_of_one_process(data):
    whole = score(data)
    shards = [score(data, f"shard-{number}", shard=(number, 3)) for number in (1, 2, 3)]
    assert [shard.info.images.expected for shard in shards] == [8, 8, 7]
    merged = merge_runs([data / f"shard-{number}" for number in (2, 1, 3)], data / "all")
    assert_same(merged, whole)
    assert merged.info.images.expected == IMAGES
    assert load_run(data / "all").info == merged.info
    listed = merged.info.parts
    assert [data / "all" / "parts" / part.name for part in listed] == part_files(data / "all" / "parts")
    assert sum(part.images for part in listed) == IMAGES
    assert {shard.info.images.whole for shard in shards} == {IMAGES}
    stored = score(data, "whole")
    assert merged.info.arguments == stored.info.arguments
    assert merged.info.images == stored.info.images


def test_shards_that_do_not_fit_are_refused_and_nothing_is_written(data):
    for number in (1, 2):
        score(data, f"shard-{number}", shard=(number, 2))
    score(data, "again", shard=(1, 3))
    score(data, "near", shard=(2, 2), boundary=True)

    def apart(*names):
        said = refusal(BadRun, merge_runs, [data / name for name in names], data / "all")
        assert not (data / "all").exists()
        return said

    assert "share 8 images" in apart("shard-1", "shard-2", "again")
    assert "boundary was False and is True" in apart("shard-1", "near")
    assert "share 12 images" in apart("shard-1", "shard-1")
    part_files(data / "shard-2" / "parts")[0].write_bytes(b"torn")
    assert "is incomplete" in apart("shard-1", "shard-2")
    with pytest.raises(BadArgument, match="one of the shards"):
        merge_runs([data / "shard-1"], data / "shard-1", overwrite=True)


def test_a_missing_shard_is_named_and_can_be_evaluated_later(data):
    for number in (1, 3):
        score(data, f"shard-{number}", shard=(number, 3))
    shards = [data / "shard-1", data / "shard-3"]
    with pytest.raises(BadRun, match=r"^1 shard was missing: 2/3\."):
        merge_runs(shards, data / "all")
    partial = merge_runs(shards, data / "all", allow_missing=True)
    assert (partial.info.status, partial.info.images.expected, partial.info.images.scored) == (
        "interrupted",
        IMAGES,
        15,
    )
    whole = score(data, "all", resume=True)
    assert whole.info.status == "done"
    assert_same(whole, score(data))


def test_an_unfinished_shard_is_not_merged(data, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    score(data, "shard-1", shard=(1, 2))
    monkeypatch.setattr("panbench.runs.writer.RunWriter._compact_part_files", stops)
    with pytest.raises(KeyboardInterrupt):
        score(data, "shard-2", shard=(2, 2))
    monkeypatch.undo()
    with pytest.raises(BadRun, match="is not done"):
        merge_runs([data / "shard-1", data / "shard-2"], data / "all")


@pytest.mark.parametrize(("shard", "message"), [((0, 2), "from 1 to 2"), ((3, 2), "from 1 to 2"), ((30, 40), "fewer")])
def test_an_impossible_shard_is_refused(data, shard, message):
    with pytest.raises(BadArgument, match=message):
        score(data, shard=shard)


def test_shards_are_scored_and_merged_on_the_command_line(data):
    score_it = ("score", "--gt", data / "gt.json", "--pred", data / "pred.json")
    for number in (1, 2):
        ran(*score_it, "--shard", f"{number}/2", "--out", data / f"shard-{number}", "--resume")
    ran("runs", "merge", data / "shard-1", data / "shard-2", "--out", data / "all")
    assert load_run(data / "all").summary() == score(data).summary()
    for words in (["--shard", "2"], ["--shard", "a/b"]):
        assert "3/16" in refused(*score_it, *words)
