"""The stages of gpu_day.sh: what only a GPU can answer, the dearest question first, each into OUT/STAGE.json.

python scripts/check/gpu_day.py plan --out OUT [--rehearse]      # each stage that is left, and its seconds as estimated
python scripts/check/gpu_day.py parity --out OUT [--rehearse]
python scripts/check/gpu_day.py report --out OUT [--rehearse]    # OUT/REPORT.md, and all of it in OUT.tar.gz

A stage writes each row when it is measured (OUT/STAGE.rows.json), and goes on from there when it is run again.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from panbench.evaluation.tools.benchmark import Row, benchmark, share_that_differs
from panbench.models import feeding
from panbench.models.mmdet import operators
from panbench.models.opening import open_model, resolve_weights
from panbench.models.predict import prediction_of
from panbench.models.rules import fuse
from scripts.make import tiny_networks

TINY = ("mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny", "oneformer-tiny", "eomt-tiny")
LARGE = ("mask2former-r50", "maskformer-r50", "panoptic-fpn-r50-1x")
PLANTED = 15
GOAL_RATE, GOAL_RATIO = 83.0, 5.0

PATIENCE = 40.0
"""Seconds that a command which took too long has to end what it started."""

MOST_WAITS = 2

STOPPED = "stopped by"
"""The column of a row that says which error ended a stage."""


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
        self.precisions = ("fp32", "bf16") if rehearsal else ("fp32", "tf32", "bf16", "fp16")

    def models(self, rows: "Rows") -> list[str]:
        """The tiny models that open here; of each other one, why it does not is a row of the stage."""
        found = []
        for name in TINY:
            try:
                resolve_weights(find_model(name), "auto", needed=True)
                open_model(find_model(name), device="cpu")
            except Exception as error:  # whatever keeps a family from opening is what the day is to tell
                if not rows.known(model=name):
                    rows.add({"model": name, "error": _in_a_line(error), "good": False})
                continue
            found.append(name)
        return found


class Rows:
    """The rows of a stage, each in OUT/STAGE.rows.json as soon as it is added; those of an earlier call are there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []

    def add(self, row: dict[str, Any]) -> None:
        """Stores one more row."""
        self.all.append(row)
        write_json(self._path, self.all)

    def begin_anew(self) -> None:
        """Forgets the rows of an earlier call, for a stage whose rows belong together."""
        self.all = []

    def known(self, **facts: Any) -> bool:
        """Whether a row has all of these."""
        return any(all(row.get(name) == value for name, value in facts.items()) for row in self.all)


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def probe(day: Day, rows: Rows) -> None:
    """How long the dearest model takes to open, and for an image on either side: the others are estimated from it."""
    # The first to be opened also imports.
    on_cpu = _planted(day, torch.device("cpu"))
    began = time.monotonic()
    model = _planted(day, day.device)
    opened = time.monotonic() - began
    batch = day.batches[min(1, len(day.batches) - 1)]
    rows.add(
        {
            "model": day.large[0],
            "s to open": opened,
            "s/image": _seconds_an_image(day, model, batch),
            "s/image, CPU": _seconds_an_image(day, on_cpu, 1),
            "batch": batch,
        }
    )


def _planted(day: Day, device: torch.device, **settings: Any) -> Any:
    model = open_model(find_model(day.large[0]), weights=day.weights, device=device, **settings)
    model.plant_segments(PLANTED)
    return model


