"""Test-time augmentation: runs a model on mirrored and rescaled images, and averages the outputs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.models.candidates import Output
from panbench.models.model import LoadedImage, Model, Wrapped, running_settings
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord
from panbench.studies.ensembles.merging import flip, merge_outputs
from panbench.studies.ensembles.views import Views


class AugmentedModel(Wrapped):
    """Wraps a model and merges its outputs for several views of each image.

    If the original image is the only view, the outputs are bit-identical to the model's.
    """

    def __init__(self, model: Model, views: Views) -> None:
        """Wraps a model to run on views of its images. Raises BadArgument if the model cannot take them."""
        super().__init__(model)
        self.views = views
        self._scaled_models = [model.scaled(scale) for scale in views.scales]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that must match to resume a run: the model's, and the test-time augmentation."""
        return {**running_settings(self.inner), "tta": str(self.views)}

    def describe(self) -> ModelRecord:
        """Returns the model's record for run.json, without its published number if there are several views."""
        described = self.inner.describe()
        return replace(described, published=None) if len(self.views) > 1 else described

    def load(self, scene: Scene) -> LoadedImage:
        """Loads the image at every scale."""
        first, *others = (reader.load(scene) for reader in self._scaled_models)
        return replace(first, sample=(first, *others))

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Prepares an image that is given as pixels, at every scale."""
        first, *others = (reader.load_pixels(scene, rgb) for reader in self._scaled_models)
        return replace(first, sample=(first, *others))

    def batch_key(self, image: ImageInfo) -> Hashable:
        """Returns the network's input size at every scale; only images of equal input sizes share a batch."""
        return tuple(reader.batch_key(image) for reader in self._scaled_models)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Runs the model on each view of the batch; returns one merged output per image."""
        answers: list[Sequence[Output]] = []
        for index in range(len(self.views.scales)):
            batch_of_view = [image.sample[index] for image in batch]
            answers.append(self.inner.candidates(batch_of_view))
            if self.views.flip:
                mirrored = [self._scaled_models[index].mirrored(image) for image in batch_of_view]
                answers.append([flip(answer) for answer in self.inner.candidates(mirrored)])
        return [merge_outputs(of_one_image) for of_one_image in zip(*answers, strict=True)]
