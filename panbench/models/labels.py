"""What the labels of models mean: names and things of the datasets that panbench knows."""

from collections.abc import Sequence

from panbench.datasets.convert import shipped_categories
from panbench.datasets.shapes import CATEGORIES as SHAPES

__all__ = ["KNOWN_SETS", "coco_labels", "known_things"]

KNOWN_SETS = ("coco", "cityscapes", "ade20k")


def known_things(names: Sequence[str]) -> tuple[bool, ...] | None:
    """Which of these categories are things, when all are those of COCO, Cityscapes, ADE20K or shapes; else None."""
    known = [{category.name: category.isthing for category in shipped_categories(name)} for name in KNOWN_SETS]
    known.append({str(category["name"]): bool(category["isthing"]) for category in SHAPES})
    for isthing in known:
        if all(name in isthing for name in names):
            return tuple(isthing[name] for name in names)
    return None


def coco_labels() -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Names of COCO's 133 panoptic labels, things first, each by category id; and whether each is a thing.

    The order of detectron2, mmdet and of the code that stands on them.
    """
    ordered = sorted(shipped_categories("coco"), key=lambda category: (not category.isthing, category.id))
    return tuple(category.name for category in ordered), tuple(category.isthing for category in ordered)
