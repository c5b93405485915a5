"""Why PQ is lost: every false positive, every miss and every imperfect mask has one cause, and every cause has a price.

In TIDE's spirit [Bolya et al. 2020] a cause is what a fix would mend: `CAUSES` lists them in the order in which they
may claim errors, each with the sentence that users read, the fix that defines it, and the function that finds its
errors. An error belongs to the first cause that claims it, so causes are a partition.

What a fix does to the counts of a category, whose PQ is Σ IoU / (TP + FP/2 + FN/2):
    a false positive goes                  FP − 1
    a miss becomes a match with IoU r      FN − 1, TP + 1, Σ IoU + r
    masks become exact                     Σ IoU = TP
Fixes of different causes touch different errors, so any set of them can be applied together; with all, Σ IoU = TP and
FP = FN = 0, so PQ is 1. A category that only had false positives is empty once they are gone: it counts as 1, so the
means stay over the same categories and the gain of All is the mean of its categories' gains. (A category that no longer
occurs would drop out of panopticapi's mean instead; where each category is in the ground truth, there is no
difference.)

Two prices, both in units of PQ:
    gain   ΔPQ if this cause alone were fixed. Gains need not add up: a fix may need another, or do what another does.
    lost   The cause's part of 1 − PQ, its Shapley value: what its fix adds, averaged over all orders of fixing all
           causes. Parts add up to 1 − PQ, no order is privileged, a cause without errors has 0. [Shapley 1953]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.matched import FN, FP, TP, Matched, numbered, one_to_one, positions
from panbench.metrics.pq import panoptic_quality
from panbench.panoptic.overlap import find_rows, sums_by_row
from panbench.panoptic.types import VOID, Category, in_groups

__all__ = [
    "CAUSES",
    "IMPERFECT_MASK",
    "Cause",
    "ErrorFold",
    "ErrorReport",
    "assign_causes",
    "codes",
    "explain",
    "lost_influence",
    "lost_pq",
    "mistaken",
    "worst_images",
]

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

VERDICT_NAMES = ("TP", "FP", "FN")
IS_TP, IS_FP, IS_FN = range(3)

NEAR = 0.1
"""Above this IoU a prediction of the right category is an object's bad mask, not a hallucination; TIDE's threshold."""


@dataclass(frozen=True)
class Cause:
    """A reason why PQ is lost. `description` is shown to users as it is; `fix` says what "had it been right" means."""

    name: str
    description: str
    fix: str
    claim: Callable[[_OpenErrors], _Claim]


@dataclass(frozen=True)
class ErrorReport:
    """Everything that `panbench errors` shows. errors: `assign_causes`; lost: `lost_pq`; worst: `worst_images`."""

    errors: pd.DataFrame
    lost: pd.DataFrame
    worst: pd.DataFrame


def explain(matched: Matched, categories: Sequence[Category], images: int = 10) -> ErrorReport:
    """The causes of all errors, what they cost, and for each cause the `images` images where it costs most."""
    errors = assign_causes(matched, categories)
    return ErrorReport(errors, lost_pq(errors, categories), worst_images(errors, categories, images))


def assign_causes(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """One row for each TP, FP and FN, with its cause; a TP's error is what its IoU lacks of 1.

    Columns: image_id, category_id, verdict ("TP", "FP", "FN"), cause (its name), gt_id, pred_id, iou. Of an FP gt_id,
    and of an FN pred_id, is the segment that the cause pairs it with, 0 where there is none; iou is a TP's own, and
    what an FN's would be once fixed; NaN for an FP.
    Ties are broken by IoU, then by shared pixels, then by the order of the run's segments, never by ids.
    Raises BadDataset when a segment's category_id is not in `categories`.
    """
    asked = "assign_causes", tuple(categories)
    if asked not in matched.answers:
        matched.answers[asked] = _assigned(matched, categories)
    found: pd.DataFrame = matched.answers[asked]
    return found


def _assigned(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    errors = _OpenErrors.of(matched, categories)
    cause = np.full(len(errors.category), -1, np.int64)
    iou_once_fixed = np.full(len(cause), np.nan)
    partner = np.full(len(cause), -1, np.int64)
    for position, kind in enumerate(CAUSES[:-1]):
        claim = kind.claim(errors)
        for rows, others in ((claim.missed, claim.missed_partner), (claim.wrong, claim.wrong_partner)):
            cause[rows], partner[rows] = position, others
        iou_once_fixed[claim.missed] = claim.iou_once_fixed
        errors = errors.without(claim)
    assert not errors.missed.any()
    assert not errors.wrong.any()

    claimed = np.flatnonzero(cause >= 0)
    is_miss = errors.is_gt[claimed]
    own, other = errors.id[claimed], np.where(partner[claimed] < 0, VOID, errors.id[partner[claimed]])
    hits = matched.hits()
    pair = matched.pair[hits]
    verdict = np.concatenate([np.zeros(len(hits), np.int8), np.where(is_miss, IS_FN, IS_FP).astype(np.int8)])
    columns = {
        "image_id": (matched.overlaps.image_id[pair], errors.image[claimed]),
        "category_id": (matched.segments.category_id[matched.gt[hits]].astype(np.int64), errors.category[claimed]),
        "verdict": (verdict,),
        "cause": (np.full(len(hits), len(CAUSES) - 1, np.int8), cause[claimed].astype(np.int8)),
        "gt_id": (matched.overlaps.gt_id[pair].astype(np.int64), np.where(is_miss, own, other)),
        "pred_id": (matched.overlaps.pred_id[pair].astype(np.int64), np.where(is_miss, other, own)),
        "iou": (matched.iou[hits], iou_once_fixed[claimed]),
    }
    order = np.argsort(np.concatenate(columns["image_id"]), kind="stable")
    found: dict[str, Any] = {name: np.concatenate(parts)[order] for name, parts in columns.items()}
    for name, words in (("verdict", VERDICT_NAMES), ("cause", [kind.name for kind in CAUSES])):
        found[name] = pd.Categorical.from_codes(found[name], words)
    return pd.DataFrame(found)


def codes(column: pd.Series[Any], words: Sequence[str]) -> Int:
    """The position of each value in `words`; a look at each text is what takes time."""
    known = column.dtype
    if isinstance(known, pd.CategoricalDtype) and list(known.categories) == list(words):
        return np.asarray(column.cat.codes, np.int64)
    return pd.Index(words).get_indexer(column.astype(object)).astype(np.int64)


def lost_pq(errors: pd.DataFrame, categories: Sequence[Category]) -> pd.DataFrame:
    """What each cause costs, in units of PQ (0–1), for All, Things, Stuff and each category that has a TP, FP or FN.

    errors: from `assign_causes`
    One row a cause and scope: group ("All", "Things", "Stuff", or None for a category), category_id (0 for a group),
    name, PQ, cause, gain (ΔPQ if this cause alone were fixed), lost (its part of 1 − PQ), FP, FN, TP (errors it
    explains; TP counts masks that are not exact). A group's PQ, gain and lost are the means of its categories'.
    """
    return _lost(_Counts.zeros(len(categories)).and_also(_Atoms.of(errors, categories)), categories)


def _lost(counts: _Counts, categories: Sequence[Category]) -> pd.DataFrame:
    values = counts.pq_of_each_subset()
    parts = np.stack([_gain(values), _shapley(values)])
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
    # One frame of all scopes: a hundred small ones to be joined take longer than all the numbers in them.
    each = [rows for *_, rows in scopes]
    n = len(CAUSES)

    def column(values: Sequence[Any], kind: Any) -> npt.NDArray[Any]:
        return np.repeat(np.array(values, kind), n)

    def of_causes(reduce: Callable[..., Any], table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([table[:0, 0], *(reduce(table[:, rows], axis=1) for rows in each)])

    return pd.DataFrame(
        {
            "group": column([group for group, *_ in scopes], object),
            "category_id": column([category_id for _, category_id, *_ in scopes], np.int64),
            "name": column([name for _, _, name, _ in scopes], object),
            "PQ": column([values[0, rows].mean() for rows in each], np.float64),
            "cause": [cause.name for cause in CAUSES] * len(scopes),
            "gain": of_causes(np.mean, parts[0]),
            "lost": of_causes(np.mean, parts[1]),
            **{label: of_causes(np.sum, one) for label, one in zip(("FP", "FN", "TP"), tallies, strict=True)},
        }
    )


def lost_influence(errors: pd.DataFrame, categories: Sequence[Category], images: Int) -> Float:
    """(causes, images): how far `lost` of All rests on each image: to first order what it would be less without it.

    errors: from `assign_causes`; images: all ids of the run, ascending. Every PQ that `lost` is made of is a
    quotient I/W of sums over errors, so an error adds (dI - PQ dW)/W to it; `_shapley` is linear in these.
    """
    atoms = _Atoms.of(errors, categories)
    counts = _Counts.zeros(len(categories)).and_also(atoms)
    slopes = _slopes(counts)
    of_error = np.zeros((len(CAUSES), len(atoms.category)))
    for verdict, rows in (("TP", atoms.found), ("FP", atoms.wrong), ("FN", atoms.missed)):
        count, iou = (slopes[verdict][part][:, atoms.cause[rows], atoms.category[rows]] for part in (0, 1))
        of_error[:, rows] = count + iou * np.nan_to_num(atoms.iou[rows])
    place = np.searchsorted(images, atoms.image_id)
    summed = [np.bincount(place, weights=own, minlength=len(images)) for own in of_error]
    return np.stack(summed) / max(int(counts.present.sum()), 1)


def mistaken(errors: pd.DataFrame, matched: Matched) -> pd.DataFrame:
    """How many segments were found with the right mask and the wrong category: category_id, predicted, objects.

    errors: from `assign_causes` of `matched`. Ordered by category_id and predicted, ids of categories.
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
    """For each cause the images where it costs most: cause, image_id, gain, FP, FN, TP; at most `images` a cause.

    gain: ΔPQ of All if this cause alone were fixed in this image alone. Greatest first, then by image_id.
    """
    atoms = _Atoms.of(errors, categories)
    return _worst([atoms.by_image()], _Counts.zeros(len(categories)).and_also(atoms), images)


