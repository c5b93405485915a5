"""Commands that make a run again with its predictions, where it kept none, or go on with one that was stopped."""

import shlex
from pathlib import Path

from panbench.runs import Run

__all__ = ["command_with_predictions", "resuming_command"]

_CHANGED = ("--save-predictions", "--no-save-predictions", "--overwrite", "--resume")


def command_with_predictions(run: Run) -> str | None:
    """The command line that replaces a run by the same one with predictions; None if the run does not know its own.

    It is the recorded one, to be run in the same folder; --out names the place where the run lies today. Runs made from
    Python and scored folders have none.
    """
    words = [word for word in run.info.command if word not in _CHANGED]
    if run.info.kind != "eval" or "eval" not in words[:3]:
        return None
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name not in ("--out", "-o"):
            continue
        if value:
            words[place] = f"{name}={_today(value, run)}"
        elif place + 1 < len(words):
            words[place + 1] = _today(words[place + 1], run)
    return shlex.join([*words, "--save-predictions", "--overwrite"])


def resuming_command(run: Run) -> str | None:
    """The command line that goes on with a run that was stopped; None if the run does not know how it was made.

    It is the recorded one, to be run in the same folder. Only `eval` goes on with a run.
    """
    words = [word for word in run.info.command if word not in ("--overwrite", "--resume")]
    return shlex.join([*words, "--resume"]) if run.info.kind == "eval" and "eval" in words[:3] else None


def _today(out: str, run: Run) -> str:
    """Where --out leads now: the run's folder, or the one that holds it where several runs were made at once."""
    if run.path is None:
        return out
    here = run.path.resolve()
    return str(next((place for place in (here, here.parent) if place.name == Path(out).name), out))
