"""The last section of the page: what was run."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panbench.catalog import Published
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.rendering import Markup, render
from panbench.runs import ModelRecord

__all__ = ["provenance"]

_IN_CODE = {"SHA-256 of the weights", "SHA-256 of the ground truth", "Command", "Config", "Weights", "Run"}


def provenance(members: Sequence[Compared]) -> Markup:
    """What was run, a column a run; what is the same in all is said once."""
    records = [_run_record(member) for member in members]
    names = dict.fromkeys(name for record in records for name in record)
    return render(
        "panbench.report.pages.page:provenance.html",
        labels=[member.label for member in members],
        in_short=[_in_short(record) for record in records],
        commands=list(dict.fromkeys(record["Command"] for record in records if "Command" in record)),
        rows=[(name, name in _IN_CODE, [record.get(name, "–") for record in records]) for name in names],
    )


def _in_short(record: Mapping[str, str]) -> str:
    """One line on a run: its state, weights and device."""
    digest = record.get("SHA-256 of the weights")
    parts = [
        record["State"],
        f"weights {digest[:12]}" if digest else record.get("Weights") and f"{record['Weights']} weights",
        record.get("Device"),
        record.get("Precision"),
    ]
    return " · ".join(part for part in parts if part)


def _run_record(member: Compared) -> dict[str, str]:
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
        "Model": _joined(model.title, model.backbone),
        "Config": _file(model.config),
        "Weights": "random" if model.random_weights else _file(model.weights),
        "SHA-256 of the weights": model.weights_sha256,
        "Published PQ": _published(model.published),
        "Data": _joined(dataset.name, dataset.split),
        "Images": f"{row.images:,} shown, {held:,} scored, {listed} in the set",
        "SHA-256 of the ground truth": dataset.fingerprint,
        "Device": _joined(device.name, f"({device.type})" if device.type else None),
        "Rule": None if info.rule is None else str(info.rule),
        "Precision": info.precision,
        "Batch size": info.batch_size,
        "Seed": info.seed,
        "Seconds": ", ".join(
            f"{stage} {spent:,.1f}" for stage, spent in vars(info.seconds).items() if spent is not None
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Operators": operators,
        "panbench": _joined(info.panbench, (info.git_commit or "")[:12] or None),
        "Started": info.started,
        "Finished": info.finished,
        "Command": shlex.join(info.command) or None,
    }
    return {name: str(value) for name, value in record.items() if value not in (None, "")}


def _joined(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part)


def _file(path: Any) -> str | None:
    return Path(str(path)).name if path else None


def _published(published: Published | None) -> str | None:
    if published is None:
        return None
    return _joined(percent(published.PQ, 1), "on", published.dataset, published.split)
