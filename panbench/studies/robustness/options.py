"""`panbench eval --corrupt`: evaluates each model on corrupted images, too."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions

if TYPE_CHECKING:
    from panbench.base.reporter import Reporter
    from panbench.datasets import Dataset
    from panbench.models.model import Model
    from panbench.models.rules import Rule
    from panbench.studies.robustness.corruptions import Corruption


@dataclass(frozen=True)
class CorruptionOptions(StudyOptions):
    """The option `--corrupt`: also evaluates corrupted images, each corruption in runs of its own."""

    corrupt: Annotated[
        str | None,
        Option(
            "Also evaluate corrupted images, for `panbench robustness`: fog:2,jpeg:4 (severities 1-5), fog (all five), "
            "all (ImageNet-C's 19).",
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
        # Imports NumPy, OpenCV and SciPy, which `panbench eval --help` does not need.
        from panbench.studies.robustness.corruptions import parse_corruptions

        return parse_corruptions(self.corrupt)

    @property
    def further_runs(self) -> int:
        """The number of further runs: one per corruption."""
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
        """Called after the clean runs: evaluates the model under each corruption, next to the clean runs."""
        from panbench.studies.robustness.corrupted_runs import evaluate_corrupted

        evaluate_corrupted(model, dataset, folders, self.corruptions, options, reporter)

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """Returns a hint with the command that summarizes the runs."""
        if not self.corruptions:
            return ()
        return (f"What the corruptions cost: `panbench robustness {shlex.join(map(str, runs))}`",)
