import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support import edited, refusal

from panbench.base.errors import BadArgument, BadDataset, PredictionMismatch
from panbench.datasets.check import check_set
from panbench.datasets.convert import (
    Converted,
    LabelledImage,
    convert_arrays,
    convert_instances,
    convert_panoptic,
    convert_two_channel,
    panoptic_to_detection,
    read_categories,
    shipped_categories,
    write_set,
)
from panbench.panoptic.coco import read_id_png, read_panoptic_json
from panbench.panoptic.label_arrays import panoptic_map, segments_of_labels
from panbench.panoptic.types import Category
from panbench.report.answers.tables import comparison_row
from panbench.scoring.folder import score_folder

PANOPTICAPI = Path(__file__).parents[1] / "reference" / "panopticapi_converters"
PERSON = Category(1, "person", True, color=(220, 20, 60))
DOG = Category(18, "dog", True)
SKY = Category(187, "sky", False, color=(70, 130, 180))
CATEGORIES = (PERSON, DOG, SKY)
BY_ID = {category.id: category for category in CATEGORIES}


def partition(converted: Converted, image_id: int) -> set[tuple[int, bool, bytes]]:
    """The segments of an image as (category, iscrowd, pixels): the ids do not matter."""
    panoptic = read_panoptic_json(converted.json)
    ids = read_id_png(panoptic.png_path(image_id))
    return {
        (segment.category_id, segment.iscrowd, np.packbits(ids == segment.id).tobytes())
        for segment in panoptic.annotations[image_id].segments
    }


def is_clean(converted: Converted) -> bool:
    return check_set(converted.json).findings == ()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos é"
    folder.mkdir()
    for number in (3, 11):
        Image.new("RGB", (16, 12)).save(folder / f"{number:012}.jpg")
    return folder


# Against panopticapi's converters.


@pytest.mark.parametrize(("name", "things_only"), [("detection", False), ("detection_things", True)])
def test_the_detection_json_equals_panopticapis(tmp_path, name, things_only):
    expected = json.loads((PANOPTICAPI / f"{name}.json").read_text())
    n = panoptic_to_detection(PANOPTICAPI / "panoptic.json", tmp_path / "d.json", things_only=things_only)
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["annotations"] == expected["annotations"]
    assert found["categories"] == expected["categories"]
    assert found["images"] == expected["images"]
    assert n == len(expected["annotations"]) == (6 if things_only else 8)


def test_two_channel_pngs_give_panopticapis_segments(tmp_path, photos):
    categories = read_categories(PANOPTICAPI / "categories.json")
    found = convert_two_channel(PANOPTICAPI / "twochannel", categories, tmp_path / "out", images_from=photos)
    theirs = read_panoptic_json_without_areas(PANOPTICAPI / "from_twochannel.json")
    for image_id in (3, 11):
        assert partition(found, image_id) == theirs[image_id]
    assert is_clean(found)


def read_panoptic_json_without_areas(path: Path) -> dict[int, set[tuple[int, bool, bytes]]]:
    document = json.loads(path.read_text())
    sets = {}
    for record in document["annotations"]:
        ids = read_id_png(path.with_suffix("") / record["file_name"])
        sets[record["image_id"]] = {
            (segment["category_id"], False, np.packbits(ids == segment["id"]).tobytes())
            for segment in record["segments_info"]
        }
    return sets


# Label and instance maps.


def test_pairs_of_label_and_instance_become_segments():
    labels = np.array([[187, 187, 1, 1], [187, 1, 1, 18]])
    instances = np.array([[0, 5, 1, 1], [7, 2, 1, 1]])
    ids, segments = segments_of_labels(labels, instances, BY_ID, "here")
    assert [category for category, _ in segments.values()] == [1, 1, 18, 187]
    same = ids[:, :, None, None] == ids[None, None]
    assert same[0, 0, 0, 1], "stuff is one segment whatever its instance numbers"
    assert same[0, 2, 1, 2]
    assert not same[0, 2, 1, 1]
    assert len(np.unique(ids)) == 4


def test_ids_have_the_colours_of_their_categories():
    ids, segments = segments_of_labels(np.full((2, 2), 187), np.zeros((2, 2), int), BY_ID, "here")
    assert set(segments) == {70 + 130 * 256 + 180 * 65536}
    assert (ids == next(iter(segments))).all()


