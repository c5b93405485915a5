"""Several models on one dataset, one after the other: one that fails keeps its reason and does not end the others."""

import re
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base import program, provenance
from panbench.base.download import require_space
from panbench.base.errors import BadArgument, BadModel, BadRun, PanbenchError
from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.catalog import ModelSpec, is_shipped
from panbench.datasets import Dataset
from panbench.evaluation.opening import Opening, opened_model
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.sharded import ShardedEvaluation
from panbench.models.unopened import stated_names
from panbench.report.answers.tables import ComparisonRow, comparison_row, failed_row
from panbench.runs import Run, check_room
from panbench.runs.sharded import Spread

if TYPE_CHECKING:
    from panbench.models.model import Model

__all__ = [
    "Opening",
    "Outcome",
    "check_before",
    "evaluate_models",
    "run_folders",
    "run_models",
    "slug",
    "unused_bf16",
    "what_runs",
]

# What a run takes on disk, generously: rows of a COCO image in the parts, and pixels in a byte of an id PNG.
_BYTES_AN_IMAGE = 4_000
_PIXELS_A_BYTE = 8


@dataclass(frozen=True)
class Outcome:
    """What became of a model: a run, or the error that ended it."""

    spec: ModelSpec
    run: Run | None = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The error in one line, with its kind where it is not a sentence of ours."""
        if self.error is None:
            return ""
        text = " ".join(str(self.error).split())
        return text if isinstance(self.error, PanbenchError) else f"{type(self.error).__name__}: {text}".rstrip(": ")

    def row(self, dataset: str | None = None) -> ComparisonRow:
        """The model's row in a comparison, failed or not."""
        if self.run is not None:
            return comparison_row(self.run)
        return failed_row(self.spec.name, self.spec.title, self.reason, dataset)


def run_folders(
    specs: Sequence[ModelSpec],
    dataset: str,
    out: Path | None,
    *,
    rules: Sequence[str] = (),
    shard: Shard | None = None,
    keep: bool = True,
) -> list[Path]:
    """Where the runs go: `out` for one run, `out`/<model> for several models, results/<dataset>-<model> without `out`.

    rules: fusion rules as `--rule` names them; each run of a model is named after its rule, too
    shard: without `out`, its number ends the names
    keep: refuse, before anything is run, when one of the folders holds a run already (BadRun)
    The folders of the first model come first, in the order of the rules.
    """
    names = [spec.name if not rule else f"{spec.name}-{slug(rule)}" for spec in specs for rule in rules or [""]]
    if out is None:
        end = "" if shard is None else f".{shard.number}"
        folders = [Path("results") / f"{dataset}-{name}{end}" for name in names]
    elif len(names) == 1:
        folders = [out]
    else:
        if (out / "run.json").exists():
            raise BadRun(f"{out} holds a run; several models go into folders of their own in it. Give another --out.")
        folders = [out / name for name in names]
    doubled = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if doubled:
        raise BadArgument(f"Two models would write to {doubled[0]}. Rename one config file, or run them one by one.")
    for folder in folders:
        if not (folder / "run.json").exists():
            # A file, or a folder of something else.
            check_room(folder)
    taken = [str(folder) for folder in folders if keep and (folder / "run.json").exists()]
    if taken:
        raise BadRun(
            f"{', '.join(taken)} already {'holds' if len(taken) == 1 else 'hold'} a run. Continue it with --resume, "
            "replace it with --overwrite, or give another --out."
        )
    return folders


def check_before(
    dataset: Dataset, folders: Sequence[Path], opening: Opening, options: EvaluateOptions, rules: Sequence[str] = ()
) -> None:
    """Raises what would stop any model, before one is opened: device, precision, rules, no purpose, a full disk."""
    with program.importing():
        from panbench.evaluation.fits import refuse_without_purpose
        from panbench.models.devices import check_precision, choose_device
        from panbench.models.rules import PAPER, parse_rule

    check_precision(opening.precision, choose_device(opening.device))
    for rule in rules:
        # What `paper` stands for is known once the model is open.
        if rule.partition(":")[0].strip() != PAPER:
            parse_rule(rule)
    refuse_without_purpose(dataset, options.save_predictions or options.unscored)
    pixels = sum(scene.image.height * scene.image.width for scene in dataset.scenes) if options.save_predictions else 0
    needed = len(dataset.scenes) * _BYTES_AN_IMAGE + pixels // _PIXELS_A_BYTE
    n_runs = len(folders) * (1 + sum(study.further_runs for study in options.studies))
    require_space(folders[0], needed * n_runs, "Storing the runs" if n_runs > 1 else "Storing the run")


def what_runs(specs: Sequence[ModelSpec], dataset: Dataset, opening: Opening, options: EvaluateOptions) -> str:
    """One line on the run to come: images, device, threads, PyTorch, precision, batch."""
    import torch

    from panbench.models.devices import choose_device

    device = choose_device(opening.device)
    threads = torch.get_num_threads()
    place = f"{provenance.cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        place = "Metal (mps)"
    batch = options.batch_size or (1 if device.type == "cpu" else "auto")
    compiled = ", compiled" if opening.compiled else ""
    return (
        f"{_models_and_images(specs, dataset)}: {place}; PyTorch {torch.__version__}, {opening.precision}{compiled}, "
        f"batch size {batch}."
    )


