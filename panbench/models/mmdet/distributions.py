"""Finds the distribution of the installed package `mmdet`: mmdet itself, or a fork under its name."""

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping

FORKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onedl-mmdetection": {
        "onedl-mmdetection": ("3.5.1",),
        "onedl-mmcv": ("2.3.6",),
        "onedl-mmengine": ("0.10.12",),
    },
}
"""Forks by name, with the versions of their packages that passed tests/models/mmdet and tests/models/rules."""


def fork_refusal() -> str | None:
    """Explains why the installed fork of mmdet is refused; None for mmdet itself and for tested forks."""
    for fork, parts in FORKS.items():
        found = {part: version for part in parts if (version := _installed_version(part)) is not None}
        if fork not in found:
            continue
        own = _installed_version("mmdet")
        untested = [f"{part} {version}" for part, version in found.items() if version not in parts[part]]
        if own is None and not untested:
            continue
        tested = " ".join(f"{part}=={versions[-1]}" for part, versions in parts.items())
        reason = (
            f"mmdet {own} and its fork {fork} {found[fork]} are both installed into one folder, and may have "
            "overwritten each other's files."
            if own is not None
            else f"{', '.join(untested)} replaces mmdet; panbench is tested with {tested}."
        )
        return (
            f"{reason} Install one of them: pip uninstall mmdet mmcv mmcv-lite mmengine {' '.join(parts)}, then pip "
            f"install mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7, or {tested}."
        )
    return None


def is_mmdet_fork() -> bool:
    """Returns whether a fork of mmdet is installed."""
    return any(_installed_version(fork) is not None for fork in FORKS)


def import_quietly() -> None:
    """Imports a fork's datasets with stdout redirected to stderr, because the fork prints a banner."""
    if is_mmdet_fork() and "mmdet.datasets" not in sys.modules:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module("mmdet.datasets")


def _installed_version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
