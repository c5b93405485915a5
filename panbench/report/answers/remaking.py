"""Commands that make a run again with its predictions, where it kept none, or go on with one that was stopped.

They are offered for pasting, and a run.json may come from anybody: they are built from the recorded words, each quoted,
and only where those are a call of `panbench eval`.
"""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from panbench.runs import Run

__all__ = ["command_with_predictions", "resuming_command"]

_CHANGED = ("--save-predictions", "--no-save-predictions", "--overwrite", "--resume")


def command_with_predictions(run: Run) -> str | None:
    """The command line that replaces a run by the same one with predictions; None if the run does not know its own.

    It is the recorded one, to be run in the same folder; --out names the place where the run lies today. Runs made from
    Python and scored folders have none.
    """
    recorded = _arguments_of_eval(run)
    if recorded is None:
        return None
    words = [word for word in recorded if word not in _CHANGED]
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name not in ("--out", "-o"):
            continue
        if value:
            words[place] = f"{name}={_today(value, run)}"
        elif place + 1 < len(words):
            words[place + 1] = _today(words[place + 1], run)
    return shlex.join(["panbench", "eval", *words, "--save-predictions", "--overwrite"])


def resuming_command(run: Run) -> str | None:
    """The command line that goes on with a run that was stopped; None if the run does not know how it was made.

    It is the recorded one, to be run in the same folder. Only `eval` goes on with a run.
    """
    recorded = _arguments_of_eval(run)
    if recorded is None:
        return None
    words = [word for word in recorded if word not in ("--overwrite", "--resume")]
    return shlex.join(["panbench", "eval", *words, "--resume"])


def _arguments_of_eval(run: Run) -> Sequence[str] | None:
    """What follows `panbench eval` in the recorded command; None if something else is recorded.

    Words with control characters are refused: a terminal takes them for keys as they are pasted.
    """
    program, *words = run.info.command or ("",)
    if run.info.kind != "eval" or program != "panbench" or not all(map(str.isprintable, words)):
        return None
    # Options of the program itself, such as -q, may stand before the command's name.
    after = itertools.dropwhile(lambda word: word.startswith("-"), words)
    return tuple(after) if next(after, None) == "eval" else None


def _today(out: str, run: Run) -> str:
    """Where --out leads now: the run's folder, or the one that holds it where several runs were made at once."""
    if run.path is None:
        return out
    here = run.path.resolve()
    return str(next((place for place in (here, here.parent) if place.name == Path(out).name), out))
