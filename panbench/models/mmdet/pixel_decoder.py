"""Runs Mask2Former's pixel decoder at inference, without host synchronisation.

mmdet's forward keeps the sizes of its levels on the device and reads them back in each layer; here they stay on the
host, and reference points and sine positions, which depend on sizes alone, are computed once per image size.
[Zhu et al. 2021, sec. 4; Cheng et al. 2022, sec. 3.2.1]
"""

import types
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models import async_device
from panbench.models.mmdet import deformable

MOST_SIZES = 8
"""The number of image sizes whose geometry is cached, 0.4 MB each at 800×1088.

Computing one takes 3 ms (R50, one thread), of some 3 s for an image."""

KEYS_AT_ONCE = 2048
"""Keys per block: 8 MB of an R50's hidden values. All 17,850 keys take 73 MB, newly allocated each time."""


@dataclass(frozen=True)
class Geometry:
    """Holds reference points and positional encodings, which depend only on the sizes of the feature maps.

    references: (1, keys, levels, 2), x and y from 0 to 1
    rows, columns: for each level (h, channels / 2) and (w, channels / 2), its sine positions plus embedding: the first
        half of a cell's channels depends only on its row, the second on its column
    """

    levels: deformable.FeatureLevels
    references: Tensor
    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]

    def positions(self) -> Tensor:
        """Builds sine positions plus level embeddings, (1, keys, channels).

        Not cached, as they take 18 MB per size.
        """
        half = self.rows[0].shape[1]
        keys = sum(height * width for height, width in self.levels.sizes)
        found = self.rows[0].new_empty((1, keys, 2 * half))
        start = 0
        for (height, width), rows, columns in zip(self.levels.sizes, self.rows, self.columns, strict=True):
            level = found[:, start : start + height * width].view(height, width, 2 * half)
            level[..., :half] = rows[:, None]
            level[..., half:] = columns
            start += height * width
        return found


def speed_up(decoder: Any) -> None:
    """Replaces the forward of mmdet's MSDeformAttnPixelDecoder by `decode`, in place; ignores other classes."""
    if type(decoder).__name__ != "MSDeformAttnPixelDecoder":
        return
    attentions = [layer.self_attn for layer in decoder.encoder.layers]
    if any(type(each).__name__ != "MultiScaleDeformableAttention" or not each.batch_first for each in attentions):
        return
    decoder.geometries = OrderedDict()
    decoder.forward = types.MethodType(decode, decoder)
    for layer in decoder.encoder.layers:
        if type(layer.ffn).__name__ == "FFN":
            layer.ffn.forward = types.MethodType(feed_forward, layer.ffn)


def decode(decoder: Any, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Replaces the pixel decoder's forward; returns mask features and the levels' features, coarsest first."""
    last = decoder.num_input_levels - 1
    chosen = [features[last - index] for index in range(decoder.num_encoder_levels)]
    projected = [convolution(level) for convolution, level in zip(decoder.input_convs, chosen, strict=True)]
    geometry = geometry_of(decoder, chosen)
    memory = torch.cat([level.flatten(2).permute(0, 2, 1) for level in projected], dim=1)
    levels, positions = geometry.levels, geometry.positions().expand(len(memory), -1, -1)
    memory = deformable.encode(decoder.encoder, memory, positions, levels, geometry.references)
    maps = memory.permute(0, 2, 1).split([height * width for height, width in levels.sizes], dim=-1)
    outputs = [each.reshape(len(memory), -1, *size) for each, size in zip(maps, levels.sizes, strict=True)]
    for index in range(last - decoder.num_encoder_levels, -1, -1):
        lateral = decoder.lateral_convs[index](features[index])
        # PyTorch does not recognise the view of a batch of one as channels-last: it would resize it in another layout,
        # and convert the larger level twice.
        coarse = outputs[-1].clone(memory_format=torch.channels_last)
        above = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        merged = above.add_(lateral) if above.dtype == lateral.dtype else above + lateral
        outputs.append(decoder.output_convs[index](merged))
    return decoder.mask_feature(outputs[-1]), outputs[: decoder.num_outs]


def feed_forward(part: Any, x: Tensor, identity: Tensor | None = None) -> Tensor:
    """Runs mmcv's FFN on (B, keys, C); on a CPU in blocks of keys whose hidden values fit into the cache."""
    original = type(part).forward
    if async_device.is_async(x.device) or x.shape[1] <= KEYS_AT_ONCE:
        return cast(Tensor, original(part, x, identity))
    pieces = x.split(KEYS_AT_ONCE, dim=1)
    others = [None] * len(pieces) if identity is None else identity.split(KEYS_AT_ONCE, dim=1)
    return torch.cat([original(part, piece, other) for piece, other in zip(pieces, others, strict=True)], dim=1)


def geometry_of(decoder: Any, features: Sequence[Tensor]) -> Geometry:
    """Returns reference points and positional encodings for feature maps, coarsest first; cached by their sizes."""
    levels = deformable.feature_levels_of(features)
    cache: OrderedDict[Any, Geometry] = decoder.geometries
    name = (levels.sizes, features[0].device, decoder.level_encoding.weight.data_ptr())
    found = cache.get(name)
    if found is None:
        # Not as inference tensors: they may be used outside of inference mode, too.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(features[0].device.type, enabled=False):
            found = cache[name] = _compute_geometry(decoder, levels, features[0].device)
        while len(cache) > MOST_SIZES:
            cache.popitem(last=False)
    return found


def _compute_geometry(decoder: Any, levels: deformable.FeatureLevels, device: torch.device) -> Geometry:
    """Computes reference points and positional encodings for feature maps of these sizes."""
    references, rows, columns = [], [], []
    for number, (height, width) in enumerate(levels.sizes):
        level = decoder.num_input_levels - number - 1
        grid = decoder.point_generator.single_level_grid_priors((height, width), level, device=device)
        references.append(grid / (levels.shapes[number].flip(0)[None] * decoder.strides[level]))
        embedding = decoder.level_encoding.weight[number]
        rows.append(_sine_positions(decoder, (height, 1), embedding)[:, 0].chunk(2, dim=-1)[0])
        columns.append(_sine_positions(decoder, (1, width), embedding)[0].chunk(2, dim=-1)[1])
    everywhere = torch.cat(references)[None, :, None].expand(-1, -1, len(levels.sizes), -1)
    return Geometry(levels, everywhere, tuple(map(torch.clone, rows)), tuple(map(torch.clone, columns)))


def _sine_positions(decoder: Any, size: tuple[int, int], embedding: Tensor) -> Tensor:
    """Returns the sine positional encoding of a feature map plus its level's embedding, (h, w, channels)."""
    nowhere = torch.zeros((1, *size), dtype=torch.bool, device=embedding.device)
    sine = decoder.postional_encoding(nowhere)  # so spelt in mmdet
    return (embedding.view(1, -1, 1, 1) + sine)[0].permute(1, 2, 0)
