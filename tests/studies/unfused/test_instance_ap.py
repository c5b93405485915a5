"""AP held against pycocotools on scenes with crowds, ties, many detections and all sizes."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support import refusal

from panbench.studies.unfused.boxes import box_table, listed_box, tight_box
from panbench.studies.unfused.instance_ap import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    Boxes,
    InstanceTable,
    _match_detections,
    _sort_by_category,
    instance_ap,
    jackknifed_ap,
)

CATEGORIES = (1, 2, 5)


def rectangle(random: np.random.Generator, shape: tuple[int, int], near: np.ndarray | None = None) -> np.ndarray:
    """A random rectangle, or one that overlaps another's."""
    height, width = shape
    if near is not None and near.any():
        y, x = np.nonzero(near)
        shift = random.integers(-3, 4, size=4)
        top, bottom = max(0, y.min() + shift[0]), min(height, y.max() + 1 + shift[1])
        left, right = max(0, x.min() + shift[2]), min(width, x.max() + 1 + shift[3])
    else:
        top, left = random.integers(0, height - 4), random.integers(0, width - 4)
        bottom = min(height, top + 3 + random.integers(1, height))
        right = min(width, left + 3 + random.integers(1, width))
    mask = np.zeros(shape, np.bool_)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def scenes(seed: int, images: int = 12, most: int = 6) -> tuple[list[dict], list[dict]]:
    """True instances and detections as lists of dicts with boolean masks."""
    random = np.random.default_rng(seed)
    true, found = [], []
    for image in range(1, images + 1):
        shape = (130, 160) if image % 3 else (40, 44)
        for _ in range(random.integers(0, most)):
            mask = rectangle(random, shape)
            true.append(
                {
                    "image_id": image,
                    "id": len(true) + 1,
                    "category_id": int(random.choice(CATEGORIES)),
                    "mask": mask,
                    "iscrowd": int(random.random() < 0.2),
                    "area": float(mask.sum() * random.choice([1, 1, 1, 0.9])),
                }
            )
        here = [one for one in true if one["image_id"] == image]
        for _ in range(random.integers(0, 3 * most)):
            near = here[random.integers(len(here))] if here and random.random() < 0.7 else None
            found.append(
                {
                    "image_id": image,
                    "category_id": near["category_id"]
                    if near is not None and random.random() < 0.8
                    else int(random.choice(CATEGORIES)),
                    "mask": rectangle(random, shape, None if near is None else near["mask"]),
                    # Coarse scores, so that ties occur.
                    "score": float(random.integers(1, 8) / 8),
                }
            )
    return true, found


def table_of(true: list[dict], found: list[dict]) -> InstanceTable:
    pairs = [
        (t["image_id"], number, t["id"], int((t["mask"] & f["mask"]).sum()))
        for number, f in enumerate(found)
        for t in true
        if t["image_id"] == f["image_id"] and (t["mask"] & f["mask"]).any()
    ]

    def column(rows: list, key: object, kind: type) -> np.ndarray:
        return np.array([key(row) for row in rows], kind)

    return InstanceTable(
        det_image=column(found, lambda f: f["image_id"], np.int64),
        det_id=np.arange(len(found), dtype=np.int32),
        det_category=column(found, lambda f: f["category_id"], np.int32),
        det_score=column(found, lambda f: f["score"], np.float64),
        det_area=column(found, lambda f: f["mask"].sum(), np.int64),
        gt_image=column(true, lambda t: t["image_id"], np.int64),
        gt_id=column(true, lambda t: t["id"], np.int32),
        gt_category=column(true, lambda t: t["category_id"], np.int32),
        gt_area=column(true, lambda t: t["area"], np.float64),
        gt_pixels=column(true, lambda t: t["mask"].sum(), np.int64),
        gt_iscrowd=column(true, lambda t: t["iscrowd"], np.bool_),
        pair_image=column(pairs, lambda p: p[0], np.int64),
        pair_det=column(pairs, lambda p: p[1], np.int32),
        pair_gt=column(pairs, lambda p: p[2], np.int32),
        pair_pixels=column(pairs, lambda p: p[3], np.int64),
    )


