"""Runs a model over the batches of an evaluation, while other threads load and score images.

Three stages run at once: loader threads decode and resize images, the device runs forward pass and fusion, and host
threads read the ground truth, number segments, count overlaps and write PNGs. All queues are bounded, so memory does
not depend on the number of images. A batch holds images of one padded size, so batching does not change an image's
padding.
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
from panbench.base.program import default_threads
from panbench.base.reporter import SILENT, Reporter
from panbench.evaluation.measuring import (
    DeviceTimestamp,
    ImageRate,
    LoopTimer,
    batches_before_rate,
    forget_device_peak,
    free_memory,
)
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.sinks import Later, SeenImage, Sink
from panbench.models.candidates import NonFiniteOutput, check_classes
from panbench.models.devices import AUTOCAST, HEAVY_PARAMETERS, lower_precision, memory_errors
from panbench.models.model import LoadedImage, Model, running_settings
from panbench.panoptic import pixels
from panbench.panoptic.types import Scene
from panbench.runs import digest_of


def lanes_of(model: Model, threads: int) -> int:
    """Returns how many batches the model computes concurrently, each with its share of torch's threads.

    Small models run two batches concurrently on a CPU, so single-threaded operators do not idle the other cores. A
    large one keeps all threads busy by itself, so a second batch would only take memory. The model's size decides, not
    a measurement: the number of threads affects how sums are rounded, and must not vary from run to run.
    """
    params = model.describe().params
    light = params is None or params < HEAVY_PARAMETERS
    return 2 if model.device.type == "cpu" and threads > 1 and light else 1


def worker_threads(requested: int | None) -> int:
    """Returns how many threads load images, and as many score: as requested, else one per core, at most 8."""
    return requested or default_threads()


def _single_threaded_pool(count: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool of `count` started threads that run torch operations single-threaded.

    A thread adopts torch's global number of threads when it first queries it: the number is 1 until all have done so.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, name)
    together = threading.Barrier(count)

    def wait_for_others() -> None:
        """Runs first in each new thread: makes it adopt torch's number of threads, then waits for the others."""
        torch.get_num_threads()
        together.wait()

    try:
        for started in [pool.submit(wait_for_others) for _ in range(count)]:
            started.result()
    except BaseException:
        # Ctrl-C between two starts: threads that wait for the others must not wait for ever.
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(before)
    return pool


@dataclasses.dataclass(frozen=True)
class LoopResult:
    """What one pass of the loop gives: its duration, speed and peak memory, and the images that were skipped.

    seconds: by stage, shared by all sinks; skipped: reasons by image id; host_memory, device_memory: peaks in bytes
    rate: None if there were too few batches to measure one
    """

    seconds: dict[str, float]
    images: int
    rate: ImageRate | None
    skipped: dict[int, str]
    host_memory: int | None
    device_memory: int | None


_Found = list[list[Any]]
"""For each image, the result of the host's work for each sink."""


class _Batch:
    """A batch after the forward pass, with the work on its images that is left to CPU threads.

    work: for each image that of each sink, or None
    """

    def __init__(
        self, images: Sequence[LoadedImage], work: Sequence[Sequence[Later | None]], *marks: DeviceTimestamp
    ) -> None:
        """Takes a batch's images, the pending work on each, and the timestamps of its forward pass.

        marks: start and end of the forward pass, and the moment when everything is on the host
        """
        self.images, self.work = images, work
        self.began, self.ended, self.last = marks
        self.left = len(images)
        """The number of images with pending work."""


