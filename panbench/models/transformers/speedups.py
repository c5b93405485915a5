"""What makes transformers' networks faster, and wait for the device nowhere; same answers but for rounding.

Each asks in its own way: Mask2Former and OneFormer copy the sizes of their levels in every layer, OneFormer looks for
queries that see nothing, EoMT reads a number of each block, DETR asks whether anything is padding. DETR's mask head
runs in blocks of queries (mask_head.py), EoMT without what only training reads (eomt.py), ResNets without their
batch-norm. A module that is not as this file knows it, of another version of transformers, is left alone.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn

from panbench.models.feeding import constant
from panbench.models.mmdet.deformable import sample
from panbench.models.transformers import eomt
from panbench.models.transformers.mask_head import mask_logits

__all__ = ["speed_up"]


def speed_up(module: nn.Module, device: torch.device) -> None:
    """Changes a network of transformers in place; it can no longer be trained. device: where it runs."""
    for part in module.modules():
        kind = type(part).__name__
        if kind.endswith("PixelDecoderEncoderMultiscaleDeformableAttention"):
            part.forward = types.MethodType(_attend, part)  # type: ignore[method-assign]
        elif kind == "OneFormerTransformerDecoderLayer":
            part.forward = types.MethodType(_layer, part)  # type: ignore[method-assign]
        elif kind in ("DetrEncoder", "DetrDecoder"):
            part.register_forward_pre_hook(_without_padding, with_kwargs=True)
        elif kind == "DetrMaskHeadSmallConv":
            part.forward = types.MethodType(mask_logits, part)  # type: ignore[method-assign]
        elif kind in ("ResNetConvLayer", "ResNetShortCut"):
            _fold_batch_norm(part)
        elif kind == "EomtForUniversalSegmentation":
            eomt.speed_up(part)
        if "attn_mask_probs" in part._buffers and kind.startswith("Eomt"):
            # Looked at in Python, a number for each of the last blocks.
            part.attn_mask_probs = part.attn_mask_probs.cpu()
    if device.type in ("cpu", "cuda"):
        # oneDNN and cuDNN's tensor cores work on channels-last images; of others they make a copy around convolutions.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_batch_norm(layer: Any) -> None:
    """Multiplies the batch-norm of a ResNet's layer into its convolution, in place; DETR's has fixed statistics."""
    convolution, norm = layer.convolution, layer.normalization
    epsilon = _EPSILON_OF_FROZEN if type(norm).__name__ == "DetrFrozenBatchNorm2d" else getattr(norm, "eps", None)
    if type(convolution) is not nn.Conv2d or epsilon is None or norm.running_var is None:
        return
    scale = norm.weight * (norm.running_var + epsilon).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    bias = shift if convolution.bias is None else shift + convolution.bias * scale
    weight = convolution.weight * scale[:, None, None, None]
    convolution.weight, convolution.bias = (nn.Parameter(each.detach(), requires_grad=False) for each in (weight, bias))
    layer.normalization = nn.Identity()


_EPSILON_OF_FROZEN = 1e-5


def _attend(attention: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **given: Any) -> Any:
    """Equal to the deformable attention of Mask2Former and OneFormer: sampled values and weights."""
    sizes, memory = given.get("spatial_shapes_list"), given.get("encoder_hidden_states")
    if sizes is None or memory is None:
        return type(attention).forward(attention, hidden_states, attention_mask, **given)
    positions = given.get("position_embeddings")
    query = hidden_states if positions is None else hidden_states + positions
    levels = constant(tuple((int(height), int(width)) for height, width in sizes), query.device)
    return sample(
        attention,
        (attention.n_heads, attention.n_levels, attention.n_points),
        query,
        memory,
        attention_mask,
        given["reference_points"],
        levels,
        given["level_start_index"],
    )


def _layer(
    layer: Any,
    index: int,
    output: Tensor,
    multi_stage_features: Any,
    multi_stage_positional_embeddings: Any,
    attention_mask: Tensor,
    query_embeddings: Tensor | None = None,
    output_attentions: bool | None = False,
) -> tuple[Any, ...]:
    """Equal to OneFormer's decoder layer; fully masked queries attend everywhere, without a search for them."""
    level = index % layer.num_feature_levels
    output, seen = layer.cross_attn(
        output,
        multi_stage_features[level],
        memory_mask=attention_mask & ~attention_mask.all(dim=-1, keepdim=True),
        memory_key_padding_mask=None,
        pos=multi_stage_positional_embeddings[level],
        query_pos=query_embeddings,
    )
    output, own = layer.self_attn(output, output_mask=None, output_key_padding_mask=None, query_pos=query_embeddings)
    output = layer.ffn(output)
    return (output, own, seen) if output_attentions else (output,)


def _without_padding(part: nn.Module, positional: Any, named: dict[str, Any]) -> Any:
    """Before DETR's encoder and decoder: no mask, as its images share a batch at one exact size, without padding."""
    return positional, {**named, **{name: None for name in _MASKS if name in named}}


_MASKS = ("attention_mask", "encoder_attention_mask")
