"""What tiles win or lose on the first scenes of shapes, against whole images: the table of docs/fusion.md.

Its last columns are a control: the masks that the network gave for the whole image, cut into tiles and put together. So
they tell what putting together costs from what the network loses on tiles.

python scripts/make/tiles.py OUT        # OUT: a folder for the runs; what is there is not run again
"""

import argparse
import re
import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.base.files import write_text
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.candidates import NO_LABEL, Candidates, Frame, Output
from panbench.models.model import LoadedImage
from panbench.models.opening import open_model
from panbench.models.rules.resize import upsample
from panbench.panoptic.types import ImageInfo, Scene
from panbench.report.answers.comparison import standing
from panbench.runs import Run, load_run
from panbench.studies.ensembles.options import ViewOptions
from panbench.studies.ensembles.stitching import stitch
from panbench.studies.ensembles.tiled_model import TiledModel
from panbench.studies.ensembles.tiles import parse_tiles

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fusion.md"
MODELS = ("mask2former-tiny",)
SCENES = 80
TILES = ("1x2,overlap=0.2", "2x2,overlap=0.2")
RUNS = [(None, False), *((tiles, cut) for cut in (False, True) for tiles in TILES)]
"""Of each run its tiles, and whether the masks of whole images are cut into them."""
HEAD = f"| model | PQ, whole images | {' | '.join(TILES)} | {' | '.join(f'{tiles}, control' for tiles in TILES)} |"


class CutModel(TiledModel):
    """Sees whole images; its masks are cut into tiles, as if the network had seen nothing else of them."""

    def load(self, scene: Scene) -> LoadedImage:
        """The whole image."""
        return self.inner.load(scene)

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The size of the whole image's input."""
        return self.inner.batch_key(image)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """What is put together from the tiles' shares of each mask; a tile knows nothing of masks elsewhere."""
        found = []
        for image, whole in zip(batch, self.inner.candidates(batch), strict=True):
            assert isinstance(whole, Candidates)
            size = (image.scene.image.height, image.scene.image.width)
            windows, masks = self.tiles.windows(*size), upsample(whole.masks, whole.frame)
            parts = []
            for window in windows:
                share = masks[:, slice(*window.rows), slice(*window.columns)]
                labels = np.where((share > 0).flatten(1).any(dim=1).cpu().numpy(), whole.labels, NO_LABEL)
                extent = (window.height, window.width)
                parts.append(replace(whole, labels=labels, masks=share, frame=Frame(extent, extent, extent)))
            found.append(stitch(parts, windows, size))
        return found


def run_of(name: str, tiles: str | None, cut: bool, out: Path) -> Run:
    """A model's run on the scenes, in tiles or whole."""
    folder = out / f"{name}-{'whole' if tiles is None else tiles.replace(',', '-')}{'-control' if cut else ''}"
    if not (folder / "run.json").exists() or load_run(folder).info.status != "done":
        model = open_model(find_model(name))
        asked = () if cut or tiles is None else (ViewOptions(tiles=tiles),)
        options = EvaluateOptions(resume=folder.is_dir(), studies=asked)
        shown = CutModel(model, parse_tiles(tiles)) if cut and tiles is not None else model
        evaluate(shown, open_dataset("shapes", limit=SCENES), folder, options)
    return load_run(folder)


def line(name: str, out: Path) -> str:
    """The row of a model: PQ with its interval, and the paired difference of each grid of tiles, with p."""
    runs = [run_of(name, tiles, cut, out) for tiles, cut in RUNS]
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
    table = "\n".join([HEAD, "| --- " * (len(RUNS) + 1) + "|", *(line(name, out) for name in MODELS)])
    marked = r"(<!-- tiles: made by scripts/make/tiles.py -->\n).*?(<!-- /tiles -->)"
    text, count = re.subn(marked, lambda parts: f"{parts[1]}{table}\n\n{parts[2]}", PAGE.read_text("utf-8"), flags=re.S)
    if count != 1:
        raise SystemExit(f"{PAGE} has no marks for tiles.")
    write_text(PAGE, text)
    print(table)


if __name__ == "__main__":
    main()
