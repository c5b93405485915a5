"""`panbench eval --layers` and `--size`: further runs of each model, of its earlier layers or of resized images."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import listed
from panbench.catalog import WITHOUT_QUERIES
from panbench.evaluation.options import EvaluateOptions, Evaluation, Joined, StudyOptions
from panbench.studies.tradeoffs.places import no_layers

if TYPE_CHECKING:
    from panbench.base.reporter import Reporter
    from panbench.catalog import ModelSpec
    from panbench.datasets import Dataset
    from panbench.models.model import Model
    from panbench.models.rules import Rule

__all__ = ["ALL", "TradeoffOptions"]

ALL = "all"
_MOST_LAYERS = 12
"""For how many further runs the disk must have room before the number of layers is known."""
_SMALLEST, _LARGEST = 0.1, 4.0


@dataclass(frozen=True)
class TradeoffOptions(StudyOptions):
    """The decoder layers whose answers are scored, too, and the sizes at which images are shown, too."""

    panel: ClassVar[str] = "PQ against time"

    layers: Annotated[
        str | None,
        Option(
            "Also score what the heads answer after these decoder layers, from the same forward pass: all, or 1,3,6. "
            "`panbench compare --tradeoffs` reads the runs.",
            "LAYERS",
            (ALL,),
        ),
    ] = None
    size: Annotated[
        str | None,
        Option("Also show images this many times as large, each in a run of its own: 0.5,0.75,1.", "FACTORS"),
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for layers and sizes that are not numbers, and for both at once."""
        if self.layers is not None and self.size is not None:
            raise BadArgument("--layers and --size make two tables. Give one, then the other with --resume.")
        _ = self.chosen, self.factors

    @functools.cached_property
    def chosen(self) -> tuple[int, ...] | None:
        """The layers that are named, ascending; None for all of them, () for none."""
        if self.layers is None:
            return ()
        if self.layers.strip().lower() == ALL:
            return None
        words = [word.strip() for word in self.layers.split(",") if word.strip()]
        wrong = [word for word in words if not (word.isascii() and word.isdigit() and int(word) > 0)]
        if wrong or not words:
            what = f"{wrong[0]!r} is not the number of a layer" if wrong else "no layer is named"
            raise BadArgument(f"--layers: {what}. Layers count from 1, as 1,3,6; or write all.")
        return tuple(sorted({int(word) for word in words}))

    @functools.cached_property
    def factors(self) -> tuple[float, ...]:
        """The sizes other than 1, ascending."""
        if self.size is None:
            return ()
        words = [word.strip() for word in self.size.split(",") if word.strip()]
        found = []
        for word in words:
            try:
                found.append(float(word))
            except ValueError:
                raise BadArgument(f"--size: {word!r} is not a number. Write for example 0.5,0.75,1.") from None
        outside = [factor for factor in found if not _SMALLEST <= factor <= _LARGEST]
        if outside or not found:
            what = f"{listed(outside)} is not" if outside else "no size is named: sizes are"
            raise BadArgument(f"--size: {what} between {_SMALLEST} and {_LARGEST:g}, times the model's own size.")
        return tuple(sorted({factor for factor in found if factor != 1}))

    @property
    def further_runs(self) -> int:
        """A run for each layer but the last, which is the run itself, and for each size but 1."""
        return len(self.factors) + (_MOST_LAYERS if self.chosen is None else len(self.chosen))

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """The same. Raises BadArgument for other studies' options that contradict."""
        self._refuse_others(options)
        return options

    def check_models(self, specs: "Sequence[ModelSpec]") -> None:
        """Raises BadArgument for models without a decoder of layers."""
        for spec in specs:
            if self.layers is not None and spec.family in WITHOUT_QUERIES:
                raise no_layers(spec.title)

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument for images without ground truth."""
        if (self.layers is not None or self.size is not None) and not dataset.has_ground_truth:
            name = "--size" if self.layers is None else "--layers"
            raise BadArgument(f"{name} needs ground truth: it measures PQ against time. Add --gt.")

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """The model with the answers of its earlier layers. Raises BadArgument where it has none, or no such sizes."""
        if self.layers is not None:
            from panbench.studies.tradeoffs.layered_model import LayeredModel

            return LayeredModel(model, self.chosen)
        if self.factors:
            from panbench.studies.tradeoffs.scaled_model import ScaledModel

            # Refused here, before hours of the first size.
            for factor in self.factors:
                ScaledModel(model, factor)
        return model

    def beside(self, model: "Model", folders: "Mapping[Rule, Path]", options: EvaluateOptions) -> "Mapping[Rule, Path]":
        """A run for each earlier layer, beside the run of the last. Raises BadRun for one that exists."""
        if self.layers is None:
            return {}
        self._refuse_others(options)
        from panbench.studies.tradeoffs.layered_model import runs_by_layer

        return runs_by_layer(model, folders, options)

    def join(self, evaluation: Evaluation) -> Joined:
        """Adds nothing. Raises BadArgument when options of other studies contradict."""
        self._refuse_others(evaluation.options)
        return Joined()

    def run_further(
        self,
        model: "Model",
        dataset: "Dataset",
        folders: "Mapping[Rule, Path]",
        options: EvaluateOptions,
        reporter: "Reporter",
    ) -> None:
        """Evaluates the other sizes, and measures how long each layer or size takes."""
        if self.layers is not None:
            from panbench.studies.tradeoffs.further_runs import time_layers

            time_layers(model, dataset, folders, reporter)
        if self.size is not None:
            from panbench.studies.tradeoffs.further_runs import evaluate_sizes

            evaluate_sizes(model, dataset, folders, self.factors, options, reporter)

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """The command that reads the runs."""
        if self.layers is None and self.size is None:
            return ()
        homes = [run for run in runs if "@layer" not in run.name]
        return (f"PQ against time: `panbench compare --tradeoffs {shlex.join(map(str, homes))}`",)

    def _refuse_others(self, options: EvaluateOptions) -> None:
        """Raises BadArgument for options of other studies that do not go with these; by name, as they are given."""
        if self.layers is None and self.size is None:
            return
        given: dict[str, Any] = {}
        for study in options.studies:
            if study is not self:
                given |= {field.name: getattr(study, field.name) for field in fields(study)}  # type: ignore[arg-type]
        mine = "--size" if self.layers is None else "--layers"
        if given.get("tta"):
            raise BadArgument(f"--tta shows a network several views, and {mine} is about one pass. Leave one out.")
        if given.get("corrupt"):
            raise BadArgument(f"--corrupt and {mine} each make further runs. Leave one out.")
        if self.layers is not None and given.get("metrics") not in (None, "pq"):
            raise BadArgument("--metrics ap and miou read the last layer alone. Leave --metrics or --layers out.")
