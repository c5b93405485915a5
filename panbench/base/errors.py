"""The errors a user can act on. Each carries one message: what was wrong, where, what to do."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from panbench.base.secrets import redacted
from panbench.base.text import capitalised

AnyError = TypeVar("AnyError", bound="PanbenchError")


@dataclass(frozen=True)
class Way:
    """A hint at what to do about an error: an instruction without capital letter and full stop ("add --mixed").

    option: the option that it mentions; commands without this option do not print the hint
    """

    words: str
    option: str | None = None


class PanbenchError(Exception):
    """Base of every error caused by the input. The command line prints it and exits with `exit_code`.

    reason: what was wrong and where, in full sentences
    ways: hints what to do about it, joined to one sentence: "Do this, do that, or do a third thing."
    """

    exit_code = 2
    stays = ""
    """A sentence that a caller adds: which results are on disk despite the error, and how to continue from them."""

    def __init__(self, reason: str = "", *, ways: Sequence[str | Way] = ()) -> None:
        """Takes the reason of the error, and hints what the user can do about it."""
        super().__init__(reason)
        self.reason = reason
        self.ways = tuple(Way(way) if isinstance(way, str) else way for way in ways)

    def __str__(self) -> str:
        """Returns the reason and all hints."""
        return self.message()

    def message(self, options: Collection[str] | None = None) -> str:
        """Returns the message without secrets: reason, hints, and what remains on disk.
        Secrets are removed here, as messages quote libraries and servers.

        options: those that the command has; hints that need another option are left out. None: all hints
        """
        ways = [way.words for way in self.ways if options is None or way.option is None or way.option in options]
        joined = f"{capitalised(', '.join([*ways[:-1], f'or {ways[-1]}'] if len(ways) > 1 else ways))}." if ways else ""
        return redacted(" ".join(part for part in (self.reason, joined, self.stays) if part))

    def without(self: AnyError, *options: str) -> AnyError:
        """Copies the error without the hints that mention one of these options, for commands without them."""
        other = copy.copy(self)
        other.ways = tuple(way for way in self.ways if way.option not in options)
        return other

    def with_ways(self: AnyError, *ways: str | Way) -> AnyError:
        """Copies the error with further hints."""
        other = copy.copy(self)
        other.ways = (*self.ways, *(Way(way) if isinstance(way, str) else way for way in ways))
        return other


class BadDataset(PanbenchError):
    """A dataset, its JSON, its images or its ground-truth PNGs are not what they should be."""


class PredictionMismatch(PanbenchError):
    """Predictions do not fit the ground truth they are scored against."""


class BadModel(PanbenchError):
    """A model is unknown, its config cannot be used, or its categories do not match the dataset's."""


class ModelFailed(PanbenchError):
    """A user's own model raised an error or returned something invalid: neither the input nor panbench is at fault."""

    exit_code = 1


class BadCheckpoint(PanbenchError):
    """Weights are missing, damaged, unsafe to load, or do not fit the model."""


class BadRun(PanbenchError):
    """A run folder is missing, not ours, incomplete, or already exists."""


class BadArgument(PanbenchError):
    """An argument, or a combination of arguments, that cannot be used."""


def refuse_overwrite_and_resume(overwrite: bool, resume: bool) -> None:
    """Raises BadArgument if a run is to be both replaced and resumed."""
    if overwrite and resume:
        raise BadArgument("--overwrite and --resume contradict each other. Give one of them.")


class DownloadFailed(PanbenchError):
    """A download could not be finished; each file on disk is complete or absent."""


class Unreachable(DownloadFailed):
    """The server could not be reached at all, as on a machine without a network."""


WITHOUT_DOWNLOAD = Way("run a model that needs no download: --model mask2former-tiny", "--model")
"""How to run `eval` without a network: the weights ship with panbench, and the images are generated."""


class OutOfSpace(PanbenchError):
    """The disk is full; files written before are complete."""


class Interrupted(KeyboardInterrupt):
    """The work was interrupted; the message says how, and what has been stored."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Takes a message about the interruption, and the exit code of the process."""
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """A signal (SIGTERM, SIGHUP) asked the process to end: handled like Ctrl-C, with its own `exit_code`."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        """Takes the name of the signal that ended the process, such as SIGTERM, and the exit code."""
        super().__init__(f"Ended by {signal_name}.")
        self.signal_name = signal_name
        self.exit_code = exit_code
