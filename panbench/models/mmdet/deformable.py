"""Where mmdet's deformable cross-attention samples, read off one of its calls. [Zhu et al. 2021, sec. 4.1]"""

from typing import Any

import torch
from torch import Tensor

from panbench.models.attention import Call, scattered

__all__ = ["sampled_attention"]


def sampled_attention(attention: Any, call: Call) -> Tensor:
    """(queries, h, w) of the finest level: how much the queries of the first image take from where, mean of the heads.

    attention: a MultiScaleDeformableAttention with batches first; call: one of its calls, with arguments by name
    What each head samples from coarser levels is scattered to the same place of the finest.
    """
    given = call.named
    query = given["query"] if given.get("query_pos") is None else given["query"] + given["query_pos"]
    shape = (query.shape[1], attention.num_heads, attention.num_levels, attention.num_points)
    offsets = attention.sampling_offsets(query[0]).view(*shape, 2)
    weights = attention.attention_weights(query[0]).view(*shape[:2], -1).softmax(dim=-1)
    sizes = given["spatial_shapes"]
    reference = given["reference_points"][0][:, None, :, None]
    if reference.shape[-1] == 2:
        locations = reference + offsets / torch.stack([sizes[:, 1], sizes[:, 0]], dim=-1)[None, None, :, None]
    else:
        locations = reference[..., :2] + offsets / attention.num_points * reference[..., 2:] * 0.5
    finest = max(sizes.tolist(), key=lambda size: size[0] * size[1])
    return scattered(locations.flatten(2, 3), weights, (finest[0], finest[1]))
