"""Converts arrays of categories and instance numbers to panoptic maps: each pair of the two is a segment."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.panoptic.types import MAX_ID, VOID, Category, IdMap

Labels = npt.NDArray[np.integer[Any]]

# Label values that mean void, unless a category has that id.
_VOID_LABELS = (0, 255)

_NO_LABEL = -1


def panoptic_map(
    instances: Any, *, semantic: Any = None, categories: Iterable[Category | Mapping[str, Any]]
) -> tuple[IdMap, list[dict[str, Any]]]:
    """Makes the (H, W) id map and `segments_info` of an image, as `Evaluator.update` and COCO's JSON take them.

    instances: (H, W) integers, arrays or tensors: the number of the instance that a pixel belongs to, 0 for none
    semantic: (H, W) category ids; 0 and 255 are void unless they are categories. None where there is one category of
        things, which all instances are then of
    categories: COCO's dicts (`id`, `name`, `isthing`), or `Category`
    Each pair of category and instance is a segment; stuff is one segment a category, whatever its instance numbers.
    Thing pixels without an instance (0) are void. Raises BadArgument.
    """
    try:
        listed_ones = [
            one if isinstance(one, Category) else Category(int(one["id"]), str(one["name"]), one["isthing"] == 1)
            for one in categories
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadArgument(f"categories must have id, name and isthing; one lacks or has a wrong {error}.") from None
    known = {category.id: category for category in listed_ones}
    numbers, things = _as_integers(instances, "instances"), [each.id for each in known.values() if each.isthing]
    if semantic is None:
        if len(things) != 1:
            raise BadArgument(f"There are {len(things)} categories of things: semantic must say which a pixel is of.")
        labels = np.where(numbers > 0, things[0], _NO_LABEL)
    else:
        labels = _as_integers(semantic, "semantic")
        if labels.shape == numbers.shape:
            labels = np.where(np.isin(labels, things) & (numbers == 0), _NO_LABEL, labels)
    try:
        ids, segments = segments_of_labels(labels, numbers, known, "panoptic_map", (*_VOID_LABELS, _NO_LABEL))
    except BadDataset as error:
        raise BadArgument(error.reason) from None
    areas = np.bincount(ids.ravel()) if len(segments) else np.zeros(0, np.int64)
    return ids, [
        {"id": number, "category_id": category_id, "area": int(areas[number]), "iscrowd": 0}
        for number, (category_id, _) in segments.items()
    ]


def _as_integers(values: Any, name: str) -> npt.NDArray[np.int64]:
    """Converts an array or a tensor on any device to (H, W) int64. Raises BadArgument for other shapes and types."""
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if values.ndim != 2 or not (values.dtype == np.bool_ or np.issubdtype(values.dtype, np.integer)):
        raise BadArgument(f"{name} must be (H, W) whole numbers, not {values.shape} {values.dtype}.")
    return values.astype(np.int64)


def segments_of_labels(
    labels: Labels,
    instances: Labels,
    categories: Mapping[int, Category],
    where: str,
    void: Collection[int] = _VOID_LABELS,
) -> tuple[IdMap, dict[int, tuple[int, bool]]]:
    """Makes an id map of two (H, W) arrays, category ids and instance numbers; also returns its segments.

    Each pair (category, instance) is a segment; stuff is one segment whatever its instance numbers.
    void: labels that mean void unless they are categories
    Returns the id map, and (category id, False for iscrowd) by segment id. Raises BadDataset for other labels.
    """
    if labels.shape != instances.shape or labels.ndim != 2:
        raise BadDataset(f"{where}: labels are {labels.shape} and instances {instances.shape}; both must be (H, W).")
    found = np.unique(labels)
    unknown = [int(label) for label in found if int(label) not in categories and int(label) not in void]
    if unknown:
        raise BadDataset(f"{where}: the labels {listed(unknown)} are neither a category nor void.")
    stuff = np.isin(labels, [key for key, category in categories.items() if not category.isthing])
    numbers = np.where(stuff, 0, instances).astype(np.int64)
    if numbers.size and numbers.min() < 0:
        raise BadDataset(f"{where}: instance numbers must not be negative.")
    # Category and instance packed in one int64, so that one np.unique finds all segments.
    pairs, inverse = np.unique(labels.astype(np.int64) << 32 | numbers, return_inverse=True)
    new_ids = np.zeros(len(pairs), np.int32)
    segments: dict[int, tuple[int, bool]] = {}
    for row, pair in enumerate(pairs):
        category_id = int(pair) >> 32
        if category_id in categories:
            segment_id = fresh_id(categories[category_id], segments)
            new_ids[row] = segment_id
            segments[segment_id] = (category_id, False)
    return new_ids[inverse].reshape(labels.shape), segments


def fresh_id(category: Category, taken: Collection[int]) -> int:
    """Chooses an unused segment id: the category's colour in the PNG, and a near colour for each further segment."""
    red, green, blue = category.color or (37 * category.id % 256, 101 * category.id % 256, 173 * category.id % 256)
    segment_id = red + 256 * green + 65536 * blue
    while segment_id in taken or segment_id == VOID:
        segment_id = (segment_id + 0x050301) & MAX_ID
    return segment_id
