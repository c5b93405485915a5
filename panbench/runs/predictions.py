"""The predictions of a run: writes predictions.json, and reads JSON and id PNGs held against what was recorded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadDataset, BadRun
from panbench.base.files import sha256_of, write_json
from panbench.panoptic.fingerprint import fingerprint_of_files
from panbench.panoptic.image_ids import image_id_of, own_id
from panbench.panoptic.types import PanopticSet
from panbench.runs.folder import Run
from panbench.runs.layout import PREDICTIONS, PREDICTIONS_JSON, RECORD
from panbench.runs.manifest import check_recorded, write_recorded
from panbench.runs.record import PredictionsRecord, category_record
from panbench.runs.sources import exist, paths_in, predicted

__all__ = [
    "check_predictions_json",
    "predictions_place",
    "stored_predictions",
    "take_predictions",
    "write_predictions_document",
    "write_predictions_json",
]


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
                "image_id": own_id(image_id),
                "file_name": file_name,
                "segments_info": [
                    {key: value for key, value in record.items() if value == value} for record in records
                ],
            }
        )
    return write_predictions_document(run.path, annotations, [category_record(one) for one in run.categories])


def write_predictions_document(
    run: Path, annotations: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
) -> Path:
    """Writes predictions.json into a run folder, its annotations by ascending image id; its path."""
    ordered = sorted(annotations, key=lambda each: image_id_of(each["image_id"]))
    content = json.dumps({"annotations": ordered, "categories": categories}, ensure_ascii=False, allow_nan=False) + "\n"
    return write_recorded(run, PREDICTIONS_JSON, content.encode())


def take_predictions(run: Run, path: Path, folder: Path, record: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Moves predictions that a run scored, a JSON and its PNGs, into the run folder, and records them there.

    record: further fields of run.json
    """
    assert run.path is not None
    assert run.info.predictions is not None
    document = json.loads(path.read_bytes())
    folder.replace(run.path / PREDICTIONS)
    kept = write_predictions_document(
        run.path, document["annotations"], [category_record(category) for category in run.categories]
    )
    taken = PredictionsRecord(str(kept.absolute()), str((run.path / PREDICTIONS).absolute()), sha256_of(kept))
    write_json(run.path / RECORD, replace(run.info, predictions=taken, **record).to_json())


def predictions_place(run: Run) -> tuple[Path, Path] | None:
    """The JSON and the folder of id PNGs that a run kept, or else scored; None without them."""
    if run.path is not None and (run.path / PREDICTIONS_JSON).is_file():
        return run.path / PREDICTIONS_JSON, run.path / PREDICTIONS
    scored = run.info.predictions
    if scored is not None and scored.json and exist(scored.json):
        return recorded_path(scored.json), recorded_path(scored.folder)
    return None


def check_predictions_json(run: Run, path: Path) -> bool:
    """Whether the predictions' JSON is what the run recorded of it; False when it recorded nothing.

    Raises BadRun for one that differs, BadDataset for one that cannot be read.
    """
    if run.path is not None and path == run.path / PREDICTIONS_JSON and check_recorded(run.path, PREDICTIONS_JSON):
        return True
    scored = run.info.predictions
    if scored is None or Path(scored.json).name != path.name:
        return False
    try:
        found = fingerprint_of_files(map(sha256_of, paths_in(path)))
    except OSError as problem:
        raise BadDataset(f"{path} cannot be read: {problem.strerror or problem}.") from None
    if found != scored.sha256:
        raise BadRun(
            f"{path} is not what {run.name} was made from (its SHA-256 differs). Restore it, or score it again."
        )
    return True


def stored_predictions(run: Run) -> PanopticSet | None:
    """The predictions of a run; None where they are not there. Their id PNGs are checked when `read_ids` reads them.

    Raises BadRun for a JSON that changed since the run was made.
    """
    place = predictions_place(run)
    if place is None:
        return None
    check_predictions_json(run, place[0])
    return replace(predicted(*place), digests=run.files.predictions())
