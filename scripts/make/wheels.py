"""Builds the wheel of each system and the sdist on one machine, and lists them with their sizes.

    make wheels                                             # makes an environment with hatchling and ziglang first
    python scripts/make/wheels.py --out dist --targets x86_64-linux arm64-macos

The compiled library of each wheel comes from zig's cross compiler (hatch_build.py), that of Linux for glibc 2.17 and
later. What cannot be run here is built and looked at, not run: the list says which system each library is for.
"""

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("x86_64-linux", "arm64-linux", "arm64-macos", "x86_64-macos", "x86_64-windows")
# The first bytes of the library of each system: ELF, Mach-O of 64 bits, PE.
MAGIC = {"linux": b"\x7fELF", "macos": b"\xcf\xfa\xed\xfe", "windows": b"MZ"}


def build(target: str, out: Path) -> Path:
    """Builds one wheel and returns its path. Raises SystemExit with the output when it fails."""
    before = set(out.glob("*"))
    kind = "sdist" if target == "sdist" else "wheel"
    environment = {**os.environ, "PANBENCH_BUILD_TARGET": "" if target == "sdist" else target}
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{target} failed:\n{done.stdout}{done.stderr}")
    (made,) = set(out.glob("*")) - before
    return made


def library_in(wheel: Path, target: str) -> tuple[str, int]:
    """Name and size of the compiled library in a wheel, after a look at its format."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("panbench/panoptic/_idmap.")]
        content = archive.read(name)
    if not content.startswith(MAGIC[target.rpartition("-")[2]]):
        raise SystemExit(f"{wheel.name}: {name} is not a library of {target}.")
    return Path(name).name, len(content)


def main() -> None:
    """Parses the arguments, builds, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for the wheels")
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, "sdist"], default=[*TARGETS, "sdist"])
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("panbench-*.whl"), *out.glob("panbench-*.tar.gz")]:
        old.unlink()
    print("| file | kB | library | kB |\n| --- | ---: | --- | ---: |")
    for target in arguments.targets:
        made = build(target, out)
        name, size = ("–", 0) if target == "sdist" else library_in(made, target)
        print(f"| {made.name} | {made.stat().st_size / 1e3:,.0f} | {name} | {size / 1e3:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