class ErrorFold:
    """`lost_pq` and `worst_images` of images that come block by block; a `Fold`.

    It keeps 18 bytes for each image, category and cause: the worst images are only known once PQ is. of_images: False
    keeps none, for those who ask for `lost` alone
    """

    def __init__(self, categories: Sequence[Category], of_images: bool = True) -> None:
        self.categories = tuple(categories)
        self._of_images = of_images
        self._counts = _Counts.zeros(len(self.categories))
        self._blocks: list[pd.DataFrame] = []

    def look(self, matched: Matched) -> tuple[_Atoms, pd.DataFrame | None]:
        """The errors of a block, with their causes."""
        return self.tally(assign_causes(matched, self.categories))

    def tally(self, errors: pd.DataFrame) -> tuple[_Atoms, pd.DataFrame | None]:
        """`look` of a block whose errors have their causes already."""
        atoms = _Atoms.of(errors, self.categories)
        return atoms, atoms.by_image() if self._of_images else None

    def add(self, part: tuple[_Atoms, pd.DataFrame | None]) -> None:
        """Counts the errors of a block."""
        atoms, by_image = part
        self._counts = self._counts.and_also(atoms)
        if by_image is not None:
            self._blocks.append(by_image)

    def lost(self) -> pd.DataFrame:
        """`lost_pq` of all that was added."""
        return _lost(self._counts, self.categories)

    def worst(self, images: int = 10) -> pd.DataFrame:
        """`worst_images` of all that was added."""
        return _worst(self._blocks, self._counts, images)


