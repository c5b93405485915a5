"""Computes PQ, SQ and RQ from the matches of a run. [Kirillov et al. 2019, sec. 4; the same numbers as panopticapi]

metrics/matched.py has the rules of matching. Means are over the categories that have a TP, FP or FN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadDataset
from panbench.base.text import listed
from panbench.metrics.matched import FN, FP, VERDICTS, Matched, numbered, positions
from panbench.panoptic.types import Category, in_groups

if TYPE_CHECKING:
    import pandas as pd

# pandas is imported by the functions that make frames: `panbench score` prints its table without it.

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Counts = npt.NDArray[np.signedinteger[Any]]
Number = Float | Counts


def panoptic_quality(iou_sum: Number, hits: Number, mistakes: Number, empty: float = 0.0) -> Float:
    """Returns PQ = Σ IoU(TP) / (TP + FP/2 + FN/2) elementwise; `empty` where a category has no TP, FP or FN.

    iou_sum, hits, mistakes: arrays of one shape with Σ IoU, TP and FP + FN. Every PQ is computed here.
    """
    return ratio(iou_sum, hits + mistakes / 2, empty)


def ratio(part: Number, total: Number, empty: float = 0.0) -> Float:
    """Divides `part` by `total` elementwise; `empty` where `total` is 0."""
    return np.divide(part, total, out=np.full(np.shape(total), empty), where=total > 0)


def pq_sq_rq(iou_sum: Number, hits: Number, mistakes: Number) -> dict[str, Float]:
    """Returns PQ, SQ and RQ elementwise by name; 0 where the divisor is 0. Arguments as `panoptic_quality`."""
    return {
        "PQ": panoptic_quality(iou_sum, hits, mistakes),
        "SQ": ratio(iou_sum, hits),
        # RQ equals PQ with every IoU 1.
        "RQ": panoptic_quality(hits, hits, mistakes),
    }


@dataclass(frozen=True)
class Sums:
    """The sums in PQ's formula as arrays of one length: Σ IoU of the matches, and the numbers of TP, FP and FN."""

    iou_sum: Float
    TP: Counts
    FP: Counts
    FN: Counts

    @staticmethod
    def zeros(n: int) -> Sums:
        """Makes n rows (for example one per category) in which Σ IoU, TP, FP and FN are 0."""
        return Sums(np.zeros(n), *(np.zeros(n, np.int64) for _ in range(3)))

    @property
    def mistakes(self) -> Counts:
        """FP + FN of each row."""
        return self.FP + self.FN

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """True for rows with a TP, FP or FN."""
        return self.TP + self.mistakes > 0

    def scores(self) -> dict[str, Float]:
        """Returns PQ, SQ and RQ of each row; 0 where the divisor is 0, as panopticapi lists such categories."""
        return pq_sq_rq(self.iou_sum, self.TP, self.mistakes)

    def with_added(self, index: Int, iou: Float, wrong: Int, missed: Int) -> Sums:
        """Returns these sums (TP, FP, FN and Σ IoU by row) with further matches, FPs and FNs added.

        index, iou: row and IoU of each match; wrong, missed: numbers of FPs and FNs by row
        """
        n = len(self.TP)
        # bincount adds terms in their order, image by image, as panopticapi does. The sum so far is the first term.
        indices, terms = np.concatenate([np.arange(n), index]), np.concatenate([self.iou_sum, iou])
        iou_sum = np.bincount(indices, weights=terms, minlength=n).astype(np.float64)
        return Sums(iou_sum, self.TP + np.bincount(index, minlength=n), self.FP + wrong, self.FN + missed)

    def take(self, rows: npt.NDArray[Any]) -> Sums:
        """Selects rows by mask or by number."""
        return Sums(self.iou_sum[rows], self.TP[rows], self.FP[rows], self.FN[rows])

    def columns(self) -> dict[str, Number]:
        """Returns the arrays by name: TP, FP, FN, iou_sum."""
        return {"TP": self.TP, "FP": self.FP, "FN": self.FN, "iou_sum": self.iou_sum}


def segment_verdicts(matched: Matched, iou_threshold: float = 0.5) -> pd.DataFrame:
    """Returns a table with the verdict (TP, FP, …) on each segment, one row per segment, in the run's order.

    Its columns are those of `Run.segments` and three more.

    verdict: "TP", "FN" (ground truth), "FP" (prediction) or "ignored" (crowds, predictions excused by void or crowd)
    iou, matched_id: of the match; NaN and 0 without one
    """
    import pandas as pd

    segments, hits = matched.segments, matched.hits(iou_threshold)
    gt, pred = matched.gt[hits], matched.pred[hits]
    iou = np.full(len(segments), np.nan)
    matched_id = np.zeros(len(segments), np.int32)
    iou[gt] = iou[pred] = matched.iou[hits]
    matched_id[gt], matched_id[pred] = segments.id[pred], segments.id[gt]
    return pd.DataFrame(
        {
            "image_id": segments.image_id,
            "side": np.where(segments.is_gt, "gt", "pred"),
            "id": segments.id,
            "category_id": segments.category_id,
            "area": segments.area,
            "iscrowd": segments.iscrowd,
            "score": segments.score,
            "verdict": np.array(VERDICTS)[matched.judge(iou_threshold)],
            "iou": iou,
            "matched_id": matched_id,
        }
    )


