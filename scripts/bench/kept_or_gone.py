"""What each thing that makes the networks faster or smaller is worth: evaluations with it and without it, in turn.

    python scripts/bench/kept_or_gone.py
    python scripts/bench/kept_or_gone.py --models mask2former-r50 --rounds 3 --write      # the other columns are kept

Each model runs as it is, and once without each of its SPEEDUPS, all others left in place: every side is a process of
its own that evaluates the same images. A cell has what is gained, in percent: of CPU time (the median of the rounds),
and of memory at the peak. What gains less than 3 % of CPU on every model, and less than 5 % of memory, goes with its
code; its row stays. Networks have random weights, 15 planted segments, one thread, and a shorter side of 640.
`onednn` and `lanes` are the other way round: PyTorch's choice on this machine is "without"; the lanes count the clock.
"""

import argparse
import atexit
import contextlib
import functools
import importlib
import inspect
import statistics
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models import async_device, onednn
from scripts.bench.against import SIZE, Side, Task, opened, side
from scripts.bench.harness import Row, arguments, finish, stored, turns

MODELS = {
    "panoptic-fpn-r50-1x": "Panoptic FPN R50",
    "maskformer-r50": "MaskFormer R50",
    "mask2former-r50": "Mask2Former R50",
    "mask2former-swin-t": "Mask2Former Swin-T",
    "eomt-s-640": "EoMT-S",
    "mask2former-tiny": "Mask2Former tiny",
    "panoptic-fpn-tiny": "Panoptic FPN tiny",
}
"""What is measured, and the columns of the table."""
NETWORK = "panbench.models."


def _method_of_class(name: str) -> Callable[..., Any]:
    """Returns a replacement that calls the method of the module's own class."""
    return lambda part, *given, **named: getattr(type(part), name)(part, *given, **named)


def _do_nothing(*_given: Any, **_named: Any) -> None:
    """Replaces a function that changes a network by one that does nothing."""


@dataclass(frozen=True)
class Speedup:
    """A speedup that can be disabled: what replaces it then, and its code.

    without: "module:name" and what is put there; code: names in the first place's module whose lines are counted, where
    that is not the one that is replaced
    """

    title: str
    models: Sequence[str]
    without: dict[str, Any]
    code: Sequence[str] = ()
    lines: int = 0
    by_the_clock: bool = False

    def count_lines(self) -> int:
        """Counts the lines of the code with docstrings; `lines` if it is part of other functions."""
        if self.lines:
            return self.lines
        module, _, replaced = next(iter(self.without)).partition(":")
        code = (getattr(importlib.import_module(module), name) for name in self.code or (replaced,))
        return sum(len(inspect.getsourcelines(each)[0]) for each in code)


_R50 = ("panoptic-fpn-r50-1x", "maskformer-r50", "mask2former-r50")
_MASK2FORMERS = ("mask2former-r50", "mask2former-swin-t")
_HEAVY = tuple(MODELS)[:-2]
_TINY = ("mask2former-tiny", "panoptic-fpn-tiny")
SPEEDUPS = {
    "batch-norm": Speedup(
        "batch norm folded into convolutions",
        _R50,
        {NETWORK + "mmdet.speedups:fold_batch_norm": _do_nothing},
        ("fold_batch_norm", "_fold_norm_into_convolution"),
    ),
    "channels-last": Speedup("channels-last weights", _HEAVY, {}, lines=3),
    "averages": Speedup(
        "attention without averaged weights",
        ("maskformer-r50", *_MASK2FORMERS),
        {NETWORK + "mmdet.speedups:drop_attention_averages": _do_nothing},
    ),
    "semantic": Speedup(
        "Panoptic FPN's levels summed one by one",
        ("panoptic-fpn-r50-1x",),
        {NETWORK + "mmdet.speedups:semantic_logits": _method_of_class("forward")},
    ),
    "winners": Speedup(
        "semantic channels that cannot win left out",
        ("panoptic-fpn-r50-1x", "panoptic-fpn-tiny"),
        {NETWORK + "rules.resize:possible_winning_channels": lambda logits: None},
        ("possible_winning_channels", "neighbourhood_extreme"),
    ),
    "last-layer": Speedup(
        "MaskFormer's masks of the last layer alone",
        ("maskformer-r50",),
        {NETWORK + "mmdet.families:MaskFormer.speed_up": _do_nothing},
        lines=3,
    ),
    "masked": Speedup(
        "Mask2Former's masks of the last layer alone",
        _MASK2FORMERS,
        {NETWORK + "mmdet.speedups:last_layer_of_mask2former": _method_of_class("forward")},
    ),
    "gather": Speedup(
        "deformable attention as one gather",
        _MASK2FORMERS,
        {NETWORK + "mmdet.deformable:attend": _method_of_class("forward")},
    ),
    "decode": Speedup(
        "Mask2Former's pixel decoder with sizes and layout known",
        _MASK2FORMERS,
        {NETWORK + "mmdet.pixel_decoder:decode": _method_of_class("forward")},
        ("decode", "geometry_of", "_compute_geometry", "_sine_positions", "Geometry"),
    ),
    "feed-forward": Speedup(
        "feed-forward parts in blocks of keys",
        _MASK2FORMERS,
        {NETWORK + "mmdet.pixel_decoder:KEYS_AT_ONCE": 1 << 40},
        ("feed_forward",),
    ),
    "windows": Speedup(
        "Swin's windows by fused attention",
        ("mask2former-swin-t",),
        {NETWORK + "mmdet.swin:attend": _method_of_class("forward")},
    ),
    "features": Speedup(
        "Swin's features channels-last",
        ("mask2former-swin-t",),
        {NETWORK + "mmdet.swin:features": _method_of_class("forward")},
    ),
    "patches": Speedup(
        "EoMT's masks at the patches' size",
        ("eomt-s-640",),
        {NETWORK + "transformers.speedups:eomt_forward": _method_of_class("forward")},
        ("eomt_forward", "_attention_mask"),
    ),
    "blocks": Speedup(
        "masks enlarged in small blocks",
        (*_HEAVY, *_TINY),
        {NETWORK + "rules.resize:CPU_ELEMENTS_AT_ONCE": 1 << 25},
        lines=4,
    ),
    "passes": Speedup(
        "masks compete in passes over the map",
        (*_HEAVY[1:], "mask2former-tiny"),
        {
            NETWORK + "rules.compete:async_device": types.SimpleNamespace(
                **{**vars(async_device), "is_async": lambda device: True}
            )
        },
        lines=12,
    ),
    "onednn": Speedup("linear layers packed by oneDNN", _HEAVY[1:], {}, lines=152),
    "lanes": Speedup(
        "two batches at a time",
        ("mask2former-tiny",),
        {"panbench.evaluation.loop:lanes_of": lambda model, threads: 1},
        by_the_clock=True,
    ),
    "one-thread": Speedup(
        "threads beside the network that never share out",
        ("mask2former-tiny",),
        {"panbench.evaluation.loop:_single_threaded_pool": ThreadPoolExecutor},
        by_the_clock=True,
    ),
}
CONTROLS = ("as it is", "as it is, again")
"""Two processes of the same: what they differ by is noise, and printed."""


