"""The decoder layers of a network and how to cut them off, for `--layers` and timings by layer.

A copy of a network shares its weights. A copy cut after layer k answers as a network that was built with k layers.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """Names a method of a network, such as the forward of its backbone, whose time is measured by itself.

    Its calls up to decoder layer k do not depend on later layers.
    """

    owner: Any
    method: str = "forward"


@dataclass(frozen=True)
class Decoder:
    """Describes how to cut the transformer decoder of one network after k layers, and which of its parts to time.

    count: number of layers; cut: keeps the first k layers, in place
    parts: backbone, pixel decoder and each layer. A network cut after layer k calls each as often as the complete
        network does up to that layer, with the same values.
    """

    count: int
    cut: Callable[[int], None]
    parts: Sequence[Part]

    @classmethod
    def of_layers(
        cls, layers: Any, *before: Part, last: int | None = None, cut: Callable[[int], None] | None = None
    ) -> "Decoder":
        """Makes the Decoder of a network from its list of layers; before: the parts that run before them.

        last: how many of the layers, from the end, are the decoder's; cut: called with the number of layers left
        """
        count, layers_before = last or len(layers), len(layers)

        def cut_decoder_layers(layers_left: int) -> None:
            del layers[layers_before - count + layers_left :]
            if cut is not None:
                cut(layers_left)

        return cls(count, cut_decoder_layers, [*before, *map(Part, layers)])


def sharing_weights(module: Network) -> Network:
    """Copies a network's modules; the copy uses the original's parameters, buffers and other tensors."""
    shared: dict[int, Any] = {
        id(tensor): tensor
        for part in module.modules()
        for tensor in itertools.chain(
            part._parameters.values(), part._buffers.values(), (v for v in vars(part).values() if isinstance(v, Tensor))
        )
        if tensor is not None
    }
    return copy.deepcopy(module, shared)
