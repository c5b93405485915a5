"""Every family against its own loop on this machine: time, ratio, share of the machine's rate, memory; a row each.

    python scripts/bench/own_loops.py --write                          # all, some ten minutes on two idle cores
    python scripts/bench/own_loops.py --models detr-r50 mask-dino-r50 --images 1 --write    # the other rows are kept

Random weights with planted segments; both sides in processes of their own that run the same images in turn, after one
pass each to warm up. Against what:

- mmdet: its own test loop (against_mmdet.py).
- transformers: its image processor (on Pillow), its network as it is, its post-processing, one image after the other;
  it scores nothing, in its favour. Its DETR needs 18 GB at 800×1066; detr-r50-480 needs 7.
- plain: for families whose authors' code is not here. The same network in a plain loop: without panbench's changes to
  it, one image after the other, nothing beside anything else. So the ratio says nothing about the authors' code.

The machine's rate is that of a product of 2,048 × 2,048 matrices on the same threads. Operations are those that
FlopCounterMode knows (convolutions, products, attention). A row is stored as soon as it is measured.
"""

import contextlib
import csv
import dataclasses
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.catalog import ModelSpec, find_model
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.tools.benchmark import count_flops
from panbench.models.host import HostedModel
from panbench.models.labels import coco_labels
from panbench.models.opening import open_model
from panbench.models.predict import prediction_of
from panbench.models.preprocess import read_photograph
from panbench.models.rules import fuse
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import overlap_table
from scripts.bench.against_mmdet import Task, mmdet_side, side, store_weights
from scripts.bench.against_transformers import plant
from scripts.bench.harness import RESULTS, Row, arguments, finish, machine, turns

SIZE = (480, 640)
PLANTED = 15
Loop = Literal["mmdet", "transformers", "plain"]


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
NETWORKS: dict[str, dict[str, Any]] = {
    "eomt-s-640": {"model_type": "eomt", **_VIT_S},
    "eomt-s-640-open": {"model_type": "eomt", **_VIT_S},
    "detr-r50": {"model_type": "detr", "backbone_config": _RESNET50},
    "detr-r50-480": {"model_type": "detr", "backbone_config": _RESNET50},
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
    """Measures one after the other; a model that fails is a row that says why."""
    options = arguments(__doc__, models=tuple(ASKED), images=3, rounds=1, threads=0)
    unknown = [name for name in options.models if name not in ASKED]
    if unknown:
        sys.exit(f"Error: {unknown[0]} is not one of {', '.join(ASKED)}.")
    rate = matmul_rate(options.threads)
    rows: list[Row] = []
    for name in options.models:
        asked, began = ASKED[name], time.perf_counter()
        try:
            row = measured(asked, min(options.images, asked.images), options.rounds, options.threads, rate)
        except (Exception, SystemExit) as error:
            row = dict.fromkeys(rows[0] if rows else _HEADS, "–") | {_HEADS[0]: asked.title, "against": _line(error)}
        rows.append({**row, "machine": machine()})
        kept = others(rows) if options.write else []
        finish("own_loops", in_order([*kept, *rows]), options.write, quiet=name != options.models[-1])
        print(f"{asked.title}: {time.perf_counter() - began:.0f} s in all", file=sys.stderr, flush=True)


def others(rows: list[Row]) -> list[Row]:
    """The stored rows of models that are not measured now."""
    path = RESULTS / "own_loops.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        measured_now = {row["model"] for row in rows}
        return [row for row in csv.DictReader(handle) if row["model"] not in measured_now]


def in_order(rows: list[Row]) -> list[Row]:
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


def measured(asked: Asked, images: int, rounds: int, threads: int, rate: float) -> Row:
    """The row of a model: the best round of each side, as a whole loop from the first file to the score."""
    with tempfile.TemporaryDirectory(prefix="own_loops.") as name:
        folder = Path(name)
        weights = folder / "weights.pth"
        if asked.loop == "mmdet":
            names, isthing = store_weights(asked.model, "random", weights)
        else:
            names, isthing = coco_labels()
        dataset = generated_dataset(names, isthing, size=SIZE, count=images, progress=None)
        task = Task(asked.model, weights, dataset, "cpu", PLANTED, threads, 1, "fp32", False, folder)
        with contextlib.ExitStack() as stack:
            sides: dict[str, Callable[[], Any]] = {
                "its": stack.enter_context(side("its", LOOPS[asked.loop], task)),
                "ours": stack.enter_context(side("ours", ours_side, task)),
            }
            turns(sides, 1)
            found = turns(sides, rounds)
    seconds, cpu = (
        {name: min(run[what] for run in runs) / images for name, runs in found.items()}
        for what in ("seconds", "cpu_seconds")
    )
    memory = {name: max(run["peak_bytes"] for run in runs) for name, runs in found.items()}
    giga = found["ours"][-1]["gflops"]
    cells = (
        asked.title,
        asked.loop,
        str(images),
        *(f"{1e3 * seconds[name]:.0f}" for name in ("its", "ours")),
        f"{seconds['its'] / seconds['ours']:.2f}",
        *(f"{1e3 * cpu[name]:.0f}" for name in ("its", "ours")),
        f"{cpu['its'] / cpu['ours']:.2f}",
        f"{giga:.0f}",
        f"{giga / seconds['ours'] / rate:.0%}",
        *(f"{memory[name] / 1e6:,.0f}" for name in ("its", "ours")),
    )
    return dict(zip(_HEADS, cells, strict=True))


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
    model = open_model(spec_of(task.model), weights=weights, device="cpu", speedups=speedups)
    assert isinstance(model, HostedModel)
    if task.model in OPEN:
        torch.zero_(model.module.get_buffer("attn_mask_probs"))
    model.plant_segments(task.plant)
    return model


def ours_side(task: Task) -> Callable[[], dict[str, Any]]:
    """panbench's evaluation, with the operations of a forward pass."""
    model = opened(task, speedups=True)
    giga = count_flops(model, model.load(task.dataset.scenes[0])) / 1e9

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        evaluate(model, task.dataset, task.folder / "run", EvaluateOptions(batch_size=1, overwrite=True))
        return {"seconds": time.perf_counter() - began, "gflops": giga}

    return run


def plain_side(task: Task) -> Callable[[], dict[str, Any]]:
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


def transformers_side(task: Task) -> Callable[[], dict[str, Any]]:
    """transformers' image processor, network and post-processing, of one image after the other."""
    model = opened(task, speedups=False)
    module, adapter = model.module, model.adapter
    assert isinstance(adapter, TransformersAdapter)
    kind = adapter.kind
    own = importlib.import_module(f"transformers.models.{kind.name}.image_processing_pil_{kind.name}")
    name = {"eomt": "EomtImageProcessorPil", "detr": "DetrImageProcessorPil"}[kind.name]
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


LOOPS: dict[Loop, Callable[[Task], Callable[[], dict[str, Any]]]] = {
    "mmdet": mmdet_side,
    "transformers": transformers_side,
    "plain": plain_side,
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


if __name__ == "__main__":
    main()
