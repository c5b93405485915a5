"""panbench: run panoptic segmentation models, score them as panopticapi does, and compare them honestly.

What a program may build on is listed in `__all__` and described in docs/api.md. Everything else may move.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panbench.datasets import open_dataset
    from panbench.evaluation.evaluate import evaluate
    from panbench.evaluation.options import EvaluateOptions
    from panbench.models.opening import load_model
    from panbench.report.answers.comparison import standing as compare
    from panbench.runs import load_run
    from panbench.scoring.evaluator import Evaluator
    from panbench.scoring.folder import score_folder

__all__ = [
    "EvaluateOptions",
    "Evaluator",
    "__version__",
    "compare",
    "evaluate",
    "load_model",
    "load_run",
    "open_dataset",
    "score_folder",
]

__version__ = "0.1.0"

# Loaded when asked for [PEP 562], so that `import panbench` costs nothing and only what runs models imports torch.
_HOMES = {
    "EvaluateOptions": ("panbench.evaluation.options", "EvaluateOptions"),
    "Evaluator": ("panbench.scoring.evaluator", "Evaluator"),
    "compare": ("panbench.report.answers.comparison", "standing"),
    "evaluate": ("panbench.evaluation.evaluate", "evaluate"),
    "load_model": ("panbench.models.opening", "load_model"),
    "load_run": ("panbench.runs", "load_run"),
    "open_dataset": ("panbench.datasets", "open_dataset"),
    "score_folder": ("panbench.scoring.folder", "score_folder"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
