"""Measures an evaluation: timestamps on the device, steady rate of the loop, and peak memory."""

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from panbench.base import provenance
from panbench.models.async_device import current


def free_memory() -> None:
    """Frees the memory of models that are no longer used, on the device and, with glibc, on the host."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc retains freed memory, and the next peak would include it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_device_peak(device: torch.device) -> None:
    """Resets the device's peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def forget_peaks(device: torch.device) -> None:
    """Resets device and host peak memory if the system allows it; otherwise the process's peaks remain."""
    forget_device_peak(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> int | None:
    """Returns peak memory in bytes since `forget_peaks`, else of the process; None if the system reports none."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return provenance.peak_host_memory()


class DeviceTimestamp:
    """A timestamp; on CUDA, of the moment when the device reaches it in its queue."""

    def __init__(self, device: torch.device) -> None:
        """Records the current time on a device; on CUDA, when its queue reaches this point."""
        self._time = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        self._device = device
        if device.type == "cuda":
            with current(device):
                # Blocking: waiting threads sleep. A spinning one would take a core from those that load images.
                self._event = torch.cuda.Event(enable_timing=True, blocking=True)
                self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Waits until the GPU has done everything that was queued before this timestamp, such as copies to the CPU."""
        if self._event is not None:
            with current(self._device):
                self._event.synchronize()

    def seconds_since(self, earlier: "DeviceTimestamp") -> float:
        """Returns the seconds since an earlier mark; call `wait` first."""
        if self._event is not None and earlier._event is not None:
            return float(earlier._event.elapsed_time(self._event)) / 1000
        return self._time - earlier._time


_STRETCHES = 10
_MOST_MOMENTS = 4096


@dataclasses.dataclass(frozen=True)
class ImageRate:
    """Images per second after warm-up, and the lowest and highest rate of several stretches of the run."""

    mean: float
    low: float
    high: float


def steady_rate(moments: Sequence[tuple[float, int]]) -> ImageRate | None:
    """Returns the rate of images from the first of `moments` to the last; None for fewer than two.

    moments: (time in seconds, number of images done), ascending
    """
    if len(moments) < 2 or moments[-1][0] <= moments[0][0]:
        return None

    def images_per_second(first: int, last: int) -> float:
        """Returns the rate of images between two measured moments, given by their indices."""
        return (moments[last][1] - moments[first][1]) / (moments[last][0] - moments[first][0])

    # Stretches of equally many batches, at least two each: single batches differ by their images.
    stretches = min(_STRETCHES, (len(moments) - 1) // 2) or 1
    borders = [round(index * (len(moments) - 1) / stretches) for index in range(stretches + 1)]
    rates = [
        images_per_second(*pair) for pair in itertools.pairwise(borders) if moments[pair[1]][0] > moments[pair[0]][0]
    ]
    return ImageRate(images_per_second(0, len(moments) - 1), min(rates), max(rates))


def batches_before_rate(batches: int, images: int, *, lanes: int, workers: int) -> int:
    """Returns how many batches must be done before the measurement of the steady rate starts.

    The first batch of each lane and the first image of each loader thread start together and end at about the same
    time. If the clock started with the first of them, the others would seem to take no time.
    """
    begun_at_once = max(lanes, -(-workers * batches // images)) if images else lanes
    return -(-begun_at_once // lanes) * lanes


class LoopTimer:
    """Measures the duration of a loop and its rate of images; batches may be reported from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes a timer for one loop; call `start` when the loop begins.

        clock: seconds from any origin, as `time.monotonic`.
        """
        self._clock = clock
        self._began = self._ended = clock()
        self._guard = threading.Lock()
        self._batches = self._images = 0
        self._every = 1
        self._moments: list[tuple[int, float, int]] = []

    def start(self) -> None:
        """Starts the clock of the loop."""
        self._began = self._ended = self._clock()

    def stop(self) -> None:
        """Stops the clock, once everything is written."""
        self._ended = self._clock()

    @property
    def wall_seconds(self) -> float:
        """Seconds from start to stop."""
        return self._ended - self._began

    def batch_done(self, images: int) -> None:
        """Counts a batch that is done except for writing; called by the thread that finished its last image."""
        with self._guard:
            self._batches += 1
            self._images += images
            if self._batches % self._every:
                return
            self._moments.append((self._batches, self._clock(), self._images))
            if len(self._moments) > _MOST_MOMENTS:
                # Keep every other moment: half of them measure the rate as well, and memory stays bounded.
                self._every *= 2
                self._moments = [moment for moment in self._moments if moment[0] % self._every == 0]

    def rate(self, *, lanes: int, before: int) -> ImageRate | None:
        """Returns the steady rate; None if there are too few batches.

        lanes: batches that run concurrently and end together, so that only every last one is a moment
        before: the number of batches before the clock starts, from `batches_before_rate`
        """
        with self._guard:
            moments = list(self._moments)
        return steady_rate(
            [(when, images) for number, when, images in moments if number >= before and number % lanes == 0]
        )
