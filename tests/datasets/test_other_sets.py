"""Cityscapes, ADE20K, Mapillary Vistas, KITTI-STEP and COCONut, on mimics of their documented layouts."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import refusal

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets import open_dataset
from panbench.datasets.category_map import map_prediction, read_category_map
from panbench.datasets.check import check_set
from panbench.datasets.convert import Converted, shipped_categories
from panbench.datasets.published import (
    convert_ade20k,
    convert_cityscapes,
    convert_coconut,
    convert_kitti_step,
    convert_mapillary,
    kitti_step_categories,
)
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png
from panbench.panoptic.types import PanopticPrediction, Segment

CITYSCAPES = Path(__file__).parents[1] / "reference" / "cityscapes"


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photo(path: Path, height: int, width: int) -> None:
    save(np.zeros((height, width, 3), np.uint8), path)


def pack(root: Path, folder: str, archive: Path, leave_out: str = "nothing") -> Path:
    """A folder below `root` as a zip whose names begin with the folder's; without subfolders of one name."""
    archive.parent.mkdir(exist_ok=True)
    files = [path for path in sorted((root / folder).rglob("*")) if path.is_file() and leave_out not in path.parts]
    names = [path.relative_to(root).as_posix() for path in files]
    with zipfile.ZipFile(archive, "w") as packed:
        for path, name in zip(files, names, strict=True):
            packed.write(path, name)
    return archive