def _seconds_an_image(day: Day, model: Any, batch: int) -> float:
    """The second pass over a batch, after one to warm up."""
    dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=batch)
    loaded = [model.load(scene) for scene in dataset.scenes]
    spent = []
    for _ in range(2):
        began = time.monotonic()
        fused = fuse(model.candidates(loaded), model.rule)
        _synchronise(model.device)
        [model.rule.settle(each) for each in fused]
        spent.append((time.monotonic() - began) / batch)
    return spent[-1]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def question(day: Day, rows: Rows) -> None:
    """The dearest question, of Mask2Former R50: parity with the CPU, images/s, ratio to mmdet's loop, waits."""
    name = day.large[0]
    if not rows.known(asked="parity"):
        rows.add({"asked": "parity", **_parity_of_large(day)})
    if not rows.known(asked="waits"):
        rows.add({"asked": "waits", **_waits_of(_planted(day, day.device), day, strict=True)})
    batch = day.batches[-2]
    left = [each for each in ("fp32", "bf16") if not rows.known(asked="speed", precision=each, batch=batch)]
    if left:
        _measure(day, name, batch, left, lambda row: rows.add({"asked": "speed", **row}))
    if not rows.known(asked="ratio to mmdet"):
        rows.add({"asked": "ratio to mmdet", **_ratio(day, name, "fp32")})


def _parity_of_large(day: Day) -> dict[str, Any]:
    """Maps of two images on the device and on the CPU, from the same random weights."""
    here, there = _planted(day, torch.device("cpu")), _planted(day, day.device, precision="ieee")
    dataset = generated_dataset(here.class_names, here.isthing, size=day.size, count=2)
    ids = here.category_ids(dataset.categories)
    shares = [share_that_differs(*(_map_of(model, scene, ids) for model in (here, there))) for scene in dataset.scenes]
    return {"model": day.large[0], "pixels that differ": float(np.mean(shares)), "good": float(np.mean(shares)) <= 1e-3}


def _map_of(model: Any, scene: Any, ids: Any) -> Any:
    (fused,) = fuse(model.candidates([model.load(scene)]), model.rule)
    _synchronise(model.device)
    return prediction_of(scene.image.id, model.rule.settle(fused), ids)


def circumstances(day: Day, rows: Rows) -> dict[str, Any]:
    """What the day is run on."""
    cuda = day.device.type == "cuda"
    properties = torch.cuda.get_device_properties(day.device) if cuda else None
    return {
        "device": str(properties) if cuda else provenance.cpu_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "smi": _smi() if cuda else None,
        "cores": os.cpu_count(),
        "operators": operators.install(),
        "versions": {
            **provenance.versions(),
            **{name: _version(name) for name in ("torchvision", "transformers")},
        },
        "git_commit": provenance.git_commit(),
    }


def _smi() -> str:
    """What nvidia-smi says of the device, or why it says nothing."""
    line = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _in_a_line(error)
    return (done.stdout or done.stderr).strip()


def _version(name: str) -> str:
    """The version of a package, or why it does not import."""
    try:
        return str(__import__(name).__version__)
    except Exception as error:  # whatever a package raises is its answer
        return _in_a_line(error)


def parity(day: Day, rows: Rows) -> None:
    """Every tiny model on the device against the CPU: pixels and PQ, alone and in batches."""
    for name in day.models(rows):
        if rows.known(model=name, batch=8):
            continue
        spec = find_model(name)
        here, there = open_model(spec, device="cpu"), open_model(spec, device=day.device, precision="ieee")
        dataset = generated_dataset(here.class_names, here.isthing, size=day.size, count=day.images)
        expected = _maps(here, dataset, 1)
        own = evaluate(here, dataset, day.out / "runs" / f"{name}-cpu", EvaluateOptions(overwrite=True))
        for batch_size in (1, 8):
            differ = [
                share_that_differs(*pair) for pair in zip(expected, _maps(there, dataset, batch_size), strict=True)
            ]
            options = EvaluateOptions(batch_size=batch_size, overwrite=True)
            run = evaluate(there, dataset, day.out / "runs" / name, options)
            both = [100 * (each.summary()["All"]["PQ"] or 0.0) for each in (run, own)]
            rows.add(
                {
                    "model": name,
                    "batch": batch_size,
                    "pixels that differ": float(np.mean(differ)),
                    "PQ": both[0],
                    "PQ on the CPU": both[1],
                    "good": abs(both[0] - both[1]) <= 0.01,
                }
            )


