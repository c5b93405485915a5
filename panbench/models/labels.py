"""What the labels of models mean: names and things of the datasets that panbench knows."""

import re
from collections.abc import Sequence

from panbench.base.errors import BadModel
from panbench.base.text import listed
from panbench.datasets.convert import shipped_categories
from panbench.datasets.shapes import CATEGORIES as SHAPES
from panbench.panoptic.types import Category

__all__ = [
    "KNOWN_SETS",
    "coco_labels",
    "is_unnamed",
    "known_things",
    "labels_of",
    "match_categories",
    "refuse_other_names",
]

KNOWN_SETS = ("coco", "cityscapes", "ade20k")


def is_unnamed(name: str) -> bool:
    """Whether a name in id2label of a config.json only fills the place of a label that has none."""
    return re.fullmatch(r"|N/A|LABEL_\d+", name) is not None


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


def labels_of(name: str | None) -> tuple[tuple[str, ...], tuple[bool, ...]] | None:
    """Names of the labels of models trained on a dataset, and whether each is a thing; None where it is not known."""
    if name == "coco":
        return coco_labels()
    if name == "shapes":
        return tuple(str(each["name"]) for each in SHAPES), tuple(bool(each["isthing"]) for each in SHAPES)
    return None


def match_categories(
    title: str, class_names: Sequence[str], isthing: Sequence[bool], categories: Sequence[Category]
) -> tuple[int, ...]:
    """The category id of each of the model's labels, by name; things and stuff must agree. Raises BadModel."""
    refuse_other_names(title, class_names, categories)
    by_name = {category.name: category for category in categories}
    swapped = [name for name, thing in zip(class_names, isthing, strict=True) if by_name[name].isthing != thing]
    if swapped:
        raise BadModel(f"{title} and the dataset disagree on which categories are things: {_some(swapped)}.")
    return tuple(by_name[name].id for name in class_names)


def refuse_other_names(title: str, class_names: Sequence[str], categories: Sequence[Category]) -> None:
    """Raises BadModel where the names of a model's labels are not those of the dataset's categories."""
    names = list(dict.fromkeys(category.name for category in categories))
    lacking = [name for name in class_names if name not in names]
    unknown = [name for name in names if name not in class_names]
    if lacking or unknown or len(class_names) != len(categories):
        raise BadModel(
            f"{title} and the dataset have different categories: "
            f"the model has {len(class_names)}, of them not in the dataset {_some(lacking)}; "
            f"the dataset has {len(categories)}, of them not in the model {_some(unknown)}. "
            "`panbench eval --category-map FILE` evaluates through a list of which is which (docs/data.md)."
        )


def _some(names: Sequence[str]) -> str:
    return listed(names, 6) if names else "none"
