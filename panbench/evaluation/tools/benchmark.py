"""How fast a model is, where its time goes, what it holds, and what a lower precision costs in quality.

Each setting (a precision and a batch size) is measured twice on the same generated images: one batch after another, for
latency and for the maps themselves; then by `evaluate` as every evaluation runs, for throughput and stages.
Settings that cannot run keep a row that says why.
"""

import csv
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from panbench.base import provenance
from panbench.base.computing import PRECISIONS, STAGES
from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.files import atomic_write, write_json
from panbench.base.reporter import SILENT, Reporter
from panbench.base.secrets import redacted
from panbench.base.text import for_spreadsheet
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.fits import refuse_unfit
from panbench.evaluation.loop import lanes_of, worker_threads
from panbench.evaluation.memory import forget_peaks, free_memory, host_peak
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.pace import batches_before_rate
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.shown import rules_of
from panbench.evaluation.tools.photographs import photograph_dataset
from panbench.models.devices import choose_device, memory_errors
from panbench.models.model import Model
from panbench.models.opening import open_model, resolve_weights
from panbench.models.predict import model_categories, prediction_of
from panbench.models.rules import fuse
from panbench.panoptic.types import Exif, PanopticPrediction

SCHEMA = 1

REFERENCE_IMAGE = (480, 640)
"""COCO's most common size, at which FLOPs are counted; the zoo's pipelines make 800×1067 of it."""

PUBLISHED_GMACS = {
    "mask2former-r50": 226.0,
    "mask2former-r101": 293.0,
    "mask2former-swin-l": 868.0,
    "maskformer-r50": 181.0,
    "maskformer-swin-l": 792.0,
}
"""Thousand million multiply-adds an image, each counted once, as the papers print them under "FLOPs": means over COCO
val images at the zoo's size. [Cheng et al. 2022, table 1; Cheng et al. 2021, table 4]"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting: a line of bench.csv. Times are milliseconds an image unless named otherwise; None is not known.

    input_height, input_width: what the network sees, padding included
    gflops: multiplications and additions each counted, of one image of REFERENCE_IMAGE; gmacs: half of it, to compare
        with gmacs_published
    latency_*: from the file of an image to its map on the host, for the whole batch; nothing overlaps
    load … write: milliseconds of each stage in the evaluation, where stages overlap
    images_per_second: the steady rate of the evaluation, None of too few batches; images_for_rate: the fewest images
        that make one; loop_seconds: the wall time of the whole evaluation, its first batches and its writing included
    rule: the fusion rule, None for the model's own
    pixels_differ: share of pixels in other segments than in the first row's maps; pq_difference: PQ minus its PQ
    """

    model: str
    precision: str
    batch_size: int
    status: str
    device: str
    weights: str
    planted: int
    images: int
    height: int | None
    width: int | None
    input_height: int | None = None
    input_width: int | None = None
    params: int | None = None
    gflops: float | None = None
    gmacs: float | None = None
    gmacs_published: float | None = None
    images_per_second: float | None = None
    images_for_rate: int | None = None
    loop_seconds: float | None = None
    latency_mean: float | None = None
    latency_p50: float | None = None
    latency_p90: float | None = None
    latency_p99: float | None = None
    load: float | None = None
    forward: float | None = None
    fusion: float | None = None
    overlap: float | None = None
    write: float | None = None
    host_peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    segments: float | None = None
    PQ: float | None = None
    pixels_differ: float | None = None
    pq_difference: float | None = None
    rule: str | None = None
    torch: str = torch.__version__
    threads: int | None = None

    @property
    def why_no_rate(self) -> str | None:
        """A sentence for a setting that ran but gave no rate; otherwise None."""
        if self.status != "ok" or self.images_per_second is not None:
            return None
        return (
            f"{self.images} images are too few batches for images a second; --count {self.images_for_rate} would do. "
            f"The whole loop took {self.loop_seconds:.1f} s."
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """All settings of the models asked for, and what they ran on."""

    rows: tuple[Row, ...]
    device: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    command: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What bench.json holds."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "versions": self.versions,
            "git_commit": self.git_commit,
            "command": [redacted(word) for word in self.command],
            "flops_count": "gflops counts a multiply-add as 2, gmacs as 1; convolutions, matrix products and attention",
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }


def benchmark(
    specs: Sequence[ModelSpec],
    *,
    size: tuple[int, int] = REFERENCE_IMAGE,
    count: int = 20,
    photographs: Sequence[Path] = (),
    exif: Exif = "apply",
    device: str = "auto",
    rules: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32",),
    batch_sizes: Sequence[int] = (1,),
    weights: str = "auto",
    plant: int = 0,
    warm_up: int = 3,
    seed: int = 0,
    download: bool = False,
    command: Sequence[str] = (),
    reporter: Reporter = SILENT,
    measured: Callable[[Row], None] | None = None,
) -> Report:
    """Measures every precision at every batch size for every model on `count` generated images of `size`.

    The first setting of a model is always fp32 at the smallest batch size: the others' maps are held against its.
    photographs: the first `count` of these files and folders instead of generated images; then there is no PQ
    exif: "apply" turns photographs as their EXIF orientation says; "ignore" takes them as they are stored
    rules: fusion rules as `--rule` names them, each measured by itself; () is each model's own
    weights: "auto", "random" or a path; plant: how many segments an image the heads are made to answer with, 0 for none
    download: fetch weights that are not here
    warm_up: batches before the clock runs; reporter: gets progress, and notices of settings that cannot run
    measured: called with each row as soon as it is measured
    Raises BadArgument, BadCheckpoint for weights that are not here. What a single setting cannot do is said in its row.
    """
    if count < 1 or warm_up < 0 or plant < 0 or not batch_sizes or min(batch_sizes) < 1:
        raise BadArgument("--count and --batch-size must be at least 1, --warm-up and --plant at least 0.")
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise BadArgument(f"--precision {unknown[0]} is unknown; it is one of {', '.join(PRECISIONS)}.")
    chosen = choose_device(device)
    if weights == "auto":
        for spec in specs:
            resolve_weights(spec, weights, needed=False, download=download, reporter=reporter)
    ordered = dict.fromkeys([("fp32", min(batch_sizes)), *itertools.product(precisions, batch_sizes)])
    rows: list[Row] = []
    versions: dict[str, str] = {}
    wanted: Sequence[str | None] = rules or [None]
    cases = list(itertools.product(specs, wanted))
    for spec, rule in cases:
        reporter.status(f"Preparing {spec.title}")
        context = _Context(spec, size, count, photographs, exif, chosen, weights, plant, warm_up, seed, rule)
        for precision, batch_size in ordered:
            row = _measure(context, precision, batch_size)
            if problem := row.status if row.status != "ok" else row.why_no_rate:
                reporter.notice(f"{spec.name}, {precision}, batch size {batch_size}: {problem}")
            rows.append(row)
            if measured is not None:
                measured(row)
            reporter.progress("Measuring", len(rows), len(cases) * len(ordered), "settings")
        versions.update(context.versions)
    return Report(
        rows=tuple(rows),
        device=provenance.describe_device(
            chosen.type, torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
        ),
        versions={**provenance.versions(), **versions},
        git_commit=provenance.git_commit(),
        command=tuple(command),
    )


