"""Where a network's decoder layers are, and how to cut them off: what `--layers` and timings by layer ask an adapter.

A copy of a network shares its weights. A copy cut after layer k answers as a network that was built with k layers.
"""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["Decoder", "Part", "sharing_weights", "without_last"]

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """A method of a network whose first calls in a pass do not depend on how many decoder layers follow."""

    owner: Any
    method: str = "forward"


@dataclass(frozen=True)
class Decoder:
    """The decoder of one network.

    count: of its layers; cut: keeps the first k of them, in place
    parts: what a pass calls up to any layer, and what is the same for all: the backbone, the pixel decoder, each layer.
        A network cut after layer k calls each of them as often as the whole one does until then, with the same values.
    """

    count: int
    cut: Callable[[int], None]
    parts: Sequence[Part]


def without_last(layers: nn.ModuleList, number: int) -> None:
    """Takes the last `number` layers off a list of layers, in place."""
    del layers[len(layers) - number :]


def sharing_weights(module: Network) -> Network:
    """A copy of a network whose parameters, buffers and other tensors are the same ones in memory."""
    shared = {
        id(tensor): tensor
        for part in module.modules()
        for tensor in itertools.chain(
            part._parameters.values(), part._buffers.values(), (v for v in vars(part).values() if isinstance(v, Tensor))
        )
        if tensor is not None
    }
    # Each part has ten empty tables of hooks, which copy.deepcopy would take apart one by one: half of its time.
    empty: dict[int, Any] = {
        id(table): OrderedDict()
        for part in module.modules()
        for table in vars(part).values()
        if type(table) is OrderedDict and not table
    }
    return copy.deepcopy(module, {**shared, **empty})
