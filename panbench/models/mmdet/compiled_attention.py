"""Deformable attention on CUDA by compiled code: mmcv's where that is installed, else a kernel of Hugging Face's hub.

The package `kernels` (extra `cuda`) downloads the kernel once. Its first answer is held to PyTorch's: a wrong one,
or one that cannot be had, is left out with a warning.
"""

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["kernel_of_hub", "run"]

Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


@functools.cache
def kernel_of_hub(plain: Callable[..., Tensor], device: torch.device) -> Forward | None:
    """The kernel that transformers uses, if it answers as `plain` does on this device; None without `kernels`."""
    if importlib.util.find_spec("kernels") is None:
        return None
    try:
        module = importlib.import_module("kernels").get_kernel("kernels-community/deformable-detr", version=1)
        shapes, starts = (torch.tensor(each, device=device) for each in ([[3, 4]], [0]))
        value, places, weights = (
            torch.linspace(-0.2, 1.2, math.prod(size), device=device).view(size)
            for size in ((2, 12, 8, 32), (2, 5, 8, 1, 4, 2), (2, 5, 8, 1, 4))
        )
        found = run(module.ms_deform_attn_forward, value, shapes, starts, places, weights)
        if not torch.allclose(found, plain(value, shapes, places, weights), atol=1e-4):
            raise ArithmeticError("its answer is not PyTorch's")
    except Exception as error:
        warnings.warn(f"The hub's kernel of deformable attention is left out: {error}", stacklevel=2)
        return None
    return module.ms_deform_attn_forward  # type: ignore[no-any-return]


def run(forward: Forward, value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Calls a kernel as it wants to be called: in float32, all images in one step, on the device of its tensors."""
    value_, places, weights = (each.float().contiguous() for each in (value, places, weights))
    with torch.cuda.device_of(value):
        return forward(value_, shapes, starts, places, weights, len(value)).to(value.dtype)
