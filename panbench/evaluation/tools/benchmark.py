"""Measures a model's speed by stage, its memory, and the loss in quality of lower precisions.

Each setting (a precision and a batch size) is measured twice on the same images: batch by batch, for latency and maps;
then by `evaluate`, for throughput and stages. The row of a setting that cannot run holds the reason.
"""

import csv
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from panbench.base import provenance
from panbench.base.computing import STAGES, split_precision
from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.files import atomic_write, write_json
from panbench.base.reporter import SILENT, Reporter
from panbench.base.secrets import redacted
from panbench.base.text import for_spreadsheet
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.loop import lanes_of, worker_threads
from panbench.evaluation.measuring import batches_before_rate, forget_peaks, free_memory, host_peak
from panbench.evaluation.options import EvaluateOptions, Opening, computing_of, opened_model
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.tools.photographs import photograph_dataset
from panbench.evaluation.wrapping import refuse_unfit, rules_of
from panbench.metrics.matched import one_to_one
from panbench.models.devices import choose_device, memory_errors
from panbench.models.model import Model
from panbench.models.opening import resolve_weights
from panbench.models.predict import model_categories, prediction_of
from panbench.models.rules import fuse
from panbench.panoptic.overlap import count_pairs
from panbench.panoptic.types import Exif, PanopticPrediction

SCHEMA = 1

REFERENCE_IMAGE = (480, 640)
"""COCO's most common size, at which FLOPs are counted; the zoo's pipelines resize it to 800×1067."""

PUBLISHED_GMACS = {
    "mask2former-r50": 226.0,
    "mask2former-r101": 293.0,
    "mask2former-swin-l": 868.0,
    "maskformer-r50": 181.0,
    "maskformer-swin-l": 792.0,
}
"""10⁹ multiply-adds per image, each counted once, which the papers call FLOPs: means over COCO val images at the zoo's
size. [Cheng et al. 2022, table 1; Cheng et al. 2021, table 4]"""


@dataclasses.dataclass(frozen=True)
class Row:
    """The results for one model, precision and batch size: a line of bench.csv. Times are ms per image.

    input_height, input_width: the network's input, padding included
    gflops: multiplications and additions each counted, of one image of REFERENCE_IMAGE; gmacs: half of it, to compare
        with gmacs_published
    latency_*: from the file of an image to its map on the host, for the whole batch; nothing overlaps
    load … write: milliseconds of each stage in the evaluation, where stages overlap
    images_per_second: the steady rate of the evaluation, None for too few batches; images_for_rate: the fewest images
        that give one; loop_seconds: the wall time of the whole evaluation, its first batches and its writing included
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
        """Explains why a setting that ran has no rate; None for other settings."""
        if self.status != "ok" or self.images_per_second is not None:
            return None
        return (
            f"{self.images} images are too few batches for images a second; --count {self.images_for_rate} would do. "
            f"The whole loop took {self.loop_seconds:.1f} s."
        )


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """The rows of a benchmark, and the device and versions they were measured with."""

    rows: tuple[Row, ...]
    device: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    command: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Returns the content of bench.json."""
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
) -> BenchmarkResult:
    """Measures every precision at every batch size for every model on `count` generated images of `size`.

    The first setting of a model is always fp32 at the smallest batch size: the others' maps are compared with its maps.
    precisions: as `--precision` of `eval` takes them, with +compile or a study's runtime
    photographs: the first `count` of these files and folders instead of generated images; then there is no PQ
    exif: "apply" turns photographs as their EXIF orientation says; "ignore" takes them as they are stored
    rules: fusion rules as `--rule` names them, each measured separately; () is each model's own
    weights: "auto", "random" or a path; plant: how many segments per image the heads are forced to output, 0 for none
    download: fetch missing weights
    warm_up: batches before the clock runs; reporter: gets progress, and notices of settings that cannot run
    Raises BadArgument, BadCheckpoint for missing weights. The failure of a single setting is reported in its row.
    """
    if count < 1 or warm_up < 0 or plant < 0 or not batch_sizes or min(batch_sizes) < 1:
        raise BadArgument("--count and --batch-size must be at least 1, --warm-up and --plant at least 0.")
    for precision in precisions:
        split_precision(precision)
    chosen = choose_device(device)
    if weights == "auto":
        for spec in specs:
            resolve_weights(spec, weights, needed=False, download=download, reporter=reporter)
    ordered = dict.fromkeys([("fp32", min(batch_sizes)), *itertools.product(precisions, batch_sizes)])
    rows: list[Row] = []
    versions: dict[str, str] = {}
    required: Sequence[str | None] = rules or [None]
    cases = list(itertools.product(specs, required))
    for spec, rule in cases:
        reporter.status(f"Preparing {spec.title}")
        context = _ModelUnderTest(spec, size, count, photographs, exif, chosen, weights, plant, warm_up, seed, rule)
        for precision, batch_size in ordered:
            row = _measure(context, precision, batch_size)
            if problem := row.status if row.status != "ok" else row.why_no_rate:
                reporter.notice(f"{spec.name}, {precision}, batch size {batch_size}: {problem}")
            rows.append(row)
            reporter.progress("Measuring", len(rows), len(cases) * len(ordered), "settings")
        versions.update(context.versions)
    return BenchmarkResult(
        rows=tuple(rows),
        device=provenance.describe_device(
            chosen.type, torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
        ),
        versions={**provenance.versions(), **versions},
        git_commit=provenance.git_commit(),
        command=tuple(command),
    )


