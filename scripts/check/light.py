"""The light install, `pip install .` without the extra `models`: its size, its time, and what it can do.

    python scripts/check/light.py

Makes a virtual environment in a temporary folder, installs panbench from this checkout without extras, and runs the
commands that need no model on generated scenes; then commands that do need one, which must name the line that installs
the rest. Exit code 1 when something differs. Needs the package index that pip is set to.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.check import versions  # noqa: E402

IMAGES = 12
MOST_MB = 600
"""Of 1,000,000 bytes, without the bytecode that pip compiles (`--no-compile` leaves that to the first import)."""
HEAVY = ("torch", "mmdet", "mmengine", "mmcv", "cv2", "transformers")
MAKE_SET = """
import json, pathlib
import numpy as np
from panbench.datasets import shapes
from panbench.panoptic.coco import read_id_png, write_id_png
gt = shapes.generate(pathlib.Path("set"), count={images})
truth = json.loads(gt.read_text())
for name, shift in (("a", 1), ("b", 6)):
    pathlib.Path(name).mkdir()
    for annotation in truth["annotations"]:
        ids = read_id_png(gt.with_suffix("") / annotation["file_name"])
        write_id_png(pathlib.Path(name) / annotation["file_name"], np.roll(ids, shift, axis=1))
    pathlib.Path(name + ".json").write_text(json.dumps(truth))
"""


def main() -> None:
    """Prints the size and seconds of the install, and a line for each command."""
    with tempfile.TemporaryDirectory(prefix="panbench-light.") as scratch:
        folder = Path(scratch)
        python = install(folder)
        run(folder, [str(python), "-c", MAKE_SET.format(images=IMAGES)], 0)
        gt = "set/annotations/panoptic_val.json"
        panbench = [str(python), "-m", "panbench"]
        scored = ["--gt", gt, "--images", "set/val"]
        for name in ("a", "b"):
            run(folder, [*panbench, "score", *scored, "--pred", f"{name}.json", "--out", f"results/{name}"], 0)
        for words in (
            ["compare", "results/a", "results/b"],
            ["metrics", "results/a", "--json"],
            ["errors", "results/b"],
            ["gate", "results/a", "--baseline", "results/b"],
            ["report", "results/a", "results/b", "--out", "report.html"],
            ["data", "check", "set"],
            ["runs", "results"],
            ["models"],
            ["doctor"],
        ):
            run(folder, [*panbench, *words], 0)
        for words in (["eval", "--model", "mask2former"], ["bench", "--model", "mask2former-tiny"]):
            refusal = run(folder, [*panbench, *words], 2)
            if "[models]" not in refusal:
                sys.exit(f"`panbench {' '.join(words)}` does not name the extra: {refusal}")


def install(folder: Path) -> Path:
    """Installs the core into its own environment; prints time and size."""
    began = time.monotonic()
    python = versions.environment(folder, sys.executable)
    versions.install(python, "--constraint", str(ROOT / "constraints.txt"), str(ROOT))
    seconds = time.monotonic() - began
    packages = Path(output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    print(f"light install: {seconds:.0f} s", flush=True)
    weigh(packages)
    here = output([str(python), "-c", f"import importlib.util as u; print([n for n in {HEAVY} if u.find_spec(n)])"])
    if here.strip() != "[]":
        sys.exit(f"the light install has {here}")
    return python


def weigh(packages: Path) -> None:
    """Prints the size of the packages without pip, and fails if they exceed MOST_MB."""
    weights: Counter[str] = Counter()
    compiled = 0
    for path in packages.rglob("*"):
        part = path.relative_to(packages).parts[0]
        if not path.is_file() or part.startswith(("pip", "setuptools")):
            continue
        size = path.stat().st_size
        if path.suffix == ".pyc":
            compiled += size
        else:
            # numpy.libs and scipy.libs are NumPy's and SciPy's.
            weights[part.removesuffix(".libs")] += size
    total = sum(weights.values()) / 1e6
    heaviest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in weights.most_common(6))
    print(f"packages: {total:.0f} MB ({heaviest}), and {compiled / 1e6:.0f} MB of bytecode", flush=True)
    if total > MOST_MB:
        sys.exit(f"the light install has {total:.0f} MB of packages, more than {MOST_MB}")


def output(command: list[str]) -> str:
    """Returns what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(folder: Path, command: list[str], code: int) -> str:
    """Runs a command in the folder and returns its output; ends the program on another exit code."""
    began = time.monotonic()
    environment = {**os.environ, "HOME": str(folder), "COLUMNS": "80"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    words = " ".join(command[3:]) if command[1] == "-m" else "generate scenes"
    print(f"{'ok' if done.returncode == code else 'FAILED'}  {time.monotonic() - began:5.1f} s  {words}", flush=True)
    if done.returncode != code:
        sys.exit(f"exit code {done.returncode}, not {code}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
