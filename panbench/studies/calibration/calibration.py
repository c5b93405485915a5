"""Calibration: does a segment that the model is 90 % sure of turn out right nine times in ten?

A prediction is right when it is a true positive of PQ (its category, IoU > 0.5). Predictions that void or a crowd
excuses are neither right nor wrong and are left out. Only segments that fusion let through are judged: the scores of
those that it dropped are not in a stored run. [Guo et al. 2017; Naeini et al. 2015]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadRun
from panbench.metrics.matched import FP, TP, Matched, positions
from panbench.panoptic.types import Category, in_groups

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

BINS = 10
"""Bins of equal width between 0 and 1, as Guo et al. have them for ECE."""
# 0, 0.1 … 1, each the float nearest to its decimal, which `linspace` does not give.
EDGES = np.arange(BINS + 1) / BINS

PRECISION = 0.9
"""The default precision for which the threshold is computed."""

_Z = 1.959963984540054  # normal quantile of a 95 % interval


@dataclass(frozen=True)
class Calibration:
    """The calibration of a run: the scores of predictions against the share of them that is right.

    curve: group ("All", "Things", "Stuff"), low, high (edges of the bin), segments, score (their mean), precision,
        precision_low, precision_high (Wilson's 95 % interval); a bin without segments has none of them (NaN)
    scopes: one row per group and per category: group (None for a category), category_id (0 for a group), name,
        segments, right, score, precision, ECE, threshold, kept; ECE = Σ bin's share · |precision − score|. threshold:
        the lowest score at or above which at least `target` of the segments are right; kept: the share of all right
        ones that it keeps; both NaN if no score reaches the target
    unscored: predictions without a score, which are left out
    """

    curve: pd.DataFrame
    scopes: pd.DataFrame
    target: float
    unscored: int


def calibration(matched: Matched, categories: Sequence[Category], target: float = PRECISION) -> Calibration:
    """Returns the calibration of a run's segment scores. Raises BadRun when none has a score, or one is outside 0–1."""
    score, right, category, unscored = _scored_predictions(matched, categories)
    isthing = np.array([one.isthing for one in categories], np.bool_)[category]
    groups = in_groups(isthing)
    curve = pd.concat(
        [reliability(score[rows], right[rows]).assign(group=name) for name, rows in groups.items()], ignore_index=True
    )
    rows: list[dict[str, object]] = [
        {"group": name, "category_id": 0, "name": name, **_calibration_of(score[own], right[own], target)}
        for name, own in groups.items()
    ]
    rows += [
        {"group": None, "category_id": one.id, "name": one.name, **_calibration_of(score[own], right[own], target)}
        for index, one in enumerate(categories)
        if (own := category == index).any()
    ]
    columns = ["group", "low", "high", "segments", "score", "precision", "precision_low", "precision_high"]
    return Calibration(curve[columns], pd.DataFrame(rows), target, unscored)


def reliability(score: Float, right: Bool) -> pd.DataFrame:
    """Computes the bins of a reliability diagram: low, high, segments, score, precision and its 95 % interval.

    score: (N,) 0–1; right: (N,) whether each is a true positive
    """
    n, hits, mean, precision = _bin_statistics(score, right)
    with np.errstate(invalid="ignore"):
        middle = (hits + _Z**2 / 2) / (n + _Z**2)
        half = _Z / (n + _Z**2) * np.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return pd.DataFrame(
        {
            "low": EDGES[:-1],
            "high": EDGES[1:],
            "segments": n,
            "score": mean,
            "precision": precision,
            "precision_low": middle - half,
            "precision_high": middle + half,
        }
    )


def _bin_statistics(score: Float, right: Bool) -> tuple[npt.NDArray[np.int64], Float, Float, Float]:
    """Returns for each bin of scores: segments, right segments, mean score, share of right ones (NaN if empty)."""
    # A score on an edge belongs to the bin above, 1 to the last. Scores are stored as float32, where 0.7 is below
    # float64's 0.7: edges are rounded to float32 too, or a score of exactly 0.7 would fall one bin too low.
    edges = EDGES.astype(np.float32)
    index = np.minimum(np.searchsorted(edges, score.astype(np.float32), side="right") - 1, BINS - 1)
    n = np.bincount(index, minlength=BINS)
    hits = np.asarray(np.bincount(index, weights=right, minlength=BINS), np.float64)
    with np.errstate(invalid="ignore"):
        return n, hits, np.bincount(index, weights=score, minlength=BINS) / n, hits / n


def _scored_predictions(
    matched: Matched, categories: Sequence[Category]
) -> tuple[Float, Bool, npt.NDArray[np.int64], int]:
    """Selects the predictions that are right or wrong and have a score.

    Returns of each its score, whether it is right, and the index of its category; then the number without a score.
    """
    segments, verdict = matched.segments, matched.verdict
    judged = ~segments.is_gt & ((verdict == TP) | (verdict == FP))
    known = judged & ~np.isnan(segments.score)
    if not known.any():
        raise BadRun(
            "its predictions have no scores, so nothing can be said of their calibration. `panbench eval` stores them; "
            "`panbench score` takes `score` from the segments_info of the predictions' JSON."
        )
    score = segments.score[known].astype(np.float64)
    if (score < 0).any() or (score > 1).any():
        raise BadRun(
            f"it has scores from {score.min():g} to {score.max():g}; calibration is of scores between 0 and 1."
        )
    return score, verdict[known] == TP, positions(segments.category_id[known], categories), int((judged & ~known).sum())


def _calibration_of(score: Float, right: Bool, target: float) -> dict[str, float | int]:
    """Computes the mean score, precision, calibration error (ECE) and score threshold of some predictions.

    The keys are columns of `Calibration.scopes`.
    """
    n = len(score)
    if not n:
        nothing = dict.fromkeys(("score", "precision", "ECE", "threshold", "kept"), np.nan)
        return {"segments": 0, "right": 0, **nothing}
    in_bin, _, mean, precision = _bin_statistics(score, right)
    held = in_bin > 0
    error = float((in_bin[held] * np.abs(precision[held] - mean[held])).sum() / n)
    threshold, share = _score_for_accuracy(score, right, target)
    return {
        "segments": n,
        "right": int(right.sum()),
        "score": float(score.mean()),
        "precision": float(right.mean()),
        "ECE": error,
        "threshold": threshold,
        "kept": share,
    }


def _score_for_accuracy(score: Float, right: Bool, target: float) -> tuple[float, float]:
    """Returns the lowest score from which on `target` of the segments are right, and the share of right ones kept."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(right[order])
    # Segments of equal score are kept or dropped together: only the last of them can be a cut.
    last = np.append(score[order][1:] != score[order][:-1], True)
    # 14 of 25 reach 56 %, although 0.56 · 25 is a little more than 14 in binary.
    needed = target * np.arange(1, len(score) + 1)
    enough = np.flatnonzero(last & (hits >= needed * (1 - 1e-12)))
    if not len(enough):
        return np.nan, np.nan
    return float(score[order][enough[-1]]), float(hits[enough[-1]] / max(1, right.sum()))
