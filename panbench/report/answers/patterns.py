"""Wildcard patterns for run folders: 'results/a@seed*' stands for all that match."""

import glob
from collections.abc import Sequence
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.runs import in_results, looks_like_run


def is_pattern(path: Path) -> bool:
    """Returns whether a name is a pattern for several runs: it has a wildcard and is not itself a file or folder."""
    return glob.has_magic(str(path)) and not path.exists()


def folders_named(argument: Path) -> list[Path]:
    """Returns the runs and folders of runs that an argument names; a pattern is also searched for in results/.

    Raises BadRun for a pattern that no run matches.
    """
    if not is_pattern(argument):
        return [in_results(argument)]
    indices = [argument] if argument.parent != Path() else [argument, Path("results") / argument]
    for index in indices:
        fitting = [path for path in sorted(map(Path, glob.glob(str(index)))) if path.is_dir()]
        if found := [path for path in fitting if looks_like_run(path) or any(path.glob("*/run.json"))]:
            return found
    raise BadRun(f"No run fits the pattern {str(argument)!r}. A pattern names run folders, as 'results/a@*'.")


def expanded_run_folders(arguments: Sequence[Path]) -> list[Path]:
    """Returns the folders that arguments name, patterns expanded, each once; results/ is searched, too.

    Raises BadRun for a pattern that no run matches.
    """
    if not any(map(is_pattern, arguments)):
        return list(map(in_results, arguments))
    return list(dict.fromkeys(folder for argument in arguments for folder in folders_named(argument)))