def test_void_labels_become_void_unless_a_category_claims_them():
    labels = np.array([[0, 255, 187]])
    ids, _ = segments_of_labels(labels, np.zeros_like(labels), BY_ID, "here")
    assert (ids != 0).tolist() == [[False, False, True]]
    wall = {0: Category(0, "wall", False), **BY_ID}
    ids, segments = segments_of_labels(labels, np.zeros_like(labels), wall, "here")
    assert (ids != 0).tolist() == [[True, False, True]]
    assert segments[int(ids[0, 0])] == (0, False)


@pytest.mark.parametrize(
    ("labels", "instances", "message"),
    [
        (np.array([[1, 99]]), np.zeros((1, 2), int), "99"),
        (np.array([[1, 1]]), np.array([[0, -1]]), "negative"),
        (np.array([[1, 1]]), np.zeros((2, 1), int), "both"),
    ],
)
def test_unknown_labels_are_refused(labels, instances, message):
    with pytest.raises(BadDataset, match=f"here.*{message}"):
        segments_of_labels(labels, instances, BY_ID, "here")


@given(
    arrays(np.int32, (4, 5), elements=st.sampled_from([0, 1, 18, 187, 255])),
    arrays(np.int32, (4, 5), elements=st.integers(0, 3)),
)
def test_every_pixel_keeps_its_category(labels, instances):
    ids, segments = segments_of_labels(labels, instances, BY_ID, "here")
    category_of = {0: 0, **{segment_id: category for segment_id, (category, _) in segments.items()}}
    assert np.vectorize(category_of.__getitem__)(ids).tolist() == np.where(labels == 255, 0, labels).tolist()


def test_arrays_are_converted_with_their_images_and_pass_the_check(tmp_path, photos):
    folder = tmp_path / "arrays"
    folder.mkdir()
    for number in (3, 11):
        labels = np.full((12, 16), 187, np.uint8)
        labels[2:6, 2:9] = 1
        instances = np.zeros((12, 16), np.uint16)
        instances[2:6, 2:5] = number
        instances[2:6, 5:9] = 4000
        np.savez_compressed(folder / f"{number:012}.npz", labels=labels, instances=instances)
    found = convert_arrays(folder, CATEGORIES, tmp_path / "out", "val", images_from=photos)
    assert (found.n_images, found.n_segments) == (2, 6)
    assert sorted(path.name for path in found.images.iterdir()) == ["000000000003.jpg", "000000000011.jpg"]
    assert is_clean(found)


@pytest.mark.parametrize(
    "arrays_",
    [
        {"labels": np.ones((2, 2), int)},
        {"labels": np.ones((2, 2)), "instances": np.ones((2, 2))},
        {"labels": np.array([[None]], object), "instances": np.ones((1, 1), int)},
        {"labels": np.ones(4, int), "instances": np.ones(4, int)},
    ],
    ids=["no instances", "floats", "pickled objects", "flat"],
)
def test_arrays_of_another_kind_are_refused(tmp_path, arrays_):
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "x.npz", **arrays_)
    assert "x.npz" in refusal(BadDataset, convert_arrays, tmp_path / "a", CATEGORIES, tmp_path / "out")
    assert not (tmp_path / "out" / "annotations" / "panoptic_val.json").exists()


def test_a_panoptic_map_from_arrays_equals_the_converters():
    labels, instances = np.array([[1, 1, 187, 0]]), np.array([[1, 2, 5, 0]])
    ids, segments = panoptic_map(instances, semantic=labels, categories=CATEGORIES)
    expected, described = segments_of_labels(labels, instances, BY_ID, "here")
    assert (ids == expected).all()
    assert {one["id"]: (one["category_id"], False) for one in segments} == described
    assert [one["area"] for one in segments] == [1, 1, 1]
    # A thing without an instance is void; one category of things needs no semantic map.
    ids, segments = panoptic_map(np.array([[0, 3]]), semantic=np.array([[1, 1]]), categories=CATEGORIES)
    assert (ids[0, 0], len(segments)) == (0, 1)
    assert panoptic_map(np.array([[0, 3]]), categories=[PERSON])[1][0]["category_id"] == 1


