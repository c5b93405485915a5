"""Linear layers by oneDNN in place of MKL, on processors where that is much faster: on AMD it is twice as fast.

PyTorch sends float32 products of linear layers to MKL, and on one thread those of 1×1 convolutions, too; bfloat16 goes
to oneDNN anyway. `packed` stands in for `nn.Linear.forward` and `nn.Conv2d.forward` while one evaluation runs: weights
are packed at the first call, that answer is held to PyTorch's, and all is dropped at the end. The operator is private
to PyTorch, whose Inductor calls it; where it is not, nothing is packed.

`PANBENCH_ONEDNN=0` leaves it out and `1` takes it; else a probe decides, for heavy networks alone. run.json has the
decision among the settings (`linear`), which a resumed run and shards must share.
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

__all__ = ["VARIABLE", "packed", "serves"]

VARIABLE = "PANBENCH_ONEDNN"
FASTER = 1.3
"""How many times as fast oneDNN must be: it is twice on AMD and 1.0 to 1.2 times on Intel, so noise decides nowhere."""


def serves(device: torch.device, precision: str, parameters: int) -> bool:
    """Whether a network's linear layers are packed for an evaluation."""
    asked = os.environ.get(VARIABLE, "")
    if device.type != "cpu" or precision not in ("fp32", "ieee") or asked == "0" or not _is_there():
        return False
    return asked == "1" or (parameters >= HEAVY_PARAMETERS and is_faster())


@functools.cache
def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


@functools.cache
def is_faster() -> bool:
    """The probe: one layer of a transformer both ways, in turn, by CPU time; some 30 ms."""
    layer = nn.Linear(256, 1024)
    values = torch.linspace(-1, 1, 2048 * 256).view(2048, 256)
    with torch.inference_mode(), packed(layer):
        ways = (lambda: nn.Linear.forward(layer, values), lambda: layer(values))
        spent = [[_seconds(way) for way in ways] for _ in range(6)][1:]
    theirs, ours = (min(each) for each in zip(*spent, strict=True))
    return theirs >= FASTER * ours


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@contextlib.contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """While the block runs, linear layers of a network run packed; its parameters and classes are not touched."""
    replaced = []
    for part in module.modules():
        way = _linear if _is_linear(part) else _convolution if _is_pointwise(part) else None
        if way is not None and "forward" not in vars(part):
            part.forward = way(part)  # type: ignore[method-assign]
            replaced.append(part)
    try:
        yield
    finally:
        for part in replaced:
            del part.forward


def _is_linear(part: nn.Module) -> bool:
    kind = type(part)
    # mmcv's wrapper differs in that it takes empty tensors.
    return kind is nn.Linear or (kind.__module__, kind.__name__) == ("mmcv.cnn.bricks.wrappers", "Linear")


def _is_pointwise(part: nn.Module) -> bool:
    return type(part) is nn.Conv2d and (part.kernel_size, part.stride, part.padding, part.groups) == (
        *((1, 1), (1, 1), (0, 0)),
        1,
    )


def _linear(part: Any) -> Callable[[Tensor], Tensor]:
    weight: list[Tensor] = []

    def run(values: Tensor) -> Tensor:
        if not weight:
            weight.append(torch.ops.mkldnn._reorder_linear_weight(part.weight, values.numel() // values.shape[-1]))
        return torch.ops.mkldnn._linear_pointwise(values, weight[0], part.bias, "none", [], "")  # type: ignore[no-any-return]

    return _checked(run, lambda values: F.linear(values, part.weight, part.bias))


def _convolution(part: Any) -> Callable[[Tensor], Tensor]:
    def run(values: Tensor) -> Tensor:
        if torch.get_num_threads() > 1:  # PyTorch takes oneDNN itself
            return F.conv2d(values, part.weight, part.bias)
        return torch.mkldnn_convolution(values, part.weight, part.bias, [0, 0], [1, 1], [1, 1], 1)

    return _checked(run, lambda values: F.conv2d(values, part.weight, part.bias))


def _checked(run: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`run` once its first answer was `plain`'s; `plain` under grad or autocast, and for no values."""
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
                warnings.warn("oneDNN's answer of a layer is not PyTorch's, which is taken.", stacklevel=2)
                return expected
        return found

    return forward
