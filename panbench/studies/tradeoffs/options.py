"""`panbench eval --layers` and `--size`: also evaluates earlier decoder layers, or images of other sizes."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import listed
from panbench.evaluation.options import EvaluateOptions, Evaluation, Joined, StudyOptions
from panbench.studies.tradeoffs.steps import no_layers

if TYPE_CHECKING:
    from panbench.base.reporter import Reporter
    from panbench.catalog import ModelSpec
    from panbench.datasets import Dataset
    from panbench.models.model import Model
    from panbench.models.rules import Rule

ALL = "all"
_MOST_LAYERS = 12
"""The number of further runs to reserve disk space for while the number of layers is unknown."""
_SMALLEST, _LARGEST = 0.1, 4.0


@dataclass(frozen=True)
class TradeoffOptions(StudyOptions):
    """The options `--layers` and `--size`: also evaluate earlier decoder layers, or images of other sizes."""

    layers: Annotated[
        str | None,
        Option(
            "Also score earlier decoder layers, from the same pass, for `compare --tradeoffs`: all, or 1,3,6.",
            "LAYERS",
            (ALL,),
        ),
    ] = None
    size: Annotated[
        str | None, Option("Also evaluate images of other sizes, for `compare --tradeoffs`: 0.5,0.75,1.", "FACTORS")
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for layers and sizes that are not numbers, and for both at once."""
        if self.layers is not None and self.size is not None:
            raise BadArgument("--layers and --size make two tables. Give one, then the other with --resume.")
        _ = self.chosen_layers, self.size_factors

    @functools.cached_property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """The layers that `--layers` names, ascending; None for all, () without the option."""
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
    def size_factors(self) -> tuple[float, ...]:
        """The sizes that `--size` names, other than 1, ascending."""
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
        """The number of runs that are added: one per earlier decoder layer, and one per image scale other than 1."""
        return len(self.size_factors) + (_MOST_LAYERS if self.chosen_layers is None else len(self.chosen_layers))

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """Called on the command line: raises BadArgument for contradicting options of other studies."""
        self._refuse_contradictions(options)
        return options

    def check_models(self, specs: "Sequence[ModelSpec]") -> None:
        """Raises BadArgument if `--layers` is given for models without a decoder of layers."""
        from panbench.catalog import WITHOUT_QUERIES

        for spec in specs:
            if self.layers is not None and spec.family in WITHOUT_QUERIES:
                raise no_layers(spec.title)

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument for images without ground truth."""
        if (self.layers is not None or self.size is not None) and not dataset.has_ground_truth:
            name = "--size" if self.layers is None else "--layers"
            raise BadArgument(f"{name} needs ground truth: it measures PQ against time. Add --gt.")

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """Wraps the model so that earlier decoder layers are scored, too. Raises BadArgument if it lacks them."""
        if self.layers is not None:
            from panbench.studies.tradeoffs.layered_model import LayeredModel

            return LayeredModel(model, self.chosen_layers)
        if self.size_factors:
            from panbench.studies.tradeoffs.further_runs import ScaledModel

            # Fails here, before hours of evaluating the first size.
            for factor in self.size_factors:
                ScaledModel(model, factor)
        return model

    def beside(self, model: "Model", folders: "Mapping[Rule, Path]", options: EvaluateOptions) -> "Mapping[Rule, Path]":
        """Returns, before the model runs, a run folder for each earlier decoder layer. Raises BadRun if it exists."""
        if self.layers is None:
            return {}
        self._refuse_contradictions(options)
        from panbench.studies.tradeoffs.layered_model import runs_by_layer

        return runs_by_layer(model, folders, options)

    def join(self, evaluation: Evaluation) -> Joined:
        """Raises BadArgument before an evaluation if other studies' options contradict `--layers` or `--size`."""
        self._refuse_contradictions(evaluation.options)
        return Joined()

    def run_further(
        self,
        model: "Model",
        dataset: "Dataset",
        folders: "Mapping[Rule, Path]",
        options: EvaluateOptions,
        reporter: "Reporter",
    ) -> None:
        """Called after an evaluation: evaluates the image scales of `--size`, and times each scale or decoder layer."""
        if self.layers is not None:
            from panbench.studies.tradeoffs.further_runs import time_layers

            time_layers(model, dataset, folders, reporter)
        if self.size is not None:
            from panbench.studies.tradeoffs.further_runs import evaluate_sizes

            evaluate_sizes(model, dataset, folders, self.size_factors, options, reporter)

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """Returns a hint with the command that compares PQ and time of the decoder layers or image scales."""
        if self.layers is None and self.size is None:
            return ()
        homes = [run for run in runs if "@layer" not in run.name]
        return (f"PQ against time: `panbench compare --tradeoffs {shlex.join(map(str, homes))}`",)

    def _refuse_contradictions(self, options: EvaluateOptions) -> None:
        """Raises BadArgument for options of other studies that contradict --layers or --size.

        They are found by their field names.
        """
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
