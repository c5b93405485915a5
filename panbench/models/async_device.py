"""Helpers for asynchronous devices: few large kernels, no host synchronisation.

A CPU is synchronous: there, several small passes over values that are still in the cache are faster.
"""

import contextlib
import functools
from typing import Any

import torch

copies = 0
"""How often `to_host` was called in this process: the intended synchronisations."""


def is_async(device: torch.device) -> bool:
    """Returns whether operations on the device are only queued and run later, as on a GPU."""
    return device.type != "cpu"


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which a GPU is this thread's current CUDA device.

    A new thread starts on the first GPU, and pinned memory and events would open a context there.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor from the host to a device; only queues the copy, except on Metal (it could read freed memory)."""
    with current(device):
        ready = values.pin_memory() if device.type == "cuda" and not values.is_pinned() else values
        return ready.to(device, non_blocking=device.type != "mps")


@functools.lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """Returns numbers (nested tuples) as a tensor on a device, cached because a copy synchronises.

    Do not change the tensor.
    """
    with torch.inference_mode(False):
        return upload(torch.tensor(values), device)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Copies a tensor from the device to the host, also where CUDA is set to refuse synchronisation."""
    global copies
    copies += 1
    if values.device.type != "cuda":
        return values.cpu()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        return values.cpu()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
