"""Checks this machine for panbench: versions, devices, compiled code, folders, space, and problems."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panbench import __version__
from panbench.base import provenance
from panbench.base.errors import PanbenchError
from panbench.base.extras import install_line
from panbench.base.files import cache_dir
from panbench.base.secrets import redacted
from panbench.catalog import configs_folder, load_catalog, user_configs_folder
from panbench.panoptic.native import native
from panbench.weights import weights_here

VARIABLES = ("PANBENCH_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
EXTRAS = ("torchvision", "torchaudio", "transformers", "torchmetrics")

UNTESTED = "not used by default, because no test runs on Metal (MPS); --device mps uses it"


@dataclass
class Diagnosis:
    """What the doctor found: `record` as section → name → value, `problems` as messages with remedies."""

    record: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def diagnose() -> Diagnosis:
    """Collects what a bug report needs, without downloads or writing; torch may be absent."""
    found = Diagnosis()
    found.record["panbench"] = {
        "version": __version__,
        "commit": provenance.git_commit(),
        "folder": str(Path(__file__).resolve().parents[1]),
        "compiled code": "yes" if native() is not None else "no",
    }
    if native() is None:
        found.problems.append(
            "panbench runs without its compiled code, so scoring is several times slower. Install a wheel of panbench, "
            "or reinstall it with a C compiler available."
        )
    found.record["system"] = {
        "system": platform.platform(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "processor": provenance.cpu_name(),
        "cores": os.cpu_count(),
        "memory": _total_memory(),
    }
    found.record["PyTorch"] = _torch_record(found.problems)
    found.record["packages"] = _inspect_packages(found.problems)
    found.record["folders"] = _inspect_folders(found.problems)
    found.record["environment"] = {
        name: redacted(value) for name, value in sorted(os.environ.items()) if name.upper().startswith(VARIABLES)
    }
    found.problems = [redacted(problem) for problem in found.problems]
    return found


def _torch_record(problems: list[str]) -> dict[str, Any]:
    """Returns PyTorch's version and devices, and appends problems with them to `problems`."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            why = f"The packages that run models are not installed: {install_line('models')}"
        else:
            why = f"PyTorch cannot be imported ({error})"
        problems.append(f"{why}. Until then score, compare and report work, but eval does not.")
        return {"version": None}
    cuda = torch.version.cuda
    record: dict[str, Any] = {"version": torch.__version__, "CUDA build": cuda, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            record[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 1e9:.1f} GB"
            problems += _card_problems(index)
    elif reason := why_no_cuda(cuda):
        problems.append(reason)
    if torch.backends.mps.is_available():
        record["mps"] = UNTESTED
    return record


def _card_problems(index: int) -> list[str]:
    """Returns the problems of a card that cannot be used; [] if it can."""
    from panbench.models.devices import choose_device

    try:
        choose_device(f"cuda:{index}")
    except PanbenchError as error:
        return [str(error)]
    return []


def unused_gpu() -> str | None:
    """Explains why this machine's GPU is not used; None without a GPU, or if one is used."""
    import torch

    if torch.backends.mps.is_available():
        return f"The GPU of this Mac is {UNTESTED}."
    return None if torch.cuda.is_available() else why_no_cuda(torch.version.cuda)


def why_no_cuda(cuda_build: str | None) -> str | None:
    """Explains why this machine's GPU is not used; None without a sign of a GPU.

    cuda_build: `torch.version.cuda`
    """
    if not Path("/proc/driver/nvidia/version").exists() and shutil.which("nvidia-smi") is None:
        return None
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CUDA_VISIBLE_DEVICES is empty, which hides the NVIDIA GPU of this machine."
    if cuda_build is None:
        return (
            "This machine has an NVIDIA driver, but PyTorch is a build for CPUs, so the GPU stays unused. Install a "
            "CUDA build of PyTorch: https://pytorch.org/get-started/locally/."
        )
    return (
        f"This machine has an NVIDIA driver, but PyTorch (built for CUDA {cuda_build}) finds no GPU. The driver may be "
        "too old for it: compare the CUDA version that nvidia-smi prints."
    )


def _inspect_packages(problems: list[str]) -> dict[str, Any]:
    """Returns the versions of packages, and appends problems with them to `problems`."""
    record: dict[str, Any] = dict(provenance.versions())
    record.pop("python", None)
    record.pop("torch", None)
    for extra in EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            record[extra] = importlib.metadata.version(extra)
    problems += outdated_package_messages()
    try:
        operators: Any = importlib.import_module("panbench.models.mmdet.operators")
        record["operators of mmcv"] = operators.install()
        if reason := operators.why_not_compiled():
            problems.append(f"mmcv's compiled operators do not load ({reason}); PyTorch's are used instead.")
    except ImportError as error:
        if importlib.util.find_spec("torch") is not None:  # without it the entire extra is missing, already reported
            problems.append(f"mmdet's models cannot be used: {' '.join(str(error).split())}")
    except Exception as error:
        problems.append(f"mmdet's models cannot be used: {' '.join(str(error).split())}")
    return record


def outdated_package_messages() -> list[str]:
    """Returns a message for each installed package that is older than what panbench requires."""
    from packaging.requirements import Requirement

    found = []
    for line in importlib.metadata.requires("panbench") or ():
        required = Requirement(line)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(required.name)
            if not required.specifier.contains(version, prereleases=True):
                message = (
                    f"{required.name} {version} is installed, but panbench needs {required.name}{required.specifier}"
                )
                found.append(f"{message}: pip install '{required.name}{required.specifier}'.")
    return sorted(set(found))


def _inspect_folders(problems: list[str]) -> dict[str, Any]:
    """Returns the sizes and free space of folders, and appends problems with them to `problems`."""
    cache = cache_dir()
    record: dict[str, Any] = {"cache": str(cache), "cache holds": _folder_size(cache), "configs": str(configs_folder())}
    with contextlib.suppress(PanbenchError):
        record["your configs"] = str(user_configs_folder() or "none")
    for name, folder in (("free in cache", cache), ("free here", Path.cwd())):
        free = _free_bytes(folder)
        record[name] = None if free is None else f"{free / 1e9:.1f} GB"
        if free is not None and free < 1e9:
            problems.append(
                f"{folder} has {free / 1e9:.1f} GB of free space; COCO val2017 and weights need at least 1 GB."
            )
    try:
        catalog = load_catalog()
        local = [name for name, spec in catalog.items() if weights_here(spec) is not None]
        record["weights here"] = f"{len(local)} of {len(catalog)} models: {', '.join(local) or 'none'}"
    except Exception as error:
        problems.append(str(error))
    record["data/coco"] = "here" if Path("data/coco").is_dir() else "not here"
    return record


def _folder_size(folder: Path) -> str:
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return f"{total / 1e6:,.0f} MB"


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _total_memory() -> str | None:
    """Returns the machine's RAM in GB as text; None if unknown."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    except (ValueError, OSError, AttributeError):
        return None
