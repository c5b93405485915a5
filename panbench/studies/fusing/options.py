"""`panbench eval --keep-candidates`: stores the network's outputs so that they can be fused again."""

from dataclasses import dataclass, replace
from typing import Annotated

from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions


@dataclass(frozen=True)
class KeepOptions(StudyOptions):
    """The option `--keep-candidates`, which stores the network's outputs."""

    keep_candidates: Annotated[bool, Option("Store the network's outputs, for `fuse` and `ensemble`.")] = False

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """Makes an evaluation store the network's outputs if `--keep-candidates` is given; returns its options."""
        return replace(options, keep_candidates=True) if self.keep_candidates else options
