"""`panbench.compare`: takes runs or their paths, one or several."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import kind_of
from panbench.report.answers.comparison import Standing, standing
from panbench.report.answers.own_slices import ImageSlices
from panbench.report.answers.tables import find_runs
from panbench.runs import Run

__all__ = ["compare"]

RunOrPath = Run | str | os.PathLike[str]


def compare(
    runs: Iterable[RunOrPath] | RunOrPath,
    *,
    common_images: bool = False,
    mixed: bool = False,
    intervals: bool = True,
    by: str | None = None,
    per_category: bool = False,
    baseline: str | None = None,
    digits: int = 2,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Standing:
    """Sets runs side by side, with ranks, intervals and paired differences of PQ where their images are the same.

    runs: `Run`s, or paths of run folders and of folders of runs, as `panbench compare` takes them
    common_images: compare on the images that all runs have; mixed: show runs on other images as they are
    intervals: False leaves out intervals and ranks, which take the longest
    by: a slicing ("size", "share", "segments", "supercategory"); slices: sets of images; per_category: a table of each
    baseline: the name of the run that all others are compared with
    Raises BadRun for a path without a run and for runs that cannot be compared, BadArgument for other arguments.
    """
    return standing(
        _runs(runs, reporter),
        common_images=common_images,
        mixed=mixed,
        intervals=intervals,
        by=by,
        per_category=per_category,
        baseline=baseline,
        digits=digits,
        slices=slices,
        reporter=reporter,
    )


def _runs(given: Any, reporter: Reporter) -> list[Run]:
    if isinstance(given, Run | str | os.PathLike):
        given = [given]
    if not isinstance(given, Iterable):
        raise BadArgument(f"runs must be a list of runs or of their paths, not {kind_of(given)}.")
    found: list[Run] = []
    for number, each in enumerate(given):
        if isinstance(each, Run):
            found.append(each)
        elif isinstance(each, str | os.PathLike):
            found.extend(find_runs([each], reporter))
        else:
            way = "make a run of it with its save(path)" if type(each).__name__ == "Evaluator" else None
            raise BadArgument(
                f"runs[{number}] is neither a run nor a path but {_kind(each)}.", ways=[] if way is None else [way]
            )
    return found


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of the type {type(value).__name__}"
