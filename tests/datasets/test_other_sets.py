"""Cityscapes, ADE20K, Mapillary Vistas and COCONut, on mimics of their documented layouts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets import open_dataset
from panbench.datasets.ade20k import convert_ade20k
from panbench.datasets.check import check_set
from panbench.datasets.cityscapes import convert_cityscapes
from panbench.datasets.coconut import convert_coconut
from panbench.datasets.convert import Converted
from panbench.datasets.mapillary import convert_mapillary
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png

CITYSCAPES = Path(__file__).parents[1] / "reference" / "cityscapes"


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photo(path: Path, height: int, width: int) -> None:
    save(np.zeros((height, width, 3), np.uint8), path)


def categories_at(converted: Converted, image_id: int = 1) -> list[list[int]]:
    """Each pixel's category; −1 is void."""
    panoptic = read_panoptic_json(converted.json)
    ids = read_id_png(panoptic.png_path(image_id))
    category_of = {0: -1, **{segment.id: segment.category_id for segment in panoptic.annotations[image_id].segments}}
    return np.vectorize(category_of.__getitem__)(ids).tolist()


def is_clean_and_opens(converted: Converted, split: str = "val") -> bool:
    dataset = open_dataset(converted.root, split=split)
    return check_set(converted.root, split=split).findings == () and len(dataset.scenes) == converted.n_images


# Cityscapes.


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    root = tmp_path / "cityscapes raw"
    shutil.copytree(CITYSCAPES / "gtFine", root / "gtFine")
    for path in (root / "gtFine").rglob("*_instanceIds.png"):
        name = path.name.replace("_gtFine_instanceIds", "_leftImg8bit")
        photo(root / "leftImg8bit" / "val" / path.parent.name / name, 24, 32)
    return root


def test_cityscapes_equals_cityscapesscripts(cityscapes, tmp_path):
    found = convert_cityscapes(cityscapes, tmp_path / "out")
    expected = json.loads((CITYSCAPES / "expected.json").read_text())
    ours = json.loads(found.json.read_text())
    assert ours["categories"] == expected["categories"]
    for mine, theirs in zip(ours["annotations"], expected["annotations"], strict=True):
        assert mine["segments_info"] == theirs["segments_info"]
        png = read_id_png(CITYSCAPES / "expected" / theirs["file_name"])
        assert (read_id_png(found.pngs / mine["file_name"]) == png).all()
        assert Path(mine["file_name"]).stem == theirs["image_id"]
    assert is_clean_and_opens(found)


def test_cityscapes_without_its_parts_says_which(cityscapes, tmp_path):
    with pytest.raises(BadArgument, match="test"):
        convert_cityscapes(cityscapes, tmp_path / "out", "test")
    with pytest.raises(BadDataset, match="gtFine_trainvaltest"):
        convert_cityscapes(cityscapes, tmp_path / "out", "train")
    shutil.rmtree(cityscapes / "leftImg8bit")
    with pytest.raises(BadDataset, match="leftImg8bit_trainvaltest"):
        convert_cityscapes(cityscapes, tmp_path / "out")
    assert convert_cityscapes(cityscapes, tmp_path / "out", images="none").n_images == 2


def test_values_that_are_no_cityscapes_label_are_refused(cityscapes, tmp_path):
    path = next((cityscapes / "gtFine").rglob("*_instanceIds.png"))
    save(np.full((24, 32), 34_001, np.uint16), path)
    with pytest.raises(BadDataset, match="34001"):
        convert_cityscapes(cityscapes, tmp_path / "out")


# ADE20K.