@pytest.mark.parametrize(
    ("instances", "semantic", "categories", "message"),
    [
        (np.zeros((2, 2), int), None, CATEGORIES, "2 categories of things: semantic must say"),
        (np.zeros((2, 2)), None, [PERSON], r"instances must be \(H, W\) whole numbers, not \(2, 2\) float64"),
        (np.zeros((2, 2), int), np.full((2, 2), 9), [PERSON], "the labels 9 are neither a category nor void"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), [PERSON], r"labels are \(2, 3\) and instances \(2, 2\)"),
        (np.zeros((2, 2), int), None, [{"id": 1}], "categories must have id, name and isthing"),
    ],
)
def test_arrays_that_cannot_form_a_map_are_refused(instances, semantic, categories, message):
    with pytest.raises(BadArgument, match=message):
        panoptic_map(instances, semantic=semantic, categories=categories)


def test_two_folders_of_arrays_are_matched_by_file_name(tmp_path):
    """One prediction is missing: what comes after it is not scored against the image before."""
    rng = np.random.default_rng(0)
    (tmp_path / "gt").mkdir()
    (tmp_path / "pred").mkdir()
    for stem in ("case_a", "case_b", "case_c", "case_d"):
        labels = rng.choice([1, 187], (6, 8))
        np.savez(tmp_path / "gt" / f"{stem}.npz", labels=labels, instances=np.ones_like(labels))
        if stem != "case_b":
            shutil.copy(tmp_path / "gt" / f"{stem}.npz", tmp_path / "pred" / f"{stem}.npz")
    gt, pred = (convert_arrays(tmp_path / side, CATEGORIES, tmp_path / f"set {side}") for side in ("gt", "pred"))
    assert "no prediction for 1 of 4 images: case_b." in refusal(PredictionMismatch, score_folder, gt.json, pred.json)
    run = score_folder(gt.json, pred.json, allow_missing=True)
    assert [(row.TP, row.FP, row.FN) for row in run.pq().itertuples() if row.TP] == [(3, 0, 1)] * 2
    row = comparison_row(run)
    assert "incomplete: 3 of 4 images scored" in row.notes


# Instances over a semantic map.


