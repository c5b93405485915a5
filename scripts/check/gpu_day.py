"""The stages of gpu_day.sh: what only a GPU can answer, each into OUT/STAGE.json; `report` makes OUT/REPORT.md.

python scripts/check/gpu_day.py list
python scripts/check/gpu_day.py parity --out OUT [--rehearse]
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base import provenance
from panbench.base.files import atomic_write, write_json
from panbench.catalog import find_model
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.tools.benchmark import benchmark, share_that_differs
from panbench.models import feeding
from panbench.models.mmdet import operators
from panbench.models.opening import open_model, resolve_weights
from panbench.models.predict import category_ids, prediction_of
from panbench.models.rules import fuse
from scripts.make import tiny_networks

TINY = ("mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny", "oneformer-tiny", "eomt-tiny")
LARGE = ("mask2former-r50", "maskformer-r50", "panoptic-fpn-r50-1x")
PLANTED = 15
GOAL_RATE, GOAL_RATIO = 83.0, 5.0

PATIENCE = 40.0
"""Seconds that a command which took too long has to end what it started; torchrun gives its ranks 30."""

MOST_WAITS = 2


class Day:
    """Where the results go, and how large everything is."""

    def __init__(self, out: Path, rehearsal: bool) -> None:
        """rehearsal: toy size, on a CPU."""
        self.out = out
        self.rehearsal = rehearsal
        self.device = torch.device("cpu" if rehearsal else "cuda")
        self.large = ("mask2former-tiny", "panoptic-fpn-tiny") if rehearsal else LARGE
        self.weights = "auto" if rehearsal else "random"
        self.size = (96, 128) if rehearsal else (480, 640)
        self.batches = (1, 2) if rehearsal else (1, 4, 16, 32)
        self.images = 4 if rehearsal else 64

    def models(self) -> list[str]:
        """The tiny models whose weights and libraries are here."""
        found = []
        for name in TINY:
            with contextlib.suppress(Exception):
                resolve_weights(find_model(name), "auto", needed=True)
                open_model(find_model(name), device="cpu")
                found.append(name)
        return found


def circumstances(day: Day) -> dict[str, Any]:
    """What the day is run on."""
    cuda = day.device.type == "cuda"
    programs = {}
    for program in ("triton", "torchvision", "transformers"):
        with contextlib.suppress(Exception):
            programs[program] = __import__(program).__version__
    properties = torch.cuda.get_device_properties(day.device) if cuda else None
    smi = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
    return {
        "device": str(properties) if cuda else provenance.cpu_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "smi": subprocess.run(smi, capture_output=True, text=True).stdout.strip() if cuda else None,
        "cores": os.cpu_count(),
        "operators": operators.install(),
        "versions": {**provenance.versions(), **programs},
        "git_commit": provenance.git_commit(),
    }


def parity(day: Day) -> dict[str, Any]:
    """Every tiny model on the device against the CPU: pixels and PQ, alone and in batches."""
    rows = []
    for name in day.models():
        spec = find_model(name)
        here, there = open_model(spec, device="cpu"), open_model(spec, device=day.device, precision="ieee")
        dataset = generated_dataset(here.class_names, here.isthing, size=day.size, count=day.images)
        ids = category_ids(here, dataset.categories)

        def maps(model: Any, batch_size: int, dataset: Any = dataset, ids: Any = ids) -> list[Any]:
            found = []
            for start in range(0, len(dataset.scenes), batch_size):
                scenes = dataset.scenes[start : start + batch_size]
                fused = fuse(model.candidates([model.load(scene) for scene in scenes]), model.rule)
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                found += [
                    prediction_of(s.image.id, model.rule.settle(f), ids) for s, f in zip(scenes, fused, strict=True)
                ]
            return found

        expected = maps(here, 1)
        for batch_size in (1, 8):
            differ = [share_that_differs(*pair) for pair in zip(expected, maps(there, batch_size), strict=True)]
            run = evaluate(
                there, dataset, day.out / "runs" / name, EvaluateOptions(batch_size=batch_size, overwrite=True)
            )
            own = evaluate(here, dataset, day.out / "runs" / f"{name}-cpu", EvaluateOptions(overwrite=True))
            both = [100 * (each.summary()["All"]["PQ"] or 0.0) for each in (run, own)]
            rows.append(
                {
                    "model": name,
                    "batch": batch_size,
                    "pixels that differ": float(np.mean(differ)),
                    "PQ": both[0],
                    "PQ on the CPU": both[1],
                    "good": abs(both[0] - both[1]) <= 0.01,
                }
            )
    return {"rows": rows}


def waits(day: Day) -> dict[str, Any]:
    """How often a batch waits for the device: `feeding.to_host`, and what PyTorch tells of beside it."""
    rows = []
    for name in (*day.models(), *tiny_networks.SPECS):
        model: Any
        if untrained := name in tiny_networks.SPECS:
            model = tiny_networks.open_tiny(name, day.device)
            model.plant_segments(3)
        else:
            model = open_model(find_model(name), device=day.device)
        dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=4)
        loaded = [model.load(scene) for scene in dataset.scenes]
        fuse(model.candidates(loaded), model.rule)
        before, error = feeding.copies, None
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            if day.device.type == "cuda":
                # Two of transformers' families have a copy of their own that waits: it is counted.
                torch.cuda.set_sync_debug_mode("warn" if untrained else "error")
            try:
                fuse(model.candidates(loaded), model.rule)
            except RuntimeError as problem:
                error = " ".join(str(problem).split())[:300]
            finally:
                if day.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        others = sum("synchronizing" in str(each.message) for each in heard)
        count = feeding.copies - before + others
        rows.append({"model": name, "waits": count, "error": error, "good": error is None and count <= MOST_WAITS})
    return {"rows": rows}


def speed(day: Day) -> dict[str, Any]:
    """panbench bench of the large models: precisions × batch sizes, until the time is up."""
    rows = []
    precisions = ("fp32", "bf16") if day.rehearsal else ("fp32", "tf32", "bf16", "fp16")
    deadline = time.monotonic() + 400
    for batch, precision, name in itertools.product(reversed(day.batches), precisions, day.large):
        if time.monotonic() > deadline:
            rows.append({"model": name, "precision": precision, "batch": batch, "status": "no time left"})
            continue
        report = benchmark(
            [find_model(name)],
            size=day.size,
            # The rate leaves out what is begun at once: the first batch, and an image for each of up to 8 threads.
            count=max(day.images, 6 * batch + 8),
            device=str(day.device),
            precisions=[precision],
            batch_sizes=[batch],
            weights=day.weights,
            plant=PLANTED,
            warm_up=2,
        )
        row = report.rows[-1]
        rows.append(
            {
                "model": name,
                "precision": row.precision,
                "batch": row.batch_size,
                "status": row.status,
                "images": row.images,
                "images/s": row.images_per_second,
                "whole loop, s": row.loop_seconds,
                "ms, median": row.latency_p50,
                "device MB": None if row.device_peak_bytes is None else row.device_peak_bytes / 1e6,
                "good": row.status != "ok" or _is_fast_enough(name, row.images_per_second),
            }
        )
    return {"rows": rows}


def _is_fast_enough(name: str, rate: float | None) -> bool:
    """Whether a setting that ran has a rate at all, and, of the model that the goal is for, one that reaches it."""
    return rate is not None and (name != LARGE[0] or rate >= GOAL_RATE)


def _against_mmdet(day: Day, precision: str) -> dict[str, Any]:
    rows = []
    for name in day.large:
        target = day.out / f"vs-{name}-{precision}.json"
        command = [
            sys.executable,
            str(Path(__file__).resolve().parents[1] / "bench" / "against_mmdet.py"),
            "--model",
            name,
            "--json",
            str(target),
        ]
        command += ["--images", str(day.images), "--size", f"{day.size[0]}x{day.size[1]}", "--device", str(day.device)]
        command += ["--checkpoint", day.weights, "--plant", str(PLANTED), "--rounds", "1", "--precision", precision]
        command += ["--batch-size", str(day.batches[-2])]
        if problem := _problem_of(command, 150):
            rows.append({"model": name, "status": problem, "good": False})
            continue
        found = json.loads(target.read_text())
        rows.append(
            {
                "model": name,
                "precision": precision,
                "ratio": found["ratio"],
                "tf32": found["tf32"],
                **{f"{side} ms": 1000 * value / day.images for side, value in found["seconds_median"].items()},
                "good": name != LARGE[0] or found["ratio"] >= GOAL_RATIO,
            }
        )
    return {"rows": rows}


def _problem_of(command: Sequence[str], seconds: float) -> str | None:
    """Runs a command; the end of what it said where it failed or took too long, None where it is done."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # At this signal torchrun ends its ranks, which at a plain kill would live on and keep the device busy.
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        return f"not done in {seconds:.0f} s"
    return (said or printed or f"exit {process.returncode}")[-300:] if process.returncode else None


