"""Scoring on indexes: the run, the refusals and the notices are those of the JSONs, and a shard reads its own rows."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from panbench.base.errors import PredictionMismatch
from panbench.datasets import index as indexing
from panbench.datasets.index import build_index, index_paths
from panbench.panoptic.idmap import encode_id_png
from panbench.runs.alike import ground_truths, same_ground_truth
from panbench.runs.merge import merge_runs
from panbench.runs.record import DatasetRecord
from panbench.scoring import counting as scoring
from panbench.scoring import sides
from panbench.scoring.folder import score_folder

CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 92, "name": "sky", "isthing": 0}]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Nineteen images in disorder; of each another part is right. Blocks and row groups of four images."""
    monkeypatch.setattr(scoring, "PART_IMAGES", 4)
    monkeypatch.setattr(indexing, "ROW_GROUP_IMAGES", 4)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(5)
    content = {side: {"annotations": [], "images": [], "categories": CATEGORIES} for side in ("gt", "pred")}
    for image_id in rng.permutation(500)[:19].tolist():
        gt = np.array([[7, 7, 7, 8], [7, 8, 8, 9]], np.int32)
        pred = np.where(rng.random(gt.shape) < 0.3, 15 - gt.clip(7, 8), gt.clip(7, 8)).astype(np.int32)
        for side, id_map in (("gt", gt), ("pred", pred)):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{image_id}.png").write_bytes(encode_id_png(id_map))
            segments = [
                {"id": id, "category_id": 92 if id == 8 else 1, "area": int((id_map == id).sum()), "iscrowd": id == 9}
                for id in np.unique(id_map).tolist()
            ]
            if side == "pred":
                segments = [{**segment, "score": 0.1 * segment["id"]} for segment in segments]
            record = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
            content[side]["annotations"].append(record)
            content[side]["images"].append({"id": image_id, "file_name": f"{image_id}", "height": 2, "width": 4})
    for side, document in content.items():
        write(tmp_path / f"{side}.json", document)
    return tmp_path


def write(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document))
    os.utime(path, ns=(10**18, 10**18))


def indexed(data: Path) -> None:
    build_index([data / "gt.json"])
    build_index([data / "pred.json"], predictions=True)


def score(data: Path, out: str | None = None, **options):
    return score_folder(data / "gt.json", data / "pred.json", out=None if out is None else data / out, **options)


def assert_same(one, other):
    assert one.table.to_arrow().equals(other.table.to_arrow())
    assert one.summary() == other.summary()
    assert one.info.images == other.info.images
    assert one.info.dataset == other.info.dataset
    assert one.info.predictions == other.info.predictions


def forbid_json(monkeypatch) -> None:
    def forbidden(*_, **__):
        raise AssertionError("a JSON was read")

    monkeypatch.setattr(sides, "read_annotation_columns", forbidden)


@pytest.mark.parametrize("shard", [None, (1, 3), (2, 3), (3, 3), (19, 19)])
def test_a_run_on_indexes_is_that_on_the_jsons(data, shard, monkeypatch):
    plain = score(data, "plain", shard=shard)
    indexed(data)
    forbid_json(monkeypatch)
    assert_same(score(data, "indexed", shard=shard), plain)


@pytest.mark.parametrize("side", ["gt", "pred"])
def test_an_index_of_one_side_is_enough_for_that_side(data, side):
    plain = score(data, "plain", shard=(2, 4))
    build_index([data / f"{side}.json"], predictions=side == "pred")
    assert_same(score(data, "indexed", shard=(2, 4)), plain)


def test_shards_on_indexes_merge_to_the_run_of_one_go(data, monkeypatch):
    plain = score(data, "plain")
    indexed(data)
    forbid_json(monkeypatch)
    shards = [score(data, f"shard-{number}", shard=(number, 4)).path for number in range(1, 5)]
    merged = merge_runs(shards, data / "merged")
    assert merged.table.to_arrow().equals(plain.table.to_arrow())
    assert merged.summary() == plain.summary()
    assert merged.info.dataset == plain.info.dataset


def without(document: dict, image_id: int) -> dict:
    return {**document, "annotations": [one for one in document["annotations"] if one["image_id"] != image_id]}


@pytest.mark.parametrize("shard", [None, (1, 3), (3, 3)])
@pytest.mark.parametrize("option", ["missing", "extra", "both"])
def test_missing_and_extra_predictions_are_those_of_the_jsons(data, shard, option):
    gt, pred = (json.loads((data / f"{side}.json").read_text()) for side in ("gt", "pred"))
    ids = sorted(one["image_id"] for one in gt["annotations"])
    if option in ("missing", "both"):
        write(data / "pred.json", without(pred, ids[1]))
    if option in ("extra", "both"):
        write(data / "gt.json", without(gt, ids[-2]))
    allowed = {"allow_missing": True, "ignore_extra": True, "shard": shard}
    plain, refused = score(data, "plain", **allowed), None
    try:
        score(data, shard=shard)
    except PredictionMismatch as problem:
        refused = str(problem)
    indexed(data)
    assert_same(score(data, "indexed", **allowed), plain)
    if refused is not None:
        with pytest.raises(PredictionMismatch) as problem:
            score(data, shard=shard)
        assert str(problem.value) == refused


def test_a_changed_json_is_scored_and_not_its_index(data):
    indexed(data)
    gt = json.loads((data / "gt.json").read_text())
    write(data / "gt.json", {**gt, "annotations": gt["annotations"][:10]})
    assert score(data, ignore_extra=True).info.images.scored == 10


def test_large_jsons_are_indexed_when_they_are_first_scored(data, monkeypatch):
    monkeypatch.setattr(indexing, "PAYS_FROM_BYTES", 1)
    score(data, shard=(1, 2))
    forbid_json(monkeypatch)
    score(data, shard=(2, 2))
    assert {path.name for path in data.glob("*.parquet")} == {
        "gt.panbench-rows.parquet",
        "pred.panbench-predictions.parquet",
    }


def test_the_index_of_a_runs_predictions_lies_in_the_cache(data):
    (data / "run.json").write_text("{}")
    (place,) = index_paths([data / "pred.json"], predictions=True)
    assert place.parent == data / "cache" / "dataset-index"


def test_runs_of_the_same_rows_from_another_json_can_be_compared(data):
    one = score(data, "one").info.dataset
    gt = json.loads((data / "gt.json").read_text())
    gt["annotations"].reverse()
    write(data / "gt.json", gt)
    other = score(data, "other").info.dataset
    assert one.fingerprint != other.fingerprint
    assert same_ground_truth(one, other)
    gt["annotations"][0]["segments_info"][0]["area"] += 1
    write(data / "gt.json", gt)
    assert not same_ground_truth(one, score(data, "third").info.dataset)


def test_older_runs_are_told_apart_by_the_json_alone():
    old, new = DatasetRecord(fingerprint="a"), DatasetRecord(fingerprint="a", rows="1")
    rewritten, different = DatasetRecord(fingerprint="b", rows="1"), DatasetRecord(fingerprint="b2", rows=None)
    assert same_ground_truth(old, new)
    assert same_ground_truth(new, rewritten)
    assert not same_ground_truth(old, rewritten)
    # The run in the middle shows that the other two are of one ground truth.
    assert ground_truths([old, rewritten, different, new]) == [0, 0, 2, 0]
    assert ground_truths([old, rewritten]) == [0, 1]
