"""The queries of `panbench serve`, parsed from the parameters of a URL."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadArgument

if TYPE_CHECKING:
    from typing_extensions import Self

MOST = 96
"""Maximum number of images, or errors, in one answer."""

VERDICTS = ("FN", "FP", "TP")
ORDERS = {"worst": "worst PQ", "differ": "largest disagreement", "best": "best PQ", "id": "image id"}

_FRACTIONS = ("low", "high", "differ")


@dataclass(frozen=True)
class Paged:
    """A query from a URL, and which of its results to return: `limit` of them, from `offset` on.

    Fields with a text default are text, others numbers.
    """

    offset: int = 0
    limit: int = 24

    def __post_init__(self) -> None:
        """Raises BadArgument unless offset and limit are within bounds."""
        if self.offset < 0 or not 0 <= self.limit <= MOST:
            raise BadArgument(f"offset is at least 0, and limit is 0 to {MOST}.")

    @classmethod
    def read(cls, words: Mapping[str, str]) -> "Self":
        """Parses a query from the parameters of a URL. Raises BadArgument naming the invalid one."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            word = words.get(field.name, "")
            if word == "":
                continue
            kind = str if isinstance(field.default, str) else float if field.name in _FRACTIONS else int
            try:
                values[field.name] = kind(word)
            except ValueError:
                raise BadArgument(f"{field.name}={word!r} is not a number.") from None
            if kind is float and not isfinite(values[field.name]):
                raise BadArgument(f"{field.name}={word!r} is not a number.")
        return cls(**values)


@dataclass(frozen=True)
class Query(Paged):
    """The conditions of a search for images. None or "" excludes nothing.

    category (its index), cause, verdict, model (its index), low and high (IoU): the image has a segment that meets all
    of these at once; a miss has the IoU that it would have with the segment that its cause pairs it with
    slice: "SLICING:SLICE", the image has an error in it
    taken: "TRUE:PREDICTED", indices of categories, −1 for void: pixels of one are predicted as the other
    only: "A:B", indices of models: A finds a segment that B does not
    differ: minimum difference in PQ between the best and the worst model, 0–1
    """

    category: int | None = None
    cause: str = ""
    verdict: str = ""
    model: int | None = None
    low: float | None = None
    high: float | None = None
    slice: str = ""
    taken: str = ""
    only: str = ""
    differ: float | None = None
    order: str = "worst"

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown sort order, or a filter other than TP, FP or FN."""
        super().__post_init__()
        if self.order not in ORDERS:
            raise BadArgument(f"There is no order {self.order!r}. Choose one of {', '.join(ORDERS)}.")
        if self.verdict and self.verdict not in VERDICTS:
            raise BadArgument(f"There is no verdict {self.verdict!r}. Choose one of {', '.join(VERDICTS)}.")


@dataclass(frozen=True)
class ErrorQuery(Paged):
    """A request for errors of a model (its index); None or "" excludes nothing.

    beside: index of a model whose answer is displayed next to each; category: an index; slice: as in `Query`
    """

    model: int = 0
    beside: int | None = None
    cause: str = ""
    category: int | None = None
    size: str = ""
    slice: str = ""


def refuse_unknown_index(what: str, index: int | None, known: int) -> None:
    """Raises BadArgument unless an index is below the number of models or categories; None is allowed."""
    if index is not None and not 0 <= index < known:
        raise BadArgument(f"There is no {what} {index}.")
