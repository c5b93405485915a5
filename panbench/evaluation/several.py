"""Evaluates several models on one dataset in turn; a failed model is recorded and does not stop the others."""

import re
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base import program, provenance
from panbench.base.errors import BadArgument, BadModel, BadRun, PanbenchError
from panbench.base.files import require_space
from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.catalog import ModelSpec, is_shipped
from panbench.datasets import Dataset
from panbench.evaluation.options import EvaluateOptions, Opening, opened_model
from panbench.evaluation.sharded import ShardedEvaluation
from panbench.models.unopened import declared_names
from panbench.report.answers.tables import ComparisonRow, comparison_row, failed_row
from panbench.runs import Run, check_room
from panbench.runs.sharded import Sharding

if TYPE_CHECKING:
    from panbench.models.model import Model

# Generous estimates of a run's disk space: bytes per COCO image in the parts, and pixels per byte of an id PNG.
_BYTES_AN_IMAGE = 4_000
_PIXELS_A_BYTE = 8


@dataclass(frozen=True)
class Prepared:
    """Models, data, run folders and options of an evaluation that is ready to start.

    folders: from `run_folders`; rules: as `--rule` names them, () for each model's own
    sharding: runs the shards of each evaluation in other processes; None to evaluate in this one
    """

    specs: Sequence[ModelSpec]
    dataset: Dataset
    folders: Sequence[Path]
    opening: Opening
    options: EvaluateOptions
    rules: Sequence[str] = ()
    sharding: Sharding | None = None


@dataclass(frozen=True)
class Outcome:
    """The result for one model by one rule: a run, or the error that ended it."""

    spec: ModelSpec
    run: Run | None = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The error in one line, with its type unless it is a message of ours."""
        if self.error is None:
            return ""
        text = " ".join(str(self.error).split())
        return text if isinstance(self.error, PanbenchError) else f"{type(self.error).__name__}: {text}".rstrip(": ")

    def row(self, dataset: str | None = None) -> ComparisonRow:
        """Returns the model's row for a comparison table, whether it succeeded or failed."""
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
    """Returns the folders to write the runs to, one per model and rule, after checking that they are free.

    out: the folder of a single run, or the parent of several; None for results/<dataset>-<model>
    rules: fusion rules as `--rule` names them; the folder's name then includes the rule
    shard: without `out`, its number ends the names
    keep: raise BadRun, before anything is run, if one of the folders already holds a run
    The folders of the first model come first, in the order of the rules.
    """
    names = [
        spec.name if not rule else f"{spec.name}-{folder_name_of_rule(rule)}"
        for spec in specs
        for rule in rules or [""]
    ]
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
            # A file, or a folder that is not a run.
            check_room(folder)
    taken = [str(folder) for folder in folders if keep and (folder / "run.json").exists()]
    if taken:
        raise BadRun(
            f"{', '.join(taken)} already {'holds' if len(taken) == 1 else 'hold'} a run. Continue it with --resume, "
            "replace it with --overwrite, or give another --out."
        )
    return folders


def check_before(work: Prepared) -> None:
    """Raises errors that would stop every model, before the first is opened.

    Checks device, precision, rules, purpose and disk space.
    """
    with program.importing():
        from panbench.evaluation.wrapping import refuse_useless_evaluation
        from panbench.models.devices import check_precision, choose_device
        from panbench.models.rules import PAPER, parse_rule

    options, scenes = work.options, work.dataset.scenes
    check_precision(work.opening.precision, choose_device(work.opening.device))
    for rule in work.rules:
        # The meaning of `paper` is known once the model is open.
        if rule.partition(":")[0].strip() != PAPER:
            parse_rule(rule)
    refuse_useless_evaluation(work.dataset, options.save_predictions or options.unscored)
    pixels = sum(scene.image.height * scene.image.width for scene in scenes) if options.save_predictions else 0
    needed = len(scenes) * _BYTES_AN_IMAGE + pixels // _PIXELS_A_BYTE
    n_runs = len(work.folders) * (1 + sum(study.further_runs for study in options.studies))
    require_space(work.folders[0], needed * n_runs, "Storing the runs" if n_runs > 1 else "Storing the run")


def describe_plan(work: Prepared) -> str:
    """Returns one line on the planned run: images, device, threads, PyTorch, precision, batch."""
    import torch

    from panbench.models.devices import choose_device

    device = choose_device(work.opening.device)
    threads = torch.get_num_threads()
    hardware = f"{provenance.cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        hardware = "Metal (mps)"
    batch = work.options.batch_size or (1 if device.type == "cpu" else "auto")
    opening = work.opening
    by = ", compiled" if opening.compiled else f" by {opening.runtime}" if opening.runtime else ""
    return (
        f"{_models_and_images_text(work.specs, work.dataset)}: {hardware}; PyTorch {torch.__version__}, "
        f"{opening.precision}{by}, batch size {batch}."
    )


