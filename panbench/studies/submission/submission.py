"""A run's predictions as the zip that COCO's panoptic evaluation server takes, checked before it is written.

The zip holds panoptic_<testset>_<algorithm>_results.json and the folder of the same name with the id PNGs, nothing
else. [cocodataset.org/#upload; mmdetection, docs/en/user_guides/test_results_submission.md]
"""

import json
import os
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadDataset, BadRun, PredictionMismatch
from panbench.base.files import atomic_write
from panbench.base.program import default_threads
from panbench.base.text import listed
from panbench.datasets.check import measure_segments
from panbench.datasets.fetch import coco_paths, panoptic_categories
from panbench.panoptic.coco import read_ids, read_predictions_json
from panbench.panoptic.types import VOID, Annotation, PanopticSet
from panbench.runs import load_run, stored_predictions

TESTSETS = ("test-dev2017", "val2017")

# ZIP members carry a date; with a fixed one, equal predictions make equal files.
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Submission:
    """The written zip, the names in it, and counts. `bytes` is the zip's size."""

    path: Path
    json_name: str
    folder_name: str
    n_images: int
    n_segments: int
    bytes: int


def write_submission(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    testset: str = "test-dev2017",
    algorithm: str | None = None,
    images: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Submission:
    """Checks a run's predictions against the test set's list of images; writes the zip if they have no fault.

    run: a run folder with predictions, or a predictions JSON with its PNGs next to it
    out: the zip, or a folder for one under the server's name
    algorithm: the name on the leaderboard; by default the model's
    images: the list of images; by default COCO's under data/coco (panoptic_image_info_test-dev2017.json)
    Raises PredictionMismatch naming images and ids, BadRun, BadArgument, BadDataset.
    """
    if testset not in TESTSETS:
        raise BadArgument(f"The test set {testset!r} is unknown; choose from {' and '.join(TESTSETS)}.")
    predictions, model = _predictions_to_submit(Path(run))
    name = algorithm if algorithm is not None else re.sub(r"[^A-Za-z0-9_-]+", "-", model).strip("-")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise BadArgument(f"The algorithm's name {name!r} may contain only letters, digits, - and _; give another.")
    stem = f"panoptic_{testset}_{name}_results"
    target = Path(out)
    if target.is_dir() or target.suffix.lower() != ".zip":
        target = target / f"{stem}.zip"
    if target.exists() and not overwrite:
        raise BadArgument(f"{target} already exists. Give another name, or --overwrite.")
    listed_images = _image_sizes(images if images is not None else _test_set_image_list(testset))
    _check_all_predicted(predictions, listed_images)
    records = _server_records(predictions, listed_images, progress)
    document = json.dumps({"annotations": records}, separators=(",", ":")).encode()
    with atomic_write(target) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        _write_zip_member(archive, f"{stem}.json", document, zipfile.ZIP_DEFLATED)
        for record in records:
            content = predictions.png_path(record["image_id"]).read_bytes()
            # PNGs are already compressed.
            _write_zip_member(archive, f"{stem}/{record['file_name']}", content, zipfile.ZIP_STORED)
    n_segments = sum(len(record["segments_info"]) for record in records)
    return Submission(target, f"{stem}.json", stem, len(records), n_segments, target.stat().st_size)


def _predictions_to_submit(run: Path) -> tuple[PanopticSet, str]:
    """Returns the predictions of a run folder or a JSON, and the name of the model, folder or file."""
    if not run.is_dir():
        if not run.exists():
            raise BadRun(f"{run} does not exist. Give a run folder or a predictions JSON.")
        return read_predictions_json(run), run.stem
    path = run / "predictions.json"
    if not path.is_file():
        raise BadRun(
            f"{run} has no predictions.json. Run the model again with --save-predictions, or give a predictions JSON."
        )
    name = run.resolve().name
    if (run / "run.json").exists():
        stored = load_run(run)
        info = stored.info
        name = (info.model and info.model.name) or name
        if info.status != "done":
            raise BadRun(f"{run} is {info.status}, not done. Finish it first: the same `panbench eval` with --resume.")
        if (predictions := stored_predictions(stored)) is not None:
            return predictions, name
    return read_predictions_json(path, run / "predictions"), name


def _test_set_image_list(testset: str) -> Path:
    """Returns the file with COCO's list of the test set's images. Raises BadDataset if it was not downloaded."""
    split = testset.removesuffix("2017")
    path = coco_paths("data/coco", split)[0]
    if not path.is_file():
        raise BadDataset(
            f"{path}, the list of the test set's images, was not found. Fetch it with "
            f"`panbench data coco --split {split} --limit 1`, or name it with --image-list."
        )
    return path


def _image_sizes(path: str | os.PathLike[str]) -> dict[int, tuple[int, int]]:
    """Reads a list of images in COCO's format; returns (height, width) by image id."""
    try:
        images = json.loads(Path(path).read_bytes())["images"]
        return {int(image["id"]): (int(image["height"]), int(image["width"])) for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadDataset(f"{path} is not a list of images in COCO's format ({error!r}).") from error


def _check_all_predicted(predictions: PanopticSet, images: dict[int, tuple[int, int]]) -> None:
    missing = [image_id for image_id in images if image_id not in predictions.annotations]
    if missing:
        raise PredictionMismatch(
            f"{len(missing):,} of the test set's {len(images):,} images have no prediction: {listed(missing, most=5)}. "
            "The server refuses partial submissions: run the model on all images."
        )
    unknown_ids = [image_id for image_id in predictions.annotations if image_id not in images]
    if unknown_ids:
        raise PredictionMismatch(
            f"{len(unknown_ids):,} predicted images are not in the test set: {listed(unknown_ids, most=5)}."
        )


def _server_records(
    predictions: PanopticSet, images: dict[int, tuple[int, int]], progress: Callable[[int, int], None] | None
) -> list[dict[str, Any]]:
    """Checks all predictions; returns a record per image in the test set's order. Raises one error for all faults."""
    categories = {category["id"] for category in panoptic_categories()}
    names = [_submitted_png(predictions.annotations[image_id]) for image_id in images]
    if len(set(names)) != len(names):
        raise PredictionMismatch(f"{predictions.path}: several images have the same PNG.")

    def check(image_id: int) -> list[str]:
        """Returns the faults of an image's prediction."""
        return _server_faults(predictions, predictions.annotations[image_id], images[image_id], categories)

    faults: list[str] = []
    with ThreadPoolExecutor(default_threads(extra=1)) as pool:
        for number, found in enumerate(pool.map(check, images), 1):
            faults.extend(found)
            if progress is not None:
                progress(number, len(images))
    if faults:
        more = f" ({len(faults) - 3:,} more like this)" if len(faults) > 3 else ""
        raise PredictionMismatch(f"Not written: {' '.join(faults[:3])}{more}")
    return [_submitted_record(predictions.annotations[image_id]) for image_id in images]


def _server_faults(
    predictions: PanopticSet, annotation: Annotation, shape: tuple[int, int], categories: set[int]
) -> list[str]:
    """Returns a sentence for each fault of an image's prediction that the server would reject."""
    where = f"Image {annotation.image_id}"
    try:
        ids = read_ids(predictions, annotation.image_id, shape, PredictionMismatch)
    except PredictionMismatch as error:
        return [str(error)]
    faults = []
    found = {int(value) for value in measure_segments(ids)[0]} - {VOID}
    described = {segment.id for segment in annotation.segments}
    if found - described:
        faults.append(f"{where}: the PNG has ids that the JSON does not describe: {listed(sorted(found - described))}.")
    if described - found:
        faults.append(f"{where}: the JSON describes ids without a pixel: {listed(sorted(described - found))}.")
    unknown = {segment.category_id for segment in annotation.segments} - categories
    if unknown:
        faults.append(f"{where}: category ids {listed(sorted(unknown))} are not among COCO's 133.")
    return faults


def _submitted_png(annotation: Annotation) -> str:
    """Returns the name of an image's PNG in the zip."""
    return Path(annotation.file_name).with_suffix(".png").name


def _submitted_record(annotation: Annotation) -> dict[str, Any]:
    """Returns an image's record in the submitted JSON."""
    return {
        "image_id": annotation.image_id,
        "file_name": _submitted_png(annotation),
        "segments_info": [{"id": segment.id, "category_id": segment.category_id} for segment in annotation.segments],
    }


def _write_zip_member(archive: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    """Adds a file to the zip, under a fixed date, so that equal predictions make equal zips."""
    info = zipfile.ZipInfo(name, _FIXED_DATE)
    info.compress_type = method
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
