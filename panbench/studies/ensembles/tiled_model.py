"""A model that sees each image in overlapping tiles, whose outputs are put together to one of the whole image.

A tile goes through the model's own resizing, so it is seen as large as an image would be: small objects grow, and what
is larger than a tile is never seen whole.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.models.candidates import FinishedMap, Output
from panbench.models.model import LoadedImage, Model, Wrapped
from panbench.models.preprocess import read_photograph
from panbench.models.rules import Rule
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import ModelRecord
from panbench.studies.ensembles.stitching import stitch
from panbench.studies.ensembles.tiles import Tiles, Window

__all__ = ["TiledModel", "refuse_rule"]

_LEAST_SIDE = 16
"""Tiles with a shorter side, in pixels, are refused: nothing could be seen on them."""

_OF_ONE_PASS = {
    "kmax": "shares each pixel among all queries of one pass",
    "transformers": "repeats what transformers does to the masks of a whole image",
}
"""Rules whose decisions are about one pass over the whole image, and why."""


class TiledModel(Wrapped):
    """Another model that sees each image in tiles.

    With one tile its answers are those of the model, to the bit.
    """

    def __init__(self, model: Model, tiles: Tiles) -> None:
        """Raises BadArgument for a model that gives finished maps, which have no masks to put together."""
        if model.rule.takes is FinishedMap:
            raise BadArgument(f"{model.spec.title} gives finished id maps: --tiles needs a network's masks.")
        super().__init__(model)
        self.tiles = tiles

    @property
    def settings(self) -> Mapping[str, Any]:
        """What must be equal to resume a run, besides the model: the tiles."""
        return {**self.inner.settings, "tiles": str(self.tiles)}

    def describe(self) -> ModelRecord:
        """The model's own record; published numbers are of whole images, so they go."""
        described = self.inner.describe()
        return replace(described, published=None) if len(self.tiles) > 1 else described

    def load(self, scene: Scene) -> LoadedImage:
        """The tiles of the image, each as the model loads an image. Raises BadArgument where they are too small."""
        if len(self.tiles) == 1:
            return self.inner.load(scene)
        rgb, facts = read_photograph(scene)
        return replace(self.load_pixels(scene, rgb), facts=facts)

    def load_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """The tiles of these pixels, each as the model loads pixels."""
        if len(self.tiles) == 1:
            return self.inner.load_pixels(scene, rgb)
        windows = self._windows(scene.image)
        loaded = tuple(
            self.inner.load_pixels(
                replace(scene, image=_of_size(scene.image, each)),
                np.ascontiguousarray(rgb[slice(*each.rows), slice(*each.columns)]),
            )
            for each in windows
        )
        return LoadedImage(scene, loaded[0].inputs, loaded)

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The size of the network's input for a tile; the tiles of an image have one size."""
        return self.inner.batch_key(_of_size(image, self.tiles.windows(image.height, image.width)[0]))

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """The outputs for the tiles of each image, put together; each place of the grid goes through as a batch."""
        if len(self.tiles) == 1:
            return self.inner.candidates(batch)
        answers = [self.inner.candidates([image.sample[place] for image in batch]) for place in range(len(self.tiles))]
        return [
            stitch(of_image, self._windows(image.scene.image), (image.scene.image.height, image.scene.image.width))
            for image, *of_image in zip(batch, *answers, strict=True)
        ]

    def _windows(self, image: ImageInfo) -> list[Window]:
        windows = self.tiles.windows(image.height, image.width)
        if min(windows[0].height, windows[0].width) < _LEAST_SIDE:
            raise BadArgument(
                f"--tiles {self.tiles}: image {image.id} is {image.height}×{image.width}, and its tiles would be "
                f"{windows[0].height}×{windows[0].width} pixels; {_LEAST_SIDE} is the least. Ask for fewer tiles."
            )
        return windows


def refuse_rule(rule: Rule) -> None:
    """Raises BadArgument for a rule that makes no sense on masks that were put together from tiles."""
    if (why := _OF_ONE_PASS.get(rule.name)) is not None:
        raise BadArgument(f"--rule {rule.called} {why}, which --tiles has not got. Leave one of them out.")


def _of_size(image: ImageInfo, window: Window) -> ImageInfo:
    return replace(image, height=window.height, width=window.width)
