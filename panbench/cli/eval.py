"""`panbench eval`: models on a dataset."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.computing import PRECISIONS
from panbench.base.errors import Interrupted
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
    one_of,
    option,
    rule_names,
)
from panbench.cli.options import options_from

if TYPE_CHECKING:
    from panbench.cli.prepare import Prepared
    from panbench.evaluation.options import StudyOptions
    from panbench.evaluation.several import Outcome

app = family()

# The groups of options in `panbench eval --help`.
_MODEL, _DATA, _HOW, _RUN = "Models", "Data", "Computing", "The run"


@dataclass(frozen=True)
class EvalRequest:
    """What `panbench eval` is asked for: a field an option, but for those of studies."""

    model: Models = None
    config: Config = None
    checkpoint: Checkpoint = None
    weights: Weights = "auto"
    things: Things = None
    seed: Annotated[int, option("Seed of random weights.", _MODEL, "N")] = 0
    name: Annotated[str | None, option("What to call the model, in its run's folder and row.", _MODEL, "NAME")] = None
    data: Annotated[
        str | None,
        option(
            "coco (data/coco), shapes (generated), or a folder in COCO's layout. Default: what the model learned from.",
            _DATA,
            "NAME|DIR",
            autocompletion=data_names,
        ),
    ] = None
    images: Annotated[
        Path | None, option("A folder of images, with --gt; without it, they are only timed.", _DATA, "DIR")
    ] = None
    gt: Annotated[Path | None, option("A panoptic JSON, with --images.", _DATA, "FILE.json")] = None
    gt_dir: Annotated[Path | None, option("The id PNGs of --gt, when not beside it.", _DATA, "DIR")] = None
    split: Annotated[str, option("The split of the dataset; test-dev with --save-predictions.", _DATA, "NAME")] = "val"
    limit: Annotated[int | None, option("Only the first N images.", _DATA, "N", min=1)] = None
    image_ids: Annotated[str | None, option("Only these: 139,285 or @FILE with an id a line.", _DATA, "IDS")] = None
    exif: Annotated[Orientation, exif_option(_DATA)] = Orientation.apply
    category_map: Annotated[
        str | None,
        option("For a model of other categories: which is which, as coco_to_cityscapes.", _DATA, "FILE|NAME"),
    ] = None
    download: Download = False
    device: Device = "auto"
    batch_size: Annotated[
        str | None, option("Images a batch, or auto. Default: 1 on a CPU, else auto.", _HOW, "N|auto")
    ] = None
    precision: Annotated[
        str,
        option(
            "fp32 (as mmdet runs), ieee (no TF32), tf32, bf16, fp16.", _HOW, "KIND", autocompletion=one_of(*PRECISIONS)
        ),
    ] = "fp32"
    compiled: Annotated[bool, flag("--compile", "Compile the backbone by torch.compile; takes a minute.", _HOW)] = False
    workers: Annotated[
        int | None, option("Threads that load, and as many that score. Default: the cores, up to 8.", _HOW, "N", min=1)
    ] = None
    rule: Annotated[
        str | None,
        option(
            "How masks become a map: paper (the model's own; the default), or others, comma-separated, with thresholds "
            "as mask2former:score=0.7. One forward pass gives a run for each.",
            _HOW,
            "RULES",
            autocompletion=rule_names,
        ),
    ] = None
    out: Annotated[
        Path | None,
        option(
            "The run's folder; several models get a folder each in it. Default: results/DATASET-MODEL.", _RUN, "DIR"
        ),
    ] = None
    overwrite: Annotated[bool, flag("--overwrite", "Replace a run that is already there.", _RUN)] = False
    resume: Annotated[bool, flag("--resume", "Go on with an interrupted run.", _RUN)] = False
    skip_bad_images: Annotated[
        bool, flag("--skip-bad-images", "Leave out images that do not decode; the run is marked.", _RUN)
    ] = False
    save_predictions: Annotated[bool, flag("--save-predictions", "Also write COCO panoptic PNGs and JSON.", _RUN)] = (
        False
    )
    keep_candidates: Annotated[
        bool,
        flag("--keep-candidates", "Also store what left the network, for `panbench fuse` and ensembles.", _RUN),
    ] = False
    half_precision: Annotated[
        bool, flag("--fp16", "Store candidates in half precision; pixels that differ are counted.", _RUN)
    ] = False
    log: Annotated[
        list[str] | None,
        option("Tell tensorboard, wandb or mlflow how it goes; several times. Files go to logs/ beside the run.", _RUN),
    ] = None


@command(
    app,
    "eval",
    "panbench eval --model mask2former --download",
    "panbench eval --model mask2former-tiny,maskformer-tiny --limit 20",
    "panbench eval --model mask2former-tiny --rule paper,argmax --limit 20",
    "panbench eval --config mine.py --checkpoint mine.pth --data data/mine",
)
@options_from(EvalRequest, "eval")
def evaluate(ctx: typer.Context, request: EvalRequest, studies: "tuple[StudyOptions, ...]") -> None:
    """Run models on a dataset, score them and compare them."""
    with console.Bars() as bars:
        bars.status("Looking for models and data")

        from panbench.cli.prepare import prepare
        from panbench.evaluation.several import check_models, evaluate_models, what_runs

    work = prepare(request, studies)
    with console.Bars(lines=True) as bars:
        bars.status("Loading PyTorch")
        failures = check_models(work.specs, work.dataset, work.folders, work.opening, work.options, bars, work.rules)
    for spec, error in failures.items():
        console.note(f"{spec.name} will fail, the other models run: {error}")
    console.say(what_runs(work.specs, work.dataset, work.opening, work.options))
    if request.device == "auto" and (reason := _unused_gpu()) is not None:
        console.note(reason)
    try:
        outcomes = evaluate_models(
            work.specs,
            work.dataset,
            work.folders,
            work.opening,
            work.options,
            trackers=work.trackers,
            reporters=lambda: console.Bars(lines=True),
            finished=_show_outcome(work, bool(ctx.meta.get("debug"))),
            rules=work.rules,
        )
    except KeyboardInterrupt as interruption:
        place = work.folders[0] if len(work.folders) == 1 else request.out or "results"
        raise Interrupted(
            f"{str(interruption) or 'Interrupted.'} What was scored stays in {place}; the same command with --resume "
            "goes on.",
            getattr(interruption, "exit_code", 130),
        ) from None
    _show_all(work, outcomes)
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


def _unused_gpu() -> str | None:
    """Why a GPU of this machine goes unused, in a sentence; None where there is none, or one is used."""
    import torch

    from panbench.evaluation.tools.doctor import why_no_cuda

    return None if torch.cuda.is_available() else why_no_cuda(torch.version.cuda)


def _show_outcome(work: "Prepared", debug: bool) -> "Callable[[Outcome], None]":
    """Prints what became of one model."""
    from panbench.report.answers.tables import comparison_row, speed_text, summary_text

    def show(outcome: "Outcome") -> None:
        if outcome.run is None:
            console.complain(f"{outcome.spec.name}: {outcome.reason}", outcome.error if debug else None)
            return
        if work.is_timed_only:
            console.say(speed_text(outcome.spec.title, outcome.run.info))
            return
        row = comparison_row(outcome.run)
        # A run for each rule: the table says which.
        title = f"{row.title}, {(row.rule or '').partition(':')[0]}" if len(work.rules) > 1 else row.title
        console.show(summary_text(title, outcome.run.summary(), row.notes))
        console.show("")

    return show


def _show_all(work: "Prepared", outcomes: "Sequence[Outcome]") -> None:
    """Prints the runs side by side, and what to do with them."""
    from panbench.report.answers.tables import comparison_text

    console.show(comparison_text([outcome.row(work.dataset.name) for outcome in outcomes]))
    stored = [Path(outcome.run.path) for outcome in outcomes if outcome.run is not None and outcome.run.path]
    if not stored:
        return
    if work.is_timed_only:
        console.say("Only timed: without --gt nothing is scored. `panbench predict` makes pictures.")
    elif work.dataset.has_ground_truth:
        console.say(f"Again at any time: `panbench compare {shlex.join(map(str, stored))}`")
    else:
        console.say(f"For COCO's server: `panbench submit {shlex.quote(str(stored[0]))} --out FILE.zip`")
    for sentence in (sentence for study in work.options.studies for sentence in study.next_steps(stored)):
        console.say(sentence)