def _worst(blocks: Sequence[pd.DataFrame], counts: _Counts, images: int) -> pd.DataFrame:
    tally = _first_of_causes(pd.concat([_costliest(sums, counts, images) for sums in blocks]), images)
    return tally.assign(cause=np.array([cause.name for cause in CAUSES])[tally["cause"].to_numpy(np.int64)])


def _costliest(sums: pd.DataFrame, counts: _Counts, images: int) -> pd.DataFrame:
    """The images of a block in which each cause costs most (`_Atoms.by_image`)."""
    label, cause, image, FP, FN, TP = (
        sums[name].to_numpy(np.int64) for name in ("category", "cause", "image_id", "FP", "FN", "TP")
    )
    iou_sum = counts.iou_sum[label] + sums["iou_gained"].to_numpy()
    pq = panoptic_quality(iou_sum, counts.hits[label] + FN, counts.mistakes[label] - FN - FP, empty=1.0)
    gain = (pq - counts.pq_of_each_subset()[0, label]) / max(int(counts.present.sum()), 1)
    (cause, image), row = numbered([cause, image])
    tally = {
        "cause": cause,
        "image_id": image.astype(sums["image_id"].dtype),
        "gain": _compensated_sums(gain, row),
        **{name: sums_by_row(row, count, len(cause)) for name, count in (("FP", FP), ("FN", FN), ("TP", TP))},
    }
    costs = tally["gain"] > 0
    return _first_of_causes(pd.DataFrame({name: column[costs] for name, column in tally.items()}), images)


