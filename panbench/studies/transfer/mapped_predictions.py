"""Rewrites predictions of other categories in the categories of the ground truth."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from panbench.base.addresses import path_at
from panbench.base.errors import BadArgument, PredictionMismatch
from panbench.base.program import available_cores
from panbench.base.reporter import Reporter
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


def write_mapped_predictions(
    source: str, scoring: Scoring, out: Path, reporter: Reporter
) -> tuple[Path, CategoryMap, Mapping[int, str]]:
    """Writes predictions with their categories mapped to those of the ground truth.

    Returns their JSON, the category map, and the name of each source category.
    source: a category map as JSON, or the name of a shipped one. The predictions' categories are those that their JSON
        lists, else those of the data set that the map starts from.
    Raises BadArgument if neither defines the predictions' ids, and for a map that does not fit.
    """
    target = read_panoptic_json(scoring.gt, scoring.gt_dir).categories
    predicted = read_predictions_json(scoring.pred, scoring.pred_dir)
    own = _listed_categories(scoring.pred) or _shipped_categories(source_set(source))
    if not own:
        raise BadArgument(
            f"{scoring.pred} lists no categories, so the names in {source} mean nothing to it. Add COCO's `categories` "
            "(id, name, isthing) to the JSON."
        )
    mapping = read_category_map(source, own, target)
    known = {category.id for category in own}

    def write_mapped_png(annotation: Annotation) -> Annotation:
        """Writes an image's PNG in mapped categories; returns its annotation."""
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
        for done, annotation in enumerate(pool.map(write_mapped_png, predicted.annotations.values()), start=1):
            annotations[annotation.image_id] = annotation
            reporter.progress("Mapping categories", done, total)
    target_json = out / "predictions.json"
    write_panoptic_json(target_json, PanopticSet(target, {}, annotations, out / "predictions", target_json))
    return target_json, mapping, {category.id: category.name for category in own}


def _listed_categories(predictions: Path) -> Sequence[Category]:
    """Returns the categories listed in a predictions JSON. Raises BadArgument for malformed records."""
    listed = json.loads(path_at(predictions).read_bytes()).get("categories") or ()
    try:
        return [Category(int(each["id"]), str(each["name"]), bool(each.get("isthing", True))) for each in listed]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadArgument(f"{predictions}: a category needs `id` and `name`.") from None


def _shipped_categories(name: str | None) -> Sequence[Category]:
    """Returns the categories of a data set that panbench ships; none if the name is not one."""
    return shipped_categories(name) if name in SHIPPED else ()
