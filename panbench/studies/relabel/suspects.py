"""Finds suspect labels: where several models agree with each other and not with the ground truth.

A *consensus* is one segment of each of more than half of the models, all of one category, each two with IoU > 0.5 of
their masks: independent answers that agree. Where the truth differs, either all models make the
same error or the label is wrong. Predictions alone cannot decide which, so a person has to check the list, sorted by

    score = share · (agreement − IoU) · trust

share: the share of all pairs of models that agree
agreement: the mean IoU of their masks with each other
IoU: the mean IoU of their masks with the truth's segment of that category, 0 where there is none: the difference says
    how much closer the models are to each other than to the truth
trust: how often, elsewhere in the same data, the truth confirms a consensus of that category and size

The last factor ranks systematic errors of models lower: if all take small stars for balls, few consensuses on balls are
confirmed. It is the idea of confident learning [Northcutt et al. 2021], with agreement in place of probabilities.
A segment that all models miss without a consensus in its place has the score alike · trust: the share of its pixels
that all models give to one other category, and how often segments of its category and size are found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.matched import FN, TP, Matched
from panbench.panoptic.overlap import Pairs, find_rows
from panbench.panoptic.types import VOID

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

NEAR = 0.1
"""Above this IoU a segment counts as the misplaced label of a consensus; below, the object counts as unlabelled."""


@dataclass(frozen=True)
class SuspectKind:
    """A kind of suspected labelling error; users see `description` unchanged."""

    name: str
    description: str


KINDS = (
    SuspectKind("renamed", "Models find the segment and give it another category: the same one."),
    SuspectKind("merged", "Models find several objects of this category in the segment."),
    SuspectKind("split", "Models find one object where the truth has several segments of its category."),
    SuspectKind("misplaced", "Models find the object elsewhere, or much larger or smaller (IoU of 0.1 to 0.5)."),
    SuspectKind("unlabelled", "Models find an object that the truth does not have."),
    SuspectKind("unseen", "No model finds the segment, and all give its pixels to the same other category."),
    SuspectKind("outline", "Models find the segment with the same mask, and it is not the truth's (IoU above 0.5)."),
)
"""The kinds of suspicion, in the order in which they claim a segment."""

_ORDER = {kind.name: index for index, kind in enumerate(KINDS)}
COLUMNS = (
    *("image_id", "kind", "score", "category_id", "segment_id", "suggested_id", "share", "agreement", "iou", "trust"),
    *("pixels", "answers", "other"),
)


def suspect_labels(
    matched: Sequence[Matched],
    among: Mapping[tuple[int, int], Pairs],
    other: Sequence[Matched] = (),
    between: Matched | None = None,
) -> pd.DataFrame:
    """Returns a ground truth's suspect labels by falling score: one row per segment or missing object.

    The columns are COLUMNS.
    matched: the models' matches with this truth; other: their matches with another truth of the same images, if any
    between: the matches of the other truth, as a prediction, with this truth
    among: for models (i, j), i < j, the pairs of their segments that share pixels (gt_id is i's, pred_id j's)
    kind: a name of KINDS; category_id: the label's (of an unlabelled object 0); suggested_id: the models' category
    segment_id: the label's; for an unlabelled object the segment that covers most of it, 0 for none
    share, agreement, iou, trust: the factors of the score; for "unseen", agreement is the share called alike
    pixels: the mean area of the models' segments, or the area of the unseen segment
    answers: the id of each model's segment, 0 for none
    other: "label" if the other truth has the same label, "models" if it has the models' segment, else ""
    """
    consensus = _Consensus.of(matched, among)
    rows = pd.concat([_suspects_by_consensus(matched, consensus), _unseen_segments(matched)], ignore_index=True)
    # A segment is listed once, with its highest score; its kind is the first that fits in the order of KINDS.
    labelled = rows["kind"] != "unlabelled"
    named = rows[labelled].assign(order=rows["kind"].map(_ORDER))
    named = named.sort_values(["order", "score"], ascending=[True, False], kind="stable")
    named["score"] = named.groupby(["image_id", "segment_id"])["score"].transform("max")
    named = named.drop_duplicates(["image_id", "segment_id"]).drop(columns="order")
    rows = pd.concat([named, rows[~labelled]], ignore_index=True)
    rows = rows[rows["score"] > 0]
    rows["other"] = "" if between is None else _confirmed_by_other(rows, other, between)
    order = ["score", "image_id", "segment_id"]
    return rows.sort_values(order, ascending=[False, True, True], kind="stable", ignore_index=True)[list(COLUMNS)]


@dataclass(frozen=True)
class _Consensus:
    """The objects on which most models agree: for each object, one segment per model.

    There are N objects and M models.
    members: (N, M) the row of each model's segment, -1 for none; the other fields: (N,)
    """

    image: Int
    category: Int
    members: Int
    share: Float
    agreement: Float
    pixels: Float

    @staticmethod
    def of(matched: Sequence[Matched], among: Mapping[tuple[int, int], Pairs]) -> "_Consensus":
        """Groups each segment of the first model with its matches in the others, then the rest of the second …"""
        n = len(matched)
        alike = {pair: _agreeing_pairs(matched[pair[0]], matched[pair[1]], pairs) for pair, pairs in among.items()}
        taken = [side.segments.is_gt.copy() for side in matched]
        found: list[tuple[Int, Float]] = []
        for first in range(n):
            seeds = np.flatnonzero(~taken[first])
            members = np.full((len(seeds), n), -1, np.int64)
            members[:, first] = seeds
            agreement = np.zeros(len(seeds))
            for j in range(first + 1, n):
                partner = np.full(len(taken[first]), -1, np.int64)
                own, their, _ = alike[first, j]
                partner[own] = their
                members[:, j] = partner[seeds]
                # Every two members must agree, not only each with the first.
                ious = [
                    _iou_of_pairs(alike[i, j], len(taken[j]), members[:, i], members[:, j]) for i in range(first, j)
                ]
                apart = np.any([(iou == 0) & (members[:, first + i] >= 0) for i, iou in enumerate(ious)], axis=0)
                members[apart, j] = -1
                agreement += np.where(apart, 0.0, np.sum(ious, axis=0))
            chosen = 2 * (members >= 0).sum(axis=1) > n
            for j in range(n):
                rows = members[chosen, j]
                taken[j][rows[rows >= 0]] = True
            found.append((members[chosen], agreement[chosen]))
        members = np.concatenate([rows for rows, _ in found])
        counted = (members >= 0).sum(axis=1)
        agreeing = counted * (counted - 1) // 2
        agreement = np.concatenate([values for _, values in found]) / np.maximum(agreeing, 1)
        if n == 1:  # a single model agrees with itself
            agreement, agreeing = np.ones(len(members)), np.ones(len(members), np.int64)
        image, category, pixels = (np.zeros(len(members)) for _ in range(3))
        for j, side in enumerate(matched):
            has = members[:, j] >= 0
            rows = members[has, j]
            image[has], category[has] = side.segments.image_id[rows], side.segments.category_id[rows]
            pixels[has] += side.segments.area[rows]
        return _Consensus(
            image.astype(np.int64),
            category.astype(np.int64),
            members,
            agreeing / max(len(among), 1),
            agreement,
            pixels / np.maximum(counted, 1),
        )


def _iou_of_pairs(pairs: tuple[Int, Int, Float], width: int, one: Int, other: Int) -> Float:
    """Looks up the IoU of each pair of rows (one, other); 0 for pairs that are not listed and for row -1."""
    keys = pairs[0] * (width + 1) + pairs[1]
    order = np.argsort(keys)
    needed = np.where((one < 0) | (other < 0), -1, one * (width + 1) + other)
    index = np.minimum(np.searchsorted(keys[order], needed), max(len(keys) - 1, 0))
    if not len(keys):
        return np.zeros(len(needed))
    return np.where(keys[order][index] == needed, pairs[2][order][index], 0.0)


def _agreeing_pairs(one: Matched, other: Matched, pairs: Pairs) -> tuple[Int, Int, Float]:
    """Returns the pairs of two models' segments with one category and IoU > 0.5: both rows, and the IoU."""
    sides = []
    for matched, ids in ((one, pairs.gt_id), (other, pairs.pred_id)):
        own = np.flatnonzero(~matched.segments.is_gt)
        segments = matched.segments
        found = find_rows(pairs.image_id, ids, segments.image_id[own], segments.id[own])
        sides.append(np.where(found >= 0, np.append(own, -1)[found], -1))
    a, b = sides
    known = (a >= 0) & (b >= 0)
    a, b, pixels = a[known], b[known], pairs.pixels[known]
    iou = pixels / (one.segments.area[a] + other.segments.area[b] - pixels)
    chosen = (iou > 0.5) & (one.segments.category_id[a] == other.segments.category_id[b])
    return a[chosen], b[chosen], iou[chosen]


