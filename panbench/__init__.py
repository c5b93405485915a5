"""panbench: run panoptic segmentation models, score them as panopticapi does, and compare them honestly."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panbench.runs import load_run

__all__ = ["__version__", "load_run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `import panbench` costs nothing.
    if name == "load_run":
        from panbench.runs import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
