#!/usr/bin/env python3
"""Fusion rules side by side, as docs/fusion.md has them: a Markdown table of runs that one `eval --rule` made.

    panbench eval --model mask2former-tiny --rule mask2former,maskformer,argmax --save-predictions --out results/rules
    scripts/make/rules_table.py results/rules/*
    scripts/make/rules_table.py results/rules/* --picture docs/pictures/rules.png

PQ, PQ_th and PQ_st; the share of pixels that a rule leaves void; segments an image; milliseconds an image that fusion
took (of one thread, to be believed on an idle machine). With --picture the image on which the first run's maps differ
most from the others' is drawn under every rule, grey where void.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.report.figures import pictures as figures
from panbench.runs import Run, load_run
from scripts.make.markdown_tables import table


def row_of(run: Run) -> list[str]:
    """Returns a run's rule and its numbers, as text."""
    segments, overlaps = run.segments(), run.overlaps()
    images = len(run.image_ids())
    void = overlaps.loc[overlaps["pred_id"] == 0, "pixels"].sum() / overlaps["pixels"].sum()
    found = (segments["side"] == "pred").sum() / images
    summary, spent = run.summary(), run.info.seconds.fusion
    scores = [summary[group]["PQ"] for group in ("All", "Things", "Stuff")]
    return [
        rule_of(run),
        *("–" if score is None else f"{100 * score:.2f}" for score in scores),
        f"{100 * void:.2f} %",
        f"{found:.2f}",
        "–" if spent is None else f"{1000 * spent / images:.1f}",
    ]


def rule_of(run: Run) -> str:
    """Returns the name of a run's rule, or of its folder if it has none."""
    return run.name if run.info.rule is None else run.info.rule.name


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws the image on which the maps differ most: photograph, ground truth, and the map of each run."""
    pictures, maps = figures.Pictures(runs[0]), [figures.RunPictures(run, rule_of(run)) for run in runs]
    images = runs[0].image_ids()
    for one in maps:
        one.judge(images)

    def layers(image_id: int) -> list[figures.Layer]:
        return [replace(one.prediction(image_id, pictures, missed=False), model="") for one in maps]

    def disputed(image_id: int) -> float:
        first, *others = layers(image_id)
        return float(np.mean([figures.disagreement(first, other) > 0 for other in others]))

    image_id = max(images, key=disputed)
    shown = [pictures.truth(image_id), *layers(image_id)]
    look: dict[str, Any] = {"opacity": 1.0, "names": False, "coloring": "categories"}
    figure = figures.side_by_side_figure(pictures.photo(image_id), shown, runs[0].categories, columns=5, **look)
    figures.save_figure(figure, path)
    print(f"{path}: image {image_id}", file=sys.stderr)


def main() -> None:
    """Prints the table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    runs = [load_run(path) for path in given.runs]
    heads = ("rule", "PQ", "PQ_th", "PQ_st", "void", "segments an image", "ms an image")
    print(table(heads, sorted((row_of(run) for run in runs), key=lambda row: -float(row[1]))))
    if given.picture is not None:
        draw(runs, given.picture)


if __name__ == "__main__":
    main()
