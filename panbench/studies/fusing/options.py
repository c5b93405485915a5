"""`panbench eval --keep-candidates`: what leaves the network is stored, to be fused again."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions

__all__ = ["KeepOptions"]


@dataclass(frozen=True)
class KeepOptions(StudyOptions):
    """Whether candidates are stored."""

    panel: ClassVar[str] = "To fuse again"

    keep_candidates: Annotated[bool, Option("Also store the network's outputs, for `panbench fuse` and ensembles.")] = (
        False
    )

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """The options with the candidates kept."""
        return replace(options, keep_candidates=True) if self.keep_candidates else options
