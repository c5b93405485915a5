"""Computes semantic scores (mIoU, accuracy, Dice) from overlap tables: each pixel counts by its segment's category.

How pixels are counted:
- A pixel whose ground truth is void, or an id that the JSON does not list, is left out, as mmseg, detectron2 and
  COCO-Stuff leave out their ignore label.
- A pixel with a true category but no predicted one (void) is wrong: it adds to the union of the true category only.
- A pixel of a crowd counts as its category: semantic segmentation does not distinguish objects anyway.
Pixels are counted from the PNGs, never taken from the JSON's areas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import ratio
from panbench.panoptic.types import Category

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SemanticScores:
    """Semantic scores over all images, fractions 0–1; None if there is no category to score.

    mIoU: mean IoU of the categories that have a true or a predicted pixel, as in mmseg (detectron2 leaves out those
        that are only predicted); mIoU_th, mIoU_st: of the thing and of the stuff categories alone
    fwIoU: IoU of each category weighted by its share of the labelled pixels [Long et al. 2015]
    pixel_accuracy: share of the labelled pixels whose category is right ("aAcc" of mmseg)
    mean_accuracy: mean share of right pixels over the categories of the ground truth ("mAcc")
    mean_dice: mean Dice coefficient over the categories of mIoU
    per_category: one row a category: category_id, name, isthing, IoU, accuracy, Dice (NaN where undefined), gt_pixels,
        pred_pixels, right_pixels
    """

    mIoU: float | None
    mIoU_th: float | None
    mIoU_st: float | None
    fwIoU: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_dice: float | None
    per_category: pd.DataFrame


class PixelAccumulator:
    """Accumulates a confusion matrix, the pixels by true and predicted category, over chunks of images.

    An `Accumulator`.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        """Starts with a confusion matrix of zeros for these categories."""
        self.categories = tuple(categories)
        self._counts = np.zeros((len(self.categories), len(self.categories) + 1), np.int64)

    def map_chunk(self, matched: Matched) -> Int:
        """Returns the confusion matrix of a chunk of images, in pixels: (n, n + 1), where the last column is void."""
        return _confusion_counts(matched, self.categories)

    def add(self, part: Int) -> None:
        """Adds the confusion matrix of a chunk of images to that of the chunks before."""
        self._counts += part

    def scores(self) -> SemanticScores:
        """Returns mIoU, fwIoU, accuracies and Dice over all images added."""
        return _scores_of_confusion(self._counts, self.categories)

    def confusion(self) -> pd.DataFrame:
        """Returns the confusion matrix of all images added: pixels by true (row) and predicted (column) category."""
        ids = [category.id for category in self.categories]
        return pd.DataFrame(
            self._counts,
            index=pd.Index(ids, name="category_id"),
            columns=pd.Index([*ids, "void"], dtype=object, name="predicted"),
        )


def confusion(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Returns the pixels of each true category (row) by predicted category (column, the last is void), int64.

    Rows and columns are category ids in the order of `categories`. Pixels without a true category are left out.
    Raises BadDataset when a segment's category_id is not in `categories`.
    """
    return matched.accumulate(PixelAccumulator(categories)).confusion()


def semantic_scores(matched: Matched, categories: Sequence[Category]) -> SemanticScores:
    """Returns mIoU, fwIoU, accuracies, and IoU, accuracy and Dice of each category. Arguments as `confusion`."""
    return matched.accumulate(PixelAccumulator(categories)).scores()


def _scores_of_confusion(counts: Int, categories: Sequence[Category]) -> SemanticScores:
    """Computes all semantic scores from the (n, n + 1) counts of `confusion`."""
    right = np.diagonal(counts)
    true, predicted = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    union = true + predicted - right
    iou, accuracy, dice = (
        ratio(right, union, np.nan),
        ratio(right, true, np.nan),
        ratio(2 * right, true + predicted, np.nan),
    )
    isthing = np.array([category.isthing for category in categories], np.bool_)
    labelled = int(true.sum())
    return SemanticScores(
        mIoU=_mean_of_known(iou),
        mIoU_th=_mean_of_known(iou[isthing]),
        mIoU_st=_mean_of_known(iou[~isthing]),
        fwIoU=float(np.nansum(true * iou) / labelled) if labelled else None,
        pixel_accuracy=float(right.sum() / labelled) if labelled else None,
        mean_accuracy=_mean_of_known(accuracy),
        mean_dice=_mean_of_known(dice),
        per_category=pd.DataFrame(
            {
                "category_id": [category.id for category in categories],
                "name": [category.name for category in categories],
                "isthing": isthing,
                "IoU": iou,
                "accuracy": accuracy,
                "Dice": dice,
                "gt_pixels": true,
                "pred_pixels": predicted,
                "right_pixels": right,
            }
        ),
    )


def _confusion_counts(matched: Matched, categories: Sequence[Category]) -> Int:
    """Returns the confusion matrix of the images, in pixels by category index: (n, n + 1), where column n is void."""
    n = len(categories)
    # Index -1 of a pixel without a segment picks the appended last entry.
    position = np.append(positions(matched.segments.category_id, categories), -1)
    true, predicted = position[matched.gt_row], position[matched.pred_row]
    labelled = true >= 0
    cells = true[labelled] * (n + 1) + np.where(predicted < 0, n, predicted)[labelled]
    # Sums of pixels stay far below 2^53, so the float64 of bincount is exact.
    pixels = np.bincount(cells, weights=matched.overlaps.pixels[labelled], minlength=n * (n + 1))
    return pixels.astype(np.int64).reshape(n, n + 1)


def _mean_of_known(values: Float) -> float | None:
    """Returns the mean of the values that are not NaN; None if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
