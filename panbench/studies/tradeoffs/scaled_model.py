"""A model to which images are shown larger or smaller than its own test pipeline shows them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from panbench.base.errors import BadArgument
from panbench.models.host import HostedModel
from panbench.models.model import Model, Wrapped, way_of_running
from panbench.runs import ModelRecord
from panbench.studies.tradeoffs.places import SIZES

__all__ = ["ScaledModel"]


class ScaledModel(Wrapped):
    """Another model with images `factor` times as large as its own."""

    def __init__(self, model: Model, factor: float) -> None:
        """Raises BadArgument for a model that takes images of one size only, or is not a network alone."""
        if not isinstance(model, HostedModel):
            raise BadArgument(f"{model.spec.title} is not a network alone, and --size needs one.")
        other = copy.copy(model)
        other.adapter = model.adapter.scaled(factor)
        super().__init__(other)
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
