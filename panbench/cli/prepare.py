"""What `panbench eval` does before PyTorch is loaded: finds models, data and folders, refuses, and may ask."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from panbench.base.computing import refuse_device, split_precision
from panbench.base.errors import BadArgument, BadModel, PanbenchError, refuse_overwrite_and_resume
from panbench.base.shards import parse_shard, refuse_ranks
from panbench.catalog import (
    ModelSpec,
    check_checkpoint,
    choose_models,
    is_shipped,
    random_seed,
    resolve_models,
    split_names,
    split_rules,
    weights_named,
    with_categories,
)
from panbench.cli import console
from panbench.cli.command import may_download
from panbench.cli.eval_request import EvalRequest
from panbench.cli.request import default_data, leave_out_others, missing_for
from panbench.datasets import Dataset, open_dataset, split_of, without_split
from panbench.datasets.convert import shipped_categories
from panbench.evaluation.options import EvaluateOptions, StudyOptions
from panbench.models.labels import labels_of, match_categories, refuse_other_names
from panbench.models.unopened import stated_names
from panbench.panoptic.image_ids import typed
from panbench.weights import fetch_weights

if TYPE_CHECKING:
    from panbench.evaluation.several import Opening
    from panbench.panoptic.types import Category
    from panbench.runs.sharded import Spread

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """An evaluation that is ready to run.

    rules: as `--rule` names them; folders: those of `run_folders`
    is_timed_only: photographs without ground truth, of which nothing is scored
    spread: what makes the shards, if not this process
    """

    specs: Sequence[ModelSpec]
    dataset: Dataset
    folders: Sequence[Path]
    rules: Sequence[str]
    opening: "Opening"
    options: EvaluateOptions
    is_timed_only: bool
    spread: "Spread | None" = None


def prepare(request: EvalRequest, studies: tuple[StudyOptions, ...]) -> Prepared:
    """All that is known of an evaluation without PyTorch; on a terminal it asks, once, about downloads.

    Raises PanbenchError for all that can be refused without it.
    """
    _refuse_contradictions(request)
    spread = _spread(request, studies)
    specs = choose_models(request.model or [], request.config, request.checkpoint, request.things)
    check_checkpoint(request.checkpoint)
    rules = [] if request.rule is None else split_rules(request.rule)
    options = _options(request, studies)
    specs, data = _with_data(request, specs)
    for study in studies:
        study.check_models(specs)

    def check(categories: "Sequence[Category]") -> None:
        if not any(study.maps_categories for study in studies):
            _refuse_other_categories(request, specs, categories)

    if data == "coco":
        # Before a download is offered that is of no use.
        check(shipped_categories("coco"))
    dataset, download = _opened(request, specs, data, check)
    for study in studies:
        study.check(dataset)
    check(dataset.categories)

    specs = [with_categories(spec, dataset.categories) for spec in specs]

    # Imported late, for it brings pandas: what is refused above is refused at once.
    from panbench.evaluation.several import Opening, run_folders

    folders = run_folders(
        specs,
        dataset.name,
        request.out,
        rules=[] if rules == ["paper"] else rules,
        shard=options.shard,
        keep=not (request.overwrite or request.resume),
    )
    options = replace(options, save_predictions=_keeps_predictions(request, dataset, folders))
    precision, compiled = split_precision(request.precision)
    opening = Opening(
        weights=weights_named(request.checkpoint),
        device=request.device,
        precision=precision,
        seed=random_seed(request.checkpoint) or 0,
        compiled=compiled,
        download=download,
    )
    return Prepared(specs, dataset, folders, rules, opening, options, _is_timed_only(request), spread)


_MOST_KEPT_UNASKED = 10_000
"""Predictions of so many images at most are kept without being asked for: 0.1 GB, at COCO's 10 kB a PNG."""


def _keeps_predictions(request: EvalRequest, dataset: Dataset, folders: Sequence[Path]) -> bool:
    """Whether predictions are kept: as asked, on resuming as before, else of what is small and no part of a whole."""
    from panbench.evaluation.prediction_names import shared_name
    from panbench.runs import load_run

    if request.save_predictions is not None:
        return request.save_predictions
    if request.resume:
        for folder in folders:
            if (folder / "run.json").exists():
                return bool(load_run(folder).info.arguments.get("save_predictions"))
    is_part = _limit(request.limit)[1] is not None
    few = 0 < len(dataset.scenes) <= _MOST_KEPT_UNASKED
    return few and dataset.has_ground_truth and not is_part and shared_name(dataset) is None


def _is_timed_only(request: EvalRequest) -> bool:
    return request.images is not None and request.gt is None


def _options(request: EvalRequest, studies: tuple[StudyOptions, ...]) -> EvaluateOptions:
    options = EvaluateOptions(
        batch_size=None if request.batch_size is None else _batch_size(request.batch_size),
        shard=None if request.shard is None else parse_shard(request.shard),
        overwrite=request.overwrite,
        resume=request.resume,
        save_predictions=bool(request.save_predictions),
        unscored=_is_timed_only(request),
        skip_bad_images=request.skip_bad_images,
        command=("panbench", *sys.argv[1:]),
        studies=studies,
    )
    for study in studies:
        options = study.settled(options)
    return options


def _refuse_contradictions(request: EvalRequest) -> None:
    refuse_ranks("eval")
    refuse_device(request.device)
    refuse_overwrite_and_resume(request.overwrite, request.resume)
    if request.shard is not None and _is_timed_only(request):
        raise BadArgument("Without --gt the model is only timed, which shards cannot be. Leave --shard out.")
    if request.gpus is not None and request.device not in ("auto", "cuda"):
        raise BadArgument(f"--gpus shares out to GPUs, and --device is {request.device}. Leave one out.")