def instance_set(folder: Path, annotations: list[dict[str, Any]]) -> tuple[Path, Path]:
    """One 6×8 image: sky everywhere, labels of a person in the middle."""
    (folder / "semantic").mkdir(parents=True)
    labels = np.full((6, 8), 187, np.uint8)
    labels[1:5, 2:6] = 1
    Image.fromarray(labels).save(folder / "semantic" / "image.png")
    document = {"images": [{"id": 5, "file_name": "image.jpg", "height": 6, "width": 8}], "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "instances.json", folder / "semantic"


def box(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def test_small_instances_cover_large_ones_and_stuff_fills_the_rest(tmp_path):
    files = instance_set(
        tmp_path,
        [
            {"id": 1, "image_id": 5, "category_id": 18, "segmentation": box(3, 2, 2, 2), "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 1, "segmentation": box(2, 1, 3, 4), "iscrowd": 0},
            {
                "id": 3,
                "image_id": 5,
                "category_id": 1,
                "segmentation": {"size": [6, 8], "counts": [0, 6, 42]},
                "iscrowd": 1,
            },
        ],
    )
    found = convert_instances(*files, CATEGORIES, tmp_path / "out")
    annotation = read_panoptic_json(found.json).annotations[5]
    ids = read_id_png(found.pngs / "image.png")
    category_of = {0: 0, **{segment.id: segment.category_id for segment in annotation.segments}}
    assert np.vectorize(category_of.__getitem__)(ids).tolist() == [
        [1, 187, 187, 187, 187, 187, 187, 187],
        [1, 187, 1, 1, 1, 0, 187, 187],
        [1, 187, 1, 18, 18, 0, 187, 187],
        [1, 187, 1, 18, 18, 0, 187, 187],
        [1, 187, 1, 1, 1, 0, 187, 187],
        [1, 187, 187, 187, 187, 187, 187, 187],
    ]
    assert [segment.area for segment in annotation.segments if segment.iscrowd] == [6]
    assert kinds_of(found) <= {"no-images"}


@pytest.mark.parametrize(
    "bad",
    [
        [1e9, 0, 1e9, 5, 0, 5],
        [-3, 0, 4, 0, 4, 4],
        [0, 0, 4, 0, 4, 8.5],
        [float("nan"), 0, 4, 0, 4, 4],
        [float("inf"), 0, 4, 0, 4, 4],
        [10**400, 0, 4, 0, 4, 4],
    ],
)
def test_a_polygon_far_outside_of_its_image_is_refused(tmp_path, bad):
    """pycocotools would take gigabytes for it, or crash the process."""
    files = instance_set(tmp_path, [{"id": 41, "image_id": 5, "category_id": 1, "segmentation": [bad]}])
    with pytest.raises(BadDataset, match="annotation 41 has a polygon with points outside"):
        convert_instances(*files, CATEGORIES, tmp_path / "out")


@pytest.mark.parametrize("counts", [[0, 6, 10**9], [-1, 49], [0, 6.5, 41.5], [48, 1]])
def test_run_lengths_that_do_not_fill_the_image_are_refused(tmp_path, counts):
    shape = {"size": [6, 8], "counts": counts}
    files = instance_set(tmp_path, [{"id": 41, "image_id": 5, "category_id": 1, "segmentation": shape}])
    with pytest.raises(BadDataset, match="annotation 41 has no readable mask"):
        convert_instances(*files, CATEGORIES, tmp_path / "out")


def test_a_polygon_slightly_outside_its_image_is_clipped_and_counted(tmp_path):
    outside = [[-2, -1.5, 4, -2, 4, 8, -2, 8]]
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 1, "segmentation": outside},
        {"id": 2, "image_id": 5, "category_id": 18, "segmentation": box(5, 0, 3, 6)},
    ]
    found = convert_instances(*instance_set(tmp_path, annotations), CATEGORIES, tmp_path / "out")
    assert found.left_out["edges of polygons up to 2 pixels outside of their image"] == 1
    areas = {segment.category_id: segment.area for segment in read_panoptic_json(found.json).annotations[5].segments}
    assert areas[1] == 4 * 6


def kinds_of(converted: Converted) -> set[str]:
    return {finding.kind for finding in check_set(converted.json).findings}


def test_a_fully_covered_instance_is_reported_as_left_out(tmp_path):
    files = instance_set(
        tmp_path,
        [
            {"id": 1, "image_id": 5, "category_id": 1, "segmentation": box(2, 1, 2, 2), "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 18, "segmentation": box(2, 1, 2, 2), "iscrowd": 0},
        ],
    )
    found = convert_instances(*files, CATEGORIES, tmp_path / "out")
    assert found.left_out == {"segments without a pixel of their own": 1}


def things(tmp_path: Path, categories: object) -> Path:
    file = instance_set(tmp_path, [{"id": 1, "image_id": 5, "category_id": 0, "segmentation": box(2, 1, 2, 2)}])[0]
    document = json.loads(file.read_text()) | {"categories": categories}
    file.write_text(json.dumps(document))
    return file


def test_instances_alone_become_a_set_of_things_with_the_categories_of_their_json(tmp_path):
    file = things(tmp_path, [{"id": 0, "name": "screw"}, {"id": 1, "name": "nut", "supercategory": "metal"}])
    found = convert_instances(file, None, None, tmp_path / "out")
    panoptic = read_panoptic_json(found.json)
    assert [(c.id, c.name, c.isthing, c.supercategory) for c in panoptic.categories] == [
        (0, "screw", True, ""),
        (1, "nut", True, "metal"),
    ]
    (segment,) = panoptic.annotations[5].segments
    assert (segment.category_id, segment.area) == (0, 4)
    ids = read_id_png(found.pngs / "image.png")
    assert ids.shape == (6, 8)
    assert (ids != 0).sum() == 4
    assert kinds_of(found) <= {"no-images", "much-void", "mostly-void"}


def test_instances_alone_need_categories_and_sizes(tmp_path):
    with pytest.raises(BadDataset, match="lists no categories"):
        convert_instances(things(tmp_path / "a", []), None, None, tmp_path / "out")
    file = things(tmp_path / "b", [{"id": 0, "name": "screw"}])
    with edited(file) as document:
        del document["images"][0]["height"]
    with pytest.raises(BadDataset, match=r"the image image.jpg has no height and width"):
        convert_instances(file, None, None, tmp_path / "out")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 5, "category_id": 187, "segmentation": box(0, 0, 1, 1)}, "stuff"),
        ({"image_id": 5, "category_id": 9, "segmentation": box(0, 0, 1, 1)}, "9"),
        ({"image_id": 5, "category_id": 1, "segmentation": "nonsense"}, "mask"),
        ({"image_id": 5, "category_id": 1, "segmentation": {"size": [2, 2], "counts": [4]}}, "mask"),
        ({"image_id": 5, "category_id": 1}, "mask"),
        ({"category_id": 1}, "image_id"),
    ],
)
def test_unusable_instances_are_refused(tmp_path, annotation, message):
    files = instance_set(tmp_path, [{"id": 1, **annotation}])
    assert message in refusal(BadDataset, convert_instances, *files, CATEGORIES, tmp_path / "out")


