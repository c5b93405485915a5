"""`panbench eval --corrupt`: further runs of each model, on corrupted images."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions

if TYPE_CHECKING:
    from panbench.base.reporter import Reporter
    from panbench.datasets import Dataset
    from panbench.models.model import Model
    from panbench.models.rules import Rule
    from panbench.studies.robustness.corruptions import Corruption

__all__ = ["CorruptionOptions"]


@dataclass(frozen=True)
class CorruptionOptions(StudyOptions):
    """The corruptions that images are shown with, too, each in runs of its own."""

    panel: ClassVar[str] = "Corrupted images"

    corrupt: Annotated[
        str | None,
        Option(
            "Also corrupt the images, each way in a run of its own: fog:2,jpeg:4 (severities 1-5), fog for all five, "
            "all for the 19 of ImageNet-C. `panbench robustness` reads the runs.",
            "KINDS",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown corruption."""
        _ = self.corruptions

    @functools.cached_property
    def corruptions(self) -> "Sequence[Corruption]":
        """The corruptions, in the order given."""
        if self.corrupt is None:
            return ()
        # NumPy, OpenCV and SciPy come with it; `panbench eval --help` needs none of them.
        from panbench.studies.robustness.corruptions import parse_corruptions

        return parse_corruptions(self.corrupt)

    @property
    def further_runs(self) -> int:
        """A run for each corruption."""
        return len(self.corruptions)

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument for images without ground truth."""
        if self.corruptions and not dataset.has_ground_truth:
            raise BadArgument("--corrupt needs ground truth: it measures what corrupted images cost. Add --gt.")

    def run_further(
        self,
        model: "Model",
        dataset: "Dataset",
        folders: "Mapping[Rule, Path]",
        options: EvaluateOptions,
        reporter: "Reporter",
    ) -> None:
        """Evaluates the model under each corruption, beside the clean runs."""
        from panbench.studies.robustness.corrupted_runs import evaluate_corrupted

        evaluate_corrupted(model, dataset, folders, self.corruptions, options, reporter)

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """The command that reads the runs."""
        if not self.corruptions:
            return ()
        return (f"What the corruptions cost: `panbench robustness {shlex.join(map(str, runs))}`",)
