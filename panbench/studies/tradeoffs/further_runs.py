"""What follows the first run: runs at other sizes, and the time that each layer or size takes."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from panbench.base.files import write_json
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.models.model import Model
from panbench.studies.tradeoffs.layered_model import cut_after, layered
from panbench.studies.tradeoffs.places import LAYERS, SIZES, Kind
from panbench.studies.tradeoffs.scaled_model import ScaledModel

if TYPE_CHECKING:
    from panbench.models.rules import Rule

__all__ = ["TIMED_IMAGES", "evaluate_sizes", "milliseconds", "time_layers", "time_sizes"]

TIMED_IMAGES = 10
"""Each step is timed on so many images, one at a time, in turns with the others."""


def evaluate_sizes(
    model: Model,
    dataset: Dataset,
    folders: "Mapping[Rule, Path]",
    factors: Sequence[float],
    options: EvaluateOptions,
    reporter: Reporter = SILENT,
) -> None:
    """Evaluates a model at each size into runs of their own, and times all sizes.

    folders: of the runs at size 1, by rule; each further run resumes by itself
    """
    options = replace(options, save_predictions=False, keep_candidates=False)
    for factor in factors:
        beside = {rule: SIZES.folder(home, f"{factor:g}") for rule, home in folders.items()}
        evaluate_rules(ScaledModel(model, factor), dataset, beside, options, reporter)
    time_sizes(model, dataset, folders, factors, reporter)


def time_layers(model: Model, dataset: Dataset, folders: "Mapping[Rule, Path]", reporter: Reporter = SILENT) -> None:
    """Times the network cut after each layer that has a run, and the whole one."""
    of = layered(model)
    models: dict[str, Model] = {str(layer): cut_after(of.network, layer) for layer in of.earlier}
    _time(LAYERS, {**models, str(of.count): of.network}, dataset, list(folders.values()), reporter)


def time_sizes(
    model: Model,
    dataset: Dataset,
    folders: "Mapping[Rule, Path]",
    factors: Sequence[float],
    reporter: Reporter = SILENT,
) -> None:
    """Times the network at each size, and at its own."""
    models = {f"{factor:g}": ScaledModel(model, factor) for factor in factors}
    _time(SIZES, {**models, "1": model}, dataset, list(folders.values()), reporter)


def _time(kind: Kind, models: Mapping[str, Model], dataset: Dataset, homes: Sequence[Path], reporter: Reporter) -> None:
    """Writes the milliseconds that each model takes for an image beside each run of `homes`.

    On a CPU they are CPU time of all threads: other programs hardly change it, where they double the time by the clock.
    """
    reporter.status(f"Timing {kind.plural}")
    first = next(iter(models.values()))
    cpu = first.device.type == "cpu"
    spent = milliseconds(models, dataset, time.process_time if cpu else time.perf_counter)
    record = {
        "schema": 1,
        "weights_sha256": first.describe().weights_sha256,
        "device": first.device.type,
        "threads": torch.get_num_threads(),
        "precision": first.precision,
        "clock": "CPU" if cpu else "wall",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "milliseconds": spent,
    }
    for home in homes:
        write_json(kind.times(home), record)


def milliseconds(
    models: Mapping[str, Model], dataset: Dataset, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """What each model's network takes for each of some images, one image at a time, the models in turns.

    Reading and resizing, fusion and scoring are not in it: they are the same for all layers.
    """
    spent: dict[str, list[float]] = {step: [] for step in models}
    for number, scene in enumerate((dataset.scenes[0], *dataset.scenes[:TIMED_IMAGES])):
        for step, model in models.items():
            loaded = [model.load(scene)]
            _wait(model)
            began = clock()
            model.candidates(loaded)
            _wait(model)
            if number:  # the first is a warm-up
                spent[step].append(1000 * (clock() - began))
    return spent


def _wait(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
