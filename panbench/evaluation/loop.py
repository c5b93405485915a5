"""The loop of an evaluation: threads, device and batches.

Three things go on at once: threads ahead decode and resize images, the device runs forward pass and fusion, and threads
behind read the ground truth, number segments, count overlaps and write PNGs. All queues are bounded, so memory does not
depend on the number of images. A batch holds images of one padded size: each has the zeros around it that it has alone.
"""

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from panbench.base import provenance
from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.base.reporter import SILENT, Reporter
from panbench.base.threads import default_threads
from panbench.evaluation.marks import Mark
from panbench.evaluation.memory import forget_device_peak, free_memory
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.pace import Pace, Rate, batches_before_rate
from panbench.evaluation.sinks import Later, SeenImage, Sink
from panbench.models.candidates import NonFiniteOutput, check_classes
from panbench.models.devices import AUTOCAST, HEAVY_PARAMETERS, lower_precision, memory_errors
from panbench.models.model import LoadedImage, Model, way_of_running
from panbench.panoptic import pixels
from panbench.panoptic.types import Scene
from panbench.runs import digest_of

__all__ = ["Loop", "Report", "block_is_full", "lanes_of", "worker_threads"]

BLOCK_IMAGES = 200
BLOCK_SECONDS = 10.0
"""A part is written when a block has this many images, or has been open for so long: what a kill can cost."""


def block_is_full(images: int, since: float) -> bool:
    """Whether a block of so many images, which was begun at `since` (time.monotonic), is to be written."""
    return images >= BLOCK_IMAGES or time.monotonic() - since >= BLOCK_SECONDS


def lanes_of(model: Model, threads: int) -> int:
    """How many batches are in the model at a time, each with its share of torch's threads.

    Of a light model on a CPU, two: while one batch is in an operator that runs on one thread, the other has work for
    the rest. A heavy one keeps all threads busy by itself, and the memory of a second batch would gain nothing. The
    model's size decides and no measurement, as the number of threads decides how sums are rounded.
    """
    params = model.describe().params
    light = params is None or params < HEAVY_PARAMETERS
    return 2 if model.device.type == "cpu" and threads > 1 and light else 1


def worker_threads(asked: int | None) -> int:
    """How many threads load images, and as many score: as asked for, else as many as cores, at most 8."""
    return asked or default_threads()


def _threads_of_one(count: int, name: str) -> ThreadPoolExecutor:
    """`count` threads, all started, that never share out an operation of torch among threads of their own.

    A thread takes torch's number when it first asks for it, so that number is 1 until all have asked.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, name)
    together = threading.Barrier(count)

    def start() -> None:
        torch.get_num_threads()
        together.wait()

    try:
        for started in [pool.submit(start) for _ in range(count)]:
            started.result()
    except BaseException:
        # Ctrl-C between two of them: those that wait for the others must not wait for ever.
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(before)
    return pool


@dataclasses.dataclass(frozen=True)
class Report:
    """What a loop did: seconds by stage that all sinks share, images done, images left out and why, peaks in bytes.

    rate: None when there were too few batches to measure one
    """

    seconds: dict[str, float]
    images: int
    rate: Rate | None
    skipped: dict[int, str]
    host_memory: int | None
    device_memory: int | None


_Found = list[list[Any]]
"""What the host's work on some images returned, for each sink in turn."""


class _Batch:
    """Images that went through the model together, and the host's work on each: one for each sink, or None."""

    def __init__(self, images: Sequence[LoadedImage], work: Sequence[Sequence[Later | None]], *marks: Mark) -> None:
        """marks: the begin and the end of the forward pass, and when all is on the host"""
        self.images, self.work = images, work
        self.began, self.ended, self.last = marks
        self.left = len(images)
        """Images whose work is not done yet."""