def mmdet_fp32(day: Day) -> dict[str, Any]:
    """Against mmdet's own loop, with equal flags."""
    return _against_mmdet(day, "fp32")


def mmdet_bf16(day: Day) -> dict[str, Any]:
    """bf16 against mmdet's loop in fp32."""
    return _against_mmdet(day, "bf16")


def kernels(day: Day) -> dict[str, Any]:
    """With and without torchvision's kernels, and with Triton's: the time of a batch, and whether maps are equal."""
    rows: list[dict[str, Any]] = []
    batch_size = day.batches[-2]
    loads: Any = operators._torchvision_loads
    for name in (day.large[0], day.large[-1]):
        expected: list[Any] | None = None
        for kind in ("pytorch", "torchvision", "triton"):
            if kind == "torchvision" and not loads():
                rows.append({"model": name, "kernels": kind, "status": "torchvision is not here"})
                continue
            operators._torchvision_loads = loads if kind == "torchvision" else (lambda: False)  # type: ignore[assignment]
            os.environ["PANBENCH_TRITON"] = str(int(kind == "triton"))
            try:
                model: Any = open_model(find_model(name), weights=day.weights, device=day.device)
                model.plant_segments(PLANTED)
                dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=batch_size)
                loaded = [model.load(scene) for scene in dataset.scenes]
                spent = []
                for _ in range(2 if day.rehearsal else 12):
                    began = time.perf_counter()
                    fused = fuse(model.candidates(loaded), model.rule)
                    if day.device.type == "cuda":
                        torch.cuda.synchronize()
                    spent.append(1000 * (time.perf_counter() - began))
                ids = [model.rule.settle(each)[0] for each in fused]
                expected = ids if expected is None else expected
                differ = float(np.mean([np.mean(a != b) for a, b in zip(expected, ids, strict=True)]))
                row: dict[str, Any] = {
                    "ms a batch": statistics.median(spent[1:]),
                    "pixels that differ": differ,
                    "good": differ <= 1e-4,
                }
                rows.append({"model": name, "kernels": kind, "batch": batch_size, **row})
            finally:
                operators._torchvision_loads = loads
                os.environ.pop("PANBENCH_TRITON")
    return {"rows": rows}


