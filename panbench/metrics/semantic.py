"""Semantic segmentation scores from the same overlap tables: pixels by category, whatever the segments.

Which pixels count, and as what:
- A pixel whose ground truth is void, or an id that the JSON does not list, has no true category: it is left out, as
  mmseg, detectron2 and COCO-Stuff leave out their ignore label.
- A pixel that has a true category but none predicted (void) is wrong: it adds to the category's union, to no other's.
- A pixel of a crowd counts as its category: a crowd is where single objects are not told apart, and semantic
  segmentation tells none apart.
Pixels are counted from the PNGs, never taken from the JSON's areas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.matched import Matched, positions
from panbench.panoptic.types import Category

__all__ = ["PixelFold", "SemanticScores", "confusion", "semantic_scores"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SemanticScores:
    """Scores of all pixels together, fractions 0–1; None where no category is there to be scored.

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


class PixelFold:
    """Pixels by true and predicted category, of images that come block by block; a `Fold`."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self._counts = np.zeros((len(self.categories), len(self.categories) + 1), np.int64)

    def look(self, matched: Matched) -> Int:
        """(n, n + 1) pixels by true and predicted category, void last."""
        return _count(matched, self.categories)

    def add(self, part: Int) -> None:
        """Adds the pixels of a block."""
        self._counts += part

    def scores(self) -> SemanticScores:
        """`semantic_scores` of all that was added."""
        return _scores(self._counts, self.categories)

    def confusion(self) -> pd.DataFrame:
        """`confusion` of all that was added."""
        ids = [category.id for category in self.categories]
        return pd.DataFrame(
            self._counts,
            index=pd.Index(ids, name="category_id"),
            columns=pd.Index([*ids, "void"], dtype=object, name="predicted"),
        )


def confusion(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Pixels by true category (rows) and predicted category (columns), int64; the last column, "void", is unpredicted.

    Rows and columns are category ids in the order of `categories`. Pixels without a true category are left out.
    Raises BadDataset when a segment's category_id is not in `categories`.
    """
    pixels = PixelFold(categories)
    pixels.add(pixels.look(matched))
    return pixels.confusion()


def semantic_scores(matched: Matched, categories: Sequence[Category]) -> SemanticScores:
    """mIoU, fwIoU, pixel and mean accuracy, and IoU, accuracy and Dice of each category. Arguments as `confusion`."""
    pixels = PixelFold(categories)
    pixels.add(pixels.look(matched))
    return pixels.scores()


def _scores(counts: Int, categories: Sequence[Category]) -> SemanticScores:
    right = np.diagonal(counts)
    true, predicted = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    union = true + predicted - right
    iou, accuracy, dice = _ratio(right, union), _ratio(right, true), _ratio(2 * right, true + predicted)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    labelled = int(true.sum())
    return SemanticScores(
        mIoU=_mean(iou),
        mIoU_th=_mean(iou[isthing]),
        mIoU_st=_mean(iou[~isthing]),
        fwIoU=float(np.nansum(true * iou) / labelled) if labelled else None,
        pixel_accuracy=float(right.sum() / labelled) if labelled else None,
        mean_accuracy=_mean(accuracy),
        mean_dice=_mean(dice),
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


def _count(matched: Matched, categories: Sequence[Category]) -> Int:
    """(n, n + 1) pixels by position of the true and of the predicted category; position n of the latter is void."""
    n = len(categories)
    # The last entry serves row -1: pixels without a segment.
    position = np.append(positions(matched.segments.category_id, categories), -1)
    true, predicted = position[matched.gt_row], position[matched.pred_row]
    labelled = true >= 0
    cells = true[labelled] * (n + 1) + np.where(predicted < 0, n, predicted)[labelled]
    # Sums of pixels stay far below 2^53, so the float64 of bincount is exact.
    pixels = np.bincount(cells, weights=matched.overlaps.pixels[labelled], minlength=n * (n + 1))
    return pixels.astype(np.int64).reshape(n, n + 1)


def _ratio(part: Int, whole: Int) -> Float:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _mean(values: Float) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
