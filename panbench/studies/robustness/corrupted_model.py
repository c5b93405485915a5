"""A model that sees every image corrupted: how robust is it? [Hendrycks and Dietterich 2019; Michaelis et al. 2019]

The corrupted pixels reach the model in memory (`Model.load_pixels`). The ground truth stays as it is.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from panbench.models.model import LoadedImage, Model, Wrapped, way_of_running
from panbench.models.preprocess import read_photograph
from panbench.panoptic.types import Scene
from panbench.runs import ModelRecord
from panbench.studies.robustness.corruptions import Corruption, corrupt

__all__ = ["CorruptedModel"]


class CorruptedModel(Wrapped):
    """Another model, to which each image is shown corrupted."""

    def __init__(self, model: Model, corruption: Corruption) -> None:
        """model: any; corruption: a kind at a severity. Raises BadArgument for one that is unknown."""
        super().__init__(model)
        self.corruption = corruption
        # Progress and errors name it by this title: several corruptions of a model run one after the other.
        self.spec = replace(model.spec, title=f"{model.spec.title}, {corruption}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run must share to be resumed: the model's own, and the corruption."""
        return {**way_of_running(self.inner), "corruption": str(self.corruption)}

    def describe(self) -> ModelRecord:
        """The model's own record, its title with the corruption; published numbers are of clean images, so they go."""
        described = self.inner.describe()
        title = f"{described.title or self.inner.spec.title}, {self.corruption}"
        return replace(described, title=title, published=None)

    def load(self, scene: Scene) -> LoadedImage:
        """The corrupted image, as the model loads it. Raises BadDataset, and BadModel where it reads files only."""
        clean, facts = read_photograph(scene)
        loaded = self.inner.load_pixels(scene, corrupt(clean, self.corruption, scene.image.id))
        return replace(loaded, facts=facts)
