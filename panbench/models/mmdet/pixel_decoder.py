"""Mask2Former's pixel decoder at inference, without asking the device for anything.

mmdet's forward keeps the sizes of its levels on the device and reads them back, layer by layer; here they stay on the
host, and what follows from them alone (reference points, sine positions) is computed once for each size of image.
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

from panbench.models import feeding
from panbench.models.mmdet import deformable

MOST_SIZES = 8
"""Of so many sizes the geometry is kept, 0.4 MB each at 800×1088: sine positions as rows and columns, not as maps.

Another one takes 3 ms (an R50's, one thread), of some 3 s for an image."""

KEYS_AT_ONCE = 2048
"""Of an R50's hidden values so many keys have 8 MB; those of all 17,850 have 73 MB, new from the system each time."""


@dataclass(frozen=True)
class Geometry:
    """Tensors that depend only on the level sizes, coarsest first; all on the device.

    references: (1, keys, levels, 2), x and y from 0 to 1
    rows, columns: of each level (h, channels / 2) and (w, channels / 2), its sine positions and embedding: the first
        half of the channels at a cell depends on its row alone, the second on its column
    """

    levels: deformable.Levels
    references: Tensor
    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]

    def positions(self) -> Tensor:
        """(1, keys, channels) sine positions and level embeddings, made anew: kept, they would be 18 MB a size."""
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
    """Gives mmdet's MSDeformAttnPixelDecoder the forward of this module, in place; any other class is left alone."""
    if type(decoder).__name__ != "MSDeformAttnPixelDecoder":
        return
    attentions = [layer.self_attn for layer in decoder.encoder.layers]
    if any(type(each).__name__ != "MultiScaleDeformableAttention" or not each.batch_first for each in attentions):
        return
    decoder.geometries = OrderedDict()
    decoder.forward = types.MethodType(decode, decoder)
    for layer, attention in zip(decoder.encoder.layers, attentions, strict=True):
        attention.forward = types.MethodType(deformable.attend, attention)
        if type(layer.ffn).__name__ == "FFN":
            layer.ffn.forward = types.MethodType(feed_forward, layer.ffn)


def decode(decoder: Any, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Equal to mmdet's forward: mask features (B, C, h, w) and each level's, coarsest first, (B, C, h, w)."""
    last = decoder.num_input_levels - 1
    chosen = [features[last - place] for place in range(decoder.num_encoder_levels)]
    projected = [convolution(level) for convolution, level in zip(decoder.input_convs, chosen, strict=True)]
    geometry = geometry_of(decoder, chosen)
    memory = torch.cat([level.flatten(2).permute(0, 2, 1) for level in projected], dim=1)
    positions = geometry.positions().expand(len(memory), -1, -1)
    for layer in decoder.encoder.layers:
        memory = layer(
            query=memory,
            query_pos=positions,
            key_padding_mask=None,
            spatial_shapes=geometry.levels.shapes,
            level_start_index=geometry.levels.starts,
            reference_points=geometry.references,
        )
    memory = memory.permute(0, 2, 1)
    levels = memory.split([height * width for height, width in geometry.levels.sizes], dim=-1)
    outputs = [
        level.reshape(len(memory), -1, height, width)
        for level, (height, width) in zip(levels, geometry.levels.sizes, strict=True)
    ]
    for place in range(last - decoder.num_encoder_levels, -1, -1):
        lateral = decoder.lateral_convs[place](features[place])
        # A view of a batch of one has strides by which PyTorch does not know it as channels-last: it would resize it in
        # another layout and turn all of the larger level around, twice.
        coarse = outputs[-1].clone(memory_format=torch.channels_last)
        above = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        merged = above.add_(lateral) if above.dtype == lateral.dtype else above + lateral
        outputs.append(decoder.output_convs[place](merged))
    return decoder.mask_feature(outputs[-1]), outputs[: decoder.num_outs]


def feed_forward(part: Any, x: Tensor, identity: Tensor | None = None) -> Tensor:
    """Equal to mmcv's FFN, (B, keys, C) in and out; on a CPU in blocks of keys, so hidden values stay in the cache."""
    whole = type(part).forward
    if feeding.is_fed(x.device) or x.shape[1] <= KEYS_AT_ONCE:
        return cast(Tensor, whole(part, x, identity))
    pieces = x.split(KEYS_AT_ONCE, dim=1)
    others = [None] * len(pieces) if identity is None else identity.split(KEYS_AT_ONCE, dim=1)
    return torch.cat([whole(part, piece, other) for piece, other in zip(pieces, others, strict=True)], dim=1)


def geometry_of(decoder: Any, features: Sequence[Tensor]) -> Geometry:
    """The geometry of the levels, coarsest first; cached for the last few sizes."""
    levels = deformable.levels_of(features)
    kept: OrderedDict[Any, Geometry] = decoder.geometries
    name = (levels.sizes, features[0].device, decoder.level_encoding.weight.data_ptr())
    found = kept.get(name)
    if found is None:
        # Not an inference tensor: it may be asked for outside of inference mode, too.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(features[0].device.type, enabled=False):
            found = kept[name] = _geometry(decoder, levels, features[0].device)
        while len(kept) > MOST_SIZES:
            kept.popitem(last=False)
    return found


def _geometry(decoder: Any, levels: deformable.Levels, device: torch.device) -> Geometry:
    references, rows, columns = [], [], []
    for number, (height, width) in enumerate(levels.sizes):
        level = decoder.num_input_levels - number - 1
        grid = decoder.point_generator.single_level_grid_priors((height, width), level, device=device)
        references.append(grid / (levels.shapes[number].flip(0)[None] * decoder.strides[level]))
        embedding = decoder.level_encoding.weight[number]
        rows.append(_sine(decoder, (height, 1), embedding)[:, 0].chunk(2, dim=-1)[0])
        columns.append(_sine(decoder, (1, width), embedding)[0].chunk(2, dim=-1)[1])
    everywhere = torch.cat(references)[None, :, None].expand(-1, -1, len(levels.sizes), -1)
    return Geometry(levels, everywhere, tuple(map(torch.clone, rows)), tuple(map(torch.clone, columns)))


def _sine(decoder: Any, size: tuple[int, int], embedding: Tensor) -> Tensor:
    """(h, w, channels) sine positions of a map with the level's embedding added."""
    nowhere = torch.zeros((1, *size), dtype=torch.bool, device=embedding.device)
    sine = decoder.postional_encoding(nowhere)  # so spelt in mmdet
    return (embedding.view(1, -1, 1, 1) + sine)[0].permute(1, 2, 0)