def host(day: Day) -> dict[str, Any]:
    """How many images a second the host decodes, resizes and packs, by threads: what the device can be fed."""
    model: Any = open_model(find_model(day.large[0]), weights=day.weights, device="cpu")
    dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=day.images)
    rows = []
    torch.set_num_threads(1)
    threads = sorted({1, 2, 4, 8, os.cpu_count() or 1})
    for count in threads:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(model.load, dataset.scenes[:4]))
            began = time.perf_counter()
            loaded = list(pool.map(model.load, dataset.scenes * 2))
            rate = len(loaded) / (time.perf_counter() - began)
        rows.append({"threads": count, "images/s": rate, "good": count < threads[-1] or rate >= GOAL_RATE})
    return {"rows": rows}


def ranks(day: Day) -> dict[str, Any]:
    """Two ranks on one device: the same PQ as one."""
    name = "mask2former-tiny"
    rows: list[dict[str, Any]] = []
    for count in (1, 2):
        target = day.out / "runs" / f"ranks-{count}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["-m", "panbench", "eval", "--model", name, "--data", "shapes", "--limit", str(4 * day.images)]
        command += ["--device", "cpu" if day.rehearsal else "cuda:0", "--out", str(target), "--overwrite"]
        command += ["--batch-size", "2"]
        problem = _problem_of(command, 195)
        summary = None if problem else json.loads((target / "run.json").read_text())["summary"]["All"]["PQ"]
        rows.append({"ranks": count, "PQ": summary, "status": problem or "ok"})
    good = rows[0]["PQ"] is not None and rows[1]["PQ"] is not None and abs(rows[0]["PQ"] - rows[1]["PQ"]) <= 1e-4
    return {"rows": [{**row, "good": good} for row in rows]}


