"""Runs mmdet's deformable attention without host synchronisation. [Zhu et al. 2021, sec. 4.1]

mmdet and mmcv keep the sizes of the levels on the device and read them back in every layer; here they stay on the host.
"""

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from panbench.models.async_device import constant
from panbench.models.attention import ModuleCall, scatter_attention
from panbench.models.mmdet import operators


class FeatureLevels(NamedTuple):
    """Holds sizes and offsets of the feature maps that are concatenated in one token sequence.

    sizes: (height, width) of each, on the host; shapes: the sizes as (levels, 2) int64 on the device; starts: (levels,)
    int64 on the device, the first token of each
    """

    sizes: tuple[tuple[int, int], ...]
    shapes: Tensor
    starts: Tensor


def feature_levels_of(maps: Sequence[Tensor]) -> FeatureLevels:
    """Returns sizes and offsets of feature maps (n, channels, h, w), to be concatenated in this order."""
    sizes = tuple((int(each.shape[-2]), int(each.shape[-1])) for each in maps)
    starts = tuple(sum(h * w for h, w in sizes[:index]) for index in range(len(sizes)))
    return FeatureLevels(sizes, constant(sizes, maps[0].device), constant(starts, maps[0].device))


def encode(
    encoder: Any,
    tokens: Tensor,
    positions: Tensor,
    levels: FeatureLevels,
    references: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Runs the layers of an mmdet deformable encoder on tokens (n, Σ h·w, channels).

    positions: (n, Σ h·w, channels); references: (n or 1, Σ h·w, levels, 2), x and y from 0 to 1; padding: (n, Σ h·w)
    bool, true where tokens are padding
    """
    for layer in encoder.layers:
        tokens = layer(
            query=tokens,
            query_pos=positions,
            key_padding_mask=padding,
            spatial_shapes=levels.shapes,
            level_start_index=levels.starts,
            reference_points=references,
        )
    return tokens


def keep_in_float32(*modules: nn.Module) -> None:
    """Makes small modules that predict coordinates compute in float32 under autocast, in place.

    bfloat16 rounds coordinates: at 1,333 pixels they would be off by up to 2.6 pixels, and again in every layer that
    refines them.
    """
    module: Any
    for module in modules:
        module.forward = types.MethodType(_forward_in_float32, module)


def _forward_in_float32(module: Any, values: Tensor) -> Tensor:
    """Runs a module's own forward in float32, without autocast."""
    with torch.autocast(values.device.type, enabled=False):
        return type(module).forward(module, values.float())  # type: ignore[no-any-return]


def speed_up(module: nn.Module) -> None:
    """Replaces the forward of every MultiScaleDeformableAttention in a module by `attend`, in place."""
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
    **given: Any,
) -> Tensor:
    """Replaces the forward of mmcv's MultiScaleDeformableAttention at inference, without host synchronisation."""
    value = query if value is None else value
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    shape = (attention.num_heads, attention.num_levels, attention.num_points)
    samples = (given[name] for name in ("reference_points", "spatial_shapes", "level_start_index"))
    attended, _weights = sample(attention, shape, query, value, key_padding_mask, *samples)
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
    """Runs deformable attention; returns the attended values, and weights (n, queries, heads, levels, points).

    attention: mmcv's or transformers' module, whose linear layers have the same names; shape: heads, levels, points;
    query, value: (n, queries or keys, channels), the query with its position; padding: (n, keys) bool, or None;
    references: as in `sampling_locations`; shapes, starts: of `FeatureLevels`
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
        samples = sampling_locations(references, offsets, shapes)
        attended = operators.attend_deformably(value, shapes, starts, samples, weights)
    return attention.output_proj(attended), weights


def sampling_locations(references: Tensor, offsets: Tensor, shapes: Tensor) -> Tensor:
    """Computes where deformable attention samples: (n, queries, heads, levels, points, 2), x and y from 0 to 1.

    references: (n, queries, levels, 2) points or (…, 4) boxes; offsets: in cells of a level from points, in halves of
    width and height over the number of points from boxes; shapes: (levels, 2), height and width
    """
    around = references[:, :, None, :, None]
    if references.shape[-1] == 2:
        return around + offsets / shapes.flip(1)[:, None]
    return around[..., :2] + offsets / offsets.shape[-2] * around[..., 2:] * 0.5


def sampled_attention(attention: Any, call: ModuleCall) -> Tensor:
    """Returns where the first image's queries attend, (queries, h, w) on the finest level, mean over heads.

    attention: a MultiScaleDeformableAttention, batch first; call: one of its calls, with arguments by name
    Samples of coarser levels are scattered to the corresponding positions of the finest.
    """
    given = call.named
    query = given["query"] if given.get("query_pos") is None else given["query"] + given["query_pos"]
    shape = (query.shape[1], attention.num_heads, attention.num_levels, attention.num_points)
    offsets = attention.sampling_offsets(query[0]).view(*shape, 2)
    weights = attention.attention_weights(query[0]).view(*shape[:2], -1).softmax(dim=-1)
    sizes = given["spatial_shapes"]
    locations = sampling_locations(given["reference_points"][:1], offsets[None], sizes)[0]
    finest = max(sizes.tolist(), key=lambda size: size[0] * size[1])
    return scatter_attention(locations.flatten(2, 3), weights, (finest[0], finest[1]))
