"""The last section of the page: how each run was made."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panbench.catalog import Published
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.rendering import Markup, render
from panbench.runs import ModelRecord

_IN_CODE = {"SHA-256 of the weights", "SHA-256 of the ground truth", "Command", "Config", "Weights", "Run"}


def provenance(members: Sequence[Compared]) -> Markup:
    """Renders how the runs were made, a column per run; facts that are equal in all runs are printed once."""
    records = [_provenance_facts(member) for member in members]
    names = dict.fromkeys(name for record in records for name in record)
    return render(
        "panbench.report.pages.page:provenance.html",
        labels=[member.label for member in members],
        in_short=[_provenance_line(record) for record in records],
        commands=list(dict.fromkeys(record["Command"] for record in records if "Command" in record)),
        rows=[(name, name in _IN_CODE, [record.get(name, "–") for record in records]) for name in names],
    )


def _provenance_line(record: Mapping[str, str]) -> str:
    """Returns one line on how a run was made: its state, weights, device and precision."""
    digest = record.get("SHA-256 of the weights")
    parts = [
        record["State"],
        f"weights {digest[:12]}" if digest else record.get("Weights") and f"{record['Weights']} weights",
        record.get("Device"),
        record.get("Precision"),
    ]
    return " · ".join(part for part in parts if part)


def _provenance_facts(member: Compared) -> dict[str, str]:
    """Returns the facts of how a run was made, by their names on the page; absent ones are left out."""
    info, row = member.run.info, member.row
    model, dataset, device, versions = info.model or ModelRecord(), info.dataset, info.device, dict(info.versions)
    operators = versions.pop("operators", None)
    listed = "?" if dataset.n_images is None else dataset.n_images
    held, status = len(member.run.image_ids()), str(info.status)
    if not row.complete:
        status += f", incomplete: {held:,} of {info.images.expected or '?'} images"
    record = {
        "Run": member.run.name,
        "State": status,
        "Damage": " ".join(member.run.faults),
        "Model": _join_known(model.title, model.backbone),
        "Config": _file_name(model.config),
        "Weights": "random" if model.random_weights else _file_name(model.weights),
        "SHA-256 of the weights": model.weights_sha256,
        "Published PQ": _published_text(model.published),
        "Data": _join_known(dataset.name, dataset.split),
        "Images": f"{row.images:,} shown, {held:,} scored, {listed} in the set",
        "SHA-256 of the ground truth": dataset.fingerprint,
        "Device": _join_known(device.name, f"({device.type})" if device.type else None),
        "Rule": None if info.rule is None else str(info.rule),
        "Precision": info.precision,
        "Batch size": info.batch_size,
        "Seed": info.seed,
        "Seconds": ", ".join(
            f"{stage} {spent:,.1f}" for stage, spent in vars(info.seconds).items() if spent is not None
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Operators": operators,
        "panbench": _join_known(info.panbench, (info.git_commit or "")[:12] or None),
        "Started": info.started,
        "Finished": info.finished,
        "Command": shlex.join(info.command) or None,
    }
    return {name: str(value) for name, value in record.items() if value not in (None, "")}


def _join_known(*parts: Any) -> str:
    """Joins the parts that are not empty with spaces."""
    return " ".join(str(part) for part in parts if part)


def _file_name(path: Any) -> str | None:
    """Returns a path's file name; None without a path."""
    return Path(str(path)).name if path else None


def _published_text(published: Published | None) -> str | None:
    """Describes the published result of a model, as "51.9 on coco val2017"; None without one."""
    if published is None:
        return None
    return _join_known(percent(published.PQ, 1), "on", published.dataset, published.split)
