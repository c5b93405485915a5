"""What is not there in a stored run, counted once as long as the run is held."""

import weakref

from panbench.metrics.absent import AbsentFold
from panbench.runs import Run

__all__ = ["absent"]

_known: weakref.WeakKeyDictionary[Run, AbsentFold] = weakref.WeakKeyDictionary()


def absent(run: Run) -> AbsentFold:
    """The counts of a run. Of one that is read in blocks those of its other sums, if these are made."""
    if run in _known:
        return _known[run]
    if run.in_blocks:
        from panbench.report.answers.folded import known_absent

        return known_absent(run) or AbsentFold(run.categories)
    _known[run] = AbsentFold(run.categories)
    run.fold(_known[run])
    return _known[run]
