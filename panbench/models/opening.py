"""`panbench.load_model`: a model by its name, ready to run."""

import os
from typing import Any

from panbench.catalog import ModelSpec, find_model, spec_from_config
from panbench.models.base import Model, open_model

__all__ = ["load_model"]

_CONFIGS = (".py", ".yaml", ".yml", ".json")


def load_model(model: str | os.PathLike[str] | ModelSpec, **settings: Any) -> Model:
    """The model of a name as `panbench eval --model` takes it, or of your own config file, ready to run.

    settings: those of `models.base.open_model`: weights ("auto", "random", a path or a URL), device, precision, seed,
        compiled, download (fetch weights that are not here)
    Raises BadModel for an unknown name, naming the nearest, and what `open_model` raises.
    """
    if isinstance(model, ModelSpec):
        spec = model
    elif os.fspath(model).endswith(_CONFIGS):
        spec = spec_from_config(model)
    else:
        spec = find_model(os.fspath(model))
    return open_model(spec, **settings)
