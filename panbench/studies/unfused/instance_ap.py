"""AP of instance masks from counted pixels, by COCO's rules. [Lin et al. 2014; the same numbers as pycocotools]

This is AP_pan of panoptic papers: the instances that a panoptic model predicts *before* fusion, which may overlap, are
ranked by score, matched at IoU 0.50, 0.55 … 0.95; precision is interpolated at 101 recalls and averaged over
thresholds and categories. No masks are needed: a detection is a row with its area, and its overlaps with true
instances are rows of shared pixels, which runs store and merge like their other tables.

Less obvious rules of COCO: only the 100 highest-scored detections of each image and category
count; a detection takes the free true instance of highest IoU, ignored ones (crowds, and sizes outside the range)
only when no other fits; a crowd's IoU is the share of the detection that lies on it, and it may be taken many times; a
detection on an ignored instance, or unmatched and of a size outside the range, counts neither way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.metrics.jackknife import Jackknife, LeftOutMeans
from panbench.panoptic.overlap import find_rows

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

IOU_THRESHOLDS: Float = np.linspace(0.5, 0.95, 10)
RECALLS: Float = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
ORDER = 0.5
"""The bias of AP falls with the √ of the number of images, as precision is a maximum over noisy values."""
AREA_RANGES: tuple[tuple[str, float, float], ...] = (
    ("all", 0, 1e10),
    ("small", 0, 32**2),
    ("medium", 32**2, 96**2),
    ("large", 96**2, 1e10),
)
"""Name, and the smallest and largest area in pixels, both included, as pycocotools has them."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of an InstanceTable's detections and true instances, (n, 4) x1 y1 x2 y2 in pixels, row for row.

    predicted: (detections,) True for the model's box head, False for the tight box of the mask
    """

    det: Float
    gt: Float
    predicted: Bool


@dataclass(frozen=True)
class InstanceTable:
    """Detections, true instances and their shared pixels: columns of equal length in each of three groups.

    det_image, det_id, det_category, det_score, det_area: one row per detection; ids are unique within an image, and
        their order breaks ties between equal scores
    gt_image, gt_id, gt_category, gt_area, gt_pixels, gt_iscrowd: one row per true instance; gt_area is listed by the
        dataset (it decides the size range), gt_pixels counts its mask (it decides IoU)
    pair_image, pair_det, pair_gt, pair_pixels: one row per detection and true instance that share pixels, whatever
        their categories
    boxes: None in a table made by `box_table`, whose areas and shared pixels are those of boxes instead of masks
    """

    det_image: Int64
    det_id: Int32
    det_category: Int32
    det_score: Float
    det_area: Int64 | Float
    gt_image: Int64
    gt_id: Int32
    gt_category: Int32
    gt_area: Float
    gt_pixels: Int64 | Float
    gt_iscrowd: Bool
    pair_image: Int64
    pair_det: Int32
    pair_gt: Int32
    pair_pixels: Int64 | Float
    boxes: Boxes | None = None


@dataclass(frozen=True)
class InstanceAP:
    """Average precision, fractions 0–1; None without true instances (pycocotools has −1).

    AP: mean over IoU 0.50 … 0.95 and categories; AP50, AP75: at one IoU; APs, APm, APl: of true instances below 32²,
    from 32² to 96², and above 96² pixels
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None

    def as_record(self) -> dict[str, float | None]:
        """Returns AP, AP50, AP75, APs, APm and APl by name, as `panbench metrics --json` prints them."""
        return dict(vars(self))


def instance_ap(table: InstanceTable, category_ids: Sequence[int]) -> InstanceAP:
    """Computes AP over some categories, equal to pycocotools' up to rounding."""
    precision = np.full((len(IOU_THRESHOLDS), len(category_ids), len(AREA_RANGES)), np.nan)
    prepared = _sort_by_category(table)
    for column, category_id in enumerate(category_ids):
        category = prepared.of_category(category_id)
        for index, (_, low, high) in enumerate(AREA_RANGES):
            ignored = category.ignored(low, high)
            if not ignored.all():
                hit, passed_over = _detection_outcomes(category, ignored, low, high)
                needed = np.array([np.count_nonzero(~ignored)])
                once = np.ones((len(category.image), 1))
                precision[:, column, index] = _average_precision(hit, passed_over, once, needed)[:, 0]

    def mean_of_known(values: Float) -> float | None:
        """Averages the values that are known; None if none is."""
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else None

    return InstanceAP(
        AP=mean_of_known(precision[:, :, 0]),
        AP50=mean_of_known(precision[0, :, 0]),
        AP75=mean_of_known(precision[5, :, 0]),
        APs=mean_of_known(precision[:, :, 1]),
        APm=mean_of_known(precision[:, :, 2]),
        APl=mean_of_known(precision[:, :, 3]),
    )


