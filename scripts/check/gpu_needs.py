"""What the GPU day needs to import, looked at before anything runs; only Python's own library is used here.

    python3 scripts/check/gpu_needs.py --out OUT       # OUT/preflight.json; exit 1 when the day cannot begin

What is lacking is named at once, with the command that makes the folder of wheels to bring, where there is a network.
"""

import argparse
import importlib
import importlib.metadata
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pillow": "PIL",
    "opencv-python": "cv2",
    "matplotlib": "matplotlib",
    "contourpy": "contourpy",
    "typer": "typer",
    "rich": "rich",
    "httpx": "httpx",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
    "simplejpeg": "simplejpeg",
    "deflate": "deflate",
    "pycocotools": "pycocotools",
    "mmengine": "mmengine",
    "mmcv-lite": "mmcv",
    "mmdet": "mmdet",
    "addict": "addict",
    "yapf": "yapf",
    "termcolor": "termcolor",
    "platformdirs": "platformdirs",
    "terminaltables": "terminaltables",
    "six": "six",
    "shapely": "shapely",
    "tqdm": "tqdm",
    "pyyaml": "yaml",
    "packaging": "packaging",
}
"""Distributions and the module of each: what panbench and mmdet import, and what those need. Without one of them
nothing runs."""

_OF_TRANSFORMERS = {
    "transformers": "transformers",
    "huggingface-hub": "huggingface_hub",
    "tokenizers": "tokenizers",
    "regex": "regex",
    "hf-xet": "hf_xet",
    "httpx2": "httpx2",
    "httpcore2": "httpcore2",
    "truststore": "truststore",
    "anyio": "anyio",
    "h11": "h11",
    "idna": "idna",
    "click": "click",
    "fsspec": "fsspec",
    "typing-extensions": "typing_extensions",
}
ASKED = {
    **{name: (module, "OneFormer and EoMT are left out") for name, module in _OF_TRANSFORMERS.items()},
    "panopticapi-lite": ("panopticapi", "mmdet's own loop cannot score, so there is no ratio to it"),
    "torchvision": ("torchvision", "its kernels are not measured"),
}
"""Distributions without which a part of the day is left out: the module, and which part."""

BROUGHT = (
    *(
        "mmdet",
        "mmengine",
        "mmcv-lite",
        "addict",
        "yapf",
        "platformdirs",
        "termcolor",
        "terminaltables",
        "shapely",
        "six",
    ),
    *(
        "pycocotools",
        "simplejpeg",
        "deflate",
        "panopticapi-lite",
        "transformers",
        "huggingface-hub",
        "tokenizers",
        "regex",
    ),
    *("hf-xet", "httpx2", "httpcore2", "truststore", "click"),
)
"""What a machine made for PyTorch has mostly not: the wheels that gpu_wheels.py brings unless told otherwise."""

OF_THE_MACHINE = ("torch", "torchvision")
"""They belong together and to the machine's CUDA: no wheel from elsewhere is brought for them."""


def look(distribution: str, module: str) -> dict[str, str | None]:
    """The row of a distribution: its version, and why its module cannot be imported or is too old."""
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a package raises is its answer
        return {"needs": distribution, "version": None, "problem": f"{type(error).__name__}: {error}"[:200]}
    version = getattr(found, "__version__", None)
    for name in (distribution, distribution + "-headless"):
        try:
            version = version or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"needs": distribution, "version": version, "problem": _too_old(distribution, version)}


def requirements() -> dict[str, str]:
    """What pyproject.toml asks of each distribution that it names: `transformers>=5.23,<6`, by name."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = re.findall(r'"([A-Za-z0-9_.-]+)((?:[<>=!~]=?[0-9][^"]*))"', text)
    return {name.lower(): name + bounds for name, bounds in found}


def _too_old(distribution: str, version: str | None) -> str | None:
    wanted = requirements().get(distribution)
    if wanted is None or version is None:
        return None
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return None
    fits = Requirement(wanted).specifier.contains(version.partition("+")[0], prereleases=True)
    return None if fits else f"{version} is here, and {wanted} is wanted"


def preflight() -> dict[str, Any]:
    """All rows, what is lacking, and the command that brings it."""
    needed: list[dict[str, Any]] = [{**look(*pair), "good": True} for pair in NEEDED.items()]
    asked: list[dict[str, Any]] = [
        {**look(name, module), "without": without} for name, (module, without) in ASKED.items()
    ]
    for row in needed:
        row["good"] = row["problem"] is None
    lacking = [str(row["needs"]) for row in (*needed, *asked) if row["problem"] and row["needs"] not in OF_THE_MACHINE]
    library = [path.name for path in (ROOT / "panbench" / "panoptic").glob("_idmap.*") if path.suffix != ".c"]
    return {
        "rows": [*needed, *asked],
        "lacking": lacking,
        "cannot_begin": [str(row["needs"]) for row in needed if not row["good"]],
        "library": library[0] if library else None,
        "python": sys.version.split()[0],
        "nvidia_smi": shutil.which("nvidia-smi"),
    }


def sentences(found: dict[str, Any]) -> list[str]:
    """What the preflight says."""
    said = []
    for row in found["rows"]:
        if row["problem"] is not None:
            said.append(f"{row['needs']}: {row['problem']}" + (f" ({row['without']})" if "without" in row else ""))
    if found["lacking"]:
        names = " ".join(found["lacking"])
        version = ".".join(str(found["python"]).split(".")[:2])
        said.append(f"Bring the wheels: python3 scripts/make/gpu_wheels.py build/gpu-wheels --python {version} {names}")
    if found["library"] is None:
        said.append("The compiled library panbench/panoptic/_idmap is not here: id maps take longer (gpu_wheels.py).")
    if found["nvidia_smi"] is None:
        said.append("nvidia-smi is not here: clocks and power are not recorded.")
    return said or ["All imports work."]


def main() -> None:
    """Writes OUT/preflight.json and says what is lacking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    began = time.monotonic()
    found = preflight()
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**found, "seconds": time.monotonic() - began}, indent=2)
    (out / "preflight.json").write_text(text + "\n", "utf-8")
    print("\n".join(sentences(found)))
    if found["cannot_begin"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
