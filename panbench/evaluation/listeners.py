"""Listeners: what else is done with a model's outputs in the pass that scores them, such as keeping or measuring."""

from collections.abc import Sequence
from typing import Protocol

from panbench.models.candidates import Output
from panbench.panoptic.types import Scene

__all__ = ["Listener"]


class Listener(Protocol):
    """Receives the model's output for each image before it is fused.

    Inherit from it for the defaults. The loop passes each image that is not in `done`, and runs an image only when some
    run or listener lacks it; so a resumed evaluation catches up with whichever is behind.
    """

    @property
    def done(self) -> frozenset[int]:
        """The ids of images that an earlier sitting has dealt with."""
        return frozenset()

    @property
    def notices(self) -> Sequence[str]:
        """Sentences for the user, read once all images are scored."""
        return ()

    def hear(self, scene: Scene, output: Output) -> None:
        """Takes the output for an image, which is on the device; return soon, as the device waits.

        Called from several threads. The same image may come again: a batch that does not fit into the device's memory
        is run again in halves.
        """

    def close(self) -> None:
        """Writes what is left. Called once, also when the evaluation ends with an error."""