def _first_of_causes(tally: pd.DataFrame, images: int) -> pd.DataFrame:
    """The rows with the greatest gain of each cause, then by image_id; at most so many of each."""
    cause = tally["cause"].to_numpy()
    order = np.lexsort((tally["image_id"].to_numpy(), -tally["gain"].to_numpy(), cause))
    place = np.arange(len(order)) - np.searchsorted(cause[order], cause[order])
    return tally.iloc[order[place < images]].reset_index(drop=True)


def _compensated_sums(terms: Float, row: Int) -> Float:
    """The sum of the terms of each row, every one of which has a term, compensated for rounding as pandas adds."""
    return pd.Series(terms).groupby(row).sum().to_numpy(np.float64)


@dataclass(frozen=True)
class _Claim:
    """Rows of the segments that a cause explains: misses, with the IoU of the match that the fix makes, and false
    positives.

    Partners are rows on the other side, -1 for none. A partner need not be an error itself.
    """

    missed: Int
    iou_once_fixed: Float
    missed_partner: Int
    wrong: Int
    wrong_partner: Int

    @staticmethod
    def misses(rows: Int) -> _Claim:
        """Misses that nothing on the other side explains; the fix finds each with its exact mask."""
        return _Claim(rows, np.ones(len(rows)), np.full(len(rows), -1), _NONE, _NONE)

    @staticmethod
    def false_positives(rows: Int, partner: Int) -> _Claim:
        """Predictions that the fix takes away."""
        return _Claim(_NONE, np.zeros(0), _NONE, rows, partner)


_NONE: Int = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a ground-truth segment (no crowd) and a prediction that share pixels; `gt` and `pred` are their rows."""

    gt: Int
    pred: Int
    pixels: Int
    iou: Float
    same_category: Bool

    def __getitem__(self, chosen: Bool | Int) -> _Pairs:
        sides, shared = (self.gt[chosen], self.pred[chosen]), (self.pixels[chosen], self.iou[chosen])
        return _Pairs(*sides, *shared, self.same_category[chosen])


@dataclass(frozen=True)
class _OpenErrors:
    """The segments of all images and which of their errors no cause has claimed yet.

    missed, wrong: the open FNs and FPs; found, matched: ground-truth segments and predictions of TPs; claimed: misses
    that an earlier cause explains; counted: pixels of a prediction without those on void, area of a ground-truth
    segment
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
    claimed: Bool
    pairs: _Pairs

    @staticmethod
    def of(matched: Matched, categories: Sequence[Category]) -> _OpenErrors:
        segments, verdict, is_gt = matched.segments, matched.verdict, matched.segments.is_gt
        category = segments.category_id.astype(np.int64)
        isthing = np.array([each.isthing for each in categories], np.bool_)[positions(category, categories)]

        # Of all categories, other than PQ's pairs: a right mask may have the wrong one.
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
            claimed=np.zeros(len(segments), np.bool_),
            pairs=_Pairs(gt, pred, pixels, pixels / union, category[gt] == category[pred]),
        )

    def without(self, claim: _Claim) -> _OpenErrors:
        """The errors that are still open once a claim is granted."""
        missed, wrong, claimed = self.missed.copy(), self.wrong.copy(), self.claimed.copy()
        missed[claim.missed], claimed[claim.missed], wrong[claim.wrong] = False, True, False
        return _OpenErrors(**{**vars(self), "missed": missed, "wrong": wrong, "claimed": claimed})

    @property
    def same_category(self) -> Bool:
        """Whether both sides of each pair have the same category."""
        return self.pairs.same_category

    def one_to_one(self, pairs: _Pairs) -> _Pairs:
        """Greedy matching: the pairs kept when the best is taken repeatedly, each segment at most once."""
        order = np.lexsort((pairs.pred, pairs.gt, -pairs.pixels, -pairs.iou))
        return pairs[one_to_one(pairs.gt, pairs.pred, order)]


