"""COCO panoptic JSON is read whole or refused with the record and the field that is wrong."""

import copy
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from panbench.base.errors import BadDataset, PredictionMismatch
from panbench.base.files import leaves_folder
from panbench.panoptic.coco import (
    read_annotation_columns,
    read_id_png,
    read_panoptic_json,
    read_predictions_json,
    write_id_png,
    write_panoptic_json,
)
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment

GOOD = {
    "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 480, "width": 640}],
    "annotations": [
        {
            "image_id": 139,
            "file_name": "000000000139.png",
            "segments_info": [
                {"id": 3226956, "category_id": 1, "area": 2840, "bbox": [413, 158, 53, 138], "iscrowd": 0},
                {"id": 6979964, "category_id": 92, "area": 439.0, "iscrowd": 1, "score": 0.5},
            ],
        }
    ],
    "categories": [
        {"id": 1, "name": "person", "isthing": 1, "supercategory": "human", "color": [220, 20, 60]},
        {"id": 92, "name": "sky", "isthing": 0},
    ],
}


def changed(path: str, value: object = ..., /) -> dict:
    """GOOD with one place set to `value`, or without it."""
    document = copy.deepcopy(GOOD)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = document
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.fixture
def write(tmp_path):
    def to_file(document: object) -> str:
        path = tmp_path / "gt.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return to_file


class TestIds:
    def test_an_id_is_written_as_red_then_green_then_blue(self, tmp_path):
        ids = np.array([[0, 1, 256], [65536, 16777215, 3226956]], np.int32)
        write_id_png(tmp_path / "1.png", ids)
        rgb = np.asarray(Image.open(tmp_path / "1.png"))
        assert rgb[0, 2].tolist() == [0, 1, 0]
        assert rgb[1, 2].tolist() == [76, 61, 49]
        assert read_id_png(tmp_path / "1.png").tolist() == ids.tolist()

    def test_ids_that_a_png_cannot_hold_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="16777215"):
            write_id_png(tmp_path / "1.png", np.array([[1 << 24]]))

    def test_a_written_map_is_read_back(self, tmp_path):
        ids = np.array([[0, 16777215], [7, 7]], np.int32)
        write_id_png(tmp_path / "a" / "1.png", ids)
        np.testing.assert_array_equal(read_id_png(tmp_path / "a" / "1.png", (2, 2)), ids)
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["1.png"]

    def test_an_error_names_file_and_image(self, tmp_path):
        with pytest.raises(BadDataset, match=r"none\.png \(image 5\) was not found"):
            read_id_png(tmp_path / "none.png", image_id=5)
        write_id_png(tmp_path / "1.png", np.ones((2, 3), int))
        with pytest.raises(PredictionMismatch, match=r"1\.png \(image 7\) is 2×3 where 3×2"):
            read_id_png(tmp_path / "1.png", (3, 2), image_id=7, error=PredictionMismatch)
        with pytest.raises(BadDataset, match=r"1\.png has 2×3 pixels, more than the limit of 5"):
            read_id_png(tmp_path / "1.png", max_pixels=5)
        with pytest.raises(BadDataset, match="cannot be read"):
            read_id_png(tmp_path)


