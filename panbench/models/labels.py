"""The meaning of models' labels: names and things of the datasets that panbench knows."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from panbench.base.errors import BadArgument, BadModel
from panbench.base.text import listed
from panbench.datasets.category_map import shipped_maps, shipped_pairs
from panbench.datasets.convert import SHIPPED, read_categories, shipped_categories
from panbench.datasets.shapes import CATEGORIES as SHAPES
from panbench.panoptic.types import Category

SETS = (*SHIPPED, "shapes")
"""The datasets whose labels are known by name."""

WHAT_LABELS_TAKES = f"{', '.join(SHIPPED)}, or a JSON FILE of its categories (name, isthing) in label order"

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
    """Returns the categories of the known dataset that has exactly these labels, in label order; None if there is none.

    Except for `shapes`, spelling may differ as it does between publications: in capitals and punctuation, and for
    ADE20K in how many of a category's names are given ("road" for "road, route").
    """
    for known in map(shipped_categories, SHIPPED):
        spellings = _spellings(known)
        indices = [spellings.get(_normalised_name(name)) for name in names]
        if len(indices) == len(known) and None not in indices and len(set(indices)) == len(indices):
            return tuple(known[index] for index in indices if index is not None)
    by_name = {category.name: category for category in _shapes_categories()}
    return tuple(by_name[name] for name in names) if set(names) == set(by_name) else None


def category_spelt(name: str, categories: Sequence[Category]) -> Category | None:
    """Finds the category that a label's name means, in any publication's spelling; None if there is none."""
    index = _spellings(tuple(categories)).get(_normalised_name(name))
    return None if index is None else categories[index]


@cache
def _spellings(categories: tuple[Category, ...]) -> dict[str, int]:
    """Maps each spelling of the categories' names to a category's index; full names go before parts of other names."""
    indices: dict[str, int] = {}
    for index, category in enumerate(categories):
        indices.setdefault(_normalised_name(category.name), index)
    for index, category in enumerate(categories):
        first = category.name.partition(",")[0]
        for name in (first, _ALSO_CALLED.get(first)):
            if name is not None:
                indices.setdefault(_normalised_name(name), index)
    return indices


def _normalised_name(name: str) -> str:
    """Returns the name in lower case, with single spaces for everything but letters and digits."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


@cache
def _shapes_categories() -> tuple[Category, ...]:
    """Returns the categories of `shapes`, panbench's generated dataset."""
    return read_categories([dict(category) for category in SHAPES])


def is_placeholder_name(name: str) -> bool:
    """Returns whether a name in config.json's id2label is a placeholder, such as LABEL_7."""
    return re.fullmatch(r"|N/A|LABEL_\d+", name) is not None


def unnamed_labels_error(title: str, count: int) -> BadModel:
    """Returns the error for a network of which all labels have placeholders for names."""
    return BadModel(
        f"{title} names none of its {count} labels (id2label of config.json), so they cannot be matched with "
        f"a dataset's categories. Say what they are with --labels {WHAT_LABELS_TAKES}."
    )


def known_things(names: Sequence[str]) -> tuple[bool, ...] | None:
    """Returns which of these names are things, if one known dataset has all of them; else None."""
    if (labels := known_labels(names)) is not None:
        return tuple(category.isthing for category in labels)
    for known in (*map(shipped_categories, SHIPPED), _shapes_categories()):
        isthing = {category.name: category.isthing for category in known}
        if all(name in isthing for name in names):
            return tuple(isthing[name] for name in names)
    return None


def categories_of(what: str | None) -> tuple[Category, ...] | None:
    """Returns the categories of a model's labels, in label order, by its training dataset; None if unknown.

    what: the dataset, or the absolute path of a JSON of its categories. In detectron2's, mmdet's
        and EoMT's code COCO's labels have things first; those of Cityscapes, ADE20K and Mapillary Vistas are in the
        order of their ids.
    Raises BadDataset for a file that holds no categories.
    """
    if what == "coco":
        return tuple(sorted(shipped_categories("coco"), key=lambda category: (not category.isthing, category.id)))
    if what in SETS:
        return _shapes_categories() if what == "shapes" else shipped_categories(str(what))
    return read_categories(what) if what is not None and Path(what).is_absolute() else None