def jackknifed_ap(table: InstanceTable, category_ids: Sequence[int], images: Int64, units: int) -> Jackknife:
    """Jackknifes AP, AP50, AP75, APs, APm and APl, leaving out a group of images at a time; NaN without instances.

    images: ascending, with every image of the table; every `units`-th image belongs to one unit. Matches do not depend
    on other images, so they are computed once, and a category changes only without a unit that contains it.
    """
    prepared = _sort_by_category(table)
    means = LeftOutMeans(6, len(category_ids), units)
    for column, category_id in enumerate(category_ids):
        category = prepared.of_category(category_id)
        det_unit, gt_unit = (np.searchsorted(images, ids) % units for ids in (category.image, category.gt_image))
        held = np.union1d(det_unit, gt_unit)
        for (_, low, high), targets in zip(AREA_RANGES, ((0, 1, 2), (3,), (4,), (5,)), strict=True):
            ignored = category.ignored(low, high)
            if ignored.all():
                continue
            hit, passed_over = _detection_outcomes(category, ignored, low, high)
            # The first column leaves nothing out, each further one leaves out a unit.
            left_out = np.concatenate([[-1], held])
            needed = np.count_nonzero(~ignored) - np.bincount(gt_unit[~ignored], minlength=units)[held]
            needed = np.concatenate([[np.count_nonzero(~ignored)], needed])
            found = np.concatenate(
                [
                    _average_precision(
                        hit, passed_over, (det_unit[:, None] != left_out[block]).astype(np.float64), needed[block]
                    )
                    for block in (slice(k, k + _COLUMNS_AT_ONCE) for k in range(0, len(left_out), _COLUMNS_AT_ONCE))
                ],
                axis=1,
            )
            for target in targets:
                rows = {1: slice(0, 1), 2: slice(5, 6)}.get(target, slice(None))
                values = np.where(needed > 0, found[rows].mean(axis=0), np.nan)
                means.add(target, column, values[0], held, values[1:])
    return means.jackknife(ORDER)


_COLUMNS_AT_ONCE = 100
# With fewer rows it is faster to look up rows among the recall points than recall points in each column.
_FEW_FOUND = 300


def _average_precision(hit: Bool, passed_over: Bool, times: Float, needed: Int64) -> Float:
    """Computes AP of one category and size range at each IoU threshold, for several sets of images (columns) at once.

    Returns (thresholds, columns).
    times: (detections, columns) how often each detection counts; needed: (columns,) the number of true instances
    """
    result = np.zeros((len(IOU_THRESHOLDS), times.shape[1]))
    if not hit.any():
        return result
    # Most detections count at all thresholds or at none: they are summed once.
    never: Bool = np.asarray(passed_over.all(axis=0), np.bool_)
    always = np.cumsum(np.where(never[:, None], 0.0, times), axis=0)
    for index in range(len(IOU_THRESHOLDS)):
        # Precision is only needed at true positives: between them it falls.
        found = np.flatnonzero(hit[index])
        if not len(found):
            continue
        counted = always[found]
        passed_rows = np.flatnonzero(passed_over[index] & ~never)
        if len(passed_rows):
            passed = np.concatenate([np.zeros((1, times.shape[1])), np.cumsum(times[passed_rows], axis=0)])
            counted = counted - passed[np.searchsorted(passed_rows, found, side="right")]
        true = np.cumsum(times[found], axis=0)
        precision = true / np.maximum(counted, np.spacing(1))
        # The envelope that COCO integrates: the largest precision at this or a higher recall.
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = true / np.maximum(needed, 1)
        if len(found) < _FEW_FOUND:
            # The number of recall points that each row is the first to reach, for all columns at once.
            reached = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=0, prepend=0)
            result[index] = (envelope * reached).sum(axis=0) / len(RECALLS)
            continue
        for column in range(times.shape[1]):
            at = np.searchsorted(recall[:, column], RECALLS, side="left")
            inside = at[at < len(found)]
            result[index, column] = envelope[inside, column].sum() / len(RECALLS)
    return result


