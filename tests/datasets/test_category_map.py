import json
from pathlib import Path

import numpy as np
import pytest
from support import refusal

from panbench.base.errors import BadArgument
from panbench.datasets.category_map import CategoryMap, map_prediction, read_category_map, shipped_maps
from panbench.datasets.convert import shipped_categories
from panbench.panoptic.types import Category, PanopticPrediction, Segment

MODEL = (
    Category(1, "person", True),
    Category(2, "cat", True),
    Category(10, "house", False),
    Category(11, "roof", False),
)
DATASET = (Category(24, "person", True), Category(7, "building", False), Category(8, "pole", False))


def written(folder: Path, categories: object, **more: object) -> Path:
    path = folder / "map é.json"
    path.write_text(json.dumps({"categories": categories, **more}))
    return path


@pytest.fixture
def category_map(tmp_path) -> CategoryMap:
    pairs = {"person": "person", "house": "building", "roof": "building"}
    return read_category_map(written(tmp_path, pairs), MODEL, DATASET)


def test_every_unmapped_category_is_named(category_map):
    assert category_map.ids == {1: 24, 10: 7, 11: 7}
    assert category_map.unmapped_source == ("cat",)
    assert category_map.unmapped_target == ("pole",)
    assert [category.name for category in category_map.predictable_categories] == ["person", "building"]
    text = " ".join(category_map.messages)
    for words in ("pole", "cat", "2 of the dataset's 3"):
        assert words in text


def test_null_drops_a_category_on_purpose(tmp_path):
    found = read_category_map(written(tmp_path, {"person": "person", "cat": None}), MODEL, DATASET)
    assert found.dropped == ("cat",)
    assert found.unmapped_source == ("house", "roof")


def test_segments_mapped_to_one_stuff_category_are_joined(category_map):
    ids = np.array([[1, 1, 2, 3], [4, 4, 2, 3], [0, 5, 5, 3]], np.int32)
    prediction = PanopticPrediction(
        9,
        ids,
        (
            Segment(1, 10, 2, score=0.5),
            Segment(2, 11, 2, score=0.8),
            Segment(3, 1, 3, score=0.9),
            Segment(4, 2, 2, score=0.7),
            Segment(5, 1, 2, score=0.6),
        ),
    )
    mapped = map_prediction(prediction, category_map)
    assert mapped.ids.tolist() == [[2, 2, 2, 3], [0, 0, 2, 3], [0, 5, 5, 3]]
    assert mapped.segments == (Segment(2, 7, 4, score=0.8), Segment(3, 24, 3, score=0.9), Segment(5, 24, 2, score=0.6))
    assert mapped.image_id == 9
    assert prediction.ids.tolist() == [[1, 1, 2, 3], [4, 4, 2, 3], [0, 5, 5, 3]]


def test_predictions_without_scores_are_mapped_too(category_map):
    prediction = PanopticPrediction(9, np.array([[1, 2]], np.int32), (Segment(1, 1, 1), Segment(2, 10, 1)))
    assert map_prediction(prediction, category_map).segments == (Segment(1, 24, 1), Segment(2, 7, 1))


@pytest.mark.parametrize(
    ("categories", "more", "message"),
    [
        ({"persn": "person"}, {}, "'person'"),
        ({"person": "biulding"}, {}, "'building'"),
        ({"person": None}, {}, "maps nothing"),
        ({}, {}, "maps nothing"),
        (["person"], {}, "category map"),
        ({"person": "person"}, {"form": "coco"}, "form"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, categories, more, message):
    assert message in refusal(BadArgument, read_category_map, written(tmp_path, categories, **more), MODEL, DATASET)


def test_an_unknown_map_lists_the_shipped_ones(tmp_path):
    assert "coco_to_cityscapes" in refusal(BadArgument, read_category_map, "coco_to_citiscapes", MODEL, DATASET)


def test_shipped_maps_fit_their_data_sets():
    assert shipped_maps() == ("cityscapes_to_kitti_step", "coco_to_cityscapes")
    found = read_category_map("coco_to_cityscapes", shipped_categories("coco"), shipped_categories("cityscapes"))
    assert found.unmapped_target == ("pole", "rider")
    assert len(found.ids) == 23
