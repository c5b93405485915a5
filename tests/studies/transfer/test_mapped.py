"""`eval --category-map`: a model on data of other categories, its run, and what is fused again from it."""

import json
import shutil
from pathlib import Path

import pytest
from support import Recorder, drawn, edited, evaluated, panbench, ran, refusal, refused

from panbench.base.errors import BadModel, BadRun
from panbench.base.reporter import Silent, Unit
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset, shapes
from panbench.evaluation.stored.stored_model import StoredModel
from panbench.report.answers.tables import comparison_row
from panbench.runs import CategoryMapRecord, load_run
from panbench.scoring.folder import score_folder
from panbench.studies.ensembles.options import ViewOptions
from panbench.studies.fusing.again import fuse_run
from panbench.studies.tradeoffs.options import TradeoffOptions
from panbench.studies.transfer.options import CategoryMapOptions
from panbench.studies.unfused.options import UnfusedOptions

TINY = find_model("mask2former-tiny")

# Shapes as somebody else might have labelled them: two kinds of thing in one, the grounds in one, a few unknown.
NAMES = {"ball": "disc", "box": "polygon", "triangle": "polygon", "sky": "air", "grass": "ground", "sand": "ground"}
THEIRS = [
    {"id": 11, "name": "disc", "isthing": 1, "supercategory": ""},
    {"id": 12, "name": "polygon", "isthing": 1, "supercategory": ""},
    {"id": 13, "name": "cloud", "isthing": 1, "supercategory": ""},
    {"id": 21, "name": "air", "isthing": 0, "supercategory": ""},
    {"id": 22, "name": "ground", "isthing": 0, "supercategory": ""},
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory, 3, (96, 128))


def copied(scenes: Path, root: Path) -> Path:
    """The scenes in a folder `root`; its JSON."""
    shutil.copytree(scenes, root)
    return root / "annotations" / "panoptic_val.json"


@pytest.fixture(scope="module")
def theirs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The scenes in somebody else's categories; what these lack is not labelled."""
    root = tmp_path_factory.mktemp("theirs") / "theirs"
    gt = copied(scenes, root)
    document = json.loads(gt.read_text())
    name_of = {category["id"]: category["name"] for category in document["categories"]}
    id_of = {category["name"]: category["id"] for category in THEIRS}
    for annotation in document["annotations"]:
        kept = [item for item in annotation["segments_info"] if name_of[item["category_id"]] in NAMES]
        for item in kept:
            item["category_id"] = id_of[NAMES[name_of[item["category_id"]]]]
        annotation["segments_info"] = kept
    gt.write_text(json.dumps({**document, "categories": THEIRS}))
    return open_dataset(root)


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "to_theirs.json"
    path.write_text(json.dumps({"from": "shapes", "to": "theirs", "categories": {**NAMES, "brick": None}}))
    return path


def test_a_model_of_other_categories_is_refused_with_a_hint_on_maps(theirs, tmp_path):
    assert "--category-map" in refusal(BadModel, evaluated, TINY, theirs, tmp_path / "run")


