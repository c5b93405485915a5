"""Reads a repository's preprocessor_config.json: sizes, mean and std of the input, and thresholds of fusion.

panbench resizes as the family's paper does. The image processor's own size and thresholds are those of the rule
`transformers`, which measures what people get who call it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.base.errors import BadArgument, BadModel
from panbench.models.rules import Rule, parse_rule

__all__ = ["Processor"]

_THRESHOLDS = {"threshold": "score", "overlap_mask_area_threshold": "overlap", "mask_threshold": "mask"}
"""Arguments of post_process_panoptic_segmentation, and the thresholds of the rule that they are."""


@dataclass(frozen=True)
class Processor:
    """An image processor's settings; {} for a model without one.

    title: the model's, for sentences; family: its name in families.FAMILIES
    """

    stated: Mapping[str, Any]
    title: str
    family: str

    @property
    def sides(self) -> dict[str, int]:
        """`short` and `long`, the sides of the input, in the spellings that transformers has had."""
        size, found = self.stated.get("size"), {}
        if isinstance(size, int):
            found["short"] = size
            if isinstance(self.stated.get("max_size"), int):
                found["long"] = self.stated["max_size"]
        elif isinstance(size, Mapping):
            for key, name in (("shortest_edge", "short"), ("longest_edge", "long")):
                if isinstance(size.get(key), int):
                    found[name] = size[key]
        return found

    @property
    def exact(self) -> tuple[int, int] | None:
        """(height, width) that it stretches every image to; None where it keeps the image's shape."""
        size = self.stated.get("size")
        if not isinstance(size, Mapping) or not self.stated.get("do_resize", True):
            return None
        height, width = size.get("height"), size.get("width")
        return (
            (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None
        )

    def scaled(self, key: str, default: Sequence[float]) -> tuple[float, ...]:
        """`image_mean` or `image_std` in 0–255."""
        values = self.stated.get(key)
        if not (isinstance(values, list) and len(values) == 3):
            return tuple(default)
        return tuple(255.0 * value for value in values)

    @property
    def rule(self) -> Rule:
        """The rule `transformers` as this processor fuses by default. Raises BadModel for impossible thresholds."""
        which = "mask2former" if self.family == "mask2former" else "maskformer"
        stated = [f"{own}={self.stated[key]}" for key, own in _THRESHOLDS.items() if key in self.stated]
        text = ",".join([f"transformers:processor={which}", *stated])
        try:
            return parse_rule(text)
        except BadArgument as error:
            raise BadModel(
                f"{self.title}: its preprocessor_config.json has an impossible threshold. {error}"
            ) from error
