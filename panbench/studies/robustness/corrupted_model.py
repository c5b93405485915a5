"""A model that sees every image corrupted: how robust is it? [Hendrycks and Dietterich 2019; Michaelis et al. 2019]

The corrupted pixels reach the model as a lossless file of their own, so any model can be tried, whatever reads its
images. The ground truth stays as it is.
"""

import os
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from panbench.base.errors import BadDataset
from panbench.models.base import LoadedImage, Model, batch_key, read_photograph, way_of_running
from panbench.models.candidates import Output
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord
from panbench.studies.robustness.corruptions import Corruption, corrupt

__all__ = ["CorruptedModel"]


class CorruptedModel:
    """Another model, to which each image is shown corrupted; a `Model` like that one."""

    def __init__(self, model: Model, corruption: Corruption) -> None:
        """model: any; corruption: a kind at a severity. Raises BadArgument for one that is unknown."""
        self.inner = model
        self.corruption = corruption
        # Under this title progress and errors name it: several corruptions of a model run one after the other.
        self.spec = replace(model.spec, title=f"{model.spec.title}, {corruption}")
        self.device, self.precision = model.device, getattr(model, "precision", "fp32")
        self.class_names, self.isthing, self.rule = model.class_names, model.isthing, model.rule

    @property
    def versions(self) -> Mapping[str, str]:
        """Those of the model."""
        return getattr(self.inner, "versions", {})

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run must share to be gone on with: the model's own, and the corruption."""
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

    def batch_key(self, image: ImageInfo) -> Hashable:
        """As the model's: a corrupted image keeps its size."""
        return batch_key(self.inner, image)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What the model says of each corrupted image."""
        return self.inner.candidates(batch)
