"""Masks read at the cells of another grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sampled"]


def sampled(maps: Tensor, y: Tensor | None, x: Tensor | None) -> Tensor:
    """(K, rows, columns): maps (K, h, w) read bilinearly at coordinates in cells; None keeps an axis."""
    height, width = maps.shape[-2:]
    y = torch.arange(height, device=maps.device, dtype=torch.float32) + 0.5 if y is None else y
    x = torch.arange(width, device=maps.device, dtype=torch.float32) + 0.5 if x is None else x
    grid = torch.stack(
        [
            (x * 2 / width - 1)[None, :].expand(len(y), len(x)),
            (y * 2 / height - 1)[:, None].expand(len(y), len(x)),
        ],
        dim=-1,
    )
    sampled = F.grid_sample(maps[None].float(), grid[None], align_corners=False, padding_mode="border")
    return sampled[0]
