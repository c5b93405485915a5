"""AP of the thing segments of panoptic maps from any folder, ranked by the scores in their JSON.

Against the things of the panoptic ground truth, the rows of a scored run are enough. Against a COCO instance JSON,
whose instances may overlap, the predicted PNGs are read again. This is not AP_pan: a fused map holds only
segments that the fusion rule kept, so a network's AP before fusion is higher.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadRun, PredictionMismatch
from panbench.datasets.instances import InstanceSet, read_instances
from panbench.metrics.matched import Matched
from panbench.panoptic.coco import read_annotation_columns, read_id_png
from panbench.panoptic.types import Category
from panbench.runs import Run, check_predictions_json
from panbench.studies.unfused.instance_ap import InstanceAP, InstanceTable, instance_ap
from panbench.studies.unfused.metric import thing_ids


def refuse_unscored_things(
    pred_json: str | os.PathLike[str], pred_dir: str | os.PathLike[str] | None, categories: Sequence[Category]
) -> None:
    """Raises PredictionMismatch if a predicted thing segment has no score."""
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
    """Computes AP of the thing segments of a scored folder's maps.

    instances: a COCO instance JSON as the ground truth; None takes the thing segments of the panoptic ground truth
    progress: called with (images done, images) while PNGs are read for `instances`
    Raises BadRun for predictions without scores, BadDataset for instances of another set.
    """
    if instances is None:
        table = instances_of_map(run.matched, run.categories)
    else:
        truth = read_instances(instances, run.categories, run.images.tolist())
        table = _with_other_truth(run, truth, instances_of_map(run.matched, run.categories), progress)
    return instance_ap(table, thing_ids(run.categories))


def _with_other_truth(
    run: Run, truth: InstanceSet, own: InstanceTable, progress: Callable[[int, int], None] | None
) -> InstanceTable:
    """Replaces a table's true instances by those of a COCO instance JSON, and counts the shared pixels anew."""
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

    def column_of_rows(rows: Sequence[tuple[Any, ...]], index: int, kind: Any) -> Any:
        """Returns one field of all rows as an array."""
        return np.array([row[index] for row in rows], kind)

    return replace(
        own,
        gt_image=column_of_rows(gt, 0, np.int64),
        gt_id=column_of_rows(gt, 1, np.int32),
        gt_category=column_of_rows(gt, 2, np.int32),
        gt_area=column_of_rows(gt, 3, np.float64),
        gt_pixels=column_of_rows(gt, 4, np.int64),
        gt_iscrowd=column_of_rows(gt, 5, np.bool_),
        pair_image=column_of_rows(pairs, 0, np.int64),
        pair_det=column_of_rows(pairs, 1, np.int32),
        pair_gt=column_of_rows(pairs, 2, np.int32),
        pair_pixels=column_of_rows(pairs, 3, np.int64),
    )


def instances_of_map(matched: Matched, categories: Sequence[Category]) -> InstanceTable:
    """Returns the predicted and the true thing segments of a run's maps as an InstanceTable.

    Raises BadRun if a predicted thing has no score: AP ranks by it.
    """
    segments, overlaps = matched.segments, matched.overlaps
    things = np.isin(segments.category_id, [category.id for category in categories if category.isthing])
    det, gt = things & ~segments.is_gt, things & segments.is_gt
    unscored = int(np.isnan(segments.score[det]).sum())
    if unscored:
        raise BadRun(
            f"{unscored:,} of {int(det.sum()):,} predicted thing segments have no score, and AP ranks by score. Write "
            '"score" into the segments of the predictions\' JSON.'
        )

    # A true segment's pixels are counted in the PNG; its area is that of the JSON.
    covered = np.zeros(len(segments), np.int64)
    known = matched.gt_row >= 0
    np.add.at(covered, matched.gt_row[known], overlaps.pixels[known])
    met = (matched.gt_row >= 0) & (matched.pred_row >= 0)
    met[met] &= gt[matched.gt_row[met]] & det[matched.pred_row[met]]
    return InstanceTable(
        det_image=segments.image_id[det],
        det_id=segments.id[det],
        det_category=segments.category_id[det],
        det_score=segments.score[det].astype(np.float64),
        det_area=segments.area[det],
        gt_image=segments.image_id[gt],
        gt_id=segments.id[gt],
        gt_category=segments.category_id[gt],
        gt_area=segments.area[gt].astype(np.float64),
        gt_pixels=covered[gt],
        gt_iscrowd=segments.iscrowd[gt],
        pair_image=overlaps.image_id[met],
        pair_det=overlaps.pred_id[met],
        pair_gt=overlaps.gt_id[met],
        pair_pixels=overlaps.pixels[met],
    )