def suggest_bf16(specs: Sequence[ModelSpec], opening: Opening) -> str | None:
    """Returns a note if another precision would be faster for a large model on this CPU; None otherwise."""
    from panbench.models.devices import HEAVY_PARAMETERS, choose_device

    heavy = any((spec.params or 0) >= HEAVY_PARAMETERS for spec in specs)
    if not heavy or opening.precision != "fp32" or opening.runtime or choose_device(opening.device).type != "cpu":
        return None
    if not provenance.cpu_gains_by_bf16():
        return None
    return (
        "This CPU has bf16: --precision bf16 takes about half the time and changes 1 to 4 of 1,000 pixels "
        "(docs/inference_speed.md)."
    )


def _models_and_images_text(specs: Sequence[ModelSpec], dataset: Dataset) -> str:
    """Describes models and data in words: "2 models on 20 of 5,000 images of coco val"."""
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
    work: Prepared,
    reporters: Callable[[], AbstractContextManager[Reporter]],
    finished: Callable[[Outcome], Any],
) -> list[Outcome]:
    """Opens each model and evaluates it by each rule, from one forward pass; returns the outcomes in order.

    reporters: makes the reporter of one evaluation; finished: called with each outcome
    """
    # Imports torch, which takes seconds; the rest of this module is also used before.
    from panbench.evaluation.evaluate import evaluate_with_study_runs
    from panbench.evaluation.wrapping import rules_and_wrapped_model

    dataset, opening, options, rules = work.dataset, work.opening, work.options, tuple(work.rules)
    of_each = len(rules) or 1
    ahead = _open_ahead(work) if work.sharding is None else {}

    def evaluate_model(index: int, spec: ModelSpec) -> list[Run]:
        """Opens one model and evaluates it by each rule; returns its runs in the order of the rules."""
        own = tuple(work.folders[index * of_each : (index + 1) * of_each])
        with reporters() as reporter:
            if work.sharding is not None:
                return work.sharding(ShardedEvaluation(spec, dataset, own, opening, options, rules), reporter)
            opened = ahead.pop(spec) if spec in ahead else opened_model(spec, opening, reporter)
            chosen, model = rules_and_wrapped_model(opened, dataset, rules, options)
            del opened
            return evaluate_with_study_runs(model, dataset, dict(zip(chosen, own, strict=True)), options, reporter)

    return evaluate_in_turn(work.specs, evaluate_model, finished)


def _open_ahead(work: Prepared) -> "dict[ModelSpec, Model]":
    """Checks categories before the first model runs, by opening the models whose categories are unknown.

    Returns the opened models; opens none if there is only one.
    Raises BadModel for categories that do not match the dataset's. Models that cannot be opened fail in their turn.
    """
    from panbench.evaluation.wrapping import wrap_model

    found, misfits = {}, []
    for spec in work.specs if len(work.specs) > 1 else ():
        if is_shipped(spec) or declared_names(spec) is not None:
            continue
        try:
            found[spec] = opened_model(spec, work.opening)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            continue
        try:
            wrap_model(found[spec], work.dataset, work.options).category_ids(work.dataset.categories)
        except PanbenchError as error:
            misfits.append(str(error))
    if misfits:
        raise BadModel(" ".join(misfits))
    return found


def evaluate_in_turn(
    specs: Sequence[ModelSpec], evaluate: Callable[[int, ModelSpec], list[Run]], finished: Callable[[Outcome], Any]
) -> list[Outcome]:
    """Evaluates one model after the other, calling `finished` with each outcome; returns the outcomes in order.

    A single model's error is raised. With several, it is stored in the outcome and the next model runs. An interruption
    (KeyboardInterrupt) ends all.
    """
    # Imports torch, which takes seconds.
    from panbench.evaluation.measuring import free_memory

    outcomes = []
    for index, spec in enumerate(specs):
        try:
            found = [Outcome(spec, run=run) for run in evaluate(index, spec)]
        except Exception as error:
            if len(specs) == 1:
                raise
            # The traceback's frames of a failed run hold its model and memory of the device.
            traceback.clear_frames(error.__traceback__)
            found = [Outcome(spec, error=error)]
        for outcome in found:
            finished(outcome)
        outcomes.extend(found)
        free_memory()
    return outcomes


def folder_name_of_rule(rule: str) -> str:
    """Returns a rule as part of a folder's name: `mask2former-score-0.7` for `mask2former:score=0.7`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", rule).strip("-")
