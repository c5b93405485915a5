#!/usr/bin/env python3
"""What only a GPU can answer, in half an hour: a question, kernels, speed. Each row is written when it is measured.

    python scripts/check/gpu_day.py results/gpu-day                  # on a machine with a CUDA device
    python scripts/check/gpu_day.py results/gpu-day speed            # one stage
    python scripts/check/gpu_day.py results/toy --toy                # the same code at toy size on a CPU

- question: of Mask2Former R50, whether its maps are the CPU's, how often a batch waits for the device, images/s, and
  the ratio to mmdet's loop. With compiled mmcv in the environment (pip install mmcv==2.1.0 where nvcc is at hand) that
  is mmdet as people run it; without, its row says so.
- kernels: deformable attention and RoIAlign by what is compiled here (mmcv, torchvision, the hub's) and by PyTorch:
  milliseconds a batch, and pixels that differ.
- speed: R50 models, Swin-L and EoMT-L: the loop's rate beside that of images that are loaded already, at several batch
  sizes and precisions, compiled by torch.compile, and over mixed sizes with the memory that takes.

OUT/REPORT.md has a table a stage, and NO where a goal is missed. What fails is a row that says why. The weights are
random with 15 planted segments: nothing is downloaded.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from panbench.base import provenance
from panbench.base.files import write_json, write_text
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.tools.benchmark import share_of_different_pixels
from panbench.models import async_device
from panbench.models.mmdet import operators
from panbench.models.opening import open_model
from panbench.models.predict import prediction_of
from panbench.models.rules import fuse
from scripts.bench.against import spec_of
from scripts.make.markdown_tables import table

AGAINST = Path(__file__).resolve().parents[1] / "bench" / "against.py"
PLANTED = 15
GOAL_RATE, GOAL_RATIO, MOST_WAITS = 83.0, 5.0, 2
MODELS = ("mask2former-r50", "maskformer-r50", "panoptic-fpn-r50-1x", "mask2former-swin-l", "eomt-l")
TOY = ("mask2former-tiny", "panoptic-fpn-tiny")
SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (500, 375), (612, 612))
Row = dict[str, Any]


class Day:
    """The output folder, and the sizes of everything."""

    def __init__(self, out: Path, toy: bool) -> None:
        """toy: use small models and images, on a CPU"""
        self.out, self.toy = out, toy
        self.device = torch.device("cpu" if toy else "cuda")
        self.models = TOY if toy else MODELS
        self.size, self.images = ((96, 128), 4) if toy else ((480, 640), 64)
        self.batches = (1, 2) if toy else (1, 8, 32)
        self.precisions = ("fp32", "bf16") if toy else ("fp32", "tf32", "bf16", "fp16")
        self.rows: dict[str, list[Row]] = {name: [] for name in STAGES}

    def add(self, stage: str, **row: Any) -> None:
        """Stores a row and rewrites the report."""
        self.rows[stage].append(row)
        write_json(self.out / "gpu_day.json", {**circumstances(self), "rows": self.rows})
        write_text(self.out / "REPORT.md", report(self))
        print(stage, {name: value for name, value in row.items() if value is not None}, flush=True)

    @contextlib.contextmanager
    def row(self, stage: str, **facts: Any) -> Iterator[Row]:
        """Yields a row for the block to fill; an exception in the block is stored in the row."""
        found: Row = {}
        try:
            yield found
        except Exception as error:
            found |= {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200], "good": False}
        self.add(stage, **facts, **found)


def circumstances(day: Day) -> dict[str, Any]:
    """Describes the machine."""
    cuda = day.device.type == "cuda"
    return {
        "device": str(torch.cuda.get_device_properties(day.device)) if cuda else provenance.cpu_name(),
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "operators": operators.install(),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }


def opened(day: Day, name: str, device: torch.device | None = None, **options: Any) -> Any:
    """Opens a model with planted segments."""
    model: Any = open_model(spec_of(name), weights="random", device=device or day.device, **options)
    model.plant_segments(PLANTED)
    return model


def loaded(model: Any, size: tuple[int, int], count: int) -> list[Any]:
    """Returns generated images of one size, loaded for the model."""
    dataset = generated_dataset(model.class_names, model.isthing, size=size, count=count)
    return [model.load(scene) for scene in dataset.scenes]


def passed(day: Day, model: Any, batch: Sequence[Any]) -> tuple[float, list[Any]]:
    """Returns seconds from loaded images to maps on the host for a batch, and the maps."""
    began = time.perf_counter()
    settled = [model.rule.to_segments(fused) for fused in fuse(model.candidates(batch), model.rule)]
    if day.device.type == "cuda":
        torch.cuda.synchronize(day.device)
    return time.perf_counter() - began, settled


def question(day: Day) -> None:
    """Measures Mask2Former R50: parity with the CPU, synchronizations, images/s, ratio to mmdet's loop."""
    name = day.models[0]
    with day.row("question", asked="pixels that differ from the CPU's") as row:
        here, there = opened(day, name, torch.device("cpu")), opened(day, name, precision="ieee")
        dataset = generated_dataset(here.class_names, here.isthing, size=day.size, count=2)
        ids = here.category_ids(dataset.categories)
        shares = [
            share_of_different_pixels(*(map_of(day, model, scene, ids) for model in (here, there)))
            for scene in dataset.scenes
        ]
        row |= {"answer": float(np.mean(shares)), "good": float(np.mean(shares)) <= 1e-3}
    with day.row("question", asked="waits of a batch") as row:
        count = waits(day, opened(day, name))
        row |= {"answer": count, "good": count <= MOST_WAITS}
    for precision in ("fp32", "bf16"):
        with day.row("question", asked=f"images/s, {precision}") as row:
            rate = rate_of_loop(day, opened(day, name, precision=precision), day.batches[-1], day.size)
            row |= {"answer": rate, "good": rate is not None and rate >= GOAL_RATE}
    with day.row("question", asked="ratio to mmdet's loop, fp32") as row:
        target = day.out / "against.json"
        size, batch = f"{day.size[0]}x{day.size[1]}", str(day.batches[-1])
        line = ["--model", name, "--images", str(day.images), "--size", size, "--batch-size", batch, "--rounds", "1"]
        line += ["--checkpoint", "random", "--plant", str(PLANTED), "--device", str(day.device), "--json", str(target)]
        done = subprocess.run([sys.executable, str(AGAINST), *line], capture_output=True, text=True, timeout=400)
        if done.returncode:
            raise RuntimeError(done.stderr[-200:])
        found = json.loads(target.read_text())
        row |= {"answer": found["ratio"], "against": found["mmdet"], "good": found["ratio"] >= GOAL_RATIO}


