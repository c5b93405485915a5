"""The loop of an evaluation: threads, device and batches.

Three things go on at once: threads ahead decode and resize images, the device runs forward pass and fusion, and threads
behind read the ground truth, number segments, count overlaps and write PNGs. All queues are bounded, so memory does not
depend on the number of images. A batch holds images of one padded size: each has the zeros around it that it has alone.
"""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from panbench.base import provenance
from panbench.base.computing import STAGES
from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.base.reporter import SILENT, Reporter
from panbench.base.threads import default_threads
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap, map_prediction
from panbench.evaluation.listeners import Listener
from panbench.evaluation.memory import forget_device_peak, free_memory
from panbench.evaluation.pace import Pace, Rate, batches_before_rate
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.prediction_names import png_name
from panbench.models.candidates import NonFiniteOutput, Output, check_classes
from panbench.models.devices import memory_errors
from panbench.models.model import LoadedImage, Model, way_of_running
from panbench.models.predict import CategoryIds, prediction_of
from panbench.models.rules import Fused, Rule, fuse
from panbench.panoptic import pixels
from panbench.panoptic.coco import read_hashed_id_png, write_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import PanopticPrediction, Scene, Segment
from panbench.runs import FileHashes, RunWriter, digest_of, photograph_code

BLOCK_IMAGES = 200
BLOCK_SECONDS = 10.0
"""A part is written when a block has this many images, or has been open for so long: what a kill can cost."""

# Those of the network are shared by all rules; the others are each rule's own.
_SHARED_STAGES, _OWN_STAGES = STAGES[:2], STAGES[2:]
_HEAVY_PARAMETERS = 20_000_000
_TRIED_IMAGES = 8
_TIMINGS = 3

Clock = dict[str, float]
"""Seconds by stage: load and forward, which all targets share; fusion, overlap and write, which each has its own."""

_FusedByRule = dict[Rule, Fused]
"""The fused maps of one image, one for each of the targets' rules."""


def block_is_full(images: int, since: float) -> bool:
    """Whether a block of so many images, which was begun at `since` (time.monotonic), is to be written."""
    return images >= BLOCK_IMAGES or time.monotonic() - since >= BLOCK_SECONDS


@dataclasses.dataclass(frozen=True)
class BlockRows:
    """One block's contribution to one run: rows, hashes of the files read, id PNGs written."""

    table: OverlapTable
    files: FileHashes
    written: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """A run that the loop writes: its writer, its fusion rule, and the folder for id maps (None: none are kept)."""

    writer: RunWriter
    rule: Rule
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class _Scored:
    """One image: for each target its table, None where the target has the image already, and the time it took."""

    tables: tuple[OverlapTable | None, ...]
    seconds: tuple[Clock, ...]
    files: tuple[int, bytes, bytes]
    """The image id, and the SHA-256 of the image and of its ground-truth PNG as they were read."""
    photograph: int
    """What the image's file says of it, as `photograph_code` writes it."""
    predictions: tuple[bytes, ...]
    """The SHA-256 of the id PNG that was written for each target; empty where none was."""
    written: tuple[Path, ...]
    """These id PNGs."""


def lanes_of(model: Model, threads: int) -> int:
    """How many batches are in the model at a time, each with its share of torch's threads.

    Of a light model on a CPU, two: while one batch is in an operator that runs on one thread, the other has work for
    the rest. A heavy one keeps all threads busy by itself, and the memory of a second batch would gain nothing. The
    model's size decides and no measurement, as the number of threads decides how sums are rounded.
    """
    params = model.describe().params
    light = params is None or params < _HEAVY_PARAMETERS
    return 2 if model.device.type == "cpu" and threads > 1 and light else 1


def worker_threads(asked: int | None) -> int:
    """How many threads load images, and as many score: as asked for, else as many as cores, at most 8."""
    return asked or default_threads()


def images_for_rate(model: Model, batch_size: int, workers: int) -> int:
    """The fewest images of one size from which the loop measures a rate."""
    lanes = lanes_of(model, torch.get_num_threads())
    before = batches_before_rate(lanes, lanes * batch_size, lanes=lanes, workers=workers)
    return (before + lanes) * batch_size


