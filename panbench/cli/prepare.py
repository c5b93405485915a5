"""Prepares `panbench eval` before PyTorch is loaded: models, data, folders, options; may ask about downloads."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from panbench.base.computing import refuse_device
from panbench.base.errors import BadArgument, BadModel, PanbenchError, refuse_overwrite_and_resume
from panbench.base.shards import parse_shard, refuse_ranks
from panbench.catalog import (
    ModelSpec,
    check_checkpoint,
    choose_models,
    is_shipped,
    random_seed,
    refuse_unfit_rules,
    resolve_models,
    split_names,
    split_rules,
    weights_named,
    with_categories,
)
from panbench.cli import console
from panbench.cli.command import may_download
from panbench.cli.eval_request import EvalRequest
from panbench.cli.request import default_data, find_missing_files, leave_out_others
from panbench.datasets import Dataset, FilesMissing, open_dataset, split_of, without_split
from panbench.datasets.convert import shipped_categories
from panbench.evaluation.options import EvaluateOptions, Opening, StudyOptions, computing_of
from panbench.models.labels import SETS, check_labels, labels_of, match_categories, refuse_other_names
from panbench.models.unopened import declared_names
from panbench.panoptic.image_ids import typed
from panbench.weights import fetch_weights

if TYPE_CHECKING:
    from panbench.evaluation.several import Prepared
    from panbench.panoptic.types import Category
    from panbench.runs.sharded import Sharding


def prepare(request: EvalRequest, studies: tuple[StudyOptions, ...]) -> "Prepared":
    """Checks and prepares an evaluation, as far as that needs no PyTorch; asks once before downloads.

    Raises PanbenchError for every problem that can be found without PyTorch.
    """
    _refuse_contradictions(request)
    computing = computing_of(request.precision, request.device, on_cards=request.gpus is not None)
    sharding = _sharding(request, studies)
    specs = choose_models(request.model or [], request.config, request.checkpoint, request.labels)
    check_checkpoint(request.checkpoint)
    for spec in specs if request.labels is not None else ():
        check_labels(spec.settings["labels"])
    rules = [] if request.rule is None else split_rules(request.rule)
    options = _evaluate_options(request, studies)
    specs, data = _choose_data(request, specs)
    refuse_unfit_rules(rules, specs)
    for study in studies:
        study.check_models(specs)

    def check_categories(categories: "Sequence[Category]") -> None:
        """Raises BadModel if models do not predict these categories of the dataset, unless a study maps them."""
        if not any(study.maps_categories for study in studies):
            _refuse_other_categories(request, specs, categories)

    if data == "coco":
        # Check before offering a useless download.
        check_categories(shipped_categories("coco"))
    dataset, download = _open_dataset(request, specs, data, check_categories)
    for study in studies:
        study.check(dataset)
    check_categories(dataset.categories)

    specs = [with_categories(spec, dataset.categories) for spec in specs]

    # Imported late, as it imports pandas: errors above are reported at once.
    from panbench.evaluation.several import Prepared, run_folders

    folders = run_folders(
        specs,
        dataset.name,
        request.out,
        rules=[] if rules == ["paper"] else rules,
        shard=options.shard,
        keep=not (request.overwrite or request.resume),
    )
    options = replace(options, save_predictions=_keeps_predictions(request, dataset, folders))
    opening = Opening(
        weights=weights_named(request.checkpoint),
        seed=random_seed(request.checkpoint) or 0,
        download=download,
        **computing,
    )
    return Prepared(specs, dataset, folders, opening, options, rules, sharding)


_MOST_KEPT_UNASKED = 10_000
"""The largest number of images whose predictions are stored by default: 0.1 GB, at COCO's 10 kB per PNG."""


def _keeps_predictions(request: EvalRequest, dataset: Dataset, folders: Sequence[Path]) -> bool:
    """Decides whether predictions are stored: as requested, as before if resumed, else for small whole sets."""
    from panbench.runs import load_run
    from panbench.runs.predictions import shared_name

    if request.save_predictions is not None:
        return request.save_predictions
    if request.resume:
        for folder in folders:
            if (folder / "run.json").exists():
                return bool(load_run(folder).info.arguments.get("save_predictions"))
    is_part = _parse_limit(request.limit)[1] is not None
    few = 0 < len(dataset.scenes) <= _MOST_KEPT_UNASKED
    return few and dataset.has_ground_truth and not is_part and shared_name(dataset) is None


def _is_timed_only(request: EvalRequest) -> bool:
    """True if images are given without ground truth, so that the model is timed and not scored."""
    return request.images is not None and request.gt is None


