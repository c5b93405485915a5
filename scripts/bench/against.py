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
outside. CPU time is that of each side's process, without mmdet's loader processes, in its favour. The machine's rate is
that of a product of 2,048 × 2,048 matrices; operations are those that FlopCounterMode knows.

CocoPanopticMetric needs panopticapi: pip install --no-deps panopticapi-lite==0.2.0
"""

import argparse
import contextlib
import csv
import dataclasses
import importlib
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.base import provenance
from panbench.base.errors import PanbenchError
from panbench.base.files import write_json
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.memory import host_peak
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
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import overlap_table
from panbench.weights import fetch_weights
from scripts.bench.harness import RESULTS, Row, arguments, compared, finish, machine, turns

Loop = Literal["mmdet", "transformers", "plain"]
Side = Callable[[], dict[str, Any]]
SIZE, PLANTED = (480, 640), 15


@dataclass(frozen=True)
class Task:
    """What both sides are asked to do."""

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
        """The weights that both sides load, where there are any but random ones."""
        return self.folder / "weights.pth"


@dataclass(frozen=True)
class Asked:
    """A model, and the loop that it is held against. images: at most, where one takes long."""

    title: str
    loop: Loop
    model: str
    images: int = 1000


_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_RESNET50 = {
    "model_type": "resnet",
    "layer_type": "bottleneck",
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "out_features": _STAGES,
}
_VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 640, "num_blocks": 3}
_SWIN_T = {
    "model_type": "swin",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "out_features": _STAGES,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "eomt-s-640": {"model_type": "eomt", **_VIT_S},
    "eomt-s-640-open": {"model_type": "eomt", **_VIT_S},
    "detr-r50": {"model_type": "detr", "backbone_config": _RESNET50},
    "detr-r50-480": {"model_type": "detr", "backbone_config": _RESNET50},
    "mask2former-hf-swin-t": {"model_type": "mask2former", "backbone_config": _SWIN_T, "num_queries": 100},
}
"""Networks of transformers as their config.json has them: no hub is asked."""
SHORTER_SIDES = {"detr-r50-480": (480, 800)}
"""Shorter and longest side of the input, where not 800 and 1,333."""
OPEN = {"eomt-s-640-open"}
"""EoMT as it is once its masks are annealed: no block masks its attention; an untrained one masks all that may."""

ASKED = {
    "panoptic-fpn-r50": Asked("Panoptic FPN R50", "mmdet", "panoptic-fpn-r50-1x"),
    "maskformer-r50": Asked("MaskFormer R50", "mmdet", "maskformer-r50"),
    "mask2former-r50": Asked("Mask2Former R50", "mmdet", "mask2former-r50"),
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
    """mmdet's loop and ours on one model; tells the result."""
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
    """What each side returned in each round, after one that is not counted."""
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(side(name, LOOPS[name], task)) for name in (loop, "panbench")}
        turns(sides, 1)
        return turns(sides, rounds)


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the table, and what it does not hold; writes the JSON."""
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
    """What TF32 was used for, which is asked for of both sides alike."""
    if side_info["tf32"] is None:
        return "none, there is no CUDA"
    words = [f"{part} {'on' if on else 'off'}" for part, on in side_info["tf32"].items()]
    return f"{', '.join(words)} (--precision {precision})"


def families(options: argparse.Namespace) -> None:
    """Measures one after the other; a model that fails is a row that says why."""
    unknown = [name for name in options.models if name not in ASKED]
    if unknown:
        sys.exit(f"Error: {unknown[0]} is not one of {', '.join(ASKED)}.")
    rate = matmul_rate(options.threads)
    rows: list[Row] = []
    for name in options.models:
        asked, began = ASKED[name], time.perf_counter()
        try:
            row = measured(asked, options, rate)
        except (Exception, SystemExit) as error:
            row = dict.fromkeys(rows[0] if rows else _HEADS, "–") | {_HEADS[0]: asked.title, "against": _line(error)}
        rows.append({**row, "machine": machine()})
        kept = others(rows) if options.write else []
        finish("families", in_the_order_asked([*kept, *rows]), options.write, quiet=name != options.models[-1])
        print(f"{asked.title}: {time.perf_counter() - began:.0f} s in all", file=sys.stderr, flush=True)


def others(rows: list[Row]) -> list[Row]:
    """The stored rows of models that are not measured now."""
    path = RESULTS / "families.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        measured_now = {row["model"] for row in rows}
        return [row for row in csv.DictReader(handle) if row["model"] not in measured_now]


def in_the_order_asked(rows: list[Row]) -> list[Row]:
    """Rows in the order of ASKED."""
    titles = [asked.title for asked in ASKED.values()]
    return sorted(rows, key=lambda row: titles.index(row["model"]) if row["model"] in titles else len(titles))


_HEADS = (
    "model",
    "against",
    "images",
    "its ms",
    "ms",
    "ratio",
    "its CPU ms",
    "CPU ms",
    "ratio in CPU",
    "GFLOP",
    "share of the rate",
    "its MB",
    "MB",
)


def measured(asked: Asked, options: argparse.Namespace, rate: float) -> Row:
    """Both sides in turn, and what became of it. rate: the machine's, in GFLOP/s"""
    images = min(options.images, asked.images)
    with tempfile.TemporaryDirectory(prefix="against.") as folder:
        if asked.loop == "mmdet":
            names, isthing = store_weights(asked.model, "random", Path(folder) / "weights.pth")
        else:
            model = open_model(spec_of(asked.model), weights="random", device="cpu")
            names, isthing = model.class_names, model.isthing
            del model
        dataset = generated_dataset(names, isthing, size=SIZE, count=images)
        found = in_turn(asked.loop, Task(asked.model, dataset, Path(folder), threads=options.threads), options.rounds)
    sides = (asked.loop, "panbench")
    seconds, cpu = (
        {name: min(run[what] for run in runs) / images for name, runs in found.items()}
        for what in ("seconds", "cpu_seconds")
    )
    giga = found["panbench"][-1]["gflops"]
    cells = (
        asked.title,
        found[asked.loop][-1].get("name", asked.loop),
        str(images),
        *(f"{1e3 * seconds[name]:.0f}" for name in sides),
        f"{seconds[asked.loop] / seconds['panbench']:.2f}",
        *(f"{1e3 * cpu[name]:.0f}" for name in sides),
        f"{cpu[asked.loop] / cpu['panbench']:.2f}",
        f"{giga:.0f}",
        f"{giga / seconds['panbench'] / rate:.0%}",
        *(f"{max(run['peak_bytes'] for run in found[name]) / 1e6:,.0f}" for name in sides),
    )
    return dict(zip(_HEADS, cells, strict=True))


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
    """mmengine's Runner with mmdet's config, dataset, loader and metric."""
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
    """panbench's evaluation with a model that is loaded already."""
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
    """The model of the catalogue, or a network of transformers that needs no file."""
    if name not in NETWORKS:
        return find_model(name)
    names, _ = coco_labels()
    short, long = SHORTER_SIDES.get(name, (800, 1333))
    network = {**NETWORKS[name], "id2label": dict(enumerate(names))}
    settings = {"network": network, "sizes": {"short": short, "long": long}}
    return dataclasses.replace(find_model("hf:random/network"), name=name, title=name, settings=settings)


