"""What one model finds and another does not: for every image how many true segments which models found."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.errors import IS_FP, IS_TP, VERDICT_NAMES, codes
from panbench.metrics.matched import numbered
from panbench.report.answers.views import Compared

__all__ = ["found_by", "images_only_one_finds"]

Int = npt.NDArray[np.int64]

MOST_MODELS = 50
"""The scripts' numbers hold so many bits exactly."""


def found_by(members: Sequence[Compared]) -> pd.DataFrame:
    """image_id, gt_id, models: of each true segment (no crowd) the models that found it, the k-th as bit k."""
    image_id, gt_id, models = _found_by(members)
    return pd.DataFrame({"image_id": image_id, "gt_id": gt_id, "models": models})


def images_only_one_finds(members: Sequence[Compared]) -> Iterator[tuple[int, int, pd.Series]]:
    """For each ordered pair (a, b): true segments per image that a finds and b does not, most first."""
    if not 1 < len(members) <= MOST_MODELS:
        return
    image_id, _, models = _found_by(members)
    for a, b in permutations(range(len(members)), 2):
        alone = image_id[(models & 1 << a > 0) & (models & 1 << b == 0)]
        images, counts = np.unique(alone, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        yield a, b, pd.Series(counts[order], pd.Index(images[order], name="image_id"))


def _found_by(members: Sequence[Compared]) -> tuple[Int, Int, Int]:
    """The columns of `found_by`, in order of images and segments."""
    images, segments, bits = [], [], []
    for place, member in enumerate(members):
        errors = member.explained.errors
        verdict = codes(errors["verdict"], VERDICT_NAMES)
        true = verdict != IS_FP
        images.append(errors["image_id"].to_numpy(np.int64)[true])
        segments.append(errors["gt_id"].to_numpy(np.int64)[true])
        bits.append(np.where(verdict[true] == IS_TP, 1 << place, 0))
    (image_id, gt_id), row = numbered([np.concatenate(images), np.concatenate(segments)])
    # Sums below 2^50 are exact in the float64 of bincount.
    return image_id, gt_id, np.bincount(row, np.concatenate(bits), len(image_id)).astype(np.int64)
