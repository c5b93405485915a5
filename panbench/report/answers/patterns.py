"""Patterns in the place of runs: 'results/a@seed*' names all run folders that fit."""

import glob
from collections.abc import Sequence
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.runs import in_results, looks_like_run

__all__ = ["folders_named", "is_pattern", "spelled_out"]


def is_pattern(path: Path) -> bool:
    """Whether a name is a pattern for several runs: it has a wildcard, and is not a file or folder itself."""
    return glob.has_magic(str(path)) and not path.exists()


def folders_named(argument: Path) -> list[Path]:
    """The runs and folders of runs that an argument names; a pattern without a folder is looked for in results/, too.

    Raises BadRun for a pattern that no run fits.
    """
    if not is_pattern(argument):
        return [in_results(argument)]
    places = [argument] if argument.parent != Path() else [argument, Path("results") / argument]
    for place in places:
        fitting = [path for path in sorted(map(Path, glob.glob(str(place)))) if path.is_dir()]
        if found := [path for path in fitting if looks_like_run(path) or any(path.glob("*/run.json"))]:
            return found
    raise BadRun(f"No run fits the pattern {str(argument)!r}. A pattern names run folders, as 'results/a@*'.")


def spelled_out(arguments: Sequence[Path]) -> list[Path]:
    """The folders that arguments with a pattern name, each once; without a pattern the arguments, found in results/.

    Raises BadRun for a pattern that no run fits.
    """
    if not any(map(is_pattern, arguments)):
        return list(map(in_results, arguments))
    return list(dict.fromkeys(folder for argument in arguments for folder in folders_named(argument)))