@pytest.fixture
def brushed(tmp_path) -> Path:
    """An instance JSON as CVAT writes brush masks: run lengths, all of them crowds."""
    column = [{"size": [6, 8], "counts": [6 * x, 5, 43 - 6 * x]} for x in range(8)]
    dot = [{"size": [6, 8], "counts": [6 * x + 5, 1, 42 - 6 * x]} for x in range(2)]
    annotations = [
        {"id": number, "image_id": 5, "category_id": 1, "segmentation": shape, "iscrowd": 1}
        for number, shape in enumerate([*column, *dot], 1)
    ]
    return instance_set(tmp_path, annotations)[0]


def crowds_in(converted: Converted) -> int:
    return sum(segment.iscrowd for segment in read_panoptic_json(converted.json).annotations[5].segments)


def test_a_file_with_only_crowds_is_read_as_cvats_single_instances(tmp_path, brushed):
    found = convert_instances(brushed, None, CATEGORIES, tmp_path / "out")
    assert (found.n_segments, crowds_in(found)) == (10, 0)
    assert "All 10 instances are crowds, as CVAT marks" in found.notes[0]
    kept = convert_instances(brushed, None, CATEGORIES, tmp_path / "kept", crowds="keep")
    assert (crowds_in(kept), kept.notes) == (10, ())


def test_crowds_next_to_single_instances_stay_crowds_by_default(tmp_path, brushed):
    with edited(brushed) as document:
        document["annotations"][0]["iscrowd"] = 0
    found = convert_instances(brushed, None, CATEGORIES, tmp_path / "out")
    assert (crowds_in(found), found.notes) == (9, ())
    assert crowds_in(convert_instances(brushed, None, CATEGORIES, tmp_path / "all", crowds="instances")) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 5, "category_id": 1, "score": 0.9}], "has scores.*panbench fuse --instances"),
        ({"images": [], "annotations": [{"score": 0.9}]}, "has scores.*panbench fuse --instances"),
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "Label Studio.*label-studio-converter"),
        ([], "is a list"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_command_that_reads_it(tmp_path, content, message):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(BadDataset, match=message):
        convert_instances(tmp_path / "results.json", None, CATEGORIES, tmp_path / "out")


def test_a_labelme_folder_is_refused_with_the_tool_that_converts_it(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "5.5.0", "shapes": [], "imagePath": "a.jpg"}))
    with pytest.raises(BadDataset, match=r"LabelMe.*labelme2coco"):
        convert_instances(tmp_path, None, CATEGORIES, tmp_path / "out")


# Almost-COCO panoptic sets.


@pytest.fixture
def odd(tmp_path) -> Path:
    """A copy of the set's JSON, for a test to make it odd."""
    return Path(shutil.copy(PANOPTICAPI / "panoptic.json", tmp_path / "odd.json"))


def test_wrong_areas_and_missing_boxes_are_corrected_and_text_ids_kept(odd, tmp_path, photos):
    with edited(odd) as document:
        for image, annotation in zip(document["images"], document["annotations"], strict=True):
            image["id"] = annotation["image_id"] = f"name-{image['id']}"
            for segment in annotation["segments_info"]:
                segment["area"] += 1
                del segment["bbox"]
            annotation["segments_info"].append({"id": 999, "category_id": 1, "area": 5})
    found = convert_panoptic(odd, PANOPTICAPI / "panoptic", tmp_path / "out", images_from=photos, images="copy")
    assert is_clean(found)
    assert list(map(str, read_panoptic_json(found.json).images)) == ["name-3", "name-11"]
    assert found.left_out == {"segments without a pixel of their own": 2}