def best_batch_size(model: Model, dataset: Dataset, reporter: Reporter) -> int:
    """The batch size of highest throughput among 1, 2, 4, …, tried on the first images, as long as it fits and pays.

    Each size is timed several times after it was warm, and its best time counts: what disturbs only makes it longer.
    """
    # The images of the batches that most images will be in.
    fullest = max(plan_batches(dataset.scenes, 64, model), key=len)
    loaded = [model.load(scene) for scene in fullest[:_TRIED_IMAGES]]
    best, best_rate, size = 1, 0.0, 1
    while size <= len(fullest):
        batch = [loaded[place % len(loaded)] for place in range(size)]
        try:
            with memory_errors():
                seconds = _best_seconds(model, batch)
        except torch.OutOfMemoryError:
            seconds = None
        except NonFiniteOutput:
            return 1  # the run itself will say which image
        if seconds is None:
            # Here, as the error's traceback held what was on the device.
            free_memory()
            break
        rate = size / seconds
        if rate < 1.05 * best_rate:
            break
        best, best_rate, size = size, rate, size * 2
    reporter.notice(f"Batch size {best} ({best_rate:.1f} images/s in a trial).")
    return best


def _best_seconds(model: Model, batch: Sequence[LoadedImage]) -> float:
    seconds = []
    for number in range(1 + _TIMINGS):
        began = time.perf_counter()
        fuse(model.candidates(batch), model.rule)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        if number:
            seconds.append(time.perf_counter() - began)
    return min(seconds)


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


