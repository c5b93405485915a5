"""A model to which images are shown larger or smaller than its own test pipeline shows them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from panbench.models.model import Model, Wrapped, way_of_running
from panbench.runs import ModelRecord
from panbench.studies.tradeoffs.places import SIZES

__all__ = ["ScaledModel"]


class ScaledModel(Wrapped):
    """Another model with images `factor` times as large as its own."""

    def __init__(self, model: Model, factor: float) -> None:
        """Raises BadArgument for a model that takes images of one size only, or is not a network alone."""
        super().__init__(model.scaled(factor))
        self.factor = factor
        self.spec = replace(model.spec, title=f"{model.spec.title}@size{factor:g}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run must share to be resumed: the model's own, and the size."""
        return {**way_of_running(self.inner), SIZES.word: f"{self.factor:g}"}

    def describe(self) -> ModelRecord:
        """The model's record, its name with the size; published numbers are of size 1, so they go."""
        found = self.inner.describe()
        name, title = (None if each is None else f"{each}@size{self.factor:g}" for each in (found.name, found.title))
        return replace(found, name=name, title=title, published=None)
