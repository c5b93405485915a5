"""Evaluates one model on one dataset into a run folder: images → model → fusion → overlap tables.

loop.py runs the threads, record.py says what run.json holds.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from panbench.base.download import require_space
from panbench.base.errors import BadArgument, BadDataset, BadRun, PanbenchError, Terminated
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import in_sentence, listed
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap, read_category_map
from panbench.datasets.instances import InstanceSet, read_instances
from panbench.evaluation.distributed import join_ranks
from panbench.evaluation.listeners import Listener
from panbench.evaluation.loop import Loop, Target, best_batch_size, plan_batches, png_name, worker_threads
from panbench.evaluation.options import DEFAULTS, EvaluateOptions
from panbench.evaluation.record import changed_files, close_run, first_record, refuse_other_settings, resume_settings
from panbench.models.candidates import Candidates, FinishedMap, NonFiniteOutput
from panbench.models.keeping import CandidateKeeper
from panbench.models.model import Model, way_of_running
from panbench.models.opening import open_model
from panbench.models.predict import CategoryIds, category_ids, labels_as_categories, model_categories
from panbench.models.rules import RULES, Rule
from panbench.models.rules.base import rule_takes
from panbench.models.stored import encode
from panbench.runs import CANDIDATES, PREDICTIONS, Run, RunWriter, load_run, unfinished_run, write_predictions_json
from panbench.studies.unfused.measuring import Measurer

__all__ = [
    "evaluate",
    "evaluate_rules",
    "fit_categories",
    "open_dataset_once",
    "open_model_once",
    "refuse_without_purpose",
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
    reporter: hears of images scored (the task is the model's title) and, in sentences, of what was skipped or chosen
    Raises PanbenchError for bad input; what was written until then stays, and `options.resume` goes on from it.
    """
    return evaluate_rules(model, dataset, {model.rule: Path(out)}, options, reporter)[0]


