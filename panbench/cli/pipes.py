"""Ends the program quietly when the reader of a pipe stops early, as in `panbench compare … | head -1`."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

import typer

CLOSED = 141
"""The exit code if the reader of the output has gone: 128 + SIGPIPE, as a shell reports for `cat`."""


@contextlib.contextmanager
def quiet_when_closed() -> Iterator[None]:
    """Ends the program with exit code CLOSED if stdout or stderr has lost its reader; raises other errors."""
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
def flushing_output() -> Iterator[None]:
    """Flushes stdout and stderr when the `with` block ends; exits with 141 if the reader of a pipe has closed it.

    An exit code other than 0 is kept.
    """
    try:
        yield
    except SystemExit as ended:
        # A reader that has gone after reading everything does not matter: there is nothing left to write.
        if [stream for stream in (sys.stdout, sys.stderr) if _cannot_be_flushed(stream)] and not ended.code:
            raise SystemExit(CLOSED) from None
        raise


def _silence_closed() -> bool:
    """Finds whether stdout or stderr has lost its reader; further output to that stream is then discarded."""
    streams = (sys.stdout, sys.stderr)
    # A list, not any(): both streams must be checked, even if the first is closed.
    return bool([stream for stream in streams if _cannot_be_flushed(stream) or _pipe_has_no_reader(stream)])


def _cannot_be_flushed(stream: TextIO) -> bool:
    """Tries to flush a stream; if its reader has gone, discards the output and returns True."""
    try:
        stream.flush()
    except BrokenPipeError:
        _discard_output(stream)
        return True
    except (OSError, ValueError):
        pass  # closed on our side, or full
    return False


def _pipe_has_no_reader(stream: TextIO) -> bool:
    """Asks the system whether a stream has lost its reader; if so, discards further output."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False  # Windows, or no file of the system
    if gone:
        _discard_output(stream)
    return gone


def _discard_output(stream: TextIO) -> None:
    """Redirects a stream to the null device."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