@dataclass(frozen=True)
class _CategoryInstances:
    """One category's detections, true instances and pairs with IoU ≥ 0.5, ready to be matched.

    Detections are sorted by falling score (ties by image).
    pair_det, pair_gt: rows of the two; pair_iou: by COCO's rule for crowds.
    Pairs are ordered by detection, then by true instance in the order of the table.
    """

    image: Int64
    score: Float
    area: Int64 | Float
    gt_image: Int64
    gt_area: Float
    gt_iscrowd: Bool
    pair_det: Int64
    pair_gt: Int64
    pair_iou: Float

    def ignored(self, low: float, high: float) -> Bool:
        """Returns whether each true instance is ignored in a range of sizes: crowds, and other sizes."""
        return np.asarray(self.gt_iscrowd | (self.gt_area < low) | (self.gt_area > high))


@dataclass(frozen=True)
class _SortedInstances:
    """The detections, true instances and their pairs of all images, sorted by category.

    det, gt, pair: where the rows of each category begin and end
    category_ids: those of the table, ascending
    """

    category_ids: Int32
    all: _CategoryInstances
    det: Int64
    gt: Int64
    pair: Int64

    def of_category(self, category_id: int) -> _CategoryInstances:
        """Returns the detections, true instances and their pairs of one category; empty if it has none."""
        index = int(np.searchsorted(self.category_ids, category_id))
        if index == len(self.category_ids) or self.category_ids[index] != category_id:
            # An absent category: empty slices past the end.
            index = len(self.category_ids)
        dets, gts, pairs = (slice(*ends[index : index + 2]) for ends in (self.det, self.gt, self.pair))
        return _CategoryInstances(
            image=self.all.image[dets],
            score=self.all.score[dets],
            area=self.all.area[dets],
            gt_image=self.all.gt_image[gts],
            gt_area=self.all.gt_area[gts],
            gt_iscrowd=self.all.gt_iscrowd[gts],
            pair_det=self.all.pair_det[pairs] - dets.start,
            pair_gt=self.all.pair_gt[pairs] - gts.start,
            pair_iou=self.all.pair_iou[pairs],
        )


def _sort_by_category(table: InstanceTable) -> _SortedInstances:
    """Sorts an instance table by category and score, and computes the IoU of its pairs."""
    # Stable sorts: of equal scores the earlier image, and in it the earlier detection, comes first, as in pycocotools.
    dets = np.lexsort((table.det_id, table.det_image, -table.det_score, table.det_category))
    dets = dets[_within_detection_limit(table.det_category[dets], table.det_image[dets], MAX_DETECTIONS)]
    gts = np.argsort(table.gt_category, kind="stable")
    det = _index_among(dets, len(table.det_image))[
        _rows_of_ids(table.pair_image, table.pair_det, table.det_image, table.det_id)
    ]
    gt = _index_among(gts, len(table.gt_image))[
        _rows_of_ids(table.pair_image, table.pair_gt, table.gt_image, table.gt_id)
    ]
    det_category, gt_category = table.det_category[dets], table.gt_category[gts]
    alike = np.flatnonzero(det >= 0)
    alike = alike[det_category[det[alike]] == gt_category[gt[alike]]]
    det, gt, pixels = det[alike], gt[alike], table.pair_pixels[alike]
    area, crowd = table.det_area[dets], table.gt_iscrowd[gts]
    union = np.where(crowd[gt], area[det], area[det] + table.gt_pixels[gts][gt] - pixels)
    iou = pixels / union
    possible = np.flatnonzero(iou >= IOU_THRESHOLDS[0])
    possible = possible[np.lexsort((gt[possible], det[possible]))]
    det, gt = det[possible], gt[possible]
    everything = _CategoryInstances(
        image=table.det_image[dets],
        score=table.det_score[dets],
        area=area,
        gt_image=table.gt_image[gts],
        gt_area=table.gt_area[gts],
        gt_iscrowd=crowd,
        pair_det=det,
        pair_gt=gt,
        pair_iou=iou[possible],
    )
    category_ids = np.union1d(det_category, gt_category)

    def category_ends(of_rows: Int32) -> Int64:
        """Returns where the rows of each category begin and end."""
        bounds = np.searchsorted(of_rows, category_ids)
        return np.concatenate([bounds, [len(of_rows)], [len(of_rows)]])

    return _SortedInstances(
        category_ids,
        everything,
        category_ends(det_category),
        category_ends(gt_category),
        category_ends(det_category[det]),
    )


