"""A ground truth in several files, JSONs or shards: a pattern (`gt-*.json`), or paths joined by ` + `.

Wherever a run or a command names a JSON, it may name several in this way. A file of that very name comes first.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from panbench.base.addresses import is_address, path_at
from panbench.base.packed import Packed

__all__ = ["absolute_text", "common_folder", "exists", "folders_of", "joined_text", "name_of", "sources_of"]

_PLUS = " + "
_WILDCARD = re.compile(r"[*?[]")


def sources_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files that a path stands for: itself, or those of a pattern in order of their names, or those joined.

    A pattern that fits no file stands for itself: whoever reads it says that it was not found.
    """
    text = os.fspath(path)
    if is_address(text):
        return [path_at(path)]
    if os.path.lexists(text) or not (_PLUS in text or _WILDCARD.search(text)):
        return [path_at(path)]
    found: list[Path] = []
    for piece in text.split(_PLUS):
        fitting = sorted(glob.glob(piece)) if _WILDCARD.search(piece) and not os.path.lexists(piece) else []
        found += map(path_at, fitting or [piece])
    return list(dict.fromkeys(found))


def folders_of(folder: str | os.PathLike[str] | None, count: int) -> list[Path] | None:
    """The folder of each of so many JSONs: those joined by ` + `, or one for all; None where none is named."""
    if folder is None:
        return None
    text = os.fspath(folder)
    pieces = text.split(_PLUS)
    return [path_at(piece) for piece in pieces] if len(pieces) == count else [path_at(folder)] * count


def joined_text(paths: Iterable[str | os.PathLike[str]]) -> str:
    """The path that stands for several, each once."""
    return _PLUS.join(dict.fromkeys(os.fspath(path) for path in paths))


def absolute_text(path: str | os.PathLike[str]) -> str:
    """A path, a pattern or several paths, made absolute: what a run records."""
    text = os.fspath(path)
    pieces = [text] if os.path.lexists(text) or is_address(text) else text.split(_PLUS)
    return joined_text(path_at(piece).absolute() for piece in pieces)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether all files that a path stands for are there."""
    return all(source.is_file() for source in sources_of(path))


def common_folder(folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """The deepest folder that holds all of these, and the path of each below it, "" or with a slash at its end."""
    if len(set(folders)) == 1:
        return folders[0], [""] * len(folders)
    absolute = [os.path.abspath(folder) for folder in folders]
    common = os.path.commonpath(absolute)
    below = [os.path.relpath(folder, common).replace(os.sep, "/") for folder in absolute]
    # Where one leads into a container, all are read as such.
    kind = Packed if any(isinstance(folder, Packed) for folder in folders) else Path
    return kind(common), ["" if name == "." else f"{name}/" for name in below]


def name_of(path: str | os.PathLike[str]) -> str:
    """The dataset's name: its JSON's, or the common beginning of several."""
    stems = [Path(piece).stem for piece in os.fspath(path).split(_PLUS)]
    if len(stems) == 1 and not _WILDCARD.search(stems[0]):
        return stems[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    begin = "".join(letters[0] for letters in same)
    return _WILDCARD.split(begin)[0].rstrip("-_. 0") or "several"
