#!/usr/bin/env python3
"""Fusion rules side by side, as docs/fusion.md has them: a Markdown table of runs that one `eval --rule` made.

    panbench eval --model mask2former-tiny --rule mask2former,maskformer,argmax --save-predictions --out results/rules
    scripts/make/rules_table.py results/rules/*
    scripts/make/rules_table.py results/rules/* --picture docs/pictures/rules.png

PQ, PQ_th and PQ_st; the share of pixels that a rule leaves void; segments an image; milliseconds an image that fusion
took (of one thread, to be believed on an idle machine). With --picture the image on which the first run's maps differ
most from the others' is drawn under every rule, black where void.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt

from panbench.panoptic.coco import read_id_png
from panbench.panoptic.types import IdMap
from panbench.runs import Run, load_run


def row_of(run: Run) -> list[str]:
    """A run's rule and its numbers, as text."""
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
    """The name of a run's rule; its folder's where it has none."""
    return run.name if run.info.rule is None else run.info.rule.name


def map_of(run: Run, image_id: int, side: str) -> tuple[IdMap, Any]:
    """The id map of an image and the rows of its segments. side: "pred" or "gt"."""
    assert run.path is not None
    folder = run.path / "predictions" if side == "pred" else Path(run.info.dataset.gt_dir or ".")
    rows = run.segments()
    return read_id_png(folder / f"{image_id:012d}.png"), rows[(rows["side"] == side) & (rows["image_id"] == image_id)]


def colours(run: Run, image_id: int, side: str = "pred") -> npt.NDArray[np.uint8]:
    """(H, W, 3) the map of an image in its categories' colours, with a border around each segment; black is void."""
    ids, rows = map_of(run, image_id, side)
    of = {category.id: category.color for category in run.categories}
    table = np.zeros((int(ids.max()) + 1, 3), np.uint8)
    for segment, category in zip(rows["id"], rows["category_id"], strict=True):
        table[segment] = of[category] or (128, 128, 128)
    drawn = table[ids]
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    drawn[border] = (255, 255, 255)
    return drawn


def labels(run: Run, image_id: int) -> npt.NDArray[np.int64]:
    """(H, W) category ids of the map of an image, 0 for void."""
    ids, rows = map_of(run, image_id, "pred")
    table = np.zeros(int(ids.max()) + 1, np.int64)
    table[rows["id"].to_numpy()] = rows["category_id"].to_numpy()
    return table[ids]


def most_disputed(runs: Sequence[Run]) -> int:
    """The image on which most pixels have another category under some rule than under the first."""

    def disputed(image_id: int) -> float:
        first, *others = (labels(run, image_id) for run in runs)
        return float(np.mean([(first != other).mean() for other in others]))

    return max(runs[0].image_ids(), key=disputed)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws the photograph, and the map of each run beside it."""
    from matplotlib.figure import Figure
    from PIL import Image

    image_id = most_disputed(runs)
    folder = Path(runs[0].info.dataset.images or ".")
    (photo,) = sorted(folder.glob(f"{image_id:012d}.*"))
    pictures = [("photograph", np.asarray(Image.open(photo).convert("RGB")))]
    pictures += [("ground truth", colours(runs[0], image_id, "gt"))]
    pictures += [(rule_of(run), colours(run, image_id)) for run in runs]
    columns = 5
    rows = -(-len(pictures) // columns)
    height, width = pictures[0][1].shape[:2]
    figure = Figure(figsize=(10, (2 * height / width + 0.3) * rows), layout="constrained", dpi=160)
    for axes in figure.subplots(rows, columns, squeeze=False).ravel():
        axes.axis("off")
        if pictures:
            title, picture = pictures.pop(0)
            axes.set_title(title, fontsize=9)
            axes.imshow(picture, interpolation="nearest")
    figure.savefig(path, format="png", facecolor="white")
    print(f"{path}: image {image_id}", file=sys.stderr)


def main() -> None:
    """Prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    runs = [load_run(path) for path in given.runs]
    rows = [["rule", "PQ", "PQ_th", "PQ_st", "void", "segments an image", "ms an image"], ["---"] * 7]
    rows += sorted((row_of(run) for run in runs), key=lambda row: -float(row[1]))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if given.picture is not None:
        draw(runs, given.picture)


if __name__ == "__main__":
    main()
