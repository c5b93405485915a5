"""Options of an evaluation: `EvaluateOptions`, `Opening` for its models, and `StudyOptions` for what studies add.

Does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from panbench.base.computing import COMPILE, split_precision
from panbench.base.references import load
from panbench.base.reporter import SILENT, Reporter
from panbench.base.shards import Shard
from panbench.base.studies import load_from_studies, names_in_studies

if TYPE_CHECKING:
    from panbench.catalog import ModelSpec
    from panbench.datasets import Dataset
    from panbench.evaluation.sinks import Sink
    from panbench.models.model import Model
    from panbench.models.rules import Rule
    from panbench.runs import RunInfo, RunWriter
    from panbench.runs.sharded import Sharding


@dataclass(frozen=True)
class Evaluation:
    """One pass of a model over a dataset, as passed to the studies that join it."""

    model: "Model"
    dataset: "Dataset"
    options: "EvaluateOptions"
    reporter: Reporter


@dataclass(frozen=True)
class Joined:
    """A study's additions to an evaluation: settings, processing of the outputs, and run.json fields.

    Determined before anything is written.
    settings: stored in `arguments` of run.json; a resumed run must have the same ones. Values are None if the
        study is not requested: then runs from before the study can still be resumed.
    sink: makes the sink of the model's outputs from the writers of the pass's runs
    record: further fields of run.json, by their names in `RunInfo`
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    sink: "Callable[[Sequence[RunWriter]], Sink] | None" = None
    record: Mapping[str, Any] = field(default_factory=dict)


class StudyOptions:
    """What a study adds to an evaluation; the core calls the hooks below and knows no study by name.

    Inherit from it as a frozen dataclass in the study's options.py, and name the class in its record:
    `Study(…, options={"eval": "package.options:MyOptions"})`. Each field is an option of `panbench eval`: its type is
    `Annotated[type, Option(help)]` (`panbench.base.studies.Option`), its default that of the option, and a field `True`
    or `False` a flag. From Python an instance goes into `EvaluateOptions.studies`.

    `__post_init__` refuses invalid values (BadArgument). Neither it nor `check` nor the module may import torch; the
    other hooks may. Every hook has a default that adds nothing.
    """

    @property
    def further_runs(self) -> int:
        """The number of runs that the study adds to each requested run, such as on corrupted images.

        `run_further` makes them; the disk needs space for them.
        """
        return 0

    def settled(self, options: "EvaluateOptions") -> "EvaluateOptions":
        """Called by `panbench eval`: returns the evaluation's options, with the values that the study requires."""
        return options

    @property
    def maps_categories(self) -> bool:
        """True if the study maps the model's categories to the dataset's, so that they may differ."""
        return False

    def check_models(self, specs: "Sequence[ModelSpec]") -> None:
        """Raises BadArgument for models that the study cannot run; called before torch is loaded."""

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument when the options do not fit the dataset; called before torch is loaded."""

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """Returns the model to evaluate in place of `model`, such as one that runs several views of each image.

        Studies wrap in their order. Raises BadArgument for a model that does not fit.
        """
        return model

    @classmethod
    def of_run(cls, info: "RunInfo") -> "StudyOptions | None":
        """Returns the study's options that a run was evaluated with, to fuse it again; None if not needed."""
        return None

    def beside(
        self, model: "Model", folders: "Mapping[Rule, Path]", options: "EvaluateOptions"
    ) -> "Mapping[Rule, Path]":
        """Called before the model runs: returns run folders for extra fusion rules to apply to the same outputs.

        model: as `wrapped` by all studies; folders: of the requested runs, by rule; options: of these runs
        """
        return {}

    def join(self, evaluation: Evaluation) -> Joined:
        """Returns the study's additions to an evaluation: settings, processing of outputs, run.json fields.

        Called before the model runs, when nothing is written yet. Raises BadArgument.
        """
        return Joined()

    def run_further(
        self,
        model: "Model",
        dataset: "Dataset",
        folders: "Mapping[Rule, Path]",
        options: "EvaluateOptions",
        reporter: Reporter,
    ) -> None:
        """Called after the requested runs: evaluates the model again if the study needs it, as on corrupted images.

        model: as `wrapped` by all studies; folders: of the requested runs, by rule; options: of these runs
        """

    def sharding(self) -> "Sharding | None":
        """Called before an evaluation: returns a function that makes its shards in other processes, or None."""
        return None

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        """Returns sentences that `panbench eval` ends with, such as the command that reads the runs."""
        return ()


@dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is done, independent of model and dataset.

    batch_size: None is 1 on a CPU and "auto" elsewhere; "auto" tries sizes on the first image
    shard: evaluate this share of the batches alone; all shards need one batch size, so that None is 1 on a CPU and
        SHARD_BATCH_SIZE elsewhere
    workers: threads that load, and as many that score; None: as many as cores, at most 8
    overwrite: replace a run that is already in the folder
    resume: resume the run in the folder, which must have been made with the same settings
    save_predictions: also write predictions/ and predictions.json
    unscored: run images without ground truth although no result is stored: for timing
    skip_bad_images: leave out images that do not decode, instead of stopping; the run says so
    command: the command line, for run.json
    keep_candidates: also store the network's outputs in candidates/, for `panbench fuse` and ensembles
    half_precision: store them in half precision: maps that are fused from them may differ
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
"""The default batch size of shards on a GPU: a timed size could differ between shards, which could not be merged."""


def with_all_study_options(given: Sequence[StudyOptions]) -> list[StudyOptions]:
    """Adds the default options of each installed study that is not among `given`, in the order of the studies.

    So a run records the same settings whether a study was disabled or not mentioned.
    """
    by_kind = {type(each): each for each in given}
    kinds = list(load_from_studies("options", "eval").values())
    return [*(by_kind.get(kind) or kind() for kind in kinds), *(each for each in given if type(each) not in kinds)]


class Runtime(Protocol):
    """Computes a model's network instead of PyTorch; added by a study (`Study.runtimes`)."""

    def device_for(self, device: str, precision: str) -> str:
        """Returns the device on which to open the model; called before torch is loaded.

        Raises BadArgument for an unsupported device or precision, or if the runtime is not installed.
        """
        ...

    def of(self, model: "Model") -> "Model":
        """Returns the model with its network run by this runtime, such as OpenVINO. Raises BadModel.

        The model's `settings` record the runtime.
        """
        ...


def runtime_named(name: str) -> Runtime:
    """Returns the runtime of this name, such as OpenVINO's, which computes networks instead of PyTorch."""
    found: Runtime = load(names_in_studies("runtimes")[name])
    return found


def computing_of(precision: str, device: str, *, on_cards: bool = False) -> dict[str, Any]:
    """Parses `--precision`, such as `fp16+compile`, into device, precision and runtime.

    Returns them as keyword arguments of `Opening`.
    Raises BadArgument for an unknown value, and for a device or precision that a study's runtime lacks.
    on_cards: each process gets a GPU of its own (`--gpus`)
    """
    name, by = split_precision(precision)
    if by is None or by == COMPILE:
        return {"device": device, "precision": name, "compiled": by == COMPILE}
    return {
        "device": runtime_named(by).device_for("cuda" if on_cards else device, name),
        "precision": name,
        "runtime": by,
    }


@dataclass(frozen=True)
class Opening:
    """The options for opening a model: weights, device, precision, seed and runtime.

    The arguments of `open_model`, and the runtime of a study.
    """

    weights: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    compiled: bool = False
    download: bool = False
    runtime: str | None = None


def opened_model(spec: "ModelSpec", opening: Opening, reporter: Reporter = SILENT) -> "Model":
    """Opens a model with the given device, precision, weights and runtime.

    Raises what `open_model` raises.
    """
    from panbench.models.opening import open_model

    given = asdict(opening)
    runtime = given.pop("runtime")
    model = open_model(spec, **given, reporter=reporter)
    return model if runtime is None else runtime_named(runtime).of(model)
