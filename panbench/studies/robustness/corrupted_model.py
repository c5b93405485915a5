"""A model that sees every image corrupted: how robust is it? [Hendrycks and Dietterich 2019; Michaelis et al. 2019]

The corrupted pixels reach the model as a lossless file of their own, so any model can be tried, whatever reads its
images. The ground truth stays as it is.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from panbench.base.errors import BadDataset
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
        """The corrupted image, as the model loads it. Raises BadDataset naming the user's file."""
        clean, facts = read_photograph(scene)
        rgb = corrupt(clean, self.corruption, scene.image.id)
        handle, path = tempfile.mkstemp(suffix=".png", prefix="panbench-")
        os.close(handle)
        try:
            # Level 1: the file lives for a moment only.
            cv2.imwrite(path, rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            loaded = self.inner.load(replace(scene, image_path=Path(path)))
        except BadDataset as error:
            raise BadDataset(str(error).replace(path, str(scene.image_path))) from error
        finally:
            os.unlink(path)
        return replace(loaded, scene=scene, facts=facts)
