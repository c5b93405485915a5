"""A model whose maps are in the categories of a dataset other than its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from panbench.datasets.category_map import CategoryMap, map_segments
from panbench.models.model import Model, Wrapped
from panbench.models.rules import Fused, Rule, SettledMap
from panbench.panoptic.types import Category
from panbench.runs import ModelRecord

__all__ = ["Mapped"]


class Mapped(Wrapped):
    """Another model behind a category map: its outputs are that model's, and its maps hold mapped segments alone."""

    def __init__(self, model: Model, category_map: CategoryMap) -> None:
        super().__init__(model)
        self.category_map = category_map

    def describe(self) -> ModelRecord:
        """The model's own record; what is published was measured in its own categories, so it goes."""
        return replace(self.inner.describe(), published=None)

    def scaled(self, factor: float) -> Model:
        """The model on images of another size, behind the same map."""
        return Mapped(self.inner.scaled(factor), self.category_map)

    def category_ids(self, categories: Sequence[Category]) -> Mapping[int, int]:
        """The dataset's category of each label that has one; predictions of the others become void."""
        return self.category_map.ids

    def settle(self, fused: Fused, rule: Rule) -> SettledMap:
        """The inner model's map without unmapped segments; those of one stuff category of the dataset are one."""
        ids, segments = self.inner.settle(fused, rule)
        mapped, kept = map_segments(
            ids, [(each.id, each.label, each.score or 0.0) for each in segments], self.category_map
        )
        return mapped, tuple(replace(each, area=kept[each.id]) for each in segments if each.id in kept)