def opened(task: Task, speedups: bool) -> HostedModel:
    """The model with the same random weights on both sides, answering with planted segments."""
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
    """The same network in a plain loop: read, forward pass, fusion and scoring of one image after the other."""
    model = opened(task, speedups=False)
    ids = model.category_ids(task.dataset.categories)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        for scene in task.dataset.scenes:
            (fused,) = fuse(model.candidates([model.load(scene)]), model.rule)
            predicted = prediction_of(scene.image.id, model.rule.settle(fused), ids)
            assert scene.gt_path is not None
            assert scene.annotation is not None
            own = read_id_png(scene.gt_path)
            overlap_table(scene.image.id, own, scene.annotation.segments, predicted.ids, predicted.segments)
        return {"seconds": time.perf_counter() - began}

    return run


def transformers_side(task: Task) -> Side:
    """transformers' image processor, network and post-processing, of one image after the other."""
    model = opened(task, speedups=False)
    module, adapter = model.module, model.adapter
    assert isinstance(adapter, TransformersAdapter)
    kind = adapter.kind
    own = importlib.import_module(f"transformers.models.{kind.name}.image_processing_pil_{kind.name}")
    name = {"eomt": "Eomt", "detr": "Detr", "mask2former": "Mask2Former"}[kind.name] + "ImageProcessorPil"
    # EoMT's panoptic checkpoints have it so in preprocessor_config.json.
    sides = {"shortest_edge": adapter.short, "longest_edge": adapter.short if kind.name == "eomt" else adapter.long}
    processor: Any = getattr(own, name)(size=sides, **({"do_pad": True} if kind.name == "eomt" else {}))
    stuff = {label for label, thing in enumerate(model.isthing) if not thing}
    more: dict[str, Any] = {"stuff_classes": sorted(stuff)} if kind.name == "eomt" else {"label_ids_to_fuse": stuff}

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        began = time.perf_counter()
        for scene in task.dataset.scenes:
            inputs = processor(images=[read_photograph(scene)[0]], return_tensors="pt")
            outputs = module(**{key: value for key, value in inputs.items() if torch.is_tensor(value)})
            logits = {each: getattr(outputs, getattr(kind, each)) for each in ("class_logits", "mask_logits")}
            # In place: what the post-processing reads.
            plant(
                SimpleNamespace(
                    class_queries_logits=logits["class_logits"], masks_queries_logits=logits["mask_logits"]
                ),
                task.plant,
                len(model.isthing) - len(stuff),
            )
            size = (scene.image.height, scene.image.width)
            processor.post_process_panoptic_segmentation(outputs, threshold=0.8, target_sizes=[size], **more)
        return {"seconds": time.perf_counter() - began}

    return run