def write_report(report: BenchmarkResult, folder: Path, *, raw: bool = False) -> tuple[Path, Path]:
    """Writes bench.csv, with a line per setting, and bench.json into a folder; returns both paths.

    raw: do not escape names that a spreadsheet would run as a formula
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
    """Counts the floating-point operations of the forward pass on one image, with a multiply-add as two.

    Convolutions, matrix products and attention are counted (by FlopCounterMode); normalisation, resizing and the
    sampling of deformable attention and RoIAlign are not.
    """
    # FlopCounterMode lacks a formula only for the CPU's fused attention.
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    missing = {op: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        model.candidates([image])
    return int(counter.get_total_flops())


def share_of_different_pixels(first: PanopticPrediction, second: PanopticPrediction) -> float:
    """Returns the share of pixels that two maps of an image assign to different segments, 0–1.

    Segments of one category are paired, largest overlap first, each once; void is paired with void. Pixels outside all
    pairs differ. Ids do not matter.
    """
    pairs = count_pairs(first.ids.astype(np.int32), second.ids.astype(np.int32))
    of_first, of_second = ({0: 0, **{one.id: one.category_id for one in side.segments}} for side in (first, second))
    both = zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)
    alike = np.array([of_first[left] == of_second[right] for left, right in both])
    ids, others, pixels = (column[alike] for column in pairs)
    agreed = int(pixels[one_to_one(ids, others, np.argsort(-pixels, kind="stable"))].sum())
    return 1.0 - agreed / first.ids.size


@dataclasses.dataclass
class _ModelUnderTest:
    """A model to benchmark, with what all its precisions share: images, FLOPs and reference maps."""

    spec: ModelSpec
    size: tuple[int, int]
    count: int
    photographs: Sequence[Path]
    exif: Exif
    device: torch.device
    weights: str
    plant: int
    warm_up: int
    seed: int
    rule: str | None
    dataset: Dataset | None = None
    flops: int | None = None
    maps: list[PanopticPrediction] | None = None
    reference_pq: float | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, precision: str) -> Model:
        """Opens the model with this precision; the first call also makes the images."""
        computing = computing_of(precision, str(self.device))
        model = opened_model(self.spec, Opening(weights=self.weights, seed=self.seed, **computing))
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


def _measure(context: _ModelUnderTest, precision: str, batch_size: int) -> Row:
    """Measures one precision and batch size; a failure is recorded in the row's status."""
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
    # The previous setting's memory is freed, reference cycles included, so peaks are this setting's own.
    free_memory()
    forget_peaks(device)
    try:
        with memory_errors():
            model = context.load(precision)
            return _measure_opened(context, model, row)
    except PanbenchError as error:
        return dataclasses.replace(row, status=str(error))
    except torch.OutOfMemoryError:
        return dataclasses.replace(row, status=f"out of memory on {device}")
    except RuntimeError as error:
        # PyTorch raises RuntimeError for an operator that lacks a precision; continue with the next setting.
        return dataclasses.replace(row, status=f"PyTorch cannot do this here: {' '.join(str(error).split())[:200]}")