def unused_bf16(specs: Sequence[ModelSpec], opening: Opening) -> str | None:
    """A sentence on a precision that would be faster for a heavy model on this CPU; None where none would."""
    from panbench.models.devices import HEAVY_PARAMETERS, choose_device

    heavy = any((spec.params or 0) >= HEAVY_PARAMETERS for spec in specs)
    if not heavy or opening.precision != "fp32" or choose_device(opening.device).type != "cpu":
        return None
    if not provenance.cpu_has_bf16():
        return None
    return (
        "This CPU has bf16: --precision bf16 takes about half the time and changes 1 to 4 of 1,000 pixels "
        "(docs/inference_speed.md)."
    )


def _models_and_images(specs: Sequence[ModelSpec], dataset: Dataset) -> str:
    models = specs[0].title if len(specs) == 1 else f"{len(specs)} models"
    number = len(dataset.scenes)
    of_all = f"of {dataset.n_images:,} " if dataset.n_images and dataset.n_images > number else ""
    what = (
        f"{of_all}image{'s' * (number != 1 or bool(of_all))} of {' '.join(filter(None, (dataset.name, dataset.split)))}"
    )
    if not dataset.categories:
        what = f"photograph{'s' * (number != 1)} of {dataset.name}"
    return f"{models} on {number:,} {what}"


def evaluate_models(
    specs: Sequence[ModelSpec],
    dataset: Dataset,
    folders: Sequence[Path],
    opening: Opening,
    options: EvaluateOptions,
    *,
    reporters: Callable[[], AbstractContextManager[Reporter]],
    finished: Callable[[Outcome], Any],
    rules: Sequence[str] = (),
    spread: Spread | None = None,
) -> list[Outcome]:
    """Opens each model and evaluates it into its folders; the outcomes in order, as `run_models` gives them.

    rules: fusion rules as `--rule` names them, each with a run of its own from one forward pass; () is the model's own
    folders: those of `run_folders`
    reporters: makes the reporter of one evaluation
    spread: has other processes make the shards of each evaluation
    """
    # Imports torch, which takes seconds; the rest of this module is also used before.
    from panbench.evaluation.evaluate import evaluate_rules
    from panbench.evaluation.shown import as_asked, run_further, with_those_beside

    of_each = len(rules) or 1
    ahead = _opened_ahead(specs, dataset, opening, options) if spread is None else {}

    def run(index: int, spec: ModelSpec) -> list[Run]:
        own = folders[index * of_each : (index + 1) * of_each]
        with reporters() as reporter:
            if spread is not None:
                return spread(ShardedEvaluation(spec, dataset, tuple(own), opening, options, tuple(rules)), reporter)
            opened = ahead.pop(spec) if spec in ahead else opened_model(spec, opening, reporter)
            chosen, model = as_asked(opened, dataset, rules, options)
            del opened
            clean = dict(zip(chosen, own, strict=True))
            runs = evaluate_rules(model, dataset, with_those_beside(model, clean, options), options, reporter)
            run_further(model, dataset, clean, options, reporter)
            return runs

    return _in_turn(specs, run, finished)


def _opened_ahead(
    specs: Sequence[ModelSpec], dataset: Dataset, opening: Opening, options: EvaluateOptions
) -> "dict[ModelSpec, Model]":
    """Of several models, those whose categories nobody knows but they, opened before the first one runs.

    Raises BadModel for categories that are not the dataset's. Models that cannot be opened fail in their turn.
    """
    from panbench.evaluation.shown import as_shown

    found, misfits = {}, []
    for spec in specs if len(specs) > 1 else ():
        if is_shipped(spec) or stated_names(spec) is not None:
            continue
        try:
            found[spec] = opened_model(spec, opening)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            continue
        try:
            as_shown(found[spec], dataset, options).category_ids(dataset.categories)
        except PanbenchError as error:
            misfits.append(str(error))
    if misfits:
        raise BadModel(" ".join(misfits))
    return found


def run_models(
    specs: Sequence[ModelSpec],
    folders: Sequence[Path],
    evaluate: Callable[[ModelSpec, Path], Run],
    finished: Callable[[Outcome], Any],
) -> list[Outcome]:
    """Evaluates each model into its folder, calling `finished` after each; the outcomes in order.

    With one model its error is raised. With several it is kept in the outcome and the next one runs. An interruption
    (KeyboardInterrupt) ends all.
    """
    return _in_turn(specs, lambda index, spec: [evaluate(spec, folders[index])], finished)


def _in_turn(
    specs: Sequence[ModelSpec], evaluate: Callable[[int, ModelSpec], list[Run]], finished: Callable[[Outcome], Any]
) -> list[Outcome]:
    # Imports torch, which takes seconds.
    from panbench.evaluation.memory import free_memory

    outcomes = []
    for index, spec in enumerate(specs):
        try:
            found = [Outcome(spec, run=run) for run in evaluate(index, spec)]
        except Exception as error:
            if len(specs) == 1:
                raise
            # The frames of a failed run hold its model and what was on the device.
            traceback.clear_frames(error.__traceback__)
            found = [Outcome(spec, error=error)]
        for outcome in found:
            finished(outcome)
        outcomes.extend(found)
        free_memory()
    return outcomes


def slug(rule: str) -> str:
    """A rule as part of a folder's name: `mask2former:score=0.7` is mask2former-score-0.7."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", rule).strip("-")
