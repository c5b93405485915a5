"""mmdet without what only training, tracking and language models import: a program that evaluates starts sooner.

`import mmdet.models` brings transformers, PyTorch's sharding of models and optimizers with its compiler, and pyplot.
Where transformers and the sharded optimizer are missing, mmdet and mmengine do without: so they are missing while mmdet
is imported. Three modules are stood in for. scripts/bench/start.py measures what that saves.

Only the program `panbench` does this: in any other, somebody may train in the same process.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from panbench.base import program
from panbench.models.mmdet import distributions

__all__ = ["bring_language_models", "import_mmdet"]

_ABSENT = ("transformers", "torch.distributed.optim")
_STOOD_IN: Mapping[str, str] = {
    "mmengine.model.wrappers.fully_sharded_distributed": "MMFullyShardedDataParallel",
    "mmengine._strategy.fsdp": "FSDPStrategy",
    "mmdet.utils.mot_error_visualize": "imshow_mot_errors",
}
"""Modules of mmengine 0.10.7 and mmdet 3.3.0, each with the one name that its package imports from it."""

_BERT = "mmdet.models.language_models.bert"
_OF_BERT = {"AutoTokenizer": "AutoTokenizer", "BertConfig": "BertConfig", "HFBertModel": "BertModel"}


def import_mmdet() -> None:
    """Imports `mmdet.models`, lean in the program `panbench`. Call it after `operators.install()`.

    Calling again changes nothing; what was imported before stays as it is. Forks of mmdet are imported whole.
    """
    if "mmdet.models" in sys.modules or not program.is_ours() or distributions.is_fork():
        return
    with program.importing(), _without():
        importlib.import_module("mmdet.models")


def bring_language_models(model: Any) -> None:
    """Gives mmdet's BertModel what it imports of transformers, if a model's config names it and the import was lean.

    model: the config's dict. Where transformers is not installed, mmdet says so itself when it builds the model.
    """
    bert: Any = sys.modules.get(_BERT)
    if bert is not None and bert.AutoTokenizer is None and _names(model, "BertModel"):
        with contextlib.suppress(ImportError):
            transformers = importlib.import_module("transformers")
            for name, theirs in _OF_BERT.items():
                setattr(bert, name, getattr(transformers, theirs))


@contextlib.contextmanager
def _without() -> Iterator[None]:
    before = set(sys.modules)
    # Python raises ImportError for a module that is None.
    put: dict[str, types.ModuleType | None] = dict.fromkeys(name for name in _ABSENT if name not in before)
    for name, one in _STOOD_IN.items():
        if name not in before:
            put[name] = module = types.ModuleType(name, f"panbench stands in for {name}.")
            setattr(module, one, type(one, (_NotImported,), {"__module__": name}))
    sys.modules.update(put)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module_or_none in put.items():
            if sys.modules.get(name) is module_or_none:
                del sys.modules[name]


class _NotImported:
    """In the place of a class or function that no evaluation calls."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise ImportError(f"panbench imports mmdet without {type(self).__module__}.{type(self).__name__}.")


def _names(value: Any, type_: str) -> bool:
    """Whether a config has a part of this type, given by name or as a class."""
    if isinstance(value, Mapping):
        own = value.get("type")
        named = own.rpartition(".")[2] if isinstance(own, str) else getattr(own, "__name__", "")
        return named == type_ or any(_names(part, type_) for part in value.values())
    return isinstance(value, (list, tuple)) and any(_names(part, type_) for part in value)
