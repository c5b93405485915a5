"""Maps the categories of a model to those of a dataset by an explicit list; nothing is guessed.

The list is a small JSON: {"from": name, "to": name, "categories": {"source name": "target name", …}}. Several sources
may share a target; what is not listed, or listed with null, becomes void in the prediction.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import VOID, Category, IdMap, PanopticPrediction, Segment


@dataclass(frozen=True)
class CategoryMap:
    """Maps source category ids to target category ids. dropped: names of sources that become void"""

    name: str
    ids: dict[int, int]
    target: tuple[Category, ...]
    dropped: tuple[str, ...]
    unmapped_source: tuple[str, ...]
    unmapped_target: tuple[str, ...]

    @property
    def predictable_categories(self) -> tuple[Category, ...]:
        """The dataset's categories that a mapped prediction can contain. All others have recall 0."""
        reached = set(self.ids.values())
        return tuple(category for category in self.target if category.id in reached)

    @property
    def messages(self) -> tuple[str, ...]:
        """Returns messages for the user on the map: counts, and the name of every unmapped category."""
        messages = [
            f"{self.name}: {len(self.ids)} categories of the model go to {len(self.predictable_categories)} of the "
            f"dataset's {len(self.target)}."
        ]
        if self.unmapped_target:
            messages.append(
                f"No prediction can be of these categories of the dataset: {', '.join(self.unmapped_target)}."
            )
        if self.dropped or self.unmapped_source:
            names = listed((*self.dropped, *self.unmapped_source), most=200)
            messages.append(f"Predictions of these categories of the model become void: {names}.")
        return tuple(messages)


def read_category_map(
    source: str | os.PathLike[str], model: Sequence[Category], dataset: Sequence[Category]
) -> CategoryMap:
    """Reads the mapping of a JSON file, or a shipped one by name (`coco_to_cityscapes`).

    model: the categories of predictions; dataset: those of the ground truth
    Raises BadArgument for a name that one of them lacks (suggesting the nearest), and for a file of another kind.
    """
    name, document = _read_category_map(source)
    pairs = document.get("categories") if isinstance(document, dict) else None
    if not isinstance(pairs, dict):
        raise BadArgument(f'{source} is not a category map: it must hold {{"categories": {{"source": "target"}}}}.')
    unknown = set(document) - {"from", "to", "why", "categories"}
    if unknown:
        raise BadArgument(
            f"{source} has the unknown keys {listed(sorted(unknown))}; it may have from, to, why, categories."
        )
    by_source = {category.name: category for category in model}
    by_target = {category.name: category for category in dataset}
    ids: dict[int, int] = {}
    dropped = []
    for left, right in pairs.items():
        if left not in by_source:
            raise BadArgument(
                f"{source}: the model has no category {left!r}. {_nearest_category_hint(left, by_source)}"
            )
        if right is None:
            dropped.append(left)
        elif right not in by_target:
            raise BadArgument(
                f"{source}: the dataset has no category {right!r}. {_nearest_category_hint(str(right), by_target)}"
            )
        else:
            ids[by_source[left].id] = by_target[right].id
    if not ids:
        raise BadArgument(f"{source} maps nothing.")
    return _make_category_map(name, ids, dropped, model, dataset)


def recorded_map(
    name: str, pairs: Mapping[str, str], model: Sequence[Category], dataset: Sequence[Category]
) -> CategoryMap:
    """Rebuilds a run's CategoryMap from the category names in run.json; unmapped categories become void.

    pairs: the dataset's category by the model's
    """
    by_target = {category.name: category.id for category in dataset}
    return _make_category_map(
        name,
        {category.id: by_target[pairs[category.name]] for category in model if category.name in pairs},
        (),
        model,
        dataset,
    )