def map_of(day: Day, model: Any, scene: Any, ids: Any) -> Any:
    """Returns the map of one image."""
    return prediction_of(scene.image.id, passed(day, model, [model.load(scene)])[1][0], ids)


def waits(day: Day, model: Any) -> int:
    """Counts how often a batch of four waits for the device, including waits that PyTorch warns of."""
    batch = loaded(model, day.size, 4)
    passed(day, model, batch)
    before = async_device.copies
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if day.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            fuse(model.candidates(batch), model.rule)
        finally:
            if day.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return async_device.copies - before + sum("synchronizing" in str(each.message) for each in heard)


def rate_of_loop(day: Day, model: Any, batch: int, size: tuple[int, int]) -> float | None:
    """Returns images per second of `evaluate`: reading, network, fusion and scoring."""
    dataset = generated_dataset(model.class_names, model.isthing, size=size, count=max(day.images, 6 * batch + 8))
    run = evaluate(model, dataset, day.out / "run", EvaluateOptions(batch_size=batch, overwrite=True))
    return run.info.images_per_second


def kernels(day: Day) -> None:
    """Compares compiled kernels with PyTorch: the time of a batch, and whether maps are equal."""
    plain: dict[str, Any] = {"_compiled_kernel": lambda device: None, "_torchvision_loads": lambda: False}
    original = {name: getattr(operators, name) for name in plain}
    here = [operators.install(), *(["the hub's attention"] if importlib.util.find_spec("kernels") else [])]
    for name in (day.models[0], day.models[min(2, len(day.models) - 1)]):
        expected: list[Any] = []
        for what, functions in (("PyTorch", plain), (" and ".join(here), original)):
            with day.row("kernels", model=name, kernels=what) as row:
                for place, function in functions.items():
                    setattr(operators, place, function)
                try:
                    model = opened(day, name)
                    found = [passed(day, model, batch) for batch in [loaded(model, day.size, day.batches[-1])] * 8]
                finally:
                    for place, function in original.items():
                        setattr(operators, place, function)
                maps = [ids for ids, _ in found[-1][1]]
                expected = expected or maps
                differ = float(np.mean([np.mean(one != other) for one, other in zip(expected, maps, strict=True)]))
                spent = 1000 * statistics.median(seconds for seconds, _ in found[2:])
                row |= {"ms a batch": spent, "pixels that differ": differ, "good": differ <= 1e-4}


