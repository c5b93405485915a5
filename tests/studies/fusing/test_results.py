"""`panbench fuse --instances`: a detector's results and semantic maps become panoptic predictions and a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ran, refused

from panbench.datasets.convert import write_set
from panbench.datasets.label_maps import SemanticMaps
from panbench.panoptic.coco import read_id_png, read_predictions_json
from panbench.panoptic.types import Category
from panbench.runs import load_run

RECORDED = Path(__file__).resolve().parents[2] / "reference" / "combine"
ANSWERS = dict(np.load(RECORDED / "answers.npz"))
RULES = sorted({name.partition("|")[0] for name in ANSWERS})
FILES = ("--instances", RECORDED / "results.json", "--semantic", RECORDED / "semantic")
LIST = (*FILES, "--images", RECORDED / "images.json", "--categories", RECORDED / "categories.json")


def line(out: Path, **changes: object) -> list[object]:
    """`panbench fuse` of the recorded results by `combine`, with other values of some options (None: without)."""
    options = dict(zip(LIST[::2], LIST[1::2], strict=True)) | {"--rule": "combine", "--out": out}
    options |= {f"--{name}": value for name, value in changes.items()}
    return ["fuse", *(word for pair in options.items() if pair[1] is not None for word in pair)]


def segments(ids: np.ndarray, category_of: dict[int, int]) -> set[tuple[int, bytes]]:
    return {(category, np.packbits(ids == number).tobytes()) for number, category in category_of.items()}


def predicted(folder: Path, image_id: int) -> set[tuple[int, bytes]]:
    found = read_predictions_json(folder / "predictions.json")
    ids = read_id_png(found.png_path(image_id))
    return segments(ids, {segment.id: segment.category_id for segment in found.annotations[image_id].segments})


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_combine_equals_panopticapis_script_pixel_by_pixel(tmp_path, rule):
    ran("fuse", *LIST, "--rule", rule, "--out", tmp_path / "out")
    for image_id in range(1, 7):
        categories = dict(enumerate(ANSWERS[f"{rule}|{image_id}|categories"].tolist(), 1))
        assert predicted(tmp_path / "out", image_id) == segments(ANSWERS[f"{rule}|{image_id}"], categories)


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """A panoptic ground truth: what the script makes with one set of thresholds."""
    from panbench.datasets.convert import LabelledImage, categories_named

    def read(image: dict) -> LabelledImage:
        name = f"{RULES[0]}|{image['id']}"
        categories = ANSWERS[f"{name}|categories"].tolist()
        described = {number: (category, False) for number, category in enumerate(categories, 1)}
        return LabelledImage(image["file_name"], ANSWERS[name].astype(np.int32), described, image_id=image["id"])

    images = json.loads((RECORDED / "images.json").read_text())["images"]
    categories = categories_named(str(RECORDED / "categories.json"))
    return write_set(tmp_path_factory.mktemp("truth"), "val", categories, images, read).json


def test_with_ground_truth_each_rule_gets_a_scored_run(truth, tmp_path):
    result = ran(*line(tmp_path, images=truth, categories=None, rule=f"panoptic-fpn:stuff_area=60,{RULES[0]}"))
    runs = {path.name: load_run(path) for path in sorted(tmp_path.iterdir())}
    assert {run.info.rule.name for run in runs.values()} == {"panoptic-fpn", "combine"}
    for run in runs.values():
        assert (run.path / "predictions.json").is_file()
        exact = run.info.rule.name == "combine"
        assert (run.summary()["All"]["PQ"] == 1) == exact or not exact
    assert "100.00" in result.stdout
    assert ran("compare", *runs.values() and [run.path for run in runs.values()]).exit_code == 0


def test_a_sweep_over_results_finds_the_thresholds_of_the_truth(truth, tmp_path):
    sweep = ("--sweep", "combine:score=0.3:0.7:0.2,overlap=0.2,stuff_area=1")
    ran("fuse", *FILES, "--images", truth, *sweep, "--out", tmp_path / "sweep")
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["best"] == RULES[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "--instances takes --images"),
        ({"categories": None}, "has no panoptic ground truth. Name the predictions' categories with --categories"),
        ({"rule": "mask2former"}, "Rules that fit it: panoptic-fpn, combine"),
        ({"semantic": RECORDED / "nowhere"}, "is not a folder"),
        ({"offset": "two"}, "--offset two is not a number, `order`, or a JSON"),
        ({"instances": RECORDED / "categories.json"}, "Results have image_id, category_id, segmentation and score"),
    ],
)
def test_unusable_results_are_refused_in_one_sentence(tmp_path, change, message):
    assert message in refused(*line(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_maps_with_another_offset_are_not_resumed(truth, tmp_path):
    onto = line(tmp_path / "out", images=truth, categories=None)
    ran(*onto)
    assert "offset" in refused(*onto, "--offset", "1", "--resume")


@pytest.mark.parametrize(
    "wrong", [{"category_id": [1]}, {"image_id": {"id": 1}}, {"score": "high"}, {"score": None}], ids=str
)
def test_a_wrong_value_in_a_result_is_refused_in_one_sentence(tmp_path, wrong):
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "score": 0.9} | wrong]))
    said = refused(*line(tmp_path / "out", instances=tmp_path / "results.json"))
    assert "result 0 lacks or has a wrong" in said


def test_a_file_name_that_leaves_its_folder_is_refused(tmp_path):
    document = json.loads((RECORDED / "images.json").read_text())
    document["images"][0]["file_name"] = "../../escaped.jpg"
    (tmp_path / "images.json").write_text(json.dumps(document))
    said = refused(*line(tmp_path / "a" / "out", images=tmp_path / "images.json"))
    assert "'../../escaped.jpg' leaves its folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["images.json"]


def test_options_of_instance_results_need_instance_results(tmp_path):
    said = refused("fuse", tmp_path, "--rule", "combine", "--semantic", tmp_path, "--out", tmp_path / "out")
    assert "--semantic has no effect without --instances" in said


SKY, PERSON, ROAD = Category(90, "sky", False), Category(1, "person", True), Category(149, "road", False)


@pytest.mark.parametrize(
    ("values", "offset"),
    [
        ([1, 90, 149, 0], "0"),
        ([0, 89, 148, 255], "1"),
        ([2, 91, 150, 1], "-1"),
        ([0, 1, 2, 255], "order"),
        ([7, 8, 9, 10], '{"7": 1, "8": 90, "9": 149, "10": null}'),
    ],
)
def test_semantic_maps_are_read_in_common_label_conventions(tmp_path, values, offset):
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "maps" / "a.png")
    if offset.startswith("{"):
        (tmp_path / "map.json").write_text(offset)
        offset = str(tmp_path / "map.json")
    maps = SemanticMaps(tmp_path / "maps", [PERSON, SKY, ROAD], offset)
    assert maps.read("photos/a.jpg", (1, 4)).tolist() == [[1, 90, 149, -1]]


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([0, 89, 148], "with --offset 1 (as COCO-Stuff's"),
        ([0, 2, 2], "--offset order (train ids"),
        ([44, 45, 46], "Name what each means in a JSON"),
    ],
)
def test_unknown_label_values_are_refused_with_the_possible_meanings(tmp_path, values, hint):
    Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(Exception, match="neither a category nor void") as refusal:
        SemanticMaps(tmp_path, [PERSON, SKY, ROAD]).read("a.jpg", (1, 3))
    assert hint in str(refusal.value)