@dataclasses.dataclass
class Loop:
    """One forward pass over a plan of batches, and what it has done so far.

    targets: the runs that are written from it, at least one
    listeners: what else takes the model's outputs; they are closed when the loop ends, however it ends
    expected: images in all targets' datasets, for progress
    """

    model: Model
    category_ids: CategoryIds
    category_map: CategoryMap | None
    targets: Sequence[Target]
    expected: int
    skip_bad_images: bool
    workers: int
    reporter: Reporter
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        self.seconds: Clock = dict.fromkeys(_SHARED_STAGES, 0.0)
        self.target_seconds: list[Clock] = [dict.fromkeys(_OWN_STAGES, 0.0) for _ in self.targets]
        self.pace = Pace()
        self.scored_now = 0
        self.skipped: dict[int, str] = {}
        self._scored_before = len(frozenset.intersection(*(target.writer.done for target in self.targets)))
        self._block: list[_Scored] = []
        self._image_digests: dict[int, bytes] = {}
        self._block_since = time.monotonic()
        self._lanes = self._before_rate = 1
        self._largest: int | None = None
        self._clock = threading.Lock()

    def report(self) -> "Report":
        """What was done so far."""
        device = self.model.device
        return Report(
            seconds=[{**self.seconds, **own, "wall": self.pace.wall} for own in self.target_seconds],
            images=self.scored_now,
            rate=self.pace.rate(lanes=self._lanes, before=self._before_rate),
            skipped=self.skipped,
            host_memory=provenance.peak_host_memory(),
            device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def run(self, plan: Sequence[Sequence[Scene]]) -> None:
        """Evaluates the batches in order; raises what a stage raises, after the finished batches are written."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(pixels.one_thread())
            for listener in self.listeners:
                stack.callback(listener.close)
            self._run(plan)

    def _run(self, plan: Sequence[Sequence[Scene]]) -> None:
        self.pace.start()
        self._block_since = time.monotonic()
        forget_device_peak(self.model.device)
        loaders, scorers = _threads_of_one(self.workers, "load"), _threads_of_one(self.workers, "score")
        threads = torch.get_num_threads()
        lanes = lanes_of(self.model, threads)
        self._lanes = lanes
        images = sum(map(len, plan))
        self._before_rate = batches_before_rate(len(plan), images, lanes=lanes, workers=self.workers)
        torch.set_num_threads(max(1, threads // lanes))
        # On CUDA one thread feeds the device, and what comes after the device runs in `scorers`.
        models = ThreadPoolExecutor(lanes, "model") if lanes > 1 else None
        behind: deque[tuple[int, list[Future[list[_Scored]]]]] = deque()
        images_behind = 0
        try:
            for batch in self._load_ahead(plan, loaders):
                if models is not None:
                    behind.append((len(batch), [models.submit(self._predict_and_score, batch)]))
                else:
                    for fused, marks in self._predict(batch):
                        behind.append((len(fused), [scorers.submit(self._score, *pair, marks) for pair in fused]))
                images_behind += len(batch)
                # So many images may wait for their score, or a batch for each lane and one more.
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
            self._write_block()
            raise
        finally:
            self.pace.stop()
            for pool in (loaders, scorers, models):
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
        self._write_block()
        self.pace.stop()

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
                    if not self.skip_bad_images:
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

    def _predict(self, batch: list[LoadedImage]) -> "Iterator[tuple[list[tuple[LoadedImage, _FusedByRule]], _Marks]]":
        """Fused maps of a batch and the marks after which they are on the host; in halves when memory is short."""
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
                    raise BadArgument(
                        f"{self.model.device} has too little memory for one image of {height}×{width} "
                        f"({part[0].scene.image_path}). Try --precision bf16, a smaller model, or --device cpu."
                    ) from error
            if predicted is None:
                # Only here: the error's traceback held all that was on the device.
                free_memory()
                size = self._largest = max(1, size // 2)
                self.reporter.notice(f"Out of memory on {self.model.device}: continuing with batches of {size}.")
                continue
            start += len(part)
            yield predicted

    def _predict_at_once(self, batch: list[LoadedImage]) -> "tuple[list[tuple[LoadedImage, _FusedByRule]], _Marks]":
        marks = _Marks(self.model.device, len(batch))
        marks.add()
        try:
            outputs = self.model.candidates(batch)
            check_classes(outputs, self.model.class_names, self.model.spec.title)
            self._pass_on(batch, outputs)
        except NonFiniteOutput as error:
            raise self._not_finite(batch, error) from error
        marks.add()
        by_rule = {}
        for target in self.targets:
            by_rule[target.rule] = fuse(outputs, target.rule)
            marks.add()
        fused = [{rule: maps[index] for rule, maps in by_rule.items()} for index in range(len(batch))]
        return list(zip(batch, fused, strict=True)), marks

    def _pass_on(self, batch: Sequence[LoadedImage], outputs: Sequence[Output]) -> None:
        for listener in self.listeners:
            for image, output in zip(batch, outputs, strict=True):
                if image.scene.image.id not in listener.done:
                    listener.hear(image.scene, output)

    def _image_done(self, marks: "_Marks") -> None:
        """Adds what a batch took to the clocks, after the last of its images."""
        with self._clock:
            marks.remaining -= 1
            if marks.remaining:
                return
            self.pace.batch_done(marks.images)
            forward, *fusions = marks.seconds()
            self.seconds["forward"] += forward
            for own, seconds in zip(self.target_seconds, fusions, strict=True):
                own["fusion"] += seconds

    def _not_finite(self, batch: Sequence[LoadedImage], error: NonFiniteOutput) -> BadModel:
        where = ", ".join(f"{image.scene.image.file_name} (image {image.scene.image.id})" for image in batch)
        return BadModel(
            f"{self.model.spec.title} gives {error} that are not finite numbers on {where}. "
            f"Check the weights, or use --precision fp32 if this was {way_of_running(self.model)['precision']}."
        )

    def _predict_and_score(self, batch: list[LoadedImage]) -> list[_Scored]:
        """A whole batch, from loaded images to overlap tables, in one of the threads that run the model."""
        found = []
        for fused, marks in self._predict(batch):
            for image, of_image in fused:
                found.extend(self._score(image, of_image, marks))
        return found

    def _score(self, image: LoadedImage, fused: _FusedByRule, marks: "_Marks") -> list[_Scored]:
        """The overlap tables of one image, in a thread behind the device."""
        marks.wait()
        scene = image.scene
        clocks: list[Clock] = []
        truth: tuple[npt.NDArray[np.int32], Sequence[Segment]] | None = None
        truth_digest = b""
        tables: list[OverlapTable | None] = []
        predictions: list[bytes] = []
        paths: list[Path] = []
        for target in self.targets:
            predictions.append(b"")
            if scene.image.id in target.writer.done:
                tables.append(None)
                clocks.append({})
                continue
            began = time.perf_counter()
            prediction = self._settled(image, target.rule, fused[target.rule])
            settled = time.perf_counter()
            if truth is None:
                ids, truth_digest = _ground_truth(scene, prediction.ids.shape)
                truth = ids, scene.annotation.segments if scene.annotation else ()
            tables.append(overlap_table(scene.image.id, *truth, prediction.ids, prediction.segments))
            counted = time.perf_counter()
            if target.folder is not None:
                paths.append(target.folder / png_name(scene))
                predictions[-1] = write_id_png(paths[-1], prediction.ids, durable=True)
            written = time.perf_counter()
            clocks.append({"fusion": settled - began, "overlap": counted - settled, "write": written - counted})
        files = (scene.image.id, self._image_digests.pop(scene.image.id, b""), truth_digest)
        facts = image.facts
        code = 0 if facts is None else photograph_code(facts.orientation, facts.extraneous)
        self._image_done(marks)
        return [_Scored(tuple(tables), tuple(clocks), files, code, tuple(predictions), tuple(paths))]

    def _settled(self, image: LoadedImage, rule: Rule, fused: Fused) -> PanopticPrediction:
        try:
            prediction = prediction_of(image.scene.image.id, rule.settle(fused), self.category_ids)
        except NonFiniteOutput as error:
            raise self._not_finite([image], error) from error
        return prediction if self.category_map is None else map_prediction(prediction, self.category_map)

    def _collect(self, batch: Sequence[Future[list[_Scored]]]) -> None:
        results = [scored for future in batch for scored in future.result()]
        for scored in results:
            self._block.append(scored)
            with self._clock:
                for own, seconds in zip(self.target_seconds, scored.seconds, strict=True):
                    for stage, spent in seconds.items():
                        own[stage] += spent
        self.scored_now += len(results)
        self.reporter.progress(self.model.spec.title, self._scored_before + self.scored_now, self.expected)
        if block_is_full(len(self._block), self._block_since):
            self._write_block()

    def _write_block(self) -> None:
        if self._block:
            self._store([self._rows(place) for place in range(len(self.targets))])
            self._block = []
        self._block_since = time.monotonic()

    def _rows(self, place: int) -> "BlockRows | None":
        """What the open block has for one target; None where the target has its images already."""
        began = time.perf_counter()
        scored = [(table, image) for image in self._block if (table := image.tables[place]) is not None]
        if not scored:
            return None
        images = [image for _, image in scored]
        files = FileHashes.of(
            [image.files for image in images],
            [image.photograph for image in images],
            [image.predictions[place] for image in images],
        )
        rows = BlockRows(
            concat([table for table, _ in scored]), files, tuple(path for image in images for path in image.written)
        )
        self._add_to_write(place, time.perf_counter() - began)
        return rows

    def _store(self, block: "Sequence[BlockRows | None]") -> None:
        """Writes a block, of which each target has its rows."""
        for place, (target, rows) in enumerate(zip(self.targets, block, strict=True)):
            began = time.perf_counter()
            if rows is not None:
                target.writer.write_part(rows.table, rows.files, rows.written)
            self._add_to_write(place, time.perf_counter() - began)

    def _add_to_write(self, place: int, seconds: float) -> None:
        with self._clock:
            self.target_seconds[place]["write"] += seconds


def _ground_truth(scene: Scene, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int32], bytes]:
    """The id map of an image, and the SHA-256 of its PNG."""
    if scene.annotation is None or scene.gt_path is None:
        # All void: the image is in the tables, and no category has a TP, FP or FN.
        return np.zeros(shape, np.int32), b""
    return read_hashed_id_png(scene.gt_path, shape, image_id=scene.image.id)  # type: ignore[arg-type]


class _Marks:
    """Moments of a batch on its way through the device; between two of them is a stage."""

    def __init__(self, device: torch.device, images: int) -> None:
        self._device = device
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self.images = images
        self.remaining = images
        """Images of the batch that are not scored yet; the last one adds the times to the clocks."""

    def add(self) -> None:
        """Now; on CUDA, when the device comes here."""
        if self._device.type != "cuda":
            self._times.append(time.perf_counter())
            return
        # Blocking: threads that wait for it sleep. One that spins takes a core from those that load images.
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def wait(self) -> None:
        """Returns when the device is past the last mark, with all that was copied to the host there."""
        if self._events:
            self._events[-1].synchronize()

    def seconds(self) -> list[float]:
        """Seconds of each stage, read once the device has passed the last mark."""
        if self._events:
            return [first.elapsed_time(second) / 1000 for first, second in itertools.pairwise(self._events)]
        return [second - first for first, second in itertools.pairwise(self._times)]


class _BadImage(Exception):
    def __init__(self, image_id: int, error: BadDataset) -> None:
        super().__init__(str(error))
        self.image_id = image_id
        self.error = error


@dataclasses.dataclass(frozen=True)
class Report:
    """What a loop did: clocks of each target, images scored, images left out and why, peaks of memory in bytes.

    rate: None when there were too few batches to measure one
    """

    seconds: Sequence[Clock]
    images: int
    rate: Rate | None
    skipped: dict[int, str]
    host_memory: int | None
    device_memory: int | None
