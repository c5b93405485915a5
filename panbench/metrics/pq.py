"""Panoptic quality as queries on overlap tables. [Kirillov et al. 2019, sec. 4; the same numbers as panopticapi]

The rules, where panopticapi's differ from what one would guess:
a pair matches when IoU > 0.5, strictly; the union takes the ground truth's area from the JSON and leaves out the
prediction's pixels on void; crowds never match; a prediction with more than half of its area on void and on the *last*
crowd listed of its category is no false positive; ids of a ground-truth PNG that its JSON lacks are neither void nor a
segment; means run over the categories that have a TP, FP or FN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.panoptic.overlap import OverlapTable, Pairs, Segments, distinct, find_rows, sums_by_row, take
from panbench.panoptic.types import VOID, Category

__all__ = ["match_segments", "per_image_statistics", "pq_table", "segment_verdicts", "summarise"]

VERDICTS = ("TP", "FN", "FP", "ignored")
TP, FN, FP, IGNORED = range(4)

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]


def match_segments(
    segments: pd.DataFrame, overlaps: pd.DataFrame, boundary: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Each pair of a ground-truth segment and a prediction that share pixels and a category, with their IoU.

    segments: one row a segment (image_id, side, id, category_id, area, iscrowd)
    overlaps: one row a pair of ids that share pixels (image_id, gt_id, pred_id, pixels)
    Columns: image_id, gt_id, pred_id, category_id, pixels, union, iou. Crowds are left out. A pair is a true positive
    at threshold t when iou > t; from 0.5 on each segment is in at most one. Ordered by image_id, gt_id, pred_id.
    """
    return _pair(_Columns.of(segments, overlaps, boundary)).as_frame()


