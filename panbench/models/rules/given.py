"""The rule for models that return a finished map: it is used unchanged."""

from dataclasses import dataclass
from typing import ClassVar

from panbench.base.errors import BadModel
from panbench.models.candidates import FinishedMap
from panbench.models.rules.base import Rule, SegmentedMap
from panbench.panoptic.types import MAX_ID


@dataclass(frozen=True)
class Given(Rule):
    """Passes on the id map that the model gives, without any change."""

    name: ClassVar[str] = "given"
    summary: ClassVar[str] = "The model gives a finished id map, which is taken as it is."
    source: ClassVar[str] = "the model"
    takes: ClassVar[type] = FinishedMap

    def fuse(self, output: FinishedMap) -> FinishedMap:
        """Returns the model's id map itself."""
        return output

    def to_segments(self, fused: FinishedMap) -> SegmentedMap:
        """Returns the model's id map and its segments. Raises BadModel for ids that an id PNG cannot hold."""
        if fused.ids.size and not 0 <= int(fused.ids.min()) <= int(fused.ids.max()) <= MAX_ID:
            raise BadModel(
                f"The model gave an id map with ids from {fused.ids.min()} to {fused.ids.max()}; they must lie in "
                f"0…{MAX_ID}."
            )
        return fused.ids, fused.segments