class CategorySums:
    """Accumulates TP, FP, FN and Σ IoU of each category over chunks of images; `table` returns PQ by category.

    An `Accumulator`. thresholds: IoU thresholds of matches; boundary: uses the IoUs of `by_boundary`
    """

    def __init__(
        self, categories: Sequence[Category], thresholds: Sequence[float] = (0.5,), boundary: bool = False
    ) -> None:
        """Sets PQ's sums of each category to zero, for each IoU threshold."""
        self.categories = tuple(categories)
        self.thresholds = tuple(thresholds)
        self.boundary = boundary
        self._sums = [Sums.zeros(len(self.categories)) for _ in self.thresholds]

    def map_chunk(self, matched: Matched) -> list[tuple[Int, Float, Int, Int]]:
        """Returns the matches of a chunk of images and its numbers of FPs and FNs by category, at each IoU threshold.

        Of each threshold: category index and IoU of each match, FPs by category, FNs by category.
        Raises BadDataset if a segment's category is not among `categories`.
        """
        if self.boundary:
            matched = matched.by_boundary()
        return [self._count_at_iou(matched, threshold) for threshold in self.thresholds]

    def add(self, part: list[tuple[Int, Float, Int, Int]]) -> None:
        """Adds the TP, FP, FN and Σ IoU of a chunk of images to those of the chunks before."""
        for index, (sums, (hits, iou, wrong, missed)) in enumerate(zip(self._sums, part, strict=True)):
            self._sums[index] = sums.with_added(hits, iou, wrong, missed)

    def table(self, iou_threshold: float = 0.5) -> pd.DataFrame:
        """Returns PQ, SQ and RQ by category over all images added, as the table of `pq_table`."""
        import pandas as pd

        sums = self._sums[self.thresholds.index(iou_threshold)]
        return pd.DataFrame(
            {
                "category_id": np.array([category.id for category in self.categories], np.int64),
                "name": [category.name for category in self.categories],
                "isthing": np.array([category.isthing for category in self.categories], np.bool_),
                "supercategory": [category.supercategory for category in self.categories],
                **sums.scores(),
                **sums.columns(),
            }
        )

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Returns mean PQ, SQ and RQ of all, thing and stuff categories over all images added.

        At the first IoU threshold, in the form of `summarise`.
        """
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        return means_of_groups(self._sums[0].scores(), self._sums[0].counted, isthing)

    def _count_at_iou(self, matched: Matched, threshold: float) -> tuple[Int, Float, Int, Int]:
        """Returns the matches of a chunk of images and its numbers of FPs and FNs by category, at one IoU threshold.

        Namely category index and IoU of each match, FPs by category, FNs by category.
        """
        hits = matched.hits(threshold)
        verdict = matched.verdict if threshold == 0.5 else matched.judge(threshold)
        category_id = matched.segments.category_id
        of_hits, missed, wrong = category_id[matched.gt[hits]], category_id[verdict == FN], category_id[verdict == FP]
        counted = np.unique(np.concatenate([of_hits, missed, wrong])).tolist()
        if unknown := sorted(set(counted) - {category.id for category in self.categories}):
            raise BadDataset(f"Segments have category ids that are not among the categories: {listed(unknown)}.")
        n = len(self.categories)
        return (
            positions(of_hits, self.categories),
            matched.iou[hits],
            np.bincount(positions(wrong, self.categories), minlength=n),
            np.bincount(positions(missed, self.categories), minlength=n),
        )


def pq_table(matched: Matched, categories: Sequence[Category], iou_threshold: float = 0.5) -> pd.DataFrame:
    """Returns PQ, SQ and RQ by category, one row each in the order of `categories`.

    PQ = Σ IoU(TP) / (TP + FP/2 + FN/2) = SQ · RQ. Columns: category_id, name, isthing, supercategory, PQ, SQ, RQ (0–1),
    TP, FP, FN, iou_sum. A category without TP, FP and FN has zeros, as in panopticapi; means leave it out.
    For boundary PQ pass `matched.by_boundary()`.
    Raises BadDataset if a segment's category is not in `categories`.
    """
    return matched.accumulate(CategorySums(categories, [iou_threshold])).table(iou_threshold)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """Averages a `pq_table`: returns `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …}`, 0–1.

    n counts the categories with a TP, FP or FN; the others are left out. Without any, PQ, SQ and RQ are None.
    """
    counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
    scores = {name: table[name].to_numpy(dtype=float) for name in ("PQ", "SQ", "RQ")}
    return means_of_groups(scores, counted, table["isthing"].to_numpy(dtype=bool))


def means_of_groups(
    scores: Mapping[str, Float], counted: npt.NDArray[np.bool_], isthing: npt.NDArray[np.bool_]
) -> dict[str, dict[str, float | int | None]]:
    """Averages PQ, SQ and RQ over all categories, thing categories and stuff categories.

    Returns the dictionary of `summarise`. counted: True for the categories to average over; isthing: True for things
    """
    members = {group: counted & own for group, own in in_groups(isthing).items()}
    return {
        group: {**{name: mean_of(values[rows]) for name, values in scores.items()}, "n": int(rows.sum())}
        for group, rows in members.items()
    }


def per_image_statistics(matched: Matched, iou_threshold: float = 0.5) -> pd.DataFrame:
    """Returns TP, FP, FN and iou_sum by image_id and category_id, without rows of zeros.

    PQ of any set of images follows from sums of these rows. Ordered by image_id, then category_id.
    """
    import pandas as pd

    image_id, category_id, sums = image_sums(matched, iou_threshold)
    counts = {"iou_sum": sums.iou_sum, "TP": sums.TP, "FP": sums.FP, "FN": sums.FN}
    return pd.DataFrame({"image_id": image_id, "category_id": category_id, **counts})


def scores_of_images(matched: Matched) -> pd.DataFrame:
    """Returns PQ of each single image, with iou_sum, TP, FP and FN, by ascending image_id.

    PQ is the mean over the categories that have a TP, FP or FN in the image; NaN if none has.
    """
    counts = per_image_statistics(matched)
    iou_sum, TP, FP, FN = (counts[name].to_numpy() for name in ("iou_sum", "TP", "FP", "FN"))
    return (
        counts.assign(PQ=panoptic_quality(iou_sum, TP, FP + FN))
        .groupby("image_id")
        .agg({"PQ": "mean", "iou_sum": "sum", "TP": "sum", "FP": "sum", "FN": "sum"})
        .reindex(matched.image_ids)
        .fillna({"iou_sum": 0.0, "TP": 0, "FP": 0, "FN": 0})
        .astype({"TP": np.int64, "FP": np.int64, "FN": np.int64})
        .rename_axis("image_id")
        .reset_index()
    )


class ImageAccumulator:
    """Collects PQ of each single image from chunks of images; `table` returns it as one table.

    An `Accumulator` of `scores_of_images`.
    """

    def __init__(self) -> None:
        """Starts without any image's PQ."""
        self._parts: list[pd.DataFrame] = []

    def map_chunk(self, matched: Matched) -> pd.DataFrame:
        """Returns a table with PQ of each image of a chunk."""
        return scores_of_images(matched)

    def add(self, part: pd.DataFrame) -> None:
        """Stores a table with PQ of each image of a chunk."""
        self._parts.append(part)

    def table(self) -> pd.DataFrame:
        """Returns a table with PQ of each image added, by ascending image id."""
        import pandas as pd

        return pd.concat(self._parts, ignore_index=True).sort_values("image_id", kind="stable", ignore_index=True)


