"""Loops of others and panbench's on the same images, weights and device, in turn, and the ratio of their times.

    python scripts/bench/against.py --model mask2former-tiny --images 40 --rounds 3
    python scripts/bench/against.py --model mask2former-r50 --checkpoint random --plant 15 --images 10 --size 800x1088
    python scripts/bench/against.py families --write                       # every family: ten minutes on two idle cores
    python scripts/bench/against.py families --models detr-r50 --images 1 --write         # the other rows are kept

Without `families` it is mmdet's own test loop: mmengine's Runner.test with the model's config as it is (two loader
processes, batches of one image, CocoPanopticMetric) against panbench.evaluation.evaluate. Compiled operators of mmcv
serve both where mmcv has them; else panbench's stand-ins do, and the row says "mmdet without compiled operators".
`families` also knows
- transformers: its image processor (on Pillow), its network as it is, its post-processing, one image after the other;
  it scores nothing, in its favour. Its DETR needs 18 GB at 800×1066; detr-r50-480 needs 7.
- plain: for families whose authors' code is not here. The same network without panbench's changes to it, one image
  after the other, nothing beside anything else. So the ratio says nothing about the authors' code.

Each side lives in a process of its own, holds its model, runs once to warm up, and then both run the same images in
turn. Times are of whole loops, from the first image that is read to the PQ; building models and loading weights are
outside. CPU time is that of each side's process, without mmdet's loader processes, in its favour. mmdet's loop has no
autocast, so it runs in fp32 beside bf16, too. The machine's rate is the higher one of a product of 2,048 × 2,048
matrices (MKL) and of a 3×3 convolution (oneDNN); operations are those that FlopCounterMode knows.

CocoPanopticMetric needs panopticapi: pip install --no-deps panopticapi-lite==0.2.0
"""

import argparse
import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from panbench.base import provenance
from panbench.base.errors import PanbenchError
from panbench.base.files import write_json
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.measuring import host_peak
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.tools.benchmark import count_flops
from panbench.models.checkpoints import load_checkpoint
from panbench.models.devices import choose_device, tf32_as
from panbench.models.host import HostedModel
from panbench.models.labels import coco_labels
from panbench.models.mmdet import operators
from panbench.models.mmdet.config import build_model, family_of, load_config
from panbench.models.opening import open_model
from panbench.models.predict import prediction_of
from panbench.models.preprocess import read_photograph
from panbench.models.rules import fuse
from panbench.models.synthetic import tiles
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import overlap_table
from panbench.weights import fetch_weights
from scripts.bench.harness import Row, arguments, compared, finish, machine, stored, turns
from scripts.check.hub_networks import without_hub

Loop = Literal["mmdet", "transformers", "plain"]
Side = Callable[[], dict[str, Any]]
SIZE, PLANTED = (480, 640), 15


@dataclass(frozen=True)
class Task:
    """The model, images and settings that both sides run."""

    model: str
    dataset: Dataset
    folder: Path
    plant: int = PLANTED
    device: str = "cpu"
    threads: int = 0
    batch_size: int = 1
    precision: str = "fp32"

    @property
    def weights(self) -> Path:
        """The weights that both sides load; None for random ones."""
        return self.folder / "weights.pth"


@dataclass(frozen=True)
class Asked:
    """A model and the loop to compare with. images: the largest number, for slow models; precision: panbench's"""

    title: str
    loop: Loop
    model: str
    images: int = 1000
    precision: str = "fp32"


NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "eomt-s-640": ("eomt-dinov2-s-640", {"num_blocks": 3}, {"short": 640}),
    "eomt-s-640-open": ("eomt-dinov2-s-640", {"num_blocks": 3}, {"short": 640}),
    "eomt-l": ("eomt-dinov2-l-640", {"num_blocks": 4}, {"short": 640}),
    "detr-r50": ("detr-r50", {}, {}),
    "detr-r50-480": ("detr-r50", {}, {"short": 480, "long": 800}),
    "mask2former-hf-swin-t": ("mask2former-hf-swin-t", {}, {}),
}
"""Models of the hub by their published sizes, so that no hub is asked: what differs in the network and in its input."""
OPEN = {"eomt-s-640-open"}
"""EoMT as it is once its masks are annealed: no block masks its attention; an untrained one masks all that may."""

