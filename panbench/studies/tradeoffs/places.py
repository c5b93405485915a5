"""What a run's further runs are called and where they lie: `mask2former-tiny@layer3`, `mask2former-tiny@size0.5`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from panbench.base.errors import BadArgument

__all__ = ["LAYERS", "SIZES", "Kind", "home_of", "no_layers"]


@dataclass(frozen=True)
class Kind:
    """What is varied. word: in names of runs, and the setting in run.json; plural: in the name of the file of times."""

    word: str
    plural: str

    def folder(self, home: Path, step: str) -> Path:
        """The folder of a further run, beside that of the run that it belongs to."""
        place = home_of(home)
        return place.with_name(f"{place.name}@{self.word}{step}")

    def times(self, home: Path) -> Path:
        """The file with the times of all steps, beside the run."""
        place = home_of(home)
        return place.with_name(f"{place.name}@{self.plural}.json")

    def steps_of(self, home: Path) -> Iterator[str]:
        """The steps that have a run beside `home`, by rising number."""
        place = home_of(home)
        pattern = re.compile(re.escape(f"{place.name}@{self.word}") + r"(\d+(?:\.\d+)?)")
        found = [match[1] for each in place.parent.glob("*/run.json") if (match := pattern.fullmatch(each.parent.name))]
        yield from sorted(found, key=float)


def home_of(home: Path) -> Path:
    """The folder with a name, also for "."."""
    return home if home.name else home.absolute()


LAYERS = Kind("layer", "layers")
SIZES = Kind("size", "sizes")


def no_layers(title: str) -> BadArgument:
    """The error for a model without a decoder of layers."""
    return BadArgument(
        f"{title} has no decoder of layers, so --layers has nothing to score. Mask2Former, MaskFormer, DETR, "
        "OneFormer, EoMT, Panoptic SegFormer and Mask DINO have one."
    )