def test_renaming_all_categories_changes_no_number(scenes, tmp_path):
    ours = open_dataset(scenes)
    gt = copied(scenes, tmp_path / "renamed")
    with edited(gt) as document:
        for category in document["categories"]:
            category.update(id=category["id"] + 1000, name=category["name"].upper())
        for annotation in document["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] += 1000
    names = {category["name"]: category["name"].upper() for category in shapes.CATEGORIES}
    (tmp_path / "map.json").write_text(json.dumps({"categories": names}))
    mapped = evaluated(
        TINY, open_dataset(tmp_path / "renamed"), tmp_path / "run", studies=(CategoryMapOptions(tmp_path / "map.json"),)
    )
    assert mapped.summary() == evaluated(TINY, ours, tmp_path / "own").summary()


def test_a_mapped_run_saves_what_it_scores_and_records_the_map(theirs, mapping, tmp_path):
    recorder = Recorder()
    run = evaluated(
        TINY, theirs, tmp_path / "run", recorder, studies=(CategoryMapOptions(mapping),), save_predictions=True
    )
    summary = run.summary()
    assert summary["All"]["PQ"] > 0.4, "the model is trained on such scenes"
    assert score_folder(theirs.gt, tmp_path / "run" / "predictions.json").summary() == summary

    info = run.info
    assert info.category_map == CategoryMapRecord("to_theirs", NAMES, ("brick", "ring", "star"), ("cloud",))
    assert info.arguments["category_map"] == "to_theirs"
    assert info.model.published is None
    assert [message for message in recorder.notices if "cloud" in message] == [
        "No prediction can be of these categories of the dataset: cloud."
    ]
    assert sum("brick, ring, star" in message for message in recorder.notices) == 1
    assert comparison_row(run).notes == (
        "the model's categories were mapped to the dataset's by to_theirs, 1 of 5 of which it cannot predict",
    )


def test_a_run_is_not_resumed_through_another_map(theirs, mapping, tmp_path, monkeypatch):
    class Stop(Silent):
        def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(TINY, theirs, tmp_path / "run", Stop(), studies=(CategoryMapOptions(mapping),))
    document = json.loads(mapping.read_text())
    document["categories"]["ring"] = "disc"
    changed = tmp_path / "changed" / mapping.name
    changed.parent.mkdir()
    changed.write_text(json.dumps(document))
    with pytest.raises(BadRun, match="category_map_sha256 was"):
        evaluated(TINY, theirs, tmp_path / "run", studies=(CategoryMapOptions(changed),), resume=True)
    whole = evaluated(TINY, theirs, tmp_path / "run", studies=(CategoryMapOptions(mapping),), resume=True)
    assert (whole.info.status, len(whole.image_ids())) == ("done", 3)


@pytest.mark.parametrize("measured", ["pq", "pq,ap,miou"])
def test_fusing_a_mapped_run_again_uses_its_map(theirs, mapping, tmp_path, measured):
    studies = (CategoryMapOptions(mapping), UnfusedOptions(measured))
    mapped = evaluated(TINY, theirs, tmp_path / "mapped", keep_candidates=True, studies=studies)
    mapping.unlink()
    (again,) = fuse_run(mapped, [StoredModel(mapped).paper], tmp_path / "again")
    assert again.pq().equals(mapped.pq())
    assert again.info.category_map == mapped.info.category_map


def test_views_and_sizes_work_with_a_category_map(theirs, mapping, tmp_path):
    seen = evaluated(TINY, theirs, tmp_path / "run", studies=(CategoryMapOptions(mapping), ViewOptions("none")))
    plain = evaluated(TINY, theirs, tmp_path / "plain", studies=(CategoryMapOptions(mapping),))
    assert seen.summary() == plain.summary()
    sized = evaluated(
        TINY, theirs, tmp_path / "sizes", studies=(TradeoffOptions(size="0.5,1"), CategoryMapOptions(mapping))
    )
    assert sized.summary() == plain.summary()
    assert sorted(path.name for path in tmp_path.glob("sizes@*")) != []


@pytest.fixture
def own_predictions(scenes, tmp_path):
    """The model's predictions in its own categories."""
    return evaluated(TINY, open_dataset(scenes), tmp_path / "own", save_predictions=True).path / "predictions.json"


def test_scoring_predictions_through_a_map_equals_evaluating_the_model(theirs, mapping, own_predictions, tmp_path):
    mapped = evaluated(TINY, theirs, tmp_path / "mapped", studies=(CategoryMapOptions(mapping),), save_predictions=True)
    line = ("score", "--gt", theirs.gt, "--pred", own_predictions, "--category-map", mapping)
    said = ran(*line, "--out", tmp_path / "scored")
    assert "No prediction can be of these categories of the dataset: cloud." in said.stderr
    scored = load_run(tmp_path / "scored")
    assert scored.summary() == mapped.summary()
    assert scored.table.to_arrow().equals(mapped.table.to_arrow())
    assert scored.info.category_map == mapped.info.category_map
    for png in (mapped.path / "predictions").iterdir():
        assert (scored.path / "predictions" / png.name).read_bytes() == png.read_bytes()
    assert panbench("runs", "verify", scored.path).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mapped", "own", "scored", "to_theirs.json"]
    assert json.loads(ran(*line, "--json").stdout)["All"]["PQ"] == mapped.summary()["All"]["PQ"]


def test_predictions_without_categories_use_those_of_the_maps_source_set(theirs, mapping, own_predictions):
    with edited(own_predictions) as document:
        del document["categories"]
    line = ("score", "--gt", theirs.gt, "--pred", own_predictions, "--category-map")
    assert "lists no categories" in refused(*line, mapping)
    assert "the dataset has no category" in refused(*line, "coco_to_cityscapes")
    assert "go without --resume and --shard" in refused(*line, mapping, "--out", mapping.parent / "s", "--resume")