ASKED = {
    "panoptic-fpn-r50": Asked("Panoptic FPN R50", "mmdet", "panoptic-fpn-r50-1x"),
    "panoptic-fpn-r50-bf16": Asked("Panoptic FPN R50, bf16", "mmdet", "panoptic-fpn-r50-1x", precision="bf16"),
    "maskformer-r50": Asked("MaskFormer R50", "mmdet", "maskformer-r50"),
    "maskformer-r50-bf16": Asked("MaskFormer R50, bf16", "mmdet", "maskformer-r50", precision="bf16"),
    "mask2former-r50": Asked("Mask2Former R50", "mmdet", "mask2former-r50"),
    "mask2former-r50-bf16": Asked("Mask2Former R50, bf16", "mmdet", "mask2former-r50", precision="bf16"),
    "mask2former-swin-t": Asked("Mask2Former Swin-T", "mmdet", "mask2former-swin-t"),
    "mask2former-hf-swin-t": Asked("Mask2Former Swin-T of transformers", "transformers", "mask2former-hf-swin-t"),
    "eomt-s-640": Asked("EoMT-S 640", "transformers", "eomt-s-640"),
    "eomt-s-640-open": Asked("EoMT-S 640, no masked attention", "transformers", "eomt-s-640-open"),
    "detr-r50-480": Asked("DETR R50, shorter side 480", "transformers", "detr-r50-480"),
    "detr-r50": Asked("DETR R50", "transformers", "detr-r50", images=2),
    "psf-r50": Asked("Panoptic SegFormer R50", "plain", "psf-r50-1x"),
    "mask-dino-r50": Asked("Mask DINO R50", "plain", "mask-dino-r50"),
    "mask2former-swin-l": Asked("Mask2Former Swin-L", "mmdet", "mask2former-swin-l", images=2),
}
"""What is measured, the dearest last."""


def main() -> None:
    """Prints a row for each side, or for each family."""
    try:
        if sys.argv[1:2] == ["families"]:
            del sys.argv[1]
            families(arguments(__doc__, models=tuple(ASKED), images=3, rounds=1, threads=0))
        else:
            against_mmdet(
                arguments(
                    __doc__,
                    model="mask2former-tiny",
                    images=4,
                    size="480x640",
                    device="auto",
                    checkpoint="auto",
                    plant=0,
                    rounds=2,
                    threads=0,
                    batch_size=1,
                    precision="fp32",
                    json=Path,
                )
            )
    except PanbenchError as error:
        sys.exit(f"Error: {error}")


def against_mmdet(options: argparse.Namespace) -> None:
    """Compares mmdet's loop with panbench's on one model, and reports the result."""
    height, _, width = options.size.partition("x")
    with tempfile.TemporaryDirectory(prefix="against.") as folder:
        names, isthing = store_weights(options.model, options.checkpoint, Path(folder) / "weights.pth")
        task = Task(
            model=options.model,
            dataset=generated_dataset(names, isthing, size=(int(height), int(width)), count=options.images),
            folder=Path(folder),
            plant=options.plant,
            device=str(choose_device(options.device)),
            threads=options.threads,
            batch_size=options.batch_size,
            precision=options.precision,
        )
        report(options, in_turn("mmdet", task, options.rounds))


