"""A model whose answers somebody hears before they are fused: to keep them, or to measure them."""

from collections.abc import Sequence

from panbench.models.candidates import Output
from panbench.models.model import LoadedImage, Wrapped

__all__ = ["ListeningModel"]


class ListeningModel(Wrapped):
    """Another model whose outputs are passed to `hear`."""

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What the model says, once it was heard."""
        outputs = self.inner.candidates(batch)
        self.hear(batch, outputs)
        return outputs

    def hear(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> None:
        """Called with each batch and its answers, in their order."""
        raise NotImplementedError
