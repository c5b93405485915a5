"""Which distribution the package `mmdet` is from: mmdet itself, or a fork that imports under its name."""

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping

__all__ = ["FORKS", "import_quietly", "is_fork", "refusal"]

FORKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onedl-mmdetection": {
        "onedl-mmdetection": ("3.5.1",),
        "onedl-mmcv": ("2.3.6",),
        "onedl-mmengine": ("0.10.12",),
    },
}
"""Forks by name, and the versions of their parts for which tests/models/mmdet and tests/models/rules passed."""


def refusal() -> str | None:
    """Why the installed fork of mmdet is not used, in a sentence; None for mmdet itself and for a fork that passed."""
    for fork, parts in FORKS.items():
        found = {part: version for part in parts if (version := _version(part)) is not None}
        if fork not in found:
            continue
        if (own := _version("mmdet")) is not None:
            return (
                f"mmdet {own} and its fork {fork} {found[fork]} are both installed, into one folder: which of their "
                f"files are left, nobody can say. {_ways(fork)}"
            )
        untested = [f"{part} {version}" for part, version in found.items() if version not in parts[part]]
        if untested:
            tested = ", ".join(f"{part} {' or '.join(versions)}" for part, versions in parts.items())
            return (
                f"{', '.join(untested)} takes the place of mmdet; of this fork panbench is tested with {tested}. "
                f"{_ways(fork)}"
            )
    return None


def is_fork() -> bool:
    """Whether a fork of mmdet is installed."""
    return any(_version(fork) is not None for fork in FORKS)


def import_quietly() -> None:
    """Imports what a fork announces on standard output when it is imported, where panbench prints results alone."""
    if is_fork() and "mmdet.datasets" not in sys.modules:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module("mmdet.datasets")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ways(fork: str) -> str:
    parts = FORKS[fork]
    tested = " ".join(f"{part}=={versions[-1]}" for part, versions in parts.items())
    return (
        f"Install one of them: pip uninstall mmdet mmcv mmcv-lite mmengine {' '.join(parts)}, then pip install "
        f"mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7, or {tested}."
    )
