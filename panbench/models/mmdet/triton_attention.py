"""Multi-scale deformable attention as one Triton kernel; off unless PANBENCH_TRITON=1, and held to ours at first use.

Triton comes with PyTorch's CUDA wheels. The kernel is compiled when it first runs; where that fails, or its answer is
not ours, `attend` gives None from then on and a warning says why. No GPU has run it: TRITON_INTERPRET=1 has.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["attend", "begin_anew", "is_wanted", "why_not_used"]

VARIABLE = "PANBENCH_TRITON"
TOLERANCE = 1e-4

_failed: list[str] = []
_checked: set[tuple[Any, ...]] = set()


def is_wanted(device: torch.device) -> bool:
    """Whether the kernel was asked for and can run there: on CUDA, or anywhere in Triton's interpreter."""
    if os.environ.get(VARIABLE) != "1" or _failed:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def begin_anew() -> None:
    """Forgets what failed and what was compared: the kernel is tried and held to ours again."""
    _failed.clear()
    _checked.clear()


def why_not_used() -> str | None:
    """Why the kernel gave no answer since `begin_anew`: its failure, or that nothing asked it; None where it did."""
    if _failed:
        return _failed[-1]
    return None if _checked else "nothing asked for it"


def attend(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    *,
    fallback: Callable[..., Tensor],
) -> Tensor | None:
    """Like operators.deformable_attention; None where the kernel is unavailable.

    starts: (levels,) int64, the first key of each level; fallback: the function that its first answers are held to
    """
    kind = (value.device, value.dtype, value.shape[2:], tuple(locations.shape[2:]))
    try:
        found = _run(value, shapes, starts, locations, weights)
        if kind not in _checked:
            # The one wait of a process and kind: an answer that nobody compared is not to be trusted.
            expected = fallback(value, shapes, locations, weights)
            worst = float((found.float() - expected.float()).abs().max())
            if not worst <= TOLERANCE * max(1.0, float(expected.float().abs().max())):
                raise ArithmeticError(f"it differs from PyTorch's answer by {worst:.3g}")
            _checked.add(kind)
    except Exception as error:
        _failed.append(f"{type(error).__name__}: {error}")
        warnings.warn(f"The Triton kernel of deformable attention is left out ({_failed[-1]}).", stacklevel=2)
        return None
    return found


def _run(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    batch, keys, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    value, locations, weights = value.contiguous(), locations.float().contiguous(), weights.float().contiguous()
    output = torch.empty((batch, queries, heads * channels), dtype=torch.float32, device=value.device)
    width = 1 << (channels - 1).bit_length()
    kernel: Any = importlib.import_module("panbench.models.mmdet.triton_kernel")
    # Triton launches on the current device, whichever the tensors are on.
    with torch.cuda.device_of(value):
        kernel.sum_of_samples[(batch * queries * heads,)](
            value, shapes.int(), starts.int(), locations, weights, output,
            queries, keys, heads, channels, levels, points, width,
        )  # fmt: skip
    return output.to(value.dtype)
