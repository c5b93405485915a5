"""The tiles in which test-time views show an image, by name: `2x2,overlap=0.2`."""

import math
import re
from dataclasses import dataclass

from panbench.base.errors import BadArgument

__all__ = ["Tiles", "Window", "parse_tiles"]

_MOST, _MOST_OVERLAP = 8, 0.5
_USUAL_OVERLAP = 0.2


@dataclass(frozen=True)
class Window:
    """A tile of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> tuple[int, int]:
        """The first row, and the one after the last."""
        return self.top, self.top + self.height

    @property
    def columns(self) -> tuple[int, int]:
        """The first column, and the one after the last."""
        return self.left, self.left + self.width


@dataclass(frozen=True)
class Tiles:
    """A grid of equal tiles; neighbours share `overlap` of a tile's side. One tile is the image itself."""

    rows: int = 1
    columns: int = 1
    overlap: float = _USUAL_OVERLAP

    def __len__(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        grid = f"{self.rows}x{self.columns}"
        return grid if len(self) == 1 else f"{grid},overlap={self.overlap:g}"

    def windows(self, height: int, width: int) -> list[Window]:
        """The tiles of an image of this size, row by row; all have one size, and together they cover the image."""
        tops, tall = _spans(height, self.rows, self.overlap)
        lefts, wide = _spans(width, self.columns, self.overlap)
        return [Window(top, left, tall, wide) for top in tops for left in lefts]


def _spans(length: int, count: int, overlap: float) -> tuple[list[int], int]:
    """The starts of so many equal spans that cover a side, and their length."""
    # Of `count` spans, all but the first add only what they do not share. A hair less: 100.00000001 pixels are 100.
    span = max(1, math.ceil(length / (count - (count - 1) * overlap) - 1e-9))
    return [round(place * (length - span) / max(count - 1, 1)) for place in range(count)], span


def parse_tiles(text: str) -> Tiles:
    """The tiles that `2x3,overlap=0.2` names: rows × columns. Raises BadArgument."""
    grid, *others = [word.strip() for word in text.split(",")]
    found = re.fullmatch(r"(\d+)[x×](\d+)", grid)
    if found is None:
        raise BadArgument(f"--tiles {grid!r}: give rows x columns, as in 2x2 or 2x2,overlap=0.2.")
    rows, columns = int(found[1]), int(found[2])
    if not (1 <= rows <= _MOST and 1 <= columns <= _MOST):
        raise BadArgument(f"--tiles {grid}: there can be 1 to {_MOST} rows and 1 to {_MOST} columns of tiles.")
    overlap = _USUAL_OVERLAP
    for word in others:
        name, _, value = word.partition("=")
        try:
            overlap = float(value) if name == "overlap" else -1.0
        except ValueError:
            overlap = -1.0
        if not 0 <= overlap <= _MOST_OVERLAP:
            raise BadArgument(
                f"--tiles {word!r}: neighbours share from 0 to {_MOST_OVERLAP:g} of a tile's side, as in overlap=0.2."
            )
    return Tiles(rows, columns, overlap)
