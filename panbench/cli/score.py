"""Declares `panbench score`, which scores predictions of any framework."""

import glob
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panbench.base.addresses import allow_recorded_urls
from panbench.base.errors import BadArgument
from panbench.base.locks import Lock
from panbench.base.shards import parse_shard, refuse_ranks
from panbench.cli import console
from panbench.cli.command import OFFSET, SHARD, command, family, flag, option, options_from, show_scores

if TYPE_CHECKING:
    from panbench.report.answers.options import ScoreOptions
    from panbench.runs import Run
    from panbench.runs.sharded import Sharding

app = family()


@dataclass(frozen=True)
class ScoreRequest:
    """The options of `panbench score`, a field each; studies add their own."""

    gt: Annotated[Path, option("The ground truth: COCO panoptic JSON.", metavar="FILE")]
    pred: Annotated[Path | None, option("The predictions: COCO panoptic JSON.", metavar="FILE")] = None
    semantic: Annotated[Path | None, option("Instead: semantic predictions, one-channel PNGs.", metavar="DIR")] = None
    offset: Annotated[str, option(OFFSET, metavar="N|order|FILE")] = "0"
    gt_dir: Annotated[Path | None, option("The id PNGs of --gt. Default: its path without .json.", metavar="DIR")] = (
        None
    )
    pred_dir: Annotated[
        Path | None, option("The id PNGs of --pred. Default: its path without .json.", metavar="DIR")
    ] = None
    images: Annotated[Path | None, option("The photographs, for pictures of the stored run.", metavar="DIR")] = None
    out: Annotated[Path | None, option("Store the run here, for compare and metrics.", metavar="DIR")] = None
    overwrite: Annotated[bool, flag("--overwrite", "Replace an existing run.")] = False
    resume: Annotated[bool, flag("--resume", "Continue the run at --out, if there is one.")] = False
    shard: Annotated[str | None, option(SHARD, metavar="I/N")] = None
    as_json: Annotated[bool, flag("--json", "Print JSON with every category, fractions 0-1.")] = False
    ignore_extra: Annotated[
        bool, flag("--ignore-extra", "Ignore predictions for images that the ground truth lacks.")
    ] = False
    allow_missing: Annotated[bool, flag("--allow-missing", "Score images without a prediction as empty.")] = False
    boundary: Annotated[bool, flag("--boundary", "Also store what boundary PQ needs.")] = False
    workers: Annotated[int | None, option("Threads. Default: one per core.", metavar="N", min=1)] = None
    max_pixels: Annotated[int | None, option("Refuse larger PNGs before they are decoded.", metavar="N", min=1)] = None


