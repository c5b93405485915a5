"""A folder of what the GPU day brings along: wheels for that machine's Python, and panbench's compiled library.

    python scripts/make/gpu_wheels.py build/gpu-wheels --python 3.12
    python scripts/make/gpu_wheels.py build/gpu-wheels --python 3.12 mmdet mmengine scipy

Without names it is what a machine made for PyTorch has mostly not. Versions are those of constraints.txt. The machine
is Linux on x86-64. scripts/check/gpu_day.sh OUT --wheels build/gpu-wheels installs them beside what is there.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from packaging.markers import Marker

from scripts.check.gpu_needs import ASKED, BROUGHT, NEEDED

ROOT = Path(__file__).resolve().parents[2]
GLIBC = (39, 36, 35, 34, 31, 28, 27, 24, 17)
PINNED_HERE = {"panopticapi-lite": "0.2.0"}
"""Versions of what is no dependency of panbench."""


def pinned(names: Sequence[str], python: str) -> list[str]:
    """`name==version` of each, as constraints.txt has them for that Python. Raises SystemExit for one without."""
    text = (ROOT / "constraints.txt").read_text("utf-8")
    machine = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    versions = {
        name.lower(): version
        for name, version, marker in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)(?: ; (.+))?$", text, re.MULTILINE)
        if not marker or Marker(marker).evaluate(machine)
    }
    versions |= PINNED_HERE
    unknown = [name for name in names if name.lower() not in versions]
    if unknown:
        raise SystemExit(f"constraints.txt has no version of {', '.join(unknown)}.")
    return [f"{name}=={versions[name.lower()]}" for name in names]


def command_of(requirements: Sequence[str], python: str, out: Path) -> list[str]:
    """pip's line that brings these wheels, alone, for that Python on Linux."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(out)]
    line += ["--python-version", python, "--implementation", "cp"]
    return [*line, *(f"--platform={platform}" for platform in platforms), *requirements]


def bring_library(out: Path) -> Path:
    """Copies this tree's compiled library into the folder. Raises SystemExit where it is none for x86-64 Linux."""
    target = out / "_idmap.so"
    here = ROOT / "panbench" / "panoptic" / "_idmap.so"
    if not here.exists() or not _is_x86_64_linux(here.read_bytes()[:20]):
        raise SystemExit(f"{here} is not a library for x86-64 Linux.")
    shutil.copy2(here, target)
    return target


def _is_x86_64_linux(head: bytes) -> bool:
    """Whether a file that begins so is an ELF library of x86-64."""
    return head[:4] == b"\x7fELF" and head[18:20] == b"\x3e\x00"


def main() -> None:
    """Makes the folder and lists it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help="distributions; those without which panbench runs, too")
    parser.add_argument("--python", required=True, help="of the GPU's machine, as 3.12")
    options = parser.parse_args()
    strangers = [name for name in options.names if name.lower() not in {*NEEDED, *ASKED}]
    if strangers:
        parser.error(f"the day does not need {', '.join(strangers)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.whl"):
        old.unlink()  # two versions of one stop the installation
    done = subprocess.run(command_of(pinned(options.names or BROUGHT, options.python), options.python, options.out))
    if done.returncode:
        raise SystemExit("pip could not bring them all; what it said stands above.")
    try:
        bring_library(options.out)
    except SystemExit as problem:
        print(f"The compiled library is left out, and id maps will take longer. {problem}", file=sys.stderr)
    files = sorted(options.out.iterdir())
    for path in files:
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")
    print(f"{sum(path.stat().st_size for path in files) / 1e6:8.2f} MB  in all")


if __name__ == "__main__":
    main()