def evaluate_rules(
    model: Model,
    dataset: Dataset,
    folders: Mapping[Rule, Path],
    options: EvaluateOptions = DEFAULTS,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """Evaluates a model once and fuses what it says by several rules, each into a run of its own; the runs in order.

    folders: the run folder of each rule; other arguments and errors as of `evaluate`
    A run that is complete already is left alone when `options.resume` is set, and the others go on.
    """
    batch_size = options.batch_size
    if batch_size is not None and batch_size != "auto" and batch_size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {batch_size}.")
    if not dataset.categories:
        dataset = replace(dataset, categories=model_categories(model))
    refuse_without_purpose(dataset, options.save_predictions or options.unscored)
    for rule in folders:
        refuse_unfit(rule, model)
    refuse_unmeasured(model, dataset, options)
    ranks = join_ranks()
    reporter = reporter if ranks.is_first else SILENT
    ids, mapping = fit_categories(model, dataset, options.category_map)
    for sentence in mapping.sentences if mapping else ():
        reporter.notice(sentence)
    truth = instances_of(dataset, options)
    settings = {rule: resume_settings(model, dataset, mapping, options, rule, truth) for rule in folders}
    # Only rank 0 looks: a later look on another rank could see the run that rank 0 has just created.
    there = ranks.broadcast([options.resume and unfinished_run(out) is not None for out in folders.values()])
    found = {rule: unfinished_run(out) for (rule, out), exists in zip(folders.items(), there, strict=True) if exists}
    previous = {rule: run for rule, run in found.items() if run is not None}
    complete = set()
    for rule, run in previous.items():
        refuse_other_settings(run, settings[rule], batch_size)
        for sentence in run.faults:
            reporter.notice(sentence)
        changed = ranks.broadcast(changed_files(run, dataset) if ranks.is_first else None)
        sentence = f"{len(changed):,} files changed since {run.path} read them: {listed(changed, most=5)}."
        if changed and run.info.status != "done":
            raise BadRun(f"{sentence} Restore them, or evaluate all images again with --overwrite.")
        if changed:
            reporter.notice(sentence)
        # A complete run beside its place was about to take it when it was killed.
        if run.info.status == "done" and not run.faults and run.path == folders[rule]:
            lacking = ranks.broadcast(_unreadable(run, model, dataset) if ranks.is_first else None)
            if lacking is not None:
                but = f" but for {lacking} images that still cannot be read" if lacking else ""
                reporter.notice(f"{folders[rule]} is complete already{but}.")
                complete.add(rule)
    unfinished = {rule: out for rule, out in folders.items() if rule not in complete}
    if not unfinished:
        return list(previous.values())
    for run in previous.values():
        batch_size = run.info.batch_size or batch_size
    if batch_size is None:
        batch_size = 1 if model.device.type == "cpu" else "auto"
    if batch_size == "auto":
        batch_size = int(ranks.broadcast(best_batch_size(model, dataset, reporter) if ranks.is_first else None))

    def open_writer(rule: Rule, out: Path) -> RunWriter:
        if rule in previous:
            return RunWriter.resume(out)
        arguments = {**settings[rule], "batch_size": batch_size}
        info = first_record(model, dataset, arguments, options.command, mapping, rule)
        return RunWriter.create(out, info, overwrite=options.overwrite)

    writers: list[RunWriter] = []
    loop: Loop | None = None
    try:
        if ranks.is_first:
            for rule, out in unfinished.items():
                writers.append(open_writer(rule, out))
        ranks.broadcast("The run folders exist.")
        writers = writers or [RunWriter.attach(out) for out in unfinished.values()]
        for sentence in (sentence for writer in writers for sentence in writer.notices):
            reporter.notice(sentence)
        listeners: list[Listener] = []
        if options.keep_candidates:
            listeners.append(_keeper(model, dataset, writers[0].path, options, ranks.rank, reporter))
        if options.metrics != ("pq",):
            labels = (
                mapping.ids
                if mapping is not None
                else dict(ids.items() if isinstance(ids, Mapping) else enumerate(ids))
            )
            listeners.append(Measurer(options.metrics, dataset, labels, writers, truth=truth, rank=ranks.rank))
        done = frozenset.intersection(*(writer.done for writer in writers), *(each.done for each in listeners))
        plan = [
            [scene for scene in batch if scene.image.id not in done]
            for batch in plan_batches(dataset.scenes, batch_size, model)[ranks.rank :: ranks.size]
        ]
        loop = Loop(
            model=model,
            category_ids=ids,
            category_map=mapping,
            targets=[
                Target(writer, rule, writer.path / PREDICTIONS if options.save_predictions else None)
                for writer, rule in zip(writers, unfinished, strict=True)
            ],
            rank=ranks.rank,
            expected=len(dataset.scenes) if ranks.size == 1 else len(done) + sum(map(len, plan)),
            skip_bad_images=options.skip_bad_images,
            workers=worker_threads(options.workers, ranks.size),
            reporter=reporter,
            listeners=listeners,
        )
        loop.run([batch for batch in plan if batch])
        reports = ranks.gather(loop.report())
        if ranks.is_first:
            for target, writer in enumerate(writers):
                if options.save_predictions:
                    names = {scene.image.id: png_name(scene) for scene in dataset.scenes}
                    write_predictions_json(Run(writer.info, writer.path), names)
                close_run(writer, dataset, reports, target, reporter, "done", None)
            for sentence in (sentence for listener in listeners for sentence in listener.notices):
                reporter.notice(sentence)
    except BaseException as error:
        if ranks.is_first:
            left = _closed_early(writers, dataset, loop, reporter, error)
            if isinstance(error, PanbenchError) and any(run.info.images.scored for run in left):
                stays = in_sentence(unfinished.values())
                error.args = (f"{error} What was scored stays in {stays}; the same command with --resume goes on.",)
        raise
    ranks.broadcast("The runs are closed.")
    return [load_run(out) for out in folders.values()]


def _unreadable(run: Run, model: Model, dataset: Dataset) -> int | None:
    """How many images a finished run had to skip; None when one of them can be read by now, so that it is scored."""
    held = frozenset(run.images.tolist())
    lacking = [scene for scene in dataset.scenes if scene.image.id not in held]
    for scene in lacking:
        with contextlib.suppress(BadDataset):
            model.load(scene)
            return None
    return len(lacking)


def _closed_early(
    writers: Sequence[RunWriter], dataset: Dataset, loop: Loop | None, reporter: Reporter, error: BaseException
) -> list[Run]:
    """The runs that an error ends, with their last status; loop: None when the error came before its first image."""
    left = []
    status, reason = _how_it_ended(error)
    for target, writer in enumerate(writers):
        if writer.info.status == "done":
            continue
        # What ended the run is told even when nothing more can be written.
        with contextlib.suppress(PanbenchError, OSError):
            left.append(
                writer.finish(status, error=reason)
                if loop is None
                else close_run(writer, dataset, [loop.report()], target, reporter, status, reason)
            )
    return left


def refuse_unfit(rule: Rule, model: Model) -> None:
    """Raises BadArgument, before anything is written, for a rule that does not take what the model gives."""
    if rule.takes is not model.rule.takes:
        fitting = [name for name, kind in RULES.items() if kind.takes is model.rule.takes]
        raise BadArgument(
            f"The rule {rule.name} takes {rule_takes(rule)}, and {model.spec.title} gives {rule_takes(model.rule)}. "
            f"Rules that fit it: {', '.join(fitting)}."
        )


def refuse_unmeasured(model: Model, dataset: Dataset, options: EvaluateOptions) -> None:
    """Raises BadArgument, before anything is written, for metrics that this model or dataset does not have."""
    if options.metrics == ("pq",):
        if options.ap_gt is not None:
            raise BadArgument("--ap-gt is the ground truth of AP. Add --metrics pq,ap.")
        return
    if options.ap_gt is not None and "ap" not in options.metrics:
        raise BadArgument("--ap-gt is the ground truth of AP. Add ap to --metrics.")
    if not dataset.has_ground_truth:
        raise BadArgument("--metrics ap and miou need ground truth, and this dataset lists images without it.")
    if model.rule.takes is FinishedMap:
        raise BadArgument(
            f"{model.spec.title} gives finished id maps: there is nothing before fusion to measure. Leave --metrics "
            "out; `panbench score --ap` has the AP of its maps."
        )
    # Whether an adapter gives class scores is seen when it answers; what cannot be read is the run's to say.
    with contextlib.suppress(BadDataset, NonFiniteOutput):
        (output,) = model.candidates([model.load(dataset.scenes[0])])
        if isinstance(output, Candidates) and output.class_scores is None:
            raise BadArgument(
                f"The adapter of {model.spec.title} gives no class scores (Candidates.class_scores), which --metrics "
                "ap and miou need. Leave --metrics out."
            )


def instances_of(dataset: Dataset, options: EvaluateOptions) -> InstanceSet | None:
    """The instances that `options.ap_gt` names. Raises BadDataset when they are not of this dataset."""
    if options.ap_gt is None:
        return None
    return read_instances(options.ap_gt, dataset.categories, [scene.image.id for scene in dataset.scenes])


def _keeper(
    model: Model, dataset: Dataset, run: Path, options: EvaluateOptions, rank: int, reporter: Reporter
) -> CandidateKeeper:
    """What stores the candidates of a run, with all that `panbench fuse` needs to know of the model.

    Says what they will take on disk, measured on three images. Raises OutOfSpace when that is not there.
    """
    record = model.describe()
    about = {
        "weights_sha256": record.weights_sha256,
        "class_names": list(model.class_names),
        "isthing": list(model.isthing),
        "precision": way_of_running(model)["precision"],
    }
    exact = not options.half_precision
    tried = dataset.scenes[:: max(1, len(dataset.scenes) // 3)][:3]
    outputs = [model.candidates([model.load(scene)])[0] for scene in tried]
    with torch.inference_mode():
        size = sum(encode(output, model.rule, exact=exact).size for output in outputs) // len(tried)
    needed = size * len(dataset.scenes)
    require_space(run, needed, "Keeping the candidates")
    reporter.notice(
        f"Candidates take about {size / 1e6:.2f} MB an image (measured on {len(tried)}), {needed / 1e6:,.0f} MB for "
        f"{len(dataset.scenes):,} images."
    )
    return CandidateKeeper(run / CANDIDATES, model.rule, about, rank=rank, exact=exact)


def fit_categories(
    model: Model, dataset: Dataset, category_map: str | os.PathLike[str] | CategoryMap | None
) -> tuple[CategoryIds, CategoryMap | None]:
    """The dataset's category of each label, and the map by which they are told, where one is asked for.

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
    if save_predictions:
        _refuse_shared_names(dataset)
    if not dataset.has_ground_truth and not save_predictions:
        raise BadArgument(
            f"{dataset.gt} lists images without ground truth, so there is nothing to score. Add --save-predictions to "
            "keep what the model predicts, for `panbench submit`."
        )


def _refuse_shared_names(dataset: Dataset) -> None:
    """Raises BadDataset when the predictions of two images would be one PNG, as of 1.jpg and 1.png."""
    taken: dict[str, int] = {}
    for scene in dataset.scenes:
        other = taken.setdefault(png_name(scene), scene.image.id)
        if other != scene.image.id:
            raise BadDataset(
                f"The predictions of images {other} and {scene.image.id} would both be {png_name(scene)}. Rename "
                "one of the images, or evaluate without --save-predictions."
            )


def open_dataset_once(open_dataset: Callable[[], Dataset]) -> Dataset:
    """What `open_dataset` returns; of several ranks the first calls it before the others, since it may download."""
    return join_ranks().first_alone(open_dataset)


def open_model_once(
    spec: ModelSpec,
    *,
    weights: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    compiled: bool = False,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> Model:
    """`open_model` on this rank's own device; of several ranks the first opens it before the others download."""
    ranks = join_ranks()

    def opened() -> Model:
        return open_model(
            spec,
            weights=weights,
            device=ranks.device(device),
            precision=precision,
            seed=seed,
            compiled=compiled,
            download=download,
            reporter=reporter if ranks.is_first else SILENT,
        )

    return ranks.first_alone(opened) if weights == "auto" and download else opened()


def _how_it_ended(error: BaseException) -> tuple[str, str]:
    """The status and the reason of a run that an error ends, for run.json."""
    if isinstance(error, Terminated):
        return "interrupted", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Interrupted from the keyboard."
    return "failed", str(error) if isinstance(error, PanbenchError) else repr(error)


def _category_map(source: str | os.PathLike[str] | CategoryMap, model: Model, dataset: Dataset) -> CategoryMap:
    if isinstance(source, CategoryMap):
        return source
    return read_category_map(source, labels_as_categories(model), dataset.categories)
