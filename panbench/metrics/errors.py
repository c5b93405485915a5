"""Explains why PQ is lost: gives each false positive, miss and imperfect mask one cause, and computes what each costs.

As in TIDE [Bolya et al. 2020] a cause is defined by its fix. `CAUSES` lists them in the order in which they are
tried, each with the sentence that users read, the fix that defines it, and the function that finds its errors. An
error belongs to the first cause that explains it, so causes are a partition.

What a fix changes in the counts of a category, whose PQ is Σ IoU / (TP + FP/2 + FN/2):
    a false positive is removed            FP − 1
    a miss becomes a match with IoU r      FN − 1, TP + 1, Σ IoU + r
    masks become exact                     Σ IoU = TP
Fixes of different causes change different errors, so any set of them can be applied together; with all, Σ IoU = TP and
FP = FN = 0, so PQ is 1. A category that only had false positives is empty once they are removed: it counts as 1, so
means stay over the same categories and the gain of All is the mean of its categories' gains. (In panopticapi's mean a
category that no longer occurs would drop out instead; if every category is in the ground truth, there is no
difference.)

Two costs, both in units of PQ:
    gain   ΔPQ if only this cause were fixed. Gains need not add up: fixes can depend on each other or overlap.
    lost   The cause's share of 1 − PQ, its Shapley value: what its fix adds, averaged over all orders of fixing all
           causes. Shares add up to 1 − PQ, and a cause without errors has 0. [Shapley 1953]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.matched import FN, FP, TP, Matched, numbered, one_to_one, positions
from panbench.metrics.pq import panoptic_quality, segment_verdicts
from panbench.panoptic.overlap import find_rows, sums_by_row
from panbench.panoptic.types import VOID, Category, in_groups

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

VERDICT_NAMES = ("TP", "FP", "FN")
IS_TP, IS_FP, IS_FN = range(3)

NEAR = 0.1
"""A prediction of the right category with an IoU above this is a bad mask, not a hallucination; TIDE's threshold."""


@dataclass(frozen=True)
class Cause:
    """A kind of error, which costs PQ.

    description: the sentence that users read
    fix: the correction that defines the cause
    find_errors: finds the errors of this cause among those that no earlier cause explains
    """

    name: str
    description: str
    fix: str
    find_errors: Callable[[_OpenErrors], _ErrorsOfCause]


@dataclass(frozen=True)
class ErrorReport:
    """The tables of `panbench errors`, made by `assign_causes`, `lost_pq` and `worst_images`."""

    errors: pd.DataFrame
    lost: pd.DataFrame
    worst: pd.DataFrame


def explain_errors(matched: Matched, categories: Sequence[Category], images: int = 10) -> ErrorReport:
    """Returns the cause of each error, the PQ that each cause costs, and the images where it costs most.

    images: the largest number of images per cause
    """
    errors = assign_causes(matched, categories)
    return ErrorReport(errors, lost_pq(errors, categories), worst_images(errors, categories, images))


