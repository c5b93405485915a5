"""A model whose maps are in the categories of a dataset other than its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from panbench.datasets.category_map import CategoryMap, map_segments
from panbench.models.model import Model, Wrapped
from panbench.models.rules import Fused, Rule, SegmentedMap
from panbench.panoptic.types import Category
from panbench.runs import ModelRecord


class MappedModel(Wrapped):
    """Wraps a model so that its maps have a dataset's categories; the network's outputs do not change."""

    def __init__(self, model: Model, category_map: CategoryMap) -> None:
        """Wraps a model to predict a dataset's categories, by a map from its labels to them."""
        super().__init__(model)
        self.category_map = category_map

    def describe(self) -> ModelRecord:
        """Returns the model's record without its published number, which was measured in its own categories."""
        return replace(self.inner.describe(), published=None)

    def scaled(self, factor: float) -> Model:
        """Returns the model for images scaled by `factor`, with the same category map."""
        return MappedModel(self.inner.scaled(factor), self.category_map)

    def category_ids(self, categories: Sequence[Category]) -> Mapping[int, int]:
        """Returns the dataset's category id of each mapped label; predictions of other labels become void."""
        return self.category_map.ids

    def to_segments(self, fused: Fused, rule: Rule) -> SegmentedMap:
        """Returns the inner model's map without unmapped segments; segments of one stuff category are joined."""
        ids, segments = self.inner.to_segments(fused, rule)
        mapped, areas = map_segments(
            ids, [(each.id, each.label, each.score or 0.0) for each in segments], self.category_map
        )
        return mapped, tuple(replace(each, area=areas[each.id]) for each in segments if each.id in areas)
