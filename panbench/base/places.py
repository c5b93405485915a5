"""Things that are named by where they are, "package.module:NAME", and imported when they are asked for.

A `Register` has ours and those of other packages, which declare them by an entry-point group:

    [project.entry-points."panbench.rules"]
    hierarchical = "their_package.fusion:Hierarchical"
"""

import functools
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from panbench.base.errors import PanbenchError

__all__ = ["BrokenPlace", "Register", "is_place", "load"]

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class BrokenPlace(PanbenchError):
    """A place without an object."""


def is_place(text: str) -> bool:
    """Whether a text is written like a place."""
    return _PLACE.fullmatch(text) is not None


def load(place: str, *, here: bool = False) -> Any:
    """The object at a place.

    here: also look in the current folder, after all others: for places that the user names. Never for our own and for
        those of entry points: a folder that is called like a library which is not installed must not stand in for it.
    Raises BrokenPlace for an unknown module or name. A library that the module needs and that is not installed
    raises ModuleNotFoundError: the command line says how to install it.
    """
    module, colon, name = place.partition(":")
    if not colon:
        raise BrokenPlace(f"{place!r} names no object. Write package.module:NAME.")
    if here and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise BrokenPlace(f"the module {module} has nothing named {name!r}.") from None
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise BrokenPlace(f"there is no Python module {module} ({place} is not importable).") from None


@functools.cache
def _installed(group: str) -> Mapping[str, str]:
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}


class Register(Mapping[str, Any]):
    """Objects by name, each imported when it is taken out: ours, and those of other packages.

    group: the entry-point group of the others; places: ours, which win where names collide
    """

    def __init__(self, group: str, places: Mapping[str, str]) -> None:
        self.group = group
        self._ours = dict(places)

    @property
    def places(self) -> Mapping[str, str]:
        """The place of each object by its name, ours first; nothing is imported."""
        return {
            **self._ours,
            **{name: place for name, place in _installed(self.group).items() if name not in self._ours},
        }

    def __getitem__(self, name: str) -> Any:
        place = self._ours.get(name) or self.places[name]
        return load(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self._ours or name in self.places
