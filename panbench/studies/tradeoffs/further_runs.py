"""Evaluates a model at other sizes, and measures the time of each layer or size."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from panbench.base.files import write_json
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.models.model import Model, Wrapped, running_settings
from panbench.runs import ModelRecord
from panbench.studies.tradeoffs.layered_model import cut_after_layer, layered_model_in
from panbench.studies.tradeoffs.steps import LAYERS, SIZES, StepKind

if TYPE_CHECKING:
    from panbench.models.rules import Rule


class ScaledModel(Wrapped):
    """Wraps a model and scales its input by `factor`."""

    def __init__(self, model: Model, factor: float) -> None:
        """Wraps a model for one size. Raises BadArgument if it takes only one size, or is not a plain network."""
        super().__init__(model.scaled(factor))
        self.factor = factor
        self.spec = replace(model.spec, title=f"{model.spec.title}@size{factor:g}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that must match to resume a run: the model's, and the scale of its input images."""
        return {**running_settings(self.inner), SIZES.word: f"{self.factor:g}"}

    def describe(self) -> ModelRecord:
        """Returns the model's record, named `NAME@sizeFACTOR`, without the published PQ, which is of unscaled input."""
        found = self.inner.describe()
        name, title = (None if each is None else f"{each}@size{self.factor:g}" for each in (found.name, found.title))
        return replace(found, name=name, title=title, published=None)


TIMED_IMAGES = 10
"""The number of images on which each step is timed, one at a time, in turns with the others."""


def evaluate_sizes(
    model: Model,
    dataset: Dataset,
    folders: "Mapping[Rule, Path]",
    factors: Sequence[float],
    options: EvaluateOptions,
    reporter: Reporter = SILENT,
) -> None:
    """Evaluates a model at each size, into runs of their own, and times all sizes.

    folders: those of the runs at size 1, by rule
    """
    options = replace(options, save_predictions=False, keep_candidates=False)
    for factor in factors:
        extra = {rule: SIZES.folder(home, f"{factor:g}") for rule, home in folders.items()}
        evaluate_rules(ScaledModel(model, factor), dataset, extra, options, reporter)
    time_sizes(model, dataset, folders, factors, reporter)


def time_layers(model: Model, dataset: Dataset, folders: "Mapping[Rule, Path]", reporter: Reporter = SILENT) -> None:
    """Measures the time of the network when cut after each evaluated decoder layer, and of the whole network."""
    wrapper = layered_model_in(model)
    models: dict[str, Model] = {str(layer): cut_after_layer(wrapper.network, layer) for layer in wrapper.earlier}
    _write_times(LAYERS, {**models, str(wrapper.count): wrapper.network}, dataset, list(folders.values()), reporter)


def time_sizes(
    model: Model,
    dataset: Dataset,
    folders: "Mapping[Rule, Path]",
    factors: Sequence[float],
    reporter: Reporter = SILENT,
) -> None:
    """Measures the time of the network at each image scale, and at scale 1."""
    models = {f"{factor:g}": ScaledModel(model, factor) for factor in factors}
    _write_times(SIZES, {**models, "1": model}, dataset, list(folders.values()), reporter)


def _write_times(
    kind: StepKind, models: Mapping[str, Model], dataset: Dataset, homes: Sequence[Path], reporter: Reporter
) -> None:
    """Measures each model's milliseconds per image, and writes them to a file next to each run.

    On a CPU this is the CPU time of all threads: other programs hardly change it, but can double wall-clock time.
    """
    reporter.status(f"Timing {kind.plural}")
    first = next(iter(models.values()))
    cpu = first.device.type == "cpu"
    spent = time_networks(models, dataset, time.process_time if cpu else time.perf_counter)
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


def time_networks(
    models: Mapping[str, Model], dataset: Dataset, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Measures the milliseconds per image of each model's network, one image at a time, the models in turns.

    Reading, resizing, fusion and scoring are excluded: they take the same time for all layers.
    """
    spent: dict[str, list[float]] = {step: [] for step in models}
    for number, scene in enumerate((dataset.scenes[0], *dataset.scenes[:TIMED_IMAGES])):
        for step, model in models.items():
            loaded = [model.load(scene)]
            _wait_for_gpu(model)
            began = clock()
            model.candidates(loaded)
            _wait_for_gpu(model)
            if number:  # the first is a warm-up
                spent[step].append(1000 * (clock() - began))
    return spent


def _wait_for_gpu(model: Model) -> None:
    """Waits for the GPU's pending work, if the model is on a GPU."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
