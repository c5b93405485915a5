import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support import refusal

from panbench.base.errors import BadDataset
from panbench.datasets.check import KINDS, CheckReport, check_set, find_json, measure_segments
from panbench.panoptic.coco import read_id_png, write_id_png


class Set:
    """Three images of 8×10 in mmdet's layout: road, two persons on it, a row of void. `save` writes a changed JSON."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.json = root / "annotations" / "panoptic_val2017.json"
        self.pngs = root / "annotations" / "panoptic_val2017"
        self.images = root / "val2017"
        self.images.mkdir(parents=True)
        categories = [{"id": 1, "name": "person", "isthing": 1}, {"id": 7, "name": "road", "isthing": 0}]
        self.document: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        ids = np.full((8, 10), 70, np.int32)
        ids[0] = 0
        ids[2:5, 1:4] = 300
        ids[4:8, 6:9] = 70_000
        for number in (1, 2, 3):
            stem = f"{number:012}"
            write_id_png(self.pngs / f"{stem}.png", ids)
            Image.fromarray(np.full((8, 10, 3), 100, np.uint8)).save(self.images / f"{stem}.jpg")
            self.document["images"].append({"id": number, "file_name": f"{stem}.jpg", "height": 8, "width": 10})
            segments = [
                {"id": 70, "category_id": 7, "area": 49, "bbox": [0, 1, 10, 7], "iscrowd": 0},
                {"id": 300, "category_id": 1, "area": 9, "bbox": [1, 2, 3, 3], "iscrowd": 0},
                {"id": 70_000, "category_id": 1, "area": 12, "bbox": [6, 4, 3, 4], "iscrowd": 1},
            ]
            annotation = {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
            self.document["annotations"].append(annotation)
        self.save()

    def save(self) -> None:
        self.json.write_text(json.dumps(self.document))

    @property
    def annotation(self) -> dict[str, Any]:
        """That of image 2."""
        annotation: dict[str, Any] = self.document["annotations"][1]
        return annotation

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Those of image 2: the road, a person, a crowd of persons."""
        segments: list[dict[str, Any]] = self.annotation["segments_info"]
        return segments

    def png(self, number: int = 2) -> Path:
        return self.pngs / f"{number:012}.png"

    def image(self, number: int = 2) -> Path:
        return self.images / f"{number:012}.jpg"

    def paint(self, value: int, where: Any, number: int = 2) -> None:
        ids = read_id_png(self.png(number)).copy()
        ids[where] = value
        write_id_png(self.png(number), ids)

    def add_category(self, **category: Any) -> None:
        self.document["categories"].append(category)


@pytest.fixture
def made(tmp_path) -> Set:
    return Set(tmp_path / "eine Menge é")


def kinds(report: CheckReport) -> set[str]:
    return {finding.kind for finding in report.findings}


def test_a_valid_set_has_no_findings_and_is_summarized(made):
    report = check_set(made.root)
    assert report.findings == ()
    assert (report.n_images, report.n_annotations, report.n_segments, report.n_crowds) == (3, 3, 9, 3)
    assert (report.smallest, report.median, report.largest) == ((8, 10),) * 3
    assert report.void_share == report.void_share_max == 10 / 80
    person, road = report.categories
    assert (person.name, person.images, person.segments, person.crowds, person.pixels) == ("person", 3, 6, 3, 63)
    assert (road.name, road.images, road.segments, road.pixels, road.isthing) == ("road", 3, 3, 147, False)


def lead_out(made: Set) -> None:
    made.annotation["file_name"] = "../000000000002.png"
    made.png().unlink()


def lose_an_annotation(made: Set) -> None:
    del made.document["annotations"][1]
    made.png().unlink()


def make_taller(made: Set) -> None:
    write_id_png(made.png(), np.vstack([read_id_png(made.png()), np.zeros((1, 10), np.int32)]))


def fill_with_crowds(made: Set) -> None:
    """Each void pixel is a crowd of a category that has nothing else."""
    made.add_category(id=9, name="cell", isthing=1)
    for number, (y, x) in enumerate(np.argwhere(read_id_png(made.png()) == 0).tolist(), 100):
        made.paint(number, (y, x))
        made.segments.append({"id": number, "category_id": 9, "area": 1, "bbox": [x, y, 1, 1], "iscrowd": 1})


def share_a_png(made: Set) -> None:
    made.annotation["file_name"] = made.document["annotations"][0]["file_name"]
    made.png().unlink()


def empty_an_image(made: Set) -> None:
    made.paint(0, ...)
    made.segments.clear()


def lose_the_road(made: Set, *numbers: int) -> None:
    for number in numbers:
        made.paint(0, read_id_png(made.png(number)) == 70, number)
        del made.document["annotations"][number - 1]["segments_info"][0]