def segment_verdicts(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    iou_threshold: float = 0.5,
    boundary: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Each segment of `segments`, in its order, with what became of it.

    verdict: "TP", "FN" (ground truth), "FP" (prediction) or "ignored" (crowds, and predictions more than half on void
    and crowd); iou: the matched pair's, NaN without a match; matched_id: the other side's id, 0 without a match.
    """
    columns = _Columns.of(segments, overlaps, boundary)
    verdicts = _judge(columns, iou_threshold)
    frame = segments.reset_index(drop=True)
    return frame.assign(verdict=np.array(VERDICTS)[verdicts.code], iou=verdicts.iou, matched_id=verdicts.matched_id)


def pq_table(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    categories: Sequence[Category],
    iou_threshold: float = 0.5,
    boundary: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """PQ, SQ and RQ of each category, one row each in the order of `categories`.

    PQ = Σ IoU(TP) / (TP + FP/2 + FN/2) = SQ · RQ. Columns: category_id, name, isthing, supercategory, PQ, SQ, RQ (0–1),
    TP, FP, FN, iou_sum. A category without TP, FP and FN has zeros, as panopticapi lists it; the means leave it out.
    boundary: overlaps of boundary pixels (`Run.boundary()`); with them it is boundary PQ, whose IoU of a pair is
        min(IoU, boundary IoU) [Cheng et al. 2021]. All functions here take them alike.
    Raises BadDataset when a segment's category_id is not in `categories`.
    """
    columns = _Columns.of(segments, overlaps, boundary)
    return _table(_count(columns, _judge(columns, iou_threshold), by_image=False), categories)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """`{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …}` of a `pq_table`: means over its categories, 0–1.

    n counts the categories that have a TP, FP or FN; the others are left out. With none, PQ, SQ and RQ are None.
    """
    counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
    isthing = table["isthing"].to_numpy(dtype=bool)
    members = {"All": counted, "Things": counted & isthing, "Stuff": counted & ~isthing}
    return {
        group: {
            **{name: _mean(table[name].to_numpy(dtype=float)[rows]) for name in ("PQ", "SQ", "RQ")},
            "n": int(rows.sum()),
        }
        for group, rows in members.items()
    }


def per_image_statistics(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    iou_threshold: float = 0.5,
    boundary: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What each image adds to each category: image_id, category_id, iou_sum, TP, FP, FN, without rows of zeros.

    PQ of any set of images is a quotient of sums of these rows: resampling, splits and merging need nothing else.
    Ordered by image_id, then category_id.
    """
    columns = _Columns.of(segments, overlaps, boundary)
    return _count(columns, _judge(columns, iou_threshold), by_image=True)


def pq_of(
    table: OverlapTable, categories: Sequence[Category], iou_threshold: float = 0.5, boundary: bool = False
) -> pd.DataFrame:
    """`pq_table` of an overlap table; boundary PQ if asked for. Raises BadArgument when its pairs are not there."""
    if boundary and table.boundary is None:
        raise BadArgument("The run has no boundary overlaps. Score it with --boundary to store them.")
    columns = _Columns(table.segments, _in_order(table.overlaps), table.boundary if boundary else None)
    return _table(_count(columns, _judge(columns, iou_threshold), by_image=False), categories)


@dataclass(frozen=True)
class _Columns:
    """Segments as they come and overlaps in the order of image_id, gt_id, pred_id.

    The order makes every sum of IoUs run over the same terms in the same order, however the table was merged, and it is
    the order of panopticapi's own loop: results repeat to the last bit.
    """

    segments: Segments
    overlaps: Pairs
    boundary: Pairs | None = None

    @staticmethod
    def of(segments: pd.DataFrame, overlaps: pd.DataFrame, boundary: pd.DataFrame | None = None) -> "_Columns":
        n = len(segments)
        return _Columns(
            Segments(
                image_id=segments["image_id"].to_numpy(np.int64),
                is_gt=(segments["side"] == "gt").to_numpy(np.bool_),
                id=segments["id"].to_numpy(np.int32),
                category_id=segments["category_id"].to_numpy(np.int32),
                area=segments["area"].to_numpy(np.int64),
                iscrowd=segments["iscrowd"].to_numpy(np.bool_),
                score=np.full(n, np.nan, np.float32),
            ),
            _in_order(_pairs_of(overlaps)),
            None if boundary is None else _pairs_of(boundary),
        )


def _pairs_of(frame: pd.DataFrame) -> Pairs:
    return Pairs(
        frame["image_id"].to_numpy(np.int64),
        frame["gt_id"].to_numpy(np.int32),
        frame["pred_id"].to_numpy(np.int32),
        frame["pixels"].to_numpy(np.int64),
    )


@dataclass(frozen=True)
class _Matches:
    """Pairs of one category: `gt_row` and `pred_row` are rows of the segments, `iou` their intersection over union."""

    pairs: Pairs
    gt_row: Int
    pred_row: Int
    category_id: npt.NDArray[np.int32]
    union: Int
    iou: Float

    def take(self, rows: Bool) -> "_Matches":
        return _Matches(
            take(self.pairs, rows),
            self.gt_row[rows],
            self.pred_row[rows],
            self.category_id[rows],
            self.union[rows],
            self.iou[rows],
        )

    def as_frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "image_id": self.pairs.image_id,
                "gt_id": self.pairs.gt_id,
                "pred_id": self.pairs.pred_id,
                "category_id": self.category_id,
                "pixels": self.pairs.pixels,
                "union": self.union,
                "iou": self.iou,
            }
        )


@dataclass(frozen=True)
class _Verdicts:
    """Per segment: `code` TP, FN, FP or IGNORED; `iou` and `matched_id` of its match. `hits`: the true positives."""

    code: npt.NDArray[np.int8]
    iou: Float
    matched_id: npt.NDArray[np.int32]
    hits: _Matches


def _in_order(pairs: Pairs) -> Pairs:
    order = np.lexsort((pairs.pred_id, pairs.gt_id, pairs.image_id))
    return take(pairs, order)


def _rows(columns: _Columns) -> tuple[Int, Int]:
    """For each overlap, the row of its ground-truth segment and of its prediction in the segments, or -1."""
    segments, overlaps = columns.segments, columns.overlaps
    sides = []
    for side, ids in ((segments.is_gt, overlaps.gt_id), (~segments.is_gt, overlaps.pred_id)):
        of_side = np.flatnonzero(side)
        row = find_rows(overlaps.image_id, ids, segments.image_id[side], segments.id[side])
        sides.append(np.where(row >= 0, np.append(of_side, -1)[row], -1))
    return sides[0], sides[1]


