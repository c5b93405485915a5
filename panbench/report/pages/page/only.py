"""What one model finds and another does not: for every image how many true segments which models found."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from panbench.report.answers.views import Compared

__all__ = ["found_by", "images_only_one_finds", "only_numbers"]

MOST_MODELS = 50
"""The scripts' numbers hold so many bits exactly."""


def found_by(members: Sequence[Compared]) -> pd.DataFrame:
    """image_id, gt_id, models: of each true segment (no crowd) the models that found it, the k-th as bit k."""
    tables = []
    for place, member in enumerate(members):
        errors = member.explained.errors
        true = errors[errors["verdict"].isin(["TP", "FN"])]
        bit = np.where(true["verdict"] == "TP", 1 << place, 0)
        tables.append(pd.DataFrame({"image_id": true["image_id"], "gt_id": true["gt_id"], "models": bit}))
    return pd.concat(tables).groupby(["image_id", "gt_id"], as_index=False)["models"].sum()


def only_numbers(members: Sequence[Compared]) -> list[list[int]]:
    """For the scripts: [image id, models, true segments that just these found], none where all or no model did."""
    if not 1 < len(members) <= MOST_MODELS:
        return []
    table = found_by(members)
    some = table[(table["models"] > 0) & (table["models"] < (1 << len(members)) - 1)]
    counts = some.groupby(["image_id", "models"]).size()
    return [[int(image), int(models), int(count)] for (image, models), count in counts.items()]


def images_only_one_finds(members: Sequence[Compared]) -> Iterator[tuple[int, int, pd.Series]]:
    """For each ordered pair (a, b): true segments per image that a finds and b does not, most first."""
    if not 1 < len(members) <= MOST_MODELS:
        return
    table = found_by(members)
    models = table["models"].to_numpy()
    for a, b in permutations(range(len(members)), 2):
        alone = table[(models & 1 << a > 0) & (models & 1 << b == 0)]
        yield a, b, alone.groupby("image_id").size().sort_values(ascending=False, kind="stable")