def content(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def categories_at(converted: Converted, number: int = 1) -> list[list[int]]:
    """Each pixel's category in the image of a number, from 1; −1 is void."""
    panoptic = read_panoptic_json(converted.json)
    image_id = list(panoptic.images)[number - 1]
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


def test_the_cityscapes_conversion_equals_cityscapesscripts(cityscapes, tmp_path):
    found = convert_cityscapes(cityscapes, tmp_path / "out")
    expected = json.loads((CITYSCAPES / "expected.json").read_text())
    ours = json.loads(found.json.read_text())
    assert ours["categories"] == expected["categories"]
    for mine, theirs in zip(ours["annotations"], expected["annotations"], strict=True):
        assert mine["segments_info"] == theirs["segments_info"]
        png = read_id_png(CITYSCAPES / "expected" / theirs["file_name"])
        assert (read_id_png(found.pngs / mine["file_name"]) == png).all()
        assert mine["image_id"] == theirs["image_id"]
    assert is_clean_and_opens(found)


def test_missing_parts_of_cityscapes_are_named(cityscapes, tmp_path):
    assert "test" in refusal(BadArgument, convert_cityscapes, cityscapes, tmp_path / "out", "test")
    assert "gtFine_trainvaltest" in refusal(BadDataset, convert_cityscapes, cityscapes, tmp_path / "out", "train")
    shutil.rmtree(cityscapes / "leftImg8bit")
    assert "leftImg8bit_trainvaltest" in refusal(BadDataset, convert_cityscapes, cityscapes, tmp_path / "out")
    assert convert_cityscapes(cityscapes, tmp_path / "out", images="none").n_images == 2


def test_cityscapes_is_read_from_its_zips_without_unpacking(cityscapes, tmp_path):
    plain = convert_cityscapes(cityscapes, tmp_path / "plain")
    for name in ("gtFine", "leftImg8bit"):
        pack(cityscapes, name, tmp_path / "zips" / f"{name}_trainvaltest.zip")
    assert content(convert_cityscapes(tmp_path / "zips", tmp_path / "packed").root) == content(plain.root)


def test_values_outside_cityscapes_labels_are_refused(cityscapes, tmp_path):
    path = next((cityscapes / "gtFine").rglob("*_instanceIds.png"))
    save(np.full((24, 32), 34_001, np.uint16), path)
    assert "34001" in refusal(BadDataset, convert_cityscapes, cityscapes, tmp_path / "out")


@pytest.mark.parametrize("name", ["cityscapes", "elsewhere"])
def test_a_subset_of_cityscapes_is_not_called_cityscapes(cityscapes, tmp_path, name):
    found = convert_cityscapes(cityscapes, tmp_path / name)
    assert open_dataset(found.root).name == ("cityscapes-subset" if name == "cityscapes" else name)


def test_the_name_of_a_set_means_its_folder_in_data(cityscapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "cityscapes raw")
    with pytest.raises(BadDataset, match=r"There is no dataset data/cityscapes.*panbench data cityscapes FOLDER"):
        open_dataset("cityscapes")
    convert_cityscapes(cityscapes)
    assert len(open_dataset("cityscapes").scenes) == 2


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


def test_ade20k_puts_instances_over_stuff(ade20k, tmp_path):
    found = convert_ade20k(ade20k.parent, tmp_path / "out")
    wall, sky, bed, person, void = 0, 2, 7, 12, -1
    assert categories_at(found) == [[wall, wall, sky, void], [wall, bed, bed, person], [void, person, person, sky]]
    assert found.n_segments == 5
    assert is_clean_and_opens(found)


@pytest.mark.parametrize("part", ["images", "annotations", "annotations_instance"])
def test_missing_parts_of_ade20k_are_named(ade20k, tmp_path, part):
    shutil.rmtree(ade20k / part)
    with pytest.raises(BadDataset, match=f"{part} in|{part}/|{part}."):
        convert_ade20k(ade20k, tmp_path / "out")


@pytest.mark.parametrize("place", ["link", "copy"])
def test_ade20k_is_read_from_its_archives_without_unpacking(ade20k, tmp_path, place):
    plain = convert_ade20k(ade20k, tmp_path / "plain")
    archives = tmp_path / "archives"
    pack(ade20k.parent, "ADEChallengeData2016", archives / "ADEChallengeData2016.zip", leave_out="annotations_instance")
    pack(ade20k, "annotations_instance", archives / "annotations_instance.zip")
    found = convert_ade20k(archives, tmp_path / "packed", images=place)
    assert content(found.root) == content(plain.root)
    assert is_clean_and_opens(found)
    # The same conversion again, of a set whose JSON was not yet written, takes what is there.
    found.json.unlink()
    assert content(convert_ade20k(archives, found.root, images=place).root) == content(plain.root)


def test_ade20ks_tar_is_answered_with_the_command_that_unpacks_it(ade20k, tmp_path):
    archives = tmp_path / "archives"
    pack(ade20k.parent, "ADEChallengeData2016", archives / "ADEChallengeData2016.zip", leave_out="annotations_instance")
    (archives / "annotations_instance.tar").touch()
    command = f"tar -xf {archives}/annotations_instance.tar -C {archives}"
    with pytest.raises(BadDataset, match=re.escape(command)):
        convert_ade20k(archives, tmp_path / "out")


def test_an_archive_of_ade20k_that_was_cut_short_is_refused(ade20k, tmp_path):
    archives = tmp_path / "archives"
    packed = pack(ade20k.parent, "ADEChallengeData2016", archives / "ADEChallengeData2016.zip")
    packed.write_bytes(packed.read_bytes()[:-30])
    assert "ADEChallengeData2016.zip" in refusal(BadDataset, convert_ade20k, archives, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ade20k_instance_without_a_category_is_refused(ade20k, tmp_path):
    save(np.full((3, 4, 3), (0, 1, 0), np.uint8), ade20k / "annotations_instance/validation/ADE_val_00000001.png")
    assert "without a category" in refusal(BadDataset, convert_ade20k, ade20k, tmp_path / "out")


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
def test_mapillarys_panoptic_set_converts_without_findings(tmp_path, place):
    found = convert_mapillary(mapillary(tmp_path / "raw", place), tmp_path / "out")
    assert categories_at(found) == [[28, 28, 56], [28, -1, 56]]
    assert is_clean_and_opens(found)


def test_the_requested_release_of_mapillary_is_converted(tmp_path):
    raw = mapillary(tmp_path / "raw", "v2.0/panoptic/panoptic_2020.json")
    assert "Unpack release v1.2 there" in refusal(BadDataset, convert_mapillary, raw, tmp_path / "none", release="v1.2")
    mapillary(raw, "v1.2/panoptic/panoptic_2018.json")
    older = raw / "validation" / "v1.2" / "panoptic" / "panoptic_2018.json"
    older.write_text(older.read_text().replace('"Sky"', '"Sky of 1.2"'))
    names = {
        release: [category.name for category in read_panoptic_json(found.json).categories]
        for release in (None, "v1.2", "v2.0")
        if (found := convert_mapillary(raw, tmp_path / f"out {release}", release=release))
    }
    assert names == {None: ["Sky", "Car"], "v1.2": ["Sky of 1.2", "Car"], "v2.0": ["Sky", "Car"]}
    with pytest.raises(BadArgument, match=r"releases v2\.0 and v1\.2, not 'v3'"):
        convert_mapillary(raw, tmp_path / "other", release="v3")


def test_mapillary_v1_1_is_converted_from_instances(tmp_path):
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


def test_mapillary_without_panoptic_annotations_is_reported(tmp_path):
    assert "Unpack Mapillary" in refusal(BadDataset, convert_mapillary, tmp_path, tmp_path / "out")
    (tmp_path / "validation").mkdir()
    assert "panoptic_2018" in refusal(BadDataset, convert_mapillary, tmp_path, tmp_path / "out")


# KITTI-STEP.


def kitti_step(root: Path, images: str = "training/image_02") -> Path:
    """Two frames of sequence 2: cars 1 and 300 on a road, a group of persons, a truck, and void at the end."""
    road, person, car, truck, void = (0, 0, 0), (11, 0, 0), (13, 0, 1), (14, 0, 0), (255, 0, 0)
    second_car = (13, 300 // 256, 300 % 256)
    first = np.array([[road, road, car, car], [road, second_car, car, void]], np.uint8)
    second = np.array([[person, person, (11, 0, 7), road], [truck, truck, road, road]], np.uint8)
    for frame, pixels in enumerate((first, second)):
        save(pixels, root / "panoptic_maps" / "val" / "0002" / f"{frame:06}.png")
        photo(root / images / "0002" / f"{frame:06}.png", 2, 4)
    return root


@pytest.mark.parametrize("images", ["training/image_02", "images/val"])
def test_kitti_step_converts_to_a_set_that_can_be_scored(tmp_path, images):
    found = convert_kitti_step(kitti_step(tmp_path / "raw", images), tmp_path / "out")
    road, person, car, truck, void = 0, 11, 13, 14, -1
    assert categories_at(found, 1) == [[road, road, car, car], [road, car, car, void]]
    assert categories_at(found, 2) == [[person, person, person, road], [truck, truck, road, road]]
    panoptic = read_panoptic_json(found.json)
    assert [image.file_name for image in panoptic.images.values()] == ["0002_000000.png", "0002_000001.png"]
    areas = sorted((one.category_id, one.area) for one in next(iter(panoptic.annotations.values())).segments)
    assert areas == [(road, 3), (car, 1), (car, 3)]
    assert is_clean_and_opens(found)


def test_thing_pixels_of_kitti_step_without_an_instance_are_a_crowd(tmp_path):
    panoptic = read_panoptic_json(convert_kitti_step(kitti_step(tmp_path / "raw"), tmp_path / "out").json)
    crowds = {(one.category_id, one.area): one.iscrowd for one in list(panoptic.annotations.values())[1].segments}
    assert crowds == {(11, 2): True, (11, 1): False, (0, 3): False, (14, 2): False}


def test_kitti_step_has_cityscapes_names_and_two_things():
    categories = kitti_step_categories()
    assert [category.id for category in categories] == list(range(19))
    assert [category.name for category in categories] == [each.name for each in shipped_categories("cityscapes")]
    assert [category.name for category in categories if category.isthing] == ["person", "car"]


def test_a_model_of_cityscapes_is_scored_on_kitti_step_by_the_map_that_ships():
    model, dataset = shipped_categories("cityscapes"), kitti_step_categories()
    to_step = read_category_map("cityscapes_to_kitti_step", model, dataset)
    assert (len(to_step.ids), to_step.unmapped_source, to_step.unmapped_target) == (19, (), ())
    car, truck = (next(each.id for each in model if each.name == name) for name in ("car", "truck"))
    ids = np.array([[1, 2, 3, 4]], np.int32)
    segments = tuple(Segment(number, car if number < 3 else truck, 1, score=0.9) for number in range(1, 5))
    mapped = map_prediction(PanopticPrediction(1, ids, segments), to_step)
    # Two cars stay two; two trucks are one segment of stuff.
    assert sorted((one.category_id, one.area) for one in mapped.segments) == [(13, 1), (13, 1), (14, 2)]


def test_missing_parts_of_kitti_step_are_named(tmp_path):
    root = kitti_step(tmp_path / "raw")
    assert "train, not for 'test'" in refusal(BadArgument, convert_kitti_step, root, tmp_path / "out", "test")
    assert "panoptic_maps/train" in refusal(BadDataset, convert_kitti_step, root, tmp_path / "out", "train")
    (root / "training" / "image_02" / "0002" / "000001.png").unlink()
    assert "000001.png was not found" in refusal(BadDataset, convert_kitti_step, root, tmp_path / "out")
    shutil.rmtree(root / "training")
    assert "data_tracking_image_2.zip" in refusal(BadDataset, convert_kitti_step, root, tmp_path / "out")
    assert convert_kitti_step(root, tmp_path / "out", images="none").n_images == 2


@pytest.mark.parametrize(
    ("pixels", "words"),
    [(np.full((2, 4, 3), 19, np.uint8), "labels 19 are neither"), (np.zeros((2, 4), np.uint8), "not an RGB PNG")],
)
def test_maps_of_another_kind_than_kitti_step_are_refused(tmp_path, pixels, words):
    root = kitti_step(tmp_path / "raw")
    save(pixels, root / "panoptic_maps" / "val" / "0002" / "000000.png")
    assert words in refusal(BadDataset, convert_kitti_step, root, tmp_path / "out")


# COCONut.


@pytest.mark.parametrize(
    "folder", ["relabeled_coco_val", "relabeled_coco_val/panoptic", "relabeled_coco_val/relabeled_coco_val"]
)
def test_coconut_is_placed_next_to_cocos_images(tmp_path, folder):
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
    assert categories_at(found) == [[1, 1, 187]]
    assert is_clean_and_opens(found)


def test_missing_pngs_of_coconut_are_reported(tmp_path):
    (tmp_path / "relabeled_coco_val.json").write_text("{}")
    assert "--gt-dir" in refusal(BadDataset, convert_coconut, tmp_path / "relabeled_coco_val.json", tmp_path / "out")