def assign_causes(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Gives each TP, FP and FN a cause, one row each; the cause of a TP is that its mask is not exact.

    Columns: image_id, category_id, verdict ("TP", "FP", "FN"), cause (its name), gt_id, pred_id, iou.
    gt_id of an FP and pred_id of an FN are the segment that the cause pairs it with, 0 if there is none.
    iou is the IoU of a TP, the IoU that an FN would have once fixed, and NaN for an FP.
    Ties are broken by IoU, then by shared pixels, then by the order of the run's segments, never by ids.
    Raises BadDataset if a segment's category_id is not in `categories`.
    """
    key = "assign_causes", tuple(categories)
    if key not in matched.cache:
        matched.cache[key] = _find_causes(matched, categories)
    found: pd.DataFrame = matched.cache[key]
    return found


def explained_segments(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Returns each segment with its verdict (TP, FP, FN or ignored) and, for errors, the cause and the paired segment.

    They are the columns of `segment_verdicts` and two more, missing for segments that are no errors:

    cause: of the miss or false positive
    partner_id: the segment of the other map (ground truth or prediction) that the cause pairs it with, 0 if none
    """
    errors = assign_causes(matched, categories)
    wrong = errors[errors["verdict"] != "TP"]
    is_miss = (wrong["verdict"] == "FN").to_numpy()
    own = {
        "image_id": wrong["image_id"],
        "side": np.where(is_miss, "gt", "pred"),
        "id": np.where(is_miss, wrong["gt_id"], wrong["pred_id"]),
        "cause": wrong["cause"].astype(object),
        "partner_id": np.where(is_miss, wrong["pred_id"], wrong["gt_id"]),
    }
    return segment_verdicts(matched).merge(pd.DataFrame(own), how="left", on=["image_id", "side", "id"])


def _find_causes(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Applies the causes in order, each to the errors that earlier ones left; returns the table of `assign_causes`."""
    errors = _OpenErrors.of(matched, categories)
    cause = np.full(len(errors.category), -1, np.int64)
    iou_once_fixed = np.full(len(cause), np.nan)
    partner = np.full(len(cause), -1, np.int64)
    for position, kind in enumerate(CAUSES[:-1]):
        explained = kind.find_errors(errors)
        for rows, others in (
            (explained.missed, explained.missed_partner),
            (explained.wrong, explained.wrong_partner),
        ):
            cause[rows], partner[rows] = position, others
        iou_once_fixed[explained.missed] = explained.iou_once_fixed
        errors = errors.without(explained)
    assert not errors.missed.any()
    assert not errors.wrong.any()

    faulty = np.flatnonzero(cause >= 0)
    is_miss = errors.is_gt[faulty]
    own, other = errors.id[faulty], np.where(partner[faulty] < 0, VOID, errors.id[partner[faulty]])
    hits = matched.hits()
    pair = matched.pair[hits]
    verdict = np.concatenate([np.zeros(len(hits), np.int8), np.where(is_miss, IS_FN, IS_FP).astype(np.int8)])
    columns = {
        "image_id": (matched.overlaps.image_id[pair], errors.image[faulty]),
        "category_id": (matched.segments.category_id[matched.gt[hits]].astype(np.int64), errors.category[faulty]),
        "verdict": (verdict,),
        "cause": (np.full(len(hits), len(CAUSES) - 1, np.int8), cause[faulty].astype(np.int8)),
        "gt_id": (matched.overlaps.gt_id[pair].astype(np.int64), np.where(is_miss, own, other)),
        "pred_id": (matched.overlaps.pred_id[pair].astype(np.int64), np.where(is_miss, other, own)),
        "iou": (matched.iou[hits], iou_once_fixed[faulty]),
    }
    order = np.argsort(np.concatenate(columns["image_id"]), kind="stable")
    found: dict[str, Any] = {name: np.concatenate(parts)[order] for name, parts in columns.items()}
    for name, words in (("verdict", VERDICT_NAMES), ("cause", [kind.name for kind in CAUSES])):
        found[name] = pd.Categorical.from_codes(found[name], words)
    return pd.DataFrame(found)


def codes(column: pd.Series[Any], words: Sequence[str]) -> Int:
    """Returns each value of a column as its index in `words`; fast if the column is a categorical of these words."""
    known = column.dtype
    if isinstance(known, pd.CategoricalDtype) and list(known.categories) == list(words):
        return np.asarray(column.cat.codes, np.int64)
    return pd.Index(words).get_indexer(column.astype(object)).astype(np.int64)


def lost_pq(errors: pd.DataFrame, categories: Sequence[Category]) -> pd.DataFrame:
    """Returns the cost of each cause in units of PQ (0–1), for All, Things, Stuff and each category that occurs.

    errors: from `assign_causes`
    One row per cause and scope: group ("All", "Things", "Stuff", or None for a category), category_id (0 for a group),
    name, PQ, cause, gain (ΔPQ if only this cause were fixed), lost (its share of 1 − PQ), and FP, FN, TP: how many
    errors it explains; TP counts masks that are not exact. PQ, gain and lost of a group are means over its categories.
    """
    return _lost_pq_table(
        _ErrorCounts.zeros(len(categories)).with_added(_ErrorColumns.of(errors, categories)), categories
    )


def _lost_pq_table(counts: _ErrorCounts, categories: Sequence[Category]) -> pd.DataFrame:
    """Makes the table of the PQ that each cause costs (`lost_pq`) from numbers of errors by category and cause."""
    values = counts.pq_of_cause_subsets()
    parts = np.stack([values[1 << np.arange(len(CAUSES))] - values[0], _shapley(values)])
    tallies = np.stack([counts.wrong, counts.missed, counts.inexact])
    isthing = np.array([category.isthing for category in categories], np.bool_)
    members = {group: counts.present & own for group, own in in_groups(isthing).items()}
    scopes: list[tuple[str | None, int, str, Bool]] = [
        (group, 0, group, rows) for group, rows in members.items() if rows.any()
    ]
    for position in np.flatnonzero(counts.present).tolist():
        only = np.zeros(len(categories), np.bool_)
        only[position] = True
        scopes.append((None, categories[position].id, categories[position].name, only))
    # One frame for all scopes: joining a hundred small frames takes longer than computing their numbers.
    each = [rows for *_, rows in scopes]
    n = len(CAUSES)

    def for_each_cause(values: Sequence[Any], kind: Any) -> npt.NDArray[Any]:
        """Repeats a value of All, Things, Stuff and each category once per cause of error."""
        return np.repeat(np.array(values, kind), n)

    def by_scope(reduce: Callable[..., Any], table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reduces a (causes, categories) table to All, Things, Stuff and each category, by a mean or sum."""
        return np.concatenate([table[:0, 0], *(reduce(table[:, rows], axis=1) for rows in each)])

    return pd.DataFrame(
        {
            "group": for_each_cause([group for group, *_ in scopes], object),
            "category_id": for_each_cause([category_id for _, category_id, *_ in scopes], np.int64),
            "name": for_each_cause([name for _, _, name, _ in scopes], object),
            "PQ": for_each_cause([values[0, rows].mean() for rows in each], np.float64),
            "cause": [cause.name for cause in CAUSES] * len(scopes),
            "gain": by_scope(np.mean, parts[0]),
            "lost": by_scope(np.mean, parts[1]),
            **{label: by_scope(np.sum, one) for label, one in zip(("FP", "FN", "TP"), tallies, strict=True)},
        }
    )


def lost_influence(errors: pd.DataFrame, categories: Sequence[Category], images: Int) -> Float:
    """Returns how much each image adds to the PQ lost by each error cause, as (causes, images).

    errors: from `assign_causes`; images: all ids of the run, ascending
    To first order: the lost PQ, the column `lost` of All, is linear in PQs that are quotients I/W of sums over errors,
    so an error contributes (dI - PQ dW)/W to each.
    """
    columns = _ErrorColumns.of(errors, categories)
    counts = _ErrorCounts.zeros(len(categories)).with_added(columns)
    slopes = _lost_pq_slopes(counts)
    of_error = np.zeros((len(CAUSES), len(columns.category)))
    for verdict, rows in (("TP", columns.is_tp), ("FP", columns.is_fp), ("FN", columns.is_fn)):
        count, iou = (slopes[verdict][part][:, columns.cause[rows], columns.category[rows]] for part in (0, 1))
        of_error[:, rows] = count + iou * np.nan_to_num(columns.iou[rows])
    index = np.searchsorted(images, columns.image_id)
    summed = [np.bincount(index, weights=own, minlength=len(images)) for own in of_error]
    return np.stack(summed) / max(int(counts.present.sum()), 1)


def count_confusions(errors: pd.DataFrame, matched: Matched) -> pd.DataFrame:
    """Counts segments with the right mask and the wrong category, by true and predicted category.

    errors: from `assign_causes` of `matched`
    Columns: category_id, predicted (the other category's id), objects (how many); sorted by the first two.
    """
    kinds = codes(errors["cause"], [cause.name for cause in CAUSES])
    rows = errors[(codes(errors["verdict"], VERDICT_NAMES) == IS_FN) & (kinds <= 1)]
    predicted = np.flatnonzero(~matched.segments.is_gt)
    segments = matched.segments
    image, pred_id = rows["image_id"].to_numpy(np.int64), rows["pred_id"].to_numpy(np.int32)
    row = find_rows(image, pred_id, segments.image_id[predicted], segments.id[predicted])
    other = segments.category_id[predicted][row].astype(np.int64)
    (true, taken), number = numbered([rows["category_id"].to_numpy(np.int64), other])
    objects = np.bincount(number, minlength=len(true)).astype(np.int64)
    return pd.DataFrame({"category_id": true, "predicted": taken, "objects": objects})


def worst_images(errors: pd.DataFrame, categories: Sequence[Category], images: int = 10) -> pd.DataFrame:
    """Returns the images in which each cause of error costs most PQ, at most `images` per cause.

    Columns: cause, image_id, gain, FP, FN, TP.
    gain: ΔPQ of All if only this cause were fixed, in this image only. Largest first, then by image_id.
    """
    columns = _ErrorColumns.of(errors, categories)
    return _worst_images_table([columns.by_image()], _ErrorCounts.zeros(len(categories)).with_added(columns), images)


class ErrorAccumulator:
    """Computes the PQ that each cause of error costs, and where it costs most, from one chunk of images at a time.

    It is an `Accumulator`; its results are the tables of `lost_pq` and `worst_images`.
    It stores 18 bytes per image, category and cause, because the worst images depend on the final PQ.
    of_images: False stores nothing per image; `worst` is then not available
    """

    def __init__(self, categories: Sequence[Category], of_images: bool = True) -> None:
        """Starts with no errors counted."""
        self.categories = tuple(categories)
        self._of_images = of_images
        self._counts = _ErrorCounts.zeros(len(self.categories))
        self._chunks: list[pd.DataFrame] = []

    def map_chunk(self, matched: Matched) -> tuple[_ErrorColumns, pd.DataFrame | None]:
        """Finds the cause of each error in a chunk of images, and counts the errors per image and cause."""
        return self.tally(assign_causes(matched, self.categories))

    def tally(self, errors: pd.DataFrame) -> tuple[_ErrorColumns, pd.DataFrame | None]:
        """Converts the errors of a chunk of images to arrays, and counts them per image, category and cause.

        errors: from `assign_causes`
        """
        columns = _ErrorColumns.of(errors, self.categories)
        return columns, columns.by_image() if self._of_images else None

    def add(self, part: tuple[_ErrorColumns, pd.DataFrame | None]) -> None:
        """Adds the errors of a chunk of images to the totals."""
        columns, by_image = part
        self._counts = self._counts.with_added(columns)
        if by_image is not None:
            self._chunks.append(by_image)

    def lost(self) -> pd.DataFrame:
        """Returns the PQ that each cause of error costs, over all images, as the table of `lost_pq`."""
        return _lost_pq_table(self._counts, self.categories)

    def worst(self, images: int = 10) -> pd.DataFrame:
        """Returns the images in which each cause of error costs most PQ, as the table of `worst_images`."""
        return _worst_images_table(self._chunks, self._counts, images)


def _worst_images_table(chunks: Sequence[pd.DataFrame], counts: _ErrorCounts, images: int) -> pd.DataFrame:
    """Makes the table of the images in which each cause costs most PQ (`worst_images`) from errors per image.

    chunks: tables of `_ErrorColumns.by_image`; counts: of all images
    """
    tally = _largest_gains_per_cause(
        pd.concat([_worst_images_of_chunk(sums, counts, images) for sums in chunks]), images
    )
    return tally.assign(cause=np.array([cause.name for cause in CAUSES])[tally["cause"].to_numpy(np.int64)])


def _worst_images_of_chunk(sums: pd.DataFrame, counts: _ErrorCounts, images: int) -> pd.DataFrame:
    """Returns, of one chunk of images, those in which each cause of error costs most PQ.

    sums: from `_ErrorColumns.by_image`
    """
    label, cause, image, FP, FN, TP = (
        sums[name].to_numpy(np.int64) for name in ("category", "cause", "image_id", "FP", "FN", "TP")
    )
    iou_sum = counts.iou_sum[label] + sums["iou_gained"].to_numpy()
    pq = panoptic_quality(iou_sum, counts.hits[label] + FN, counts.mistakes[label] - FN - FP, empty=1.0)
    gain = (pq - counts.pq_of_cause_subsets()[0, label]) / max(int(counts.present.sum()), 1)
    (cause, image), row = numbered([cause, image])
    tally = {
        "cause": cause,
        "image_id": image.astype(sums["image_id"].dtype),
        "gain": _compensated_sums(gain, row),
        **{name: sums_by_row(row, count, len(cause)) for name, count in (("FP", FP), ("FN", FN), ("TP", TP))},
    }
    costs = tally["gain"] > 0
    return _largest_gains_per_cause(pd.DataFrame({name: column[costs] for name, column in tally.items()}), images)


def _largest_gains_per_cause(tally: pd.DataFrame, images: int) -> pd.DataFrame:
    """Selects, for each cause of error, the images where fixing it raises PQ most, at most `images`.

    tally: one row per image and cause; ties are broken by image_id
    """
    cause = tally["cause"].to_numpy()
    order = np.lexsort((tally["image_id"].to_numpy(), -tally["gain"].to_numpy(), cause))
    index = np.arange(len(order)) - np.searchsorted(cause[order], cause[order])
    return tally.iloc[order[index < images]].reset_index(drop=True)


def _compensated_sums(terms: Float, row: Int) -> Float:
    """Sums `terms` by row number, compensated for rounding as pandas does; every row number must occur."""
    return pd.Series(terms).groupby(row).sum().to_numpy(np.float64)


@dataclass(frozen=True)
class _ErrorsOfCause:
    """The misses and false positives that one cause explains, as row numbers of segments.

    missed, iou_once_fixed: misses, and the IoU of the match that the fix makes of each
    wrong: false positives
    missed_partner, wrong_partner: the segment of the other map that each is paired with, -1 for none; it need not be an
        error itself
    """

    missed: Int
    iou_once_fixed: Float
    missed_partner: Int
    wrong: Int
    wrong_partner: Int

    @staticmethod
    def misses(rows: Int) -> _ErrorsOfCause:
        """Collects missed segments of one cause; its fix turns each into a match with IoU 1."""
        return _ErrorsOfCause(rows, np.ones(len(rows)), np.full(len(rows), -1), _NO_ROWS, _NO_ROWS)

    @staticmethod
    def false_positives(rows: Int, partner: Int) -> _ErrorsOfCause:
        """Collects false positives of one cause; its fix removes them."""
        return _ErrorsOfCause(_NO_ROWS, np.zeros(0), _NO_ROWS, rows, partner)


_NO_ROWS: Int = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a ground-truth segment (no crowd) and a prediction that share pixels.

    gt, pred: their row numbers
    """

    gt: Int
    pred: Int
    pixels: Int
    iou: Float
    same_category: Bool

    def __getitem__(self, chosen: Bool | Int) -> _Pairs:
        """Selects pairs of segments by a Boolean mask or by their indices."""
        return _Pairs(*(column[chosen] for column in vars(self).values()))


@dataclass(frozen=True)
class _OpenErrors:
    """All segments, and which of them are errors that no cause explains yet.

    missed, wrong: FNs and FPs that are still open
    found, matched: ground-truth segments and predictions of TPs; unmatched: predictions of no TP
    explained: misses that an earlier cause explains
    counted: area of a ground-truth segment, pixels of a prediction without those on void
    """

    image: Int
    id: Int
    is_gt: Bool
    category: Int
    isthing: Bool
    counted: Int
    found: Bool
    matched: Bool
    unmatched: Bool
    missed: Bool
    wrong: Bool
    explained: Bool
    pairs: _Pairs

    @staticmethod
    def of(matched: Matched, categories: Sequence[Category]) -> _OpenErrors:
        """Returns all misses and false positives of a run, before any cause explains them."""
        segments, verdict, is_gt = matched.segments, matched.verdict, matched.segments.is_gt
        category = segments.category_id.astype(np.int64)
        isthing = np.array([each.isthing for each in categories], np.bool_)[positions(category, categories)]

        # Unlike PQ's pairs these include segments of different categories: a right mask may have the wrong one.
        gt, pred, pixels = matched.gt_row, matched.pred_row, matched.overlaps.pixels
        known = (gt >= 0) & (pred >= 0) & ~np.append(segments.iscrowd, False)[gt]
        gt, pred, pixels = gt[known], pred[known], pixels[known]
        counted = segments.area - matched.on_void
        order = np.argsort(gt * len(category) + pred)
        gt, pred, pixels = gt[order], pred[order], pixels[order]
        # Areas of a faulty JSON can fall short of the shared pixels: an IoU is 1 at most.
        union = np.maximum(counted[gt] + counted[pred] - pixels, pixels)
        return _OpenErrors(
            image=segments.image_id,
            id=segments.id.astype(np.int64),
            is_gt=is_gt,
            category=category,
            isthing=isthing,
            counted=counted,
            found=is_gt & (verdict == TP),
            matched=~is_gt & (verdict == TP),
            unmatched=~is_gt & (verdict != TP),
            missed=verdict == FN,
            wrong=verdict == FP,
            explained=np.zeros(len(segments), np.bool_),
            pairs=_Pairs(gt, pred, pixels, pixels / union, category[gt] == category[pred]),
        )

    def without(self, found: _ErrorsOfCause) -> _OpenErrors:
        """Returns a copy in which the errors that one cause explains are no longer open."""
        missed, wrong, explained = self.missed.copy(), self.wrong.copy(), self.explained.copy()
        missed[found.missed], explained[found.missed], wrong[found.wrong] = False, True, False
        return _OpenErrors(**{**vars(self), "missed": missed, "wrong": wrong, "explained": explained})

    def one_to_one(self, pairs: _Pairs) -> _Pairs:
        """Selects pairs by falling IoU, then shared pixels, so that each segment is in at most one."""
        order = np.lexsort((pairs.pred, pairs.gt, -pairs.pixels, -pairs.iou))
        return pairs[one_to_one(pairs.gt, pairs.pred, order)]


def _wrong_category_errors(errors: _OpenErrors, same_kind: bool) -> _ErrorsOfCause:
    """Finds objects that are predicted with the right mask but another category, and these predictions.

    same_kind: True finds a thing taken for a thing or stuff for stuff; False, one taken for the other
    """
    pairs = errors.pairs
    kinds_agree = errors.isthing[pairs.gt] == errors.isthing[pairs.pred]
    # A prediction that void or a crowd excuses is not an error, but can still explain why its object was missed.
    candidates = pairs[
        (pairs.iou > 0.5)
        & ~pairs.same_category
        & (kinds_agree == same_kind)
        & errors.missed[pairs.gt]
        & errors.unmatched[pairs.pred]
    ]
    chosen = errors.one_to_one(candidates)
    costs = errors.wrong[chosen.pred]
    return _ErrorsOfCause(chosen.gt, chosen.iou, chosen.pred, chosen.pred[costs], chosen.gt[costs])


def _merged_errors(errors: _OpenErrors) -> _ErrorsOfCause:
    """Finds merged objects: several of one category that lie in one prediction, and that prediction."""
    pairs = errors.pairs
    # More than half of an object lies in at most one prediction, so an object has one host at most.
    swallowed = pairs[
        pairs.same_category
        & errors.missed[pairs.gt]
        & (errors.wrong | errors.matched)[pairs.pred]
        & (2 * pairs.pixels > errors.counted[pairs.gt])
    ]
    objects = np.bincount(swallowed.pred, minlength=len(errors.category)) + errors.matched
    members = swallowed[objects[swallowed.pred] >= 2]
    hosts, first = np.unique(members.pred, return_index=True)
    costs = errors.wrong[hosts]
    # Where a faulty JSON states an area below the shared pixels, the IoU is 1.
    cut_iou = members.pixels / np.maximum(errors.counted[members.gt], members.pixels)
    return _ErrorsOfCause(members.gt, cut_iou, members.pred, hosts[costs], members.gt[first][costs])


def _split_errors(errors: _OpenErrors) -> _ErrorsOfCause:
    """Finds split objects, predicted in pieces that only together have an IoU above 0.5, and the pieces."""
    pairs = errors.pairs
    # More than half of a piece lies on at most one object, so a piece has one object at most.
    pieces = pairs[
        pairs.same_category
        & errors.missed[pairs.gt]
        & errors.wrong[pairs.pred]
        & (2 * pairs.pixels > errors.counted[pairs.pred])
    ]
    n = len(errors.category)
    number = np.bincount(pieces.gt, minlength=n)
    shared = np.bincount(pieces.gt, weights=pieces.pixels, minlength=n)
    joined = np.bincount(pieces.gt, weights=errors.counted[pieces.pred], minlength=n)
    union = np.maximum(errors.counted + joined - shared, np.maximum(shared, 1))
    is_split = (number >= 2) & (shared / union > 0.5)
    pieces = pieces[is_split[pieces.gt]]
    objects = np.flatnonzero(is_split)
    largest = pieces[np.lexsort((-pieces.pred, pieces.pixels))]
    partner = np.full(n, -1)
    partner[largest.gt] = largest.pred
    return _ErrorsOfCause(objects, (shared / union)[objects], partner[objects], pieces.pred, pieces.gt)


def _bad_mask_errors(errors: _OpenErrors) -> _ErrorsOfCause:
    """Finds missed objects with a poor mask of their category (IoU above 0.1, up to 0.5), and these masks."""
    pairs = errors.pairs
    near = pairs.same_category & errors.missed[pairs.gt] & errors.wrong[pairs.pred] & (pairs.iou > NEAR)
    chosen = errors.one_to_one(pairs[near])
    return _ErrorsOfCause(chosen.gt, np.ones(len(chosen.gt)), chosen.pred, chosen.pred, chosen.gt)


def _duplicate_errors(errors: _OpenErrors) -> _ErrorsOfCause:
    """Finds duplicates: false positives mostly on an object of their category that has another prediction."""
    pairs = errors.pairs
    again = pairs[
        pairs.same_category
        & (errors.found | errors.explained)[pairs.gt]
        & errors.wrong[pairs.pred]
        & (2 * pairs.pixels > errors.counted[pairs.pred])
    ]
    return _ErrorsOfCause.false_positives(again.pred, again.gt)


def _hallucinated_errors(errors: _OpenErrors) -> _ErrorsOfCause:
    """Finds hallucinations: all false positives that no earlier cause explains."""
    rows = np.flatnonzero(errors.wrong)
    return _ErrorsOfCause.false_positives(rows, np.full(len(rows), -1))


IMPERFECT_MASK = Cause(
    "imperfect mask",
    "The object is found, but its mask is not exact.",
    "Every matched mask becomes the object's: IoU 1, whichever fix made the match.",
    lambda errors: _ErrorsOfCause.misses(_NO_ROWS),
)

CAUSES: tuple[Cause, ...] = (
    Cause(
        "wrong category",
        "The mask is right (IoU > 0.5) but the category is not: one thing taken for another, or one stuff for another.",
        "The prediction takes the object's category; the match has the IoU that the masks have.",
        partial(_wrong_category_errors, same_kind=True),
    ),
    Cause(
        "thing/stuff confusion",
        "The mask is right (IoU > 0.5) but a thing is taken for stuff, or stuff for a thing.",
        "The prediction takes the object's category; the match has the IoU that the masks have.",
        partial(_wrong_category_errors, same_kind=False),
    ),
    Cause(
        "merged",
        "Several objects of one category lie in one prediction, each with more than half of its pixels.",
        "The prediction is cut along the objects: each that was missed matches its part of it.",
        _merged_errors,
    ),
    Cause(
        "split",
        "One object is predicted in several pieces: none is good enough alone (IoU ≤ 0.5), joined they are.",
        "The pieces become one prediction; the match has the IoU of their union.",
        _split_errors,
    ),
    Cause(
        "bad mask",
        "The category is right and the mask is near the object, but not near enough (IoU above 0.1, up to 0.5).",
        "The mask becomes the object's: a match with IoU 1.",
        _bad_mask_errors,
    ),
    Cause(
        "duplicate",
        "A further prediction lies on an object of its category that another prediction already accounts for.",
        "The further prediction goes.",
        _duplicate_errors,
    ),
    Cause(
        "hallucinated",
        "A prediction matches no object of its category: it should not exist.",
        "The prediction goes.",
        _hallucinated_errors,
    ),
    Cause(
        "missed",
        "No prediction matches the object.",
        "The object is found with its exact mask: a match with IoU 1.",
        lambda errors: _ErrorsOfCause.misses(np.flatnonzero(errors.missed)),
    ),
    IMPERFECT_MASK,
)
"""All causes, in the order in which they are tried. The last applies to matches, which no other cause explains."""


@dataclass(frozen=True)
class _ErrorColumns:
    """The table of `assign_causes` as numbers, one entry per TP, FP and FN.

    category, cause: indices into `categories` and CAUSES; is_fp, is_fn, is_tp: the verdict
    """

    image_id: Int
    category: Int
    cause: Int
    is_fp: Bool
    is_fn: Bool
    is_tp: Bool
    iou: Float

    @staticmethod
    def of(errors: pd.DataFrame, categories: Sequence[Category]) -> _ErrorColumns:
        """Converts the table of errors and their causes, from `assign_causes`, to arrays of numbers."""
        verdict = codes(errors["verdict"], VERDICT_NAMES)
        return _ErrorColumns(
            image_id=errors["image_id"].to_numpy(np.int64),
            category=positions(errors["category_id"].to_numpy(np.int64), categories),
            cause=codes(errors["cause"], [cause.name for cause in CAUSES]),
            is_fp=verdict == IS_FP,
            is_fn=verdict == IS_FN,
            is_tp=verdict == IS_TP,
            iou=errors["iou"].to_numpy(np.float64),
        )

    def by_image(self) -> pd.DataFrame:
        """Counts FP, FN and inexact TP, and sums the IoU to gain, by image, category and error cause.

        An inexact TP has an IoU below 1. The columns have the smallest types that hold them.
        """
        keys, row = numbered([self.image_id, self.category, self.cause])
        counts = {"FP": self.is_fp, "FN": self.is_fn, "TP": self.is_tp & (self.iou < 1)}
        columns = dict(zip(("image_id", "category", "cause"), keys, strict=True))
        columns |= {name: np.bincount(row[own], minlength=len(keys[0])) for name, own in counts.items()}
        gained = np.select([self.is_fn, self.is_tp], [self.iou, 1 - self.iou], 0.0)
        # Of a million images there are ten million rows.
        small = {name: _in_smallest_type(column) for name, column in columns.items()}
        return pd.DataFrame({**small, "iou_gained": _compensated_sums(gained, row)})


def _in_smallest_type(values: npt.NDArray[np.int64]) -> npt.NDArray[np.signedinteger[Any]]:
    """Converts integers to the smallest signed type that holds them all."""
    most = int(np.abs(values).max(initial=0))
    return values.astype(next(kind for kind in (np.int8, np.int16, np.int32, np.int64) if most <= np.iinfo(kind).max))


@dataclass(frozen=True)
class _ErrorCounts:
    """Numbers of TPs, and of the false positives and misses that each cause explains, with Σ IoU, by category.

    They suffice to compute PQ after any fixes.

    iou_sum, hits: (categories,) Σ IoU and number of TPs
    wrong, missed, inexact: (causes, categories) FPs, FNs and inexact TPs that a cause explains
    iou_regained: (causes, categories) Σ IoU of the matches that the fix makes of the FNs
    """

    iou_sum: Float
    hits: Int
    wrong: Int
    missed: Int
    inexact: Int
    iou_regained: Float

    @staticmethod
    def zeros(n: int) -> _ErrorCounts:
        """Makes counts of no images, for n categories."""
        shape = (len(CAUSES), n)
        wrong, missed, inexact = (np.zeros(shape, np.int64) for _ in range(3))
        return _ErrorCounts(np.zeros(n), np.zeros(n, np.int64), wrong, missed, inexact, np.zeros(shape))

    @property
    def mistakes(self) -> Int:
        """FP + FN, (categories,)."""
        return self.wrong.sum(axis=0) + self.missed.sum(axis=0)

    @property
    def present(self) -> Bool:
        """Where there is a TP, FP or FN, (categories,)."""
        return self.hits + self.mistakes > 0

    def with_added(self, columns: _ErrorColumns) -> _ErrorCounts:
        """Returns these error counts plus those of further images.

        IoUs are added one by one, so sums round alike however images are divided into chunks.
        """
        shape = self.wrong.shape
        cell = columns.cause * shape[1] + columns.category

        def tally(rows: Bool) -> Int:
            """Counts rows by cause and category."""
            return np.bincount(cell[rows], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

        def total_iou(before: Float, index: Int, rows: Bool) -> Float:
            """Returns the IoU sums `before` plus the IoUs of the selected rows, added one by one."""
            indices = np.concatenate([np.arange(before.size), index[rows]])
            terms = np.concatenate([before.ravel(), columns.iou[rows]])
            return np.bincount(indices, weights=terms, minlength=before.size).astype(np.float64).reshape(before.shape)

        return _ErrorCounts(
            iou_sum=total_iou(self.iou_sum, columns.category, columns.is_tp),
            hits=self.hits + tally(columns.is_tp).sum(axis=0),
            wrong=self.wrong + tally(columns.is_fp),
            missed=self.missed + tally(columns.is_fn),
            inexact=self.inexact + tally(columns.is_tp & (columns.iou < 1)),
            iou_regained=total_iou(self.iou_regained, cell, columns.is_fn),
        )

    def pq_of_cause_subsets(self) -> Float:
        """Returns PQ of each category once a set of causes is fixed, for every set: (2^causes, categories).

        Bit k of a row number tells whether CAUSES[k] is in the set.
        """
        fixed = _cause_subsets()
        regained = fixed @ self.missed
        hits = self.hits + regained
        mistakes = self.mistakes - regained - fixed @ self.wrong
        iou_sum = self.iou_sum + fixed @ self.iou_regained
        exact = fixed[:, -1:] == 1
        return panoptic_quality(np.where(exact, hits, iou_sum), hits, mistakes, empty=1.0)


def _cause_subsets() -> Float:
    """Returns every set of causes as a row of 0s and 1s, (2^causes, causes): 1 for each cause that it contains.

    Rows are in the order of `pq_of_cause_subsets`.
    """
    numbers = np.arange(1 << len(CAUSES))
    return (numbers[:, None] >> np.arange(len(CAUSES)) & 1).astype(np.float64)


def _lost_pq_slopes(counts: _ErrorCounts) -> dict[str, tuple[Float, Float]]:
    """Returns the derivatives of the PQ that each cause costs, by the numbers of TPs, FPs and FNs and by their IoU.

    By verdict: the derivatives by its count and by its Σ IoU, each (causes that cost, causes of errors, categories).
    """
    fixed = _cause_subsets()
    values = counts.pq_of_cause_subsets()
    total = counts.hits + fixed @ counts.missed + (counts.mistakes - fixed @ (counts.wrong + counts.missed)) / 2
    # A category without TP, FP and FN counts as PQ 1 whatever changes, so its slope is 0.
    share = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0.25)
    weight = _shapley(np.eye(len(fixed)))
    exact = fixed[:, -1:]

    def slope(added: Float | float, divisor: Float | float) -> Float:
        """Returns the derivative of the PQ lost by each cause from those of Σ IoU and PQ's divisor.

        added: of Σ IoU; divisor: of TP + (FP + FN)/2
        """
        return weight @ ((added - values * divisor) * share)

    def slopes_by_cause(slope_of: Callable[[Float], Float]) -> Float:
        """Calls `slope_of` for the errors of each cause, and stacks the derivatives along axis 1."""
        return np.stack([slope_of(fixed[:, k : k + 1]) for k in range(len(CAUSES))], axis=1)

    def same_for_all_causes(slope: Float) -> Float:
        """Repeats a derivative that does not depend on the error's cause, once per cause, along axis 1."""
        return np.repeat(slope[:, None], len(CAUSES), axis=1)

    return {
        "TP": (same_for_all_causes(slope(exact, 1.0)), same_for_all_causes(slope(1 - exact, 0.0))),
        "FP": (
            slopes_by_cause(lambda own: slope(0.0, (1 - own) / 2)),
            same_for_all_causes(np.zeros((len(CAUSES), values.shape[1]))),
        ),
        "FN": (
            slopes_by_cause(lambda own: slope(own * exact, own + (1 - own) / 2)),
            slopes_by_cause(lambda own: slope(own * (1 - exact), 0.0)),
        ),
    }


def _shapley(values: Float) -> Float:
    """Returns (causes, categories): how much PQ each fix adds, averaged over all orders of fixing all causes."""
    n = len(CAUSES)
    fixed = _cause_subsets()
    size = fixed.sum(axis=1).astype(np.int64)
    # Of n! orders, s! (n - 1 - s)! have exactly the s causes of a subset before this one.
    weight = np.array([math.factorial(s) * math.factorial(n - 1 - s) / math.factorial(n) for s in range(n)])
    parts = []
    for cause in range(n):
        before = np.flatnonzero(fixed[:, cause] == 0)
        added = values[before + (1 << cause)] - values[before]
        parts.append(weight[size[before]] @ added)
    return np.stack(parts)
