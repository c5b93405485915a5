"""How an evaluation is done: `EvaluateOptions`. It needs no torch."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from panbench.datasets.category_map import CategoryMap

__all__ = ["DEFAULTS", "EvaluateOptions"]


@dataclass(frozen=True)
class EvaluateOptions:
    """How an evaluation is done; what is evaluated are the model and the dataset.

    batch_size: None is 1 on a CPU and "auto" elsewhere; "auto" tries sizes on the first image
    workers: threads that load, and as many that score; None: as many as cores, at most 8
    overwrite: replace a run that is already in the folder
    resume: go on with the run in the folder, which must have been made with the same settings
    save_predictions: also write predictions/ and predictions.json
    unscored: run images without ground truth although nothing of them is kept: for their time
    skip_bad_images: leave out images that do not decode, instead of stopping; the run says so
    category_map: a JSON, the name of a shipped one, or a map, by which a model of other categories is evaluated
    command: the command line, for run.json
    keep_candidates: also store what left the network in candidates/, for `panbench fuse` and ensembles
    half_precision: store it in half precision throughout, also where that changes pixels of the map
    metrics: what is measured: "pq", which always is, and before fusion "ap" (AP_pan) and "miou" (mIoU_pan)
    ap_gt: a COCO instance JSON as the ground truth of AP; None takes the thing segments of the panoptic JSON
    """

    batch_size: int | Literal["auto"] | None = None
    workers: int | None = None
    overwrite: bool = False
    resume: bool = False
    save_predictions: bool = False
    unscored: bool = False
    skip_bad_images: bool = False
    category_map: "str | os.PathLike[str] | CategoryMap | None" = None
    command: tuple[str, ...] = ()
    keep_candidates: bool = False
    half_precision: bool = False
    metrics: tuple[str, ...] = ("pq",)
    ap_gt: str | os.PathLike[str] | None = None


DEFAULTS = EvaluateOptions()
