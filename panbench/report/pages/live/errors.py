"""The wall of errors of `panbench serve`: pages of a run's errors, cut out of their images on request.

For an error only the pictures of its own run and of the compared one are read. Crops are cached for a while.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.report.figures.crops import errors_of, fitting_errors
from panbench.report.figures.cutting import Cutter, PricedError
from panbench.report.pages.live.queries import ErrorQuery, refuse_unknown_index
from panbench.report.pages.page.packing import Examples, crop_record
from panbench.report.pages.page.wall import error_record

KEPT = 1000
"""Number of crops cached in memory, about 6 kB each."""

_Key = tuple[int, int | None, int, str, tuple[int, ...], tuple[int, ...]]


class ErrorSearch:
    """Finds and crops the errors of some runs. Not thread-safe.

    refuse: raises PanbenchError for an image that must not be displayed
    """

    def __init__(self, examples: Examples, refuse: Callable[[int], None]) -> None:
        """Takes the pictures of some runs, and a function that raises for images that must not be displayed."""
        self._examples = examples
        self._refuse = refuse
        self._kept: OrderedDict[_Key, dict[str, Any]] = OrderedDict()

    def answer(
        self, query: ErrorQuery, images: npt.NDArray[np.int64] | None = None, reporter: Reporter = SILENT
    ) -> dict[str, Any]:
        """Returns as JSON a page of the errors that match a query, the costliest first, with their pictures.

        Keys: total (of the query), all (errors of the model), errors, faults.
        images: only errors in these. Raises BadArgument for an unknown model, category or cause.
        """
        members = self._examples.members
        for index in (query.model, query.beside):
            refuse_unknown_index("model", index, len(members))
        member, category = members[query.model], query.category
        refuse_unknown_index("category", category, len(member.categories))
        name = None if category is None else member.categories[category].name
        table = fitting_errors(
            member, query.cause or None, name, query.size or None, None if images is None else images.tolist()
        )
        found = list(errors_of(table.iloc[query.offset : query.offset + query.limit]))
        reporter.status("Cutting out errors")
        indices = {one.id: index for index, one in enumerate(member.categories)}
        faults = self._cut_out_crops(query, found, indices)
        records = [
            {"model": query.model, **error_record(error, indices), **self._kept[key], "slices": []}
            for error in found
            if (key := _crop_key(query, error)) in self._kept
        ]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {"total": len(table), "all": member.totals.errors, "errors": records, "faults": faults}

    def _cut_out_crops(self, query: ErrorQuery, errors: Sequence[PricedError], indices: Mapping[int, int]) -> list[str]:
        """Cuts the pictures of errors out of their images; returns a message for each image that cannot be displayed.

        Pictures that are cached are not cut again.
        """
        requested = (query.model, query.beside)
        sources = [source if index in requested else None for index, source in enumerate(self._examples.sources)]
        if sources[query.model] is None:
            return list(self._examples.missing)
        waiting, faults = [], []
        for error in errors:
            if (key := _crop_key(query, error)) in self._kept:
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
                self._kept[_crop_key(query, error)] = crop_record(crop, indices)
        return list(dict.fromkeys([*faults, *problems]))


def _crop_key(query: ErrorQuery, error: PricedError) -> _Key:
    """Returns the key of a cached crop: the models of the query, and what identifies the error."""
    return query.model, query.beside, error.image_id, error.cause, error.gt_ids, error.pred_ids
