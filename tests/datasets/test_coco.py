import json
import shutil
from pathlib import Path

import pytest

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets import open_dataset
from panbench.datasets.shapes import generate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small scenes in mmdet's layout, as COCO names its val split."""
    root = tmp_path / "my set"
    generate(root, count=3, size=(48, 64))
    (root / "val").rename(root / "val2017")
    (root / "annotations" / "panoptic_val").rename(root / "annotations" / "panoptic_val2017")
    (root / "annotations" / "panoptic_val.json").rename(root / "annotations" / "panoptic_val2017.json")
    return root


def ids_of(dataset) -> list[int]:
    return [scene.image.id for scene in dataset.scenes]


def test_mmdets_layout_is_found_by_folder(folder):
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.split, dataset.n_images, ids_of(dataset)) == ("my set", "val2017", 3, [1, 2, 3])
    assert dataset.is_whole
    assert all(scene.image_path.is_file() and scene.gt_path.is_file() for scene in dataset.scenes)


def test_any_folder_and_json_will_do(folder):
    gt = (folder / "annotations" / "panoptic_val2017.json").rename(folder / "mine.json")
    pngs = (folder / "annotations" / "panoptic_val2017").rename(folder / "pngs")
    dataset = open_dataset(None, images=folder / "val2017", gt=gt, gt_dir=pngs)
    assert (dataset.name, ids_of(dataset)) == ("mine", [1, 2, 3])


def test_limit_and_image_ids_select_in_the_order_of_the_json(folder):
    assert ids_of(open_dataset(folder, limit=2)) == [1, 2]
    assert ids_of(open_dataset(folder, image_ids=[3, 1, 3])) == [1, 3]
    assert not open_dataset(folder, limit=2).is_whole


def test_a_subset_of_coco_does_not_pass_for_coco(tmp_path):
    root = tmp_path / "coco"
    generate(root, count=1, size=(48, 64))
    json_path = root / "annotations" / "panoptic_val.json"
    content = json.loads(json_path.read_text())
    content["categories"] += [
        {"id": 1000 + n, "name": f"c{n}", "isthing": 0, "supercategory": ""} for n in range(133 - 9)
    ]
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    (root / "annotations" / "panoptic_val").rename(root / "annotations" / "panoptic_val2017")
    (root / "val").rename(root / "val2017")
    json_path.unlink()
    assert open_dataset(root).name == "coco-subset"


def test_the_fingerprint_changes_with_the_ground_truth(folder):
    before = open_dataset(folder).fingerprint
    path = folder / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text() + " ")
    assert open_dataset(folder).fingerprint != before


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"limit": 0}, BadArgument, "at least 1"),
        ({"image_ids": [7, 1, 9]}, BadDataset, "no images with the ids 7, 9"),
        ({"image_ids": []}, BadDataset, "No images are selected"),
        ({"split": "test"}, BadDataset, "It has the splits val2017"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(folder, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        open_dataset(folder, **arguments)


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


def test_a_folder_that_is_not_there_says_how_to_get_one(tmp_path):
    with pytest.raises(BadDataset, match="panbench data coco"):
        open_dataset(tmp_path / "coco")
    with pytest.raises(BadDataset, match=r"annotations/panoptic_<split>\.json"):
        open_dataset(tmp_path / "elsewhere")


def test_images_without_json_are_refused(folder):
    with pytest.raises(BadArgument, match="go together"):
        open_dataset(None, images=folder)
