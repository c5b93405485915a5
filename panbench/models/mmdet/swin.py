"""Runs mmdet's Swin on a CPU in fewer passes over memory, with the same features except for rounding.

mmdet writes the scores of all windows, adds the position bias and the mask, and applies the softmax, each in a pass
over
memory; PyTorch's fused attention takes bias and mask along. Feed-forward modules run in blocks of tokens. Features are
returned channels-last, the layout of the following convolutions. [Liu et al. 2021]
"""

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models.mmdet.pixel_decoder import feed_forward


def speed_up(backbone: Any) -> None:
    """Replaces the forwards of mmdet's SwinTransformer by this file's, in place; it can no longer be trained."""
    backbone.forward = types.MethodType(features, backbone)
    for stage in backbone.stages:
        for block in stage.blocks:
            block.attn.w_msa.forward = types.MethodType(attend, block.attn.w_msa)
            block.ffn.forward = types.MethodType(feed_forward, block.ffn)


def features(backbone: Any, pixels: Tensor) -> list[Tensor]:
    """Replaces the backbone's forward; returns (B, channels, h, w) features of each requested stage, channels-last."""
    tokens, size = backbone.patch_embed(pixels)
    if backbone.use_abs_pos_embed:
        tokens = tokens + backbone.absolute_pos_embed
    found = []
    for number, stage in enumerate(backbone.stages):
        tokens, size, own, (height, width) = stage(tokens, size)
        if number in backbone.out_indices:
            own = getattr(backbone, f"norm{number}")(own)
            found.append(own.view(len(own), height, width, -1).permute(0, 3, 1, 2))
    return found


def attend(attention: Any, windows: Tensor, mask: Tensor | None = None) -> Tensor:
    """Replaces the forward of mmdet's WindowMSA on (windows, tokens, channels).

    mask: (windows of an image, tokens, tokens), added to the scores; windows are ordered by image
    """
    count, tokens, _channels = windows.shape
    bias = attention.relative_position_bias_table[attention.relative_position_index.flatten()]
    bias = bias.view(1, tokens, tokens, -1).permute(0, 3, 1, 2).contiguous()
    seen = bias if mask is None else bias + mask[:, None]
    heads = attention.qkv(windows).view(count, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    found = [
        F.scaled_dot_product_attention(query, key, value, seen.to(value.dtype), scale=attention.scale)
        for query, key, value in (image.unbind() for image in heads.split(count if mask is None else len(mask), dim=1))
    ]
    return attention.proj(torch.cat(found).transpose(1, 2).reshape(windows.shape))  # type: ignore[no-any-return]