def test_pixels_that_no_segment_describes_become_void_and_are_named(odd, tmp_path):
    with edited(odd) as document:
        dropped = document["annotations"][0]["segments_info"].pop()
    found = convert_panoptic(odd, PANOPTICAPI / "panoptic", tmp_path / "out")
    assert found.left_out == {"images with pixels that no segment describes (now void)": 1}
    assert dropped["id"] not in read_id_png(found.pngs / "000000000003.png")


@pytest.mark.parametrize("field", ["image_id", "file_name", "segments_info"])
def test_annotations_without_a_field_are_refused(odd, tmp_path, field):
    with edited(odd) as document:
        del document["annotations"][1][field]
    assert field in refusal(BadDataset, convert_panoptic, odd, PANOPTICAPI / "panoptic", tmp_path / "out")


# Writing.


def read_nothing(number: int) -> LabelledImage:
    return LabelledImage(f"{number}.jpg", np.full((2, 2), 5, np.int32), {5: (1, False)})


def test_an_existing_set_is_not_replaced_unless_requested(tmp_path):
    write_set(tmp_path, "val", CATEGORIES, [1], read_nothing)
    assert "already exists" in refusal(BadArgument, write_set, tmp_path, "val", CATEGORIES, [1, 2], read_nothing)
    assert write_set(tmp_path, "val", CATEGORIES, [1, 2], read_nothing, overwrite=True).n_images == 2


def test_converting_a_set_into_its_own_folder_is_refused_and_changes_nothing(tmp_path):
    folder = tmp_path / "annotations" / "panoptic_val"
    shutil.copytree(PANOPTICAPI / "twochannel", folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(BadArgument, match="is read, but"):
            convert_two_channel(folder, CATEGORIES, tmp_path, overwrite=overwrite)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_panoptic_set_converted_into_itself_is_refused(tmp_path):
    write_set(tmp_path, "val", CATEGORIES, [1], read_nothing)
    source = tmp_path / "annotations" / "panoptic_val.json"
    before = source.read_bytes()
    assert "is read, but" in refusal(BadArgument, convert_panoptic, source, None, tmp_path, overwrite=True)
    assert "is the JSON that is read" in refusal(BadArgument, panoptic_to_detection, source, source)
    assert source.read_bytes() == before


def test_existing_different_files_are_not_replaced_unless_requested(tmp_path, photos):
    """The user's photograph and PNG, where the new set would have files of the same name."""
    out = tmp_path / "out"
    picture, png = out / "val" / "000000000003.jpg", out / "annotations" / "panoptic_val" / "000000000003.png"

    def convert(**options: Any) -> Converted:
        return convert_two_channel(PANOPTICAPI / "twochannel", CATEGORIES, out, images_from=photos, **options)

    for path in (picture, png):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        with pytest.raises(BadArgument, match=f"{path.name} already exists and differs"):
            convert()
        assert path.read_bytes() == b"mine"
        path.unlink()
    shutil.copyfile(photos / picture.name, picture)  # the same content is not in the way
    assert convert().n_images == 2
    png.write_bytes(b"mine")
    convert(overwrite=True)
    assert png.read_bytes() != b"mine"


def test_two_images_whose_pngs_would_have_one_name_are_refused(tmp_path):
    def read(suffix: str) -> LabelledImage:
        return LabelledImage(f"1.{suffix}", np.ones((1, 1), np.int32), {})

    with pytest.raises(BadDataset, match=r"1\.jpg and 1\.png|1\.png and 1\.jpg"):
        write_set(tmp_path, "val", CATEGORIES, ["jpg", "png"], read)


def test_an_interrupted_conversion_leaves_no_json_and_can_be_repeated(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, "val", CATEGORIES, list(range(20)), read_nothing, progress=stop)
    assert not (tmp_path / "annotations" / "panoptic_val.json").exists()
    assert write_set(tmp_path, "val", CATEGORIES, list(range(20)), read_nothing).n_images == 20


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        (LabelledImage("../x.jpg", np.ones((1, 1), np.int32), {1: (1, False)}), "leaves"),
        (LabelledImage("x.jpg", np.ones((1, 1), np.int32), {1: (2, False)}), "unknown categories: 2"),
    ],
)
def test_images_that_cannot_be_written_are_refused(tmp_path, labelled, message):
    assert message in refusal(BadDataset, write_set, tmp_path, "val", CATEGORIES, [0], lambda _: labelled)


