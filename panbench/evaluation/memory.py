"""Memory between settings and models: given back, and its peaks counted anew."""

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

from panbench.base import provenance


def free_memory() -> None:
    """Gives back the memory of models that nobody uses any more; their modules refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps freed memory, and the next peak would begin with it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_device_peak(device: torch.device) -> None:
    """Makes the device's next peak that of what comes now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def forget_peaks(device: torch.device) -> None:
    """Makes the next peaks those of what comes now, where the system lets us; else they are those of the process."""
    forget_device_peak(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> int | None:
    """Peak memory in bytes since `forget_peaks`, else of the process; None if the system does not report it."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return provenance.peak_host_memory()
