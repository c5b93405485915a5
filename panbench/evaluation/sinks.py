"""Sinks: what is done with a model's outputs in one pass, such as scoring them by a rule, keeping or measuring them."""

from collections.abc import Callable, Sequence, Set
from typing import Any

import numpy as np

from panbench.models.candidates import Output
from panbench.models.model import LoadedImage
from panbench.panoptic.coco import read_hashed_id_png
from panbench.panoptic.types import IdMap, Scene, Segment

__all__ = ["Later", "SeenImage", "Sink"]


class SeenImage:
    """An image that went through the model, on the host. Its ground truth is read once, when the first sink asks."""

    def __init__(self, image: LoadedImage, sha256: bytes) -> None:
        """sha256: of the image's file"""
        self.scene: Scene = image.scene
        self.facts = image.facts
        self.sha256 = sha256
        self.truth_sha256 = b""
        """Of the ground truth's id PNG, once it is read; empty where there is none."""
        self._true_ids: IdMap | None = None

    def truth(self, shape: tuple[int, int]) -> tuple[IdMap, Sequence[Segment]]:
        """The id map, which must have this shape, and the segments of the ground truth. Raises BadDataset."""
        if self.scene.annotation is None or self.scene.gt_path is None:
            # All void: the image is in the tables, and no category has a TP, FP or FN.
            return np.zeros(shape, np.int32), ()
        if self._true_ids is None:
            read = read_hashed_id_png(self.scene.gt_path, shape, image_id=self.scene.image.id)
            self._true_ids, self.truth_sha256 = read
        return self._true_ids, self.scene.annotation.segments


Later = Callable[[SeenImage], Any]
"""The host's work on one image, done in a thread behind the device; what it returns goes to `Sink.keep`."""


class Sink:
    """Takes the outputs of one pass: inherit from it for the defaults.

    The loop runs an image only when some sink has not got it, and passes a sink only images that are not in `done`; so
    a resumed evaluation catches up with whichever is behind.
    """

    done: Set[int] = frozenset()
    """The ids of images that this sink has from an earlier evaluation."""

    @property
    def notices(self) -> Sequence[str]:
        """Sentences for the user, read once all images are done."""
        return ()

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Takes one output, which is on the device, and returns the host's work on it.

        Called from several threads; return soon, as the device waits. An image may come again: a batch that does not
        fit into the device's memory is run again in halves.
        """
        raise NotImplementedError

    def on_outputs(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> Sequence[Later]:
        """The same for a batch, where something is gained by taking its images together."""
        return [self.on_output(*pair) for pair in zip(batch, outputs, strict=True)]

    def keep(self, found: Sequence[Any]) -> None:
        """Takes what the host's work on a batch returned: each image once, in the order of the plan, from one thread.

        Whoever stores blocks stores whole batches, so that those of a resumed evaluation are the same.
        """

    def close(self) -> None:
        """Writes what is left. Called once, also when the evaluation ends with an error."""
