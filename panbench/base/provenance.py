"""Provenance of a run: versions, commit, device, memory; all measured, nothing assumed."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FORKS = ("onedl-mmdetection", "onedl-mmengine", "onedl-mmcv")
"""Distributions that import as mmdet, mmengine and mmcv."""
_PACKAGES = ("torch", "mmdet", "mmengine", "mmcv", "mmcv-lite", *FORKS, "numpy", "opencv-python", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Python's version and that of each package that can change a number, by name; absent packages are left out.

    As they were when this process first asked: what is installed later is not what it runs.
    """
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that panbench runs from, with `+changes` when files differ; None outside of one.

    As it was when this process first asked.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as Linux says."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def peak_host_memory() -> int | None:
    """Peak memory of this process in bytes; None where the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def describe_device(kind: str, name: str | None) -> dict[str, Any]:
    """The `device` entry of run.json: `name` is the accelerator's; the processor's is looked up."""
    return {"type": kind, "name": name or cpu_name()}
