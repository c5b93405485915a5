"""Evaluates one model on one dataset into a run folder: images → model → fusion → overlap tables.

run_folders.py owns the run folders, loop.py runs the threads, sinks take the outputs, record.py says what run.json has.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.batch_size import chosen_batch_size
from panbench.evaluation.fits import check_fits, with_model_categories
from panbench.evaluation.keeper import keeper_of
from panbench.evaluation.loop import Loop
from panbench.evaluation.options import DEFAULTS, EvaluateOptions, Evaluation, Joined, with_all_studies
from panbench.evaluation.plan import plan_batches
from panbench.evaluation.record import first_record, resume_settings
from panbench.evaluation.run_folders import RunFolders
from panbench.evaluation.score_sink import ScoreSink
from panbench.evaluation.shown import as_shown, run_further, with_those_beside
from panbench.evaluation.sinks import Sink
from panbench.models.model import Model
from panbench.models.rules import Rule
from panbench.runs import ImagesRecord, Run, RunInfo, RunWriter

__all__ = ["evaluate", "evaluate_rules"]


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
    dataset = with_model_categories(dataset, model)
    model = as_shown(model, dataset, options)
    folders = {model.rule: Path(out)}
    run, *_ = evaluate_rules(model, dataset, with_those_beside(model, folders, options), options, reporter)
    run_further(model, dataset, folders, options, reporter)
    return run


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
    dataset = with_model_categories(dataset, model)
    check_fits(model, dataset, folders, options)
    evaluation = Evaluation(model, dataset, options, reporter)
    joined = [study.join(evaluation) for study in with_all_studies(options.studies)]
    settings = {rule: resume_settings(model, dataset, options, rule, joined) for rule in folders}
    runs = RunFolders(folders, settings, options, reporter)
    size = chosen_batch_size(runs.batch_size, model, dataset, options, reporter)
    plan = plan_batches(dataset.scenes, size, model)
    scenes = dataset.scenes
    if options.shard is not None:
        plan = plan.share(options.shard.number - 1, options.shard.of)
        scenes = [scene for batch in plan for scene in batch]
    runs.look(model, dataset, scenes)
    if not runs.unfinished:
        return runs.all()

    def new_record(rule: Rule) -> RunInfo:
        record = first_record(model, dataset, {**settings[rule], "batch_size": size}, options.command, rule)
        further = {name: value for each in joined for name, value in each.record.items()}
        whole = None if options.shard is None else len(dataset.scenes)
        return replace(record, images=ImagesRecord(expected=len(scenes), whole=whole), **further)

    with runs.writing(new_record) as writers:
        ids = model.category_ids(dataset.categories)
        scores = [
            ScoreSink(writer, model, rule, ids, keep_maps=options.save_predictions)
            for writer, rule in zip(writers, runs.unfinished, strict=True)
        ]
        sinks = [*scores, *_other_sinks(evaluation, joined, writers)]
        done = frozenset.intersection(*(frozenset(sink.done) for sink in sinks))
        runs.run(Loop(model, sinks, options, reporter, len(scenes)), plan.without(done), scores)
    return runs.all()


def _other_sinks(evaluation: Evaluation, joined: Sequence[Joined], writers: Sequence[RunWriter]) -> list[Sink]:
    kept: list[Sink] = [keeper_of(evaluation, writers[0].path)] if evaluation.options.keep_candidates else []
    return kept + [each.sink(writers) for each in joined if each.sink is not None]
