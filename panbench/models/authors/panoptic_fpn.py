"""Names of detectron2's Panoptic FPN (02b5c4e) under mmdet's, and what detectron2 computes otherwise."""

import math
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from panbench.models.authors.names import NameMap
from panbench.models.mmdet import detection

__all__ = ["NAMES", "OBJECTNESS", "as_in_detectron2"]

OBJECTNESS = 1 / 8
"""The factor of logits of which mmdet sorts sigmoids, all of them 1.0 from 17 on, where detectron2 sorts the logits."""

_SEMANTIC = "semantic_head.conv_upsample_layers"

NAMES = NameMap(
    {
        **{f"backbone.fpn_lateral{level}.": f"neck.lateral_convs.{level - 2}.conv." for level in (2, 3, 4, 5)},
        **{f"backbone.fpn_output{level}.": f"neck.fpn_convs.{level - 2}.conv." for level in (2, 3, 4, 5)},
        "proposal_generator.rpn_head.conv.": "rpn_head.rpn_conv.",
        "proposal_generator.rpn_head.objectness_logits.": "rpn_head.rpn_cls.",
        "proposal_generator.rpn_head.anchor_deltas.": "rpn_head.rpn_reg.",
        "roi_heads.box_head.fc1.": "roi_head.bbox_head.shared_fcs.0.",
        "roi_heads.box_head.fc2.": "roi_head.bbox_head.shared_fcs.1.",
        "roi_heads.box_predictor.cls_score.": "roi_head.bbox_head.fc_cls.",
        "roi_heads.box_predictor.bbox_pred.": "roi_head.bbox_head.fc_reg.",
        **{
            f"roi_heads.mask_head.mask_fcn{conv}.": f"roi_head.mask_head.convs.{conv - 1}.conv." for conv in range(1, 5)
        },
        "roi_heads.mask_head.deconv.": "roi_head.mask_head.upsample.",
        "roi_heads.mask_head.predictor.": "roi_head.mask_head.conv_logits.",
        # Upsampling counts in their list of layers: a convolution stands at every second place.
        **{
            f"sem_seg_head.p{level}.{2 * conv}.{theirs}": f"{_SEMANTIC}.{level - 2}.conv.{conv}.{ours}."
            for level in (2, 3, 4, 5)
            for conv in range(max(1, level - 2))
            for theirs, ours in (("", "conv"), ("norm.", "gn"))
        },
        "sem_seg_head.predictor.": "semantic_head.conv_logits.",
    },
    backbone="backbone.bottom_up.",
    left_out={
        "proposal_generator.anchor_generator.cell_anchors.#": "the anchors, which the config describes",
        "pixel_mean": "the means, which the config states",
        "pixel_std": "the deviations, which the config states",
    },
)


def as_in_detectron2(module: Any) -> None:
    """Makes mmdet's network, in place, assign levels and move boxes as detectron2 does."""
    for extractor in (module.roi_head.bbox_roi_extractor, module.roi_head.mask_roi_extractor):
        extractor.map_roi_levels = _level_of_rois
    for coder in (module.rpn_head.bbox_coder, module.roi_head.bbox_head.bbox_coder):
        # detectron2 bounds how much a box grows, and not how much it shrinks.
        coder.least_delta = -math.inf
        coder.decode = types.MethodType(_decode, coder)


def _decode(coder: Any, boxes: Tensor, deltas: Tensor, max_shape: Sequence[int], **_: Any) -> Tensor:
    return detection.decode(coder, boxes[None], deltas[None], boxes.new_tensor([max_shape[:2]]))[0]


def _level_of_rois(rois: Tensor, levels: int) -> Tensor:
    """The pyramid level of each RoI (N, 5), 0 for the finest: a box of 224² is on the third. [detectron2, poolers.py]

    mmdet adds 1e-6 where detectron2 adds 1e-8, so a box a hair smaller than 112² has another level there.
    """
    areas = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    # Added before it is rounded down, as there: 4 is the level, in the paper's count from 2, of a box of 224².
    level: Tensor = torch.floor(4 + torch.log2(areas.sqrt() / 224 + 1e-8))
    return level.clamp(min=2, max=levels + 1).long() - 2
