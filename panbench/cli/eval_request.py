"""What `panbench eval` can be asked for; `panbench eval --help` is made of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from panbench.base.computing import COMPILED, PRECISIONS, split_precision
from panbench.cli.command import (
    SHARD,
    AsJson,
    Checkpoint,
    Config,
    Device,
    Download,
    Models,
    Orientation,
    Things,
    check_rules,
    data_names,
    exif_option,
    flag,
    one_of,
    option,
    rule_names,
)

__all__ = ["EvalRequest"]

# The groups of options in `panbench eval --help`.
_MODEL, _DATA, _HOW, _RUN = "Models", "Data", "Computing", "The run"


def _check_precision(text: str) -> str:
    split_precision(text)
    return text


@dataclass(frozen=True)
class EvalRequest:
    """What `panbench eval` is asked for: a field an option, but for those of studies."""

    model: Models = None
    config: Config = None
    checkpoint: Checkpoint = None
    things: Things = None
    data: Annotated[
        str | None,
        option(
            "coco (data/coco), shapes (generated), a folder in COCO's layout (zips are read in place), or shards "
            "('val-*.tar', .parquet); another split than val as coco:test-dev. Default: what the model was trained on.",
            _DATA,
            "NAME|DIR[:SPLIT]",
            autocompletion=data_names,
        ),
    ] = None
    images: Annotated[
        Path | None, option("A folder of images, with --gt; without --gt the model is only timed.", _DATA, "DIR")
    ] = None
    gt: Annotated[
        Path | None,
        option(
            "A panoptic JSON, with --images; with its folder of id PNGs where that is elsewhere.", _DATA, "FILE[,DIR]"
        ),
    ] = None
    limit: Annotated[
        str | None,
        option(
            "Only the first N images, or those with these ids: 139,285 or @FILE with one id a line.", _DATA, "N|IDS"
        ),
    ] = None
    exif: Annotated[Orientation, exif_option(_DATA)] = Orientation.apply
    download: Download = False
    device: Device = "auto"
    batch_size: Annotated[
        str | None,
        option("Images per batch, or auto. Default: 1 on a CPU, else auto (4 with --shard).", _HOW, "N|auto"),
    ] = None
    precision: Annotated[
        str,
        option(
            "fp32 (as mmdet runs), ieee (no TF32), tf32, bf16, fp16. With +compile, as bf16+compile, torch.compile "
            "compiles the backbone, which takes a minute.",
            _HOW,
            "KIND[+compile]",
            autocompletion=one_of(*PRECISIONS, *(kind + COMPILED for kind in PRECISIONS)),
            callback=_check_precision,
        ),
    ] = "fp32"
    rule: Annotated[
        str | None,
        option(
            "The fusion rule: paper (the model's own; the default), or others, comma-separated, with thresholds "
            "as mask2former:score=0.7. One forward pass makes a run for each.",
            _HOW,
            "RULES",
            autocompletion=rule_names,
            callback=check_rules,
        ),
    ] = None
    shard: Annotated[str | None, option(SHARD, _RUN, "I/N")] = None
    gpus: Annotated[int | None, option("Share the images out to this many GPUs of this machine.", _RUN, "N", min=1)] = (
        None
    )
    out: Annotated[
        Path | None,
        option(
            "The run's folder; several models get one folder each in it. Default: results/DATASET-MODEL.", _RUN, "DIR"
        ),
    ] = None
    overwrite: Annotated[bool, flag("--overwrite", "Replace an existing run.", _RUN)] = False
    resume: Annotated[bool, flag("--resume", "Continue an interrupted run.", _RUN)] = False
    skip_bad_images: Annotated[
        bool, flag("--skip-bad-images", "Skip images that cannot be decoded; the run is marked.", _RUN)
    ] = False
    save_predictions: Annotated[
        bool | None,
        flag(
            "--save-predictions/--no-save-predictions",
            "Keep COCO panoptic PNGs and JSON. Default: of up to 10,000 images, unless --limit names them by id.",
            _RUN,
        ),
    ] = None
    as_json: AsJson = False
