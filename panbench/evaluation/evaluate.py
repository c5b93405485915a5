"""Evaluates one model on one dataset into a run folder: images → model → fusion → overlap tables.

sitting.py owns the run folders, loop.py runs the threads, record.py says what run.json holds.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from panbench.base.download import require_space
from panbench.base.errors import BadArgument, BadDataset
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap, read_category_map
from panbench.evaluation.listeners import Listener
from panbench.evaluation.loop import Loop, Target, best_batch_size, worker_threads
from panbench.evaluation.options import (
    DEFAULTS,
    SHARD_BATCH_SIZE,
    EvaluateOptions,
    Evaluation,
    Joined,
    with_all_studies,
)
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.prediction_names import shared_name
from panbench.evaluation.record import first_record, resume_settings
from panbench.evaluation.shown import as_shown
from panbench.evaluation.sitting import Sitting
from panbench.models.keeping import CandidateKeeper
from panbench.models.model import Model, way_of_running
from panbench.models.predict import CategoryIds, category_ids, labels_as_categories, model_categories
from panbench.models.rules import RULES, Rule
from panbench.models.rules.base import rule_takes
from panbench.runs import PREDICTIONS, ImagesRecord, Run, RunInfo, RunWriter

__all__ = [
    "as_shown",
    "evaluate",
    "evaluate_rules",
    "fit_categories",
    "refuse_without_purpose",
    "run_further",
    "with_those_beside",
]


def evaluate(
    model: Model,
    dataset: Dataset,
    out: str | os.PathLike[str],
    options: EvaluateOptions = DEFAULTS,
    reporter: Reporter = SILENT,
) -> Run:
    """Evaluates a model on a dataset into the run folder `out`, and returns the run.

    dataset: one without ground truth needs `options.save_predictions` or `unscored`; nothing of it is scored; one
        without categories (photographs) has the model's
    reporter: gets progress (the task is the model's title), and notices of what was skipped or chosen
    Raises PanbenchError for bad input; what was written until then stays, and `options.resume` goes on from it.
    """
    model = as_shown(model, options)
    folders = {model.rule: Path(out)}
    run, *_ = evaluate_rules(model, dataset, with_those_beside(model, folders, options), options, reporter)
    run_further(model, dataset, folders, options, reporter)
    return run


def with_those_beside(model: Model, folders: Mapping[Rule, Path], options: EvaluateOptions) -> dict[Rule, Path]:
    """The folders with those of further runs that studies make in the same pass, after them. model: `as_shown`."""
    further = [study.beside(model, folders, options) for study in options.studies]
    return {**folders, **{rule: folder for each in further for rule, folder in each.items()}}


def run_further(
    model: Model, dataset: Dataset, folders: Mapping[Rule, Path], options: EvaluateOptions, reporter: Reporter = SILENT
) -> None:
    """Makes the further runs that studies add to those in `folders`. model: `as_shown`."""
    for study in options.studies:
        study.run_further(model, dataset, folders, options, reporter)


def evaluate_rules(
    model: Model,
    dataset: Dataset,
    folders: Mapping[Rule, Path],
    options: EvaluateOptions = DEFAULTS,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """Evaluates a model once and fuses its outputs by several rules, each into a run of its own; the runs in order.

    folders: the run folder of each rule; other arguments and errors as of `evaluate`. The model is taken as it is, and
    further runs are not made: see `as_shown`, `run_further`.
    A run that is complete already is left alone when `options.resume` is set, and the others go on.
    """
    dataset = _usable(model, dataset, folders, options)
    ids, mapping = fit_categories(model, dataset, options.category_map)
    for sentence in mapping.sentences if mapping else ():
        reporter.notice(sentence)
    evaluation = Evaluation(model, dataset, _category_of(ids, mapping), options, reporter)
    joined = [study.join(evaluation) for study in with_all_studies(options.studies)]
    settings = {rule: resume_settings(model, dataset, mapping, options, rule, joined) for rule in folders}
    sitting = Sitting(folders, settings, model, dataset, options, reporter)
    batch_size = _batch_size(sitting.batch_size, model, dataset, options, reporter)
    plan = plan_batches(dataset.scenes, batch_size, model)
    scenes = dataset.scenes
    if options.shard is not None:
        plan = plan.share(options.shard.number - 1, options.shard.of)
        scenes = [scene for batch in plan for scene in batch]
    sitting.look(scenes)
    if not sitting.unfinished:
        return sitting.runs()

    def new_record(rule: Rule) -> RunInfo:
        arguments = {**settings[rule], "batch_size": batch_size}
        record = first_record(model, dataset, arguments, options.command, mapping, rule)
        whole = None if options.shard is None else len(dataset.scenes)
        return replace(record, images=ImagesRecord(expected=len(scenes), whole=whole))

    with sitting.writing(new_record) as writers:
        listeners = _listeners(evaluation, joined, writers)
        done = frozenset.intersection(*(writer.done for writer in writers), *(each.done for each in listeners))
        targets = _targets(sitting.unfinished, writers, options.save_predictions)
        loop = Loop(
            model,
            ids,
            mapping,
            targets=targets,
            expected=len(scenes),
            skip_bad_images=options.skip_bad_images,
            workers=worker_threads(options.workers),
            reporter=reporter,
            listeners=listeners,
        )
        sitting.run(loop, plan.without(done))
    return sitting.runs()


def _category_of(ids: CategoryIds, mapping: CategoryMap | None) -> Mapping[int, int]:
    """The dataset's category id of each of the model's labels that has one."""
    if mapping is not None:
        return mapping.ids
    return dict(ids.items() if isinstance(ids, Mapping) else enumerate(ids))


def _batch_size(
    asked: int | str | None, model: Model, dataset: Dataset, options: EvaluateOptions, reporter: Reporter
) -> int:
    if asked is None:
        elsewhere: int | str = "auto" if options.shard is None else SHARD_BATCH_SIZE
        asked = 1 if model.device.type == "cpu" else elsewhere
    if asked == "auto":
        asked = best_batch_size(model, dataset, reporter)
    return int(asked)


def _listeners(evaluation: Evaluation, joined: Iterable[Joined], writers: Sequence[RunWriter]) -> list[Listener]:
    listeners: list[Listener] = [_keeper(evaluation, writers)] if evaluation.options.keep_candidates else []
    return listeners + [each.listen(writers) for each in joined if each.listen is not None]


def _targets(rules: Iterable[Rule], writers: Sequence[RunWriter], keep_maps: bool) -> list[Target]:
    return [
        Target(writer, rule, writer.path / PREDICTIONS if keep_maps else None)
        for writer, rule in zip(writers, rules, strict=True)
    ]


def _usable(model: Model, dataset: Dataset, rules: Iterable[Rule], options: EvaluateOptions) -> Dataset:
    """The dataset, with the model's categories where it has none of its own.

    Raises BadArgument or BadDataset, before anything is written, for rules and options that do not fit.
    """
    if not dataset.categories:
        dataset = replace(dataset, categories=model_categories(model))
    batch_size = options.batch_size
    if batch_size is not None and batch_size != "auto" and batch_size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {batch_size}.")
    if batch_size == "auto" and options.shard is not None:
        raise BadArgument("--batch-size auto could differ from shard to shard. Give all shards one number.")
    refuse_without_purpose(dataset, options.save_predictions or options.unscored)
    for rule in rules:
        refuse_unfit(rule, model)
    for study in options.studies:
        study.check(dataset)
    return dataset


def refuse_unfit(rule: Rule, model: Model) -> None:
    """Raises BadArgument for a rule that does not take what the model gives."""
    if rule.takes is not model.rule.takes:
        fitting = [name for name, kind in RULES.items() if kind.takes is model.rule.takes]
        raise BadArgument(
            f"The rule {rule.name} takes {rule_takes(rule)}, and {model.spec.title} gives {rule_takes(model.rule)}. "
            f"Rules that fit it: {', '.join(fitting)}."
        )


def _keeper(evaluation: Evaluation, writers: Sequence[RunWriter]) -> CandidateKeeper:
    """The listener that stores candidates in the first run, with all that `panbench fuse` needs to know of the model.

    Reports what they will take on disk, measured on three images. Raises OutOfSpace when there is no room.
    """
    model, dataset, run = evaluation.model, evaluation.dataset, writers[0].path
    about = {
        "weights_sha256": model.describe().weights_sha256,
        "class_names": list(model.class_names),
        "isthing": list(model.isthing),
        "precision": way_of_running(model)["precision"],
    }
    half = evaluation.options.half_precision
    keeper = CandidateKeeper(run, model.rule, about, half=half)
    tried = dataset.scenes[:: max(1, len(dataset.scenes) // 3)][:3]
    size = sum(keeper.size_of(model.candidates([model.load(scene)])[0]) for scene in tried) // len(tried)
    needed = size * len(dataset.scenes)
    require_space(run, needed, "Keeping the candidates")
    evaluation.reporter.notice(
        f"Candidates take about {size / 1e6:.2f} MB per image (measured on {len(tried)}), {needed / 1e6:,.0f} MB for "
        f"{len(dataset.scenes):,} images."
        + (" In half precision, the maps that fuse makes of them may differ from this run's." if half else "")
    )
    return keeper


def fit_categories(
    model: Model, dataset: Dataset, category_map: str | os.PathLike[str] | CategoryMap | None
) -> tuple[CategoryIds, CategoryMap | None]:
    """The dataset category for each model label, and the category map if one was given.

    With a map, labels stand for themselves until it has turned them into the dataset's categories.
    Raises BadModel or BadArgument when model, map and dataset do not fit.
    """
    if not dataset.categories:
        dataset = replace(dataset, categories=model_categories(model))
    if category_map is None:
        return category_ids(model, dataset.categories), None
    return tuple(range(len(model.class_names))), _category_map(category_map, model, dataset)


def refuse_without_purpose(dataset: Dataset, save_predictions: bool) -> None:
    """Raises BadArgument for an evaluation without a result: no ground truth, and no predictions kept.

    Raises BadDataset when predictions are kept and those of two images would have one name.
    """
    if save_predictions and (shared := shared_name(dataset)):
        one, other, name = shared
        raise BadDataset(
            f"The predictions of images {one} and {other} would both be {name}. Rename one of the images, or evaluate "
            "with --no-save-predictions."
        )
    if not dataset.has_ground_truth and not save_predictions:
        raise BadArgument(
            f"{dataset.gt} lists images without ground truth, so there is nothing to score. Add --save-predictions to "
            "keep what the model predicts, for `panbench export coco-server`."
        )


def _category_map(source: str | os.PathLike[str] | CategoryMap, model: Model, dataset: Dataset) -> CategoryMap:
    if isinstance(source, CategoryMap):
        return source
    return read_category_map(source, labels_as_categories(model), dataset.categories)
