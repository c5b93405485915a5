"""`eval --category-map`: a map that does not fit is refused before anything is written."""

import pytest
from support import edited, refused

from panbench.datasets import shapes


@pytest.fixture
def theirs(tmp_path):
    """A set of one image whose categories have other names than the model's."""
    shapes.generate(tmp_path / "theirs", count=1, size=(64, 96))
    listing = tmp_path / "theirs" / "annotations" / "panoptic_val.json"
    with edited(listing) as document:
        for category in document["categories"]:
            category["name"] = f"their {category['name']}"
    return tmp_path / "theirs"


@pytest.mark.parametrize(
    ("category_map", "message"),
    [("nowhere.json", "nowhere.json is neither a file"), ("coco_to_cityscapes", "the model has no category 'person'")],
)
def test_a_map_that_does_not_fit_is_refused_before_anything_is_written(theirs, tmp_path, category_map, message):
    arguments = ("--data", theirs, "--out", tmp_path / "run", "--category-map", category_map)
    assert message in refused("eval", "--model", "mask2former-tiny", *arguments)
    assert not (tmp_path / "run").exists()
