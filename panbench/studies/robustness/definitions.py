"""The version of the corruptions' definitions, and what they deviate in from the package behind the published mPC."""

from collections.abc import Mapping
from types import MappingProxyType

from panbench.runs.definitions import Definition

__all__ = ["DEFINITIONS", "DEVIATIONS", "VERSION"]

VERSION = 1
"""Equal to imagecorruptions 1.1.2 but for DEVIATIONS."""

DEFINITIONS = (Definition("corruptions", VERSION, lambda model, arguments: "corruption" in arguments),)

DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "frost": "blends generated sheets of crystals, as bright and as varied as the package's photographs, which are "
        "not ours to ship"
    }
)
"""By corruption: how it differs from imagecorruptions 1.1.2. An mPC with one of them is not comparable."""
