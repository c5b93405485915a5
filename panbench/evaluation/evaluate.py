"""Evaluates one model on one dataset into a run folder: images → model → fusion → overlap tables.

loop.py runs the threads, record.py says what run.json holds.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from panbench.base.errors import BadArgument, PanbenchError
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap, read_category_map
from panbench.evaluation.distributed import join_ranks
from panbench.evaluation.loop import Loop, Notice, Progress, best_batch_size, plan_batches
from panbench.evaluation.record import (
    close_run,
    first_record,
    map_settings,
    refuse_other_settings,
    resume_settings,
    write_predictions_json,
)
from panbench.models.checkpoints import fetch_weights
from panbench.models.mmdet.model import PanopticModel, choose_device, load_model
from panbench.panoptic.types import Category
from panbench.runs import Run, RunWriter, load_run


def evaluate(
    spec: ModelSpec,
    dataset: Dataset,
    *,
    out: Path,
    weights: str = "auto",
    device: str = "auto",
    batch_size: int | Literal["auto"] | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    save_predictions: bool = False,
    skip_bad_images: bool = False,
    seed: int = 0,
    workers: int | None = None,
    download: bool = False,
    category_map: str | os.PathLike[str] | None = None,
    command: Sequence[str] = (),
    model: PanopticModel | None = None,
    progress: Progress | None = None,
    downloaded: Callable[[int, int | None], None] | None = None,
    notice: Notice | None = None,
) -> Run:
    """Evaluates a model on a dataset into the run folder `out`, and returns the run.

    dataset: one without ground truth needs `save_predictions`; nothing of it is scored
    weights: "auto" (the config's), "random" (drawn from `seed`), or a path
    batch_size: None is 1 on a CPU and "auto" elsewhere; "auto" tries sizes on the first image
    compiled: lets torch.compile compile the backbone, which takes a minute and pays on long runs
    resume: goes on with the run in `out`, which must have been made with the same settings
    skip_bad_images: leaves out images that do not decode, instead of stopping; the run says so
    workers: threads that load, and as many that score; by default as many as cores, at most 8
    download: fetch the config's weights when they are a URL and not here; otherwise the error says how
    category_map: a JSON, or the name of a shipped one, by which a model of other categories is evaluated
    model: one that is loaded already, of this spec, device and precision; by default it is built here
    progress: called with (images scored, images expected); downloaded: with (bytes, bytes in all or None)
    notice: called with sentences for the user
    Raises PanbenchError for bad input; what was written until then stays, and `resume` goes on from it.
    """
    if batch_size is not None and batch_size != "auto" and batch_size < 1:
        raise BadArgument(f"--batch-size must be at least 1, not {batch_size}.")
    refuse_aimless(dataset, save_predictions)
    ranks = join_ranks()
    tell = notice if notice and ranks.is_first else _say_nothing
    chosen = choose_device(ranks.device(device))
    if model is None:
        # The first rank fetches, so that the others find the weights in the cache.
        path = ranks.told(_weights_file(spec, weights, download, downloaded) if ranks.is_first else None)
        model = load_model(spec, path, device=chosen, precision=precision, seed=seed, compiled=compiled)
    mapping = None if category_map is None else _category_map(category_map, model, dataset)
    # Labels stand for themselves until the map has turned them into the dataset's categories.
    category_ids = model.category_ids(dataset.categories) if mapping is None else tuple(range(model.num_classes))
    for sentence in mapping.sentences if mapping else ():
        tell(sentence)
    settings = {
        **resume_settings(model, dataset),
        **map_settings(mapping),
        "precision": precision,
        "compiled": compiled,
        "seed": seed,
        "skip_bad_images": skip_bad_images,
        "save_predictions": save_predictions,
    }
    # The first rank looks for all: a later look of another could meet the run that the first has just begun.
    previous = load_run(out) if ranks.told(resume and (out / "run.json").exists()) else None
    if previous is not None:
        refuse_other_settings(previous, settings, batch_size)
        if previous.info["status"] == "done":
            tell(f"{out} is complete already.")
            return previous
        batch_size = previous.info["arguments"]["batch_size"]
    if batch_size is None:
        batch_size = 1 if chosen.type == "cpu" else "auto"
    if batch_size == "auto":
        batch_size = int(ranks.told(best_batch_size(model, dataset, tell) if ranks.is_first else None))

    def open_writer() -> RunWriter:
        if previous is not None:
            return RunWriter.resume(out)
        info = first_record(model, dataset, {**settings, "batch_size": batch_size}, command, precision, seed, mapping)
        return RunWriter.create(out, info, overwrite=overwrite)

    writer = open_writer() if ranks.is_first else None
    ranks.told("the run folder is there")
    writer = writer or RunWriter.attach(out)
    for sentence in writer.notices:
        tell(sentence)
    plan = [
        [scene for scene in batch if scene.image.id not in writer.done]
        for batch in plan_batches(dataset.scenes, batch_size)[ranks.rank :: ranks.size]
    ]
    loop = Loop(
        model=model,
        category_ids=category_ids,
        category_map=mapping,
        writer=writer,
        rank=ranks.rank,
        expected=len(dataset.scenes) if ranks.size == 1 else len(writer.done) + sum(map(len, plan)),
        folder=out / "predictions" if save_predictions else None,
        skip_bad_images=skip_bad_images,
        workers=workers or max(1, min(8, (os.cpu_count() or 1) // ranks.size)),
        progress=progress if ranks.is_first else None,
        notice=tell,
    )
    try:
        loop.run([batch for batch in plan if batch])
        reports = ranks.heard(loop.report())
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "Interrupted from the keyboard." if interrupted else str(error) if _is_ours(error) else repr(error)
        if ranks.is_first:
            status = "interrupted" if interrupted else "failed"
            left = close_run(writer, dataset, [loop.report()], tell, status, reason)
            if _is_ours(error) and left.info["images"]["scored"]:
                error.args = (f"{error} What was scored stays in {out}; the same command with --resume goes on.",)
        raise
    if ranks.is_first:
        if save_predictions:
            write_predictions_json(Run(writer.info, writer.path), dataset)
        close_run(writer, dataset, reports, tell, "done", None)
    ranks.told("the run is closed")
    return load_run(out)


def refuse_aimless(dataset: Dataset, save_predictions: bool) -> None:
    """Raises BadArgument for an evaluation of which nothing would come: no ground truth, and no predictions kept."""
    if not dataset.has_ground_truth and not save_predictions:
        raise BadArgument(
            f"{dataset.gt} lists images without ground truth, so there is nothing to score. Add --save-predictions to "
            "keep what the model predicts, for `panbench submit`."
        )


def open_in_turn(open_dataset: Callable[[], Dataset]) -> Dataset:
    """What `open_dataset` returns, called by the first rank before the others: it may fetch, they find the files."""
    ranks = join_ranks()
    if not ranks.is_first:
        ranks.told(None)
        return open_dataset()
    dataset = open_dataset()
    ranks.told("the files are there")
    return dataset


def _weights_file(
    spec: ModelSpec, weights: str, download: bool, downloaded: Callable[[int, int | None], None] | None
) -> str | None:
    if weights == "random":
        return None
    if weights == "auto":
        return str(fetch_weights(spec, progress=downloaded, offline=not download))
    return str(Path(weights).expanduser())


def _category_map(source: str | os.PathLike[str], model: PanopticModel, dataset: Dataset) -> CategoryMap:
    labels = [Category(label, name, label < model.num_things) for label, name in enumerate(model.class_names)]
    return read_category_map(source, labels, dataset.categories)


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, PanbenchError)


def _say_nothing(sentence: str) -> None:
    """Takes the place of a notice that nobody asked for."""