class Loop:
    """One forward pass over a plan of batches, and what it has done so far."""

    def __init__(
        self, model: Model, sinks: Sequence[Sink], options: EvaluateOptions, reporter: Reporter, expected: int
    ) -> None:
        """sinks: what takes the model's outputs; they are closed when the loop ends, however it ends

        expected: images of the whole evaluation, with those that earlier ones have done
        """
        self.model, self.sinks, self.options, self.reporter = model, sinks, options, reporter
        self.expected = expected
        self.workers = worker_threads(options.workers)
        self.seconds = {"load": 0.0, "forward": 0.0}
        self.pace = Pace()
        self.done_now = 0
        self.skipped: dict[int, str] = {}
        self._done_before = 0
        self._image_digests: dict[int, bytes] = {}
        self._lanes = self._before_rate = 1
        self._largest: int | None = None
        self._clock = threading.Lock()

    def report(self) -> Report:
        """What was done so far."""
        device = self.model.device
        return Report(
            seconds={**self.seconds, "wall": self.pace.wall},
            images=self.done_now,
            rate=self.pace.rate(lanes=self._lanes, before=self._before_rate),
            skipped=self.skipped,
            host_memory=provenance.peak_host_memory(),
            device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def run(self, plan: Sequence[Sequence[Scene]]) -> Report:
        """Evaluates the batches in order; raises what a stage raises, after the finished batches are stored."""
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(pixels.one_thread())
                stack.enter_context(self.model.evaluating())
                for sink in reversed(self.sinks):
                    stack.callback(sink.close)
                self._run(plan)
        finally:
            self.pace.stop()
        return self.report()

    def _run(self, plan: Sequence[Sequence[Scene]]) -> None:
        self.pace.start()
        forget_device_peak(self.model.device)
        loaders, hosts = _threads_of_one(self.workers, "load"), _threads_of_one(self.workers, "score")
        threads = torch.get_num_threads()
        lanes = self._lanes = lanes_of(self.model, threads)
        images = sum(map(len, plan))
        self._done_before = self.expected - images
        self._before_rate = batches_before_rate(len(plan), images, lanes=lanes, workers=self.workers)
        torch.set_num_threads(max(1, threads // lanes))
        # On CUDA one thread feeds the device, and what comes after the device runs in `hosts`.
        models = ThreadPoolExecutor(lanes, "model") if lanes > 1 else None
        behind: deque[tuple[int, list[Future[_Found]]]] = deque()
        images_behind = 0
        try:
            for loaded in self._load_ahead(plan, loaders):
                if models is not None:
                    behind.append((len(loaded), [models.submit(self._predict_and_finish, loaded)]))
                else:
                    for batch in self._predict(loaded):
                        places = range(len(batch.images))
                        behind.append((len(places), [hosts.submit(self._finish, batch, place) for place in places]))
                images_behind += len(loaded)
                # So many images may wait for the host, or a batch for each lane and one more.
                while behind and (
                    (images_behind > 2 * self.workers and len(behind) > lanes + 1)
                    or all(future.done() for future in behind[0][1])
                ):
                    count, pending = behind.popleft()
                    images_behind -= count
                    self._collect(pending)
            while behind:
                self._collect(behind.popleft()[1])
        except BaseException as error:
            if models is not None and not isinstance(error, Exception):
                # After Ctrl-C, do not wait for forward passes that have not begun.
                models.shutdown(wait=False, cancel_futures=True)
            # Keep what went through the model, in whole batches: the batches of a resumed run are then the same.
            self.reporter = SILENT
            for _, pending in behind:
                if all(not future.cancelled() and future.exception() is None for future in pending):
                    self._collect(pending)
            raise
        finally:
            self.pace.stop()
            for pool in (loaders, hosts, models):
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    def _load_ahead(self, plan: Sequence[Sequence[Scene]], pool: ThreadPoolExecutor) -> Iterator[list[LoadedImage]]:
        """The loaded images of each batch, while later ones are loading."""
        ahead: deque[list[Future[tuple[LoadedImage, float]]]] = deque()
        waiting = iter(plan)
        images_ahead = 0
        while True:
            while images_ahead < 2 * self.workers or len(ahead) < 2:
                batch = next(waiting, None)
                if batch is None:
                    break
                ahead.append([pool.submit(self._load, scene) for scene in batch])
                images_ahead += len(batch)
            if not ahead:
                return
            loaded = []
            futures = ahead.popleft()
            images_ahead -= len(futures)
            for future in futures:
                try:
                    image, seconds = future.result()
                except _BadImage as bad:
                    if not self.options.skip_bad_images:
                        raise bad.error from bad.error.__cause__
                    self.skipped[bad.image_id] = str(bad.error)
                    self.reporter.notice(f"Skipped: {bad.error}")
                    continue
                self.seconds["load"] += seconds
                loaded.append(image)
            if loaded:
                yield loaded

    def _load(self, scene: Scene) -> tuple[LoadedImage, float]:
        began = time.perf_counter()
        try:
            loaded = self.model.load(scene)
        except BadDataset as error:
            raise _BadImage(scene.image.id, error) from error
        read = loaded.facts and loaded.facts.sha256
        self._image_digests[scene.image.id] = read or digest_of(scene.image_path)
        return loaded, time.perf_counter() - began

    def _predict(self, batch: list[LoadedImage]) -> Iterator[_Batch]:
        """The batch behind the model; in halves when memory is short."""
        size = min(len(batch), self._largest or len(batch))
        start = 0
        while start < len(batch):
            part = batch[start : start + size]
            predicted = None
            try:
                with memory_errors():
                    predicted = self._predict_at_once(part)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    height, width = part[0].inputs.shape[-2:]
                    device, is_half = self.model.device, self.model.precision in AUTOCAST
                    lower = "" if is_half else f"--precision {lower_precision(device)}, "
                    raise BadArgument(
                        f"{device} has too little memory for one image of {height}×{width} "
                        f"({part[0].scene.image_path}). Try {lower}a smaller model, or --device cpu."
                    ) from error
            if predicted is None:
                # Only here: the error's traceback held all that was on the device.
                free_memory()
                size = self._largest = max(1, size // 2)
                self.reporter.notice(f"Out of memory on {self.model.device}: continuing with batches of {size}.")
                continue
            start += len(part)
            yield predicted

    def _predict_at_once(self, batch: list[LoadedImage]) -> _Batch:
        began = Mark(self.model.device)
        try:
            outputs = self.model.candidates(batch)
            check_classes(outputs, self.model.class_names, self.model.spec.title)
        except NonFiniteOutput as error:
            raise self._not_finite(batch, error) from error
        ended = Mark(self.model.device)
        work: list[list[Later | None]] = [[] for _ in batch]
        for sink in self.sinks:
            lacking = [place for place, image in enumerate(batch) if image.scene.image.id not in sink.done]
            chosen = [batch[place] for place in lacking], [outputs[place] for place in lacking]
            by_place = dict(zip(lacking, sink.on_outputs(*chosen) if lacking else (), strict=True))
            for place, of_image in enumerate(work):
                of_image.append(by_place.get(place))
        return _Batch(batch, work, began, ended, Mark(self.model.device))

    def _not_finite(self, batch: Sequence[LoadedImage], error: NonFiniteOutput) -> BadModel:
        where = ", ".join(f"{image.scene.image.file_name} (image {image.scene.image.id})" for image in batch)
        return BadModel(
            f"{self.model.spec.title} gives {error} that are not finite numbers on {where}. "
            f"Check the weights, or use --precision fp32 if this was {way_of_running(self.model)['precision']}."
        )

    def _predict_and_finish(self, loaded: list[LoadedImage]) -> _Found:
        """A whole batch, from loaded images to what the sinks keep, in one of the threads that run the model."""
        return [
            found
            for batch in self._predict(loaded)
            for place in range(len(batch.images))
            for found in self._finish(batch, place)
        ]

    def _finish(self, batch: _Batch, place: int) -> _Found:
        """The host's work on one image, in a thread behind the device."""
        batch.last.wait()
        image = batch.images[place]
        seen = SeenImage(image, self._image_digests.pop(image.scene.image.id, b""))
        try:
            found = [None if later is None else later(seen) for later in batch.work[place]]
        except NonFiniteOutput as error:
            raise self._not_finite([image], error) from error
        with self._clock:
            batch.left -= 1
            if not batch.left:
                self.pace.batch_done(len(batch.images))
                self.seconds["forward"] += batch.ended.since(batch.began)
        return [found]

    def _collect(self, batch: Sequence[Future[_Found]]) -> None:
        images = [found for future in batch for found in future.result()]
        for place, sink in enumerate(self.sinks):
            if own := [found[place] for found in images if found[place] is not None]:
                sink.keep(own)
        self.done_now += len(images)
        self.reporter.progress(self.model.spec.title, self._done_before + self.done_now, self.expected)


class _BadImage(Exception):
    def __init__(self, image_id: int, error: BadDataset) -> None:
        super().__init__(str(error))
        self.image_id = image_id
        self.error = error
