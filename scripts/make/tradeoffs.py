"""PQ against time of the tiny models on shapes: the tables and plots of docs/tradeoffs.md.

    python scripts/make/tradeoffs.py OUT            # OUT: a folder for the runs; what is there is not run again
    python scripts/make/tradeoffs.py OUT --only layers --again      # measures times again

Times are CPU time of one thread, the steps of a model in turns, so that other processes on the machine do not count:
threads that wait for each other spin, and of several a busy machine counts the waiting.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.wrapping import wrap_model
from panbench.models.opening import open_model
from panbench.report.answers.tables import comparison_row, labels
from panbench.report.figures.colors import styles_by_name
from panbench.report.figures.pictures import save_figure
from panbench.runs import load_run
from panbench.studies.tradeoffs.answer import TradeoffAnswer, tradeoff_curves, tradeoffs
from panbench.studies.tradeoffs.further_runs import time_layers, time_sizes
from panbench.studies.tradeoffs.options import TradeoffOptions
from panbench.studies.tradeoffs.plot import tradeoff_figure
from scripts.make.markdown_tables import table, write_between

DOCS = Path(__file__).resolve().parents[2] / "docs"
WITH_LAYERS = ("mask2former-tiny", "maskformer-tiny", "oneformer-tiny", "eomt-tiny")
OF_ANY_SIZE = ("mask2former-tiny", "maskformer-tiny", "oneformer-tiny", "panoptic-fpn-tiny")
OPTIONS = {"layers": TradeoffOptions(layers="all"), "sizes": TradeoffOptions(size="0.5,0.75,1")}


def run_of(name: str, kind: str, out: Path, again: bool) -> Path:
    """Returns the folder of a model's run, evaluated and timed with its steps. again: measure times again"""
    study, home = OPTIONS[kind], out / kind / name
    dataset = open_dataset("shapes")
    times = home.with_name(f"{home.name}@{kind}.json")
    if again or not times.exists() or json.loads(times.read_text("utf-8"))["clock"] != "CPU":
        model = open_model(find_model(name))
        if not times.exists():
            evaluate(model, dataset, home, EvaluateOptions(resume=home.is_dir(), studies=(study,)))
        shown = wrap_model(model, dataset, EvaluateOptions(studies=(study,)))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        if kind == "layers":
            time_layers(shown, dataset, {model.rule: home})
        else:
            time_sizes(shown, dataset, {model.rule: home}, study.size_factors)
        torch.set_num_threads(threads)
    return home


def write(kind: str, homes: list[Path]) -> None:
    """Replaces the tables between the markers of docs/tradeoffs.md, and the picture."""
    found = tradeoffs([load_run(home) for home in homes])
    titles = labels([comparison_row(each.run) for each in found])
    rows = [
        (title if number == 0 else "", step, f"{pq} {span}", f"{lost} {lost_span}".replace("– –", "–"), time, speed)
        for title, grid in zip(titles, TradeoffAnswer(tuple(found), digits=1).grids, strict=True)
        for number, (step, pq, span, lost, lost_span, _, time, _, speed) in enumerate(grid.rows)
    ]
    made = table(("model", kind.removesuffix("s"), "PQ", "loses", "ms/image", "speed"), rows)
    marks = (f"<!-- {kind}: made by scripts/make/tradeoffs.py -->", f"<!-- /{kind} -->")
    write_between(DOCS / "tradeoffs.md", *marks, made)
    styles = styles_by_name(titles, [each.run for each in found])
    save_figure(tradeoff_figure(tradeoff_curves(found, titles), styles), DOCS / "pictures" / f"{kind}-shapes.png")


def main() -> None:
    """Makes missing runs, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=list(OPTIONS))
    parser.add_argument("--again", action="store_true", help="measure the times again")
    options = parser.parse_args()
    for kind in OPTIONS if options.only is None else [options.only]:
        names = WITH_LAYERS if kind == "layers" else OF_ANY_SIZE
        write(kind, [run_of(name, kind, options.out, options.again) for name in names])


if __name__ == "__main__":
    main()