def _consensus_vs_truth(matched: Sequence[Matched], members: Int) -> pd.DataFrame:
    """Computes the mean IoU of agreeing models' segments (a consensus) with each true segment they overlap, no crowds.

    Columns: consensus, gt (index among the true segments), iou, inside (share of the members' pixels), covered (share
    of the true segment's pixels). As in PQ, pixels on void do not count.
    """
    tables = []
    for index, side in enumerate(matched):
        number = np.full(len(side.segments), -1, np.int64)
        own = members[:, index] >= 0
        number[members[own, index]] = np.flatnonzero(own)
        gt, pred, pixels = side.gt_row, side.pred_row, side.overlaps.pixels
        known = (gt >= 0) & (pred >= 0)
        known[known] &= (number[pred[known]] >= 0) & ~side.segments.iscrowd[gt[known]]
        gt, pred, pixels = gt[known], pred[known], pixels[known]
        counted = np.maximum(side.segments.area[pred] - side.on_void[pred], 1)
        union = np.maximum(counted + side.segments.area[gt] - pixels, pixels)
        tables.append(
            pd.DataFrame(
                {
                    "consensus": number[pred],
                    # Row numbers differ between tables; indices among the truth's segments do not.
                    "gt": np.cumsum(side.segments.is_gt)[gt] - 1,
                    "iou": pixels / union,
                    "inside": pixels / counted,
                    "covered": pixels / np.maximum(side.segments.area[gt], 1),
                }
            )
        )
    sums = pd.concat(tables).groupby(["consensus", "gt"], as_index=False).sum()
    answers = (members >= 0).sum(axis=1)[sums["consensus"]]
    return sums.assign(**{name: sums[name] / answers for name in ("iou", "inside", "covered")})


