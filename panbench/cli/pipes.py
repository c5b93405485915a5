"""A reader that stops early, as in `panbench compare … | head -1`, ends the program quietly, as it ends `cat`."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

import typer

__all__ = ["CLOSED", "flushed", "quiet_when_closed"]

CLOSED = 141
"""The exit code where the reader of the output has gone: 128 + SIGPIPE, which is what a shell reports of `cat`."""


@contextlib.contextmanager
def quiet_when_closed() -> Iterator[None]:
    """Turns a write to a closed stdout or stderr into exit code CLOSED; other broken pipes are raised."""
    try:
        yield
    except BrokenPipeError:
        if not _silence_closed():
            raise
        raise typer.Exit(CLOSED) from None
    except SystemExit as ended:
        # rich ends the program itself, with code 1.
        if isinstance(ended.__context__, BrokenPipeError) and ended.code == 1:
            raise typer.Exit(CLOSED) from None
        raise


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Writes what is still buffered before the program ends. A code other than 0 stays where the reader has gone."""
    try:
        yield
    except SystemExit as ended:
        # A reader that has gone after it has read everything is no matter: nothing is written any more.
        if [stream for stream in (sys.stdout, sys.stderr) if _cannot_be_flushed(stream)] and not ended.code:
            raise SystemExit(CLOSED) from None
        raise


def _silence_closed() -> bool:
    """Whether stdout or stderr has lost its reader; what is written there from now on goes nowhere."""
    streams = (sys.stdout, sys.stderr)
    # Each is looked at, also behind one that is closed.
    return bool([stream for stream in streams if _cannot_be_flushed(stream) or _has_no_reader(stream)])


def _cannot_be_flushed(stream: TextIO) -> bool:
    """Whether what is buffered finds no reader; it then goes nowhere."""
    try:
        stream.flush()
    except BrokenPipeError:
        _lead_nowhere(stream)
        return True
    except (OSError, ValueError):
        pass  # closed on our side, or full
    return False


def _has_no_reader(stream: TextIO) -> bool:
    """Whether the system says that nobody reads a stream; what is written to it then goes nowhere."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False  # Windows, or no file of the system
    if gone:
        _lead_nowhere(stream)
    return gone


def _lead_nowhere(stream: TextIO) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