def image_sums(matched: Matched, iou_threshold: float = 0.5) -> tuple[Int, Int, Sums]:
    """Returns image ids, category ids and `Sums`: one entry per category that an image has, ascending."""
    key = "image_sums", iou_threshold
    if key not in matched.cache:
        matched.cache[key] = _sum_per_image(matched, iou_threshold)
    found: tuple[Int, Int, Sums] = matched.cache[key]
    return found


def _sum_per_image(matched: Matched, iou_threshold: float) -> tuple[Int, Int, Sums]:
    """Computes Σ IoU, TP, FP and FN of each (image, category) pair; returns image ids, category ids and these sums.

    `image_sums` caches them.
    """
    hits = matched.hits(iou_threshold)
    verdict = matched.verdict if iou_threshold == 0.5 else matched.judge(iou_threshold)
    missed, wrong = np.flatnonzero(verdict == FN), np.flatnonzero(verdict == FP)
    rows = np.concatenate([matched.gt[hits], wrong, missed])
    keys = [matched.segments.image_id[rows], matched.segments.category_id[rows].astype(np.int64)]
    (image_id, category_id), group = numbered(keys)
    n = len(image_id)
    of_hits, of_wrong, of_missed = np.split(group, np.cumsum([len(hits), len(wrong)]))
    sums = Sums(
        np.bincount(of_hits, weights=matched.iou[hits], minlength=n).astype(np.float64),
        np.bincount(of_hits, minlength=n),
        np.bincount(of_wrong, minlength=n),
        np.bincount(of_missed, minlength=n),
    )
    return image_id, category_id, sums


def mean_of(values: Float) -> float | None:
    """Returns the mean of an array; None if it is empty."""
    # Adds from left to right as panopticapi does; np.sum adds pairwise, which rounds differently.
    return float(np.add.accumulate(values)[-1] / len(values)) if len(values) else None
