"""Compiled deformable attention on CUDA: mmcv's if it is installed, else a kernel of Hugging Face's hub.

The package `kernels` (extra `cuda`) downloads the kernel once. Its first output is compared with PyTorch's: a kernel
that differs or cannot be loaded is not used, with a warning.
"""

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


@functools.cache
def kernel_of_hub(plain: Callable[..., Tensor], device: torch.device) -> Forward | None:
    """Returns Hugging Face's compiled kernel of deformable attention if its output equals PyTorch's; else None.

    `plain` is PyTorch's. None also without the package `kernels`.
    """
    if importlib.util.find_spec("kernels") is None:
        return None
    try:
        module = importlib.import_module("kernels").get_kernel("kernels-community/deformable-detr", version=1)
        shapes, starts = (torch.tensor(each, device=device) for each in ([[3, 4]], [0]))
        value, points, weights = (
            torch.linspace(-0.2, 1.2, math.prod(size), device=device).view(size)
            for size in ((2, 12, 8, 32), (2, 5, 8, 1, 4, 2), (2, 5, 8, 1, 4))
        )
        found = run(module.ms_deform_attn_forward, value, shapes, starts, points, weights)
        if not torch.allclose(found, plain(value, shapes, points, weights), atol=1e-4):
            raise ArithmeticError("its output differs from PyTorch's")
    except Exception as error:
        warnings.warn(f"The hub's kernel of deformable attention is not used: {error}", stacklevel=2)
        return None
    return module.ms_deform_attn_forward  # type: ignore[no-any-return]


def run(forward: Forward, value: Tensor, shapes: Tensor, starts: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Calls a compiled kernel of deformable attention in float32, for all images in one step, on their device."""
    value_, points, weights = (each.float().contiguous() for each in (value, points, weights))
    with torch.cuda.device_of(value):
        return forward(value_, shapes, starts, points, weights, len(value)).to(value.dtype)
