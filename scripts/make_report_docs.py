"""Remakes docs/report/demo.html from the runs of `make demo`.

make demo && .venv/bin/python scripts/make_report_docs.py
"""

import argparse
from pathlib import Path

from panbench.report.page.document import write_report
from panbench.report.tables import find_runs

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "report"


def make_page(runs: Path, out: Path) -> Path:
    """The report of some runs, as `panbench report` writes it."""
    return write_report(find_runs([runs]), out, title="Three small models on shapes val", notice=print)


def main() -> None:
    """Parses the command line and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "results" / "demo", help="the runs of `make demo`")
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder to write to")
    arguments = parser.parse_args()
    print(make_page(arguments.runs, arguments.out / "demo.html"))


if __name__ == "__main__":
    main()
