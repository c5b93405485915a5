"""How `panbench eval` opens each model. The record needs no torch."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import ModelSpec

if TYPE_CHECKING:
    from panbench.models.model import Model

__all__ = ["Opening", "opened_model"]


@dataclass(frozen=True)
class Opening:
    """How each model is opened: the arguments of `open_model`."""

    weights: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    compiled: bool = False
    download: bool = False


def opened_model(spec: ModelSpec, opening: Opening, reporter: Reporter = SILENT) -> "Model":
    """The model, opened so. Raises what `open_model` raises."""
    from panbench.models.opening import open_model

    return open_model(spec, **asdict(opening), reporter=reporter)
