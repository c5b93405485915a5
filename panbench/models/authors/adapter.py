"""Runs the weights of Mask2Former's, MaskFormer's and detectron2's authors on mmdet's networks, exactly.

The configs are mmdet's, with the settings of the authors: Pillow's resizing, means, padding, thresholds. names.py has
the tables of parameter names. Where mmdet computes Panoptic FPN differently, it is replaced: the pyramid level of a
RoI, the bounds of boxes, the order of proposals, the semantic channel of things, and the least score of an instance.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.models.authors import names
from panbench.models.candidates import NO_LABEL, Instances, Output
from panbench.models.mmdet.adapter import MmdetAdapter
from panbench.models.model import LoadedImage
from panbench.models.rules.panoptic_fpn import PanopticFPN as PanopticFPNRule

_OBJECTNESS = 1 / 8
"""Scales the logits of proposals: mmdet sorts their sigmoids, which round to 1.0 from 17 on; detectron2 sorts
logits."""

_MOST_GROWTH = math.log(1000 / 16)
"""The logarithm of the factor by which a box grows at most."""


class AuthorsAdapter(MmdetAdapter):
    """Adapts mmdet's networks to checkpoints of facebookresearch's Mask2Former, MaskFormer and detectron2."""

    @property
    def names(self) -> names.ParameterNameMap:
        """The table from the authors' parameter names to mmdet's; for MaskFormer it depends on the pixel decoder."""
        if self.family == "maskformer":
            plain = self.config.model.panoptic_head.pixel_decoder.type == "PixelDecoder"
            return names.MASKFORMER_PLAIN if plain else names.MASKFORMER
        return names.PANOPTIC_FPN if self.family == "panoptic-fpn" else names.MASK2FORMER

    def build(self) -> nn.Module:
        """Builds mmdet's network with detectron2's box decoding, RoI levels and score threshold."""
        module: Any = super().build()
        if isinstance(self.rule, PanopticFPNRule):
            # Boxes keep the detector's own, lower threshold, which AP_pan needs.
            self.rule = dataclasses.replace(self.rule, score=0.5)
            _follow_detectron2(module)
        return module  # type: ignore[no-any-return]

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames a checkpoint's tensors to mmdet's names. Raises BadCheckpoint for unknown names or pixel means."""
        preprocessor = self.config.model.data_preprocessor
        for name, declared in (("pixel_mean", preprocessor.mean), ("pixel_std", preprocessor.std)):
            found = state_dict.get(name)
            if found is not None and not torch.allclose(found.flatten().double(), torch.tensor(declared).double()):
                raise BadCheckpoint(
                    f"{self.spec.title}: the weights were trained with {name} {found.flatten().tolist()}, and the "
                    f"config has {list(declared)}. Use a config with theirs."
                )
        renamed = self.names.renamed(state_dict, self.config.model.backbone)
        # A power of two changes no mantissa, and only the order of proposals depends on it.
        return {
            name: value * _OBJECTNESS if name.startswith("rpn_head.rpn_cls.") else value
            for name, value in renamed.items()
        }

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> list[Output]:
        """Runs the network; Panoptic FPN's first semantic channel means "a thing", as in detectron2."""
        return [
            dataclasses.replace(output, semantic_labels=(NO_LABEL, *output.semantic_labels[:-1]))
            if isinstance(output, Instances)
            else output
            for output in super().run(module, batch, device)
        ]


def _follow_detectron2(module: Any) -> None:
    """Changes mmdet's network in place to choose RoI levels and decode boxes as detectron2 does."""
    for extractor in (module.roi_head.bbox_roi_extractor, module.roi_head.mask_roi_extractor):
        extractor.map_roi_levels = _pyramid_levels
    for coder in (module.rpn_head.bbox_coder, module.roi_head.bbox_head.bbox_coder):
        coder.decode = types.MethodType(_decode_boxes, coder)


def _decode_boxes(coder: Any, boxes: Tensor, deltas: Tensor, max_shape: Sequence[int], **_: Any) -> Tensor:
    """Moves (N, 4) boxes by predicted deltas, clipped to an image of (height, width), as detectron2 does.

    detectron2 bounds how much a box grows, and not how much it shrinks; mmdet bounds both alike.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    centre = centre + size * deltas[:, :2]
    half = size * deltas[:, 2:].clamp(max=_MOST_GROWTH).exp() * 0.5
    height, width = max_shape[:2]
    return torch.minimum(
        torch.cat([centre - half, centre + half], dim=1).clamp(min=0), boxes.new_tensor([width, height] * 2)
    )


def _pyramid_levels(rois: Tensor, levels: int) -> Tensor:
    """Returns the pyramid level of each RoI (N, 5), 0 for the finest; a box of 224² is on the third.

    mmdet adds 1e-6 where detectron2 adds 1e-8, so a box a hair smaller than 112² has another level there.
    [detectron2, poolers.py]
    """
    areas = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    # Added before it is rounded down, as there: 4 is the level, in the paper's count from 2, of a box of 224².
    level: Tensor = torch.floor(4 + torch.log2(areas.sqrt() / 224 + 1e-8))
    return level.clamp(min=2, max=levels + 1).long() - 2
