"""What `panbench eval` can be asked for; `panbench eval --help` is made of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from panbench.base.computing import PRECISIONS, check_precision_name
from panbench.cli.command import (
    Checkpoint,
    Config,
    Device,
    Download,
    Models,
    Orientation,
    Things,
    Weights,
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
            "fp32 (as mmdet runs), ieee (no TF32), tf32, bf16, fp16.",
            _HOW,
            "KIND",
            autocompletion=one_of(*PRECISIONS),
            callback=check_precision_name,
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
            callback=check_rules,
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
