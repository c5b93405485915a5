"""The evaluation loop: images → model → fusion → overlap tables → run folder.

Three things go on at once: threads ahead decode and resize images, the device runs forward pass and fusion, and threads
behind read the ground truth, number segments, count overlaps and write PNGs. All queues are bounded, so memory does not
depend on the number of images. A batch holds images of one size only: its padding is what each image would get alone.
"""

import dataclasses
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from panbench.base import provenance
from panbench.base.errors import BadArgument, BadDataset, BadModel, BadRun, PanbenchError
from panbench.base.files import write_json
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap, map_prediction, read_category_map
from panbench.evaluation.distributed import join_ranks
from panbench.models.checkpoints import fetch_weights
from panbench.models.fusion import FusedMap, NonFiniteOutput
from panbench.models.mmdet import operators
from panbench.models.mmdet.model import LoadedImage, PanopticModel, choose_device, load_model, prediction_of
from panbench.panoptic.coco import read_id_png, write_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, Scene, Segment
from panbench.runs import Run, RunWriter, category_record, load_run

BLOCK_IMAGES = 200
BLOCK_SECONDS = 10.0
"""A part is written when a block has this many images, or has been open for so long: what a kill can cost."""

Progress = Callable[[int, int], None]
Notice = Callable[[str], None]
Clock = dict[str, float]
_Scored = tuple[OverlapTable, Clock]