def in_turn(loop: Loop, task: Task, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs both sides in turn; returns the result of each side in each round, without the warm-up round."""
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(side(name, LOOPS[name], task)) for name in (loop, "panbench")}
        turns(sides, 1)
        return turns(sides, rounds)


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the table and what it leaves out, and writes the JSON."""
    seconds, cpu = (
        {name: [run[what] for run in runs] for name, runs in found.items()} for what in ("seconds", "cpu_seconds")
    )
    ours, theirs = found["panbench"][-1], found["mmdet"][-1]
    stages = ", ".join(f"{stage} {1000 * spent / options.images:.1f}" for stage, spent in ours["stages"].items())
    print(f"torch {torch.__version__} on {ours['device']}, threads: {theirs['threads']} and {ours['threads']}")
    print(f"TF32 on both sides: {tf32_in_words(theirs, options.precision)}")
    print(f"panbench's stages, ms an image (they overlap): {stages}; segments an image {ours['segments']:.1f}")
    title = f"{find_model(options.model).title} ({options.checkpoint}), {options.images} images of {options.size}"
    rows: list[Row] = [
        {
            title: f"{runs[-1]['name']}, {options.precision if name == 'panbench' else 'fp32'}",
            "CPU ms an image": f"{1e3 * min(cpu[name]) / options.images:.0f}",
            "× mmdet by the clock": compared(seconds["mmdet"], seconds[name])["ratio"],
            **compared(cpu["mmdet"], cpu[name], "× mmdet in CPU"),
            "peak MB": f"{runs[-1]['peak_bytes'] / 1e6:.0f}",
            "PQ": f"{100 * runs[-1]['PQ']:.6f}",
        }
        for name, runs in found.items()
    ]
    finish("against", rows, write=False)
    if options.json:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        given = {name: str(value) for name, value in vars(options).items()}
        known = {
            "seconds_median": medians,
            "ratio": medians["mmdet"] / medians["panbench"],
            "ratio_cpu": statistics.median(cpu["mmdet"]) / statistics.median(cpu["panbench"]),
            "mmdet": theirs["name"],
            "tf32": {"mmdet": theirs["tf32"], "panbench": ours["tf32"]},
        }
        known |= {"rounds": found, "options": given, "versions": provenance.versions()}
        write_json(options.json, {**known, "git_commit": provenance.git_commit(), "command": sys.argv})


def tf32_in_words(side_info: dict[str, Any], precision: str) -> str:
    """Describes the use of TF32, which both sides share."""
    if side_info["tf32"] is None:
        return "none, there is no CUDA"
    words = [f"{part} {'on' if on else 'off'}" for part, on in side_info["tf32"].items()]
    return f"{', '.join(words)} (--precision {precision})"


def families(options: argparse.Namespace) -> None:
    """Measures the families one after the other; a model that fails becomes a row with the reason."""
    rates = {"fp32": rate_of(options.threads, torch.float32), "bf16": rate_of(options.threads, torch.bfloat16)}
    rows: list[Row] = []
    for name in options.models:
        asked, began = ASKED[name], time.perf_counter()
        try:
            row = measured(asked, options, rates[asked.precision])
        except (Exception, SystemExit) as error:
            row = {"model": asked.title, "against": _last_line(error)}
        rows.append({**row, "machine": machine()})
        now = {row["model"] for row in rows}
        kept = [row for row in stored("families") if options.write and row["model"] not in now]
        finish("families", in_the_order_asked([*kept, *rows]), options.write, quiet=name != options.models[-1])
        print(f"{asked.title}: {time.perf_counter() - began:.0f} s in all", file=sys.stderr, flush=True)


def in_the_order_asked(rows: list[Row]) -> list[Row]:
    """Sorts rows in the order of ASKED."""
    titles = [asked.title for asked in ASKED.values()]
    return sorted(rows, key=lambda row: titles.index(row["model"]) if row["model"] in titles else len(titles))


def measured(asked: Asked, options: argparse.Namespace, rate: float) -> Row:
    """Measures both sides in turn; returns the row with the result or the error. rate: the machine's, in GFLOP/s"""
    images = min(options.images, asked.images)
    with tempfile.TemporaryDirectory(prefix="against.") as folder:
        if asked.loop == "mmdet":
            names, isthing = store_weights(asked.model, "random", Path(folder) / "weights.pth")
        else:
            model = open_model(spec_of(asked.model), weights="random", device="cpu")
            names, isthing = model.class_names, model.isthing
            del model
        dataset = generated_dataset(names, isthing, size=SIZE, count=images)
        task = Task(asked.model, dataset, Path(folder), threads=options.threads, precision=asked.precision)
        found = in_turn(asked.loop, task, options.rounds)
    seconds, cpu = (
        {name: min(run[what] for run in runs) / images for name, runs in found.items()}
        for what in ("seconds", "cpu_seconds")
    )
    peak = {name: max(run["peak_bytes"] for run in runs) / 1e6 for name, runs in found.items()}
    giga = found["panbench"][-1]["gflops"]
    return {
        "model": asked.title,
        "against": found[asked.loop][-1].get("name", asked.loop),
        "images": str(images),
        "its ms": f"{1e3 * seconds[asked.loop]:.0f}",
        "ms": f"{1e3 * seconds['panbench']:.0f}",
        "ratio": f"{seconds[asked.loop] / seconds['panbench']:.2f}",
        "its CPU ms": f"{1e3 * cpu[asked.loop]:.0f}",
        "CPU ms": f"{1e3 * cpu['panbench']:.0f}",
        "ratio in CPU": f"{cpu[asked.loop] / cpu['panbench']:.2f}",
        "GFLOP": f"{giga:.0f}",
        "share of the rate": f"{giga / seconds['panbench'] / rate:.0%}",
        "its MB": f"{peak[asked.loop]:,.0f}",
        "MB": f"{peak['panbench']:,.0f}",
    }


def store_weights(model: str, weights: str, target: Path) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Writes the weights that both sides load; returns the names of the model's labels and which are things."""
    spec = find_model(model)
    operators.install()
    if weights == "random":
        torch.manual_seed(0)
        state = build_model(load_config(spec)).state_dict()
    else:
        state = dict(load_checkpoint(fetch_weights(spec) if weights == "auto" else weights).state_dict)
    torch.save({"state_dict": state, "meta": {}}, target)
    loaded = open_model(spec, weights=str(target), device="cpu")
    return loaded.class_names, loaded.isthing


def mmdet_side(task: Task) -> Side:
    """Builds mmengine's Runner with mmdet's config, dataset, loader and metric."""
    compiled = operators.install() == "compiled"
    from mmengine.runner import Runner

    config = load_config(find_model(task.model))
    dataset = task.dataset
    config.test_dataloader.dataset.update(
        data_root=None,
        ann_file=str(dataset.gt),
        data_prefix={"img": f"{dataset.images}/", "seg": f"{dataset.scenes[0].gt_path.parent}/"},  # type: ignore[union-attr]
    )
    config.test_evaluator = {
        "type": "CocoPanopticMetric",
        "ann_file": str(dataset.gt),
        "seg_prefix": f"{dataset.scenes[0].gt_path.parent}/",  # type: ignore[union-attr]
    }
    config.work_dir = str(task.folder / "mmdet")
    config.load_from = str(task.weights)
    config.launcher = "none"
    if task.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    unused = "train_dataloader train_cfg optim_wrapper param_scheduler val_dataloader val_cfg val_evaluator"
    for key in unused.split():
        config[key] = None
    runner_of_mmdet = Runner.from_cfg(config)
    model = runner_of_mmdet.model
    if task.plant:
        family_of(model).plant(model, task.plant)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        with tf32_as(task.precision):
            measured = runner_of_mmdet.test()
        name = "mmdet" if compiled else "mmdet without compiled operators"
        return {"name": name, "seconds": time.perf_counter() - began, "PQ": measured["coco_panoptic/PQ"] / 100}

    return run


def panbench_side(task: Task) -> Side:
    """Builds panbench's evaluation with a loaded model."""
    model = opened(task, speedups=True)
    giga = count_flops(model, model.load(task.dataset.scenes[0])) / 1e9
    options = EvaluateOptions(batch_size=task.batch_size, overwrite=True)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        done = evaluate(model, task.dataset, task.folder / "run", options)
        seconds = time.perf_counter() - began
        segments = done.segments()
        return {
            "name": "panbench",
            "seconds": seconds,
            "gflops": giga,
            "PQ": done.summary()["All"]["PQ"] or 0.0,
            "segments": float((segments["side"] == "pred").sum()) / len(task.dataset.scenes),
            "stages": vars(done.info.seconds),
        }

    return run


def spec_of(name: str) -> ModelSpec:
    """Returns the model of the catalogue, or a hub model whose network needs no file."""
    if name not in NETWORKS:
        return find_model(name)
    published, changes, sizes = NETWORKS[name]
    spec = without_hub(find_model(published), coco_labels()[0], **changes)
    settings = {**spec.settings, "sizes": {"short": 800, "long": 1333} | sizes}
    return dataclasses.replace(spec, name=name, title=name, settings=settings)


def opened(task: Task, speedups: bool) -> HostedModel:
    """Opens the model with the same random weights on both sides and planted segments as its output."""
    weights = str(task.weights) if task.weights.exists() else "random"
    model = open_model(
        spec_of(task.model), weights=weights, device=task.device, precision=task.precision, speedups=speedups
    )
    assert isinstance(model, HostedModel)
    if task.model in OPEN:
        torch.zero_(model.module.get_buffer("attn_mask_probs"))
    if task.plant:
        model.plant_segments(task.plant)
    return model


def plain_side(task: Task) -> Side:
    """Builds a plain loop over the same network: read, forward pass, fusion and scoring, one image after the other."""
    model = opened(task, speedups=False)
    ids = model.category_ids(task.dataset.categories)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        for scene in task.dataset.scenes:
            (fused,) = fuse(model.candidates([model.load(scene)]), model.rule)
            predicted = prediction_of(scene.image.id, model.rule.to_segments(fused), ids)
            assert scene.gt_path is not None
            assert scene.annotation is not None
            own = read_id_png(scene.gt_path)
            overlap_table(scene.image.id, own, scene.annotation.segments, predicted.ids, predicted.segments)
        return {"seconds": time.perf_counter() - began}

    return run


def transformers_side(task: Task) -> Side:
    """Builds a loop of transformers' image processor, network and post-processing, one image after the other."""
    model = opened(task, speedups=False)
    module, adapter = model.module, model.adapter
    assert isinstance(adapter, TransformersAdapter)
    kind = adapter.kind
    own = importlib.import_module(f"transformers.models.{kind.name}.image_processing_pil_{kind.name}")
    name = {"eomt": "Eomt", "detr": "Detr", "mask2former": "Mask2Former"}[kind.name] + "ImageProcessorPil"
    # EoMT's panoptic checkpoints have it so in preprocessor_config.json.
    size = adapter.resize
    sides = {"shortest_edge": size.short, "longest_edge": size.short if kind.name == "eomt" else size.long}
    processor: Any = getattr(own, name)(size=sides, **({"do_pad": True} if kind.name == "eomt" else {}))
    stuff = {label for label, thing in enumerate(model.isthing) if not thing}
    more: dict[str, Any] = {"stuff_classes": sorted(stuff)} if kind.name == "eomt" else {"label_ids_to_fuse": stuff}

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        began = time.perf_counter()
        for scene in task.dataset.scenes:
            inputs = processor(images=[read_photograph(scene)[0]], return_tensors="pt")
            outputs = module(**{key: value for key, value in inputs.items() if torch.is_tensor(value)})
            # In place: what the post-processing reads.
            classes, masks = getattr(outputs, kind.class_logits), getattr(outputs, kind.mask_logits)
            plant(classes, masks, task.plant, len(model.isthing) - len(stuff))
            size = (scene.image.height, scene.image.width)
            processor.post_process_panoptic_segmentation(outputs, threshold=0.8, target_sizes=[size], **more)
        return {"seconds": time.perf_counter() - began}

    return run


def plant(classes: Tensor, masks: Tensor, segments: int, stuff: int) -> None:
    """Replaces class and mask logits in the first queries by those of a scene of `segments` tiles.

    A third of them are stuff, of classes from `stuff` on; the other queries say "nothing", as most do when trained.
    """
    classes.fill_(0.0)
    classes[..., -1] = 8.0
    for index, (rows, columns) in enumerate(tiles(segments, *masks.shape[-2:])):
        label = stuff + index if index % 3 == 0 else index
        classes[:, index, label], classes[:, index, -1] = 12.0, 0.0
        masks[:, index] = -6.0
        masks[:, index, rows, columns] = 6.0


LOOPS: dict[str, Callable[[Task], Side]] = {
    "mmdet": mmdet_side,
    "transformers": transformers_side,
    "plain": plain_side,
    "panbench": panbench_side,
}


def rate_of(threads: int, dtype: torch.dtype) -> float:
    """Measures GFLOP/s by the clock: the faster of a matrix product and a convolution, best of five."""
    with _threads(threads), torch.inference_mode():
        one, other = torch.randn(2, 2048, 2048).to(dtype)
        pixels = torch.randn(1, 256, 100, 136).to(dtype, memory_format=torch.channels_last)
        convolution = torch.nn.Conv2d(256, 256, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        work = {2 * 2048**3: lambda: one @ other, 2 * 9 * 256 * 256 * 100 * 136: lambda: convolution(pixels)}
        best = 0.0
        for operations, run in work.items():
            for _ in range(5):
                began = time.perf_counter()
                run()
                best = max(best, operations / (time.perf_counter() - began) / 1e9)
    print(f"{threads or torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}: {best:.0f} GFLOP/s, {dtype}")
    return best


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    yield
    torch.set_num_threads(before)


def _last_line(error: BaseException) -> str:
    """Returns the last line of an error's message."""
    return f"not measured: {(str(error).strip().splitlines() or [type(error).__name__])[-1][:120]}"


@contextlib.contextmanager
def side(name: str, build: Callable[[Task], Side], task: Task) -> Iterator[Side]:
    """Returns a function that runs one side once, in its own process."""
    log = task.folder / f"{name}.log"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _begin_process, (log, task.threads)) as process:

        def run() -> dict[str, Any]:
            try:
                return process.submit(_run_once, name, build, task).result()
            except BrokenProcessPool:
                # The log lies in a folder that is removed with the benchmark.
                last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2] or "(empty)"
                sys.exit(f"the process of {name!r} ended early; its log ends: {last}")

        yield run


