"""AP of panoptic maps from any folder: their thing segments as instances, ranked by the scores of the JSON.

Against the things of the panoptic ground truth a scored run has all that is needed in its rows. Against instances of a
COCO instance JSON, which may overlap, the predicted PNGs are read once more.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from panbench.base.addresses import recorded_path
from panbench.base.errors import PredictionMismatch
from panbench.datasets.instances import InstanceSet, read_instances
from panbench.panoptic.coco import read_annotation_columns, read_id_png
from panbench.panoptic.types import Category
from panbench.runs import Run, check_predictions_json
from panbench.studies.unfused.instance_ap import InstanceAP, InstanceTable, instance_ap
from panbench.studies.unfused.map_instances import instances_of_map
from panbench.studies.unfused.metric import thing_ids

__all__ = ["ap_of_map", "refuse_unscored"]


def refuse_unscored(
    pred_json: str | os.PathLike[str], pred_dir: str | os.PathLike[str] | None, categories: Sequence[Category]
) -> None:
    """Raises PredictionMismatch, before anything is scored, when a predicted thing segment has no score."""
    pred = read_annotation_columns(pred_json, pred_dir, predictions=True)
    things = np.isin(pred.category_id, thing_ids(categories))
    unscored = int(np.isnan(pred.score[things]).sum())
    if unscored:
        raise PredictionMismatch(
            f"{pred.path}: {unscored:,} of {int(things.sum()):,} predicted thing segments have no score, and AP ranks "
            'by score. Write "score" into each of segments_info, or score without --metrics ap.'
        )


def ap_of_map(
    run: Run, instances: str | os.PathLike[str] | None = None, progress: Callable[[int, int], None] | None = None
) -> InstanceAP:
    """AP of the thing segments of a scored folder's maps.

    instances: a COCO instance JSON as the ground truth; None takes the thing segments of the panoptic one
    progress: called with (images done, images) while PNGs are read for `instances`
    Raises BadRun for predictions without scores, BadDataset for instances of another set.
    """
    if instances is None:
        table = instances_of_map(run.matched, run.categories)
    else:
        truth = read_instances(instances, run.categories, run.images.tolist())
        table = _against(run, truth, instances_of_map(run.matched, run.categories), progress)
    return instance_ap(table, thing_ids(run.categories))


def _against(
    run: Run, truth: InstanceSet, own: InstanceTable, progress: Callable[[int, int], None] | None
) -> InstanceTable:
    """The detections of a run's maps with the true instances of another file, and the pixels that they share."""
    assert run.info.predictions is not None
    json, folder = recorded_path(run.info.predictions.json), recorded_path(run.info.predictions.folder)
    check_predictions_json(run, json)
    digests = run.files.predictions()
    pred = read_annotation_columns(json, folder, predictions=True)
    row_of = {image_id: row for row, image_id in enumerate(pred.image_ids)}
    gt: list[tuple[int, int, int, float, int, bool]] = []
    pairs: list[tuple[int, int, int, int]] = []
    for done, image_id in enumerate(run.images.tolist(), start=1):
        size = truth.sizes[image_id]
        ids = np.zeros(size, np.int32)
        if image_id in row_of:
            path = pred.folder / pred.file_names[row_of[image_id]]
            digest = digests.get(image_id, b"")
            ids = read_id_png(path, size, image_id=image_id, error=PredictionMismatch, digest=digest)
        detections = own.det_id[own.det_image == image_id]
        for number, instance in enumerate(truth.of_image(image_id), start=1):
            mask = truth.mask(instance, *size)
            gt.append((image_id, number, instance.category_id, instance.area, int(mask.sum()), instance.iscrowd))
            found, pixels = np.unique(ids[mask], return_counts=True)
            pairs += [
                (image_id, segment, number, count)
                for segment, count in zip(found.tolist(), pixels.tolist(), strict=True)
                if segment in detections
            ]
        if progress is not None:
            progress(done, len(run.images))

    def column(rows: Sequence[tuple[Any, ...]], place: int, kind: Any) -> Any:
        return np.array([row[place] for row in rows], kind)

    return replace(
        own,
        gt_image=column(gt, 0, np.int64),
        gt_id=column(gt, 1, np.int32),
        gt_category=column(gt, 2, np.int32),
        gt_area=column(gt, 3, np.float64),
        gt_pixels=column(gt, 4, np.int64),
        gt_iscrowd=column(gt, 5, np.bool_),
        pair_image=column(pairs, 0, np.int64),
        pair_det=column(pairs, 1, np.int32),
        pair_gt=column(pairs, 2, np.int32),
        pair_pixels=column(pairs, 3, np.int64),
    )