class TestReading:
    def test_a_valid_file_is_read_unchanged(self, write):
        path = write(GOOD)
        assert read_panoptic_json(path) == PanopticSet(
            (Category(1, "person", True, "human", (220, 20, 60)), Category(92, "sky", False)),
            {139: ImageInfo(139, "000000000139.jpg", 480, 640)},
            {
                139: Annotation(
                    139,
                    "000000000139.png",
                    (Segment(3226956, 1, 2840, False, (413, 158, 53, 138)), Segment(6979964, 92, 439, True, score=0.5)),
                )
            },
            path.with_suffix(""),
            path,
        )

    def test_column_reading_equals_record_reading(self, write):
        columns = read_annotation_columns(write(GOOD))
        assert columns.categories == read_panoptic_json(write(GOOD)).categories
        assert (columns.image_ids, columns.file_names, columns.first.tolist()) == ([139], ["000000000139.png"], [0, 2])
        assert columns.id.tolist() == [3226956, 6979964]
        assert columns.area.tolist() == [2840, 439]
        assert columns.iscrowd.tolist() == [False, True]
        np.testing.assert_array_equal(columns.score, np.array([np.nan, 0.5], np.float32))

    def test_written_files_round_trip(self, write, tmp_path):
        first = read_panoptic_json(write(GOOD))
        write_panoptic_json(tmp_path / "second.json", first)
        second = read_panoptic_json(tmp_path / "second.json", first.folder)
        assert (second.categories, second.images, second.annotations) == (
            first.categories,
            first.images,
            first.annotations,
        )
        record = json.loads((tmp_path / "second.json").read_text())
        assert record["categories"][0]["isthing"] == 1
        assert record["annotations"][0]["segments_info"][1]["iscrowd"] == 1

    def test_predictions_need_neither_images_nor_areas(self, write):
        document = {
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 3, "category_id": 9}]}]
        }
        found = read_predictions_json(write(document))
        assert found.annotations[1].segments == (Segment(3, 9, 0),)
        assert read_annotation_columns(write(document), predictions=True).category_id.tolist() == [9]

    def test_the_png_folder_is_panopticapis_by_default(self, write, tmp_path):
        assert read_panoptic_json(write(GOOD)).png_path(139) == tmp_path / "gt" / "000000000139.png"
        assert read_panoptic_json(write(GOOD), tmp_path).png_path(139) == tmp_path / "000000000139.png"

    def test_json_whitespace_and_key_order_do_not_matter(self, write):
        turned = json.dumps({key: GOOD[key] for key in ("categories", "annotations", "images")}, indent=3)
        assert read_panoptic_json(write("\ufeff \n" + turned + "\n")) == read_panoptic_json(write(GOOD))

    def test_reading_does_not_hold_all_records_in_memory(self, write):
        many = dict(GOOD, annotations=[{**GOOD["annotations"][0], "image_id": number} for number in range(50)])
        assert len(read_annotation_columns(write(many))) == 50


BAD = [
    ("[1, 2]", "expected an object with"),
    ("{}", "the key `images` is missing"),
    (" ", "the file is empty. Write or copy it again"),
    ("not JSON", "expected an object"),
    ('{"images": [', "is not JSON"),
    ('{"images": [], "annotations": [], "categories": []} x', "extra data after the object"),
    ('{"images": [], "categories": [{} {}], "annotations": []}', "is not JSON"),
    (changed("categories"), "the key `categories` is missing"),
    (changed("annotations", {}), "a list as `annotations`"),
    (changed("categories.1.id", 1), r"categories\[1\] repeats category id 1"),
    (changed("categories.0.isthing", 2), r"categories\[0\]\.isthing must be 0 or 1, not 2"),
    (changed("categories.0.id", 2**31), r"categories\[0\]\.id is 2147483648, outside 0…2147483647"),
    (changed("categories.0.id", -9), r"categories\[0\]\.id is -9, outside 0…2147483647"),
    (changed("annotations.0.segments_info.0.category_id", 2**31), "category_id is 2147483648, outside"),
    (changed("annotations.0.segments_info.0.category_id", -9), "category_id is -9, outside 0…"),
    (changed("categories.0.name"), r"categories\[0\] lacks the key `name`"),
    (changed("categories.0.id", "1"), r"categories\[0\]\.id must be an integer, not '1'"),
    (changed("images", [GOOD["images"][0]] * 2), r"images\[1\] repeats image id 139"),
    (changed("images.0.height"), r"images\[0\] lacks the key `height`"),
    (changed("images.0.file_name", "../x.jpg"), r"images\[0\]\.file_name is '\.\./x\.jpg', which leaves its folder"),
    (changed("images.0.id", 7), "annotations name image ids that `images` does not list: 139"),
    (changed("annotations", GOOD["annotations"] * 2), r"annotations\[1\] \(image 139\) repeats an image id"),
    (changed("annotations.0", 5), r"annotations\[0\] must be an object, not int"),
    (changed("annotations.0.image_id", 1.5), r"annotations\[0\]\.image_id must be an integer, not 1\.5"),
    (changed("annotations.0.segments_info"), r"annotations\[0\] \(image 139\) lacks the key `segments_info`"),
    (changed("annotations.0.segments_info", {}), "segments_info must be a list, not dict"),
    (changed("annotations.0.file_name", "/etc/passwd"), "leaves its folder"),
    (changed("annotations.0.file_name", None), "file_name must be text, not None"),
    (changed("annotations.0.segments_info.1.id", 3226956), "lists segment ids twice: 3226956"),
    (changed("annotations.0.segments_info.0.id", 0), r"segments_info\[0\]\.id is 0, outside 1…16777215"),
    (changed("annotations.0.segments_info.0.id", 1 << 24), r"id is 16777216, outside 1…16777215"),
    (changed("annotations.0.segments_info.0.category_id", "1"), "category_id must be an integer, not '1'"),
    (changed("annotations.0.segments_info.0.category_id", 5), r"\(image 139\) uses category ids .* not list: 5"),
    (changed("annotations.0.segments_info.0.area"), "lacks the key `area`, .*If this is a file of predictions"),
    ('[{"image_id": 1, "segments_info": []}]', r'found a list. Write {"annotations": \[...\]} around it'),
    ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "found a list. COCO's results of detection are such a list"),
    (changed("annotations.0", {"image_id": 139, "bbox": [0, 0, 1, 1]}), "this is an instance JSON. Give a panoptic"),
    (changed("annotations.0.segments_info.0.area", 2.5), "area must be an integer, not 2.5"),
    (changed("annotations.0.segments_info.0.area", -1), "area is -1, outside 0…"),
    (changed("annotations.0.segments_info.0.area", True), "area must be an integer, not True"),
    (changed("annotations.0.segments_info.0.id", True), "id must be an integer, not True"),
    (changed("annotations.0.segments_info.0.iscrowd", 2), "iscrowd must be 0 or 1, not 2"),
    (changed("annotations.0.segments_info.0.iscrowd", "1"), "iscrowd must be 0 or 1, not '1'"),
    (changed("annotations.0.segments_info.0.iscrowd", None), "iscrowd must be 0 or 1, not None"),
    (changed("annotations.0.segments_info.0.score", float("nan")), "score must be a finite number, not nan"),
    (changed("annotations.0.segments_info.0.score", 1e300), r"score must be a finite number, not 1e\+300"),
    (changed("annotations.0.segments_info.0.score", "high"), "score must be a finite number, not 'high'"),
]


