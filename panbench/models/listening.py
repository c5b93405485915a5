"""A model whose answers somebody hears before they are fused: to keep them, or to measure them."""

from collections.abc import Sequence
from typing import Any

from panbench.models.base import LoadedImage, Model
from panbench.models.candidates import Output
from panbench.panoptic.types import Scene

__all__ = ["ListeningModel"]


class ListeningModel:
    """Another model in all but that `hear` is told what it answers; a `Model` like that one."""

    def __init__(self, model: Model) -> None:
        self.inner = model
        self.spec, self.device, self.precision = model.spec, model.device, getattr(model, "precision", "fp32")
        self.class_names, self.isthing, self.rule = model.class_names, model.isthing, model.rule

    def __getattr__(self, name: str) -> Any:
        # Everything that a model may have besides (versions, settings, seed …) is the model's own.
        return getattr(self.inner, name)

    def describe(self) -> Any:
        """The model's own record."""
        return self.inner.describe()

    def load(self, scene: Scene) -> LoadedImage:
        """As the model loads it."""
        return self.inner.load(scene)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What the model says, once it was heard."""
        outputs = self.inner.candidates(batch)
        self.hear(batch, outputs)
        return outputs

    def hear(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> None:
        """Called with each batch and its answers, in their order."""
        raise NotImplementedError
