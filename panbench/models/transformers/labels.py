"""Determines the label names of transformers' networks, from config.json or `--labels`, and which are things."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.base.errors import BadModel
from panbench.models.labels import (
    SETS,
    categories_of,
    category_spelt,
    is_placeholder_name,
    known_things,
    unnamed_labels_error,
)
from panbench.panoptic.types import Category

_LAST_ID_OF_COCO = 200
"""A network with more classes has COCO's category ids, with gaps, as labels (DETR)."""


@dataclass(frozen=True)
class Labels:
    """Holds the categories that a network can predict: names, isthing, and the network's label of each."""

    names: tuple[str, ...]
    isthing: tuple[bool, ...]
    labels: tuple[int, ...]


def read_labels(title: str, settings: Mapping[str, Any], id2label: Mapping[Any, Any], classes: int) -> Labels:
    """Determines the categories of a network's labels; labels without names are left out. Raises BadModel.

    classes: how many the network predicts

    settings: a ModelSpec's: `labels`, of --labels or the config; `dataset_isthing`, things of the dataset by name
    id2label: config.json's
    """
    names = {int(label): str(name) for label, name in id2label.items()}
    if beyond := [label for label in names if not 0 <= label < classes]:
        raise BadModel(
            f"{title} has {classes} classes, labels 0 to {classes - 1}, but id2label of its config.json "
            f"names the label {max(beyond, key=abs)}. Give each label there the name that it was trained with, "
            'from 0 on and without gaps; "N/A" marks one that is not used.'
        )
    declared = categories_of(settings.get("labels"))
    if declared is not None:
        names = _names_from_set(title, str(settings["labels"]), declared, names, classes)
    named = [label for label in sorted(names) if not is_placeholder_name(names[label])]
    if not named:
        raise unnamed_labels_error(title, len(names))
    found = tuple(names[label] for label in named)
    if len(set(found)) < len(found):
        raise BadModel(f"{title} gives one name to several labels (id2label of config.json).")
    return Labels(found, _which_are_things(title, found, declared, settings.get("dataset_isthing", {})), tuple(named))


def _names_from_set(
    title: str, what: str, declared: Sequence[Category], names: dict[int, str], classes: int
) -> dict[int, str]:
    """Names labels by the categories of a known dataset or a file. Raises BadModel if id2label contradicts them.

    A known dataset has the order of the training code, and id2label may spell names differently. A file's categories
    name labels in order, or tell which names in id2label are things.
    """
    named = {label: name for label, name in names.items() if not is_placeholder_name(name)}
    if named and what not in SETS:
        if unknown := sorted(set(named.values()) - {category.name for category in declared}):
            raise BadModel(f"{title} has the category {unknown[0]!r} (id2label of config.json), which {what} lacks.")
        return names
    if what == "coco" and classes > _LAST_ID_OF_COCO:
        return names | {category.id: category.name for category in declared if category.id in names}
    if classes != len(declared):
        raise BadModel(
            f"{title} has {classes} classes (config.json), but {what} has {len(declared)} categories. Take the list "
            "that it was trained with."
        )
    for label, name in named.items():
        meant = category_spelt(name, declared)
        if meant is not None and declared[label] != meant:
            raise BadModel(
                f"{title}: label {label} is {name!r} in its config.json, but {declared[label].name!r} in the order of "
                f"{what}'s categories. Take the model's own repository."
            )
    return {label: category.name for label, category in enumerate(declared)}


def _which_are_things(
    title: str, names: Sequence[str], declared: Sequence[Category] | None, of_dataset: Mapping[str, bool]
) -> tuple[bool, ...]:
    """Determines which categories are things. Raises BadModel.

    As declared by --labels, else by their names in a known dataset, else by the evaluated dataset.
    """
    if declared is not None:
        by_name = {category.name: category.isthing for category in declared}
        isthing = tuple(by_name[name] for name in names)
    else:
        isthing = known_things(names) or ()
        if not isthing and all(name in of_dataset for name in names):
            isthing = tuple(of_dataset[name] for name in names)
    task = re.search(r"[-_](semantic|instance)\b", title.lower().replace("_", "-"))
    # Declared things take precedence over the name of a folder.
    trained = None if task is None or declared is not None else task[1]
    if len(set(isthing)) == 1:
        trained = "instance" if isthing[0] else "semantic"
    if trained is not None:
        lacks = "things" if trained == "semantic" else "stuff"
        raise BadModel(
            f"{title} was trained for {trained} segmentation: it has no {lacks}. Take a checkpoint that was trained "
            "for panoptic segmentation."
        )
    if not isthing:
        raise BadModel(
            f"{title} does not say which of its {len(names)} categories are things, and they are not those of a "
            "dataset that panbench knows. Give a JSON of its categories (name, isthing), such as the ground truth that "
            "it was trained with, as --labels FILE."
        )
    return isthing
