"""Progress reporting for long-running work: one protocol for counts, bytes, status and notices.

Functions take `reporter: Reporter = SILENT`, and no other callback for what they say. The command line passes one that
draws bars and prints notes (`cli.console.Bars`), programs pass one that collects notices (`Collected`).
"""

from collections.abc import Callable
from typing import Literal, Protocol

__all__ = ["SILENT", "Collected", "NoticesOnly", "Reporter", "Silent", "Unit", "counter"]

Unit = Literal["images", "files", "bytes", "settings", "swaps", "shards"]


class Reporter(Protocol):
    """The interface for reporting progress. Calls come from one thread at a time, at any rate."""

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
    """A Reporter that does nothing; base class of those that handle one kind of message."""

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Does nothing."""

    def status(self, words: str) -> None:
        """Does nothing."""

    def notice(self, sentence: str) -> None:
        """Does nothing."""


class Collected(Silent):
    """A Reporter that keeps the notices, in `notices`."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, sentence: str) -> None:
        """Keeps it."""
        self.notices.append(sentence)


class NoticesOnly(Silent):
    """Passes notices on to another Reporter and drops progress, for a part of work whose progress is already shown."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def notice(self, sentence: str) -> None:
        """Passes it on."""
        self._reporter.notice(sentence)


SILENT: Reporter = Silent()

Counting = Callable[[int, "int | None"], None]
"""A Reporter's progress bound to one task: (done, total), for code that counts and need not know what."""


def counter(reporter: Reporter, task: str, unit: Unit = "images") -> Counting:
    """`reporter.progress` of one task and unit."""
    return lambda done, total: reporter.progress(task, done, total, unit)