def _suspects_by_consensus(matched: Sequence[Matched], consensus: _Consensus) -> pd.DataFrame:
    """Returns the objects on which most models agree but the truth differs, with kind and score, as a table.

    Its columns are those of `suspect_labels`.
    """
    truth = np.flatnonzero(matched[0].segments.is_gt)
    segments = matched[0].segments
    met = _consensus_vs_truth(matched, consensus.members)
    met["same"] = segments.category_id[truth][met["gt"]] == consensus.category[met["consensus"]]
    n = len(consensus.image)

    def best_true_segments(table: pd.DataFrame, column: str) -> tuple[Int, Float]:
        """Finds the best true segment for each object that models agree on, by a column such as IoU (-1: none)."""
        top = table.sort_values(column, ascending=False, kind="stable").drop_duplicates("consensus")
        which, value = np.full(n, -1, np.int64), np.zeros(n)
        which[top["consensus"]], value[top["consensus"]] = top["gt"], top[column]
        return which, value

    same, other = met[met["same"]], met[~met["same"]]
    own, iou = best_true_segments(same, "iou")
    renamed, iou_other = best_true_segments(other, "iou")
    host, inside = best_true_segments(same, "inside")
    behind, _ = best_true_segments(met, "inside")
    parts = np.bincount(same.loc[same["covered"] > 0.5, "consensus"], minlength=n)
    # A true segment holds several objects when several consensuses lie in it.
    lies_in = np.where(inside > 0.5, host, -1)
    several = np.bincount(lies_in[lies_in >= 0], minlength=len(truth)) > 1
    in_several = (lies_in >= 0) & np.append(several, False)[lies_in]

    kind = np.full(n, "unlabelled", dtype=object)
    about = behind.copy()
    for name, which, target in (
        ("misplaced", (iou > NEAR) | (inside > 0.5), np.where(iou > NEAR, own, host)),
        ("split", parts > 1, own),
        ("renamed", iou_other > 0.5, renamed),
        ("outline", iou > 0.5, own),
        ("merged", in_several, lies_in),
    ):
        kind[which], about[which] = name, target[which]
    trust = _rate_by_category_and_size(consensus.category, consensus.pixels, iou > 0.5)
    score = consensus.share * np.maximum(consensus.agreement - iou, 0.0) * trust
    # Void and crowds of the truth say nothing of single objects: consensuses there are no suspects.
    on_void_or_crowd = np.any(
        [np.append(side.excused, False)[consensus.members[:, k]] for k, side in enumerate(matched)], axis=0
    )
    ids = np.append(segments.id[truth], VOID)[about]
    labels = np.append(segments.category_id[truth], 0)[about]
    answers = [np.append(side.segments.id, VOID)[consensus.members[:, index]] for index, side in enumerate(matched)]
    table = pd.DataFrame(
        {
            "image_id": consensus.image,
            "kind": kind,
            "score": score,
            "category_id": np.where(kind == "unlabelled", 0, labels),
            "segment_id": ids,
            "suggested_id": consensus.category,
            "share": consensus.share,
            "agreement": consensus.agreement,
            "iou": iou,
            "trust": trust,
            "pixels": consensus.pixels,
            "answers": list(zip(*(column.tolist() for column in answers), strict=True)) if n else [],
        }
    )
    return table[~on_void_or_crowd]