def map_prediction(prediction: PanopticPrediction, category_map: CategoryMap) -> PanopticPrediction:
    """Maps a prediction to the dataset's categories; ids of segments stay, areas are counted again."""
    segments = [(segment.id, segment.category_id, segment.score or 0.0) for segment in prediction.segments]
    ids, areas = map_segments(prediction.ids, segments, category_map)
    mapped = tuple(
        Segment(segment.id, category_map.ids[segment.category_id], areas[segment.id], score=segment.score)
        for segment in prediction.segments
        if segment.id in areas
    )
    return PanopticPrediction(prediction.image_id, ids, mapped)


def map_segments(
    ids: IdMap, segments: Sequence[tuple[int, int, float]], category_map: CategoryMap
) -> tuple[IdMap, dict[int, int]]:
    """Sets unmapped segments of an id map to void; returns the new map and the areas of the remaining segments.

    segments: id, source category and score of each. Segments mapped to the same stuff category become one, with the id
    of the one that scores highest.
    """
    isthing = {category.id: category.isthing for category in category_map.target}
    new_id: dict[int, int] = {}
    stuff: dict[int, int] = {}
    # Best score first, so that merged stuff gets the id of its best segment.
    for segment_id, category, _ in sorted(segments, key=lambda segment: -segment[2]):
        target = category_map.ids.get(category)
        if target is None:
            new_id[segment_id] = VOID
        elif isthing[target]:
            new_id[segment_id] = segment_id
        else:
            new_id[segment_id] = stuff.setdefault(target, segment_id)
    values, inverse = np.unique(ids, return_inverse=True)
    lookup = np.array([new_id.get(int(value), VOID) for value in values], np.int32)
    mapped = lookup[inverse].reshape(ids.shape)
    areas = count_ids(mapped)
    return mapped, {segment_id: areas[segment_id] for segment_id, _, _ in segments if segment_id in areas}


def source_set(source: str | os.PathLike[str]) -> str | None:
    """Returns the dataset that a category map declares as its source, such as "coco"; None if it declares none."""
    _, document = _read_category_map(source)
    name = document.get("from") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None


def shipped_maps() -> tuple[str, ...]:
    """Lists the names of the maps that ship with the package."""
    folder = resources.files("panbench.datasets").joinpath("maps")
    return tuple(sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")))


def shipped_pairs(name: str) -> Mapping[str, str | None]:
    """Returns target names by source name of a map that ships with the package; None for those that become void."""
    _, document = _read_category_map(name)
    pairs: Mapping[str, str | None] = document["categories"]
    return pairs


def _make_category_map(
    name: str, ids: dict[int, int], dropped: Iterable[str], model: Sequence[Category], dataset: Sequence[Category]
) -> CategoryMap:
    """Makes a CategoryMap from pairs of model and dataset ids, and finds the categories left out."""
    dropped = tuple(dropped)
    reached = set(ids.values())
    return CategoryMap(
        name,
        ids,
        tuple(dataset),
        dropped,
        tuple(item.name for item in model if item.id not in ids and item.name not in dropped),
        tuple(item.name for item in dataset if item.id not in reached),
    )


def _read_category_map(source: str | os.PathLike[str]) -> tuple[str, Any]:
    """Reads a category map, shipped or from a file; returns its name and its content. Raises BadArgument."""
    path = Path(source)
    try:
        if str(source) in shipped_maps():
            text = resources.files("panbench.datasets").joinpath("maps", f"{source}.json").read_text("utf-8")
        else:
            text = path.read_text("utf-8-sig")
        return path.stem, json.loads(text)
    except OSError as error:
        known = ", ".join(shipped_maps())
        raise BadArgument(
            f"{source} is neither a file ({error.strerror}) nor a shipped category map ({known})."
        ) from error
    except ValueError as error:
        raise BadArgument(f"{source} is not JSON ({error}).") from error


def _nearest_category_hint(name: str, known: Iterable[str]) -> str:
    """Suggests the known category name nearest to a misspelt one."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else "`panbench data check` lists a set's categories."