def _measure_opened(context: _ModelUnderTest, model: Model, row: Row) -> Row:
    """Measures an opened model: latencies, rate, stages, memory, and how its maps differ from the first setting's."""
    assert context.dataset is not None
    if context.flops is None and row.precision == "fp32":
        reference = generated_dataset(model.class_names, model.isthing, size=REFERENCE_IMAGE, count=1)
        context.flops = count_flops(model, model.load(reference.scenes[0]))
    maps, latencies, padded = _time_batches(context, model, row.batch_size)
    with tempfile.TemporaryDirectory(prefix="panbench-bench.") as folder:
        workers = worker_threads(None)
        options = EvaluateOptions(batch_size=row.batch_size, workers=workers, unscored=True)
        run = evaluate(model, context.dataset, Path(folder) / "run", options)
        # While its folder exists: a run reads its parts lazily.
        info, pq = run.info, run.summary()["All"]["PQ"]
    if context.maps is None:
        context.maps, context.reference_pq = maps, pq
        differ = 0.0
    else:
        differ = float(np.mean([share_of_different_pixels(*pair) for pair in zip(context.maps, maps, strict=True)]))
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99)).tolist()
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
        latency_p50=p50,
        latency_p90=p90,
        latency_p99=p99,
        **milliseconds,
        host_peak_bytes=host_peak(),
        device_peak_bytes=torch.cuda.max_memory_allocated(context.device) if cuda else None,
        segments=float(np.mean([len(predicted.segments) for predicted in maps])),
        PQ=pq,
        pixels_differ=differ,
        pq_difference=None if pq is None or context.reference_pq is None else pq - context.reference_pq,
    )


def _images_for_rate(model: Model, batch_size: int, workers: int) -> int:
    """Returns how many images the loop needs at least to measure a rate of images per second."""
    lanes = lanes_of(model, torch.get_num_threads())
    before = batches_before_rate(lanes, lanes * batch_size, lanes=lanes, workers=workers)
    return (before + lanes) * batch_size


def _time_batches(
    context: _ModelUnderTest, model: Model, batch_size: int
) -> tuple[list[PanopticPrediction], list[float], tuple[int, int]]:
    """Times batches one after the other; returns all maps, ms per batch, and the network's input size."""
    assert context.dataset is not None
    ids = model.category_ids(context.dataset.categories)
    plan = plan_batches(context.dataset.scenes, batch_size, model)
    maps, latencies = [], []
    for number, batch in enumerate([plan[0]] * context.warm_up + plan):
        began = time.perf_counter()
        loaded = [model.load(scene) for scene in batch]
        outputs = model.candidates(loaded)
        fused = fuse(outputs, model.rule)
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        segmented = [model.to_segments(one, model.rule) for one in fused]
        spent = 1000 * (time.perf_counter() - began)
        if number < context.warm_up:
            continue
        # A smaller last batch would look like a fast one.
        if len(batch) == batch_size or len(plan) == 1:
            latencies.append(spent)
        for scene, one in zip(batch, segmented, strict=True):
            predicted = prediction_of(scene.image.id, one, ids)
            small: Any = np.uint8 if predicted.ids.max(initial=0) < 256 else np.int32
            maps.append(dataclasses.replace(predicted, ids=predicted.ids.astype(small)))
    return maps, latencies, outputs[0].frame.padded
