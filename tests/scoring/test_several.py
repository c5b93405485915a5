"""A ground truth in several JSONs: scored by a pattern, or half by half and merged, it is the run of one go."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from panbench.base.errors import BadDataset, BadRun
from panbench.cli import app as cli
from panbench.datasets import index as indexing
from panbench.datasets import open_dataset
from panbench.panoptic.coco import read_panoptic_json, read_png_names, read_predictions_json
from panbench.panoptic.idmap import encode_id_png
from panbench.panoptic.sources import absolute_text, common_folder, exists, joined_text, name_of, sources_of
from panbench.report.answers.data_files import DataFiles
from panbench.runs import load_run
from panbench.runs.merge import merge_runs
from panbench.runs.predictions import stored_predictions
from panbench.scoring.folder import score_folder

CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 92, "name": "sky", "isthing": 0}]
IDS = np.random.default_rng(2).permutation(300)[:15].tolist()
HALVES = {"0": IDS[:9], "1": IDS[9:]}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """gt.json and pred.json of fifteen images, and the same in two JSONs a side, each with its PNGs beside it."""
    monkeypatch.setattr(indexing, "ROW_GROUP_IMAGES", 4)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
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


def test_halves_with_jsons_of_their_own_merge_to_the_run_of_one_go(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    merged = merge_runs(halves(data), data / "merged")
    assert_same(merged, whole)
    assert_same(load_run(data / "merged"), whole)
    assert (merged.info.dataset.name, merged.info.name) == ("gt", "merged")


def test_several_jsons_are_scored_as_one(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    several = score(data, "gt-?.json", "pred-?.json", "several")
    assert_same(several, whole)
    assert several.info.dataset.fingerprint == merge_runs(halves(data), data / "merged").info.dataset.fingerprint
    shards = [score(data, "gt-?.json", "pred-?.json", f"shard-{n}", shard=(n, 4)).path for n in range(1, 5)]
    assert_same(merge_runs(shards, data / "of-shards"), whole)


def test_shards_of_halves_merge_too(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    shards = [
        score(data, f"gt-{half}.json", f"pred-{half}.json", f"{half}-{n}", shard=(n, 3)).path
        for half in HALVES
        for n in (1, 2, 3)
    ]
    assert_same(merge_runs(shards, data / "merged"), whole)


def test_several_jsons_may_have_their_pngs_in_one_folder(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    run = score(data, "gt-?.json", "pred-?.json", "run", gt_dir=data / "gt", pred_dir=data / "pred")
    assert_same(run, whole)
    assert run.info.dataset.gt_dir == str(data / "gt")


def test_one_prediction_json_serves_halves_of_the_ground_truth(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    parts = [score(data, f"gt-{half}.json", "pred.json", f"h{half}", ignore_extra=True).path for half in HALVES]
    merged = merge_runs(parts, data / "merged")
    assert merged.table.to_arrow().equals(whole.table.to_arrow())
    assert merged.info.predictions == whole.info.predictions
    assert merged.info.images.extra == 15


def test_the_command_takes_a_pattern(data):
    options = ["score", "--gt", str(data / "gt-?.json"), "--pred", str(data / "pred-?.json"), "--json"]
    answer = CliRunner().invoke(cli.app, options)
    assert answer.exit_code == 0, answer.output
    printed = json.loads(answer.stdout)
    assert printed["All"]["PQ"] == score(data, "gt.json", "pred.json").summary()["All"]["PQ"]


def test_what_a_run_of_several_jsons_was_made_of_is_found_again(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    for run in (score(data, "gt-?.json", "pred-?.json", "several"), merge_runs(halves(data), data / "merged")):
        truth = DataFiles(run).panoptic
        assert {image_id: truth.png_path(image_id).read_bytes() for image_id in truth.annotations} == {
            image_id: DataFiles(whole).panoptic.png_path(image_id).read_bytes() for image_id in IDS
        }
        predicted = stored_predictions(run)
        assert {image_id: one.segments for image_id, one in predicted.annotations.items()} == {
            image_id: one.segments for image_id, one in stored_predictions(whole).annotations.items()
        }
        assert all(predicted.png_path(image_id).is_file() for image_id in IDS)


def test_a_dataset_of_several_jsons_is_opened_with_its_maps(data):
    one = open_dataset(None, images=data / "gt", gt=data / "gt.json")
    several = open_dataset(None, images=data / "gt", gt=data / "gt-?.json")
    assert several.rows == one.rows
    assert [scene.image for scene in several.scenes] == [scene.image for scene in one.scenes]
    assert [scene.annotation.segments for scene in several.scenes] == [s.annotation.segments for s in one.scenes]
    assert all(scene.gt_path.read_bytes() for scene in several.scenes)
    assert str(several.gt_dir) == f"{data}/gt-0 + {data}/gt-1"


def test_a_half_that_is_not_whole_is_not_merged_with_another_json(data):
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
    with pytest.raises(BadDataset, match=rf"share 1 images \({IDS[0]}\)"):
        score(data, "gt-?.json", "pred-?.json")
    write(data / "gt-1.json", HALVES["1"], records, [{**CATEGORIES[0], "name": "human"}, CATEGORIES[1]])
    third = score(data, "gt-1.json", "pred-1.json", "third").path
    with pytest.raises(BadRun, match="categories was"):
        merge_runs([one, third], data / "merged")
    with pytest.raises(BadDataset, match="have different categories"):
        score(data, "gt-?.json", "pred-?.json")
    with pytest.raises(BadDataset, match="have different categories"):
        read_panoptic_json(data / "gt-?.json")


def test_halves_of_older_runs_are_not_merged(data):
    paths = halves(data)
    for path in paths:
        record = json.loads((path / "run.json").read_text())
        del record["dataset"]["rows"]
        (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(BadRun, match="does not record the fingerprint of its rows"):
        merge_runs(paths, data / "merged")


def test_readers_of_one_json_read_several(data):
    whole, several = read_panoptic_json(data / "gt.json"), read_panoptic_json(data / "gt-?.json")
    assert several.images == whole.images
    assert several.folder == data
    assert several.annotations[IDS[0]].file_name == f"gt-0/{IDS[0]}.png"
    assert read_png_names(data / "gt-?.json")[IDS[-1]] == f"gt-1/{IDS[-1]}.png"
    assert read_predictions_json(data / "pred-?.json").png_path(IDS[0]) == data / "pred-0" / f"{IDS[0]}.png"


def test_names_of_several_files(tmp_path):
    for name in ("gt-00.json", "gt-01.json", "what?.json"):
        (tmp_path / name).touch()
    both = [tmp_path / "gt-00.json", tmp_path / "gt-01.json"]
    assert sources_of(tmp_path / "gt-*.json") == both
    assert sources_of(joined_text(both)) == both
    assert sources_of(tmp_path / "what?.json") == [tmp_path / "what?.json"], "a file of that very name"
    assert sources_of(tmp_path / "none-*.json") == [tmp_path / "none-*.json"]
    assert exists(joined_text(both))
    assert not exists(joined_text([*both, tmp_path / "gt-02.json"]))
    assert absolute_text("a.json + b.json") == f"{Path('a.json').absolute()} + {Path('b.json').absolute()}"
    assert [name_of(one) for one in ("x/gt.json", "gt-*.json", "a/gt-00.json + a/gt-01.json", "*.json")] == [
        "gt",
        "gt",
        "gt",
        "several",
    ]
    assert common_folder([tmp_path / "a", tmp_path / "b" / "c"]) == (tmp_path, ["a/", "b/c/"])


def test_a_pattern_that_fits_nothing_is_refused_by_its_name(data):
    with pytest.raises(BadDataset, match=r"none-\*.json was not found"):
        score(data, "none-*.json", "pred.json")


def as_lines(path: Path, predictions: bool) -> Path:
    """The same set as JSON lines."""
    document = json.loads(path.read_text())
    sizes = {image["id"]: image for image in document["images"]}
    lines = [{"categories": document["categories"]}]
    for annotation in document["annotations"]:
        image = sizes[annotation["image_id"]]
        more = {} if predictions else {"file_name": f"{image['id']}.jpg", "height": 2, "width": 4}
        lines.append({**annotation, "png": annotation["file_name"], **more} if predictions else {**annotation, **more})
    target = path.with_suffix(".jsonl")
    target.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return target


def test_json_lines_are_scored_as_their_json(data):
    whole = score(data, "gt.json", "pred.json", "whole")
    as_lines(data / "gt.json", False)
    as_lines(data / "pred.json", True)
    for shard in (None, (2, 3)):
        run = score(data, "gt.jsonl", "pred.jsonl", shard=shard)
        assert run.table.to_arrow().equals(score(data, "gt.json", "pred.json", shard=shard).table.to_arrow())
    assert run.info.dataset.rows == whole.info.dataset.rows
    assert run.info.predictions.rows == whole.info.predictions.rows
    for half in HALVES:
        as_lines(data / f"gt-{half}.json", False)
    assert score(data, "gt-?.jsonl", "pred.jsonl").summary() == whole.summary()
    lines = read_panoptic_json(data / "gt.jsonl")
    assert lines.images[IDS[0]].file_name == f"{IDS[0]}.jpg"
    assert lines.png_path(IDS[0]) == data / "gt" / f"{IDS[0]}.png"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"image_id": 1, "segments_info": [], "png": "1.png"}\n', 'has no line {"categories": [...]}.'),
        ('{"categories": []}\n{"segments_info": [}\n', "line 2 is not JSON"),
        (
            '{"categories": []}\n{"image_id": 1, "segments_info": []}\n',
            "annotations[0] (image 1) lacks the key `file_name`",
        ),
        ('["categories"]\n', "line 1 must be an object, not list"),
        ('{"categories": []}\n{"categories": []}\n', "must have one line with `categories`"),
    ],
)
def test_bad_json_lines_are_refused_by_the_line(data, text, sentence):
    (data / "bad.jsonl").write_text(text)
    with pytest.raises(BadDataset) as problem:
        score(data, "bad.jsonl", "pred.json")
    assert sentence in str(problem.value)


def test_ap_of_several_jsons_is_refused_in_a_sentence(data):
    options = ["--gt", str(data / "gt-?.json"), "--pred", str(data / "pred-?.json"), "--metrics", "pq,ap"]
    answer = CliRunner().invoke(cli.app, ["score", *options])
    assert answer.exit_code != 0
    assert "stands for several JSONs" in str(answer.exception) + answer.output