def check_labels(what: str | None) -> None:
    """Raises BadArgument for a --labels that is no dataset or file, BadDataset for a file without categories."""
    if what is not None and categories_of(what) is None:
        raise BadArgument(f"--labels {what}: there is no such file or dataset. It takes {WHAT_LABELS_TAKES}.")


def labels_of(what: str | None) -> tuple[tuple[str, ...], tuple[bool, ...]] | None:
    """Returns the names of a model's labels and which are things; None if they are unknown.

    what: as in `categories_of`
    """
    found = categories_of(what)
    if found is None:
        return None
    return tuple(category.name for category in found), tuple(category.isthing for category in found)


def coco_labels() -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Returns the names of COCO's 133 panoptic labels, things first, and which are things."""
    found = labels_of("coco")
    assert found is not None
    return found


def match_categories(
    title: str, class_names: Sequence[str], isthing: Sequence[bool], categories: Sequence[Category]
) -> tuple[int, ...]:
    """Matches a model's labels with categories by name; returns the category id of each label. Raises BadModel.

    Things and stuff must agree. Model and dataset may spell names of a known dataset differently (`known_labels`).
    """
    names, by_name = refuse_other_names(title, class_names, categories)
    swapped = [name for name, thing in zip(names, isthing, strict=True) if by_name[name].isthing != thing]
    if swapped:
        things = sum(isthing)
        disorder = all(isthing[:things]) and things == sum(category.isthing for category in categories)
        cure = (
            f"A model's first {things} labels are its things: name its classes (METAINFO, metainfo) things first."
            if disorder
            else f"{_suggest_category_map(class_names, categories)} Segments of stuff are merged into one."
        )
        raise BadModel(
            f"{title} and the dataset disagree on which categories are things: {_names_or_none(swapped)}. {cure}"
        )
    return tuple(by_name[name].id for name in names)


def _spell_alike(class_names: Sequence[str], categories: Sequence[Category]) -> tuple[list[str], dict[str, Category]]:
    """Spells the model's labels and the dataset's category names alike, if both are those of one known dataset."""
    by_name = {category.name: category for category in categories}
    if set(class_names) != set(by_name):
        own, theirs = known_labels(class_names), known_labels([category.name for category in categories])
        if own is not None and theirs is not None and set(own) == set(theirs):
            spelt = {known.name: category for known, category in zip(theirs, categories, strict=True)}
            return [known.name for known in own], spelt
    return list(class_names), by_name


def refuse_other_names(
    title: str, class_names: Sequence[str], categories: Sequence[Category]
) -> tuple[list[str], dict[str, Category]]:
    """Raises BadModel unless model and dataset have the same category names, in any publication's spelling.

    Returns the model's labels, and the dataset's categories by name, both in one spelling.
    """
    class_names, names = _spell_alike(class_names, categories)
    lacking = [name for name in class_names if name not in names]
    unknown = [name for name in names if name not in class_names]
    if lacking or unknown or len(class_names) != len(categories):
        raise BadModel(
            f"{title} and the dataset have different categories: "
            f"{len(class_names)} in the model, of which the dataset lacks {_names_or_none(lacking)}; "
            f"{len(categories)} in the dataset, of which the model lacks {_names_or_none(unknown)}. "
            f"{_suggest_category_map(class_names, categories)}"
        )
    return class_names, names


def _suggest_category_map(class_names: Sequence[str], categories: Sequence[Category]) -> str:
    """Returns a sentence that suggests `--category-map`: a shipped one if it fits, else one of the user's own."""
    theirs = {category.name for category in categories}
    for name in shipped_maps():
        pairs = shipped_pairs(name)
        if set(pairs) == set(class_names) and set(pairs.values()) - {None} <= theirs:
            return f"`panbench eval --category-map {name}` evaluates through a list of which is which (docs/data.md)."
    return "`panbench eval --category-map FILE` evaluates through a list of which is which (docs/data.md)."


def _names_or_none(names: Sequence[str]) -> str:
    """Lists a few names for a message; "none" without any."""
    return listed(names, 6) if names else "none"
