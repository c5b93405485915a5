"""The version of the corruptions' definitions, their deviations from the published ones, and the runs' folders."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from panbench.runs.definitions import Definition

VERSION = 1
"""Version 1 equals imagecorruptions 1.1.2 except for DEVIATIONS."""

DEFINITIONS = (Definition("corruptions", VERSION, lambda model, arguments: "corruption" in arguments),)

DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "frost": "blends generated sheets of crystals, as bright and as varied as the package's photographs, which are "
        "not ours to ship"
    }
)
"""How corruptions differ from imagecorruptions 1.1.2, by name. An mPC with one of them is not comparable."""


def corrupted_runs(home: Path) -> Path:
    """Returns the folder next to a clean run that holds its corrupted runs, each in a folder of its own: `fog-2`."""
    named = home if home.name else home.absolute()
    return named.with_name(f"{named.name}-corrupted")
