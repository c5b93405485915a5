"""`panbench eval`: models on a dataset."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panbench.base.computing import PRECISIONS
from panbench.base.errors import BadArgument
from panbench.cli import console
from panbench.cli.command import (
    Checkpoint,
    Config,
    Device,
    Download,
    Models,
    Orientation,
    Things,
    Weights,
    command,
    data_names,
    exif_option,
    family,
    flag,
    may_download,
    one_of,
    option,
    rule_names,
)

if TYPE_CHECKING:
    from panbench.datasets import Dataset

app = family()

# The groups of options in `panbench eval --help`.
_MODEL, _DATA, _HOW, _RUN = "Models", "Data", "Computing", "The run"


@command(
    app,
    "eval",
    "panbench eval --model mask2former --download",
    "panbench eval --model mask2former-tiny,maskformer-tiny --limit 20",
    "panbench eval --model mask2former-tiny --rule paper,argmax --limit 20",
    "panbench eval --config mine.py --checkpoint mine.pth --data data/mine",
)
def evaluate(
    ctx: typer.Context,
    model: Models = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    weights: Weights = "auto",
    things: Things = None,
    seed: Annotated[int, option("Seed of random weights.", _MODEL, "N")] = 0,
    name: Annotated[str | None, option("What to call the model, in its run's folder and row.", _MODEL, "NAME")] = None,
    data: Annotated[
        str | None,
        option(
            "coco (data/coco), shapes (generated), or a folder in COCO's layout. Default: what the model learned from.",
            _DATA,
            "NAME|DIR",
            autocompletion=data_names,
        ),
    ] = None,
    images: Annotated[
        Path | None, option("A folder of images, with --gt; without it, they are only timed.", _DATA, "DIR")
    ] = None,
    gt: Annotated[Path | None, option("A panoptic JSON, with --images.", _DATA, "FILE.json")] = None,
    gt_dir: Annotated[Path | None, option("The id PNGs of --gt, when not beside it.", _DATA, "DIR")] = None,
    split: Annotated[str, option("The split of the dataset; test-dev with --save-predictions.", _DATA, "NAME")] = "val",
    limit: Annotated[int | None, option("Only the first N images.", _DATA, "N", min=1)] = None,
    image_ids: Annotated[str | None, option("Only these: 139,285 or @FILE with an id a line.", _DATA, "IDS")] = None,
    exif: Annotated[Orientation, exif_option(_DATA)] = Orientation.apply,
    category_map: Annotated[
        str | None,
        option("For a model of other categories: which is which, as coco_to_cityscapes.", _DATA, "FILE|NAME"),
    ] = None,
    download: Download = False,
    device: Device = "auto",
    batch_size: Annotated[
        str | None, option("Images a batch, or auto. Default: 1 on a CPU, else auto.", _HOW, "N|auto")
    ] = None,
    precision: Annotated[
        str,
        option(
            "fp32 (as mmdet runs), ieee (no TF32), tf32, bf16, fp16.", _HOW, "KIND", autocompletion=one_of(*PRECISIONS)
        ),
    ] = "fp32",
    compiled: Annotated[
        bool, flag("--compile", "Compile the backbone by torch.compile; takes a minute.", _HOW)
    ] = False,
    tta: Annotated[
        str | None,
        option("Average views of each image: flip,scales=0.75:1.25. It costs a pass a view.", _HOW, "VIEWS"),
    ] = None,
    corrupt: Annotated[
        str | None,
        option(
            "Also corrupt the images, each way in a run of its own: fog:2,jpeg:4 (severities 1-5), fog for all five, "
            "all for the 19 of ImageNet-C. `panbench robustness` reads the runs.",
            _HOW,
            "KINDS",
        ),
    ] = None,
    workers: Annotated[
        int | None, option("Threads that load, and as many that score. Default: the cores, up to 8.", _HOW, "N", min=1)
    ] = None,
    rule: Annotated[
        str | None,
        option(
            "How masks become a map: paper (the model's own; the default), or others, comma-separated, with thresholds "
            "as mask2former:score=0.7. One forward pass gives a run for each.",
            _HOW,
            "RULES",
            autocompletion=rule_names,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "The run's folder; several models get a folder each in it. Default: results/DATASET-MODEL.", _RUN, "DIR"
        ),
    ] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace a run that is already there.", _RUN)] = False,
    resume: Annotated[bool, flag("--resume", "Go on with an interrupted run.", _RUN)] = False,
    skip_bad_images: Annotated[
        bool, flag("--skip-bad-images", "Leave out images that do not decode; the run is marked.", _RUN)
    ] = False,
    save_predictions: Annotated[
        bool, flag("--save-predictions", "Also write COCO panoptic PNGs and JSON.", _RUN)
    ] = False,
    keep_candidates: Annotated[
        bool,
        flag("--keep-candidates", "Also store what left the network, for `panbench fuse` and ensembles.", _RUN),
    ] = False,
    half_precision: Annotated[
        bool, flag("--fp16", "Store candidates in half precision; pixels that differ are counted.", _RUN)
    ] = False,
    metrics: Annotated[
        str,
        option(
            "Also of the network before fusion, in the same pass: ap (AP_pan of things) and miou (mIoU_pan).",
            _RUN,
            "pq,ap,miou",
            autocompletion=one_of("pq", "ap", "miou"),
        ),
    ] = "pq",
    ap_gt: Annotated[
        Path | None,
        option("AP's ground truth: a COCO instance JSON. Default: the things of the panoptic one.", _RUN, "FILE.json"),
    ] = None,
    log: Annotated[
        list[str] | None,
        option("Tell tensorboard, wandb or mlflow how it goes; several times. Files go to logs/ beside the run.", _RUN),
    ] = None,
) -> None:
    """Run models on a dataset, score them and compare them."""
    from panbench.catalog import choose_models, renamed, resolve_models, split_names
    from panbench.cli.request import parse_metrics

    if overwrite and resume:
        raise BadArgument("--overwrite and --resume contradict each other. Give one of them.")
    if half_precision and not keep_candidates:
        raise BadArgument("--fp16 is how candidates are stored. Add --keep-candidates, or use --precision fp16.")
    measured = parse_metrics(metrics)
    corruptions = []
    if corrupt is not None:
        from panbench.studies.robustness.corruptions import parse_corruptions

        corruptions = parse_corruptions(corrupt)
        if images is not None and gt is None:
            raise BadArgument("--corrupt needs ground truth: it measures what corrupted images cost. Add --gt.")
    specs = choose_models(model or [], config, checkpoint, things)
    if len(specs) > 1 and weights not in ("auto", "random"):
        raise BadArgument("--weights with a path fits one model. Name one --model, or use auto or random.")
    if name is not None and len(specs) > 1:
        raise BadArgument(f"--name names one model, not {len(specs)}. Name one --model, or leave --name out.")
    ids = None if image_ids is None else _image_ids(image_ids)
    size = None if batch_size is None else _batch_size(batch_size)
    with console.Bars() as bars:
        bars.status("Looking for models and data")

        from panbench.cli.request import check_weights, default_data, leave_out_others, missing_for, split_rules
        from panbench.datasets import open_dataset
        from panbench.evaluation.several import Opening, Outcome, check_models, evaluate_models, run_folders
        from panbench.evaluation.tools.trackers import check_trackers
        from panbench.report.answers.tables import comparison_row, comparison_text, speed_text, summary_text

    check_trackers(log or [])
    check_weights(weights)
    files = images is not None or gt is not None
    if data is None and not files:
        # Other weights than the config's do not change what its model is for.
        data = default_data(specs if config is not None or not model else resolve_models(split_names(model)))
    elif data is not None:
        specs, others = leave_out_others(specs, model or [], data)
        if others:
            console.note(f"Left out, as trained on other data than {data}: {', '.join(spec.name for spec in others)}.")
    if name is not None:
        specs = [renamed(specs[0], name)]
    dataset: Dataset | None = None

    photographs = images is not None and gt is None

    def opened() -> "Dataset":
        if images is not None and gt is None:
            from panbench.evaluation.tools.photographs import photograph_dataset

            return photograph_dataset([images], (), limit=limit, exif=exif.choice)
        with console.Bars() as bars:
            return open_dataset(
                data,
                images=images,
                gt=gt,
                gt_dir=gt_dir,
                split=split,
                limit=limit,
                image_ids=ids,
                exif=exif.choice,
                download=download,
                reporter=bars,
            )

    missing = missing_for(specs, weights=weights, data=None if files else data, split=split, limit=limit, image_ids=ids)
    if missing.data is None and not (data or "").startswith("shapes"):
        # What is wrong with one's own data is said before a question about downloads.
        dataset = opened()
    download = may_download(missing, download)
    if download and "RANK" in os.environ:
        from panbench.evaluation.evaluate import open_dataset_once

        dataset = open_dataset_once(opened)
    elif dataset is None:
        dataset = opened()
    rules = [] if rule is None else split_rules(rule)
    folders = run_folders(
        specs,
        dataset.name,
        out,
        rules=[] if rules == ["paper"] else rules,
        keep=not (overwrite or resume or console.is_further_rank()),
    )

    # Everything that can be checked without torch is checked above this line: importing torch takes seconds.
    with console.Bars(lines=True) as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.options import EvaluateOptions
        from panbench.evaluation.several import unused_gpu, what_runs

        opening = Opening(weights, device, precision, seed, compiled, download, tta)
        options = EvaluateOptions(
            batch_size=size,
            workers=workers,
            overwrite=overwrite,
            resume=resume,
            save_predictions=save_predictions,
            unscored=photographs,
            skip_bad_images=skip_bad_images,
            category_map=category_map,
            keep_candidates=keep_candidates,
            half_precision=half_precision,
            metrics=measured,
            ap_gt=ap_gt,
            command=("panbench", *sys.argv[1:]),
        )
        failures = check_models(specs, dataset, folders, opening, options, bars, rules, corruptions)
    for spec, error in failures.items():
        console.note(f"{spec.name} will fail, the other models run: {error}")
    console.say(what_runs(specs, dataset, opening, options))
    if device == "auto" and (reason := unused_gpu()) is not None:
        console.note(reason)

    def finished(outcome: Outcome) -> None:
        if outcome.run is None:
            console.complain(f"{outcome.spec.name}: {outcome.reason}", outcome.error if ctx.meta.get("debug") else None)
            return
        if photographs:
            console.say(speed_text(outcome.spec.title, outcome.run.info))
            return
        row = comparison_row(outcome.run)
        # A run for each rule: the table says which.
        title = f"{row.title}, {(row.rule or '').partition(':')[0]}" if len(rules) > 1 else row.title
        console.show(summary_text(title, outcome.run.summary(), row.notes))
        console.show("")

    try:
        outcomes = evaluate_models(
            specs,
            dataset,
            folders,
            opening,
            options,
            trackers=log or [],
            reporters=lambda: console.Bars(lines=True),
            finished=finished,
            rules=rules,
            corruptions=corruptions,
        )
    except KeyboardInterrupt as interruption:
        place = folders[0] if len(folders) == 1 else out or "results"
        how = str(interruption) or "Interrupted."
        interruption.args = (f"{how} What was scored stays in {place}; the same command with --resume goes on.",)
        raise
    console.show(comparison_text([outcome.row(dataset.name) for outcome in outcomes]))
    stored = [str(outcome.run.path) for outcome in outcomes if outcome.run is not None]
    if stored:
        if photographs:
            console.say("Only timed: without --gt nothing is scored. `panbench predict` makes pictures.")
        elif dataset.has_ground_truth:
            console.say(f"Again at any time: `panbench compare {shlex.join(stored)}`")
            if corruptions:
                console.say(f"What the corruptions cost: `panbench robustness {shlex.join(stored)}`")
        else:
            console.say(f"For COCO's server: `panbench submit {shlex.quote(stored[0])} --out FILE.zip`")
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


def _image_ids(text: str) -> list[int]:
    """The ids of `1,2,3`, or of a file after `@` with ids separated by commas, spaces or line ends."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(f"--image-ids {text}: the file cannot be read ({error}).") from None
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong or not words:
        what = f"{wrong[0]!r} is not an image id" if wrong else "there are no ids"
        raise BadArgument(f"--image-ids: {what}. Give whole numbers such as 139,285, or @FILE with one a line.")
    return [int(word) for word in words]


def _batch_size(text: str) -> "int | Literal['auto']":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadArgument(f"--batch-size is {text!r} but must be a whole number above 0, or auto.")
    return int(text)
