import shutil
from pathlib import Path

import pytest
from support import edited, refusal

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets import open_dataset
from panbench.datasets.shapes import generate


def scenes(root: Path, count: int) -> Path:
    """Small scenes in mmdet's layout, as COCO names its val split; their JSON."""
    generate(root, count=count, size=(48, 64))
    for place in ("val", "annotations/panoptic_val", "annotations/panoptic_val.json"):
        (root / place).rename(root / place.replace("val", "val2017"))
    return root / "annotations" / "panoptic_val2017.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scenes(tmp_path / "my set", 3).parents[1]


def ids_of(dataset) -> list[int]:
    return [scene.image.id for scene in dataset.scenes]


def test_mmdets_folder_layout_is_found(folder):
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.split, dataset.n_images, ids_of(dataset)) == ("my set", "val2017", 3, [1, 2, 3])
    assert len(dataset.scenes) == dataset.n_images
    assert all(scene.image_path.is_file() and scene.gt_path.is_file() for scene in dataset.scenes)


def test_any_folder_and_json_can_be_used(folder):
    gt = (folder / "annotations" / "panoptic_val2017.json").rename(folder / "mine.json")
    pngs = (folder / "annotations" / "panoptic_val2017").rename(folder / "pngs")
    dataset = open_dataset(None, images=folder / "val2017", gt=gt, gt_dir=pngs)
    assert (dataset.name, ids_of(dataset)) == ("mine", [1, 2, 3])


def test_limit_and_image_ids_select_in_the_order_of_the_json(folder):
    assert ids_of(open_dataset(folder, limit=2)) == [1, 2]
    assert ids_of(open_dataset(folder, image_ids=[3, 1, 3])) == [1, 3]
    assert open_dataset(folder, limit=2).n_images > 2


def test_a_subset_of_coco_is_not_called_coco(tmp_path):
    listing = scenes(tmp_path / "coco", 1)
    with edited(listing) as content:
        others = range(133 - len(content["categories"]))
        content["categories"] += [{"id": 1000 + n, "name": f"c{n}", "isthing": 0, "supercategory": ""} for n in others]
    assert open_dataset(tmp_path / "coco").name == "coco-subset"


def test_the_fingerprint_changes_with_the_ground_truth(folder):
    before = open_dataset(folder).fingerprint
    path = folder / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text() + " ")
    assert open_dataset(folder).fingerprint != before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, BadArgument, "at least 1"),
        ({"image_ids": [7, 1, 9]}, BadDataset, "no images with the ids 7, 9"),
        ({"image_ids": []}, BadDataset, "No images are selected"),
        ({"split": "test"}, BadDataset, "It has the splits val2017"),
    ],
)
def test_an_unknown_choice_of_images_is_refused(folder, arguments, error, message):
    assert message in refusal(error, open_dataset, folder, **arguments)


def test_missing_files_are_counted_and_named(folder):
    for name in ("000000000001.png", "000000000003.png"):
        (folder / "val2017" / name).unlink()
    with pytest.raises(BadDataset, match=r"2 of 3 images are missing .*000000000001.png, 000000000003.png"):
        open_dataset(folder)
    assert ids_of(open_dataset(folder, image_ids=[2])) == [2]


def test_a_json_without_its_pngs_names_the_option_for_their_folder(folder, tmp_path):
    gt = shutil.copy(folder / "annotations" / "panoptic_val2017.json", tmp_path / "mine.json")
    with pytest.raises(BadDataset, match=r"no folder .*mine of ground-truth PNGs\. Name the folder .* with --gt-dir"):
        open_dataset(None, images=folder / "val2017", gt=Path(gt))
    for png in (folder / "annotations" / "panoptic_val2017").iterdir():
        png.unlink()
    with pytest.raises(BadDataset) as caught:
        open_dataset(folder)
    assert "--gt-dir" not in str(caught.value)


def test_a_missing_folder_is_reported_with_how_to_get_the_data(tmp_path):
    assert "panbench data coco" in refusal(BadDataset, open_dataset, tmp_path / "coco")
    assert "annotations/panoptic_<split>.json" in refusal(BadDataset, open_dataset, tmp_path / "elsewhere")


def test_images_without_json_are_refused(folder):
    assert "go together" in refusal(BadArgument, open_dataset, None, images=folder)
