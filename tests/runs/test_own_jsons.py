"""A ground truth in several JSONs: scored one by one and merged, it is the run of one go."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support import edited, refusal

from panbench.base.errors import BadRun
from panbench.panoptic.idmap import encode_id_png
from panbench.report.answers.data_files import DataFiles
from panbench.report.answers.stored import check_stored_files
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.runs import DatasetRecord, load_run
from panbench.runs.comparable import ground_truths, same_ground_truth
from panbench.runs.merge import merge_runs
from panbench.runs.predictions import stored_predictions
from panbench.scoring.folder import score_folder

CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 92, "name": "sky", "isthing": 0}]
IDS = np.random.default_rng(2).permutation(300)[:15].tolist()
HALVES = {"0": IDS[:9], "1": IDS[9:]}


@pytest.fixture
def data(tmp_path):
    """gt.json and pred.json of fifteen images, and the same in two JSONs a side, each with its PNGs beside it."""
    rng = np.random.default_rng(5)
    records: dict[str, dict[int, dict]] = {"gt": {}, "pred": {}}
    for image_id in IDS:
        gt = np.array([[7, 7, 7, 8], [7, 8, 8, 9]], np.int32)
        pred = np.where(rng.random(gt.shape) < 0.3, 15 - gt.clip(7, 8), gt.clip(7, 8)).astype(np.int32)
        for side, id_map in (("gt", gt), ("pred", pred)):
            half = next(name for name, ids in HALVES.items() if image_id in ids)
            for folder in (side, f"{side}-{half}"):
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / f"{image_id}.png").write_bytes(encode_id_png(id_map))
            segments = [
                {"id": id, "category_id": 92 if id == 8 else 1, "area": int((id_map == id).sum()), "iscrowd": id == 9}
                for id in np.unique(id_map).tolist()
            ]
            if side == "pred":
                segments = [{**segment, "score": 0.1 * segment["id"]} for segment in segments]
            records[side][image_id] = {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
    for side, of_side in records.items():
        write(tmp_path / f"{side}.json", IDS, of_side)
        for half, ids in HALVES.items():
            write(tmp_path / f"{side}-{half}.json", ids, of_side)
    return tmp_path


def write(path: Path, ids: list[int], records: dict[int, dict], categories: list[dict] = CATEGORIES) -> None:
    images = [{"id": one, "file_name": f"{one}.png", "height": 2, "width": 4} for one in ids]
    annotations = [records[one] for one in ids]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    os.utime(path, ns=(10**18, 10**18))


def score(data: Path, gt: str, pred: str, out: str | None = None, **options):
    return score_folder(data / gt, data / pred, out=None if out is None else data / out, **options)


def halves(data: Path) -> list[Path]:
    return [score(data, f"gt-{half}.json", f"pred-{half}.json", f"half-{half}").path for half in HALVES]


def assert_same(one, other):
    assert one.table.to_arrow().equals(other.table.to_arrow())
    assert one.summary() == other.summary()
    assert json.dumps(one.summary()) == json.dumps(other.summary()), "all seventeen digits"
    for record, same in ((one.info.dataset, other.info.dataset), (one.info.predictions, other.info.predictions)):
        assert record.rows == same.rows
        assert record.rows is not None
    assert one.info.dataset.n_images == other.info.dataset.n_images
    assert one.info.images == other.info.images
    assert one.info.categories == other.info.categories


def test_halves_with_their_own_jsons_merge_to_the_run_of_one_process(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    merged = merge_runs(halves(data), data / "merged")
    assert_same(merged, whole)
    assert_same(load_run(data / "merged"), whole)
    assert (merged.info.dataset.name, merged.info.name) == ("gt", "merged")


def test_shards_of_halves_can_be_merged(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    shards = [
        score(data, f"gt-{half}.json", f"pred-{half}.json", f"{half}-{n}", shard=(n, 3)).path
        for half in HALVES
        for n in (1, 2, 3)
    ]
    assert_same(merge_runs(shards, data / "merged"), whole)


def test_one_prediction_json_works_for_halves_of_the_ground_truth(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    parts = [score(data, f"gt-{half}.json", "pred.json", f"h{half}", ignore_extra=True).path for half in HALVES]
    merged = merge_runs(parts, data / "merged")
    assert merged.table.to_arrow().equals(whole.table.to_arrow())
    assert merged.info.predictions == whole.info.predictions
    assert merged.info.images.extra == 15


def test_the_sources_of_a_run_from_several_jsons_are_found_again(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    merged = merge_runs(halves(data), data / "merged")
    truth = DataFiles(merged).panoptic
    assert {image_id: truth.png_path(image_id).read_bytes() for image_id in truth.annotations} == {
        image_id: DataFiles(whole).panoptic.png_path(image_id).read_bytes() for image_id in IDS
    }
    predicted = stored_predictions(merged)
    assert {image_id: one.segments for image_id, one in predicted.annotations.items()} == {
        image_id: one.segments for image_id, one in stored_predictions(whole).annotations.items()
    }
    assert all(predicted.png_path(image_id).is_file() for image_id in IDS)
    pictures, own = Pictures(merged), RunPictures(merged)
    assert all(own.prediction(image_id, pictures).ids.shape == (2, 4) for image_id in IDS)


def test_the_predictions_of_a_run_of_several_jsons_are_verified(data):
    merged = merge_runs(halves(data), data / "merged")
    assert not [message for message, is_problem in check_stored_files(merged) if is_problem]
    (data / "pred-1" / f"{HALVES['1'][0]}.png").write_bytes(b"changed")
    assert any("1 predictions changed" in message for message, is_problem in check_stored_files(merged) if is_problem)
    (data / "pred-0.json").write_text((data / "pred-0.json").read_text() + " ")
    assert any("is not what merged was made from" in message for message, _ in check_stored_files(merged))


def test_an_incomplete_half_is_not_merged(data):
    one = score(data, "gt-0.json", "pred-0.json", "one").path
    other = score(data, "gt-1.json", "pred-1.json", "other", shard=(1, 2)).path
    with pytest.raises(BadRun, match=r"other has 3 of the 6 images of its ground truth .*gt-1.json"):
        merge_runs([one, other], data / "merged")
    assert not (data / "merged").exists()


def test_halves_that_share_images_or_differ_in_categories_are_not_merged(data):
    records = {one["image_id"]: one for one in json.loads((data / "gt.json").read_text())["annotations"]}
    one = score(data, "gt-0.json", "pred.json", "one", ignore_extra=True).path
    write(data / "gt-1.json", [*HALVES["1"], IDS[0]], records)
    other = score(data, "gt-1.json", "pred.json", "other", ignore_extra=True, gt_dir=data / "gt").path
    with pytest.raises(BadRun, match=rf"one and .*other share 1 images \({IDS[0]}\)"):
        merge_runs([one, other], data / "merged")
    write(data / "gt-1.json", HALVES["1"], records, [{**CATEGORIES[0], "name": "human"}, CATEGORIES[1]])
    third = score(data, "gt-1.json", "pred-1.json", "third").path
    assert "categories was" in refusal(BadRun, merge_runs, [one, third], data / "merged")


def test_halves_without_a_fingerprint_of_their_rows_are_not_merged(data):
    paths = halves(data)
    for path in paths:
        with edited(path / "run.json") as record:
            del record["dataset"]["rows"]
    assert "does not record the fingerprint of its rows" in refusal(BadRun, merge_runs, paths, data / "merged")


def test_runs_of_the_same_rows_from_another_json_can_be_compared(data):
    one = score(data, "gt.json", "pred.json").info.dataset
    truth = json.loads((data / "gt.json").read_text())
    truth["annotations"].reverse()
    (data / "gt.json").write_text(json.dumps(truth))
    other = score(data, "gt.json", "pred.json").info.dataset
    assert one.fingerprint != other.fingerprint
    assert same_ground_truth(one, other)
    truth["annotations"][0]["segments_info"][0]["area"] += 1
    (data / "gt.json").write_text(json.dumps(truth))
    assert not same_ground_truth(one, score(data, "gt.json", "pred.json").info.dataset)


def test_ground_truths_without_row_fingerprints_are_compared_by_their_json():
    by_json, both = DatasetRecord(fingerprint="a"), DatasetRecord(fingerprint="a", rows="1")
    rewritten, different = DatasetRecord(fingerprint="b", rows="1"), DatasetRecord(fingerprint="b2", rows=None)
    assert same_ground_truth(by_json, both)
    assert same_ground_truth(both, rewritten)
    assert not same_ground_truth(by_json, rewritten)
    # The run in the middle shows that the other two are of one ground truth.
    assert ground_truths([by_json, rewritten, different, both]) == [0, 0, 2, 0]
    assert ground_truths([by_json, rewritten]) == [0, 1]
