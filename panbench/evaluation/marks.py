"""Moments of a batch on its way through the device; between two of them is a stage."""

import time

import torch

from panbench.models.feeding import current

__all__ = ["Mark"]


class Mark:
    """This moment; on CUDA, when the device comes here."""

    def __init__(self, device: torch.device) -> None:
        self._time = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        self._device = device
        if device.type == "cuda":
            with current(device):
                # Blocking: threads that wait for it sleep. One that spins takes a core from those that load images.
                self._event = torch.cuda.Event(enable_timing=True, blocking=True)
                self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Returns when the device is past this mark, with all that was copied to the host before it."""
        if self._event is not None:
            with current(self._device):
                self._event.synchronize()

    def since(self, earlier: "Mark") -> float:
        """The seconds from an earlier mark, once the device is past this one."""
        if self._event is not None and earlier._event is not None:
            return float(earlier._event.elapsed_time(self._event)) / 1000
        return self._time - earlier._time