@pytest.fixture
def ade20k(tmp_path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    semantic = np.array([[1, 1, 3, 0], [1, 8, 8, 13], [13, 13, 3, 3]], np.uint8)
    instances = np.zeros((3, 4, 3), np.uint8)
    instances[1, 1:3] = (1, 1, 0)
    instances[1, 3] = (4, 2, 0)
    instances[2, 1:3] = (4, 3, 0)
    save(semantic, root / "annotations" / "validation" / "ADE_val_00000001.png")
    save(instances, root / "annotations_instance" / "validation" / "ADE_val_00000001.png")
    photo(root / "images" / "validation" / "ADE_val_00000001.jpg", 3, 4)
    return root


def test_ade20k_lays_instances_over_stuff(ade20k, tmp_path):
    found = convert_ade20k(ade20k.parent, tmp_path / "out")
    wall, sky, bed, person, void = 0, 2, 7, 12, -1
    assert categories_at(found) == [
        [wall, wall, sky, void],
        [wall, bed, bed, person],
        [void, person, person, sky],
    ]
    assert found.n_segments == 5
    assert is_clean_and_opens(found)


@pytest.mark.parametrize("part", ["images", "annotations", "annotations_instance"])
def test_ade20k_without_a_part_says_which(ade20k, tmp_path, part):
    shutil.rmtree(ade20k / part)
    with pytest.raises(BadDataset, match=f"{part} in|{part}/|{part}."):
        convert_ade20k(ade20k, tmp_path / "out")


def test_an_ade20k_instance_without_a_category_is_refused(ade20k, tmp_path):
    save(np.full((3, 4, 3), (0, 1, 0), np.uint8), ade20k / "annotations_instance/validation/ADE_val_00000001.png")
    with pytest.raises(BadDataset, match="without a category"):
        convert_ade20k(ade20k, tmp_path / "out")


# Mapillary Vistas.


def mapillary(root: Path, place: str) -> Path:
    ids = np.array([[1, 1, 300], [1, 0, 300]], np.int32)
    folder = root / "validation" / place
    write_id_png(folder.parent / "aX_b-1.png", ids)
    document = {
        "images": [{"id": "aX_b-1", "file_name": "aX_b-1.jpg", "height": 2, "width": 3}],
        "annotations": [
            {
                "image_id": "aX_b-1",
                "file_name": "aX_b-1.png",
                "segments_info": [
                    {"id": 1, "category_id": 28, "area": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0},
                    {"id": 300, "category_id": 56, "area": 2, "bbox": [2, 0, 1, 2], "iscrowd": 0},
                ],
            }
        ],
        "categories": [
            {"id": 28, "name": "Sky", "supercategory": "nature", "isthing": 0, "color": [70, 130, 180]},
            {"id": 56, "name": "Car", "supercategory": "object", "isthing": 1, "color": [0, 0, 142]},
        ],
    }
    folder.write_text(json.dumps(document))
    photo(root / "validation" / "images" / "aX_b-1.jpg", 2, 3)
    return root


@pytest.mark.parametrize("place", ["panoptic/panoptic_2018.json", "v2.0/panoptic/panoptic_2020.json"])
def test_mapillarys_own_panoptic_set_gets_numbers_for_ids(tmp_path, place):
    found = convert_mapillary(mapillary(tmp_path / "raw", place), tmp_path / "out")
    assert categories_at(found) == [[28, 28, 56], [28, -1, 56]]
    assert is_clean_and_opens(found)


def test_mapillary_v1_1_is_made_from_instances(tmp_path):
    root = tmp_path / "raw"
    save(np.array([[0, 0, 257], [256, 258, 512]], np.uint16), root / "training" / "instances" / "x.png")
    photo(root / "training" / "images" / "x.jpg", 2, 3)
    labels = [
        {"name": "nature--sky", "readable": "Sky", "instances": False, "evaluate": True, "color": [70, 130, 180]},
        {"name": "object--car", "readable": "Car", "instances": True, "evaluate": True, "color": [0, 0, 142]},
        {"name": "void--ground", "readable": "Ground", "instances": False, "evaluate": False, "color": [0, 0, 0]},
    ]
    (root / "config.json").write_text(json.dumps({"labels": labels}))
    found = convert_mapillary(root, tmp_path / "out", "train")
    assert categories_at(found) == [[1, 1, 2], [2, 2, -1]]
    assert found.n_segments == 4
    assert is_clean_and_opens(found, "train")


def test_mapillary_without_panoptic_parts_says_so(tmp_path):
    with pytest.raises(BadDataset, match="Unpack Mapillary"):
        convert_mapillary(tmp_path, tmp_path / "out")
    (tmp_path / "validation").mkdir()
    with pytest.raises(BadDataset, match="panoptic_2018"):
        convert_mapillary(tmp_path, tmp_path / "out")


# COCONut.


@pytest.mark.parametrize(
    "folder", ["relabeled_coco_val", "relabeled_coco_val/panoptic", "relabeled_coco_val/relabeled_coco_val"]
)
def test_coconut_stands_beside_cocos_images(tmp_path, folder):
    raw = tmp_path / "raw"
    write_id_png(raw / folder / "000000000139.png", np.array([[5, 5, 9]], np.int32))
    document = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 1, "width": 3}],
        "annotations": [
            {
                "image_id": 139,
                "file_name": "000000000139.jpg",
                "segments_info": [
                    {"id": 5, "category_id": 1, "iscrowd": 0, "isthing": 1, "area": 7, "bbox": [0, 0, 3, 1]},
                    {"id": 9, "category_id": 187, "iscrowd": 0, "isthing": 0, "area": 1, "bbox": [2, 0, 1, 1]},
                ],
            }
        ],
    }
    (raw / "relabeled_coco_val.json").write_text(json.dumps(document))
    photo(tmp_path / "val2017" / "000000000139.jpg", 1, 3)
    found = convert_coconut(raw / "relabeled_coco_val.json", tmp_path / "out", images_from=tmp_path / "val2017")
    assert categories_at(found, 139) == [[1, 1, 187]]
    assert is_clean_and_opens(found)


def test_coconut_without_its_pngs_says_so(tmp_path):
    (tmp_path / "relabeled_coco_val.json").write_text("{}")
    with pytest.raises(BadDataset, match="--gt-dir"):
        convert_coconut(tmp_path / "relabeled_coco_val.json", tmp_path / "out")
