"""Imports objects by import path, "package.module:NAME", when they are first needed.

A `Register` lists panbench's own objects and those that other packages declare by an entry-point group:

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

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class BrokenReference(PanbenchError):
    """Raised when an import path names no object."""


def is_reference(text: str) -> bool:
    """True if a text is written like an import path."""
    return _REFERENCE.fullmatch(text) is not None


def load(reference: str, *, here: bool = False) -> Any:
    """Imports and returns the object at an import path.

    here: also search the current folder, after all others. Only for paths that the user names: a folder there must not
        replace a library that one of our own modules imports and that is not installed.
    Raises BrokenReference for an unknown module or name. If a library that the module imports is not installed,
    ModuleNotFoundError is raised: the command line says how to install it.
    """
    module, colon, name = reference.partition(":")
    if not colon:
        raise BrokenReference(f"{reference!r} names no object. Write package.module:NAME.")
    if here and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise BrokenReference(f"the module {module} has nothing named {name!r}.") from None
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise BrokenReference(f"there is no Python module {module} ({reference} is not importable).") from None


@functools.cache
def _entry_points(group: str) -> Mapping[str, str]:
    """Returns the import path of each installed entry point of a group, by name."""
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}


class Register(Mapping[str, Any]):
    """A mapping from names to objects, panbench's own and those of other packages, each imported when first used.

    group: the entry-point group of other packages; references: panbench's own import paths, which win if names collide
    """

    def __init__(self, group: str, references: Mapping[str, str]) -> None:
        """Takes panbench's own import paths by name, and the entry-point group of other packages."""
        self.group = group
        self._ours = dict(references)

    @property
    def references(self) -> Mapping[str, str]:
        """Returns the import paths by name: panbench's own, then those of installed packages; imports none of them."""
        return {
            **self._ours,
            **{name: reference for name, reference in _entry_points(self.group).items() if name not in self._ours},
        }

    def __getitem__(self, name: str) -> Any:
        """Imports and returns the object with this name. Raises KeyError for an unknown name."""
        reference = self._ours.get(name) or self.references[name]
        return load(reference)

    def __iter__(self) -> Iterator[str]:
        """Yields the names of the registered objects, panbench's own first."""
        return iter(self.references)

    def __len__(self) -> int:
        """Returns the number of registered objects."""
        return len(self.references)

    def __contains__(self, name: object) -> bool:
        """True if an object is registered under this name; imports nothing."""
        return name in self._ours or name in self.references
