"""Measures the provenance of a run: package versions, commit, device, peak memory."""

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORKS = ("onedl-mmdetection", "onedl-mmengine", "onedl-mmcv")
"""Distributions that import as mmdet, mmengine and mmcv."""
_PACKAGES = ("torch", "mmdet", "mmengine", "mmcv", "mmcv-lite", *FORKS, "numpy", "opencv-python", "pandas", "pyarrow")


@functools.cache
def versions() -> Mapping[str, str]:
    """Returns the versions of Python and of installed packages that can change a number, by package name.

    Cached at the first call: packages installed later are not the ones that run.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@functools.cache
def git_commit() -> str | None:
    """Returns the commit of panbench's checkout, with `+changes` if files differ; None if it was installed.

    Cached at the first call.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _run_git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _run_git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """Returns the processor's name as the system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_gains_by_bf16() -> bool:
    """True if /proc/cpuinfo says that the processor multiplies bfloat16 much faster than float32.

    AVX512's instructions are slower than float32's on Intel (docs/inference_speed.md), where AMX is needed.
    """
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"amx_bf16", "bf16"}.isdisjoint(words) or {"avx512_bf16", "AuthenticAMD"}.issubset(words)


def peak_host_memory() -> int | None:
    """Returns the peak memory of this process in bytes; None if the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run_git(folder: Path, *arguments: str) -> str:
    """Runs git in a folder and returns what it prints. Raises if git fails."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def describe_device(kind: str, name: str | None) -> dict[str, Any]:
    """Returns the `device` entry of run.json. name: the accelerator's; None looks up the processor's name"""
    return {"type": kind, "name": name or cpu_name()}