@pytest.mark.parametrize("same", ["id", "name"])
def test_two_images_with_one_id_or_name_are_refused(tmp_path, same):
    def read(number: int) -> LabelledImage:
        name = "x.jpg" if same == "name" else f"{number}.jpg"
        return LabelledImage(name, np.ones((1, 1), np.int32), {}, image_id=7 if same == "id" else number)

    assert "Two images" in refusal(BadDataset, write_set, tmp_path, "val", CATEGORIES, [1, 2], read)


def test_an_empty_source_is_reported(tmp_path):
    assert "nothing to convert" in refusal(BadDataset, write_set, tmp_path, "val", CATEGORIES, [], read_nothing)
    with pytest.raises(BadDataset, match="is not a folder"):
        convert_two_channel(tmp_path / "nowhere", CATEGORIES, tmp_path / "out")


def test_a_label_png_of_absurd_size_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    Image.new("RGB", (16, 12)).save(tmp_path / "x.png")
    with pytest.raises(BadDataset, match=r"x\.png cannot be read as PNG .*decompression bomb"):
        convert_two_channel(tmp_path, CATEGORIES, tmp_path / "out")


@pytest.mark.parametrize("how", ["link", "copy"])
def test_images_are_linked_or_copied_and_the_originals_stay(tmp_path, photos, how):
    found = convert_two_channel(
        PANOPTICAPI / "twochannel", CATEGORIES, tmp_path / "out", images_from=photos, images=how
    )
    new, old = found.images / "000000000003.jpg", photos / "000000000003.jpg"
    assert new.read_bytes() == old.read_bytes()
    assert new.samefile(old) == (how == "link")


# Categories.


@pytest.mark.parametrize(
    ("name", "things", "stuff"), [("coco", 80, 53), ("ade20k", 100, 50), ("cityscapes", 8, 11), ("mapillary", 37, 28)]
)
def test_shipped_categories_have_the_published_numbers_of_things_and_stuff(name, things, stuff):
    categories = shipped_categories(name)
    assert [category.isthing for category in categories].count(True) == things
    assert [category.isthing for category in categories].count(False) == stuff
    assert len({category.id for category in categories}) == things + stuff
    assert len({category.name for category in categories}) == things + stuff


def test_ade20ks_stuff_categories_are_those_of_eomts_configs():
    """stuff_classes in configs/dinov2/ade20k/panoptic/eomt_large_640.yaml of tue-mps/eomt 7bd19dd."""
    stuff = (0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68)
    stuff += (77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145)
    assert tuple(category.id for category in shipped_categories("ade20k") if not category.isthing) == stuff


def test_mapillarys_categories_count_from_1_as_in_its_panoptic_json():
    categories = shipped_categories("mapillary")
    assert [category.id for category in categories] == list(range(1, 66))
    by_name = {category.name: category.id for category in categories}
    # Numbers less one are the labels of models: a public user of the checkpoint finds Street Light at 44, Pole at 45.
    assert (by_name["Bird"], by_name["Street Light"], by_name["Pole"], by_name["Ego Vehicle"]) == (1, 45, 46, 65)


def test_unknown_shipped_categories_are_refused():
    assert "coco, ade20k, cityscapes and mapillary" in refusal(BadArgument, shipped_categories, "nonsense")


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "{}",
        '[{"id": 1}]',
        '[{"id": 1, "name": "x", "isthing": 2}]',
        "[1]",
        '[{"id": 2147483648, "name": "x", "isthing": 1}]',
        '{"categories": 1}',
    ],
)
def test_categories_that_cannot_be_read_are_refused(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    assert "c.json" in refusal(BadDataset, read_categories, tmp_path / "c.json")
