import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from panbench.base.errors import BadDataset
from panbench.datasets.check import KINDS, CheckReport, check_set, find_json, measure_segments
from panbench.panoptic.coco import read_id_png, write_id_png

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 7, "name": "road", "isthing": 0},
]


class Set:
    """Three images of 8×10 in mmdet's layout: road, two persons on it, a row of void. `save` writes a changed JSON."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.json = root / "annotations" / "panoptic_val2017.json"
        self.pngs = root / "annotations" / "panoptic_val2017"
        self.images = root / "val2017"
        self.images.mkdir(parents=True)
        self.document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": json.loads(json.dumps(CATEGORIES)),
        }
        ids = np.full((8, 10), 70, np.int32)
        ids[0] = 0
        ids[2:5, 1:4] = 300
        ids[4:8, 6:9] = 70_000
        for number in (1, 2, 3):
            stem = f"{number:012}"
            write_id_png(self.pngs / f"{stem}.png", ids)
            Image.fromarray(np.full((8, 10, 3), 100, np.uint8)).save(self.images / f"{stem}.jpg")
            self.document["images"].append({"id": number, "file_name": f"{stem}.jpg", "height": 8, "width": 10})
            self.document["annotations"].append(
                {
                    "image_id": number,
                    "file_name": f"{stem}.png",
                    "segments_info": [
                        {"id": 70, "category_id": 7, "area": 49, "bbox": [0, 1, 10, 7], "iscrowd": 0},
                        {"id": 300, "category_id": 1, "area": 9, "bbox": [1, 2, 3, 3], "iscrowd": 0},
                        {"id": 70_000, "category_id": 1, "area": 12, "bbox": [6, 4, 3, 4], "iscrowd": 1},
                    ],
                }
            )
        self.save()

    def save(self) -> None:
        self.json.write_text(json.dumps(self.document))

    @property
    def segments(self) -> list[dict[str, Any]]:
        segments: list[dict[str, Any]] = self.document["annotations"][1]["segments_info"]
        return segments

    def png(self, number: int = 2) -> Path:
        return self.pngs / f"{number:012}.png"

    def image(self, number: int = 2) -> Path:
        return self.images / f"{number:012}.jpg"

    def paint(self, value: int, where: Any) -> None:
        ids = read_id_png(self.png()).copy()
        ids[where] = value
        write_id_png(self.png(), ids)


@pytest.fixture
def made(tmp_path) -> Set:
    return Set(tmp_path / "eine Menge é")


def kinds(report: CheckReport) -> set[str]:
    return {finding.kind for finding in report.findings}


def test_a_sound_set_has_no_findings_and_is_summed_up(made):
    report = check_set(made.root)
    assert report.findings == ()
    assert (report.n_images, report.n_annotations, report.n_segments, report.n_crowds) == (3, 3, 9, 3)
    assert (report.smallest, report.median, report.largest) == ((8, 10),) * 3
    assert report.void_share == report.void_share_max == 10 / 80
    person, road = report.categories
    assert (person.name, person.images, person.segments, person.crowds, person.pixels) == ("person", 3, 6, 3, 63)
    assert (road.name, road.images, road.segments, road.pixels, road.isthing) == ("road", 3, 3, 147, False)


def plant(kind: str, made: Set) -> None:
    """Does to a sound set what `kind` describes, at image 2 where it is about one image."""
    document, segments = made.document, made.segments
    if kind == "bad-record":
        del segments[1]["area"]
    elif kind == "bad-name":
        document["annotations"][1]["file_name"] = "../000000000002.png"
        made.png().unlink()
    elif kind == "duplicate-category":
        document["categories"].append({"id": 7, "name": "street", "isthing": 0})
    elif kind == "category-without-isthing":
        del document["categories"][1]["isthing"]
    elif kind == "duplicate-image":
        document["images"].append(dict(document["images"][1]))
    elif kind == "duplicate-annotation":
        document["annotations"].append(dict(document["annotations"][1]))
    elif kind == "duplicate-segment":
        segments.append(dict(segments[1]))
    elif kind == "unknown-category":
        segments[1]["category_id"] = 99
    elif kind == "unlisted-image":
        document["annotations"].append({**document["annotations"][1], "image_id": 9})
    elif kind == "image-without-annotation":
        del document["annotations"][1]
        made.png().unlink()
    elif kind == "missing-png":
        made.png().unlink()
    elif kind == "unreadable-png":
        made.png().write_bytes(made.png().read_bytes()[:60])
    elif kind == "png-size":
        write_id_png(made.png(), np.vstack([read_id_png(made.png()), np.zeros((1, 10), np.int32)]))
    elif kind == "missing-image":
        made.image().unlink()
    elif kind == "unreadable-image":
        made.image().write_bytes(made.image().read_bytes()[:-80])
    elif kind == "image-size":
        Image.new("RGB", (10, 9)).save(made.image())
    elif kind == "id-not-in-json":
        made.paint(4711, (0, slice(0, 5)))
    elif kind == "segment-not-in-png":
        segments.append({"id": 5, "category_id": 1, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0})
    elif kind == "wrong-area":
        segments[1]["area"] = 10
    elif kind == "crowd-on-stuff":
        segments[0]["iscrowd"] = 1
    elif kind == "only-crowds":
        document["categories"].append({"id": 9, "name": "cell", "isthing": 1})
        for number, (y, x) in enumerate(np.argwhere(read_id_png(made.png()) == 0).tolist(), 100):
            made.paint(number, (y, x))
            segments.append({"id": number, "category_id": 9, "area": 1, "bbox": [x, y, 1, 1], "iscrowd": 1})
    elif kind == "wrong-box":
        segments[1]["bbox"] = [1, 2, 3, 4]
    elif kind == "several-stuff-segments":
        segments[1]["category_id"] = 7
    elif kind == "duplicate-category-name":
        document["categories"].append({"id": 8, "name": "road", "isthing": 0})
    elif kind == "shared-png":
        document["annotations"][1]["file_name"] = document["annotations"][0]["file_name"]
        made.png().unlink()
    elif kind == "shared-image":
        document["images"][1]["file_name"] = document["images"][0]["file_name"]
    elif kind == "void-image":
        made.paint(0, ...)
        segments.clear()
    elif kind == "much-void":
        made.paint(0, read_id_png(made.png()) == 70)
        del segments[0]
    elif kind == "mostly-void":
        for annotation in made.document["annotations"]:
            path = made.pngs / annotation["file_name"]
            ids = read_id_png(path).copy()
            ids[ids == 70] = 0
            write_id_png(path, ids)
            del annotation["segments_info"][0]
    elif kind == "extra-png":
        shutil.copy(made.png(), made.pngs / "extra.png")
    elif kind == "no-images":
        shutil.rmtree(made.images)
    made.save()


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_found_and_no_other(made, kind):
    plant(kind, made)
    report = check_set(made.root)
    assert kinds(report) == {kind}
    assert (report.errors > 0) == (KINDS[kind][0] == "error")


@pytest.mark.parametrize(
    "kind",
    [
        "missing-png",
        "unreadable-png",
        "png-size",
        "missing-image",
        "unreadable-image",
        "image-size",
        "id-not-in-json",
        "segment-not-in-png",
        "wrong-area",
        "wrong-box",
        "much-void",
    ],
)
def test_a_finding_names_its_file_and_image(made, kind):
    plant(kind, made)
    (finding,) = check_set(made.root).findings
    assert "000000000002" in finding.file
    assert finding.image_id == 2


def test_faults_of_every_kind_at_once_are_all_listed(made):
    planted = ["duplicate-category", "unlisted-image", "wrong-area", "wrong-box", "missing-image", "extra-png"]
    for kind in planted:
        plant(kind, made)
    assert set(planted) <= kinds(check_set(made.root))


def test_a_wrong_area_says_both_numbers(made):
    plant("wrong-area", made)
    (finding,) = check_set(made.root).findings
    assert finding.message == "Segment 300 has 9 pixels, the JSON says 10."
    assert finding.segment_id == 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("area", "9"),
        ("area", None),
        ("area", float("nan")),
        ("id", "300"),
        ("id", 0),
        ("id", 1 << 24),
        ("category_id", None),
    ],
)
def test_fields_of_the_wrong_type_are_findings_not_crashes(made, field, value):
    made.segments[1][field] = value
    made.save()
    assert "bad-record" in kinds(check_set(made.root))


@pytest.mark.parametrize("record", [None, 7, "x", [], {}])
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_records_of_the_wrong_kind_are_findings_not_crashes(made, key, record):
    made.document[key].append(record)
    made.save()
    assert kinds(check_set(made.root)) == {"bad-record"}


def test_image_ids_may_be_text(made):
    made.document["images"][1]["id"] = made.document["annotations"][1]["image_id"] = "zwei"
    made.segments[1]["area"] = 1
    made.save()
    (finding,) = check_set(made.root).findings
    assert (finding.kind, finding.image_id) == ("wrong-area", "zwei")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": [], "annotations": []}', '{"images": 1}'])
def test_what_is_no_panoptic_json_is_one_sentence(made, content):
    made.json.write_text(content)
    with pytest.raises(BadDataset, match=r"panoptic_val2017\.json"):
        check_set(made.root)


def test_windows_line_ends_and_a_byte_order_mark_are_no_fault(made):
    text = json.dumps(made.document, indent=1).replace("\n", "\r\n")
    made.json.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert check_set(made.root).findings == ()


def test_a_limit_checks_the_first_images_only(made):
    plant("missing-png", made)
    made.image(3).unlink()
    report = check_set(made.root, limit=1)
    assert report.findings == ()
    assert report.n_images == 1
    assert kinds(check_set(made.root, limit=2)) == {"missing-png"}


def test_folders_can_be_named(made):
    os.rename(made.images, made.root / "photos")
    os.rename(made.pngs, made.root / "maps")
    report = check_set(made.json, images=made.root / "photos", pngs=made.root / "maps")
    assert report.findings == ()
    assert {finding.kind for finding in check_set(made.json).findings} == {"missing-png", "no-images"}


def test_a_named_folder_of_images_must_hold_them(made):
    assert kinds(check_set(made.root, images=made.root / "nowhere")) == {"missing-image"}


def test_the_json_of_a_folder_is_found_by_its_split(made):
    assert find_json(made.root, "val") == find_json(made.root, "val2017") == made.json
    with pytest.raises(BadDataset, match=r"panoptic_val2017\.json"):
        find_json(made.root, "train")
    with pytest.raises(BadDataset, match="was not found"):
        find_json(made.root / "nowhere")


def test_the_record_is_json_and_lists_every_finding(made):
    plant("wrong-area", made)
    plant("missing-image", made)
    record = json.loads(json.dumps(check_set(made.root).as_record(), allow_nan=False))
    assert (record["schema"], record["errors"], record["warnings"]) == (1, 2, 0)
    assert {finding["kind"] for finding in record["findings"]} == {"wrong-area", "missing-image"}


def test_progress_ends_at_all_images(made):
    seen: list[tuple[int, int]] = []
    check_set(made.root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)


@given(arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)))
def test_areas_and_boxes_are_those_of_the_masks(ids):
    found, areas, boxes = measure_segments(ids)
    assert found.tolist() == np.unique(ids).tolist()
    for segment_id, area, (x, y, width, height) in zip(found, areas, boxes, strict=True):
        mask = ids == segment_id
        rows, columns = np.nonzero(mask)
        assert area == mask.sum()
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