def _right_mask(errors: _OpenErrors, same_kind: bool) -> _Claim:
    pairs = errors.pairs
    kinds_agree = errors.isthing[pairs.gt] == errors.isthing[pairs.pred]
    # A prediction that void or a crowd excuses is no error, but its category can still be what its object was missed
    # for.
    candidates = pairs[
        (pairs.iou > 0.5)
        & ~errors.same_category
        & (kinds_agree == same_kind)
        & errors.missed[pairs.gt]
        & errors.unmatched[pairs.pred]
    ]
    chosen = errors.one_to_one(candidates)
    costs = errors.wrong[chosen.pred]
    return _Claim(chosen.gt, chosen.iou, chosen.pred, chosen.pred[costs], chosen.gt[costs])


def _wrong_category(errors: _OpenErrors) -> _Claim:
    return _right_mask(errors, same_kind=True)


def _wrong_kind(errors: _OpenErrors) -> _Claim:
    return _right_mask(errors, same_kind=False)


def _merged(errors: _OpenErrors) -> _Claim:
    pairs = errors.pairs
    # More than half of an object lies in at most one prediction, so an object has one host at most.
    swallowed = pairs[
        errors.same_category
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
    return _Claim(members.gt, cut_iou, members.pred, hosts[costs], members.gt[first][costs])


def _split(errors: _OpenErrors) -> _Claim:
    pairs = errors.pairs
    # More than half of a piece lies on at most one object, so a piece has one object at most.
    pieces = pairs[
        errors.same_category
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
    return _Claim(objects, (shared / union)[objects], partner[objects], pieces.pred, pieces.gt)


def _bad_mask(errors: _OpenErrors) -> _Claim:
    pairs = errors.pairs
    near = errors.same_category & errors.missed[pairs.gt] & errors.wrong[pairs.pred] & (pairs.iou > NEAR)
    chosen = errors.one_to_one(pairs[near])
    return _Claim(chosen.gt, np.ones(len(chosen.gt)), chosen.pred, chosen.pred, chosen.gt)


def _duplicate(errors: _OpenErrors) -> _Claim:
    pairs = errors.pairs
    again = pairs[
        errors.same_category
        & (errors.found | errors.claimed)[pairs.gt]
        & errors.wrong[pairs.pred]
        & (2 * pairs.pixels > errors.counted[pairs.pred])
    ]
    return _Claim.false_positives(again.pred, again.gt)


def _hallucinated(errors: _OpenErrors) -> _Claim:
    rows = np.flatnonzero(errors.wrong)
    return _Claim.false_positives(rows, np.full(len(rows), -1))


def _missed(errors: _OpenErrors) -> _Claim:
    return _Claim.misses(np.flatnonzero(errors.missed))


def _nothing(errors: _OpenErrors) -> _Claim:
    return _Claim.misses(_NONE)


IMPERFECT_MASK = Cause(
    "imperfect mask",
    "The object is found, but its mask is not exact.",
    "Every matched mask becomes the object's: IoU 1, whichever fix made the match.",
    _nothing,
)

CAUSES: tuple[Cause, ...] = (
    Cause(
        "wrong category",
        "The mask is right (IoU > 0.5) but the category is not: one thing taken for another, or one stuff for another.",
        "The prediction takes the object's category; the match has the IoU that the masks have.",
        _wrong_category,
    ),
    Cause(
        "thing/stuff confusion",
        "The mask is right (IoU > 0.5) but a thing is taken for stuff, or stuff for a thing.",
        "The prediction takes the object's category; the match has the IoU that the masks have.",
        _wrong_kind,
    ),
    Cause(
        "merged",
        "Several objects of one category lie in one prediction, each with more than half of its pixels.",
        "The prediction is cut along the objects: each that was missed matches its part of it.",
        _merged,
    ),
    Cause(
        "split",
        "One object is predicted in several pieces: none is good enough alone (IoU ≤ 0.5), joined they are.",
        "The pieces become one prediction; the match has the IoU of their union.",
        _split,
    ),
    Cause(
        "bad mask",
        "The category is right and the mask is near the object, but not near enough (IoU above 0.1, up to 0.5).",
        "The mask becomes the object's: a match with IoU 1.",
        _bad_mask,
    ),
    Cause(
        "duplicate",
        "A further prediction lies on an object of its category that another prediction already accounts for.",
        "The further prediction goes.",
        _duplicate,
    ),
    Cause(
        "hallucinated",
        "A prediction stands for no object of its category: it should not be there.",
        "The prediction goes.",
        _hallucinated,
    ),
    Cause(
        "missed",
        "No prediction stands for the object.",
        "The object is found with its exact mask: a match with IoU 1.",
        _missed,
    ),
    IMPERFECT_MASK,
)
"""All causes, in the order in which they claim errors. The last is the error of matches, which no other claims."""


@dataclass(frozen=True)
class _Atoms:
    """Each TP, FP and FN as numbers; `category` and `cause` are positions in `categories` and CAUSES."""

    image_id: Int
    category: Int
    cause: Int
    wrong: Bool
    missed: Bool
    found: Bool
    iou: Float

    @staticmethod
    def of(errors: pd.DataFrame, categories: Sequence[Category]) -> _Atoms:
        verdict = codes(errors["verdict"], VERDICT_NAMES)
        return _Atoms(
            image_id=errors["image_id"].to_numpy(np.int64),
            category=positions(errors["category_id"].to_numpy(np.int64), categories),
            cause=codes(errors["cause"], [cause.name for cause in CAUSES]),
            wrong=verdict == IS_FP,
            missed=verdict == IS_FN,
            found=verdict == IS_TP,
            iou=errors["iou"].to_numpy(np.float64),
        )

    def by_image(self) -> pd.DataFrame:
        """For each image, category and cause: FP, FN, TP (whose masks are not exact), iou_gained; in small types."""
        keys, row = numbered([self.image_id, self.category, self.cause])
        counts = {"FP": self.wrong, "FN": self.missed, "TP": self.found & (self.iou < 1)}
        columns = dict(zip(("image_id", "category", "cause"), keys, strict=True))
        columns |= {name: np.bincount(row[own], minlength=len(keys[0])) for name, own in counts.items()}
        gained = np.select([self.missed, self.found], [self.iou, 1 - self.iou], 0.0)
        # Of a million images there are ten million rows.
        small = {name: _small(column) for name, column in columns.items()}
        return pd.DataFrame({**small, "iou_gained": _compensated_sums(gained, row)})


def _small(values: npt.NDArray[np.int64]) -> npt.NDArray[np.signedinteger[Any]]:
    """Whole numbers in the smallest type that holds them."""
    most = int(np.abs(values).max(initial=0))
    return values.astype(next(kind for kind in (np.int8, np.int16, np.int32, np.int64) if most <= np.iinfo(kind).max))


@dataclass(frozen=True)
class _Counts:
    """PQ's sums by category, and by cause and category what the fix of a cause changes in them.

    hits: (categories,) TPs; iou_sum: (categories,) their IoUs
    wrong, missed, inexact, iou_regained: (causes, categories): FPs and FNs of the cause, TPs that are not exact, and
        the IoU of the matches that the fix makes of the FNs
    """

    iou_sum: Float
    hits: Int
    wrong: Int
    missed: Int
    inexact: Int
    iou_regained: Float

    @staticmethod
    def zeros(n: int) -> _Counts:
        shape = (len(CAUSES), n)
        wrong, missed, inexact = (np.zeros(shape, np.int64) for _ in range(3))
        return _Counts(np.zeros(n), np.zeros(n, np.int64), wrong, missed, inexact, np.zeros(shape))

    @property
    def mistakes(self) -> Int:
        """(categories,) FP + FN."""
        return self.wrong.sum(axis=0) + self.missed.sum(axis=0)

    @property
    def present(self) -> Bool:
        """(categories,) where there is a TP, FP or FN."""
        return self.hits + self.mistakes > 0

    def and_also(self, atoms: _Atoms) -> _Counts:
        """The sums with those of further images, which go on where these end, term by term."""
        shape = self.wrong.shape
        cell = atoms.cause * shape[1] + atoms.category

        def tally(rows: Bool) -> Int:
            return np.bincount(cell[rows], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

        def total_iou(before: Float, place: Int, rows: Bool) -> Float:
            places = np.concatenate([np.arange(before.size), place[rows]])
            terms = np.concatenate([before.ravel(), atoms.iou[rows]])
            return np.bincount(places, weights=terms, minlength=before.size).astype(np.float64).reshape(before.shape)

        return _Counts(
            iou_sum=total_iou(self.iou_sum, atoms.category, atoms.found),
            hits=self.hits + tally(atoms.found).sum(axis=0),
            wrong=self.wrong + tally(atoms.wrong),
            missed=self.missed + tally(atoms.missed),
            inexact=self.inexact + tally(atoms.found & (atoms.iou < 1)),
            iou_regained=total_iou(self.iou_regained, cell, atoms.missed),
        )

    def pq_of_each_subset(self) -> Float:
        """(2^causes, categories) PQ once a subset of causes is fixed; bit k of a row's number stands for CAUSES[k]."""
        fixed = _subsets()
        regained = fixed @ self.missed
        hits = self.hits + regained
        mistakes = self.mistakes - regained - fixed @ self.wrong
        iou_sum = self.iou_sum + fixed @ self.iou_regained
        exact = fixed[:, -1:] == 1
        return panoptic_quality(np.where(exact, hits, iou_sum), hits, mistakes, empty=1.0)


def _subsets() -> Float:
    """(2^causes, causes) 1 where a subset holds a cause."""
    numbers = np.arange(1 << len(CAUSES))
    return (numbers[:, None] >> np.arange(len(CAUSES)) & 1).astype(np.float64)


def _slopes(counts: _Counts) -> dict[str, tuple[Float, Float]]:
    """Slopes for each verdict (lost, causes, categories): how `lost` changes per error of a cause, and per IoU."""
    fixed = _subsets()
    values = counts.pq_of_each_subset()
    whole = counts.hits + fixed @ counts.missed + (counts.mistakes - fixed @ (counts.wrong + counts.missed)) / 2
    # A category of which nothing is left counts as 1, whatever else is done to it.
    share = np.divide(1.0, whole, out=np.zeros_like(whole), where=whole > 0.25)
    weight = _shapley(np.eye(len(fixed)))
    exact = fixed[:, -1:]

    def slope(added: Float | float, divisor: Float | float) -> Float:
        return weight @ ((added - values * divisor) * share)

    def of_each(slope_of: Callable[[Float], Float]) -> Float:
        return np.stack([slope_of(fixed[:, k : k + 1]) for k in range(len(CAUSES))], axis=1)

    def of_any(slope: Float) -> Float:
        return np.repeat(slope[:, None], len(CAUSES), axis=1)

    return {
        "TP": (of_any(slope(exact, 1.0)), of_any(slope(1 - exact, 0.0))),
        "FP": (of_each(lambda own: slope(0.0, (1 - own) / 2)), of_any(np.zeros((len(CAUSES), values.shape[1])))),
        "FN": (
            of_each(lambda own: slope(own * exact, own + (1 - own) / 2)),
            of_each(lambda own: slope(own * (1 - exact), 0.0)),
        ),
    }


def _gain(values: Float) -> Float:
    """(causes, categories) what each cause's fix adds by itself."""
    return values[1 << np.arange(len(CAUSES))] - values[0]


def _shapley(values: Float) -> Float:
    """(causes, categories) what each cause's fix adds, averaged over all orders of fixing all causes."""
    n = len(CAUSES)
    fixed = _subsets()
    size = fixed.sum(axis=1).astype(np.int64)
    # Of n! orders, s! (n - 1 - s)! have exactly the s causes of a subset before this one.
    weight = np.array([math.factorial(s) * math.factorial(n - 1 - s) / math.factorial(n) for s in range(n)])
    parts = []
    for cause in range(n):
        before = np.flatnonzero(fixed[:, cause] == 0)
        added = values[before + (1 << cause)] - values[before]
        parts.append(weight[size[before]] @ added)
    return np.stack(parts)
