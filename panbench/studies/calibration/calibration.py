"""Calibration: does a segment that the model is 90 % sure of turn out right nine times in ten?

A prediction is right when it is a true positive of PQ (its category, IoU > 0.5). Predictions that void or a crowd
excuses are neither right nor wrong and are left out. What is judged are the segments that fusion let through: a score
that kept a segment out is not in a stored run. [Guo et al. 2017; Naeini et al. 2015]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadRun
from panbench.metrics.matched import FP, TP, Matched, positions
from panbench.panoptic.types import Category, in_groups

__all__ = ["BINS", "PRECISION", "Calibration", "calibration", "reliability"]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

BINS = 10
"""Bins of equal width between 0 and 1, as Guo et al. have them for ECE."""

PRECISION = 0.9
"""What share of the segments above the threshold that is asked for shall be right."""

_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Calibration:
    """How well the scores of a run's predictions match how often they are right.

    curve: group ("All", "Things", "Stuff"), low, high (edges of the bin), segments, score (their mean), precision,
        precision_low, precision_high (Wilson's 95 % interval); a bin without segments has none of them (NaN)
    scopes: one row a group and a category: group (None for a category), category_id (0 for a group), name, segments,
        right, score, precision, ECE, threshold, kept; ECE = Σ bin's share · |precision − score|. threshold: the lowest
        score such that of the segments at or above it at least `target` are right; kept: the share of all right ones
        that it keeps; both NaN where no score reaches that
    unscored: predictions without a score, which are left out
    """

    curve: pd.DataFrame
    scopes: pd.DataFrame
    target: float
    unscored: int


def calibration(matched: Matched, categories: Sequence[Category], target: float = PRECISION) -> Calibration:
    """The calibration of a run's segment scores. Raises BadRun when none has a score, or one is outside 0–1."""
    score, right, category, unscored = _judged(matched, categories)
    isthing = np.array([one.isthing for one in categories], np.bool_)[category]
    groups = in_groups(isthing)
    curve = pd.concat(
        [reliability(score[rows], right[rows]).assign(group=name) for name, rows in groups.items()], ignore_index=True
    )
    rows: list[dict[str, object]] = [
        {"group": name, "category_id": 0, "name": name, **_scope(score[own], right[own], target)}
        for name, own in groups.items()
    ]
    rows += [
        {"group": None, "category_id": one.id, "name": one.name, **_scope(score[own], right[own], target)}
        for place, one in enumerate(categories)
        if (own := category == place).any()
    ]
    columns = ["group", "low", "high", "segments", "score", "precision", "precision_low", "precision_high"]
    return Calibration(curve[columns], pd.DataFrame(rows), target, unscored)


def reliability(score: Float, right: Bool) -> pd.DataFrame:
    """The bins of a reliability diagram: low, high, segments, score, precision, precision_low, precision_high."""
    edges = _edges()
    n, hits, mean, precision = _binned(score, right)
    with np.errstate(invalid="ignore"):
        middle = (hits + _Z**2 / 2) / (n + _Z**2)
        half = _Z / (n + _Z**2) * np.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "segments": n,
            "score": mean,
            "precision": precision,
            "precision_low": middle - half,
            "precision_high": middle + half,
        }
    )


def _edges() -> Float:
    """0, 0.1 … 1, each the number nearest to its decimal, which `linspace` does not give."""
    return np.arange(BINS + 1) / BINS


def _binned(score: Float, right: Bool) -> tuple[npt.NDArray[np.int64], Float, Float, Float]:
    """Segments, right segments, mean score and share of right ones in each bin; NaN if empty."""
    # The bin above each edge, 1 in the last one. Scores are stored as float32, in which 0.7 lies below 0.7 of float64:
    # edges are rounded as they are, or a score of exactly 0.7 falls one bin low.
    edges = _edges().astype(np.float32)
    place = np.minimum(np.searchsorted(edges, score.astype(np.float32), side="right") - 1, BINS - 1)
    n = np.bincount(place, minlength=BINS)
    hits = np.asarray(np.bincount(place, weights=right, minlength=BINS), np.float64)
    with np.errstate(invalid="ignore"):
        return n, hits, np.bincount(place, weights=score, minlength=BINS) / n, hits / n


def _judged(matched: Matched, categories: Sequence[Category]) -> tuple[Float, Bool, npt.NDArray[np.int64], int]:
    """Score, whether it is right, and position of the category, of each prediction that is right or wrong."""
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


def _scope(score: Float, right: Bool, target: float) -> dict[str, float | int]:
    n = len(score)
    if not n:
        nothing = dict.fromkeys(("score", "precision", "ECE", "threshold", "kept"), np.nan)
        return {"segments": 0, "right": 0, **nothing}
    of_bin, _, mean, precision = _binned(score, right)
    held = of_bin > 0
    error = float((of_bin[held] * np.abs(precision[held] - mean[held])).sum() / n)
    threshold, kept = _threshold(score, right, target)
    return {
        "segments": n,
        "right": int(right.sum()),
        "score": float(score.mean()),
        "precision": float(right.mean()),
        "ECE": error,
        "threshold": threshold,
        "kept": kept,
    }


def _threshold(score: Float, right: Bool, target: float) -> tuple[float, float]:
    """The lowest score at or above which at least `target` are right, and what share of the right ones that keeps."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(right[order])
    # Segments of one score go together: only the last of them ends a set.
    last = np.append(score[order][1:] != score[order][:-1], True)
    # 14 of 25 reach 56 %, although 0.56 · 25 is a little more than 14 in binary.
    wanted = target * np.arange(1, len(score) + 1)
    enough = np.flatnonzero(last & (hits >= wanted * (1 - 1e-12)))
    if not len(enough):
        return np.nan, np.nan
    return float(score[order][enough[-1]]), float(hits[enough[-1]] / max(1, right.sum()))