def _maps(model: Any, dataset: Any, batch_size: int) -> list[Any]:
    """The model's maps of all images, so many at a time."""
    ids, found = model.category_ids(dataset.categories), []
    for start in range(0, len(dataset.scenes), batch_size):
        scenes = dataset.scenes[start : start + batch_size]
        fused = fuse(model.candidates([model.load(scene) for scene in scenes]), model.rule)
        _synchronise(model.device)
        found += [prediction_of(s.image.id, model.rule.settle(f), ids) for s, f in zip(scenes, fused, strict=True)]
    return found


def waits(day: Day, rows: Rows) -> None:
    """How often a batch waits for the device: `feeding.to_host`, and what PyTorch tells of beside it."""
    for name in (*day.models(rows), *tiny_networks.SPECS):
        if rows.known(model=name):
            continue
        untrained = name in tiny_networks.SPECS
        try:
            model = (
                tiny_networks.open_tiny(name, day.device)
                if untrained
                else open_model(find_model(name), device=day.device)
            )
        except Exception as error:  # a family that cannot be opened is a row
            rows.add({"model": name, "error": _in_a_line(error), "good": False})
            continue
        if untrained:
            model.plant_segments(3)
        # Two of transformers' families have a copy of their own that waits: it is counted.
        rows.add({"model": name, **_waits_of(model, day, strict=not untrained)})


def _waits_of(model: Any, day: Day, *, strict: bool) -> dict[str, Any]:
    """The waits of a batch of four. strict: one that PyTorch tells of ends it."""
    dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=4)
    loaded = [model.load(scene) for scene in dataset.scenes]
    fuse(model.candidates(loaded), model.rule)
    before, error = feeding.copies, None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if day.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if strict else "warn")
        try:
            fuse(model.candidates(loaded), model.rule)
        except RuntimeError as problem:
            error = " ".join(str(problem).split())[:300]
        finally:
            if day.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    count = feeding.copies - before + sum("synchronizing" in str(each.message) for each in heard)
    return {"waits": count, "error": error, "good": error is None and count <= MOST_WAITS}


def speed(day: Day, rows: Rows) -> None:
    """panbench bench of the large models: precisions × batch sizes, the largest batches first."""
    for row in Rows(day.out / "question.rows.json").all:
        settings = {key: row.get(key) for key in ("model", "precision", "batch")}
        if row.get("asked") == "speed" and not rows.known(**settings):
            rows.add({key: value for key, value in row.items() if key != "asked"})
    for batch, name in itertools.product(reversed(day.batches), day.large):
        left = [each for each in day.precisions if not rows.known(model=name, precision=each, batch=batch)]
        if left:
            _measure(day, name, batch, left, rows.add)


def _measure(day: Day, name: str, batch: int, precisions: Sequence[str], add: Callable[[dict[str, Any]], None]) -> None:
    """The settings of one model at one batch size: fp32 once for all, as the others are held against its maps."""

    def measured(row: Row) -> None:
        # fp32 is measured though only others are left: it is no row twice.
        if row.precision in precisions:
            add(_speed_row(name, row))

    benchmark(
        [find_model(name)],
        size=day.size,
        # The rate leaves out what is begun at once: the first batch, and an image for each of up to 8 threads.
        count=max(day.images, 6 * batch + 8),
        device=str(day.device),
        precisions=precisions,
        batch_sizes=[batch],
        weights=day.weights,
        plant=PLANTED,
        warm_up=2,
        measured=measured,
    )


def _speed_row(name: str, row: Row) -> dict[str, Any]:
    return {
        "model": name,
        "precision": row.precision,
        "batch": row.batch_size,
        "status": row.status,
        "images": row.images,
        "images/s": row.images_per_second,
        "whole loop, s": row.loop_seconds,
        "ms, median": row.latency_p50,
        "device MB": None if row.device_peak_bytes is None else row.device_peak_bytes / 1e6,
        "pixels that differ": row.pixels_differ,
        "good": row.status != "ok" or _is_fast_enough(name, row.images_per_second),
    }


