"""What the labels of models mean: names and things of the datasets that panbench knows."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from panbench.base.errors import BadModel
from panbench.base.text import listed
from panbench.datasets.category_map import shipped_maps, shipped_pairs
from panbench.datasets.convert import SHIPPED, read_categories, shipped_categories
from panbench.datasets.shapes import CATEGORIES as SHAPES
from panbench.panoptic.types import Category

__all__ = [
    "CategoryIds",
    "coco_labels",
    "is_unnamed",
    "known_labels",
    "known_things",
    "labels_of",
    "match_categories",
    "refuse_other_names",
    "spelt_as",
]

CategoryIds = Sequence[int] | Mapping[int, int]
"""The dataset's category id of each label of a model."""

_ALSO_CALLED = {
    "airplane": "plane",
    "clothes": "apparel",
    "falls": "waterfall",
    "pool": "swimming pool",
    "rail": "railing",
    "street lamp": "streetlight",
    "trash can": "ashcan",
    "tub": "bathtub",
    "tv": "television receiver",
    "window": "windowpane",
}
"""ADE20K's categories with another name in the label files of transformers, or in OneFormer's."""


def known_labels(names: Sequence[str]) -> tuple[Category, ...] | None:
    """The categories of a set that panbench knows, in the order of a model's labels; None for labels of another set.

    The labels must be all of the set's. Except for `shapes`, spelling may differ as it does between publications: in
    capitals and punctuation, and for ADE20K in how many of a category's names are given ("road" for "road, route").
    """
    for known in map(shipped_categories, SHIPPED):
        spellings = _spellings(known)
        places = [spellings.get(_plain(name)) for name in names]
        if len(places) == len(known) and None not in places and len(set(places)) == len(places):
            return tuple(known[place] for place in places if place is not None)
    by_name = {category.name: category for category in _shapes()}
    return tuple(by_name[name] for name in names) if set(names) == set(by_name) else None


def spelt_as(name: str, categories: Sequence[Category]) -> Category | None:
    """The category that a label's name means, spelt as any publication does; None where there is none."""
    place = _spellings(tuple(categories)).get(_plain(name))
    return None if place is None else categories[place]


@cache
def _spellings(categories: tuple[Category, ...]) -> dict[str, int]:
    """The place in a list of categories of each spelling; whole names come before parts of others."""
    places: dict[str, int] = {}
    for place, category in enumerate(categories):
        places.setdefault(_plain(category.name), place)
    for place, category in enumerate(categories):
        first = category.name.partition(",")[0]
        for name in (first, _ALSO_CALLED.get(first)):
            if name is not None:
                places.setdefault(_plain(name), place)
    return places


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


@cache
def _shapes() -> tuple[Category, ...]:
    return read_categories([dict(category) for category in SHAPES])


def is_unnamed(name: str) -> bool:
    """Whether a name in id2label of a config.json only fills the place of a label that has none."""
    return re.fullmatch(r"|N/A|LABEL_\d+", name) is not None


def known_things(names: Sequence[str]) -> tuple[bool, ...] | None:
    """Which of these labels are things, when all are those of a set that panbench knows; else None."""
    if (labels := known_labels(names)) is not None:
        return tuple(category.isthing for category in labels)
    for known in (*map(shipped_categories, SHIPPED), _shapes()):
        isthing = {category.name: category.isthing for category in known}
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
    """Names of the labels of models trained on a dataset, and whether each is a thing; None where it is not known.

    COCO's labels have the things first. Those of Cityscapes, ADE20K and Mapillary Vistas are in the order of their ids,
    in detectron2's, mmdet's and EoMT's code.
    """
    if name == "coco":
        return coco_labels()
    if name not in (*SHIPPED, "shapes"):
        return None
    categories = _shapes() if name == "shapes" else shipped_categories(name)
    return tuple(category.name for category in categories), tuple(category.isthing for category in categories)


def match_categories(
    title: str, class_names: Sequence[str], isthing: Sequence[bool], categories: Sequence[Category]
) -> tuple[int, ...]:
    """The category id of each of the model's labels, by name; things and stuff must agree. Raises BadModel.

    Names of one known set may be spelt differently on the two sides (`known_labels`).
    """
    refuse_other_names(title, class_names, categories)
    names, by_name = _spelt_alike(class_names, categories)
    swapped = [name for name, thing in zip(names, isthing, strict=True) if by_name[name].isthing != thing]
    if swapped:
        things = sum(isthing)
        disorder = all(isthing[:things]) and things == sum(category.isthing for category in categories)
        cure = (
            f"A model's first {things} labels are its things: name its classes (METAINFO, metainfo) things first."
            if disorder
            else f"{_by_a_map(class_names, categories)} Segments of a category that is stuff there become one."
        )
        raise BadModel(f"{title} and the dataset disagree on which categories are things: {_some(swapped)}. {cure}")
    return tuple(by_name[name].id for name in names)


def _spelt_alike(class_names: Sequence[str], categories: Sequence[Category]) -> tuple[list[str], dict[str, Category]]:
    """Labels, and the dataset's categories by name: in one spelling, where both are all of one known set's."""
    by_name = {category.name: category for category in categories}
    if set(class_names) != set(by_name):
        own, theirs = known_labels(class_names), known_labels([category.name for category in categories])
        if own is not None and theirs is not None and set(own) == set(theirs):
            spelt = {known.name: category for known, category in zip(theirs, categories, strict=True)}
            return [known.name for known in own], spelt
    return list(class_names), by_name


def refuse_other_names(title: str, class_names: Sequence[str], categories: Sequence[Category]) -> None:
    """Raises BadModel where the names of a model's labels are not those of the dataset's categories."""
    class_names, names = _spelt_alike(class_names, categories)
    lacking = [name for name in class_names if name not in names]
    unknown = [name for name in names if name not in class_names]
    if lacking or unknown or len(class_names) != len(categories):
        raise BadModel(
            f"{title} and the dataset have different categories: "
            f"the model has {len(class_names)}, of them not in the dataset {_some(lacking)}; "
            f"the dataset has {len(categories)}, of them not in the model {_some(unknown)}. "
            f"{_by_a_map(class_names, categories)}"
        )


def _by_a_map(class_names: Sequence[str], categories: Sequence[Category]) -> str:
    """How to evaluate all the same: through the shipped category map that fits, or one to write."""
    theirs = {category.name for category in categories}
    for name in shipped_maps():
        pairs = shipped_pairs(name)
        if set(pairs) == set(class_names) and set(pairs.values()) - {None} <= theirs:
            return f"`panbench eval --category-map {name}` evaluates through a list of which is which (docs/data.md)."
    return "`panbench eval --category-map FILE` evaluates through a list of which is which (docs/data.md)."


def _some(names: Sequence[str]) -> str:
    return listed(names, 6) if names else "none"
