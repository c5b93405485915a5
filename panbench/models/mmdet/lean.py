"""Imports mmdet without modules for training, tracking and language models, so that the program starts faster.

`import mmdet.models` also imports transformers, PyTorch's sharded models and optimizers with its compiler, and pyplot.
mmdet and mmengine work without transformers and the sharded optimizer, so both are hidden during the import; three
modules are replaced by placeholders. scripts/bench/start.py measures the gain.

Only the program `panbench` does this: other programs may train in the same process.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping

from panbench.base import program
from panbench.models.mmdet import distributions

_LEFT_OUT = ("transformers", "torch.distributed.optim")
_REPLACED: Mapping[str, str] = {
    "mmengine.model.wrappers.fully_sharded_distributed": "MMFullyShardedDataParallel",
    "mmengine._strategy.fsdp": "FSDPStrategy",
    "mmdet.utils.mot_error_visualize": "imshow_mot_errors",
}
"""Replaced modules of mmengine 0.10.7 and mmdet 3.3.0, each with the one name that its package imports from it."""


def import_mmdet() -> None:
    """Imports `mmdet.models`; in the program `panbench` without modules that it does not need.

    Call it after `operators.install()`.

    Further calls do nothing; modules that are already imported stay. Forks of mmdet are imported completely.
    """
    if "mmdet.models" in sys.modules or not program.is_program() or distributions.is_mmdet_fork():
        return
    with program.importing(), _placeholder_modules():
        importlib.import_module("mmdet.models")


@contextlib.contextmanager
def _placeholder_modules() -> Iterator[None]:
    """Puts placeholders for the unneeded modules into sys.modules within the block."""
    before = set(sys.modules)
    # Python raises ImportError for a module that is None.
    put: dict[str, types.ModuleType | None] = dict.fromkeys(name for name in _LEFT_OUT if name not in before)
    for name, one in _REPLACED.items():
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
    """Replaces a class or function that no evaluation calls; it raises ImportError if one does."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Raises ImportError, as mmdet was imported without this class or function."""
        raise ImportError(f"panbench imports mmdet without {type(self).__module__}.{type(self).__name__}.")
