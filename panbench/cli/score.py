"""`panbench score`: predictions of any framework."""

import shlex
from pathlib import Path
from typing import Annotated

from panbench.base.errors import BadArgument
from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import command, family, flag, option

app = family()


@command(
    app,
    "score",
    "panbench score --gt panoptic_val2017.json --pred predictions.json",
    "panbench score --gt gt.json --pred pred.json --out results/mine",
    "panbench score --gt gt.json --pred pred.json --shard 3/16 --out results/s3",
)
def score(
    gt: Annotated[Path, option("The ground truth: COCO panoptic JSON.", metavar="FILE.json")],
    pred: Annotated[Path, option("The predictions: COCO panoptic JSON.", metavar="FILE.json")],
    gt_dir: Annotated[
        Path | None, option("The id PNGs of --gt. Default: its path without .json.", metavar="DIR")
    ] = None,
    pred_dir: Annotated[
        Path | None, option("The id PNGs of --pred. Default: its path without .json.", metavar="DIR")
    ] = None,
    images: Annotated[
        Path | None, option("The photographs, which pictures of the stored run need later.", metavar="DIR")
    ] = None,
    out: Annotated[Path | None, option("Store the run here, for compare and metrics.", metavar="DIR")] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace a run that is already there.")] = False,
    resume: Annotated[bool, flag("--resume", "Go on with the run at --out, if there is one.")] = False,
    shard: Annotated[
        str | None, option("Score part I of N of the images; `panbench runs merge` joins them.", metavar="I/N")
    ] = None,
    as_json: Annotated[bool, flag("--json", "Print JSON with every category, fractions 0-1.")] = False,
    ignore_extra: Annotated[bool, flag("--ignore-extra", "Pass over images that the ground truth lacks.")] = False,
    allow_missing: Annotated[bool, flag("--allow-missing", "Score images without a prediction as empty.")] = False,
    boundary: Annotated[bool, flag("--boundary", "Also store what boundary PQ needs.")] = False,
    ap: Annotated[
        bool, flag("--ap", "Also the mask AP of the things in the maps; every thing segment needs a score.")
    ] = False,
    ap_gt: Annotated[
        Path | None, option("With --ap: a COCO instance JSON as its ground truth.", metavar="FILE.json")
    ] = None,
    workers: Annotated[int | None, option("Threads. Default: the cores.", metavar="N", min=1)] = None,
    max_pixels: Annotated[int | None, option("Refuse larger PNGs before they are decoded.", metavar="N", min=1)] = None,
) -> None:
    """Score predictions of any framework: the same numbers as panopticapi."""
    from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
    from panbench.report.answers.tables import comparison_row, summary_text
    from panbench.scoring.folder import as_json as scores_of
    from panbench.scoring.folder import score_folder
    from panbench.studies.unfused.map_ap import ap_of_map, refuse_unscored

    if ap_gt is not None and not ap:
        raise BadArgument("--ap-gt is the ground truth of AP. Add --ap.")
    if ap:
        from panbench.panoptic.coco import read_annotation_columns

        refuse_unscored(pred, pred_dir, read_annotation_columns(gt, gt_dir).categories)
    with console.Bars() as bars:
        run = score_folder(
            gt,
            pred,
            gt_dir,
            pred_dir,
            out,
            threads=workers,
            ignore_extra=ignore_extra,
            allow_missing=allow_missing,
            boundary=boundary,
            max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
            overwrite=overwrite,
            resume=resume,
            shard=_shard(shard),
            reporter=bars,
            images=images,
        )
        found = ap_of_map(run, ap_gt, counter(bars, "AP")) if ap else None
    truth = f"the instances of {ap_gt.name}" if ap_gt is not None else f"the thing segments of {gt.name}"
    if as_json:
        besides = {} if found is None else {"AP_map": found.as_record(), "AP_map_gt": truth}
        console.show_json({**scores_of(run), **besides})
    else:
        row = comparison_row(run)
        console.show(summary_text(row.title, run.summary(), row.notes))
        if found is not None:
            from panbench.studies.unfused.answer import map_grid

            console.show("")
            console.show_grids([map_grid(found, truth)])
    if out is None:
        console.say("Not stored. With --out results/NAME, `panbench compare`, `metrics` and `errors` can ask it more.")
    else:
        console.say(f"Stored. More: `panbench metrics {shlex.quote(str(out))}`, `errors`, `compare`")


def _shard(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    number, slash, shards = given.partition("/")
    if not slash or not number.isdecimal() or not shards.isdecimal():
        raise BadArgument(f"--shard is {given!r}; give the number of the shard and of all shards, as in 3/16.")
    return int(number), int(shards)
