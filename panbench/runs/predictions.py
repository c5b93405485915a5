"""Writes predictions.json of a run, and reads its predictions, verified against the hashes in the run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadDataset, BadRun
from panbench.base.files import sha256_of, write_json
from panbench.panoptic.fingerprint import fingerprint_of_files
from panbench.panoptic.image_ids import image_id_of, own_id
from panbench.panoptic.types import PanopticSet, Scene
from panbench.runs.folder import Run
from panbench.runs.hashes import check_recorded, write_recorded
from panbench.runs.layout import PREDICTIONS, PREDICTIONS_JSON, RECORD
from panbench.runs.record import PredictionsRecord, category_record
from panbench.runs.sources import files_exist, read_predictions, split_paths

if TYPE_CHECKING:
    from panbench.datasets import Dataset


def write_predictions_json(run: Run, file_names: Mapping[int, str]) -> Path:
    """Writes predictions.json next to predictions/; returns its path. file_names: id PNG by image id"""
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
    """Writes predictions.json into a run folder, annotations by ascending image id; returns its path."""
    ordered = sorted(annotations, key=lambda each: image_id_of(each["image_id"]))
    content = json.dumps({"annotations": ordered, "categories": categories}, ensure_ascii=False, allow_nan=False) + "\n"
    return write_recorded(run, PREDICTIONS_JSON, content.encode())


def adopt_predictions(run: Run, path: Path, folder: Path, record: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Moves the scored predictions (a JSON and its folder of PNGs) into the run folder and updates run.json.

    record: other fields of run.json to set
    """
    assert run.path is not None
    assert run.info.predictions is not None
    document = json.loads(path.read_bytes())
    folder.replace(run.path / PREDICTIONS)
    written = write_predictions_document(
        run.path, document["annotations"], [category_record(category) for category in run.categories]
    )
    taken = PredictionsRecord(str(written.absolute()), str((run.path / PREDICTIONS).absolute()), sha256_of(written))
    write_json(run.path / RECORD, replace(run.info, predictions=taken, **record).to_json())


def predictions_paths(run: Run) -> tuple[Path, Path] | None:
    """Returns the JSON and the folder of id PNGs that a run stored, or else scored; None if neither exists."""
    if run.path is not None and (run.path / PREDICTIONS_JSON).is_file():
        return run.path / PREDICTIONS_JSON, run.path / PREDICTIONS
    scored = run.info.predictions
    if scored is not None and scored.json and files_exist(scored.json):
        return recorded_path(scored.json), recorded_path(scored.folder)
    return None


def check_predictions_json(run: Run, path: Path) -> bool:
    """Verifies the predictions' JSON against the hash in the run; returns False if none was recorded.

    Raises BadRun for one that differs, BadDataset for one that cannot be read.
    """
    if run.path is not None and path == run.path / PREDICTIONS_JSON and check_recorded(run.path, PREDICTIONS_JSON):
        return True
    scored = run.info.predictions
    if scored is None or Path(scored.json).name != path.name:
        return False
    try:
        found = fingerprint_of_files(map(sha256_of, split_paths(path)))
    except OSError as problem:
        raise BadDataset(f"{path} cannot be read: {problem.strerror or problem}.") from None
    if found != scored.sha256:
        raise BadRun(
            f"{path} is not what {run.name} was made from (its SHA-256 differs). Restore it, or score it again."
        )
    return True


def stored_predictions(run: Run) -> PanopticSet | None:
    """Opens a run's predictions, None if absent; each id PNG is verified by its hash when it is read.

    Raises BadRun for a JSON that changed since the run was made.
    """
    stored = predictions_paths(run)
    if stored is None:
        return None
    check_predictions_json(run, stored[0])
    return replace(read_predictions(*stored), digests=run.files.predictions())


def png_name(scene: Scene) -> str:
    """Returns the name of an image's id PNG in predictions/: the image's with `.png`, subfolders included."""
    return Path(scene.image.file_name).with_suffix(".png").as_posix()


def shared_name(dataset: "Dataset") -> tuple[int, int, str] | None:
    """Finds two images that would share an id PNG (1.jpg and 1.png): returns their ids and its name, or None."""
    first_with: dict[str, int] = {}
    for scene in dataset.scenes:
        name = png_name(scene)
        other = first_with.setdefault(name, scene.image.id)
        if other != scene.image.id:
            return other, scene.image.id, name
    return None