def main() -> None:
    """Prints the table, with a column for each model."""
    options = arguments(__doc__, models=tuple(MODELS), speedups=tuple(SPEEDUPS), rounds=3, images=1)
    columns = ["speedup", "lines", *MODELS.values()]
    rows: dict[str, Row] = {
        row["speedup"]: {key: row.get(key, "") for key in columns} for row in stored("kept_or_gone")
    }
    for model in options.models:
        chosen = [name for name in options.speedups if model in SPEEDUPS[name].models]
        for name, cell in gains(model, chosen, options).items():
            title = SPEEDUPS[name].title
            rows.setdefault(title, dict.fromkeys(columns, ""))
            rows[title] |= {"speedup": title, "lines": str(SPEEDUPS[name].count_lines()), MODELS[model]: cell}
    standing = {each.title for each in SPEEDUPS.values()}
    table = [{**row, "now": "kept" if row["speedup"] in standing else "gone"} for row in rows.values()]
    finish("kept_or_gone", table, options.write)


def gains(model: str, chosen: Sequence[str], options: argparse.Namespace) -> dict[str, str]:
    """Returns a cell per speedup of a model: the percentage of time (CPU or wall-clock) and of memory that it saves."""
    threads, images = (2, 20 * options.images) if model in _TINY else (1, options.images)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kept.")))
        known = opened(Task(model, None, Path("nowhere"), plant=0), speedups=True)  # type: ignore[arg-type]
        dataset = generated_dataset(known.class_names, known.isthing, size=SIZE, count=images)
        task = Task(model, dataset, folder, threads=threads)
        sides = {
            name: stack.enter_context(side(name, functools.partial(side_without, name), task))
            for name in (*CONTROLS, *chosen)
        }
        turns(sides, 1)
        found = turns(sides, options.rounds)
    cells = {}
    for name in (CONTROLS[1], *chosen):
        what = "seconds" if name in SPEEDUPS and SPEEDUPS[name].by_the_clock else "cpu_seconds"
        spent, peak = (saved(found, name, key) for key in (what, "peak_bytes"))
        cells[name] = f"{spent:.1%}, {peak:.0%}".replace("-", "−").replace("%", "")
        rounds = " ".join(f"{run[what]:.2f}" for run in found[name])
        print(f"{MODELS[model]}, {name}: {rounds} s; gain of time and memory: {cells[name]}", flush=True)
    return {name: cells[name] for name in chosen}


def saved(found: dict[str, list[dict[str, Any]]], name: str, what: str) -> float:
    """Returns the share that a speedup saves: the median over rounds, each compared with the mean of both controls."""
    pairs = [
        (statistics.mean(one[what] for one in controls), other[what])
        for *controls, other in zip(*(found[each] for each in (*CONTROLS, name)), strict=True)
    ]
    return statistics.median(1 - (other / own if name == "onednn" else own / other) for own, other in pairs)


def side_without(name: str, task: Task) -> Side:
    """Builds a side that evaluates the task's images without one of SPEEDUPS."""
    if name in SPEEDUPS:
        for place, stand_in in SPEEDUPS[name].without.items():
            module, _, path = place.partition(":")
            *owners, last = path.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            setattr(owner, last, stand_in)
    model: Any = opened(task, speedups=True)
    if name == "channels-last":
        model.module.to(memory_format=torch.contiguous_format)
    if name == "onednn":
        # For all evaluations: weights are packed, and answers compared, in the round that is not counted.
        packed = contextlib.ExitStack()
        packed.enter_context(onednn.packed(model.module))
        atexit.register(packed.close)
    if task.model not in (*_TINY, "eomt-s-640"):
        model = model.scaled(0.8)
    options = EvaluateOptions(batch_size=1, workers=1, overwrite=True)

    def run() -> dict[str, Any]:
        done = evaluate(model, task.dataset, task.folder / name, options)
        return {"seconds": done.info.seconds.wall}

    return run


if __name__ == "__main__":
    main()