@command(
    app,
    "score",
    "panbench score --gt panoptic_val2017.json --pred predictions.json",
    "panbench score --gt gt.json --pred pred.json --out results/mine",
    "panbench score --gt gt.json --pred pred.json --shard 3/8 --out results/s.3",
    "panbench score --gt gt.json --semantic maps --out results/semantic",
    needs={
        "--gt": ("--pred", "--semantic"),
        "--offset": ("--semantic",),
        "--images": ("--out",),
        "--overwrite": ("--out",),
        "--boundary": ("--out",),
    },
    idle_beside=dict.fromkeys(("--pred", "--pred-dir", "--ignore-extra"), ("--semantic",)),
)
@options_from(ScoreRequest, "score")
def score(ctx: typer.Context, request: ScoreRequest, studies: "tuple[ScoreOptions, ...]") -> None:
    """Score predictions of any framework: the same numbers as panopticapi."""
    from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
    from panbench.report.answers.options import Scoring
    from panbench.runs import adopt_predictions
    from panbench.scoring.folder import score_folder

    refuse_ranks("score")
    settings: dict[str, Any] = {
        "gt_dir": request.gt_dir,
        "pred_dir": request.pred_dir,
        "threads": request.workers,
        "ignore_extra": request.ignore_extra,
        "allow_missing": request.allow_missing,
        "boundary": request.boundary,
        "max_pixels": request.max_pixels or DEFAULT_MAX_PIXELS,
        "images": request.images,
    }
    shardings = [sharding for study in studies if (sharding := study.sharding()) is not None]
    with ExitStack() as stack:
        bars = stack.enter_context(console.Bars())
        pred = request.pred or _convert_semantic(request, stack)
        scoring = Scoring(request.gt, pred, request.gt_dir, request.pred_dir)
        made = [
            each
            for study in studies
            if (each := study.remade(scoring, lambda: _folder_of_made_predictions(request, stack), bars))
        ]
        if made:
            pred, settings["pred_dir"] = made[0].json, None
            scoring = Scoring(request.gt, pred, request.gt_dir)
        for study in studies:
            study.check(scoring)
        if shardings:
            run = _score_shards(request, settings, shardings[0], bars)
        else:
            run = score_folder(
                request.gt,
                pred,
                out=request.out,
                overwrite=request.overwrite,
                resume=request.resume,
                shard=None if request.shard is None else parse_shard(request.shard),
                reporter=bars,
                **settings,
            )
        allow_recorded_urls()  # run.json was just written from this command line, so its URLs are trusted
        further = [found for study in studies if (found := study.found(run, scoring, bars)) is not None]
        if request.semantic is not None:
            from panbench.report.answers.measures import semantic_answer

            further.append(semantic_answer(run))
        if pred != request.pred and request.out is not None:
            adopt_predictions(run, pred, pred.with_suffix(""), made[0].record if made else {})
    show_scores(run, request.as_json, {key: value for found in further for key, value in found.record.items()})
    for found in () if request.as_json else further:
        console.show("")
        console.show_grids(found.grids)
    if request.out is None:
        console.hint("Not stored. With --out results/NAME, `panbench compare`, `metrics` and `errors` can analyse it.")
    else:
        console.hint(f"Stored. More: `panbench metrics {shlex.quote(str(request.out))}`, `errors`, `compare`")


def _convert_semantic(request: ScoreRequest, stack: ExitStack) -> Path:
    """Converts semantic maps to panoptic predictions in a temporary folder of `stack`; returns their JSON."""
    from panbench.scoring.semantic import semantic_predictions

    assert request.semantic is not None
    made = _folder_of_made_predictions(request, stack)
    return semantic_predictions(request.gt, request.semantic, made, offset=request.offset, threads=request.workers)


def _folder_of_made_predictions(request: ScoreRequest, stack: ExitStack) -> Path:
    """Makes a temporary folder for converted predictions, removed when `stack` closes.

    It is on the run's disk, so that the files can be moved into the run. Raises BadArgument for --resume and --shard,
    which would need them later.
    """
    if request.resume or request.shard is not None:
        raise BadArgument("--semantic and --category-map make predictions, and go without --resume and --shard.")
    out = request.out
    if out is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="panbench-")))
    prefix, folder = f".{out.name}.panbench-made-", out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{glob.escape(prefix)}*"):
        if Lock.acquire(left / "lock") is not None:  # left by a killed process
            shutil.rmtree(left, ignore_errors=True)
    made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=folder)))
    if (lock := Lock.acquire(made / "lock")) is not None:
        stack.callback(lock.release)
    return made


def _score_shards(request: ScoreRequest, settings: dict[str, Any], sharding: "Sharding", bars: "console.Bars") -> "Run":
    """Scores the shards of a run in other processes; returns the merged run. Raises BadArgument for unfit options."""
    from panbench.scoring.folder import ShardedScoring

    if request.pred is None or request.out is None or request.shard is not None:
        raise BadArgument("--engine makes the shards of a stored run: give --pred and --out, and leave --shard out.")
    again: dict[str, Any] = {
        "overwrite": request.overwrite,
        "resume": request.resume,
        "command": ("panbench", *sys.argv[1:]),
    }
    (run,) = sharding(ShardedScoring(request.gt, request.pred, request.out, settings, **again), bars)
    return run
