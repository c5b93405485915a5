"""How long work tells the outside how far it is: one protocol for counts, bytes, what is going on, and notices.

Functions take `reporter: Reporter = SILENT`; the command line hands in one that draws bars, tests one that records.
"""

from collections.abc import Callable
from typing import Literal, Protocol

__all__ = ["SILENT", "Reporter", "Silent", "Unit", "counter"]

Unit = Literal["images", "files", "bytes", "settings", "resamples"]


class Reporter(Protocol):
    """What long work may say. Calls come from one thread at a time, as often as the caller likes."""

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """`done` of `total` units of `task` are done; total is None while it is unknown.

        task: what is done, in a few words that begin its line ("Mask2Former R50", "Downloading train.zip"); the first
            call of a new task begins it, and `done` equal to `total` ends it
        """

    def status(self, words: str) -> None:
        """What goes on now and cannot be counted ("Building Mask2Former R50"); it holds until the next report."""

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read: what was skipped, chosen or left out."""


class Silent:
    """A Reporter that says nothing; base class of those that listen to one thing only."""

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Does nothing."""

    def status(self, words: str) -> None:
        """Does nothing."""

    def notice(self, sentence: str) -> None:
        """Does nothing."""


SILENT: Reporter = Silent()

Counting = Callable[[int, "int | None"], None]
"""A Reporter's progress bound to one task: (done, total), for code that counts and need not know what."""


def counter(reporter: Reporter, task: str, unit: Unit = "images") -> Counting:
    """`reporter.progress` of one task and unit."""
    return lambda done, total: reporter.progress(task, done, total, unit)
