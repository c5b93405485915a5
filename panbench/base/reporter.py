"""Progress reporting for long-running work: one protocol for counts, bytes, status and notices.

Functions take `reporter: Reporter = SILENT`, and no other callback for status output. The command line passes one that
draws bars and prints notes (`cli.console.Bars`), programs pass one that collects notices (`Collected`).
"""

from collections.abc import Callable
from typing import Literal, Protocol

Unit = Literal["images", "files", "bytes", "settings", "swaps", "shards"]


class Reporter(Protocol):
    """The interface for reporting progress. Calls come from one thread at a time, at any rate."""

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Reports `done` of `total` units of `task`; total is None while it is unknown.

        task: the label of the progress bar ("Mask2Former R50", "Downloading train.zip"); the first call with a new
            label starts the task, and `done` equal to `total` ends it
        """

    def status(self, words: str) -> None:
        """Reports an activity that cannot be counted ("Building Mask2Former R50"), valid until the next report."""

    def notice(self, message: str) -> None:
        """Reports a message that the user should read, such as what was skipped or chosen."""


class Silent:
    """A Reporter that does nothing; base class of those that handle one kind of message."""

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Ignores progress."""

    def status(self, words: str) -> None:
        """Ignores a status."""

    def notice(self, message: str) -> None:
        """Ignores a notice."""


class Collected(Silent):
    """A Reporter that stores the notices, in `notices`."""

    def __init__(self) -> None:
        """Starts with an empty list of notices."""
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        """Appends the message to `notices`."""
        self.notices.append(message)


class NoticesOnly(Silent):
    """Passes notices on to another Reporter and drops progress, for steps whose progress is already displayed."""

    def __init__(self, reporter: Reporter) -> None:
        """Wraps the Reporter that receives the notices."""
        self._reporter = reporter

    def notice(self, message: str) -> None:
        """Passes the notice on to the wrapped Reporter."""
        self._reporter.notice(message)


SILENT: Reporter = Silent()

Counting = Callable[[int, "int | None"], None]
"""A function of (done, total) that reports the progress of one task; `counter` makes it of a Reporter."""


def counter(reporter: Reporter, task: str, unit: Unit = "images") -> Counting:
    """Returns a function of (done, total) that reports the progress of one task in one unit."""
    return lambda done, total: reporter.progress(task, done, total, unit)
