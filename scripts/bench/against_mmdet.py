"""mmdet's own test loop and panbench's on the same images, weights and device, in turn, and the ratio of their times.

    python scripts/bench/against_mmdet.py
    python scripts/bench/against_mmdet.py --model mask2former-tiny --images 40 --rounds 3
    python scripts/bench/against_mmdet.py --model mask2former-r50 --weights random --plant 15 --images 10 \
        --size 800x1088

mmdet's side is mmengine's Runner.test with the model's config as it is (two loader processes, batches of one image,
CocoPanopticMetric); ours is panbench.evaluation.evaluate. Each side lives in a process of its own with the same ops
(panbench.models.mmdet.operators.install; on the CPU mmdet has mmcv's own deformable attention, compiled or not, unless
--same-attention gives it ours), holds its model, runs once to warm up, and then both run the same images in turn. Times
are of whole loops, from the first image that is read to the PQ; building models and loading weights are outside. CPU
time is that of each side's process, without mmdet's loader processes, in its favour.

CocoPanopticMetric needs panopticapi: pip install --no-deps panopticapi-lite==0.2.0
"""

import argparse
import contextlib
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.base import provenance
from panbench.base.errors import PanbenchError
from panbench.base.files import write_json
from panbench.catalog import find_model
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.memory import host_peak
from panbench.evaluation.options import EvaluateOptions
from panbench.models.checkpoints import load_checkpoint
from panbench.models.devices import choose_device, tf32_as
from panbench.models.host import HostedModel
from panbench.models.mmdet import operators
from panbench.models.mmdet.config import build_model, family_of, load_config
from panbench.models.opening import open_model
from panbench.weights import fetch_weights
from scripts.bench.harness import Row, arguments, compared, finish, turns


@dataclass(frozen=True)
class Task:
    """What both sides are asked to do."""

    model: str
    weights: Path
    dataset: Dataset
    device: str
    plant: int
    threads: int
    batch_size: int
    precision: str
    same_attention: bool
    folder: Path


def main() -> None:
    """Prints a row for each side; writes more as JSON if asked to."""
    options = arguments(
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
        same_attention=False,
        json=Path,
    )
    try:
        compare(options)
    except PanbenchError as error:
        sys.exit(f"Error: {error}")


def compare(options: argparse.Namespace) -> None:
    """Runs both sides in turn and tells the result."""
    height, _, width = options.size.partition("x")
    with tempfile.TemporaryDirectory(prefix="bench_vs_mmdet.") as folder:
        weights = Path(folder) / "weights.pth"
        names, isthing = store_weights(options.model, options.checkpoint, weights)
        dataset = generated_dataset(names, isthing, size=(int(height), int(width)), count=options.images, progress=None)
        task = Task(
            model=options.model,
            weights=weights,
            dataset=dataset,
            device=str(choose_device(options.device)),
            plant=options.plant,
            threads=options.threads,
            batch_size=options.batch_size,
            precision=options.precision,
            same_attention=options.same_attention,
            folder=Path(folder),
        )
        with side("mmdet", mmdet_side, task) as run_mmdet, side("panbench", panbench_side, task) as run_panbench:
            sides = {"mmdet": run_mmdet, "panbench": run_panbench}
            turns(sides, 1)
            found = turns(sides, options.rounds)
    report(options, found)


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
            title: name + (f", {options.precision}" if name == "panbench" else ", fp32"),
            "CPU ms an image": f"{1e3 * min(cpu[name]) / options.images:.0f}",
            "× mmdet by the clock": compared(seconds["mmdet"], seconds[name])["ratio"],
            **compared(cpu["mmdet"], cpu[name], "× mmdet in CPU"),
            "peak MB": f"{runs[-1]['peak_bytes'] / 1e6:.0f}",
            "PQ": f"{100 * runs[-1]['PQ']:.6f}",
        }
        for name, runs in found.items()
    ]
    finish("against_mmdet", rows, options.write)
    if options.json:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        given = {name: str(value) for name, value in vars(options).items()}
        known = {
            "seconds_median": medians,
            "ratio": medians["mmdet"] / medians["panbench"],
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


def mmdet_side(task: Task) -> Callable[[], dict[str, Any]]:
    """mmengine's Runner with mmdet's config, dataset, loader and metric."""
    operators.install()
    if task.same_attention:
        operators.speed_up_deformable_attention()
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
    for key in (
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
    ):
        config[key] = None
    runner_of_mmdet = Runner.from_cfg(config)
    model = runner_of_mmdet.model
    if task.plant:
        family_of(model).plant(model, task.plant)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        with tf32_as(task.precision):
            measured = runner_of_mmdet.test()
        return {"seconds": time.perf_counter() - began, "PQ": measured["coco_panoptic/PQ"] / 100}

    return run


def panbench_side(task: Task) -> Callable[[], dict[str, Any]]:
    """panbench.evaluation.evaluate.evaluate with a model that is loaded already."""
    spec = find_model(task.model)
    model = open_model(spec, weights=str(task.weights), device=task.device, precision=task.precision)
    assert isinstance(model, HostedModel)
    if task.plant:
        model.plant_segments(task.plant)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        done = evaluate(
            model, task.dataset, task.folder / "run", EvaluateOptions(batch_size=task.batch_size, overwrite=True)
        )
        seconds = time.perf_counter() - began
        segments = done.segments()
        return {
            "seconds": seconds,
            "PQ": done.summary()["All"]["PQ"] or 0.0,
            "segments": float((segments["side"] == "pred").sum()) / len(task.dataset.scenes),
            "stages": vars(done.info.seconds),
        }

    return run


@contextlib.contextmanager
def side(name: str, build: Callable[[Task], Callable[[], dict[str, Any]]], task: Task) -> Iterator[Callable[[], Any]]:
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


def serve(name: str, build: Callable[[Task], Callable[[], dict[str, Any]]], task: Task, pipe: Any) -> None:
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
