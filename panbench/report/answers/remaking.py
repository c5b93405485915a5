"""Builds the commands that repeat a run with its predictions, if it stored none, or that resume an interrupted one.

They are meant for pasting into a shell, and a run.json may come from anybody: they are built from the recorded words,
each quoted, and only if those are a call of `panbench eval`.
"""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from panbench.runs import Run

_CHANGED = ("--save-predictions", "--no-save-predictions", "--overwrite", "--resume")


def command_with_predictions(run: Run) -> str | None:
    """Returns the command that makes a run again, with predictions; None if its command was not recorded.

    It is the recorded command, to be run in the same folder, with --out pointing to where the run lies today. Runs
    made from Python and scored folders have none. For a run whose predictions are only incomplete it is the command
    that resumes it.
    """
    if predictions_are_pending(run):
        return resuming_command(run)
    recorded = _recorded_eval_arguments(run)
    if recorded is None:
        return None
    words = [word for word in recorded if word not in _CHANGED]
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name not in ("--out", "-o"):
            continue
        if value:
            words[index] = f"{name}={_current_out_option(value, run)}"
        elif index + 1 < len(words):
            words[index + 1] = _current_out_option(words[index + 1], run)
    return shlex.join(["panbench", "eval", *words, "--save-predictions", "--overwrite"])


def predictions_are_pending(run: Run) -> bool:
    """Returns whether a run is unfinished and stores predictions, which can be read only once it is complete."""
    return run.info.status != "done" and bool(run.info.arguments.get("save_predictions"))


def resuming_command(run: Run) -> str | None:
    """Returns the command that resumes an interrupted run; None if its command was not recorded.

    It is the recorded command, to be run in the same folder. Only `eval` resumes a run.
    """
    recorded = _recorded_eval_arguments(run)
    if recorded is None:
        return None
    words = [word for word in recorded if word not in ("--overwrite", "--resume")]
    return shlex.join(["panbench", "eval", *words, "--resume"])


def _recorded_eval_arguments(run: Run) -> Sequence[str] | None:
    """Returns the arguments of `panbench eval` in the recorded command; None if it is another command.

    Words with control characters are rejected: a terminal would interpret them as keys when pasted.
    """
    program, *words = run.info.command or ("",)
    if run.info.kind != "eval" or program != "panbench" or not all(map(str.isprintable, words)):
        return None
    # Options of the program itself, such as -q, may precede the command's name.
    after = itertools.dropwhile(lambda word: word.startswith("-"), words)
    return tuple(after) if next(after, None) == "eval" else None


def _current_out_option(out: str, run: Run) -> str:
    """Returns the --out with which a repeated command writes to where the run is now: its folder or the parent."""
    if run.path is None:
        return out
    here = run.path.resolve()
    return str(next((index for index in (here, here.parent) if index.name == Path(out).name), out))
