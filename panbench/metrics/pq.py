"""Panoptic quality as sums over the matches of a run. [Kirillov et al. 2019, sec. 4; the same numbers as panopticapi]

metrics/matched.py has the rules of matching. Means run over the categories that have a TP, FP or FN.
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

__all__ = [
    "CategorySums",
    "Sums",
    "match_segments",
    "means_of_groups",
    "panoptic_quality",
    "per_image_statistics",
    "pq_table",
    "ratio",
    "segment_verdicts",
    "summarise",
]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Counts = npt.NDArray[np.signedinteger[Any]]
Number = Float | Counts


def panoptic_quality(iou_sum: Number, hits: Number, mistakes: Number, empty: float = 0.0) -> Float:
    """PQ = Σ IoU(TP) / (TP + FP/2 + FN/2), of arrays of one shape; `empty` where there is no TP, FP or FN.

    hits: TP; mistakes: FP + FN. All that PQ is asked for (categories, slices, fixes) is sums put in here.
    """
    return ratio(iou_sum, hits + mistakes / 2, empty)


def ratio(part: Number, whole: Number, empty: float = 0.0) -> Float:
    """part / whole, and `empty` where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), empty), where=whole > 0)


@dataclass(frozen=True)
class Sums:
    """What PQ is made of: columns of Σ IoU of the matches, and the numbers of TP, FP and FN."""

    iou_sum: Float
    TP: Counts
    FP: Counts
    FN: Counts

    @staticmethod
    def zeros(n: int) -> Sums:
        """n rows of zeros."""
        return Sums(np.zeros(n), *(np.zeros(n, np.int64) for _ in range(3)))

    @property
    def mistakes(self) -> Counts:
        """FP + FN."""
        return self.FP + self.FN

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether there is a TP, FP or FN."""
        return self.TP + self.mistakes > 0

    def scores(self) -> dict[str, Float]:
        """PQ, SQ and RQ; zeros where there is nothing to divide, as panopticapi lists such categories."""
        return {
            "PQ": panoptic_quality(self.iou_sum, self.TP, self.mistakes),
            "SQ": ratio(self.iou_sum, self.TP),
            # RQ is the PQ of matches that are all exact.
            "RQ": panoptic_quality(self.TP, self.TP, self.mistakes),
        }

    def and_also(self, place: Int, iou: Float, wrong: Int, missed: Int) -> Sums:
        """The sums with further matches, given as rows and IoUs, and further FPs and FNs of each row."""
        n = len(self.TP)
        # bincount adds in the order of its terms, image by image, as panopticapi does; the sum so far comes first.
        places, terms = np.concatenate([np.arange(n), place]), np.concatenate([self.iou_sum, iou])
        iou_sum = np.bincount(places, weights=terms, minlength=n).astype(np.float64)
        return Sums(iou_sum, self.TP + np.bincount(place, minlength=n), self.FP + wrong, self.FN + missed)

    def take(self, rows: npt.NDArray[Any]) -> Sums:
        """The chosen rows, by mask or by number."""
        return Sums(self.iou_sum[rows], self.TP[rows], self.FP[rows], self.FN[rows])

    def columns(self) -> dict[str, Number]:
        """The columns by their names, TP, FP and FN first."""
        return {"TP": self.TP, "FP": self.FP, "FN": self.FN, "iou_sum": self.iou_sum}


def match_segments(matched: Matched) -> pd.DataFrame:
    """Each pair of a ground-truth segment and a prediction that share pixels and a category, with their IoU.

    Columns: image_id, gt_id, pred_id, category_id, pixels, union, iou. Crowds are left out. A pair is a true positive
    at threshold t when iou > t; from 0.5 on each segment is in at most one. Ordered by image_id, gt_id, pred_id.
    """
    import pandas as pd

    pair = matched.pair
    return pd.DataFrame(
        {
            "image_id": matched.overlaps.image_id[pair],
            "gt_id": matched.overlaps.gt_id[pair],
            "pred_id": matched.overlaps.pred_id[pair],
            "category_id": matched.segments.category_id[matched.gt],
            "pixels": matched.overlaps.pixels[pair],
            "union": matched.union,
            "iou": matched.iou,
        }
    )


def segment_verdicts(matched: Matched, iou_threshold: float = 0.5) -> pd.DataFrame:
    """Each segment with its verdict, in the run's order.

    Columns: those of `Run.segments`, then verdict: "TP", "FN" (ground truth), "FP" (prediction) or "ignored" (crowds,
    and predictions more than half on void and crowd); iou: the matched pair's, NaN without a match; matched_id: the
    other side's id, 0 without a match.
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
    """PQ's sums of each category, of images that come block by block; a `Fold`. `table` divides them.

    thresholds: the IoUs that matches need; boundary: with the IoUs of `by_boundary`
    """

    def __init__(
        self, categories: Sequence[Category], thresholds: Sequence[float] = (0.5,), boundary: bool = False
    ) -> None:
        self.categories = tuple(categories)
        self.thresholds = tuple(thresholds)
        self.boundary = boundary
        self._sums = [Sums.zeros(len(self.categories)) for _ in self.thresholds]

    def look(self, matched: Matched) -> list[tuple[Int, Float, Int, Int]]:
        """For each threshold the position of the category and the IoU of each match, and FPs and FNs by category.

        Raises BadDataset when a category that is counted is not among the categories.
        """
        if self.boundary:
            matched = matched.by_boundary()
        return [self._count(matched, threshold) for threshold in self.thresholds]

    def add(self, part: list[tuple[Int, Float, Int, Int]]) -> None:
        """Continues the sums of the previous block."""
        for place, (sums, (hits, iou, wrong, missed)) in enumerate(zip(self._sums, part, strict=True)):
            self._sums[place] = sums.and_also(hits, iou, wrong, missed)

    def table(self, iou_threshold: float = 0.5) -> pd.DataFrame:
        """`pq_table` of all that was added."""
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
        """`summarise` of the table of the first threshold."""
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        return means_of_groups(self._sums[0].scores(), self._sums[0].counted, isthing)

    def _count(self, matched: Matched, threshold: float) -> tuple[Int, Float, Int, Int]:
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
    """PQ, SQ and RQ of each category, one row each in the order of `categories`.

    PQ = Σ IoU(TP) / (TP + FP/2 + FN/2) = SQ · RQ. Columns: category_id, name, isthing, supercategory, PQ, SQ, RQ (0–1),
    TP, FP, FN, iou_sum. A category without TP, FP and FN has zeros, as panopticapi lists it; the means leave it out.
    Boundary PQ is that of `matched.by_boundary()`.
    Raises BadDataset when a category that is counted is not in `categories`.
    """
    sums = CategorySums(categories, [iou_threshold])
    sums.add(sums.look(matched))
    return sums.table(iou_threshold)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    """`{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …}` of a `pq_table`: means over its categories, 0–1.

    n counts the categories that have a TP, FP or FN; the others are left out. With none, PQ, SQ and RQ are None.
    """
    counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
    scores = {name: table[name].to_numpy(dtype=float) for name in ("PQ", "SQ", "RQ")}
    return means_of_groups(scores, counted, table["isthing"].to_numpy(dtype=bool))