def _evaluate_options(request: EvalRequest, studies: tuple[StudyOptions, ...]) -> EvaluateOptions:
    """Returns the options of `evaluate` for those of the command; studies that are in use may change them."""
    options = EvaluateOptions(
        batch_size=None if request.batch_size is None else _parse_batch_size(request.batch_size),
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
    """Raises BadArgument for options that exclude each other, such as --shard without ground truth."""
    refuse_ranks("eval")
    refuse_device(request.device)
    refuse_overwrite_and_resume(request.overwrite, request.resume)
    if request.shard is not None and _is_timed_only(request):
        raise BadArgument("Without --gt the model is only timed, which shards cannot be. Leave --shard out.")
    if request.gpus is not None and request.device not in ("auto", "cuda"):
        raise BadArgument(f"--gpus shares out to GPUs, and --device is {request.device}. Leave one out.")


def _sharding(request: EvalRequest, studies: Sequence[StudyOptions]) -> "Sharding | None":
    """Returns the function that makes shards in other processes; None to evaluate all images in this one.

    Raises BadArgument for contradictory options.
    """
    shardings = [sharding for study in studies if (sharding := study.sharding()) is not None]
    if request.gpus is not None:
        from panbench.evaluation.sharded import run_on_cards, visible_gpus

        shardings.append(lambda work, reporter: run_on_cards(work, reporter, visible_gpus(request.gpus or 1)))
    if not shardings:
        return None
    if len(shardings) > 1 or request.shard is not None:
        raise BadArgument("--shard, --gpus and --engine each share out the images. Give one of them.")
    if _is_timed_only(request):
        raise BadArgument("Without --gt the model is only timed, which shards cannot be. Leave --gpus or --engine out.")
    if any(study.further_runs for study in studies):
        raise BadArgument("Further runs, as of --corrupt, --layers and --size, are not shared out: give --shard I/N.")
    return shardings[0]


def _choose_data(request: EvalRequest, specs: list[ModelSpec]) -> tuple[list[ModelSpec], str | None]:
    """Returns the models to run and the dataset's name; None for --images and --gt."""
    if request.images is not None or request.gt is not None:
        return specs, None
    names = request.model or []
    chosen = None if request.data is None else without_split(request.data)
    if chosen is None:
        # Other weights than the config's do not change the model's dataset.
        known = specs if request.config is not None or not names else resolve_models(split_names(names))
        return specs, default_data(known)
    specs, others = leave_out_others(specs, names, chosen)
    if others:
        console.note(f"Left out, as trained on other data than {chosen}: {', '.join(o.name for o in others)}.")
    return specs, chosen


def _open_dataset(
    request: EvalRequest,
    specs: Sequence[ModelSpec],
    data: str | None,
    check: "Callable[[Sequence[Category]], None]",
) -> tuple[Dataset, bool]:
    """Opens the dataset; also returns whether missing files, such as weights, may be downloaded.

    check: raises for categories that the models do not have
    """
    limit, ids = _parse_limit(request.limit)
    split = split_of(request.data)
    gt, gt_dir = _split_gt_option(request.gt)

    def open_or_explain(download: bool) -> Dataset:
        """Opens the dataset. If the PNGs of --gt are missing, the error says how to name their folder."""
        try:
            return read_dataset(download)
        except FilesMissing as error:
            if any(way.option == "--gt-dir" for way in error.ways) and gt is not None:
                raise error.with_ways("name their folder behind the JSON: --gt FILE,DIR") from None
            raise

    def read_dataset(download: bool) -> Dataset:
        """Opens the dataset, or photographs without ground truth; with `download`, fetches missing files."""
        if _is_timed_only(request) and request.images is not None:
            from panbench.evaluation.tools.photographs import photograph_dataset

            return photograph_dataset([request.images], (), limit=limit, exif=request.exif)
        with console.Bars() as bars:
            return open_dataset(
                data,
                images=request.images,
                gt=gt,
                gt_dir=gt_dir,
                split=split,
                limit=limit,
                image_ids=ids,
                exif=request.exif,
                download=download,
                reporter=bars,
            )

    missing = find_missing_files(
        specs, weights=weights_named(request.checkpoint), data=data, split=split, limit=limit, image_ids=ids
    )
    dataset: Dataset | None = None
    if missing.data is None and not (data or "").startswith("shapes"):
        # Report faults of the user's own data before asking about downloads.
        dataset = open_or_explain(request.download)
        check(dataset.categories)
    download = may_download(missing, request.download)
    if download:
        _fetch_weights(specs, missing.weights)
    return dataset or open_or_explain(download), download


def _split_gt_option(given: Path | None) -> tuple[Path | None, Path | None]:
    """Splits the value of `--gt FILE[,DIR]`; the folder is None if only the JSON is named."""
    file, comma, folder = str(given or "").rpartition(".json,")
    return (Path(f"{file}.json"), Path(folder)) if comma and folder else (given, None)


def _fetch_weights(specs: Sequence[ModelSpec], absent: Sequence[ModelSpec]) -> None:
    """Downloads weights before the larger dataset, so that an unreachable host is noticed within seconds.

    Failures are reported again when the model is opened. Raises PanbenchError if no model is left to run.
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
    """Raises BadModel for models whose categories do not match the dataset's, without loading the models.

    Models that only say after they are loaded are checked later.
    """
    if not categories:
        return
    other_weights = request.checkpoint is not None and random_seed(request.checkpoint) is None
    misfits = []
    for spec in specs:
        names = labels = None
        if request.labels is None:
            labels = labels_of(spec.trained_on) if is_shipped(spec) and not other_weights else None
            names = declared_names(spec)
        elif request.labels in SETS:
            labels = labels_of(request.labels)
        try:
            if labels is not None:
                match_categories(spec.title, *labels, categories)
            elif names is not None:
                refuse_other_names(spec.title, names, categories)
        except BadModel as error:
            misfits.append(str(error))
    if misfits:
        raise BadModel(" ".join(misfits))


def _parse_limit(text: str | None) -> tuple[int | None, list[int] | None]:
    """Parses `--limit` to a number of images (`20`), or to image ids (`139,285`, or `@FILE` with ids)."""
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


def _parse_batch_size(text: str) -> "int | Literal['auto']":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadArgument(f"--batch-size is {text!r} but must be a whole number above 0, or auto.")
    return int(text)
