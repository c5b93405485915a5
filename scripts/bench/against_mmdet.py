"""mmdet's own test loop and panbench's on the same images, weights and device, in turn, and the ratio of their times.

    python scripts/bench/against_mmdet.py --model mask2former-tiny --images 40 --size 480x640
    python scripts/bench/against_mmdet.py --model mask2former-r50 --weights random --plant 15 --images 10 \
        --size 800x1088

mmdet's side is mmengine's Runner.test with the model's config as it is (two loader processes, batches of one image,
CocoPanopticMetric); ours is panbench.evaluation.evaluate. Each side lives in a process of its own with the same ops
(panbench.models.mmdet.operators.install; on the CPU mmdet has mmcv's own deformable attention, compiled or not, unless
--same-attention gives it ours), holds its model, runs once to warm up, and then both run the same images in turn. Times
are of whole loops, from the first image that is read to the PQ; building models and loading weights are outside.

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
from panbench.models.checkpoints import fetch_weights, load_checkpoint
from panbench.models.devices import choose_device, tf32_as
from panbench.models.host import HostedModel
from panbench.models.mmdet import operators
from panbench.models.mmdet.config import build_model, family_of, load_config
from panbench.models.opening import open_model


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
    """Prints both sides and their ratio; writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", default="480x640", help="HEIGHTxWIDTH of the generated images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default="auto", help="auto, random, or a file")
    parser.add_argument(
        "--plant", type=int, default=0, metavar="N", help="make both sides answer with N segments an image"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch in each side; 0 leaves torch's default")
    parser.add_argument("--batch-size", type=int, default=1, help="ours; mmdet's stays 1, its config's")
    parser.add_argument("--precision", default="fp32", help="ours; mmdet has its TF32, but no autocast")
    parser.add_argument(
        "--same-attention", action="store_true", help="give mmdet our deformable attention for the CPU as well"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        compare(arguments)
    except PanbenchError as error:
        sys.exit(f"Error: {error}")


def compare(arguments: argparse.Namespace) -> None:
    """Runs both sides in turn and tells the result."""
    height, _, width = arguments.size.partition("x")
    spec = find_model(arguments.model)
    with tempfile.TemporaryDirectory(prefix="bench_vs_mmdet.") as folder:
        weights = Path(folder) / "weights.pth"
        names, isthing = store_weights(arguments.model, arguments.weights, weights)
        dataset = generated_dataset(
            names, isthing, size=(int(height), int(width)), count=arguments.images, progress=None
        )
        task = Task(
            model=arguments.model,
            weights=weights,
            dataset=dataset,
            device=str(choose_device(arguments.device)),
            plant=arguments.plant,
            threads=arguments.threads,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
            same_attention=arguments.same_attention,
            folder=Path(folder),
        )
        seconds: dict[str, list[float]] = {"mmdet": [], "panbench": []}
        cpu_seconds: dict[str, list[float]] = {"mmdet": [], "panbench": []}
        last: dict[str, dict[str, Any]] = {}
        with side("mmdet", mmdet_side, task) as run_mmdet, side("panbench", panbench_side, task) as run_panbench:
            runs = {"mmdet": run_mmdet, "panbench": run_panbench}
            for repeat in range(arguments.repeats + 1):
                # The first round warms up; then the side that goes first changes, as machines drift.
                for name in sorted(runs, reverse=bool(repeat % 2)):
                    last[name] = runs[name]()
                    if repeat:
                        seconds[name].append(last[name]["seconds"])
                        cpu_seconds[name].append(last[name]["cpu_seconds"])
                    spent = f"{last[name]['seconds']:8.2f} s, of processor {last[name]['cpu_seconds']:.2f} s"
                    print(f"round {repeat} {name:>8} {spent}", file=sys.stderr)
    report(arguments, spec.title, seconds, cpu_seconds, last)


def report(
    arguments: argparse.Namespace,
    title: str,
    seconds: dict[str, list[float]],
    cpu_seconds: dict[str, list[float]],
    last: dict[str, dict[str, Any]],
) -> None:
    """Prints the table and writes the JSON."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["mmdet"] / medians["panbench"]
    cpu_ratio = statistics.median(cpu_seconds["mmdet"]) / statistics.median(cpu_seconds["panbench"])
    print(
        f"{title}, {arguments.images} images of {arguments.size}, {last['panbench']['device']}, "
        f"weights: {arguments.weights}"
    )
    print(
        f"torch {torch.__version__}, threads: mmdet {last['mmdet']['threads']}, panbench {last['panbench']['threads']}"
    )
    print(f"TF32 on both sides: {tf32_in_words(last['mmdet'], arguments.precision)}")
    if arguments.plant:
        print(f"Planted: {arguments.plant} segments an image replace the heads' last answers, on both sides alike.")
    if arguments.same_attention:
        print("mmdet runs on panbench's deformable attention too.")
    for name, median in medians.items():
        side_info = last[name]
        print(
            f"  {name:>8} {1000 * median / arguments.images:9.1f} ms an image "
            f"(rounds: {', '.join(f'{1000 * value / arguments.images:.1f}' for value in seconds[name])})  "
            f"PQ {100 * side_info['PQ']:.6f}  peak memory {side_info['peak_bytes'] / 1e6:.0f} MB"
        )
    stages = last["panbench"]["stages"]
    in_words = ", ".join(f"{stage} {1000 * spent / arguments.images:.1f}" for stage, spent in stages.items())
    print(
        f"  panbench's stages, ms an image (they overlap): {in_words}; "
        f"segments an image {last['panbench']['segments']:.1f}"
    )
    difference = last["panbench"]["PQ"] - last["mmdet"]["PQ"]
    same = abs(difference) < 1e-9
    print("  both have the same PQ" if same else f"  PQ differs by {100 * difference:+.6f}")
    print(
        f"  ratio {ratio:.2f} (mmdet's seconds / panbench's); of processor seconds {cpu_ratio:.2f} (mmdet's loader "
        "processes left out), which says more on a busy machine"
    )
    if arguments.json:
        write_json(
            arguments.json,
            {
                "ratio": ratio,
                "cpu_ratio": cpu_ratio,
                "cpu_seconds": cpu_seconds,
                "model": arguments.model,
                "images": arguments.images,
                "size": arguments.size,
                "weights": arguments.weights,
                "planted": arguments.plant,
                "same_attention": arguments.same_attention,
                "batch_size": {"mmdet": 1, "panbench": arguments.batch_size},
                "precision": {"mmdet": "fp32", "panbench": arguments.precision},
                "tf32": {name: side_info["tf32"] for name, side_info in last.items()},
                "seconds": seconds,
                "seconds_median": medians,
                "PQ": {name: side_info["PQ"] for name, side_info in last.items()},
                "segments_per_image": last["panbench"]["segments"],
                "stages": stages,
                "peak_bytes": {name: side_info["peak_bytes"] for name, side_info in last.items()},
                "threads": {name: side_info["threads"] for name, side_info in last.items()},
                "device": last["panbench"]["device"],
                "versions": provenance.versions(),
                "git_commit": provenance.git_commit(),
                "command": sys.argv,
            },
        )


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
        ours.send("run")
        try:
            answer = ours.recv()
        except EOFError:
            sys.exit(f"{name}'s side ended early; see {log_of(task, name)}")
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
