"""Linear layers by oneDNN in place of MKL, on processors where that is much faster: on AMD it is twice as fast.

PyTorch sends float32 products of linear layers to MKL, and on one thread also those of 1×1 convolutions; bfloat16
always goes to oneDNN. `packed` replaces `nn.Linear.forward` and `nn.Conv2d.forward` during one evaluation: weights are
packed at the first call, whose output is compared with PyTorch's, and dropped at the end. The operator is private to
PyTorch (Inductor calls it); if it is missing, nothing is packed.

`PANBENCH_ONEDNN=0` disables it and `1` enables it; otherwise a probe decides, for heavy networks only. run.json stores
the decision (`linear` in its settings); resumed runs and shards must have the same one.
"""

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.models.devices import HEAVY_PARAMETERS

VARIABLE = "PANBENCH_ONEDNN"
FASTER = 1.3
"""The least speedup to use oneDNN: AMD has 2.0 and Intel 1.0 to 1.2, so noise does not decide."""


def serves(device: torch.device, precision: str, parameters: int) -> bool:
    """Returns whether oneDNN should compute a network's linear layers during an evaluation."""
    setting = os.environ.get(VARIABLE, "")
    if device.type != "cpu" or precision not in ("fp32", "ieee") or setting == "0" or not _is_available():
        return False
    return setting == "1" or (parameters >= HEAVY_PARAMETERS and is_faster())


@functools.cache
def _is_available() -> bool:
    """Returns whether this PyTorch has oneDNN's operators for packed linear layers."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


@functools.cache
def is_faster() -> bool:
    """Returns whether oneDNN is faster than MKL here: times a transformer layer with both, 30 ms of CPU time."""
    layer = nn.Linear(256, 1024)
    values = torch.linspace(-1, 1, 2048 * 256).view(2048, 256)
    with torch.inference_mode(), packed(layer):
        variants = (lambda: nn.Linear.forward(layer, values), lambda: layer(values))
        spent = [[_cpu_seconds(variant) for variant in variants] for _ in range(6)][1:]
    theirs, ours = (min(each) for each in zip(*spent, strict=True))
    return theirs >= FASTER * ours


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """Returns the CPU time in seconds that calling `work` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


@contextlib.contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Computes a network's linear layers by oneDNN within the block, on weights packed at first use."""
    replaced = []
    for part in module.modules():
        variant = _packed_linear if _is_linear(part) else _packed_convolution if _is_pointwise(part) else None
        if variant is not None and "forward" not in vars(part):
            part.forward = variant(part)  # type: ignore[method-assign]
            replaced.append(part)
    try:
        yield
    finally:
        for part in replaced:
            del part.forward


def _is_linear(part: nn.Module) -> bool:
    """Returns whether a module is PyTorch's Linear, or mmcv's wrapper of it."""
    kind = type(part)
    # mmcv's wrapper differs in that it takes empty tensors.
    return kind is nn.Linear or (kind.__module__, kind.__name__) == ("mmcv.cnn.bricks.wrappers", "Linear")


def _is_pointwise(part: nn.Module) -> bool:
    """Returns whether a module is a 1×1 convolution, which is a linear layer at each pixel."""
    return type(part) is nn.Conv2d and (part.kernel_size, part.stride, part.padding, part.groups) == (
        *((1, 1), (1, 1), (0, 0)),
        1,
    )


def _packed_linear(part: Any) -> Callable[[Tensor], Tensor]:
    """Returns a forward for a linear layer by oneDNN; its weights are packed at the first call."""
    weight: list[Tensor] = []

    def run(values: Tensor) -> Tensor:
        """Computes the linear layer by oneDNN; packs its weights at the first call."""
        if not weight:
            weight.append(torch.ops.mkldnn._reorder_linear_weight(part.weight, values.numel() // values.shape[-1]))
        return torch.ops.mkldnn._linear_pointwise(values, weight[0], part.bias, "none", [], "")  # type: ignore[no-any-return]

    return _verified_forward(run, lambda values: F.linear(values, part.weight, part.bias))


def _packed_convolution(part: Any) -> Callable[[Tensor], Tensor]:
    """Returns a forward for a 1×1 convolution by oneDNN."""

    def run(values: Tensor) -> Tensor:
        """Computes the 1×1 convolution by oneDNN, also on one thread."""
        if torch.get_num_threads() > 1:  # PyTorch takes oneDNN itself
            return F.conv2d(values, part.weight, part.bias)
        return torch.mkldnn_convolution(values, part.weight, part.bias, [0, 0], [1, 1], [1, 1], 1)

    return _verified_forward(run, lambda values: F.conv2d(values, part.weight, part.bias))


def _verified_forward(run: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a layer's forward function that uses oneDNN, but PyTorch if their outputs differ at the first call.

    It uses PyTorch (`plain`) under autograd and autocast, too.
    """
    trusted: list[bool] = []

    def forward(values: Tensor) -> Tensor:
        is_plain = values.dtype != torch.float32 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if is_plain or not values.numel() or trusted == [False]:
            return plain(values)
        found = run(values)
        if not trusted:
            expected = plain(values)
            trusted.append(torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))
            if trusted == [False]:
                warnings.warn("oneDNN's output of a layer differs from PyTorch's, which is used instead.", stacklevel=2)
                return expected
        return found

    return forward
