"""panbench: run panoptic segmentation models, score them as panopticapi does, and compare them honestly.

The public API is listed in `__all__` and described in docs/api.md. Everything else may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panbench.base.errors import (
        BadArgument,
        BadCheckpoint,
        BadDataset,
        BadModel,
        BadRun,
        DownloadFailed,
        Interrupted,
        ModelFailed,
        OutOfSpace,
        PanbenchError,
        PredictionMismatch,
        Unreachable,
        Way,
    )
    from panbench.base.reporter import Collected, Reporter, Silent
    from panbench.datasets import Dataset, open_dataset
    from panbench.evaluation.from_python import evaluate
    from panbench.evaluation.options import EvaluateOptions
    from panbench.models.model import Model
    from panbench.models.opening import load_model
    from panbench.panoptic.label_arrays import panoptic_map
    from panbench.panoptic.types import Category, Segment
    from panbench.report.answers.comparison import Standing, compare
    from panbench.report.answers.tables import ComparisonRow
    from panbench.runs import Run, load_run
    from panbench.scoring.evaluator import Evaluator
    from panbench.scoring.folder import score_folder
    from panbench.scoring.patching import Patched, patch_panopticapi

__all__ = [
    "BadArgument",
    "BadCheckpoint",
    "BadDataset",
    "BadModel",
    "BadRun",
    "Category",
    "Collected",
    "ComparisonRow",
    "Dataset",
    "DownloadFailed",
    "EvaluateOptions",
    "Evaluator",
    "Interrupted",
    "Model",
    "ModelFailed",
    "OutOfSpace",
    "PanbenchError",
    "Patched",
    "PredictionMismatch",
    "Reporter",
    "Run",
    "Segment",
    "Silent",
    "Standing",
    "Unreachable",
    "Way",
    "__version__",
    "compare",
    "evaluate",
    "load_model",
    "load_run",
    "open_dataset",
    "panoptic_map",
    "patch_panopticapi",
    "score_folder",
]

__version__ = "0.1.0"

# Loaded on first use [PEP 562], so that `import panbench` is fast and only code that runs models imports torch.
_MODULES = {
    "panbench.base.errors": (
        "BadArgument BadCheckpoint BadDataset BadModel BadRun DownloadFailed Interrupted ModelFailed OutOfSpace "
        "PanbenchError PredictionMismatch Unreachable Way"
    ),
    "panbench.base.reporter": "Collected Reporter Silent",
    "panbench.datasets": "Dataset open_dataset",
    "panbench.evaluation.from_python": "evaluate",
    "panbench.evaluation.options": "EvaluateOptions",
    "panbench.models.model": "Model",
    "panbench.models.opening": "load_model",
    "panbench.panoptic.label_arrays": "panoptic_map",
    "panbench.panoptic.types": "Category Segment",
    "panbench.report.answers.comparison": "Standing compare",
    "panbench.report.answers.tables": "ComparisonRow",
    "panbench.runs": "Run load_run",
    "panbench.scoring.evaluator": "Evaluator",
    "panbench.scoring.folder": "score_folder",
    "panbench.scoring.patching": "Patched patch_panopticapi",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Imports the module that defines a name of `__all__`, when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from panbench.base.errors import BadModel
        from panbench.base.extras import install_line

        raise BadModel(
            f"panbench.{name} runs models, and PyTorch is not installed. Install with: {install_line('models')}"
        ) from None
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