def _unseen_segments(matched: Sequence[Matched]) -> pd.DataFrame:
    """Returns the true segments that no model matches although all give most of their pixels to one other category."""
    truth = np.flatnonzero(matched[0].segments.is_gt)
    segments = matched[0].segments
    category, area = segments.category_id[truth].astype(np.int64), segments.area[truth]
    missed = np.all([side.verdict[side.segments.is_gt] == FN for side in matched], axis=0)
    tables = []
    for side in matched:
        known = (side.gt_row >= 0) & (side.pred_row >= 0)
        gt = np.cumsum(side.segments.is_gt)[side.gt_row[known]] - 1
        given = side.segments.category_id[side.pred_row[known]]
        share = side.overlaps.pixels[known] / np.maximum(area[gt], 1)
        tables.append(pd.DataFrame({"gt": gt, "given": given, "share": share}).groupby(["gt", "given"]).sum())
    shares = pd.concat(tables, axis=1, join="inner").min(axis=1).rename("share").reset_index()
    shares = shares[shares["given"].to_numpy() != category[shares["gt"]]]
    top = shares.sort_values("share", ascending=False, kind="stable").drop_duplicates("gt")
    alike, given = np.zeros(len(truth)), np.zeros(len(truth), np.int64)
    alike[top["gt"]], given[top["gt"]] = top["share"], top["given"]
    countable = ~segments.iscrowd[truth]
    trust = np.zeros(len(truth))
    trust[countable] = _rate_by_category_and_size(
        category[countable], area[countable].astype(np.float64), ~missed[countable]
    )
    rows = missed & (alike > 0.5)
    return pd.DataFrame(
        {
            "image_id": segments.image_id[truth][rows],
            "kind": "unseen",
            "score": (alike * trust)[rows],
            "category_id": category[rows],
            "segment_id": segments.id[truth][rows],
            "suggested_id": given[rows],
            "share": 1.0,
            "agreement": alike[rows],
            "iou": 0.0,
            "trust": trust[rows],
            "pixels": area[rows].astype(np.float64),
            "answers": [() for _ in range(int(rows.sum()))],
        }
    )


def _rate_by_category_and_size(category: Int, pixels: Float, holds: npt.NDArray[np.bool_]) -> Float:
    """Returns for each segment the share of True flags among segments of its category and size tercile, smoothed.

    If k of n rows hold, it is (k + 1) / (n + 2), never 0 or 1.
    A row counts towards its own rate: among a hundred it changes little, and among a few the rate is near 0.5 anyway.
    """
    if not len(category):
        return np.zeros(0)
    rank = pd.Series(pixels).groupby(category).rank(method="first", pct=True)
    third = np.minimum((3 * rank.to_numpy()).astype(np.int64), 2)
    table = pd.DataFrame({"category": category, "third": third, "holds": holds})
    groups = table.groupby(["category", "third"])["holds"]
    return ((groups.transform("sum") + 1) / (groups.transform("count") + 2)).to_numpy(np.float64)


def _confirmed_by_other(rows: pd.DataFrame, other: Sequence[Matched], between: Matched) -> list[str]:
    """Tells whether the other ground truth supports each suspicious "label", the "models" instead, or neither ("")."""
    label_stands = _segment_keys(between, between.segments.is_gt & (between.verdict == TP))
    found = [_segment_keys(side, ~side.segments.is_gt & (side.verdict == TP)) for side in other]
    text = []
    for row in rows.itertuples():
        is_label = row.kind != "unlabelled" and (row.image_id, row.segment_id) in label_stands
        answers = zip(row.answers, found, strict=False)
        agree = all((row.image_id, answer) in own for answer, own in answers if answer) and row.kind != "unseen"
        agree |= row.kind == "unseen" and not is_label
        # Both can be true if masks differ little: then the other truth does not call the label wrong.
        text.append("label" if is_label else "models" if agree else "")
    return text


def _segment_keys(matched: Matched, rows: npt.NDArray[np.bool_]) -> set[tuple[int, int]]:
    """Returns (image id, segment id) of each selected segment."""
    segments = matched.segments
    return set(zip(segments.image_id[rows].tolist(), segments.id[rows].tolist(), strict=True))
