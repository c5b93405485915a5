"""Makes transformers' networks faster, without host synchronisation; same outputs except for rounding.

Synchronisations that are removed: Mask2Former and OneFormer copy the sizes of their levels in every layer, OneFormer
searches for fully masked queries, EoMT reads a number per block, DETR checks for padding. DETR's mask head runs in
blocks of queries, EoMT without outputs for training, ResNets with folded batch norm. Unknown modules, of other versions
of transformers, are not changed.
"""

import types
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.models.async_device import constant
from panbench.models.mmdet.deformable import sample

BYTES_AT_ONCE = {"cpu": 32 << 20, "cuda": 1 << 30}
"""Bytes of a block's activations: within a CPU's cache, or few kernels on a GPU. A block has at least one query."""
LIVE = 4
"""The largest maps that exist at once: a stage's upsampled input, its sum, its convolution and its norm."""


_EPSILON_OF_FROZEN = 1e-5
_MASKS = ("attention_mask", "encoder_attention_mask")


def speed_up(module: nn.Module, device: torch.device) -> None:
    """Makes a network of transformers faster on its device, in place; it can no longer be trained."""
    part: Any
    for part in module.modules():
        kind = type(part).__name__
        if kind.endswith("PixelDecoderEncoderMultiscaleDeformableAttention"):
            part.forward = types.MethodType(_deformable_attention, part)
        elif kind == "OneFormerTransformerDecoderLayer":
            part.forward = types.MethodType(_oneformer_layer, part)
        elif kind in ("DetrEncoder", "DetrDecoder"):
            part.register_forward_pre_hook(_drop_padding_masks, with_kwargs=True)
        elif kind == "DetrMaskHeadSmallConv":
            part.forward = types.MethodType(mask_logits, part)
        elif kind in ("ResNetConvLayer", "ResNetShortCut"):
            _fold_batch_norm(part)
        elif kind == "EomtForUniversalSegmentation":
            part.forward = types.MethodType(eomt_forward, part)
        if "attn_mask_probs" in part._buffers and kind.startswith("Eomt"):
            # Read in Python, one number for each of the last blocks.
            part.attn_mask_probs = part.attn_mask_probs.cpu()
    if device.type in ("cpu", "cuda"):
        # oneDNN and cuDNN's tensor cores use channels-last; other layouts are copied around each convolution.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_batch_norm(layer: Any) -> None:
    """Folds the batch norm of a ResNet layer (also DETR's frozen one) into its convolution, in place."""
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


def _deformable_attention(
    attention: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **given: Any
) -> Any:
    """Runs deformable attention without waiting for the GPU; replaces Mask2Former's and OneFormer's `forward`.

    Returns the attended values, and the weights.
    """
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


def _oneformer_layer(
    layer: Any,
    index: int,
    output: Tensor,
    multi_stage_features: Any,
    multi_stage_positional_embeddings: Any,
    attention_mask: Tensor,
    query_embeddings: Tensor | None = None,
    output_attentions: bool | None = False,
) -> tuple[Any, ...]:
    """Runs OneFormer's decoder layer without waiting for the GPU; replaces its `forward`.

    That synchronises to find fully masked queries.
    """
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


def _drop_padding_masks(part: nn.Module, positional: Any, named: dict[str, Any]) -> Any:
    """Called before DETR's encoder and decoder: drops padding masks, as its batches hold images of one size."""
    return positional, {**named, **{name: None for name in _MASKS if name in named}}


def eomt_forward(module: Any, pixel_values: Tensor, **given: Any) -> Any:
    """Replaces EoMT's forward, with equal outputs except for rounding; eager attention is left to the original.

    In blocks with masked attention, transformers predicts all masks at full size and shrinks them to patches, and
    builds an attention mask of all tokens for each head, although one suffices. [Kerssies et al. 2025, sec. 3]
    """
    config = module.config
    if given or config._attn_implementation == "eager":
        return type(module).forward(module, pixel_values=pixel_values, **given)
    tokens = module.embeddings(pixel_values)
    first, mask = module.num_hidden_layers - config.num_blocks, None
    for number, layer in enumerate(module.layers):
        if number == first:
            tokens = torch.cat([module.query.weight[None].expand(len(tokens), -1, -1), tokens], dim=1)
        if number >= first and (share := module.attn_mask_probs[number - first]) > 0:
            mask = _attention_mask(module, tokens, share)
        tokens = layer(tokens, mask)
    tokens = module.layernorm(tokens)
    masks, classes = module.predict(tokens)
    return types.SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes, last_hidden_state=tokens)


def _attention_mask(module: Any, tokens: Tensor, share: Tensor) -> Tensor:
    """Returns EoMT's attention mask (B, 1, tokens, tokens) bool: queries see the patches on their own masks.

    Queries also attend to all queries.

    share: the share of queries with masked attention; the others are drawn at random, as in transformers
    """
    queries, patches = module.config.num_queries, module.config.num_queries + module.embeddings.num_prefix_tokens
    tokens = module.layernorm(tokens)
    maps = tokens[:, patches:].transpose(1, 2).unflatten(2, module.grid_size)
    # Resizing is linear: resize 384 channels instead of 200 masks that would have to be computed first.
    maps = F.interpolate(module.upscale_block(maps), size=module.grid_size, mode="bilinear")
    logits = torch.bmm(module.mask_head(tokens[:, :queries]), maps.flatten(2))
    seen = torch.ones((len(tokens), tokens.shape[1], tokens.shape[1]), dtype=torch.bool, device=tokens.device)
    seen[:, :queries, patches:] = logits > 0
    if share < 1:
        free = torch.rand(len(tokens), queries, device=tokens.device) > share
        seen[:, :queries] |= free[..., None]
    return seen[:, None]


def mask_logits(head: Any, features: Tensor, attention_masks: Tensor, fpn_features: Sequence[Tensor]) -> Tensor:
    """Replaces the forward of DETR's mask head, in blocks of queries; logits (B · Q, 1, H, W), equal but for rounding.

    transformers repeats the image's maps for each of 100 queries and runs the head on all at once: an image at 800×1067
    takes more than 10 GB. The queries differ only in their attention, 8 of the first convolution's 264 input channels;
    the rest of that convolution and the 1×1 convolutions of the backbone's maps are shared. Convolutions are linear, so
    they are split by input channels; group norm runs query by query. [Carion et al. 2020, sec. 4]

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
    """Returns how many queries DETR's mask head computes in one block.

    maps: (B, c, …) of each stage; the largest one decides
    """
    largest = max(each[0].numel() * each.element_size() for each in maps)
    return max(1, BYTES_AT_ONCE.get(maps[0].device.type, BYTES_AT_ONCE["cpu"]) // (LIVE * largest))
