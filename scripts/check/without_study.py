"""Whether panbench works without a study: the proof that a study is one folder.

    python scripts/check/without_study.py robustness          # one study
    python scripts/check/without_study.py --all               # each in turn
    python scripts/check/without_study.py --all --together    # all at once: the core alone
    python scripts/check/without_study.py --of-today          # one, another each day: what CI runs

Copies the tree, deletes panbench/studies/NAME/, tests/studies/NAME/ and the scripts that import the study, and runs
lint, types, the tests that need no model, `panbench --help`, `eval` of a tiny model on four scenes, and `report`. Exit
code 1 when one of them fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.check.mutants import copied  # noqa: E402

STUDIES = sorted(path.parent.name for path in (ROOT / "panbench" / "studies").glob("*/__init__.py"))
QUICK = (
    "base",
    "panoptic",
    "metrics",
    "runs",
    "scoring",
    "cli/test_help.py",
    "report/test_page.py",
    "test_layering.py",
)
"""Tests of the core, relative to tests/."""


def main() -> None:
    """Prints a line per step, and the output of failed ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="studies to do without")
    parser.add_argument("--all", action="store_true", help="each study in turn")
    parser.add_argument("--of-today", action="store_true", help="one study, another each day")
    parser.add_argument("--together", action="store_true", help="delete the studies at once, not in turn")
    arguments = parser.parse_args()
    chosen = list(arguments.studies)
    if arguments.all:
        chosen = STUDIES
    elif arguments.of_today:
        chosen = [STUDIES[int(time.time() // 86400) % len(STUDIES)]]
    if not chosen:
        parser.error("name a study, or give --all or --of-today")
    rounds = [chosen] if arguments.together else [[study] for study in chosen]
    failed = [studies for studies in rounds if not works_without(studies)]
    held = sum(map(len, rounds)) - sum(map(len, failed))
    print(f"{held} of {len(chosen)} studies can be deleted" + (f"; not: {failed}" if failed else ""))
    sys.exit(1 if failed else 0)


def works_without(studies: Sequence[str]) -> bool:
    """Returns whether every step passes in a copy of the tree without the studies."""
    with copied() as tree:
        for study in studies:
            for folder in (tree / "panbench" / "studies" / study, tree / "tests" / "studies" / study):
                shutil.rmtree(folder)
            for script in (tree / "scripts").rglob("*.py"):
                if f"panbench.studies.{study}" in script.read_text("utf-8"):
                    script.unlink()
        for name, command in steps(tree):
            finished = subprocess.run(
                command, cwd=tree, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tree)}
            )
            print(f"without {', '.join(studies)}: {name}: {'ok' if finished.returncode == 0 else 'FAILED'}", flush=True)
            if finished.returncode:
                print(finished.stdout[-6000:], finished.stderr[-3000:], sep="\n")
                return False
    return True


def steps(tree: Path) -> Iterator[tuple[str, list[str]]]:
    """Returns the commands that must pass, by name."""
    panbench = [sys.executable, "-m", "panbench"]
    run, page = str(tree / "out" / "run"), str(tree / "out" / "page.html")
    yield "lint", [sys.executable, "-m", "ruff", "check", "."]
    yield "types", [sys.executable, "-m", "mypy"]
    yield "tests", [sys.executable, "-m", "pytest", "-q", *(f"tests/{name}" for name in QUICK)]
    yield "panbench --help", [*panbench, "--help"]
    small = ["--model", "mask2former-tiny", "--data", "shapes", "--limit", "4", "--out", run]
    yield "eval", [*panbench, "eval", *small]
    yield "report", [*panbench, "report", run, "--out", page]


if __name__ == "__main__":
    main()