def with_boxes(true: list[dict], found: list[dict], seed: int) -> InstanceTable:
    """The table with boxes: a true instance has its mask's, as its `bbox`; a detection one near its mask's."""
    random = np.random.default_rng(seed)
    for t in true:
        x1, y1, x2, y2 = tight_box(t["mask"])
        t["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    for f in found:
        # Now and then the box exactly, and now and then one that the box head put partly outside of the image.
        x1, y1, x2, y2 = np.array(tight_box(f["mask"])) + random.choice([0.0, 1.5]) * random.normal(size=4)
        f["bbox"] = [x1, y1, max(x2 - x1, 0.0), max(y2 - y1, 0.0)]

    def corners(boxes: list) -> np.ndarray:
        sides = np.array(boxes, np.float64).reshape(-1, 4)
        return np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)

    boxes = Boxes(
        corners([f["bbox"] for f in found]), corners([t["bbox"] for t in true]), np.ones(len(found), np.bool_)
    )
    return dataclasses.replace(table_of(true, found), boxes=boxes)


def pycocotools_ap(true: list[dict], found: list[dict], kind: str = "segm") -> COCOeval:
    def coded(mask: np.ndarray) -> dict:
        return masks.encode(np.asfortranarray(mask.astype(np.uint8)))

    images = sorted({one["image_id"] for one in (*true, *found)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image, "height": 130, "width": 160} for image in images],
            "categories": [{"id": category} for category in CATEGORIES],
            "annotations": [
                {
                    **{key: t[key] for key in ("image_id", "id", "category_id", "iscrowd", "area")},
                    **({"bbox": t["bbox"]} if kind == "bbox" else {"segmentation": coded(t["mask"])}),
                }
                for t in true
            ],
        }
        truth.createIndex()
        results = truth.loadRes(
            [
                {
                    **{key: f[key] for key in ("image_id", "category_id", "score")},
                    **({"bbox": f["bbox"]} if kind == "bbox" else {"segmentation": coded(f["mask"])}),
                }
                for f in found
            ]
        )
        evaluation = COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(12))
