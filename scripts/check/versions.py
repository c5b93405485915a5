"""Whether panbench runs on versions of its packages other than constraints.txt's.

    python scripts/check/versions.py floors TESTS…  # all lower bounds of pyproject.toml: tests, an eval of `shapes`
    python scripts/check/versions.py colab          # requirements/colab.txt, installed as the notebook does; its cells
    python scripts/check/versions.py typer          # here, with the typer of the floor and of Colab: help, an eval

`--torch` names the version of PyTorch; default: that of constraints.txt.
Colab's own Python is taken if there is one (`--python`). Exit code 1 when something fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLAB = ROOT / "requirements" / "colab.txt"
TOOLS = (
    "pytest",
    "pytest-xdist",
    "pytest-timeout",
    "hypothesis",
    "pyte",
    "uv",
    "httpx",
    "starlette",
    "uvicorn",
    "nbclient",
    "nbformat",
    "ipykernel",
)
EVAL = ["eval", "--model", "mask2former-tiny", "--data", "shapes", "--limit"]
EVERY_HELP = """
import typer
from panbench.cli.app import app
def walk(command, path):
    for name, inner in getattr(command, "commands", {}).items():
        walk(inner, (*path, name))
    command.get_help(command.make_context(path[-1], [], resilient_parsing=True))
walk(typer.main.get_command(app), ("panbench",))
"""


def main() -> None:
    """Runs the check that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("floors", "colab", "typer"))
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--torch", default=pin("torch", ROOT / "constraints.txt"))
    parser.add_argument("--python", default=colabs_python())
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=f"panbench-{given.what}.") as scratch:
        {"floors": floors, "colab": colab, "typer": typers}[given.what](Path(scratch), given)


def colabs_python() -> str:
    """Returns Python 3.13, as in Colab, if one is installed; otherwise this one (the log names it)."""
    found = shutil.which("python3.13")
    works = found is not None and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    return found if found is not None and works else sys.executable


def pin(package: str, file: Path) -> str:
    """Returns the version of a package in a file of pins."""
    found = re.search(rf"^{package}==(\S+)", file.read_text("utf-8"), re.MULTILINE)
    assert found, f"{file} does not pin {package}"
    return found[1]


def floors(scratch: Path, given: argparse.Namespace) -> None:
    """Tests with all lower bounds at once: uv takes the lowest direct versions, and the newest of the rest."""
    python = environment(scratch, sys.executable)
    install(python, *TOOLS)
    overrides = scratch / "overrides.txt"
    overrides.write_text(f"torch=={given.torch}\n")
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "--override", str(overrides)]
    if links := os.environ.get("PIP_FIND_LINKS"):
        uv += ["--find-links", links]
    run([*uv, "--resolution", "lowest-direct", "--editable", f"{ROOT}[models,transformers]"])
    show(python)
    run([str(python), "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile", *given.tests], cwd=ROOT)
    run([str(python), "-m", "panbench", *EVAL, "20", "--out", str(scratch / "run")], cwd=scratch)


def colab(scratch: Path, given: argparse.Namespace) -> None:
    """Installs Colab's packages, then panbench as the notebook's first cell does, and runs the other cells."""
    python = environment(scratch, given.python)
    lines = COLAB.read_text("utf-8").splitlines()
    pins = scratch / "pins.txt"
    pins.write_text("\n".join(f"torch=={given.torch}" if line.startswith("torch==") else line for line in lines) + "\n")
    install(python, "--no-deps", "--requirement", str(pins))
    install(python, f"{ROOT}[models]")
    install(python, *TOOLS, "--constraint", str(pins))
    show(python)
    run([str(python), "-m", "panbench", "doctor"], cwd=scratch)
    run([str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_notebook.py"], cwd=ROOT)


def typers(scratch: Path, given: argparse.Namespace) -> None:
    """Runs the help of every command and an evaluation of two images with other versions of typer."""
    floor = re.search(r'"typer>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert floor
    for version in sorted({floor[1], pin("typer", COLAB)}):
        folder = scratch / version
        install(Path(sys.executable), "--no-deps", "--target", str(folder), f"typer=={version}")
        there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
        run([sys.executable, "-c", EVERY_HELP], env=there, stdout=subprocess.DEVNULL)
        run([sys.executable, "-m", "panbench", *EVAL, "2", "--out", str(folder / "run")], cwd=scratch, env=there)
        print(f"typer {version}: help of every command, and an evaluation of two images", flush=True)


def environment(scratch: Path, python: str) -> Path:
    """Creates a virtual environment; returns its Python."""
    run([python, "-m", "venv", str(scratch / "env")])
    return scratch / "env" / "bin" / "python"


def install(python: Path, *what: str) -> None:
    """Runs `pip install`."""
    run([str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *what])


def show(python: Path) -> None:
    """Prints the installed packages."""
    run([str(python), "--version"])
    run([str(python), "-m", "pip", "--disable-pip-version-check", "list", "--format", "freeze"])


def run(command: list[str], **settings: object) -> None:
    """Runs a command; ends the program if it fails."""
    if subprocess.run(command, **settings).returncode:  # type: ignore[call-overload]
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
