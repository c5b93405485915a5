"""mmdet's deformable attention without waiting for the device, and where it samples. [Zhu et al. 2021, sec. 4.1]

mmdet and mmcv keep the sizes of the levels on the device and read them back in every layer; here they stay on the host.
"""

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from panbench.models.attention import Call, scattered
from panbench.models.feeding import constant
from panbench.models.mmdet import operators

__all__ = ["Levels", "attend", "encode", "keep_in_float32", "levels_of", "sample", "sampled_attention", "speed_up"]


class Levels(NamedTuple):
    """Feature maps concatenated into one row of tokens.

    sizes: (height, width) of each, on the host; shapes: the same as (levels, 2) int64 on the device; starts: (levels,)
    int64 on the device, the first token of each
    """

    sizes: tuple[tuple[int, int], ...]
    shapes: Tensor
    starts: Tensor


def levels_of(maps: Sequence[Tensor]) -> Levels:
    """The levels of feature maps (n, channels, h, w), in their order."""
    sizes = tuple((int(each.shape[-2]), int(each.shape[-1])) for each in maps)
    starts = tuple(sum(h * w for h, w in sizes[:index]) for index in range(len(sizes)))
    return Levels(sizes, constant(sizes, maps[0].device), constant(starts, maps[0].device))


def encode(
    encoder: Any, tokens: Tensor, positions: Tensor, levels: Levels, valid_ratios: Tensor, padding: Tensor | None = None
) -> Tensor:
    """Equal to mmdet's DeformableDetrTransformerEncoder: tokens (n, Σ h·w, channels) in and out.

    positions: (n, Σ h·w, channels); valid_ratios: (n, levels, 2), the share of width and height that is not padding;
    padding: (n, Σ h·w) bool, true where tokens are padding
    """
    references = encoder.get_encoder_reference_points(levels.sizes, valid_ratios, device=tokens.device)
    for layer in encoder.layers:
        tokens = layer(
            query=tokens,
            query_pos=positions,
            key_padding_mask=padding,
            spatial_shapes=levels.shapes,
            level_start_index=levels.starts,
            valid_ratios=valid_ratios,
            reference_points=references,
        )
    return tokens


def keep_in_float32(*modules: nn.Module) -> None:
    """Makes small modules that output coordinates compute in float32 under autocast, in place.

    bfloat16 has 256 steps from 0.5 to 1: at 1,333 pixels a coordinate would be off by up to two, and by as much again
    in every layer that refines it.
    """
    for module in modules:
        module.forward = types.MethodType(_forward_in_float32, module)  # type: ignore[method-assign]


def _forward_in_float32(module: Any, values: Tensor) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):
        return type(module).forward(module, values.float())  # type: ignore[no-any-return]


def speed_up(module: nn.Module) -> None:
    """Gives mmcv's MultiScaleDeformableAttention, wherever the module has one, the forward of this file, in place."""
    for part in module.modules():
        if type(part).__name__ == "MultiScaleDeformableAttention" and part.batch_first:
            part.forward = types.MethodType(attend, part)


def attend(
    attention: Any,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    identity: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    reference_points: Any = None,
    spatial_shapes: Any = None,
    level_start_index: Any = None,
    **_: Any,
) -> Tensor:
    """Equal to mmcv's MultiScaleDeformableAttention at inference, batch first, without host synchronisation."""
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    shape = (attention.num_heads, attention.num_levels, attention.num_points)
    attended, _weights = sample(
        attention, shape, query, value, key_padding_mask, reference_points, spatial_shapes, level_start_index
    )
    return attended + identity


def sample(
    attention: Any,
    shape: tuple[int, int, int],
    query: Tensor,
    value: Tensor,
    padding: Tensor | None,
    references: Tensor,
    shapes: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor]:
    """What queries see, (n, queries, channels), and the weights of it, (n, queries, heads, levels, points).

    attention: whose four linear layers mmcv and transformers name alike; shape: its heads, levels and points;
    query, value: (n, queries or keys, channels), positions added to the one; padding: (n, keys) bool, or None;
    references: as in `places_of`; shapes, starts: of `Levels`
    """
    heads, levels, points = shape
    n, count, _channels = query.shape
    value = attention.value_proj(value)
    if padding is not None:
        value = value.masked_fill(padding[..., None], 0.0)
    offsets = attention.sampling_offsets(query).view(n, count, heads, levels, points, 2)
    weights = attention.attention_weights(query).view(n, count, heads, levels * points).softmax(-1)
    weights = weights.view(n, count, heads, levels, points)
    value = value.view(n, value.shape[1], heads, -1)
    if value.device.type == "cpu":
        attended = operators.deformable_attention_around(value, shapes, references, offsets, weights)
    else:
        places = places_of(references, offsets, shapes)
        attended = operators.attend_deformably(value, shapes, starts, places, weights)
    return attention.output_proj(attended), weights


def places_of(references: Tensor, offsets: Tensor, shapes: Tensor) -> Tensor:
    """(n, queries, heads, levels, points, 2) where is sampled, x and y from 0 to 1.

    references: (n, queries, levels, 2) points or (…, 4) boxes; offsets: in cells of a level from points, in halves of
    width and height over the number of points from boxes; shapes: (levels, 2), height and width
    """
    around = references[:, :, None, :, None]
    if references.shape[-1] == 2:
        return around + offsets / shapes.flip(1)[:, None]
    return around[..., :2] + offsets / offsets.shape[-2] * around[..., 2:] * 0.5


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
    locations = places_of(given["reference_points"][:1], offsets[None], sizes)[0]
    finest = max(sizes.tolist(), key=lambda size: size[0] * size[1])
    return scattered(locations.flatten(2, 3), weights, (finest[0], finest[1]))
