"""Data in a store: the runs of local files, and run.json names where they lie."""

from pathlib import Path

import fsspec
import pytest
from support import panbench, ran, refusal, refused

from panbench.base import remote_paths
from panbench.base.errors import BadDataset, PredictionMismatch
from panbench.catalog import find_model
from panbench.datasets import missing_files, open_dataset, shapes
from panbench.evaluation.options import EvaluateOptions
from panbench.runs import Run, load_run
from panbench.scoring.folder import score_folder

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(remote_paths, "WAITS", (0, 0))
    system = fsspec.filesystem("memory")
    yield system
    # Class-wide, and so for all tests of the process.
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def scenes(memory) -> str:
    memory.put(str(SCENES), "/scenes", recursive=True)
    return "memory://scenes"


def score(place: str | Path, out: Path, **options) -> Run:
    score_folder(f"{place}/gt.json", f"{place}/pred.json", out=out, **options)
    return load_run(out)


def digits(run: Run) -> list[str]:
    return [f"{row[name]:.17g}" for row in run.summary().values() for name in ("PQ", "SQ", "RQ") if row["n"]]


def test_scores_from_a_store_equal_those_of_local_files_bit_for_bit(scenes, tmp_path):
    here, there = score(SCENES, tmp_path / "here"), score(scenes, tmp_path / "there")
    assert digits(there) == digits(here)
    assert there.table.to_arrow().equals(here.table.to_arrow())
    assert there.files.to_bytes() == here.files.to_bytes()
    assert there.info.dataset.fingerprint == here.info.dataset.fingerprint


def test_the_run_stores_the_addresses_and_is_verified_and_displayed_from_them(scenes, tmp_path):
    run = score(scenes, tmp_path / "run")
    assert run.info.dataset.gt == "memory://scenes/gt.json"
    assert run.info.dataset.gt_dir == "memory://scenes/gt"
    assert run.info.predictions.folder == "memory://scenes/pred"
    verified = ran("runs", "verify", run.path, "--from-addresses")
    assert "The files of 16 images are unchanged" in verified.output
    fsspec.filesystem("memory").pipe("/scenes/gt/" + sorted(SCENES.glob("gt/*.png"))[0].name, b"other")
    changed = panbench("--from-addresses", "runs", "verify", run.path)
    assert changed.exit_code != 0
    assert "memory://scenes/gt/" in changed.output


def test_a_vanished_object_is_named_with_its_image_and_the_run_can_be_resumed(scenes, memory, tmp_path):
    png = f"/scenes/pred/{sorted(SCENES.glob('pred/*.png'))[2].name}"
    content = memory.cat(png)
    memory.rm(png)
    with pytest.raises(PredictionMismatch, match=rf"memory:/{png} \(image \d+\) was not found"):
        score(scenes, tmp_path / "run")
    memory.pipe(png, content)
    assert digits(score(scenes, tmp_path / "run", resume=True)) == digits(score(SCENES, tmp_path / "here"))


@pytest.mark.slow
def test_an_evaluation_from_a_store_equals_that_of_local_files(memory, tmp_path):
    from panbench.evaluation.evaluate import evaluate
    from panbench.models.opening import open_model

    shapes.generate(tmp_path / "coco", count=3, size=(64, 96))
    memory.put(str(tmp_path / "coco"), "/bucket/coco", recursive=True)
    model = open_model(find_model("mask2former-tiny"), device="cpu")
    here, there = (
        evaluate(model, open_dataset(place), tmp_path / name, EvaluateOptions(batch_size=1))
        for name, place in (("here", tmp_path / "coco"), ("there", "memory://bucket/coco"))
    )
    assert there.table.to_arrow().equals(here.table.to_arrow())
    assert there.files.to_bytes() == here.files.to_bytes()
    assert there.info.dataset.images == "memory://bucket/coco/val"
    resumed = evaluate(model, open_dataset("memory://bucket/coco"), tmp_path / "there", EvaluateOptions(resume=True))
    assert resumed.info.id == there.info.id
    memory.pipe("/bucket/coco/val/" + Path(open_dataset(tmp_path / "coco").scenes[0].image.file_name).name, b"")
    with pytest.raises(BadDataset, match=r"memory://bucket/coco/val/.* \(image"):
        evaluate(model, open_dataset("memory://bucket/coco"), tmp_path / "empty", EvaluateOptions(batch_size=1))


def test_coco_is_not_downloaded_into_a_bucket_of_that_name(memory):
    assert missing_files("memory://bucket/coco") is None
    assert "There is no dataset memory://bucket/coco" in refusal(BadDataset, open_dataset, "memory://bucket/coco")


@pytest.mark.parametrize(
    "line",
    [
        ["score", "--gt", SCENES / "gt.json", "--pred", SCENES / "pred.json", "--out", "s3://bucket/run"],
        ["eval", "--model", "mask2former-tiny", "--data", "shapes", "--limit", "1", "--out", "s3://bucket/run"],
    ],
    ids=["score", "eval"],
)
def test_a_run_cannot_be_written_to_a_url(line, tmp_path):
    said = refused(*line, cwd=tmp_path)
    assert "--out s3://bucket/run is a URL, and panbench writes to file systems only" in said
    assert len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
