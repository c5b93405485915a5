"""What tiles win or lose on the first scenes of shapes, against whole images: the table of docs/fusion.md.

python scripts/make/tiles.py OUT        # OUT: a folder for the runs; what is there is not run again
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base.files import write_text
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.opening import open_model
from panbench.report.answers.comparison import standing
from panbench.runs import Run, load_run
from panbench.studies.ensembles.options import ViewOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fusion.md"
MODELS = ("mask2former-tiny",)
SCENES = 80
TILES = (None, "1x2,overlap=0.2", "2x2,overlap=0.2")
HEAD = "| model | PQ, whole images | " + " | ".join(str(tiles) for tiles in TILES[1:]) + " |"


def run_of(name: str, tiles: str | None, out: Path) -> Run:
    """A model's run on the scenes, in tiles or whole."""
    folder = out / f"{name}-{'whole' if tiles is None else tiles.replace(',', '-')}"
    if not (folder / "run.json").exists() or load_run(folder).info.status != "done":
        options = EvaluateOptions(resume=folder.is_dir(), studies=(ViewOptions(tiles=tiles),))
        evaluate(open_model(find_model(name)), open_dataset("shapes", limit=SCENES), folder, options)
    return load_run(folder)


def line(name: str, out: Path) -> str:
    """The row of a model: PQ with its interval, and the paired difference of each grid of tiles, with p."""
    runs = [run_of(name, tiles, out) for tiles in TILES]
    rows = standing(runs, baseline=runs[0].name).rows
    whole = rows[0]
    assert whole.PQ is not None
    assert whole.PQ_low is not None
    assert whole.PQ_high is not None
    cells = [whole.title, f"{100 * whole.PQ:.1f} [{100 * whole.PQ_low:.1f}, {100 * whole.PQ_high:.1f}]"]
    for row, run in zip(rows[1:], runs[1:], strict=True):
        (found,) = [each for each in row.versus if each["run"] == whole.run]
        assert row.run == run.name
        change, low, high = (100 * found[key] for key in ("PQ_difference", "low", "high"))
        p = "p < 0.001" if found["p_holm"] < 0.001 else f"p = {found['p_holm']:.3f}"
        cells.append(f"{change:+.1f} [{low:+.1f}, {high:+.1f}], {p}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs what is not there yet, and writes the table between its marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    table = "\n".join([HEAD, "| --- " * (len(TILES) + 1) + "|", *(line(name, out) for name in MODELS)])
    marked = r"(<!-- tiles: made by scripts/make/tiles.py -->\n).*?(<!-- /tiles -->)"
    text, count = re.subn(marked, lambda parts: f"{parts[1]}{table}\n\n{parts[2]}", PAGE.read_text("utf-8"), flags=re.S)
    if count != 1:
        raise SystemExit(f"{PAGE} has no marks for tiles.")
    write_text(PAGE, text)
    print(table)


if __name__ == "__main__":
    main()
