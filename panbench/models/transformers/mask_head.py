"""DETR's mask head in blocks of queries, with what all queries share computed once. [Carion et al. 2020, sec. 4]

transformers repeats the maps of the image for each of the 100 queries and runs the whole head on all of them at once:
an image at 800×1067 takes more than 10 GB. The queries differ in their attention alone, which is 8 of the first
convolution's 264 input channels; the rest of that convolution and the 1×1 convolutions of the backbone's maps are the
same for all. Convolutions are linear, so their sums are split by input channels; groups are normalised query by query.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

__all__ = ["BYTES_AT_ONCE", "mask_logits"]

BYTES_AT_ONCE = {"cpu": 32 << 20, "cuda": 1 << 30}
"""Bound for the activations of a block: in the cache of a CPU, or few kernels on a GPU. At least one query is run."""
LIVE = 4
"""Largest maps alive at once: a stage's upsampled input, its sum, its convolution and the normalised one."""


def mask_logits(head: Any, features: Tensor, attention_masks: Tensor, fpn_features: Sequence[Tensor]) -> Tensor:
    """Equal to transformers' DetrMaskHeadSmallConv but for rounding: (B · Q, 1, H, W) logits.

    features: (B, C, h, w); attention_masks: (B, Q, heads, h, w); fpn_features: (B, c, …), coarsest first
    """
    batch, queries = attention_masks.shape[:2]
    first = head.conv1.conv
    of_all, of_query = first.weight.split([features.shape[1], attention_masks.shape[2]], dim=1)
    shared = F.conv2d(features, of_all, first.bias, padding=first.padding)
    maps = [stage.fpn_adapter(each) for stage, each in zip(head.fpn_stages, fpn_features, strict=True)]
    at_once = queries_at_once(maps)
    found: Tensor | None = None
    for image in range(batch):
        for start in range(0, queries, at_once):
            attention = attention_masks[image, start : start + at_once]
            hidden = F.conv2d(attention, of_query, padding=first.padding) + shared[image]
            hidden = head.conv2(head.conv1.activation(head.conv1.norm(hidden)))
            for stage, own in zip(head.fpn_stages, maps, strict=True):
                hidden = F.interpolate(hidden, size=own.shape[-2:], mode="nearest")
                hidden = stage.refine(hidden + own[image])
            logits = head.output_conv(hidden)
            if found is None:
                found = logits.new_empty((batch, queries, *logits.shape[1:]))
            found[image, start : start + at_once] = logits
    assert found is not None
    return found.flatten(0, 1)


def queries_at_once(maps: Sequence[Tensor]) -> int:
    """How many queries make a block. maps: (B, c, …) of each stage, whose largest decides."""
    largest = max(each[0].numel() * each.element_size() for each in maps)
    return max(1, BYTES_AT_ONCE.get(maps[0].device.type, BYTES_AT_ONCE["cpu"]) // (LIVE * largest))