def _is_fast_enough(name: str, rate: float | None) -> bool:
    """Whether a setting that ran has a rate at all, and, of the model that the goal is for, one that reaches it."""
    return rate is not None and (name != LARGE[0] or rate >= GOAL_RATE)


def _ratio(day: Day, name: str, precision: str) -> dict[str, Any]:
    """mmdet's own loop and ours on the same images, by scripts/bench/against_mmdet.py."""
    target = day.out / f"vs-{name}-{precision}.json"
    program = Path(__file__).resolve().parents[1] / "bench" / "against_mmdet.py"
    command = [sys.executable, str(program), "--model", name, "--json", str(target)]
    command += ["--images", str(day.images), "--size", f"{day.size[0]}x{day.size[1]}", "--device", str(day.device)]
    command += ["--checkpoint", day.weights, "--plant", str(PLANTED), "--rounds", "1", "--precision", precision]
    command += ["--batch-size", str(day.batches[-2])]
    if problem := _problem_of(command, 200):
        return {"model": name, "precision": precision, "status": problem, "good": False}
    found = json.loads(target.read_text())
    return {
        "model": name,
        "precision": precision,
        "ratio": found["ratio"],
        "tf32": found["tf32"],
        **{f"{side} ms": 1000 * value / day.images for side, value in found["seconds_median"].items()},
        "good": name != LARGE[0] or found["ratio"] >= GOAL_RATIO,
    }


def _problem_of(command: Sequence[str], seconds: float) -> str | None:
    """Runs a command; the end of what it said where it failed or took too long, None where it is done."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # At this signal a program ends its processes, which at a plain kill would live on and keep the device busy.
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        return f"not done in {seconds:.0f} s"
    return (said or printed or f"exit {process.returncode}")[-300:] if process.returncode else None


def mmdet(day: Day, rows: Rows) -> None:
    """Against mmdet's own loop: equal flags, then ours in bf16 against its fp32."""
    for precision, name in itertools.product(("fp32", "bf16"), day.large):
        if not rows.known(model=name, precision=precision):
            rows.add(_ratio(day, name, precision))


def kernels(day: Day, rows: Rows) -> None:
    """With and without torchvision's kernels: the time of a batch, and whether maps are equal."""
    rows.begin_anew()
    loads: Any = operators._torchvision_loads
    for name in (day.large[0], day.large[-1]):
        expected: list[Any] | None = None
        for kind in ("pytorch", "torchvision"):
            if kind == "torchvision" and not loads():
                rows.add({"model": name, "kernels": kind, "status": "torchvision is not here"})
                continue
            operators._torchvision_loads = loads if kind == "torchvision" else (lambda: False)  # type: ignore[assignment]
            try:
                spent, ids = _batches(day, name)
            except Exception as error:  # a kernel that does not compile is a row
                rows.add({"model": name, "kernels": kind, "status": _in_a_line(error), "good": False})
                continue
            finally:
                operators._torchvision_loads = loads
            expected = ids if expected is None else expected
            differ = float(np.mean([np.mean(a != b) for a, b in zip(expected, ids, strict=True)]))
            row = {"ms a batch": statistics.median(spent[1:]), "pixels that differ": differ, "good": differ <= 1e-4}
            rows.add({"model": name, "kernels": kind, "batch": day.batches[-2], **row})


def _batches(day: Day, name: str) -> tuple[list[float], list[Any]]:
    """The milliseconds of each pass over a batch, and its maps."""
    model: Any = open_model(find_model(name), weights=day.weights, device=day.device)
    model.plant_segments(PLANTED)
    dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=day.batches[-2])
    loaded = [model.load(scene) for scene in dataset.scenes]
    spent: list[float] = []
    fused: Sequence[Any] = ()
    for _ in range(2 if day.rehearsal else 12):
        began = time.perf_counter()
        fused = fuse(model.candidates(loaded), model.rule)
        _synchronise(day.device)
        spent.append(1000 * (time.perf_counter() - began))
    return spent, [model.rule.settle(each)[0] for each in fused]


