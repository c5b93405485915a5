"""Test-time augmentation: runs a model on mirrored and rescaled images, and averages the outputs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.models.adapter import Adapter
from panbench.models.candidates import Output
from panbench.models.host import HostedModel
from panbench.models.model import LoadedImage, Model, Wrapped, way_of_running
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord
from panbench.studies.ensembles.merging import flip, merge_outputs
from panbench.studies.ensembles.views import Views

__all__ = ["AugmentedModel"]


class AugmentedModel(Wrapped):
    """Another model that sees several views of each image.

    With the image as it is for the only view its answers are those of the model, to the bit.
    """

    def __init__(self, model: Model, views: Views) -> None:
        """model: one with an adapter (all but functions). Raises BadArgument when it cannot be shown the views."""
        if not isinstance(model, HostedModel):
            raise BadArgument(f"{model.spec.title} gives finished id maps: --tta needs a network's masks.")
        super().__init__(model)
        self.views = views
        self._readers: list[Adapter] = [
            model.adapter if scale == 1.0 else model.adapter.scaled(scale) for scale in views.scales
        ]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What must be equal to resume a run, besides the model: the views."""
        return {**way_of_running(self.inner), "tta": str(self.views)}

    def describe(self) -> ModelRecord:
        """The model's own record; published numbers are those of one view, so they go."""
        described = self.inner.describe()
        return replace(described, published=None) if len(self.views) > 1 else described

    def load(self, scene: Scene) -> LoadedImage:
        """The image at every scale."""
        first, *others = (reader.read(scene) for reader in self._readers)
        return replace(first, sample=(first, *others))

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """These pixels at every scale."""
        first, *others = (reader.read_pixels(scene, rgb) for reader in self._readers)
        return replace(first, sample=(first, *others))

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The size of the network's input at every scale."""
        sizes = [reader.padded_size(image.height, image.width) for reader in self._readers]
        return (image.height, image.width, "as it is") if None in sizes else tuple(sizes)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The merged answer to the views of each image; each view goes through the model as a batch."""
        answers: list[Sequence[Output]] = []
        for place in range(len(self.views.scales)):
            seen = [image.sample[place] for image in batch]
            answers.append(self.inner.candidates(seen))
            if self.views.flip:
                mirrored = [self._readers[place].mirrored(image) for image in seen]
                answers.append([flip(answer) for answer in self.inner.candidates(mirrored)])
        return [merge_outputs(of_image) for of_image in zip(*answers, strict=True)]
