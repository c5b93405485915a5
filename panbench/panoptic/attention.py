"""Records of what a transformer's queries attended to: models/ fills them, report/ draws them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AttendedLayer:
    """One decoder layer. All arrays have the photograph's (H, W).

    number: of the layer, counted from 1
    weights: float32, the attention of the query, mean of the heads; over the layer's feature map it sums to 1, or to
        less where a part of it goes elsewhere (to other queries, or to points outside of the image)
    allowed: bool, where the query was let look (masked attention; weights are 0 elsewhere); None for everywhere
    mask: bool, the mask (probability ≥ 0.5) that the layer's output led to; None where only the last layer gives masks
    """

    number: int
    weights: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_] | None
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class AttendedQuery:
    """One query: its number (from 0), what it found at the last layer (`category`, `score`), and its layers."""

    query: int
    category: str
    score: float
    layers: tuple[AttendedLayer, ...]