def _begin_process(log: Path, threads: int) -> None:
    """Initializes a side's process, whose output goes to the log."""
    warnings.filterwarnings("ignore")
    with log.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    if threads:
        torch.set_num_threads(threads)


_built: dict[str, Side] = {}
"""The side of this process, once it is built."""


def _run_once(name: str, build: Callable[[Task], Side], task: Task) -> dict[str, Any]:
    """Runs a side once in its own process, building it on the first call."""
    try:
        if name not in _built:
            _built[name] = build(task)
        began = time.process_time()
        return {**_built[name](), "cpu_seconds": time.process_time() - began, **circumstances(task)}
    except Exception:
        sys.exit(f"{name}'s side failed:\n{traceback.format_exc()}")


def circumstances(task: Task) -> dict[str, Any]:
    """Returns what a side ran on, and its peak memory: of the device, or of its process on the host.

    mmdet's loader processes are left out, in its favour. `getrusage` would not do: it counts what a process was before
    it became another program, so every `git` that a large process starts counts as large.
    """
    device = torch.device(task.device)
    on_cuda = device.type == "cuda"
    with tf32_as(task.precision):
        tf32 = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
    return {
        "threads": torch.get_num_threads(),
        "tf32": tf32 if on_cuda else None,
        "device": torch.cuda.get_device_name(device) if on_cuda else provenance.cpu_name(),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if on_cuda else host_peak(),
    }


if __name__ == "__main__":
    main()
