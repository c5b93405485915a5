"""`panbench score`: predictions of any framework."""

import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panbench.base.addresses import open_recorded
from panbench.base.errors import BadArgument
from panbench.base.shards import parse_shard, refuse_ranks
from panbench.cli import console
from panbench.cli.command import OFFSET, SHARD, command, family, flag, option
from panbench.cli.options import options_from

if TYPE_CHECKING:
    from panbench.report.answers.options import ScoreOptions
    from panbench.runs import Run
    from panbench.runs.sharded import Spread

app = family()


@dataclass(frozen=True)
class ScoreRequest:
    """What `panbench score` is asked for: a field an option, but for those of studies."""

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
)
@options_from(ScoreRequest, "score")
def score(ctx: typer.Context, request: ScoreRequest, studies: "tuple[ScoreOptions, ...]") -> None:
    """Score predictions of any framework: the same numbers as panopticapi."""
    from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
    from panbench.report.answers.options import Scoring
    from panbench.report.answers.tables import comparison_row, summary_text
    from panbench.runs import take_predictions
    from panbench.scoring.folder import as_json as scores_of
    from panbench.scoring.folder import score_folder

    refuse_ranks("score")
    if (request.pred is None) == (request.semantic is None):
        raise BadArgument("Give the predictions: --pred with a JSON, or --semantic with a folder of maps.")
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
    spreads = [spread for study in studies if (spread := study.spread()) is not None]
    with ExitStack() as stack:
        bars = stack.enter_context(console.Bars())
        pred = request.pred or _semantic(request, stack)
        scoring = Scoring(request.gt, pred, request.gt_dir, request.pred_dir)
        made = [each for study in studies if (each := study.remade(scoring, lambda: _made(request, stack), bars))]
        if made:
            pred, settings["pred_dir"] = made[0].json, None
            scoring = Scoring(request.gt, pred, request.gt_dir)
        for study in studies:
            study.check(scoring)
        if spreads:
            run = _in_shards(request, settings, spreads[0], bars)
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
        open_recorded()  # those of the line that has just been scored
        besides = [found for study in studies if (found := study.found(run, scoring, bars)) is not None]
        if request.semantic is not None:
            from panbench.report.answers.measures import semantic_answer

            besides.append(semantic_answer(run))
        if pred != request.pred and request.out is not None:
            take_predictions(run, pred, pred.with_suffix(""), made[0].record if made else {})
    if request.as_json:
        more = {key: value for found in besides for key, value in found.record.items()}
        console.show_json({**scores_of(run), **more})
    else:
        row = comparison_row(run)
        console.show(summary_text(row.title, run.summary(), row.notes))
        for found in besides:
            console.show("")
            console.show_grids(found.grids)
    if request.out is None:
        console.say("Not stored. With --out results/NAME, `panbench compare`, `metrics` and `errors` can analyse it.")
    else:
        console.say(f"Stored. More: `panbench metrics {shlex.quote(str(request.out))}`, `errors`, `compare`")


def _semantic(request: ScoreRequest, stack: ExitStack) -> Path:
    """The semantic maps as panoptic predictions, in a folder that lives as long as `stack`; their JSON."""
    from panbench.scoring.semantic import semantic_predictions

    assert request.semantic is not None
    if request.pred_dir is not None:
        raise BadArgument("--semantic goes without --pred-dir.")
    made = _made(request, stack)
    return semantic_predictions(request.gt, request.semantic, made, offset=request.offset, threads=request.workers)


def _made(request: ScoreRequest, stack: ExitStack) -> Path:
    """A folder for predictions that are made here; it lives as long as `stack`.

    It is on the disk of the run, which takes them over. Raises BadArgument for what would need them another time.
    """
    if request.resume or request.shard is not None:
        raise BadArgument("--semantic and --category-map make predictions, and go without --resume and --shard.")
    beside = request.out.absolute().parent if request.out is not None else None
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".made-", dir=beside)))


def _in_shards(request: ScoreRequest, settings: dict[str, Any], spread: "Spread", bars: "console.Bars") -> "Run":
    """The run whose shards others score. Raises BadArgument without a place for it."""
    from panbench.scoring.sharded import ShardedScoring

    if request.pred is None or request.out is None or request.shard is not None:
        raise BadArgument("--engine makes the shards of a stored run: give --pred and --out, and leave --shard out.")
    again: dict[str, Any] = {
        "overwrite": request.overwrite,
        "resume": request.resume,
        "command": ("panbench", *sys.argv[1:]),
    }
    (run,) = spread(ShardedScoring(request.gt, request.pred, request.out, settings, **again), bars)
    return run
