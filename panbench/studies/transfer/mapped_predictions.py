"""Predictions of other categories than the ground truth's, written again in its own."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from panbench.base.addresses import path_at
from panbench.base.errors import BadArgument, PredictionMismatch
from panbench.base.reporter import Reporter
from panbench.base.threads import available_cores
from panbench.datasets.category_map import CategoryMap, map_prediction, read_category_map, source_set
from panbench.datasets.convert import SHIPPED, shipped_categories
from panbench.panoptic.coco import (
    read_id_png,
    read_panoptic_json,
    read_predictions_json,
    write_id_png,
    write_panoptic_json,
)
from panbench.panoptic.types import Annotation, Category, PanopticPrediction, PanopticSet
from panbench.report.answers.options import Scoring

__all__ = ["write_mapped"]


def write_mapped(
    source: str, scoring: Scoring, out: Path, reporter: Reporter
) -> tuple[Path, CategoryMap, Mapping[int, str]]:
    """Writes the predictions through a category map into a folder: their JSON, the map, and the name of each of its
    source categories.

    source: a JSON, or the name of a shipped map. The predictions' categories are those that their JSON lists, else
        those of the set that the map is from.
    Raises BadArgument where neither says what the predictions' ids mean, and for a map that does not fit.
    """
    target = read_panoptic_json(scoring.gt, scoring.gt_dir).categories
    predicted = read_predictions_json(scoring.pred, scoring.pred_dir)
    own = _categories(scoring.pred) or _shipped(source_set(source))
    if not own:
        raise BadArgument(
            f"{scoring.pred} lists no categories, so the names in {source} mean nothing to it. Add COCO's `categories` "
            "(id, name, isthing) to the JSON."
        )
    mapping = read_category_map(source, own, target)
    known = {category.id for category in own}

    def mapped(annotation: Annotation) -> Annotation:
        if unknown := sorted({segment.category_id for segment in annotation.segments} - known):
            raise PredictionMismatch(
                f"Image {annotation.image_id} has a prediction of category {unknown[0]}, which is none of the "
                f"{len(own)} that the map is from."
            )
        ids = read_id_png(predicted.png_path(annotation.image_id), image_id=annotation.image_id)
        found = map_prediction(PanopticPrediction(annotation.image_id, ids, annotation.segments), mapping)
        write_id_png(out / "predictions" / annotation.file_name, found.ids)
        return Annotation(annotation.image_id, annotation.file_name, found.segments)

    annotations, total = {}, len(predicted.annotations)
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, annotation in enumerate(pool.map(mapped, predicted.annotations.values()), start=1):
            annotations[annotation.image_id] = annotation
            reporter.progress("Mapping categories", done, total)
    target_json = out / "predictions.json"
    write_panoptic_json(target_json, PanopticSet(target, {}, annotations, out / "predictions", target_json))
    return target_json, mapping, {category.id: category.name for category in own}


def _categories(predictions: Path) -> Sequence[Category]:
    """The categories that the JSON of predictions lists. Raises BadArgument for records that are none."""
    listed = json.loads(path_at(predictions).read_bytes()).get("categories") or ()
    try:
        return [Category(int(each["id"]), str(each["name"]), bool(each.get("isthing", True))) for each in listed]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadArgument(f"{predictions}: a category needs `id` and `name`.") from None


def _shipped(name: str | None) -> Sequence[Category]:
    return shipped_categories(name) if name in SHIPPED else ()
