"""predictions.json of a run, from its own tables: what panopticapi and COCO's server take."""

from collections.abc import Mapping
from pathlib import Path

from panbench.base.files import write_json
from panbench.runs.folder import Run
from panbench.runs.layout import PREDICTIONS_JSON
from panbench.runs.record import category_record

__all__ = ["write_predictions_json"]


def write_predictions_json(run: Run, file_names: Mapping[int, str]) -> Path:
    """Writes predictions.json beside predictions/; its path. file_names: of each image's id PNG in that folder."""
    assert run.path is not None
    segments = run.segments()
    by_image = dict(list(segments[segments["side"] == "pred"].groupby("image_id")))
    annotations = []
    for image_id, file_name in file_names.items():
        rows = by_image.get(image_id)
        records = [] if rows is None else rows[["id", "category_id", "area", "score"]].to_dict("records")
        annotations.append(
            {
                "image_id": image_id,
                "file_name": file_name,
                "segments_info": [
                    {key: value for key, value in record.items() if value == value} for record in records
                ],
            }
        )
    path = run.path / PREDICTIONS_JSON
    categories = [category_record(category) for category in run.categories]
    write_json(path, {"annotations": annotations, "categories": categories}, indent=None)
    return path
