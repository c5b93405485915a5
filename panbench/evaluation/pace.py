"""How fast a loop is: when its batches were done, the steady rate between them, and the wall time of it all."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Sequence

_STRETCHES = 10
_MOST_MOMENTS = 4096


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second once everything is warm, and the lowest and highest of a few stretches of the run."""

    mean: float
    low: float
    high: float


def steady_rate(moments: Sequence[tuple[float, int]]) -> Rate | None:
    """The images that were done after the first moment, by the time since; None when there is one moment or none.

    moments: when (in seconds) how many images were done, ascending
    """
    if len(moments) < 2 or moments[-1][0] <= moments[0][0]:
        return None

    def rate(first: int, last: int) -> float:
        return (moments[last][1] - moments[first][1]) / (moments[last][0] - moments[first][0])

    # Stretches of equal numbers of batches, at least two each: one alone shows how images differ, not the machine.
    stretches = min(_STRETCHES, (len(moments) - 1) // 2) or 1
    borders = [round(index * (len(moments) - 1) / stretches) for index in range(stretches + 1)]
    rates = [rate(*pair) for pair in itertools.pairwise(borders) if moments[pair[1]][0] > moments[pair[0]][0]]
    return Rate(rate(0, len(moments) - 1), min(rates), max(rates))


def batches_before_rate(batches: int, images: int, *, lanes: int, workers: int) -> int:
    """How many batches have to be done before the clock of the steady rate starts.

    All that the loop begins at once ends at about the same time: a batch in each lane, an image in each thread that
    loads. Counted from the first of these on, the others would seem to have taken no time.
    """
    begun_at_once = max(lanes, -(-workers * batches // images)) if images else lanes
    return -(-begun_at_once // lanes) * lanes


class Pace:
    """The stopwatch of one loop. Batches may be reported from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any origin, as `time.monotonic`."""
        self._clock = clock
        self._began = self._ended = clock()
        self._guard = threading.Lock()
        self._batches = self._images = 0
        self._every = 1
        self._moments: list[tuple[int, float, int]] = []

    def start(self) -> None:
        """The loop begins."""
        self._began = self._ended = self._clock()

    def stop(self) -> None:
        """The loop is over, all that it writes included."""
        self._ended = self._clock()

    @property
    def wall(self) -> float:
        """Seconds from start to stop."""
        return self._ended - self._began

    def batch_done(self, images: int) -> None:
        """A batch is through every stage but writing. To be called by the thread that did its last piece of work."""
        with self._guard:
            self._batches += 1
            self._images += images
            if self._batches % self._every:
                return
            self._moments.append((self._batches, self._clock(), self._images))
            if len(self._moments) > _MOST_MOMENTS:
                # Half of them tell the rate as well; memory does not grow with the number of images.
                self._every *= 2
                self._moments = [moment for moment in self._moments if moment[0] % self._every == 0]

    def rate(self, *, lanes: int, before: int) -> Rate | None:
        """The steady rate, or None where too few batches make one.

        lanes: so many batches are in the model at a time and end together, so only the last of them is a moment
        before: how many batches the clock waits for, as of `batches_before_rate`
        """
        with self._guard:
            moments = list(self._moments)
        return steady_rate(
            [(when, images) for number, when, images in moments if number >= before and number % lanes == 0]
        )
