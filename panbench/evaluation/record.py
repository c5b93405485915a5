"""Fills run.json for an evaluation: before the first image, on resuming, and at the end."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from panbench.base import provenance
from panbench.base.addresses import is_remote
from panbench.base.reporter import Reporter
from panbench.datasets import Dataset
from panbench.evaluation.loop import LoopResult
from panbench.evaluation.options import EvaluateOptions, Joined
from panbench.models.model import Model, running_settings
from panbench.models.rules import Rule
from panbench.panoptic.image_ids import own_id
from panbench.runs import (
    CANDIDATES,
    PREDICTIONS,
    DatasetRecord,
    DeviceRecord,
    FileHashes,
    MemoryRecord,
    RuleRecord,
    Run,
    RunInfo,
    RunWriter,
    SecondsRecord,
    SummaryRecord,
    candidate_files,
    digest_of,
    recorded,
)
from panbench.runs.comparable import refuse_other_settings
from panbench.runs.definitions import current_definitions, definitions_in_words
from panbench.runs.predictions import png_name


def first_record(
    model: Model,
    dataset: Dataset,
    arguments: dict[str, Any],
    command: Sequence[str],
    rule: Rule,
) -> RunInfo:
    """Makes the record of a run before its first image."""
    device, described, running = model.device, rule.describe(model.describe()), running_settings(model)
    return RunInfo(
        model=described,
        # Fusing again gives a stored model another rule; `paper` is then its own.
        rule=replace(RuleRecord.of(rule.record()), default=rule.record() == model.paper.record()),
        dataset=DatasetRecord(
            name=dataset.name,
            split=dataset.split,
            gt=str(dataset.gt),
            gt_dir=None if dataset.gt_dir is None else str(dataset.gt_dir.absolute()),
            images=str(dataset.images),
            fingerprint=dataset.fingerprint,
            rows=dataset.rows,
            n_images=dataset.n_images,
            has_ground_truth=dataset.has_ground_truth,
        ),
        categories=tuple(dataset.categories),
        arguments=arguments,
        versions={**provenance.versions(), **model.versions},
        git_commit=provenance.git_commit(),
        device=DeviceRecord(
            **provenance.describe_device(
                device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else None
            )
        ),
        precision=running["precision"],
        batch_size=arguments["batch_size"],
        seed=running["seed"],
        command=tuple(command),
    )


def resume_settings(
    model: Model,
    dataset: Dataset,
    options: EvaluateOptions,
    rule: Rule,
    joined: Sequence[Joined],
) -> dict[str, Any]:
    """Returns the settings that must match for --resume: run.json's `arguments` without the batch size.

    joined: what studies add, with their settings
    """
    described, running = model.describe(), running_settings(model)
    return {
        "config_sha256": described.config_sha256,
        "weights_sha256": described.weights_sha256,
        "dataset_fingerprint": dataset.fingerprint,
        # A resumed run must have the same images in the same order.
        "images_sha256": hashlib.sha256(json.dumps([scene.image.id for scene in dataset.scenes]).encode()).hexdigest(),
        "device": model.device.type,
        "exif": dataset.exif,
        **running,
        **rule.settings,
        "definitions": definitions_in_words(current_definitions(described, running)),
        "rule": str(RuleRecord.of(rule.record())),
        "skip_bad_images": options.skip_bad_images,
        "save_predictions": options.save_predictions,
        **({} if options.shard is None else {"shard": str(options.shard)}),
        **{name: value for each in joined for name, value in each.settings.items()},
    }


def check_settings(run: Run, settings: Mapping[str, Any], batch_size: int | str | None) -> None:
    """Raises BadRun if a stored run's settings differ from those to resume it with."""
    stored = run.info.arguments
    requested = {**settings, "batch_size": batch_size if isinstance(batch_size, int) else stored.get("batch_size")}
    # Settings that only some models have, such as views, or those of a study that is no longer installed.
    others = {key: None for key, value in stored.items() if value not in (None, False, "") and key not in requested}
    different = [
        f"{key} was {stored.get(key)!r} and is now {value!r}"
        for key, value in (requested | others).items()
        if stored.get(key) != value
    ]
    refuse_other_settings(run.path or run.name, different)


def changed_input_files(run: Run, dataset: Dataset) -> list[str]:
    """Returns the images and id PNGs that changed since a stored run read them; absent files do not count."""
    stored = run.files.rows
    row_of = {image_id: row for row, image_id in enumerate(stored["image_id"].tolist())}
    changed = []
    for scene in dataset.scenes:
        row = row_of.get(scene.image.id)
        # Files in a store are not fetched again to resume: `runs verify` does that.
        if row is None or is_remote(scene.gt_path or scene.image_path):
            continue
        for path, digest in ((scene.image_path, stored["image"][row]), (scene.gt_path, stored["truth"][row])):
            now = digest_of(path) if digest.any() else b""
            if now and now != digest.tobytes():
                changed.append(str(path))
    return changed


