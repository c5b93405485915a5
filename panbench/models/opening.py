"""Opens models: by a name of the catalog, a config file or a spec."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from panbench.base.errors import BadArgument, BadModel
from panbench.base.references import BrokenReference, load
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import kind_of
from panbench.catalog import ModelSpec, find_model, spec_from_config, with_weights
from panbench.models.adapter import Adapter
from panbench.models.checkpoint_forms import bare_names
from panbench.models.checkpoints import apply_checkpoint, load_checkpoint
from panbench.models.devices import check_precision, choose_device
from panbench.models.external import checked_results_of, guarded_model_code, is_external
from panbench.models.functions import open_factory
from panbench.models.host import HostedModel
from panbench.models.model import Model
from panbench.weights import fetch_weights

_CONFIGS = (".py", ".yaml", ".yml", ".json")


def load_model(model: str | os.PathLike[str] | ModelSpec, **settings: Any) -> Model:
    """Opens a model by its name, as `panbench eval --model` takes it, or by your own config file, ready to run.

    settings: those of `open_model`: weights ("auto", "random", a path or a URL), device, precision, seed,
        compiled, download (fetch missing weights)
    Raises BadModel for an unknown name, naming the nearest, and what `open_model` raises.
    """
    return open_model(model if isinstance(model, ModelSpec) else spec_of(model), **settings)


def spec_of(model: str | os.PathLike[str]) -> ModelSpec:
    """Finds the ModelSpec of a model's name, as for `panbench eval --model`, or of a config file. Raises BadModel."""
    name = os.fspath(model)
    return spec_from_config(model) if name.endswith(_CONFIGS) else find_model(name)


def open_model(
    spec: ModelSpec,
    *,
    weights: str = "auto",
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
    speedups: bool = True,
    compiled: bool = False,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """Opens the model that a ModelSpec describes, with its weights, ready to run.

    weights: "auto" (the config's), "random" (drawn from `seed`), a path, or a URL. With other weights than the config's
        the model has no published numbers.
    device: auto, cpu, cuda, cuda:N or mps
    speedups: False keeps the library's own modules, with the attention weights and masks of every decoder layer
    compiled: the backbone (or all of a network without one) is compiled by torch.compile when it first runs, which
        takes a minute and needs a compiler
    download: fetch missing weights that are a URL, else the error says how; reporter: gets steps and bytes
    Raises BadModel, BadCheckpoint, BadArgument, DownloadFailed.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    check_precision(precision, chosen)
    made = import_named(spec.adapter, spec)
    if not (isinstance(made, type) and issubclass(made, Adapter)):
        if compiled:
            raise BadArgument(f"--precision with +compile: {spec.title} is a function of its own. Leave +compile out.")
        return open_factory(spec, made, precision=precision, weights=weights)
    with _checking_external_adapter(spec, made):
        _check_adapter(spec, made)
    with guarded_model_code(spec.adapter):
        made.check(spec)
    spec, path = resolve_weights(spec, weights, needed=made.needs_weights, download=download, reporter=reporter)
    with _seeded_generator(seed):
        reporter.status(f"Building {spec.title}")
        with guarded_model_code(spec.adapter):
            adapter = made(spec)
            module = adapter.build()
        with _checking_external_adapter(spec, made.build):
            if not isinstance(module, nn.Module):
                raise BadModel(f"{spec.adapter}: build() returned {kind_of(module)}; it must return a torch.nn.Module.")
        checkpoint = None
        if path is not None:
            reporter.status(f"Reading the weights of {spec.title}")
            checkpoint = load_checkpoint(path)
            if checkpoint.notice is not None:
                reporter.notice(checkpoint.notice)
            with guarded_model_code(spec.adapter):
                renamed = adapter.rename(bare_names(checkpoint.state_dict, module.state_dict()))
            apply_checkpoint(module, dataclasses.replace(checkpoint, state_dict=renamed))
        with guarded_model_code(spec.adapter):
            model = HostedModel(
                adapter,
                module,
                device=chosen,
                precision=precision,
                checkpoint=checkpoint,
                seed=seed,
                random_weights=weights == "random",
                speedups=speedups,
            )
    if compiled:
        _compile(model.module, adapter.compiled_part)
        model.compiled = True
    return model


def _compile(module: nn.Module, part: str) -> None:
    """Sets torch.compile on one module of a network, or on the whole network if it has no such module, in place."""
    try:
        found = module.get_submodule(part)
    except AttributeError:
        found = module
    if found is module:
        module.compile(dynamic=True)
        return
    parent, _, name = part.rpartition(".")
    setattr(module.get_submodule(parent), name, torch.compile(found, dynamic=True))


@contextlib.contextmanager
def _seeded_generator(seed: int) -> Iterator[None]:
    """Seeds PyTorch's CPU generator, which models are built with, and restores its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def resolve_weights(
    spec: ModelSpec,
    weights: str,
    *,
    needed: bool = True,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[ModelSpec, Path | None]:
    """Returns the spec with the requested weights, and the path of their file; None for random weights.

    weights, download, reporter: as in `open_model`
    needed: whether a config that names no weights is an error
    Raises BadCheckpoint if they are missing and may not be fetched, DownloadFailed if fetching fails.
    """
    if weights == "random" or (weights == "auto" and spec.weights is None and not needed):
        return spec, None
    if weights != "auto":
        spec = with_weights(spec, weights)
        if "://" not in weights:
            return spec, Path(weights).expanduser()
    return spec, fetch_weights(spec, offline=not download, reporter=reporter)


def _checking_external_adapter(spec: ModelSpec, maker: Any) -> contextlib.AbstractContextManager[None]:
    """Returns a context that turns BadModel into ModelFailed for adapters of other packages."""
    return checked_results_of(maker) if is_external(spec.adapter) else contextlib.nullcontext()


def _check_adapter(spec: ModelSpec, adapter: type[Adapter]) -> None:
    """Raises BadModel if an adapter lacks a required method (build, candidates) or a rule."""
    missing = [] if adapter.build is not Adapter.build else ["build"]
    if adapter.candidates is Adapter.candidates and adapter.run is Adapter.run:
        missing.append("candidates")
    if not hasattr(adapter, "rule") and adapter.__init__ is Adapter.__init__:
        missing.append("rule")
    if missing:
        lacking = " and no ".join(missing)
        raise BadModel(f"{spec.title}: its adapter {spec.adapter} has no {lacking} (docs/own_models.md).")


def import_named(name: str, spec: ModelSpec) -> Any:
    """Imports the object that `package.module:attribute` names, for a model. Raises BadModel."""
    try:
        with guarded_model_code(name):
            return load(name, here=True)
    except BrokenReference as error:
        raise BadModel(f"{spec.title}: {error}") from error
    except ModuleNotFoundError:
        raise
    except (ImportError, SyntaxError) as error:
        module = name.partition(":")[0]
        raise BadModel(f"{spec.title}: {module} cannot be imported ({type(error).__name__}: {error}).") from error