def _spread(request: EvalRequest, studies: Sequence[StudyOptions]) -> "Spread | None":
    """What makes the shards of the evaluation, where it is not this process. Raises BadArgument for what has none."""
    spreads = [spread for study in studies if (spread := study.spread()) is not None]
    if request.gpus is not None:
        from panbench.evaluation.sharded import cards_of, run_on_cards

        spreads.append(lambda work, reporter: run_on_cards(work, reporter, cards_of(request.gpus or 1)))
    if not spreads:
        return None
    if len(spreads) > 1 or request.shard is not None:
        raise BadArgument("--shard, --gpus and --engine each share out the images. Give one of them.")
    if _is_timed_only(request):
        raise BadArgument("Without --gt the model is only timed, which shards cannot be. Leave --gpus or --engine out.")
    if any(study.further_runs for study in studies):
        raise BadArgument("Further runs, as of --corrupt, --layers and --size, are not shared out: give --shard I/N.")
    return spreads[0]


def _with_data(request: EvalRequest, specs: list[ModelSpec]) -> tuple[list[ModelSpec], str | None]:
    """The models, without those of a pattern that are of other data, and the name of the dataset; None for files."""
    if request.images is not None or request.gt is not None:
        return specs, None
    names = request.model or []
    chosen = None if request.data is None else without_split(request.data)
    if chosen is None:
        # Other weights than the config's do not change what its model is for.
        known = specs if request.config is not None or not names else resolve_models(split_names(names))
        return specs, default_data(known)
    specs, others = leave_out_others(specs, names, chosen)
    if others:
        console.note(f"Left out, as trained on other data than {chosen}: {', '.join(o.name for o in others)}.")
    return specs, chosen


def _opened(
    request: EvalRequest,
    specs: Sequence[ModelSpec],
    data: str | None,
    check: "Callable[[Sequence[Category]], None]",
) -> tuple[Dataset, bool]:
    """The dataset, and whether missing files may be downloaded.

    check: refuses categories that the models do not have
    """
    limit, ids = _limit(request.limit)
    split = split_of(request.data)
    gt, gt_dir = _ground_truth(request.gt)

    def opened(download: bool) -> Dataset:
        if _is_timed_only(request) and request.images is not None:
            from panbench.evaluation.tools.photographs import photograph_dataset

            return photograph_dataset([request.images], (), limit=limit, exif=request.exif.choice)
        with console.Bars() as bars:
            return open_dataset(
                data,
                images=request.images,
                gt=gt,
                gt_dir=gt_dir,
                split=split,
                limit=limit,
                image_ids=ids,
                exif=request.exif.choice,
                download=download,
                reporter=bars,
            )

    missing = missing_for(
        specs, weights=weights_named(request.checkpoint), data=data, split=split, limit=limit, image_ids=ids
    )
    dataset: Dataset | None = None
    if missing.data is None and not (data or "").startswith("shapes"):
        # Faults of one's own data are reported before a question about downloads.
        dataset = opened(request.download)
        check(dataset.categories)
    download = may_download(missing, request.download)
    if download:
        _fetch_weights(specs, missing.weights)
    return dataset or opened(download), download


def _ground_truth(given: Path | None) -> tuple[Path | None, Path | None]:
    """The JSON and the folder of id PNGs that `--gt FILE[,DIR]` names; None for the folder beside the JSON."""
    file, comma, folder = str(given or "").rpartition(".json,")
    return (Path(f"{file}.json"), Path(folder)) if comma and folder else (given, None)


def _fetch_weights(specs: Sequence[ModelSpec], absent: Sequence[ModelSpec]) -> None:
    """Fetches weights before data, which is larger: a host that does not answer is known within seconds.

    What fails here is reported again when the model is opened. Raises PanbenchError where no model is left to run.
    """
    failures = []
    for spec in absent:
        try:
            with console.Bars() as bars:
                fetch_weights(spec, reporter=bars)
        except PanbenchError as error:
            failures.append(error)
    if failures and len(failures) == len(specs):
        raise failures[0]


def _refuse_other_categories(
    request: EvalRequest, specs: Sequence[ModelSpec], categories: "Sequence[Category]"
) -> None:
    """Raises BadModel for models whose categories are known before they are opened, and are not the dataset's."""
    if not categories:
        return
    other_weights = request.checkpoint is not None and random_seed(request.checkpoint) is None
    misfits = []
    for spec in specs:
        labels = labels_of(spec.trained_on) if is_shipped(spec) and not (other_weights or request.things) else None
        names = stated_names(spec)
        try:
            if labels is not None:
                match_categories(spec.title, *labels, categories)
            elif names is not None:
                refuse_other_names(spec.title, names, categories)
        except BadModel as error:
            misfits.append(str(error))
    if misfits:
        raise BadModel(" ".join(misfits))


def _limit(text: str | None) -> tuple[int | None, list[int] | None]:
    """How many images `--limit` takes, or which: `20`; `139,285`; `@FILE` with ids apart by commas, spaces or lines."""
    if text is None:
        return None, None
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text), None
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(f"--limit {text}: the file cannot be read ({error}).") from None
    elif "," not in text:
        raise BadArgument(
            f"--limit is {text!r}; give a number of images, ids such as 139,285, or @FILE with one a line."
        )
    words = text.replace(",", " ").split()
    if not words:
        raise BadArgument("--limit: there are no ids. Give some such as 139,285, or @FILE with one per line.")
    return None, [typed(word) for word in words]


def _batch_size(text: str) -> "int | Literal['auto']":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadArgument(f"--batch-size is {text!r} but must be a whole number above 0, or auto.")
    return int(text)
