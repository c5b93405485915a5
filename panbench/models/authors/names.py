"""From the names of the authors' code to mmdet's: a table of prefixes per family; every tensor has one place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from panbench.base.errors import BadCheckpoint
from panbench.models.checkpoint_forms import shown
from panbench.models.mmdet.backbone_names import rename_backbone

__all__ = ["NameMap"]


@dataclass(frozen=True)
class NameMap:
    """Names of one family.

    prefixes: theirs → mmdet's; `#` stands for a number that stays, and the longest of theirs that fits counts
    backbone: what stands before the names of their backbone
    left_out: names that have no place in mmdet's network, each with the reason; `#` as above
    """

    prefixes: Mapping[str, str]
    backbone: str = "backbone."
    left_out: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, state_dict: Mapping[str, Tensor], backbone: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors under mmdet's names; backbone: mmdet's config of it. Raises BadCheckpoint for unknown names."""
        of_backbone = {
            name.removeprefix(self.backbone): value
            for name, value in state_dict.items()
            if name.startswith(self.backbone) and self._place(name) is None
        }
        found = {f"backbone.{name}": value for name, value in rename_backbone(of_backbone, backbone).items()}
        unknown, twice = [], []
        for name, value in state_dict.items():
            place = self._place(name)
            if place is None:
                if not name.startswith(self.backbone) and not self.is_left_out(name):
                    unknown.append(name)
                continue
            if place in found:
                twice.append(name)
            found[place] = value
        if unknown or twice or not of_backbone:
            reason = (
                f"it has no {self.backbone}…" if not (unknown or twice) else f"unknown are {shown(unknown + twice)}"
            )
            raise BadCheckpoint(
                f"These weights do not have the names of the authors' code: {reason}. Files of mmdet belong to the "
                "model without -authors in its name."
            )
        return found

    def is_left_out(self, name: str) -> bool:
        """Whether a name of theirs has no place in mmdet's network, by design."""
        return any(re.fullmatch(_pattern(left), name) for left in self.left_out)

    def _place(self, name: str) -> str | None:
        """mmdet's name; None for the backbone's, and for unknown ones."""
        for theirs in sorted(self.prefixes, key=len, reverse=True):
            if found := re.match(_pattern(theirs), name):
                ours = self.prefixes[theirs]
                for number in found.groups():
                    ours = ours.replace("#", number, 1)
                return ours + name[found.end() :]
        return None


def _pattern(text: str) -> str:
    return re.escape(text).replace(r"\#", r"(\d+)")