def speed(day: Day) -> None:
    """Compares the loop with preloaded images; also +compile, and mixed sizes with their memory."""
    for name in day.models:
        for precision in day.precisions:
            for batch in day.batches:
                with day.row("speed", model=name, precision=precision, batch=batch) as row:
                    row |= rates(day, opened(day, name, precision=precision), batch)
        with day.row("speed", model=name, precision="bf16+compile", batch=day.batches[1]) as row:
            row |= rates(day, opened(day, name, precision="bf16", compiled=True), day.batches[1])
        with day.row("speed", model=name, precision="bf16", batch=f"{day.batches[1]}, mixed sizes") as row:
            model = opened(day, name, precision="bf16")
            sizes = [day.size, day.size[::-1]] if day.toy else SIZES
            batches = [loaded(model, size, day.batches[1]) for size in sizes]
            [passed(day, model, batch) for batch in batches]
            spent = sum(passed(day, model, batch)[0] for batch in batches)
            row |= {"images/s, loaded": len(batches) * day.batches[1] / spent, "device MB": device_megabytes(day)}


def rates(day: Day, model: Any, batch: int) -> Row:
    """Returns images per second of the loop, and of preloaded images."""
    images = loaded(model, day.size, batch)
    spent = [passed(day, model, images)[0] for _ in range(8)]
    rate = rate_of_loop(day, model, batch, day.size)
    fast = {"images/s, loop": rate, "images/s, loaded": batch / statistics.median(spent[2:])}
    return {**fast, "device MB": device_megabytes(day)}


def device_megabytes(day: Day) -> float | None:
    """Returns the peak memory of PyTorch on the device since the last call."""
    if day.device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(day.device) / 1e6
    torch.cuda.reset_peak_memory_stats(day.device)
    return peak


STAGES: dict[str, Callable[[Day], None]] = {"question": question, "kernels": kernels, "speed": speed}


def report(day: Day) -> str:
    """Formats all rows as Markdown."""
    what = "a CPU, at toy size: no number here is of a GPU" if day.toy else "a GPU"
    lines = [f"# A day on {what}", "", *(f"- {name}: {value}" for name, value in circumstances(day).items())]
    for name, rows in day.rows.items():
        if rows:
            heads = list(dict.fromkeys(key for row in rows for key in row))
            lines += ["", f"## {name}", "", STAGES[name].__doc__ or "", ""]
            lines.append(table(heads, ([cell(row.get(head)) for head in heads] for row in rows)))
    return "\n".join([*lines, ""])


def cell(value: Any) -> str:
    """Formats a value for the table."""
    if value is None or isinstance(value, bool):
        return "" if value is None else "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> None:
    """Runs the stages; exits with 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], default=[])
    parser.add_argument("--toy", action="store_true", help="toy size, on a CPU")
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        sys.exit("Error: no CUDA device is found. Add --toy to run the stages at toy size on the CPU.")
    options.out.mkdir(parents=True, exist_ok=True)
    day = Day(options.out, options.toy)
    for name in options.stages or STAGES:
        STAGES[name](day)
    sys.exit(any(not row.get("good", True) for rows in day.rows.values() for row in rows) and not options.toy)


if __name__ == "__main__":
    main()