def evaluate(
    spec: ModelSpec,
    dataset: Dataset,
    *,
    out: Path,
    weights: str = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    save_predictions: bool = False,
    skip_bad_images: bool = False,
    seed: int = 0,
    workers: int | None = None,
    download: bool = False,
    category_map: str | os.PathLike[str] | None = None,
    command: Sequence[str] = (),
    model: PanopticModel | None = None,
    progress: Progress | None = None,
    downloaded: Callable[[int, int | None], None] | None = None,
    notice: Notice | None = None,
) -> Run:
    """Evaluates a model on a dataset into the run folder `out`, and returns the run.

    dataset: one without ground truth needs `save_predictions`; nothing of it is scored
    weights: "auto" (the config's), "random" (drawn from `seed`), or a path
    batch_size: None is 1 on a CPU and "auto" elsewhere; "auto" tries sizes on the first image
    compiled: lets torch.compile compile the backbone, which takes a minute and pays on long runs
    resume: goes on with the run in `out`, which must have been made with the same settings
    skip_bad_images: leaves out images that do not decode, instead of stopping; the run says so
    workers: threads that load, and as many that score; by default as many as cores, at most 8
    download: fetch the config's weights when they are a URL and not here; otherwise the error says how
    category_map: a JSON, or the name of a shipped one, by which a model of other categories is evaluated
    model: one that is loaded already, of this spec, device and precision; by default it is built here
    progress: called with (images scored, images expected); downloaded: with (bytes, bytes in all or None)
    notice: called with sentences for the user
    Raises PanbenchError for bad input; what was written until then stays, and `resume` goes on from it.
    """
    if batch_size is not None and batch_size != "auto" and batch_size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {batch_size}.")
    refuse_aimless(dataset, save_predictions)
    ranks = join_ranks()
    tell = notice if notice and ranks.is_first else _say_nothing
    chosen = choose_device(ranks.device(device))
    if model is None:
        # The first rank fetches, so that the others find the weights in the cache.
        path = ranks.told(_weights_file(spec, weights, download, downloaded) if ranks.is_first else None)
        model = load_model(spec, path, device=chosen, precision=precision, seed=seed, compiled=compiled)
    mapping = None if category_map is None else _category_map(category_map, model, dataset)
    # Labels stand for themselves until the map has turned them into the dataset's categories.
    category_ids = model.category_ids(dataset.categories) if mapping is None else tuple(range(model.num_classes))
    for sentence in mapping.sentences if mapping else ():
        tell(sentence)
    settings = {
        **_settings(model, dataset),
        **_map_settings(mapping),
        "precision": precision,
        "compiled": compiled,
        "seed": seed,
        "skip_bad_images": skip_bad_images,
        "save_predictions": save_predictions,
    }
    # The first rank looks for all: a later look of another could meet the run that the first has just begun.
    previous = load_run(out) if ranks.told(resume and (out / "run.json").exists()) else None
    if previous is not None:
        _refuse_other_settings(previous, settings, batch_size)
        if previous.info["status"] == "done":
            tell(f"{out} is complete already.")
            return previous
        batch_size = previous.info["arguments"]["batch_size"]
    if batch_size is None:
        batch_size = 1 if chosen.type == "cpu" else "auto"
    if batch_size == "auto":
        batch_size = int(ranks.told(_best_batch_size(model, dataset, tell) if ranks.is_first else None))

    def open_writer() -> RunWriter:
        if previous is not None:
            return RunWriter.resume(out)
        info = _info(model, dataset, {**settings, "batch_size": batch_size}, command, precision, seed, mapping)
        return RunWriter.create(out, info, overwrite=overwrite)

    writer = open_writer() if ranks.is_first else None
    ranks.told("the run folder is there")
    writer = writer or RunWriter.attach(out)
    for sentence in writer.notices:
        tell(sentence)
    plan = [
        [scene for scene in batch if scene.image.id not in writer.done]
        for batch in plan_batches(dataset.scenes, batch_size)[ranks.rank :: ranks.size]
    ]
    loop = _Loop(
        model=model,
        category_ids=category_ids,
        category_map=mapping,
        writer=writer,
        rank=ranks.rank,
        expected=len(dataset.scenes) if ranks.size == 1 else len(writer.done) + sum(map(len, plan)),
        folder=out / "predictions" if save_predictions else None,
        skip_bad_images=skip_bad_images,
        workers=workers or max(1, min(8, (os.cpu_count() or 1) // ranks.size)),
        progress=progress if ranks.is_first else None,
        notice=tell,
    )
    try:
        loop.run([batch for batch in plan if batch])
        reports = ranks.heard(loop.report())
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "Interrupted from the keyboard." if interrupted else str(error) if _is_ours(error) else repr(error)
        if ranks.is_first:
            status = "interrupted" if interrupted else "failed"
            left = _close(writer, dataset, [loop.report()], tell, status, reason)
            if _is_ours(error) and left.info["images"]["scored"]:
                error.args = (f"{error} What was scored stays in {out}; the same command with --resume goes on.",)
        raise
    if ranks.is_first:
        if save_predictions:
            _write_predictions_json(Run(writer.info, writer.path), dataset)
        _close(writer, dataset, reports, tell, "done", None)
    ranks.told("the run is closed")
    return load_run(out)


def refuse_aimless(dataset: Dataset, save_predictions: bool) -> None:
    """Raises BadArgument for an evaluation of which nothing would come: no ground truth, and no predictions kept."""
    if not dataset.has_ground_truth and not save_predictions:
        raise BadArgument(
            f"{dataset.gt} lists images without ground truth, so there is nothing to score. Add --save-predictions to "
            "keep what the model predicts, for `panbench submit`."
        )


def open_in_turn(open_dataset: Callable[[], Dataset]) -> Dataset:
    """What `open_dataset` returns, called by the first rank before the others: it may fetch, they find the files."""
    ranks = join_ranks()
    if not ranks.is_first:
        ranks.told(None)
        return open_dataset()
    dataset = open_dataset()
    ranks.told("the files are there")
    return dataset


def plan_batches(scenes: Sequence[Scene], batch_size: int) -> list[list[Scene]]:
    """The scenes in batches of at most `batch_size`, each of images of one size, sizes in order of first appearance.

    The plan depends on nothing else, so a resumed run and a run on more machines have the same batches.
    """
    by_size: dict[tuple[int, int], list[Scene]] = {}
    for scene in scenes:
        by_size.setdefault((scene.image.height, scene.image.width), []).append(scene)
    return [
        group[start : start + batch_size] for group in by_size.values() for start in range(0, len(group), batch_size)
    ]


@dataclasses.dataclass
class _Loop:
    """The state of one evaluation."""

    model: PanopticModel
    category_ids: tuple[int, ...]
    category_map: CategoryMap | None
    writer: RunWriter
    rank: int
    expected: int
    folder: Path | None
    skip_bad_images: bool
    workers: int
    progress: Progress | None
    notice: Notice

    def __post_init__(self) -> None:
        self.seconds: Clock = dict.fromkeys(("load", "forward", "fusion", "overlap", "write"), 0.0)
        self.wall = 0.0
        self.scored_now = 0
        self.skipped: dict[int, str] = {}
        self._block: list[OverlapTable] = []
        self._block_since = time.monotonic()
        self._largest: int | None = None
        self._clock = threading.Lock()

    def report(self) -> "_Report":
        """What this rank did in this sitting."""
        device = self.model.device
        return _Report(
            seconds={**self.seconds, "wall": self.wall},
            skipped=self.skipped,
            host_memory=provenance.peak_host_memory(),
            device_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def run(self, plan: Sequence[Sequence[Scene]]) -> None:
        """Evaluates the batches in order; raises what a stage raises, after the finished batches are written."""
        began = time.monotonic()
        # Each thread of ours has its own image; OpenCV's threads on top would only contend.
        cv2.setNumThreads(1)
        self._block_since = began
        threads = torch.get_num_threads()
        lanes = 2 if self.model.device.type == "cpu" and threads > 1 else 1
        torch.set_num_threads(max(1, threads // lanes))
        loaders, scorers = ThreadPoolExecutor(self.workers, "load"), ThreadPoolExecutor(self.workers, "score")
        # On a CPU two batches at a time, on half of the threads each, leave fewer of them waiting for each other.
        models = ThreadPoolExecutor(lanes, "model") if lanes > 1 else None
        behind: deque[list[Future[list[_Scored]]]] = deque()
        try:
            for batch in self._load_ahead(plan, loaders):
                if models is not None:
                    behind.append([models.submit(self._predict_and_score, batch)])
                else:
                    for fused, done in self._predict(batch):
                        behind.append([scorers.submit(self._score, *pair, done) for pair in fused])
                while behind and (len(behind) > 2 * self.workers or all(future.done() for future in behind[0])):
                    self._collect(behind.popleft())
            while behind:
                self._collect(behind.popleft())
        except BaseException as error:
            if models is not None and not isinstance(error, Exception):
                # Who pressed Ctrl-C does not wait for forward passes that have not begun.
                models.shutdown(wait=False, cancel_futures=True)
            # What went through the model is kept, in whole batches: a resumed run then has an unbroken one's batches.
            self.progress = None
            for pending in behind:
                if all(not future.cancelled() and future.exception() is None for future in pending):
                    self._collect(pending)
            self._write_block()
            raise
        finally:
            self.wall = time.monotonic() - began
            for pool in (loaders, scorers, models):
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
        self._write_block()
        self.wall = time.monotonic() - began

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
                    self.notice(f"Skipped: {bad.error}")
                    continue
                self.seconds["load"] += seconds
                loaded.append(image)
            if loaded:
                yield loaded

    def _load(self, scene: Scene) -> tuple[LoadedImage, float]:
        began = time.perf_counter()
        try:
            return self.model.load(scene), time.perf_counter() - began
        except BadDataset as error:
            raise _BadImage(scene.image.id, error) from error

    def _predict(
        self, batch: list[LoadedImage]
    ) -> Iterator[tuple[list[tuple[LoadedImage, FusedMap]], "torch.cuda.Event | None"]]:
        """Fused maps of a batch and the event after which they are on the host; in halves when memory is short."""
        size = min(len(batch), self._largest or len(batch))
        start = 0
        while start < len(batch):
            part = batch[start : start + size]
            try:
                yield self._predict_at_once(part)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if size == 1:
                    height, width = part[0].inputs.shape[-2:]
                    raise BadArgument(
                        f"{self.model.device} has too little memory for one image of {height}×{width} "
                        f"({part[0].scene.image_path}). Try --precision bf16, a smaller model, or --device cpu."
                    ) from error
                size = self._largest = max(1, size // 2)
                self.notice(f"Out of memory on {self.model.device}: going on with batches of {size}.")
                continue
            start += len(part)

    def _predict_at_once(
        self, batch: list[LoadedImage]
    ) -> tuple[list[tuple[LoadedImage, FusedMap]], "torch.cuda.Event | None"]:
        on_cuda = self.model.device.type == "cuda"
        began = time.perf_counter()
        try:
            outputs = self.model.forward(batch)
        except NonFiniteOutput as error:
            raise self._not_finite(batch, error) from error
        # On CUDA `forward` ends with the one wait of the batch, so this boundary is where the device is, too.
        between = time.perf_counter()
        fused = self.model.fuse(outputs)
        done = None
        if on_cuda:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self.model.device))
        with self._clock:
            self.seconds["forward"] += between - began
            self.seconds["fusion"] += time.perf_counter() - between
        return list(zip(batch, fused, strict=True)), done

    def _not_finite(self, batch: Sequence[LoadedImage], error: NonFiniteOutput) -> BadModel:
        where = ", ".join(f"{image.scene.image.file_name} (image {image.scene.image.id})" for image in batch)
        return BadModel(
            f"{self.model.spec.title} gives {error} that are not finite numbers on {where}. "
            f"Check the weights, or use --precision fp32 if this was {self.model.precision}."
        )

    def _predict_and_score(self, batch: list[LoadedImage]) -> "list[_Scored]":
        """A whole batch, from loaded images to overlap tables, in one of the threads that run the model."""
        return [
            scored
            for fused, done in self._predict(batch)
            for image, of_image in fused
            for scored in self._score(image, of_image, done)
        ]

    def _score(self, image: LoadedImage, fused: FusedMap, done: "torch.cuda.Event | None") -> "list[_Scored]":
        """The overlap table of one image, in a thread behind."""
        if done is not None:
            done.synchronize()
        scene = image.scene
        began = time.perf_counter()
        try:
            prediction = prediction_of(scene.image.id, self.model.settle(fused), self.category_ids)
        except NonFiniteOutput as error:
            raise self._not_finite([image], error) from error
        if self.category_map is not None:
            prediction = map_prediction(prediction, self.category_map)
        settled = time.perf_counter()
        if scene.annotation is None or scene.gt_path is None:
            # All void: the image is in the tables, and no category has a TP, FP or FN.
            gt_ids = np.zeros_like(prediction.ids)
            gt_segments: tuple[Segment, ...] = ()
        else:
            gt_ids = read_id_png(scene.gt_path, prediction.ids.shape, image_id=scene.image.id)  # type: ignore[arg-type]
            gt_segments = scene.annotation.segments
        table = overlap_table(scene.image.id, gt_ids, gt_segments, prediction.ids, prediction.segments)
        counted = time.perf_counter()
        if self.folder is not None:
            write_id_png(self.folder / _png_name(scene), prediction.ids)
        written = time.perf_counter()
        return [(table, {"fusion": settled - began, "overlap": counted - settled, "write": written - counted})]

    def _collect(self, batch: "Sequence[Future[list[_Scored]]]") -> None:
        results = [scored for future in batch for scored in future.result()]
        for table, seconds in results:
            self._block.append(table)
            for stage, spent in seconds.items():
                self.seconds[stage] += spent
        self.scored_now += len(results)
        if self.progress is not None:
            self.progress(len(self.writer.done) + self.scored_now, self.expected)
        if len(self._block) >= BLOCK_IMAGES or time.monotonic() - self._block_since >= BLOCK_SECONDS:
            self._write_block()

    def _write_block(self) -> None:
        if self._block:
            began = time.perf_counter()
            self.writer.write_part(concat(self._block), self.rank)
            self._block = []
            self.seconds["write"] += time.perf_counter() - began
        self._block_since = time.monotonic()


class _BadImage(Exception):
    def __init__(self, image_id: int, error: BadDataset) -> None:
        super().__init__(str(error))
        self.image_id = image_id
        self.error = error


@dataclasses.dataclass(frozen=True)
class _Report:
    """A rank's clocks, the images it left out and why, and its peaks of memory in bytes."""

    seconds: Clock
    skipped: dict[int, str]
    host_memory: int | None
    device_memory: int | None


def _close(
    writer: RunWriter, dataset: Dataset, reports: Sequence[_Report], tell: Notice, status: str, error: str | None
) -> Run:
    """Writes the last state of a run: what all ranks scored, in all sittings, and how long they took."""
    run = Run(writer.info, writer.path)
    scored, expected = len(run.image_ids()), len(dataset.scenes)
    before = writer.info.get("seconds") or {}
    seconds = {
        stage: before.get(stage, 0.0)
        # Ranks work at the same time: the slowest one's wall clock is the run's.
        + (max if stage == "wall" else sum)(report.seconds[stage] for report in reports)
        for stage in reports[0].seconds
    }
    skipped = dict((writer.info.get("images") or {}).get("skipped_ids") or {})
    skipped.update({str(image_id): reason for report in reports for image_id, reason in report.skipped.items()})
    faults = run.table.ground_truth_faults() if scored else None
    if faults is not None and faults.notice and status == "done":
        tell(faults.notice)
    host_memory = [report.host_memory for report in reports if report.host_memory is not None]
    device_memory = [report.device_memory for report in reports if report.device_memory is not None]
    return writer.finish(
        status,
        error=error,
        # From the tables that are in memory already; `finish` would read all parts again.
        summary=run.summary() if scored else None,
        images={
            "expected": expected,
            "scored": scored,
            "missing": expected - scored - len(skipped),
            "skipped": len(skipped),
            "skipped_ids": skipped,
            "gt_faults": None if faults is None else faults.as_record(),
        },
        seconds={stage: round(spent, 4) for stage, spent in seconds.items()},
        images_per_second=round(scored / seconds["wall"], 4) if scored and seconds["wall"] > 0 else None,
        memory={
            "host_peak_bytes": max(host_memory, default=None),
            "device_peak_bytes": max(device_memory, default=None),
        },
        ranks=len(reports),
    )


def _weights_file(
    spec: ModelSpec, weights: str, download: bool, downloaded: Callable[[int, int | None], None] | None
) -> str | None:
    if weights == "random":
        return None
    if weights == "auto":
        return str(fetch_weights(spec, progress=downloaded, offline=not download))
    return str(Path(weights).expanduser())


def _category_map(source: str | os.PathLike[str], model: PanopticModel, dataset: Dataset) -> CategoryMap:
    labels = [Category(label, name, label < model.num_things) for label, name in enumerate(model.class_names)]
    return read_category_map(source, labels, dataset.categories)


def _map_settings(mapping: CategoryMap | None) -> dict[str, Any]:
    """The category map as a resumed run must have it: its name, and a hash of which label becomes which category."""
    if mapping is None:
        return {"category_map": None, "category_map_sha256": None}
    pairs = json.dumps(sorted(mapping.ids.items())).encode()
    return {"category_map": mapping.name, "category_map_sha256": hashlib.sha256(pairs).hexdigest()}


def _map_record(mapping: CategoryMap, model: PanopticModel) -> dict[str, Any]:
    """The category map in words, for run.json."""
    named = {category.id: category.name for category in mapping.target}
    return {
        "name": mapping.name,
        "categories": {model.class_names[label]: named[target] for label, target in mapping.ids.items()},
        "unmapped_model": [*mapping.dropped, *mapping.unmapped_source],
        "unmapped_dataset": list(mapping.unmapped_target),
    }


def _best_batch_size(model: PanopticModel, dataset: Dataset, notice: Notice) -> int:
    """The batch size of highest throughput among 1, 2, 4, …, tried on the first image, as long as it fits and pays."""
    image = model.load(dataset.scenes[0])
    most = max(len(batch) for batch in plan_batches(dataset.scenes, 64))
    best, best_rate, size = 1, 0.0, 1
    while size <= most:
        try:
            model.fuse(model.forward([image] * size))
            began = time.perf_counter()
            model.fuse(model.forward([image] * size))
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            rate = size / (time.perf_counter() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        except NonFiniteOutput:
            return 1  # the run itself will say which image
        if rate < 1.05 * best_rate:
            break
        best, best_rate, size = size, rate, size * 2
    notice(f"Batch size {best} ({best_rate:.1f} images/s in a trial).")
    return best


def _settings(model: PanopticModel, dataset: Dataset) -> dict[str, Any]:
    """What of model and data a resumed run must share with the run it goes on with."""
    chosen = json.dumps([scene.image.id for scene in dataset.scenes]).encode()
    return {
        "config_sha256": hashlib.sha256(model.config_text.encode()).hexdigest(),
        "weights_sha256": model.checkpoint.sha256 if model.checkpoint else None,
        "dataset_fingerprint": dataset.fingerprint,
        "images_sha256": hashlib.sha256(chosen).hexdigest(),
        "device": model.device.type,
    }


def _refuse_other_settings(run: Run, settings: dict[str, Any], batch_size: int | str | None) -> None:
    stored = run.info.get("arguments") or {}
    asked = dict(settings)
    if isinstance(batch_size, int):
        asked["batch_size"] = batch_size
    differences = [
        f"{key} was {stored.get(key)!r} and is now {value!r}"
        for key, value in asked.items()
        if stored.get(key) != value
    ]
    if differences:
        raise BadRun(
            f"{run.path} cannot be resumed with other settings: {'; '.join(differences)}. "
            "Give the settings it was made with, or another --out."
        )


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, PanbenchError)


def _say_nothing(sentence: str) -> None:
    """Takes the place of a notice that nobody asked for."""


def _info(
    model: PanopticModel,
    dataset: Dataset,
    arguments: dict[str, Any],
    command: Sequence[str],
    precision: str,
    seed: int,
    mapping: CategoryMap | None,
) -> dict[str, Any]:
    """run.json as far as it is known before the first image."""
    spec, device = model.spec, model.device
    # What is published was measured in the model's own categories.
    comparable = model.checkpoint is not None and mapping is None
    published = dataclasses.asdict(spec.published) if spec.published and comparable else None
    return {
        "kind": "eval",
        "model": {
            "name": spec.name,
            "title": spec.title,
            "family": model.family,
            "backbone": model.backbone,
            "config": str(spec.config),
            "weights": None if model.checkpoint is None else str(model.checkpoint.path),
            "weights_sha256": None if model.checkpoint is None else model.checkpoint.sha256,
            "random_weights": model.checkpoint is None,
            "params": model.parameters,
            "published": published,
        },
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "gt": str(dataset.gt),
            "gt_dir": None if dataset.gt_dir is None else str(dataset.gt_dir.absolute()),
            "images": str(dataset.images),
            "fingerprint": dataset.fingerprint,
            "n_images": dataset.n_images,
            "has_ground_truth": dataset.has_ground_truth,
        },
        "category_map": None if mapping is None else _map_record(mapping, model),
        "categories": [category_record(category) for category in dataset.categories],
        "arguments": arguments,
        "versions": {**provenance.versions(), "operators": operators.install()},
        "git_commit": provenance.git_commit(),
        "device": provenance.describe_device(
            device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else None
        ),
        "precision": precision,
        "seed": seed,
        "command": list(command),
        "images": {"expected": len(dataset.scenes), "scored": 0},
    }


def _png_name(scene: Scene) -> str:
    return Path(scene.image.file_name).with_suffix(".png").name


def _write_predictions_json(run: Run, dataset: Dataset) -> None:
    """predictions.json beside predictions/: what panopticapi and COCO's server take, from the run's own tables."""
    assert run.path is not None
    segments = run.segments()
    by_image = dict(list(segments[segments["side"] == "pred"].groupby("image_id")))
    annotations = []
    for scene in dataset.scenes:
        rows = by_image.get(scene.image.id)
        records = [] if rows is None else rows[["id", "category_id", "area", "score"]].to_dict("records")
        annotations.append(
            {
                "image_id": scene.image.id,
                "file_name": _png_name(scene),
                "segments_info": [
                    {key: value for key, value in record.items() if value == value} for record in records
                ],
            }
        )
    write_json(
        run.path / "predictions.json",
        {"annotations": annotations, "categories": [category_record(category) for category in dataset.categories]},
        indent=None,
    )
