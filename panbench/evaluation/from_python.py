"""`panbench.evaluate`: evaluates models and datasets that a Python program passes in various forms."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from panbench.base.errors import BadArgument, BadModel
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import kind_of
from panbench.catalog import ModelSpec, spec_from_factory, with_categories
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation import evaluate as loop
from panbench.evaluation.options import EvaluateOptions
from panbench.models.functions import FunctionModel
from panbench.models.model import REQUIRED, Model, as_model
from panbench.models.opening import load_model, spec_of
from panbench.runs import Run


def evaluate(
    model: Model | ModelSpec | str | os.PathLike[str] | Callable[[Any], Any],
    dataset: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: EvaluateOptions | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Evaluates a model on a dataset into the run folder `out`, and returns the run.

    model: a `Model`; a name as `panbench eval --model` takes it, a config file or a ModelSpec, opened as `load_model`
        does; or a function from an image, (H, W, 3) uint8 RGB, to its id map and segments (docs/own_models.md)
    dataset: a `Dataset`, or its name or folder as `open_dataset` takes it. One without ground truth needs
        `save_predictions` or `unscored` among the options; one without categories (photographs) has the model's
    reporter: gets images scored (the task is the model's title) and, as notices, what was skipped or chosen
    Raises PanbenchError for bad input; what was written until then stays, and `options.resume` resumes it.
    """
    if not isinstance(out, str | os.PathLike):
        raise BadArgument(f"out must be the path of the run folder, not {kind_of(out)}.")
    if options is not None and not isinstance(options, EvaluateOptions):
        raise BadArgument(f"options must be EvaluateOptions, not {kind_of(options)}.")
    if not isinstance(dataset, Dataset):
        if not isinstance(dataset, str | os.PathLike):
            raise BadArgument(f"dataset must be a Dataset, its name or its folder, not {kind_of(dataset)}.")
        dataset = open_dataset(os.fspath(dataset), reporter=reporter)
    if isinstance(model, str | os.PathLike):
        model = spec_of(model)
    if isinstance(model, ModelSpec):
        model = with_categories(model, dataset.categories)
    return loop.evaluate(model_of(model, reporter), dataset, out, options or loop.DEFAULTS, reporter)


def model_of(given: Any, reporter: Reporter = SILENT) -> Model:
    """Converts what a program passes as a model to a `Model`. Raises BadModel and BadArgument for anything else."""
    if isinstance(given, Model):
        return given
    if isinstance(given, ModelSpec | str | os.PathLike):
        return load_model(given, reporter=reporter)
    if isinstance(given, type):
        raise BadArgument(f"model is the class {given.__name__}, not an object of it.")
    if all(hasattr(given, name) for name in REQUIRED):
        return as_model(given)
    if isinstance(given, nn.Module) and not hasattr(given, "categories"):
        raise BadModel(
            f"A {type(given).__name__} is a network, and panbench does not know its inputs and outputs.",
            ways=[
                "pass a function from an image to its id map and segments that calls it",
                "name a model or a config",
                "write an adapter (docs/own_models.md)",
            ],
        )
    if callable(given):
        return FunctionModel(_function_spec(given), given)
    raise BadArgument(f"model must be a model, its name, a config or a function, not {kind_of(given)}.")


def _function_spec(function: Callable[[Any], Any]) -> ModelSpec:
    """Makes the catalog entry of a model that a program gives as a function, and names it after the function."""
    named = function if hasattr(function, "__qualname__") else type(function)
    reference = f"{named.__module__}:{named.__qualname__}"
    # The name becomes a folder's name: drop the <> of lambdas and local functions.
    name = re.sub(r"[^\w.-]+", "-", reference.replace(":", ".")).strip("-.")
    return replace(spec_from_factory(reference), name=name, title=named.__qualname__.rpartition(".")[2])