def means_of_groups(
    scores: Mapping[str, Float], counted: npt.NDArray[np.bool_], isthing: npt.NDArray[np.bool_]
) -> dict[str, dict[str, float | int | None]]:
    """`summarise` of scores by category; counted: which of them the means are of."""
    members = {group: counted & own for group, own in in_groups(isthing).items()}
    return {
        group: {**{name: mean_of(values[rows]) for name, values in scores.items()}, "n": int(rows.sum())}
        for group, rows in members.items()
    }


def per_image_statistics(matched: Matched, iou_threshold: float = 0.5) -> pd.DataFrame:
    """What each image adds to each category: image_id, category_id, iou_sum, TP, FP, FN, without rows of zeros.

    PQ of any set of images is a quotient of sums of these rows: intervals, splits and merging need nothing else.
    Ordered by image_id, then category_id.
    """
    import pandas as pd

    image_id, category_id, sums = image_sums(matched, iou_threshold)
    counts = {"iou_sum": sums.iou_sum, "TP": sums.TP, "FP": sums.FP, "FN": sums.FN}
    return pd.DataFrame({"image_id": image_id, "category_id": category_id, **counts})


def scores_of_images(matched: Matched) -> pd.DataFrame:
    """image_id, PQ, iou_sum, TP, FP, FN of each image by itself, by ascending id.

    PQ is the mean over the categories that have a TP, FP or FN in the image; NaN where none has.
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


class ImageFold:
    """`scores_of_images` of all images of a run, block by block."""

    def __init__(self) -> None:
        self._parts: list[pd.DataFrame] = []

    def look(self, matched: Matched) -> pd.DataFrame:
        """The scores of a block's images."""
        return scores_of_images(matched)

    def add(self, part: pd.DataFrame) -> None:
        """Takes in the images of a block."""
        self._parts.append(part)

    def table(self) -> pd.DataFrame:
        """The images of all blocks, by ascending id."""
        import pandas as pd

        return pd.concat(self._parts, ignore_index=True).sort_values("image_id", kind="stable", ignore_index=True)


def image_sums(matched: Matched, iou_threshold: float = 0.5) -> tuple[Int, Int, Sums]:
    """The image_ids and category_ids that occur together, ascending, and the sums of each."""
    asked = "image_sums", iou_threshold
    if asked not in matched.answers:
        matched.answers[asked] = _image_sums(matched, iou_threshold)
    found: tuple[Int, Int, Sums] = matched.answers[asked]
    return found


def _image_sums(matched: Matched, iou_threshold: float) -> tuple[Int, Int, Sums]:
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
    """The mean of some values; None if there are none."""
    # Left to right, as panopticapi adds: np.sum would pair terms up and round otherwise.
    return float(np.add.accumulate(values)[-1] / len(values)) if len(values) else None
