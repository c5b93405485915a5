"""Names the run folders of earlier decoder layers and other image scales: `m2f@layer3`, `m2f@size0.5`.

They lie next to the run itself. Each layer or scale is a *step* of the run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from panbench.base.errors import BadArgument


@dataclass(frozen=True)
class StepKind:
    """A setting that trades PQ against time: the decoder layer that predicts, or the scale of the input images.

    word: used in names of runs and as the setting in run.json; plural: names the file of times
    """

    word: str
    plural: str

    def folder(self, home: Path, step: str) -> Path:
        """Returns the run folder for one decoder layer or image size: next to the run in `home`, and named after it."""
        named = named_folder(home)
        return named.with_name(f"{named.name}@{self.word}{step}")

    def times(self, home: Path) -> Path:
        """Returns the path of the file with the times of all layers or sizes, next to the run."""
        named = named_folder(home)
        return named.with_name(f"{named.name}@{self.plural}.json")

    def steps_of(self, home: Path) -> Iterator[str]:
        """Yields the decoder layers or image scales that were evaluated besides the run in `home`, ascending."""
        named = named_folder(home)
        pattern = re.compile(re.escape(f"{named.name}@{self.word}") + r"(\d+(?:\.\d+)?)")
        found = [match[1] for each in named.parent.glob("*/run.json") if (match := pattern.fullmatch(each.parent.name))]
        yield from sorted(found, key=float)


def named_folder(home: Path) -> Path:
    """Returns the folder, made absolute if its path has no name, as "."."""
    return home if home.name else home.absolute()


LAYERS = StepKind("layer", "layers")
SIZES = StepKind("size", "sizes")


def no_layers(title: str) -> BadArgument:
    """Returns the BadArgument to raise for a model without a decoder of layers."""
    return BadArgument(
        f"{title} has no decoder of layers, so --layers has nothing to score. Mask2Former, MaskFormer, DETR, "
        "OneFormer, EoMT, Panoptic SegFormer and Mask DINO have one."
    )