def changed_predictions(run: Run, dataset: Dataset) -> list[str]:
    """Returns the predicted PNGs of a stored run's scored images that changed or are missing."""
    digests = run.files.predictions()
    if run.path is None or not digests:
        return []
    folder = run.path / PREDICTIONS
    paths = ((folder / png_name(scene), digests.get(scene.image.id)) for scene in dataset.scenes)
    return [str(path) for path, digest in paths if digest is not None and digest_of(path) != digest]


def changed_candidate_files(run: Run) -> list[str]:
    """Returns the candidate files that changed since a stored run wrote them; absent files do not count."""
    if run.path is None:
        return []
    existing = {f"{CANDIDATES}/{path.name}" for path in candidate_files(run.path)}
    changed = []
    for name, digest in sorted(recorded(run.path).items()):
        if name in existing and digest_of(run.path / name).hex() != digest:
            changed.append(str(run.path / name))
    return changed


def close_run(
    writer: RunWriter,
    result: LoopResult,
    own: Mapping[str, float],
    dataset: Dataset | None,
    reporter: Reporter,
    status: str,
    error: str | None,
) -> Run:
    """Writes the final state of a run: what was scored, in all sessions, and how long it took.

    own: further seconds by stage of this run alone
    dataset: to report its photographs with EXIF orientation or extraneous bytes; None for no report
    """
    run = Run(writer.info, writer.path)
    scored, expected = len(run.images), writer.info.images.expected or 0
    before, spent_now = writer.info.seconds, {**result.seconds, **own}
    seconds = {stage: (getattr(before, stage) or 0.0) + spent for stage, spent in spent_now.items()}
    # An image that could not be read earlier may have been repaired and scored since.
    scored_ids = frozenset(run.images.tolist())
    skipped = {**writer.info.images.skipped_ids, **result.skipped}
    skipped = {image_id: reason for image_id, reason in skipped.items() if image_id not in scored_ids}
    faults = run.ground_truth_faults() if scored else None
    if faults is not None and faults.notice and status == "done":
        reporter.notice(faults.notice)
    files = run.files
    if status == "done" and dataset is not None:
        for message in _photograph_notices(files, dataset):
            reporter.notice(message)
    return writer.finish(
        status,
        error=error,
        summary=SummaryRecord.of(run.summary()) if scored else None,
        images=replace(
            writer.info.images,
            scored=scored,
            missing=expected - scored - len(skipped),
            skipped=len(skipped),
            skipped_ids=skipped,
            oriented=len(files.oriented),
            extraneous=len(files.extraneous),
            gt_faults=faults,
        ),
        seconds=SecondsRecord(**{stage: round(spent, 4) for stage, spent in seconds.items()}),
        **_speed_fields(result),
        memory=MemoryRecord(host_peak_bytes=result.host_memory, device_peak_bytes=result.device_memory),
    )


def _photograph_notices(files: FileHashes, dataset: Dataset) -> list[str]:
    """Returns messages that photographs have an EXIF orientation, or that JPEGs have extraneous bytes."""
    named = [*files.oriented[:1].tolist(), *files.extraneous[:1].tolist()]
    paths = {scene.image.id: scene.image_path for scene in dataset.scenes if scene.image.id in named}
    messages = []
    if len(files.oriented):
        what = (
            "They were rotated accordingly, as mmdet and OpenCV do; id maps of the ground truth are never rotated. If "
            "those were drawn on the photographs as stored, evaluate with --exif ignore."
            if dataset.exif == "apply"
            else "They were read as stored (--exif ignore)."
        )
        messages.append(
            f"{len(files.oriented):,} of {len(files):,} photographs have an EXIF orientation other than upright, "
            f"such as {paths[int(files.oriented[0])]} (image {own_id(files.oriented[0])}). {what}"
        )
    if len(files.extraneous):
        messages.append(
            f"{len(files.extraneous):,} of {len(files):,} images are JPEGs with extraneous bytes, such as "
            f"{paths[int(files.extraneous[0])]} (image {own_id(files.extraneous[0])}). Their pixels are whole."
        )
    return messages


def _speed_fields(result: LoopResult) -> dict[str, float]:
    """Returns run.json's fields for images per second (mean, lowest, highest); {} after too few batches."""
    if result.rate is None:
        return {}
    names = {"mean": "images_per_second", "low": "images_per_second_low", "high": "images_per_second_high"}
    return {name: round(getattr(result.rate, part), 4) for part, name in names.items()}
