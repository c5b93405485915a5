"""The script that panopticapi ships for results of two models: instances by falling score, then stuff."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from panbench.models.candidates import Instances
from panbench.models.rules.panoptic_fpn import PanopticFPN


@dataclass(frozen=True)
class Combine(PanopticFPN):
    """As panoptic-fpn, with scores and shares compared as the script does: exactly, in double precision."""

    name: ClassVar[str] = "combine"
    summary: ClassVar[str] = (
        "What panopticapi's script makes of instance results and semantic maps: as panoptic-fpn, with scores and "
        "shares compared exactly."
    )
    source: ClassVar[str] = "cocodataset/panopticapi, combine_semantic_and_instance_predictions.py"

    def count_of(self, output: Instances) -> int:
        """How many instances score enough."""
        return int((np.asarray(output.scores, np.float64) >= self.score).sum())

    def _is_free(self, area: Tensor, shared: Tensor) -> Tensor:
        return (area > 0) & (shared.double() / area.clamp(min=1) <= self.overlap)