def test_ap_equals_pycocotools(seed):
    true, found = scenes(seed)
    expected = [None if value == -1 else value for value in pycocotools_ap(true, found).stats[:6].tolist()]
    measured = list(instance_ap(table_of(true, found), CATEGORIES).as_record().values())
    for ours, theirs in zip(measured, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_box_ap_equals_pycocotools(seed):
    true, found = scenes(seed)
    true[0]["iscrowd"] = 1
    table = with_boxes(true, found, seed)
    expected = [None if value == -1 else value for value in pycocotools_ap(true, found, "bbox").stats[:6].tolist()]
    measured = list(instance_ap(box_table(table, table.boxes), CATEGORIES).as_record().values())
    for ours, theirs in zip(measured, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs, abs=1e-12)
    # Boxes and masks are two questions.
    assert measured != list(instance_ap(table, CATEGORIES).as_record().values())


def test_boxes_overlap_where_masks_do_not():
    """The two diagonals of a square: the masks share no pixel, and their boxes are equal."""
    falling = np.eye(4, dtype=np.bool_)
    rising = falling[:, ::-1]
    true = [{"image_id": 1, "id": 1, "category_id": 1, "mask": falling, "iscrowd": 0, "area": 4.0}]
    found = [{"image_id": 1, "category_id": 1, "mask": rising, "score": 0.9}]
    table = table_of(true, found)
    assert not len(table.pair_det)
    boxes = Boxes(*(np.array([tight_box(mask)]) for mask in (rising, falling)), np.zeros(1, np.bool_))
    assert instance_ap(table, CATEGORIES).AP == 0
    assert instance_ap(box_table(table, boxes), CATEGORIES).AP == 1


def test_the_box_of_a_mask_ends_after_its_last_pixel():
    mask = np.zeros((5, 7), np.bool_)
    assert tight_box(mask) == (0, 0, 0, 0)
    mask[2, 3] = True
    assert tight_box(mask) == (3, 2, 4, 3)
    # The JSON's box counts as it is listed, where it is four numbers.
    assert listed_box((2.5, 1, 2, 2.25), mask) == (2.5, 1, 4.5, 3.25)
    for wrong in (None, (1, 2, 3), (1, 2, -1, 2), (1, 2, float("nan"), 2), ("1", 2, 3, 4)):
        assert listed_box(wrong, mask) == (3, 2, 4, 3)


def test_only_a_hundred_detections_per_image_and_category_count():
    true, found = scenes(3, images=2)
    mask = true[0]["mask"]
    crowded = [
        {"image_id": 1, "category_id": 1, "mask": np.roll(mask, 40 + number, axis=1), "score": 0.99}
        for number in range(120)
    ]
    assert instance_ap(table_of(true, crowded + found), CATEGORIES).AP == pytest.approx(
        pycocotools_ap(true, crowded + found).stats[0], abs=1e-12
    )


def test_ap_is_computed_per_category():
    true, found = scenes(5)
    evaluation = pycocotools_ap(true, found)
    for place, category in enumerate(CATEGORIES):
        precision = evaluation.eval["precision"][:, :, place, 0, -1]
        assert instance_ap(table_of(true, found), [category]).AP == pytest.approx(precision.mean(), abs=1e-12)


def test_without_true_instances_there_is_no_ap():
    _, found = scenes(1, images=2)
    assert set(instance_ap(table_of([], found), CATEGORIES).as_record().values()) == {None}


def test_without_detections_ap_is_zero():
    true, _ = scenes(1, images=3)
    true = [{**t, "iscrowd": 0} for t in true]
    assert instance_ap(table_of(true, []), CATEGORIES).AP == 0


def test_a_pair_without_its_rows_is_refused():
    true, found = scenes(1, images=3)
    table = table_of(true, found)
    broken = InstanceTable(**{**table.__dict__, "pair_gt": table.pair_gt + 5000})
    assert "not listed" in refusal(ValueError, instance_ap, broken, CATEGORIES)


@pytest.mark.parametrize("few", [0, 300], ids=["a column at a time", "all columns at once"])
@pytest.mark.parametrize("seed", range(4))
def test_ap_without_an_image_is_that_of_the_other_images(seed, few, monkeypatch):
    monkeypatch.setattr("panbench.studies.unfused.instance_ap._FEW_FOUND", few)
    monkeypatch.setattr("panbench.studies.unfused.instance_ap._COLUMNS_AT_ONCE", 4)
    true, found = scenes(seed, images=6)
    images = np.arange(1, 7)

    def without(image):
        rows = ([row for row in side if row["image_id"] != image] for side in (true, found))
        record = instance_ap(table_of(*rows), CATEGORIES).as_record()
        return [np.nan if value is None else value for value in record.values()]

    jackknife = jackknifed_ap(table_of(true, found), CATEGORIES, images, 6)
    assert jackknife.value == pytest.approx(without(0), abs=1e-12, nan_ok=True)
    for place, image in enumerate(images):
        assert jackknife.left_out[:, place] == pytest.approx(without(image), abs=1e-12, nan_ok=True)


def test_with_many_images_groups_are_left_out():
    true, found = scenes(3, images=6)
    jackknife = jackknifed_ap(table_of(true, found), CATEGORIES, np.arange(1, 7), 2)
    even = [[row for row in side if row["image_id"] % 2 == 0] for side in (true, found)]
    expected = instance_ap(table_of(*even), CATEGORIES)
    assert jackknife.left_out[0, 0] == pytest.approx(expected.AP, abs=1e-12)


def one_by_one(category, ignored):
    """`_match_detections` as pycocotools has it: each detection in turn, each threshold by itself, each instance."""
    n = len(category.image)
    hit, passed_over = np.zeros((2, len(IOU_THRESHOLDS), n), np.bool_)
    for place, threshold in enumerate(IOU_THRESHOLDS):
        taken = np.zeros(len(ignored), np.bool_)
        for det in range(n):
            best, chosen = threshold, -1
            pairs = np.flatnonzero(category.pair_det == det)
            # Instances that count come before ignored ones; of equal IoUs the last is taken.
            for pair in sorted(pairs, key=lambda pair: ignored[category.pair_gt[pair]]):
                gt = category.pair_gt[pair]
                if taken[gt] and not category.gt_iscrowd[gt]:
                    continue
                if chosen >= 0 and not ignored[chosen] and ignored[gt]:
                    break
                if category.pair_iou[pair] >= best:
                    best, chosen = category.pair_iou[pair], gt
            if chosen >= 0:
                taken[chosen] = True
                (passed_over if ignored[chosen] else hit)[place, det] = True
    return hit, passed_over


@pytest.mark.parametrize("seed", range(6))
def test_matching_all_at_once_equals_matching_in_turn(seed):
    true, found = scenes(seed + 50, images=5, most=3 + seed)
    prepared = _sort_by_category(table_of(true, found))
    for category_id in CATEGORIES:
        category = prepared.of_category(category_id)
        for _, low, high in AREA_RANGES:
            ignored = category.gt_iscrowd | (category.gt_area < low) | (category.gt_area > high)
            for ours, theirs in zip(_match_detections(category, ignored), one_by_one(category, ignored), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_an_absent_category_has_no_ap():
    true, found = scenes(2)
    measured = instance_ap(table_of(true, found), (*CATEGORIES, 3, 99))
    assert instance_ap(table_of(true, found), (3, 99)).AP is None
    assert measured.as_record() == instance_ap(table_of(true, found), CATEGORIES).as_record()