def test_a_missing_path_suggests_the_file_that_was_meant(tmp_path):
    with pytest.raises(BadDataset, match=r"panoptic_val\.json was not found. Give the path"):
        read_panoptic_json(tmp_path / "panoptic_val.json")
    (tmp_path / "panoptic_val2017.json").write_text("{}")
    with pytest.raises(BadDataset, match=r"Did you mean .*panoptic_val2017\.json\?$"):
        read_panoptic_json(tmp_path / "panoptic_val.json")


@pytest.mark.skipif(os.sep == "\\", reason="where \\ separates folders, such a path is found")
def test_a_windows_path_suggests_the_same_path_with_slashes(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(BadDataset, match=r"Did you mean .*/a\.json, with / between folders\?"):
        read_panoptic_json(f"{tmp_path}\\a.json")


@pytest.mark.parametrize(
    ("files", "end"),
    [([], r" Give the JSON that lists its segments\.$"), (["pred/in.json"], r" .*segments: .*pred.in\.json\?$"),
     (["pred/in.json", "pred.json"], r" .*segments: .*pred\.json\?$")],
)  # fmt: skip
def test_a_folder_instead_of_a_json_suggests_the_json_in_it_or_next_to_it(tmp_path, files, end):
    (tmp_path / "pred").mkdir()
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(BadDataset, match=rf"pred is a folder.{end}"):
        read_panoptic_json(tmp_path / "pred")


@pytest.mark.parametrize(("document", "message"), BAD)
def test_a_bad_file_is_refused_by_file_record_and_field(write, document, message):
    with pytest.raises(BadDataset, match=message) as caught:
        read_panoptic_json(write(document))
    assert str(write(document)) in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"), [(document, message) for document, message in BAD if "images" not in message]
)
def test_column_reading_refuses_with_the_same_message(write, document, message):
    # `images` is not read for columns, so its faults are not theirs.
    if isinstance(document, dict) and document.get("images") != GOOD["images"]:
        pytest.skip("a fault of `images`")
    with pytest.raises(BadDataset, match=message):
        read_annotation_columns(write(document))


@pytest.mark.parametrize("color", [[300, 0, 0], [-1, 0, 0]])
def test_an_impossible_colour_is_refused(write, color):
    assert read_panoptic_json(write(changed("categories.0.color", color))).categories[0].color is None


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataset, match="is not JSON"):
        read_panoptic_json(tmp_path / "binary.json")


def test_deeply_nested_json_is_refused(write):
    with pytest.raises(BadDataset, match="is not JSON"):
        read_panoptic_json(write('{"x": ' + "[" * (sys.getrecursionlimit() * 100)))


LEAVING = ["", "/a.png", "../a.png", "a/../../b.png", "C:\\a.png", "\\\\host\\a.png", "..\\a", "a\0"]


@pytest.mark.parametrize("name", [*LEAVING, "a.png", "a/b.png", "a..b.png", ".a.png"])
def test_file_names_that_leave_the_folder_are_detected(name):
    assert leaves_folder(name) == (name in LEAVING)
