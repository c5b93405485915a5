"""The errors a user can act on. Each carries one sentence: what was wrong, where, what to do."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from panbench.base.secrets import redacted
from panbench.base.text import capitalised

AnyError = TypeVar("AnyError", bound="PanbenchError")


@dataclass(frozen=True)
class Way:
    """A way out of an error: an instruction without capital letter and full stop ("add --mixed to show all").

    option: the option that it needs; a command that lacks this option does not print the way
    """

    words: str
    option: str | None = None


class PanbenchError(Exception):
    """Base of every error that is the input's fault. The command line prints it and exits with `exit_code`.

    reason: what was wrong and where, in whole sentences
    ways: what to do about it. One sentence joins them: "Do this, do that, or do a third thing."
    """

    exit_code = 2
    stays = ""
    """What is kept on disk despite the error and how to continue from it: a sentence that a caller sets."""

    def __init__(self, reason: str = "", *, ways: Sequence[str | Way] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.ways = tuple(Way(way) if isinstance(way, str) else way for way in ways)

    def __str__(self) -> str:
        """The reason and all ways out."""
        return self.sentence()

    def sentence(self, options: Collection[str] | None = None) -> str:
        """The reason, the ways out and what stays. Libraries and servers are quoted in it, so secrets are removed here.

        options: those that the command has; ways that need another option are left out. None: all ways
        """
        ways = [way.words for way in self.ways if options is None or way.option is None or way.option in options]
        joined = f"{capitalised(', '.join([*ways[:-1], f'or {ways[-1]}'] if len(ways) > 1 else ways))}." if ways else ""
        return redacted(" ".join(part for part in (self.reason, joined, self.stays) if part))

    def without(self: AnyError, *options: str) -> AnyError:
        """The same error without the ways that need one of these options, for code that offers no such option."""
        other = copy.copy(self)
        other.ways = tuple(way for way in self.ways if way.option not in options)
        return other

    def with_ways(self: AnyError, *ways: str | Way) -> AnyError:
        """The same error with further ways out, for code that knows more of them."""
        other = copy.copy(self)
        other.ways = (*self.ways, *(Way(way) if isinstance(way, str) else way for way in ways))
        return other


class BadDataset(PanbenchError):
    """A dataset, its JSON, its images or its ground-truth PNGs are not what they should be."""


class PredictionMismatch(PanbenchError):
    """Predictions do not fit the ground truth they are scored against."""


class BadModel(PanbenchError):
    """No such model, a config that cannot be used, or categories that do not match the dataset's."""


class ModelFailed(PanbenchError):
    """A model that panbench does not bring raised, or its answer is none: neither input nor panbench is wrong."""

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
    """There was no connection to the server at all, as on a machine without a network."""


WITHOUT_DOWNLOAD = Way("run a model that needs no download: --model mask2former-tiny", "--model")
"""How to run `eval` without a network: the weights ship with panbench, and the images are generated."""


class OutOfSpace(PanbenchError):
    """The disk is full; files written before are complete."""


class Interrupted(KeyboardInterrupt):
    """An interruption; the sentence says how, and what has been kept."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """A signal of the system asked the process to end (SIGTERM, SIGHUP): all that Ctrl-C does, and `exit_code`."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"Ended by {signal_name}.")
        self.signal_name = signal_name
        self.exit_code = exit_code
