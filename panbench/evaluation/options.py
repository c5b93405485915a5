"""How an evaluation is done: `EvaluateOptions`, and `StudyOptions` for what studies add to it. It needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.base.studies import added

if TYPE_CHECKING:
    from panbench.catalog import ModelSpec
    from panbench.datasets import Dataset
    from panbench.evaluation.sinks import Sink
    from panbench.models.model import Model
    from panbench.models.rules import Rule
    from panbench.runs import RunInfo, RunWriter
    from panbench.runs.sharded import Spread

__all__ = [
    "DEFAULTS",
    "SHARD_BATCH_SIZE",
    "EvaluateOptions",
    "Evaluation",
    "Joined",
    "StudyOptions",
    "with_all_studies",
]


@dataclass(frozen=True)
class Evaluation:
    """One pass of a model over a dataset, for those who join it."""

    model: "Model"
    dataset: "Dataset"
    options: "EvaluateOptions"
    reporter: Reporter


@dataclass(frozen=True)
class Joined:
    """What a study adds to one pass, known before anything is written.

    settings: stored in `arguments` of run.json; a resumed run must have the same ones. Values are None where the study
        is not asked for: then runs from before the study can still be resumed.
    sink: makes, from the writers of the pass's runs, what takes the model's outputs
    record: further fields of run.json, by their names in `RunInfo`
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    sink: "Callable[[Sequence[RunWriter]], Sink] | None" = None
    record: Mapping[str, Any] = field(default_factory=dict)


class StudyOptions:
    """What a study adds to an evaluation; the core asks the hooks below and knows no study by name.

    Inherit from it as a frozen dataclass in the study's options.py, and name the class in its record:
    `Study(…, options={"eval": "package.options:MyOptions"})`. Each field is an option of `panbench eval`: its type is
    `Annotated[type, Option(help)]` (`panbench.base.studies.Option`), its default that of the option, and a field `True`
    or `False` a flag. From Python an instance goes into `EvaluateOptions.studies`.

    Values that cannot be used are refused by `__post_init__` (BadArgument). Neither that nor `check` may import torch,
    nor may the module; the other hooks may. Every hook has a default that adds nothing.
    """

    panel: ClassVar[str] = "Studies"
    """The heading of the options in `panbench eval --help`."""

    @property
    def further_runs(self) -> int:
        """How many runs `run_further` adds to each run; the disk needs room for them."""
        return 0

    def settled(self, options: "EvaluateOptions") -> "EvaluateOptions":
        """The options of the core with what this study asks of them, on the command line."""
        return options

    @property
    def maps_categories(self) -> bool:
        """Whether the study brings the model's categories to the dataset's, so that they may differ."""
        return False

    def check_models(self, specs: "Sequence[ModelSpec]") -> None:
        """Raises BadArgument for models that the study cannot run; called before torch is loaded."""

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument when the options do not fit the dataset; called before torch is loaded."""

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """The model to evaluate in place of `model`, such as one that sees several views of each image.

        Studies wrap in their order. Raises BadArgument for a model that does not fit.
        """
        return model

    @classmethod
    def of_run(cls, info: "RunInfo") -> "StudyOptions | None":
        """The options with which a run is fused again as it was evaluated; None where this study plays no part."""
        return None

    def beside(
        self, model: "Model", folders: "Mapping[Rule, Path]", options: "EvaluateOptions"
    ) -> "Mapping[Rule, Path]":
        """Further runs of the same pass: their folders, by rules of the study's own that read the model's outputs.

        model: as `wrapped` by all studies; folders: of the runs that are asked for, by rule; options: theirs
        """
        return {}

    def join(self, evaluation: Evaluation) -> Joined:
        """What is added to one pass. Raises BadArgument, before anything is written, for a model that does not fit."""
        return Joined()

    def run_further(
        self,
        model: "Model",
        dataset: "Dataset",
        folders: "Mapping[Rule, Path]",
        options: "EvaluateOptions",
        reporter: Reporter,
    ) -> None:
        """Makes further runs of the model, beside those that are done.

        model: as `wrapped` by all studies; folders: of the runs that are done, by rule; options: theirs
        """

    def spread(self) -> "Spread | None":
        """What makes the shards of an evaluation elsewhere, in place of this process."""
        return None

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """Sentences that `panbench eval` ends with, such as the command that reads the runs."""
        return ()


@dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is done; what is evaluated are the model and the dataset.

    batch_size: None is 1 on a CPU and "auto" elsewhere; "auto" tries sizes on the first image
    shard: evaluate this share of the batches alone; all shards need one batch size, so that None is 1 on a CPU and
        SHARD_BATCH_SIZE elsewhere
    workers: threads that load, and as many that score; None: as many as cores, at most 8
    overwrite: replace a run that is already in the folder
    resume: go on with the run in the folder, which must have been made with the same settings
    save_predictions: also write predictions/ and predictions.json
    unscored: run images without ground truth although nothing of them is kept: for their time
    skip_bad_images: leave out images that do not decode, instead of stopping; the run says so
    command: the command line, for run.json
    keep_candidates: also store what left the network in candidates/, for `panbench fuse` and ensembles
    half_precision: store it in half precision: maps that are fused from it may differ
    studies: what studies add, as `panbench.studies.unfused.options.UnfusedOptions(metrics="pq,ap")`
    """

    batch_size: int | Literal["auto"] | None = None
    shard: Shard | None = None
    workers: int | None = None
    overwrite: bool = False
    resume: bool = False
    save_predictions: bool = False
    unscored: bool = False
    skip_bad_images: bool = False
    command: tuple[str, ...] = ()
    keep_candidates: bool = False
    half_precision: bool = False
    studies: tuple[StudyOptions, ...] = ()


DEFAULTS = EvaluateOptions()

SHARD_BATCH_SIZE = 4
"""Of a shard on a GPU: a size that is timed could differ from shard to shard, and the shards would not be one run."""


def with_all_studies(given: Sequence[StudyOptions]) -> list[StudyOptions]:
    """The given options and, of every other study that is installed, the defaults, in the order of the studies.

    So a run records the same settings whether a study was not asked for or not mentioned.
    """
    by_kind = {type(each): each for each in given}
    kinds = list(added("options", "eval").values())
    return [*(by_kind.get(kind) or kind() for kind in kinds), *(each for each in given if type(each) not in kinds)]
