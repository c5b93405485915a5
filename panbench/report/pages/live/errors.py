"""The wall of errors of `panbench serve`: all errors of a run, of which a page asks for some, cut out of their images.

Of an error the pictures of its own run and of the one beside it are read, and of no other. Crops are kept for a while.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.report.figures.crops import errors_of, fitting_errors
from panbench.report.figures.cutting import Cutter, PricedError
from panbench.report.pages.live.words import check_bounds, values_of
from panbench.report.pages.page.gallery import Examples
from panbench.report.pages.page.packing import crop_record
from panbench.report.pages.page.wall import error_record

__all__ = ["KEPT", "ErrorQuery", "Errors"]

KEPT = 1000
"""Crops that stay in memory, about 6 kB each."""

_Key = tuple[int, int | None, int, str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class ErrorQuery:
    """Which errors of a model (its place) are asked for; what is None or "" excludes nothing.

    beside: the place of a model whose answer stands beside each; category: a place; slice: as in `Query`
    """

    model: int = 0
    beside: int | None = None
    cause: str = ""
    category: int | None = None
    size: str = ""
    slice: str = ""
    offset: int = 0
    limit: int = 24

    @classmethod
    def read(cls, words: Mapping[str, str]) -> "ErrorQuery":
        """The query that the words of an address ask for. Raises BadArgument naming what is not understood."""
        query = cls(**values_of(cls, words))
        check_bounds(query.offset, query.limit)
        return query


class Errors:
    """The errors of some runs. Not for several threads at once.

    refuse: raises PanbenchError for an image that must not be shown
    """

    def __init__(self, examples: Examples, refuse: Callable[[int], None]) -> None:
        self._examples = examples
        self._refuse = refuse
        self._kept: OrderedDict[_Key, dict[str, Any]] = OrderedDict()

    def answer(
        self, query: ErrorQuery, images: npt.NDArray[np.int64] | None = None, reporter: Reporter = SILENT
    ) -> dict[str, Any]:
        """A page of what a query finds, the costliest first: total, all (errors of the model), errors, faults.

        images: only errors in these. Raises BadArgument for an unknown model, category or cause.
        """
        members = self._examples.members
        for place in (query.model, query.beside):
            if place is not None and not 0 <= place < len(members):
                raise BadArgument(f"There is no model {place}.")
        member, category = members[query.model], query.category
        if category is not None and not 0 <= category < len(member.categories):
            raise BadArgument(f"There is no category {category}.")
        name = None if category is None else member.categories[category].name
        table = fitting_errors(
            member, query.cause or None, name, query.size or None, None if images is None else images.tolist()
        )
        shown = list(errors_of(table.iloc[query.offset : query.offset + query.limit]))
        reporter.status("Cutting out errors")
        places = {one.id: place for place, one in enumerate(member.categories)}
        faults = self._cut(query, shown, places)
        records = [
            {"model": query.model, **error_record(error, places), **self._kept[key], "slices": []}
            for error in shown
            if (key := _key(query, error)) in self._kept
        ]
        self._forget()
        return {"total": len(table), "all": member.errors, "errors": records, "faults": faults}

    def _cut(self, query: ErrorQuery, errors: Sequence[PricedError], places: Mapping[int, int]) -> list[str]:
        """Keeps the crops of some errors; a sentence for each image that cannot be shown."""
        wanted = (query.model, query.beside)
        sources = [source if place in wanted else None for place, source in enumerate(self._examples.sources)]
        if sources[query.model] is None:
            return list(self._examples.missing)
        waiting, faults = [], []
        for error in errors:
            if (key := _key(query, error)) in self._kept:
                self._kept.move_to_end(key)
                continue
            try:
                self._refuse(error.image_id)
                waiting.append(error)
            except PanbenchError as problem:
                faults.append(str(problem))
        crops, problems = Cutter(sources, self._examples.pictures).cut([(query.model, one) for one in waiting])
        for error, crop in zip(waiting, crops, strict=True):
            if crop is not None:
                self._kept[_key(query, error)] = crop_record(crop, places)
        return list(dict.fromkeys([*faults, *problems]))

    def _forget(self) -> None:
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def _key(query: ErrorQuery, error: PricedError) -> _Key:
    return query.model, query.beside, error.image_id, error.cause, error.gt_ids, error.pred_ids