def _pair(columns: _Columns, rows: tuple[Int, Int] | None = None) -> _Matches:
    segments, overlaps = columns.segments, columns.overlaps
    gt_row, pred_row = rows or _rows(columns)
    on_void = _pixels_on_void(columns, pred_row)
    chosen = (gt_row >= 0) & (pred_row >= 0)
    gt_row, pred_row = gt_row[chosen], pred_row[chosen]
    pairs = take(overlaps, chosen)
    alike = (segments.category_id[gt_row] == segments.category_id[pred_row]) & ~segments.iscrowd[gt_row]
    gt_row, pred_row = gt_row[alike], pred_row[alike]
    pairs = take(pairs, alike)
    union = segments.area[pred_row] + segments.area[gt_row] - pairs.pixels - on_void[pred_row]
    if (union <= 0).any():
        wrong = int(np.argmax(union <= 0))
        raise BadDataset(
            f"Image {pairs.image_id[wrong]}: the ground truth lists area {segments.area[gt_row[wrong]]} for segment "
            f"{pairs.gt_id[wrong]}, less than the {pairs.pixels[wrong]} pixels it shares with a prediction. "
            "Correct the area."
        )
    iou = pairs.pixels / union
    if columns.boundary is not None:
        iou = np.minimum(iou, _boundary_iou(columns.boundary, pairs))
    return _Matches(pairs, gt_row, pred_row, segments.category_id[gt_row], union, iou)


def _boundary_iou(boundary: Pairs, pairs: Pairs) -> Float:
    """For each pair, the IoU of the two boundaries; of the prediction's, what lies on void is left out of the union."""

    def area(ids: Int32, of: Int32, rows: Bool | slice = slice(None)) -> Int:
        wanted = distinct(pairs.image_id, of)
        row = find_rows(boundary.image_id[rows], ids[rows], *wanted)
        return sums_by_row(row, boundary.pixels[rows], len(wanted[0]))[find_rows(pairs.image_id, of, *wanted)]

    both = [
        np.concatenate([getattr(boundary, name), getattr(pairs, name)]) for name in ("image_id", "gt_id", "pred_id")
    ]
    _, group = _group(both)
    shared = np.bincount(group[: len(boundary)], weights=boundary.pixels, minlength=int(group.max(initial=-1)) + 1)
    shared = shared[group[len(boundary) :]]
    on_void = area(boundary.pred_id, pairs.pred_id, boundary.gt_id == VOID)
    union = area(boundary.gt_id, pairs.gt_id) + area(boundary.pred_id, pairs.pred_id) - shared - on_void
    # The boundary of a segment has a pixel at least, so the union has one.
    return shared / union


def _pixels_on_void(columns: _Columns, pred_row: Int) -> Int:
    """Per segment: for predictions, how many of their pixels the ground truth leaves unlabelled."""
    on_void = np.zeros(len(columns.segments), np.int64)
    rows = (columns.overlaps.gt_id == VOID) & (pred_row >= 0)
    on_void[pred_row[rows]] = columns.overlaps.pixels[rows]
    return on_void


def _judge(columns: _Columns, iou_threshold: float) -> _Verdicts:
    if not 0.5 <= iou_threshold < 1:
        raise BadArgument(
            f"The IoU threshold is {iou_threshold}; it must be at least 0.5, so that no segment matches two, "
            "and less than 1."
        )
    segments = columns.segments
    rows = _rows(columns)
    pairs = _pair(columns, rows)
    hits = pairs.take(pairs.iou > iou_threshold)

    code = np.where(segments.is_gt, FN, FP).astype(np.int8)
    code[segments.is_gt & segments.iscrowd] = IGNORED
    excused = _pixels_on_void(columns, rows[1]) + _pixels_on_last_crowd(columns, *rows)
    with np.errstate(invalid="ignore"):
        code[~segments.is_gt & (excused / segments.area > 0.5)] = IGNORED
    code[hits.gt_row] = TP
    code[hits.pred_row] = TP

    iou = np.full(len(segments), np.nan)
    matched_id = np.zeros(len(segments), np.int32)
    iou[hits.gt_row] = iou[hits.pred_row] = hits.iou
    matched_id[hits.gt_row] = hits.pairs.pred_id
    matched_id[hits.pred_row] = hits.pairs.gt_id
    return _Verdicts(code, iou, matched_id, hits)