def host(day: Day, rows: Rows) -> None:
    """How many images a second the host decodes, resizes and packs, by threads: what the device can be fed."""
    model: Any = open_model(find_model(day.large[0]), weights=day.weights, device="cpu")
    dataset = generated_dataset(model.class_names, model.isthing, size=day.size, count=day.images)
    rows.begin_anew()
    torch.set_num_threads(1)
    threads = sorted({1, 2, 4, 8, os.cpu_count() or 1})
    for count in threads:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(model.load, dataset.scenes[:4]))
            began = time.perf_counter()
            loaded = list(pool.map(model.load, [*dataset.scenes, *dataset.scenes]))
            rate = len(loaded) / (time.perf_counter() - began)
        rows.add({"threads": count, "images/s": rate, "good": count < threads[-1] or rate >= GOAL_RATE})


def shards(day: Day, rows: Rows) -> None:
    """Two shards on one device, merged: the same PQ as one process."""
    rows.begin_anew()
    runs = day.out / "runs"
    command = ["eval", "--model", "mask2former-tiny", "--data", "shapes", "--limit", str(4 * day.images)]
    command += ["--device", "cpu" if day.rehearsal else "cuda:0", "--overwrite", "--batch-size", "2"]
    numbers = [str(runs / f"shards.{number}") for number in (1, 2)]
    lines = {
        "one process": [*command, "--out", str(runs / "shards-alone")],
        "shard 1/2": [*command, "--shard", "1/2", "--out", numbers[0]],
        "shard 2/2": [*command, "--shard", "2/2", "--out", numbers[1]],
        "merged": ["runs", "merge", *numbers, "--out", str(runs / "shards-merged"), "--overwrite"],
    }
    alone: float | None = None
    for what, line in lines.items():
        problem = _problem_of([sys.executable, "-m", "panbench", *line], 100)
        record = Path(line[line.index("--out") + 1]) / "run.json"
        summary = None if problem else json.loads(record.read_text())["summary"]["All"]["PQ"]
        alone = alone if alone is not None else summary
        good = summary is not None and (what.startswith("shard") or summary == alone)
        rows.add({"run": what, "PQ": summary, "status": problem or "ok", "good": good})


@dataclass(frozen=True)
class Stage:
    """A stage and its work, from which its time is estimated: models opened, and images on the device and on the CPU.

    Times of mmdet's loop are taken as five times ours, which is the goal's ratio; `more`: seconds beyond.
    """

    run: Callable[[Day, Rows], dict[str, Any] | None]
    work: Callable[[Day], tuple[float, float, float]] = lambda day: (0, 0, 0)
    more: float = 15.0


def _images(day: Day, batch: int) -> float:
    """Images on the device of one setting of `bench`: warm, one by one, and in the loop."""
    return 2.2 * max(day.images, 6 * batch + 8)


STAGES: dict[str, Stage] = {
    "probe": Stage(probe, more=30),
    "question": Stage(question, lambda day: (8, 3 * _images(day, day.batches[-2]) + 12 * day.images, 3), 40),
    "circumstances": Stage(circumstances),
    "waits": Stage(waits, lambda day: (15, 60, 0)),
    # The tiny models take a small part of the dearest one's time.
    "parity": Stage(parity, lambda day: (10, 2 * day.images, 3 * day.images)),
    "mmdet": Stage(mmdet, lambda day: (4 * len(day.large), 24 * len(day.large) * day.images, 0), 60),
    "kernels": Stage(kernels, lambda day: (6, 6 * 13 * day.batches[-2], 0)),
    "host": Stage(host, lambda day: (1, 0, 0), 20),
    "shards": Stage(shards, lambda day: (3, 4 * day.images, 0), 40),
    "speed": Stage(
        speed,
        lambda day: (
            len(day.precisions) * len(day.large) * len(day.batches),
            sum(_images(day, batch) for batch in day.batches) * len(day.precisions) * len(day.large),
            0,
        ),
    ),
}
"""In the order in which they are run."""