def plant(outputs: Any, segments: int, stuff: int) -> Any:
    """The outputs with the class and mask logits of a scene of `segments` segments, tiles, in the first queries.

    A third of them are stuff, of classes from `stuff` on; the other queries say "nothing", as most do when trained.
    """
    classes, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    classes.fill_(0.0)
    classes[..., -1] = 8.0
    height, width = masks.shape[-2:]
    columns = math.ceil(math.sqrt(segments))
    rows = math.ceil(segments / columns)
    for index in range(min(segments, masks.shape[1])):
        row, column = divmod(index, columns)
        label = stuff + index if index % 3 == 0 else index
        classes[:, index, label], classes[:, index, -1] = 12.0, 0.0
        masks[:, index] = -6.0
        top, bottom = row * height // rows, (row + 1) * height // rows
        left, right = column * width // columns, (column + 1) * width // columns
        masks[:, index, top:bottom, left:right] = 6.0
    return outputs


LOOPS: dict[str, Callable[[Task], Side]] = {
    "mmdet": mmdet_side,
    "transformers": transformers_side,
    "plain": plain_side,
    "panbench": panbench_side,
}


def matmul_rate(threads: int) -> float:
    """GFLOP per second of a product of two 2,048 × 2,048 matrices in fp32 by the clock, the best of five."""
    with _threads(threads):
        one, other = torch.randn(2, 2048, 2048)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            one @ other
            best = min(best, time.perf_counter() - began)
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}: {2 * 2048**3 / best / 1e9:.0f} GFLOP/s")
    return 2 * 2048**3 / best / 1e9


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    yield
    torch.set_num_threads(before)


def _line(error: BaseException) -> str:
    """The last line of what an error says."""
    return f"not measured: {(str(error).strip().splitlines() or [type(error).__name__])[-1][:120]}"


@contextlib.contextmanager
def side(name: str, build: Callable[[Task], Side], task: Task) -> Iterator[Side]:
    """A function that runs one side once, in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    # Not a daemon: mmdet's loader starts processes itself.
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(name, build, task, theirs))
    process.start()
    theirs.close()

    def run() -> dict[str, Any]:
        try:
            ours.send("run")
            answer = ours.recv()
        except (EOFError, BrokenPipeError):
            # The log lies in a folder that is removed with the benchmark.
            last = log_of(task, name).read_text("utf-8", "replace").strip().rpartition("\n")[2] or "(empty)"
            process.join()
            sys.exit(f"the process of {name!r} ended early, with exit code {process.exitcode}; its log ends: {last}")
        if isinstance(answer, str):
            sys.exit(f"{name}'s side failed:\n{answer}")
        return answer  # type: ignore[no-any-return]

    try:
        yield run
    finally:
        with contextlib.suppress(OSError):
            ours.send("stop")
        process.join(timeout=30)
        if process.is_alive():
            process.terminate()


def log_of(task: Task, name: str) -> Path:
    """Where a side's own output goes."""
    return task.folder / f"{name}.log"


def serve(name: str, build: Callable[[Task], Side], task: Task, pipe: Any) -> None:
    """A side's process: builds, then runs whenever it is told to."""
    warnings.filterwarnings("ignore")
    with open(log_of(task, name), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if task.threads:
        torch.set_num_threads(task.threads)
    try:
        run = build(task)
        while pipe.recv() == "run":
            began = time.process_time()
            pipe.send({**run(), "cpu_seconds": time.process_time() - began, **circumstances(task)})
    except Exception:
        pipe.send(traceback.format_exc())


def circumstances(task: Task) -> dict[str, Any]:
    """What a side ran on, and the most memory that it held: on the device, or of its process on the host.

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