STAGES: dict[str, Callable[[Day], dict[str, Any]]] = {
    "circumstances": circumstances,
    "parity": parity,
    "waits": waits,
    "speed": speed,
    "mmdet-fp32": mmdet_fp32,
    "mmdet-bf16": mmdet_bf16,
    "kernels": kernels,
    "host": host,
    "ranks": ranks,
}


def report(day: Day) -> bool:
    """Writes REPORT.md of the stages that are done; returns whether all are, and reach their goals."""
    lines = [f"# A day on {'a CPU, rehearsed at toy size' if day.rehearsal else 'a GPU'}", ""]
    good = True
    for name, stage in STAGES.items():
        lines += [f"## {name}", "", (stage.__doc__ or "").splitlines()[0], ""]
        path = day.out / f"{name}.json"
        if not path.exists():
            good = False
            lines += [f"Not done; {name}.log says why.", ""]
            continue
        lines += list(_section(found := json.loads(path.read_text())))
        good &= all(row.get("good", True) for row in found.get("rows", ()))
    with atomic_write(day.out / "REPORT.md", "w") as handle:
        handle.write("\n".join(lines))
    print((day.out / "REPORT.md").read_text())
    return good


def _section(found: dict[str, Any]) -> Iterator[str]:
    rows = found.get("rows")
    if rows is None:
        yield from (f"- {key}: {value}" for key, value in found.items() if key != "seconds")
    elif rows:
        heads = list(dict.fromkeys(key for row in rows for key in row))
        yield "| " + " | ".join(heads) + " |"
        yield "|" + " --- |" * len(heads)
        for row in rows:
            yield "| " + " | ".join(_cell(row.get(head)) for head in heads) + " |"
    yield from ("", f"{found['seconds']:.0f} s", "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def main() -> None:
    """Runs a stage, lists them, or writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["list", "report", *STAGES])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="toy size, on a CPU")
    options = parser.parse_args()
    if options.stage == "list":
        print("\n".join(STAGES))
        return
    if options.out is None:
        parser.error("--out is needed")
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("Error: no CUDA device is found. Add --rehearse to run the stages at toy size on the CPU.")
    day = Day(options.out, options.rehearse)
    if options.stage == "report":
        sys.exit(0 if report(day) or options.rehearse else 1)
    began = time.monotonic()
    found = STAGES[options.stage](day)
    write_json(day.out / f"{options.stage}.json", {**found, "seconds": time.monotonic() - began})


if __name__ == "__main__":
    main()
