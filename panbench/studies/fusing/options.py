"""`panbench eval --keep-candidates`: what leaves the network is stored, to be fused again."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions

__all__ = ["KeepOptions"]


@dataclass(frozen=True)
class KeepOptions(StudyOptions):
    """Whether candidates are stored, and in which precision."""

    panel: ClassVar[str] = "To fuse again"

    keep_candidates: Annotated[bool, Option("Also store the network's outputs, for `panbench fuse` and ensembles.")] = (
        False
    )
    candidates_fp16: Annotated[
        bool, Option("Store them in half precision, in fewer bytes; maps fused from them may differ.")
    ] = False

    def __post_init__(self) -> None:
        """Raises BadArgument for a precision of what is not stored."""
        if self.candidates_fp16 and not self.keep_candidates:
            raise BadArgument(
                "--candidates-fp16 is how candidates are stored. Add --keep-candidates; to compute in half precision, "
                "use --precision fp16."
            )

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """The options with the candidates kept."""
        if not self.keep_candidates:
            return options
        return replace(options, keep_candidates=True, half_precision=self.candidates_fp16)
