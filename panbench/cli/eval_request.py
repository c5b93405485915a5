"""Declares the options of `panbench eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from panbench.base.computing import PRECISIONS, runtimes, split_precision
from panbench.cli.command import (
    SHARD,
    AsJson,
    Checkpoint,
    Config,
    Device,
    Download,
    Labels,
    Models,
    Orientation,
    check_rules,
    data_names,
    exif_option,
    flag,
    one_of,
    option,
    rule_names,
)

# The groups of options in `panbench eval --help`.
_MODEL, _DATA, _HOW, _RUN = "Models", "Data", "Computing", "The run"


def _check_precision_option(text: str) -> str:
    split_precision(text)
    return text


@dataclass(frozen=True)
class EvalRequest:
    """The options of `panbench eval`, a field each; studies add their own."""

    model: Models = None
    config: Config = None
    checkpoint: Checkpoint = None
    labels: Labels = None
    data: Annotated[
        str | None,
        option(
            "coco (data/coco), shapes (generated), or a folder in COCO's layout; with a split: coco:test-dev. Default: "
            "what the model was trained on.",
            _DATA,
            "NAME|DIR[:SPLIT]",
            autocompletion=data_names,
        ),
    ] = None
    images: Annotated[Path | None, option("A folder of images. Only timed without --gt.", _DATA, "DIR")] = None
    gt: Annotated[
        Path | None,
        option("The panoptic JSON of --images, and its id PNGs if not next to it.", _DATA, "FILE[,DIR]"),
    ] = None
    limit: Annotated[
        str | None,
        option("The first N images, or ids: 139,285 or @FILE with one a line.", _DATA, "N|IDS"),
    ] = None
    exif: Annotated[Orientation, exif_option(_DATA)] = "apply"
    download: Download = False
    device: Device = "auto"
    batch_size: Annotated[
        str | None,
        option("Images per batch. Default: 1 on a CPU, auto on a GPU (4 with --shard).", _HOW, "N|auto"),
    ] = None
    precision: Annotated[
        str,
        option(
            "fp32 (as mmdet), ieee (no TF32), tf32, bf16, fp16; and what computes the network, if not PyTorch alone: "
            f"+{' or +'.join(runtimes())}.",
            _HOW,
            "KIND[+BY]",
            autocompletion=one_of(*PRECISIONS, *(f"{kind}+{by}" for by in runtimes() for kind in PRECISIONS)),
            callback=_check_precision_option,
        ),
    ] = "fp32"
    rule: Annotated[
        str | None,
        option(
            "Fusion rules, a run each from one forward pass: paper (the model's own; default), mask2former:score=0.7 …",
            _HOW,
            "RULES",
            autocompletion=rule_names,
            callback=check_rules,
        ),
    ] = None
    shard: Annotated[str | None, option(SHARD, _RUN, "I/N")] = None
    gpus: Annotated[int | None, option("Share the images out to N GPUs.", _RUN, "N", min=1)] = None
    out: Annotated[
        Path | None,
        option(
            "The run's folder (of several models: its parent). Default: results/DATASET-MODEL.",
            _RUN,
            "DIR",
        ),
    ] = None
    overwrite: Annotated[bool, flag("--overwrite", "Replace an existing run.", _RUN)] = False
    resume: Annotated[bool, flag("--resume", "Continue an interrupted run.", _RUN)] = False
    skip_bad_images: Annotated[bool, flag("--skip-bad-images", "Skip images that cannot be decoded.", _RUN)] = False
    save_predictions: Annotated[
        bool | None,
        flag(
            "--save-predictions/--no-save-predictions",
            "Store COCO panoptic PNGs and JSON, or with --no-save-predictions none. Default: up to 10,000 images, "
            "unless --limit gives ids.",
            _RUN,
        ),
    ] = None
    as_json: AsJson = False