def plan(day: Day) -> list[tuple[str, int]]:
    """Each stage that is left with its estimated seconds; without a probe's times, a minute more than its start."""
    left = [name for name in STAGES if not (day.out / f"{name}.json").exists()]
    path = day.out / "probe.json"
    if not path.exists():
        return [(name, int(STAGES[name].more) + 60) for name in left]
    (found,) = json.loads(path.read_text("utf-8"))["rows"]
    return [(name, _estimate(STAGES[name], day, found)) for name in left]


def _estimate(stage: Stage, day: Day, found: dict[str, Any]) -> int:
    opened, here, on_cpu = stage.work(day)
    spent = opened * found["s to open"] + here * found["s/image"] + on_cpu * found["s/image, CPU"]
    return int(stage.more + spent)


def report(day: Day) -> bool:
    """Writes REPORT.md of the stages that are done; returns whether all are, and reach their goals."""
    where = "a CPU, rehearsed at toy size: no number here is of a GPU" if day.rehearsal else "a GPU"
    lines = [f"# A day on {where}", "", *_preflight(day)]
    good = True
    for name, stage in STAGES.items():
        lines += [f"## {name}", "", (stage.run.__doc__ or "").splitlines()[0], ""]
        path, begun = day.out / f"{name}.json", day.out / f"{name}.rows.json"
        if path.exists():
            found = json.loads(path.read_text())
        else:
            good = False
            found = {"rows": json.loads(begun.read_text())} if begun.exists() else {}
            lines += ["Not finished: the same command goes on from here." if begun.exists() else "Not done.", ""]
        lines += list(_section(found))
        good &= all(row.get("good", True) for row in found.get("rows", ()))
    with atomic_write(day.out / "REPORT.md", "w") as handle:
        handle.write("\n".join(lines))
    pack(day.out)
    print((day.out / "REPORT.md").read_text())
    return good


def _preflight(day: Day) -> list[str]:
    path = day.out / "preflight.json"
    if not path.exists():
        return []
    lacking = [row for row in json.loads(path.read_text("utf-8"))["rows"] if row["problem"]]
    said = [f"- {row['needs']}: {row['problem']}" for row in lacking] or ["All imports work."]
    return ["## preflight", "", *said, ""]


def pack(out: Path) -> Path:
    """OUT.tar.gz: the report, the rows and the logs, in one file that unpacks over OUT; runs and caches stay behind."""
    target = out.with_name(out.name + ".tar.gz")
    with atomic_write(target) as handle, tarfile.open(fileobj=handle, mode="w:gz") as archive:
        for path in sorted(out.iterdir()):
            if path.is_file():
                archive.add(path, f"{out.name}/{path.name}")
    return target


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
    if "seconds" in found:
        yield from ("", f"{found['seconds']:.0f} s", "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def main() -> None:
    """Runs a stage, lists what is left, or writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["plan", "report", *STAGES])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="toy size, on a CPU")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("Error: no CUDA device is found. Add --rehearse to run the stages at toy size on the CPU.")
    options.out.mkdir(parents=True, exist_ok=True)
    day = Day(options.out, options.rehearse)
    if options.stage == "plan":
        print("\n".join(f"{name} {seconds}" for name, seconds in plan(day)))
        return
    if options.stage == "report":
        sys.exit(0 if report(day) or options.rehearse else 1)
    run_stage(day, options.stage)


def run_stage(day: Day, name: str) -> None:
    """Runs a stage to its end; its JSON is there only then. What stops it is a row, and the next call tries again."""
    rows, began = Rows(day.out / f"{name}.rows.json"), time.monotonic()
    rows.all = [row for row in rows.all if STOPPED not in row]
    try:
        facts = STAGES[name].run(day, rows)
    except Exception as error:
        rows.add({STOPPED: _in_a_line(error), "good": False})
        raise
    found = facts if facts is not None else {"rows": rows.all}
    write_json(day.out / f"{name}.json", {**found, "seconds": time.monotonic() - began})


if __name__ == "__main__":
    main()