def write_report(report: Report, folder: Path, *, raw: bool = False) -> tuple[Path, Path]:
    """Writes bench.csv, a line a setting, and bench.json into a folder; returns both paths.

    raw: names that a spreadsheet would run as a formula are left as they are
    """
    table, record = folder / "bench.csv", folder / "bench.json"
    with atomic_write(table, "w") as handle:
        writer = csv.DictWriter(handle, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in report.rows:
            line = dataclasses.asdict(row)
            writer.writerow(line if raw else {name: for_spreadsheet(value) for name, value in line.items()})
    write_json(record, report.record())
    return table, record


def count_flops(model: Model, image: Any) -> int:
    """Floating-point operations of the forward pass on one loaded image, a multiply-add counted as two.

    Counted are convolutions, matrix products and attention, which FlopCounterMode knows; normalisation, resizing and
    the sampling of deformable attention and RoIAlign are not.
    """
    # The CPU's fused attention is the one kernel of these models that FlopCounterMode has no formula for.
    missing = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        model.candidates([image])
    return int(counter.get_total_flops())


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, queries, channels = query
    return 2 * batch * heads * queries * key[2] * (channels + value[3])


def share_that_differs(first: PanopticPrediction, second: PanopticPrediction) -> float:
    """The share of pixels that two maps of an image put into different segments, 0–1.

    Segments of one category are paired, largest overlap first, each once; void is paired with void. A pixel outside of
    all pairs differs. Ids and their order play no part.
    """
    categories = [{0: 0, **{segment.id: segment.category_id for segment in side.segments}} for side in (first, second)]
    joined = first.ids.astype(np.int64) << 32 | second.ids
    pairs, counts = np.unique(joined, return_counts=True)
    taken: tuple[set[int], set[int]] = (set(), set())
    agreed = 0
    for index in np.argsort(-counts, kind="stable"):
        left, right = int(pairs[index] >> 32), int(pairs[index] & 0xFFFFFFFF)
        if categories[0][left] != categories[1][right] or left in taken[0] or right in taken[1]:
            continue
        taken[0].add(left)
        taken[1].add(right)
        agreed += int(counts[index])
    return 1.0 - agreed / first.ids.size


class _Context:
    """Values shared by all settings of one model: images, FLOPs and the maps of the first setting."""

    def __init__(
        self,
        spec: ModelSpec,
        size: tuple[int, int],
        count: int,
        photographs: Sequence[Path],
        exif: Exif,
        device: torch.device,
        weights: str,
        plant: int,
        warm_up: int,
        seed: int,
        rule: str | None,
    ) -> None:
        self.spec, self.size, self.count, self.photographs, self.device = spec, size, count, photographs, device
        self.exif, self.rule = exif, rule
        self.weights, self.plant, self.warm_up, self.seed = weights, plant, warm_up, seed
        self.dataset: Dataset | None = None
        self.flops: int | None = None
        self.maps: list[PanopticPrediction] | None = None
        self.reference_pq: float | None = None
        self.versions: dict[str, str] = {}

    def load(self, precision: str) -> Model:
        model = open_model(self.spec, weights=self.weights, device=self.device, precision=precision, seed=self.seed)
        self.versions.update(model.versions)
        if self.rule is not None:
            (chosen,) = rules_of(model, [self.rule])
            refuse_unfit(chosen, model)
            model.rule = chosen
        if self.plant:
            model.plant_segments(self.plant)
        if self.dataset is None:
            self.dataset = (
                photograph_dataset(self.photographs, model_categories(model), limit=self.count, exif=self.exif)
                if self.photographs
                else generated_dataset(model.class_names, model.isthing, size=self.size, count=self.count)
            )
        return model


def _measure(context: _Context, precision: str, batch_size: int) -> Row:
    """The row of one setting, whatever happens."""
    device = context.device
    row = Row(
        model=context.spec.name,
        precision=precision,
        batch_size=batch_size,
        status="ok",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else provenance.cpu_name(),
        weights=context.weights,
        planted=context.plant,
        images=context.count,
        # Photographs have sizes of their own.
        height=None if context.photographs else context.size[0],
        width=None if context.photographs else context.size[1],
        rule=context.rule,
        gmacs_published=PUBLISHED_GMACS.get(context.spec.name),
        threads=torch.get_num_threads(),
    )
    # The setting before this one is gone, with what its modules hold of each other: peaks are this setting's own.
    free_memory()
    forget_peaks(device)
    try:
        with memory_errors():
            model = context.load(precision)
            return _measured(context, model, row)
    except PanbenchError as error:
        return dataclasses.replace(row, status=str(error))
    except torch.OutOfMemoryError:
        return dataclasses.replace(row, status=f"out of memory on {device}")
    except RuntimeError as error:
        # What an operator lacks for a precision is said by PyTorch in a RuntimeError; the next setting goes on.
        return dataclasses.replace(row, status=f"PyTorch cannot do this here: {' '.join(str(error).split())[:200]}")


def _measured(context: _Context, model: Model, row: Row) -> Row:
    assert context.dataset is not None
    if context.flops is None and row.precision == "fp32":
        context.flops = _flops_at_reference(context, model)
    maps, latencies, padded = _one_after_another(context, model, row.batch_size)
    with tempfile.TemporaryDirectory(prefix="panbench-bench.") as folder:
        workers = worker_threads(None)
        options = EvaluateOptions(batch_size=row.batch_size, workers=workers, unscored=True)
        run = evaluate(model, context.dataset, Path(folder) / "run", options)
        # While its folder is there: a run reads its parts when it is asked.
        info, pq = run.info, run.summary()["All"]["PQ"]
    if context.maps is None:
        context.maps, context.reference_pq = maps, pq
        differ = 0.0
    else:
        differ = float(np.mean([share_that_differs(*pair) for pair in zip(context.maps, maps, strict=True)]))
    percentiles = np.percentile(latencies, (50, 90, 99))
    cuda = context.device.type == "cuda"
    count = len(context.dataset.scenes)
    milliseconds: dict[str, Any] = {stage: 1000 * (getattr(info.seconds, stage) or 0.0) / count for stage in STAGES}
    return dataclasses.replace(
        row,
        input_height=padded[0],
        input_width=padded[1],
        params=model.describe().params,
        gflops=None if context.flops is None else context.flops / 1e9,
        gmacs=None if context.flops is None else context.flops / 2e9,
        images_per_second=info.images_per_second,
        images_for_rate=_images_for_rate(model, row.batch_size, workers),
        loop_seconds=info.seconds.wall,
        latency_mean=float(np.mean(latencies)),
        latency_p50=float(percentiles[0]),
        latency_p90=float(percentiles[1]),
        latency_p99=float(percentiles[2]),
        **milliseconds,
        host_peak_bytes=host_peak(),
        device_peak_bytes=torch.cuda.max_memory_allocated(context.device) if cuda else None,
        segments=float(np.mean([len(predicted.segments) for predicted in maps])),
        PQ=pq,
        pixels_differ=differ,
        pq_difference=None if pq is None or context.reference_pq is None else pq - context.reference_pq,
    )


def _images_for_rate(model: Model, batch_size: int, workers: int) -> int:
    """The fewest images of one size from which the loop measures a rate."""
    lanes = lanes_of(model, torch.get_num_threads())
    before = batches_before_rate(lanes, lanes * batch_size, lanes=lanes, workers=workers)
    return (before + lanes) * batch_size


def _flops_at_reference(context: _Context, model: Model) -> int:
    reference = generated_dataset(model.class_names, model.isthing, size=REFERENCE_IMAGE, count=1)
    return count_flops(model, model.load(reference.scenes[0]))


def _one_after_another(
    context: _Context, model: Model, batch_size: int
) -> tuple[list[PanopticPrediction], list[float], tuple[int, int]]:
    """The maps of all images, milliseconds a batch after warming up, and the size that the network sees."""
    assert context.dataset is not None
    ids = model.category_ids(context.dataset.categories)
    plan = list(plan_batches(context.dataset.scenes, batch_size, model))
    maps, latencies = [], []
    for number, batch in enumerate([plan[0]] * context.warm_up + plan):
        began = time.perf_counter()
        loaded = [model.load(scene) for scene in batch]
        outputs = model.candidates(loaded)
        fused = fuse(outputs, model.rule)
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        settled = [model.settle(one, model.rule) for one in fused]
        spent = 1000 * (time.perf_counter() - began)
        if number < context.warm_up:
            continue
        # A last batch that is smaller would pass for a fast one.
        if len(batch) == batch_size or len(plan) == 1:
            latencies.append(spent)
        for scene, one in zip(batch, settled, strict=True):
            predicted = prediction_of(scene.image.id, one, ids)
            maps.append(dataclasses.replace(predicted, ids=_small(predicted.ids)))
    return maps, latencies, outputs[0].frame.padded


def _small(ids: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    return ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.int32)
