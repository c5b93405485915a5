"""Evaluates one model on one dataset into a run folder: images → model → fusion → overlap tables.

run_folders.py owns the run folders, loop.py runs the threads, sinks take the outputs, record.py fills run.json.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.loop import Loop
from panbench.evaluation.options import DEFAULTS, EvaluateOptions, Evaluation, with_all_study_options
from panbench.evaluation.plan import chosen_batch_size, plan_batches, without_finished_images
from panbench.evaluation.record import first_record, resume_settings
from panbench.evaluation.run_folders import RunFolders
from panbench.evaluation.sinks import CandidateSink, ScoreSink, Sink
from panbench.evaluation.wrapping import check_fits, with_model_categories, wrap_model
from panbench.models.model import Model
from panbench.models.rules import Rule
from panbench.runs import ImagesRecord, Run, RunInfo


def evaluate(
    model: Model,
    dataset: Dataset,
    out: str | os.PathLike[str],
    options: EvaluateOptions = DEFAULTS,
    reporter: Reporter = SILENT,
) -> Run:
    """Evaluates a model on a dataset into the run folder `out`, and returns the run.

    dataset: without ground truth it is not scored, and needs `options.save_predictions` or `unscored`; without
        categories (photographs) it gets the model's
    reporter: gets progress (the task is the model's title), and notices of what was skipped or chosen
    Raises PanbenchError for bad input; what was written until then stays, and `options.resume` resumes it.
    """
    dataset = with_model_categories(dataset, model)
    model = wrap_model(model, dataset, options)
    return evaluate_with_study_runs(model, dataset, {model.rule: Path(out)}, options, reporter)[0]


def evaluate_with_study_runs(
    model: Model, dataset: Dataset, folders: Mapping[Rule, Path], options: EvaluateOptions, reporter: Reporter
) -> list[Run]:
    """Evaluates a model by several fusion rules, and makes the extra runs that the chosen studies ask for.

    Those of earlier decoder layers share the forward pass (`StudyOptions.beside`); others, such as on corrupted images,
    follow after it (`run_further`).

    model: from `wrap_model`. Returns the runs of `folders` in order, then the extra runs of the pass.
    """
    extra_runs = [study.beside(model, folders, options) for study in options.studies]
    in_one_pass = {**folders, **{rule: folder for each in extra_runs for rule, folder in each.items()}}
    runs = evaluate_rules(model, dataset, in_one_pass, options, reporter)
    for study in options.studies:
        study.run_further(model, dataset, folders, options, reporter)
    return runs


def evaluate_rules(
    model: Model,
    dataset: Dataset,
    folders: Mapping[Rule, Path],
    options: EvaluateOptions = DEFAULTS,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """Runs a model once and fuses its outputs by several rules, each into a separate run; returns the runs in order.

    folders: the run folder of each rule; other arguments and errors as in `evaluate`. Does not wrap the model or make
    further runs: see `wrap_model`, `evaluate_with_study_runs`.
    With `options.resume`, complete runs are left alone and the others are resumed.
    """
    dataset = with_model_categories(dataset, model)
    check_fits(model, dataset, folders, options)
    evaluation = Evaluation(model, dataset, options, reporter)
    joined = [study.join(evaluation) for study in with_all_study_options(options.studies)]
    settings = {rule: resume_settings(model, dataset, options, rule, joined) for rule in folders}
    runs = RunFolders(folders, settings, options, reporter)
    size = chosen_batch_size(runs.batch_size, model, dataset, options, reporter)
    plan = plan_batches(dataset.scenes, size, model)
    scenes = dataset.scenes
    if options.shard is not None:
        plan = plan[options.shard.number - 1 :: options.shard.of]
        scenes = [scene for batch in plan for scene in batch]
    runs.find_unfinished(model, dataset, scenes)
    if not runs.unfinished:
        return runs.all()

    def new_run_record(rule: Rule) -> RunInfo:
        record = first_record(model, dataset, {**settings[rule], "batch_size": size}, options.command, rule)
        further = {name: value for each in joined for name, value in each.record.items()}
        total = None if options.shard is None else len(dataset.scenes)
        return replace(record, images=ImagesRecord(expected=len(scenes), whole=total), **further)

    with runs.writing(new_run_record) as writers:
        ids = model.category_ids(dataset.categories)
        scores = [
            ScoreSink(writer, model, rule, ids, keep_maps=options.save_predictions)
            for writer, rule in zip(writers, runs.unfinished, strict=True)
        ]
        sinks: list[Sink] = [*scores]
        if options.keep_candidates:
            sinks.append(CandidateSink.for_model(model, dataset, writers[0].path, options.half_precision, reporter))
        sinks += [each.sink(writers) for each in joined if each.sink is not None]
        done = frozenset.intersection(*(frozenset(sink.done) for sink in sinks))
        runs.run(Loop(model, sinks, options, reporter, len(scenes)), without_finished_images(plan, done), scores)
    return runs.all()
