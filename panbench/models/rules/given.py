"""The rule of models that fuse by themselves: their map is taken as it is."""

from dataclasses import dataclass
from typing import ClassVar

from panbench.models.candidates import FinishedMap
from panbench.models.rules.base import Rule, SettledMap


@dataclass(frozen=True)
class Given(Rule):
    """The id map that the model gives, without any change."""

    name: ClassVar[str] = "given"
    summary: ClassVar[str] = "The model gives a finished id map, which is taken as it is."
    source: ClassVar[str] = "the model"
    takes: ClassVar[type] = FinishedMap

    def fuse(self, output: FinishedMap) -> FinishedMap:
        """The map itself."""
        return output

    def settle(self, fused: FinishedMap) -> SettledMap:
        """Its ids and segments."""
        return fused.ids, fused.segments