def _index_among(chosen: Int64, n: int) -> Int64:
    """Returns (n,) the index of each row among the chosen ones, −1 if it is not chosen."""
    indices = np.full(n, -1)
    indices[chosen] = np.arange(len(chosen))
    return indices


def _rows_of_ids(images: Int64, ids: Int32, of_images: Int64, of_ids: Int32) -> Int64:
    """Returns the row in which each (image, id) is listed. Raises ValueError if one is not."""
    rows = find_rows(images, ids, of_images, of_ids)
    if (rows < 0).any():
        raise ValueError("a pair names a detection or an instance that is not listed")
    return rows


def _within_detection_limit(categories: Int32, images: Int64, most: int) -> Bool:
    """Returns whether each row is among the first `most` of its category and image."""
    order = np.lexsort((images, categories))
    grouped = np.stack([categories[order], images[order]])
    starts = np.flatnonzero(np.concatenate([[True], (grouped[:, 1:] != grouped[:, :-1]).any(axis=0)])[: len(order)])
    number = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    first = np.zeros(len(order), np.bool_)
    first[order] = number < most
    return first


def _detection_outcomes(category: _CategoryInstances, ignored: Bool, low: float, high: float) -> tuple[Bool, Bool]:
    """Returns which detections are true positives and which do not count, as two (thresholds, detections) masks."""
    hit, passed_over = _match_detections(category, ignored)
    outside: Bool = (category.area < low) | (category.area > high)
    return hit, passed_over | (~hit & outside)


def _match_detections(category: _CategoryInstances, ignored: Bool) -> tuple[Bool, Bool]:
    """Matches detections to true instances; returns which matched a counted one, and which an ignored one.

    Both are (thresholds, detections) masks.
    """
    n = len(category.image)
    hit = np.zeros((len(IOU_THRESHOLDS), n), np.bool_)
    passed_over = np.zeros((len(IOU_THRESHOLDS), n), np.bool_)
    # pycocotools compares with min(t, 1 − 1e-10), which matters for no threshold of ours.
    # Most detections overlap one instance that no other overlaps, or a crowd, which many may match: they need no loop.
    crowd = category.gt_iscrowd[category.pair_gt]
    alone = np.bincount(category.pair_det, minlength=n)[category.pair_det] == 1
    alone &= crowd | (np.bincount(category.pair_gt, minlength=len(ignored))[category.pair_gt] == 1)
    det, passed = category.pair_det[alone], ignored[category.pair_gt[alone]]
    fits = category.pair_iou[alone] >= IOU_THRESHOLDS[:, None]
    hit[:, det] = fits & ~passed
    passed_over[:, det] = fits & passed

    rest = np.flatnonzero(~alone)
    if not len(rest):
        return hit, passed_over
    pair_det, pair_gt, pair_iou = category.pair_det[rest], category.pair_gt[rest], category.pair_iou[rest]
    free = np.ones((len(IOU_THRESHOLDS), len(category.gt_image)), np.bool_)
    ends = np.flatnonzero(np.diff(pair_det, append=-1)) + 1
    start = 0
    # Greedy loop over the other detections by falling score.
    for end in ends.tolist():
        one = int(pair_det[start])
        gt, iou = pair_gt[start:end], pair_iou[start:end]
        start = end
        usable = (free[:, gt] | category.gt_iscrowd[gt]) & (iou >= IOU_THRESHOLDS[:, None])
        for among, marks in ((~ignored[gt], hit), (ignored[gt], passed_over)):
            # Of equal IoUs the last one listed wins, as in pycocotools' loop; hence the search from behind.
            value = np.where(usable & among, iou, -1.0)[:, ::-1]
            best = len(gt) - 1 - value.argmax(axis=1)
            found = (value.max(axis=1) >= 0) & ~hit[:, one]
            marks[found, one] = True
            free[found, gt[best[found]]] = False
    return hit, passed_over