def _count(columns: _Columns, verdicts: _Verdicts, by_image: bool) -> pd.DataFrame:
    """iou_sum, TP, FP, FN of each category_id, or of each image_id and category_id."""
    segments, hits = columns.segments, verdicts.hits
    missed, wrong = np.flatnonzero(verdicts.code == FN), np.flatnonzero(verdicts.code == FP)
    rows = np.concatenate([hits.gt_row, wrong, missed])
    keys = [segments.category_id[rows].astype(np.int64)]
    if by_image:
        keys.insert(0, segments.image_id[rows])
    found, group = _group(keys)
    n = len(found[0])
    ends = np.cumsum([len(hits.gt_row), len(wrong), len(missed)])
    of_hits, of_wrong, of_missed = group[: ends[0]], group[ends[0] : ends[1]], group[ends[1] :]
    return pd.DataFrame(
        {
            **dict(zip(("image_id", "category_id")[-len(keys) :], found, strict=True)),
            # bincount adds in the order of its rows: image by image, as panopticapi does.
            "iou_sum": np.bincount(of_hits, weights=hits.iou, minlength=n),
            "TP": np.bincount(of_hits, minlength=n),
            "FP": np.bincount(of_wrong, minlength=n),
            "FN": np.bincount(of_missed, minlength=n),
        }
    )


def _group(keys: list[Int]) -> tuple[list[Int], Int]:
    """The distinct rows of some columns in ascending order, and for each row the number of its like."""
    n = len(keys[0])
    order = np.lexsort(keys[::-1])
    new = np.zeros(n, np.bool_)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    group = np.empty(n, np.int64)
    group[order] = np.cumsum(new) - 1
    return [key[order][new] for key in keys], group


def _table(counts: pd.DataFrame, categories: Sequence[Category]) -> pd.DataFrame:
    known = [category.id for category in categories]
    strangers = sorted(set(counts["category_id"].tolist()) - set(known))
    if strangers:
        raise BadDataset(f"Segments have category ids that are not among the categories: {listed(strangers)}.")
    counts = counts.set_index("category_id").reindex(known, fill_value=0)
    tp, fp, fn, iou_sum = (counts[name].to_numpy() for name in ("TP", "FP", "FN", "iou_sum"))
    size = tp + 0.5 * fp + 0.5 * fn
    return pd.DataFrame(
        {
            "category_id": np.array(known, np.int64),
            "name": [category.name for category in categories],
            "isthing": np.array([category.isthing for category in categories], np.bool_),
            "supercategory": [category.supercategory for category in categories],
            "PQ": _ratio(iou_sum, size),
            "SQ": _ratio(iou_sum, tp),
            "RQ": _ratio(tp, size),
            "TP": tp.astype(np.int64),
            "FP": fp.astype(np.int64),
            "FN": fn.astype(np.int64),
            "iou_sum": iou_sum.astype(np.float64),
        }
    )


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Float:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _mean(values: Float) -> float | None:
    # Left to right, as panopticapi adds: np.sum would pair terms up and round otherwise.
    return float(np.add.accumulate(values)[-1] / len(values)) if len(values) else None


def _pixels_on_last_crowd(columns: _Columns, gt_row: Int, pred_row: Int) -> Int:
    """Per segment: for predictions, their pixels on the crowd of their category that the JSON lists last."""
    segments = columns.segments
    pixels = np.zeros(len(segments), np.int64)
    crowds = np.flatnonzero(segments.is_gt & segments.iscrowd)
    if not len(crowds):
        return pixels
    # Reversed, so that the first of each (image, category) is the last listed.
    backwards = crowds[::-1]
    order = np.lexsort((segments.category_id[backwards], segments.image_id[backwards]))
    images, labels = segments.image_id[backwards][order], segments.category_id[backwards][order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
    is_last_crowd = np.zeros(len(segments), np.bool_)
    is_last_crowd[backwards[order[first]]] = True

    rows = np.flatnonzero((gt_row >= 0) & (pred_row >= 0))
    rows = rows[is_last_crowd[gt_row[rows]]]
    rows = rows[segments.category_id[gt_row[rows]] == segments.category_id[pred_row[rows]]]
    pixels[pred_row[rows]] = columns.overlaps.pixels[rows]
    return pixels
