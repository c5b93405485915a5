"""Whether work is fed to a device that runs by itself: then few large operations, and none that the host must wait for.

On a CPU nothing is fed: an answer is there when the call returns, and passes over what is warm in the cache win.
"""

import contextlib
import functools
from typing import Any

import torch

__all__ = ["constant", "current", "is_fed", "to_host", "upload"]

copies = 0
"""How often `to_host` was called: the waits of this process that are meant."""


def is_fed(device: torch.device) -> bool:
    """Whether the host only queues work for the device."""
    return device.type != "cpu"


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes a GPU the current one of this thread. Every new thread begins with the first one, and what asks for none by
    name (pinned memory, events) would open a context there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values of the host on a device. The copy is only queued, but on Metal, which would read what is freed by then."""
    with current(device):
        ready = values.pin_memory() if device.type == "cuda" and not values.is_pinned() else values
        return ready.to(device, non_blocking=device.type != "mps")


@functools.lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """Numbers in nested tuples as a tensor on a device; copied there once, as that means waiting. Not to be changed."""
    with torch.inference_mode(False):
        return upload(torch.tensor(values), device)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Copies device values to the host: the only synchronisation allowed where CUDA is set to refuse others."""
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