FAULTS: dict[str, Callable[[Set], Any]] = {
    "bad-record": lambda made: made.segments[1].pop("area"),
    "bad-name": lead_out,
    "duplicate-category": lambda made: made.add_category(id=7, name="street", isthing=0),
    "category-without-isthing": lambda made: made.document["categories"][1].pop("isthing"),
    "duplicate-image": lambda made: made.document["images"].append(dict(made.document["images"][1])),
    "duplicate-annotation": lambda made: made.document["annotations"].append(dict(made.annotation)),
    "duplicate-segment": lambda made: made.segments.append(dict(made.segments[1])),
    "unknown-category": lambda made: made.segments[1].update(category_id=99),
    "unlisted-image": lambda made: made.document["annotations"].append({**made.annotation, "image_id": 9}),
    "image-without-annotation": lose_an_annotation,
    "missing-png": lambda made: made.png().unlink(),
    "unreadable-png": lambda made: made.png().write_bytes(made.png().read_bytes()[:60]),
    "png-size": make_taller,
    "missing-image": lambda made: made.image().unlink(),
    "unreadable-image": lambda made: made.image().write_bytes(made.image().read_bytes()[:-80]),
    "image-size": lambda made: Image.new("RGB", (10, 9)).save(made.image()),
    "id-not-in-json": lambda made: made.paint(4711, (0, slice(0, 5))),
    "segment-not-in-png": lambda made: made.segments.append(
        {"id": 5, "category_id": 1, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 0}
    ),
    "wrong-area": lambda made: made.segments[1].update(area=10),
    "crowd-on-stuff": lambda made: made.segments[0].update(iscrowd=1),
    "only-crowds": fill_with_crowds,
    "wrong-box": lambda made: made.segments[1].update(bbox=[1, 2, 3, 4]),
    "several-stuff-segments": lambda made: made.segments[1].update(category_id=7),
    "duplicate-category-name": lambda made: made.add_category(id=8, name="road", isthing=0),
    "shared-png": share_a_png,
    "shared-image": lambda made: made.document["images"][1].update(file_name=made.image(1).name),
    "void-image": empty_an_image,
    "much-void": lambda made: lose_the_road(made, 2),
    "mostly-void": lambda made: lose_the_road(made, 1, 2, 3),
    "extra-png": lambda made: shutil.copy(made.png(), made.pngs / "extra.png"),
    "no-images": lambda made: shutil.rmtree(made.images),
}
"""What brings each kind of finding into a sound set, at image 2 where it is about one image."""


def plant(kind: str, made: Set) -> None:
    FAULTS[kind](made)
    made.save()


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_planted_fault_is_found(made, kind):
    plant(kind, made)
    report = check_set(made.root)
    assert kinds(report) == {kind}
    assert (report.errors > 0) == (KINDS[kind][0] == "error")


OF_ONE_IMAGE = "missing-png unreadable-png png-size missing-image unreadable-image image-size id-not-in-json".split()
OF_ONE_IMAGE += "segment-not-in-png wrong-area wrong-box much-void".split()


@pytest.mark.parametrize("kind", OF_ONE_IMAGE)
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


def test_a_wrong_area_is_reported_with_both_numbers(made):
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
def test_a_json_of_another_kind_is_refused_in_one_sentence(made, content):
    made.json.write_text(content)
    assert "panoptic_val2017.json" in refusal(BadDataset, check_set, made.root)


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(made):
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


def test_folders_can_be_given_by_name(made):
    os.rename(made.images, made.root / "photos")
    os.rename(made.pngs, made.root / "maps")
    report = check_set(made.json, images=made.root / "photos", pngs=made.root / "maps")
    assert report.findings == ()
    assert {finding.kind for finding in check_set(made.json).findings} == {"missing-png", "no-images"}


def test_a_given_image_folder_must_contain_the_images(made):
    assert kinds(check_set(made.root, images=made.root / "nowhere")) == {"missing-image"}


def test_the_json_of_a_folder_is_found_by_its_split(made):
    assert find_json(made.root, "val") == find_json(made.root, "val2017") == made.json
    assert "panoptic_val2017.json" in refusal(BadDataset, find_json, made.root, "train")
    assert "was not found" in refusal(BadDataset, find_json, made.root / "nowhere")


def test_the_record_is_json_and_lists_every_finding(made):
    plant("wrong-area", made)
    plant("missing-image", made)
    record = json.loads(json.dumps(check_set(made.root).as_record(), allow_nan=False))
    assert (record["schema"], record["errors"], record["warnings"]) == (1, 2, 0)
    assert {finding["kind"] for finding in record["findings"]} == {"wrong-area", "missing-image"}


def test_progress_ends_at_the_number_of_images(made):
    seen: list[tuple[int, int]] = []
    check_set(made.root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)


@given(arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)))
def test_areas_and_boxes_equal_those_of_the_masks(ids):
    found, areas, boxes = measure_segments(ids)
    assert found.tolist() == np.unique(ids).tolist()
    for segment_id, area, (x, y, width, height) in zip(found, areas, boxes, strict=True):
        mask = ids == segment_id
        rows, columns = np.nonzero(mask)
        assert area == mask.sum()
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