class Loop:
    """Runs a model once over planned batches: loads images, predicts, and passes the outputs to sinks."""

    def __init__(
        self, model: Model, sinks: Sequence[Sink], options: EvaluateOptions, reporter: Reporter, expected: int
    ) -> None:
        """Takes a model, the sinks (consumers of its outputs) and the options of one evaluation.

        sinks: take the model's outputs; always closed when the loop ends

        expected: images of the complete evaluation, including those of earlier sessions
        """
        self.model, self.sinks, self.options, self.reporter = model, sinks, options, reporter
        self.expected = expected
        self.workers = worker_threads(options.workers)
        self.seconds = {"load": 0.0, "forward": 0.0}
        self.timer = LoopTimer()
        self.done_now = 0
        self.skipped: dict[int, str] = {}
        self._done_before = 0
        self._image_digests: dict[int, bytes] = {}
        self._lanes = self._before_rate = 1
        self._largest: int | None = None
        self._seconds_lock = threading.Lock()

    def result(self) -> LoopResult:
        """Returns the loop's duration, speed and peak memory so far, and the images that were skipped."""
        device = self.model.device
        return LoopResult(
            seconds={**self.seconds, "wall": self.timer.wall_seconds},
            images=self.done_now,
            rate=self.timer.rate(lanes=self._lanes, before=self._before_rate),
            skipped=self.skipped,
            host_memory=provenance.peak_host_memory(),
            device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def run(self, plan: Sequence[Sequence[Scene]]) -> LoopResult:
        """Evaluates the batches in order; stores the finished batches before it re-raises a stage's exception."""
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(pixels.one_thread())
                stack.enter_context(self.model.evaluating())
                for sink in reversed(self.sinks):
                    stack.callback(sink.close)
                self._run_stages(plan)
        finally:
            self.timer.stop()
        return self.result()

    def _run_stages(self, plan: Sequence[Sequence[Scene]]) -> None:
        """Loads, predicts and scores concurrently, in threads for each, with few images waiting in between."""
        self.timer.start()
        forget_device_peak(self.model.device)
        loaders, hosts = _single_threaded_pool(self.workers, "load"), _single_threaded_pool(self.workers, "score")
        threads = torch.get_num_threads()
        lanes = self._lanes = lanes_of(self.model, threads)
        images = sum(map(len, plan))
        self._done_before = self.expected - images
        self._before_rate = batches_before_rate(len(plan), images, lanes=lanes, workers=self.workers)
        torch.set_num_threads(max(1, threads // lanes))
        # On CUDA this thread launches all work on the device, and `hosts` run the later stages.
        models = ThreadPoolExecutor(lanes, "model") if lanes > 1 else None
        behind: deque[tuple[int, list[Future[_Found]]]] = deque()
        images_behind = 0
        try:
            for loaded in self._load_ahead(plan, loaders):
                if models is not None:
                    behind.append((len(loaded), [models.submit(self._predict_and_finish, loaded)]))
                else:
                    for batch in self._predict(loaded):
                        indices = range(len(batch.images))
                        behind.append(
                            (len(indices), [hosts.submit(self._finish_image, batch, index) for index in indices])
                        )
                images_behind += len(loaded)
                # Bound the images that wait for the host; always allow a batch per lane and one more.
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
                # After Ctrl-C, do not wait for forward passes that have not started.
                models.shutdown(wait=False, cancel_futures=True)
            # Store the finished complete batches, so that a resumed run has the same batches.
            self.reporter = SILENT
            for _, pending in behind:
                if all(not future.cancelled() and future.exception() is None for future in pending):
                    self._collect(pending)
            raise
        finally:
            self.timer.stop()
            for pool in (loaders, hosts, models):
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    def _load_ahead(self, plan: Sequence[Sequence[Scene]], pool: ThreadPoolExecutor) -> Iterator[list[LoadedImage]]:
        """Yields the loaded images of each batch, while later ones are loading."""
        ahead: deque[list[Future[tuple[LoadedImage, float]]]] = deque()
        waiting = iter(plan)
        images_ahead = 0
        while True:
            while images_ahead < 2 * self.workers or len(ahead) < 2:
                batch = next(waiting, None)
                if batch is None:
                    break
                ahead.append([pool.submit(self._load_scene, scene) for scene in batch])
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

    def _load_scene(self, scene: Scene) -> tuple[LoadedImage, float]:
        """Loads an image in a loader thread and hashes its file; returns it and the seconds. Raises _BadImage."""
        began = time.perf_counter()
        try:
            loaded = self.model.load(scene)
        except BadDataset as error:
            raise _BadImage(scene.image.id, error) from error
        read = loaded.facts and loaded.facts.sha256
        self._image_digests[scene.image.id] = read or digest_of(scene.image_path)
        return loaded, time.perf_counter() - began

    def _predict(self, batch: list[LoadedImage]) -> Iterator[_Batch]:
        """Runs the model on a batch; yields it in one piece, or in smaller ones if the device's memory is short."""
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
                # Outside of `except`: the error's traceback held everything that was on the device.
                free_memory()
                size = self._largest = max(1, size // 2)
                self.reporter.notice(f"Out of memory on {self.model.device}: continuing with batches of {size}.")
                continue
            start += len(part)
            yield predicted

    def _predict_at_once(self, batch: list[LoadedImage]) -> _Batch:
        """Runs the model on a whole batch; passes each output to every sink (scoring, storing) that needs the image."""
        began = DeviceTimestamp(self.model.device)
        try:
            outputs = self.model.candidates(batch)
            check_classes(outputs, self.model.class_names, self.model.spec.title)
        except NonFiniteOutput as error:
            raise self._non_finite_error(batch, error) from error
        ended = DeviceTimestamp(self.model.device)
        work: list[list[Later | None]] = [[] for _ in batch]
        for sink in self.sinks:
            lacking = [index for index, image in enumerate(batch) if image.scene.image.id not in sink.done]
            chosen = [batch[index] for index in lacking], [outputs[index] for index in lacking]
            by_index = dict(zip(lacking, sink.on_outputs(*chosen) if lacking else (), strict=True))
            for index, of_image in enumerate(work):
                of_image.append(by_index.get(index))
        return _Batch(batch, work, began, ended, DeviceTimestamp(self.model.device))

    def _non_finite_error(self, batch: Sequence[LoadedImage], error: NonFiniteOutput) -> BadModel:
        """Makes the error for a model that gives NaN or infinity on these images."""
        where = ", ".join(f"{image.scene.image.file_name} (image {image.scene.image.id})" for image in batch)
        return BadModel(
            f"{self.model.spec.title} gives {error} that are not finite numbers on {where}. "
            f"Check the weights, or use --precision fp32 if this was {running_settings(self.model)['precision']}."
        )

    def _predict_and_finish(self, loaded: list[LoadedImage]) -> _Found:
        """Predicts one loaded batch and returns each image's results, such as its scores.

        Runs in one thread of the model.
        """
        return [
            found
            for batch in self._predict(loaded)
            for index in range(len(batch.images))
            for found in self._finish_image(batch, index)
        ]

    def _finish_image(self, batch: _Batch, index: int) -> _Found:
        """Does the work on one image that follows the forward pass, such as scoring it, in a CPU thread."""
        batch.last.wait()
        image = batch.images[index]
        seen = SeenImage(image, self._image_digests.pop(image.scene.image.id, b""))
        try:
            found = [None if later is None else later(seen) for later in batch.work[index]]
        except NonFiniteOutput as error:
            raise self._non_finite_error([image], error) from error
        with self._seconds_lock:
            batch.left -= 1
            if not batch.left:
                self.timer.batch_done(len(batch.images))
                self.seconds["forward"] += batch.ended.seconds_since(batch.began)
        return [found]

    def _collect(self, batch: Sequence[Future[_Found]]) -> None:
        """Waits for the images of a batch, passes their results to the sinks to store, and reports progress."""
        images = [found for future in batch for found in future.result()]
        for index, sink in enumerate(self.sinks):
            if own := [found[index] for found in images if found[index] is not None]:
                sink.keep(own)
        self.done_now += len(images)
        self.reporter.progress(self.model.spec.title, self._done_before + self.done_now, self.expected)


class _BadImage(Exception):
    """Raised in a loader thread for an image that cannot be read; carries the image's id and the error."""

    def __init__(self, image_id: int, error: BadDataset) -> None:
        """Takes the id of an image that cannot be read, and the error."""
        super().__init__(str(error))
        self.image_id = image_id
        self.error = error
