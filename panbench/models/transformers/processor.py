"""Reads a repository's image processor: sizes, mean and std of the input, and thresholds of fusion.

Where transformers 5 saved a whole processor (OneFormer's), it is `image_processor` in processor_config.json, else
preprocessor_config.json. panbench resizes as the family's paper does; the image processor's own size and thresholds
belong to the rule `transformers`, which measures the results of transformers' users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadModel
from panbench.models.rules import Rule, parse_rule
from panbench.models.transformers.families import read_json

FILES = ("processor_config.json", "preprocessor_config.json")
_THRESHOLDS = {"threshold": "score", "overlap_mask_area_threshold": "overlap", "mask_threshold": "mask"}
"""Arguments of post_process_panoptic_segmentation → thresholds of the rule."""


@dataclass(frozen=True)
class Processor:
    """Holds an image processor's settings; {} for a model without one.

    title: the model's, for messages; family: its name in families.FAMILIES; file: the source of the settings
    """

    declared: Mapping[str, Any]
    title: str
    family: str
    file: str = FILES[1]

    @property
    def resizes(self) -> bool:
        """True if the processor resizes images."""
        return self.declared.get("do_resize") is not False

    @property
    def sides(self) -> dict[str, int | None]:
        """The input's sides `short` and `long`, from all spellings that transformers has used.

        `short` is None if images are not resized.
        """
        size, found = self.declared.get("size"), dict[str, int | None]()
        if not self.resizes:
            found["short"] = None
        elif isinstance(size, int):
            found["short"] = size
            if isinstance(self.declared.get("max_size"), int):
                found["long"] = self.declared["max_size"]
        elif isinstance(size, Mapping):
            for key, name in (("shortest_edge", "short"), ("longest_edge", "long")):
                if isinstance(size.get(key), int):
                    found[name] = size[key]
        return found

    @property
    def exact(self) -> tuple[int, int] | None:
        """(height, width) to which every image is stretched; None if aspect ratios are kept."""
        size = self.declared.get("size")
        if not isinstance(size, Mapping) or not self.resizes:
            return None
        height, width = size.get("height"), size.get("width")
        return (
            (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None
        )

    def mean_and_std(self, mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and std for pixels in 0–255, the paper's by default. Raises BadModel for an impossible scale."""
        step = self.declared.get("rescale_factor", 1 / 255)
        if not isinstance(step, int | float) or isinstance(step, bool) or step <= 0:
            raise BadModel(f"{self.title}: rescale_factor in its {self.file} is {step!r}, not a number above 0.")
        scale = 1.0 if self.declared.get("do_rescale") is False else 1 / step
        if self.declared.get("do_normalize") is False:
            return (0.0,) * 3, (scale,) * 3
        means = self._scaled_channel_values("image_mean", scale, mean)
        return means, self._scaled_channel_values("image_std", scale, std)

    def _scaled_channel_values(self, key: str, scale: float, default: Sequence[float]) -> tuple[float, ...]:
        """Returns the setting `key`, else the default, for three channels, times the scale."""
        values = self.declared.get(key)
        if not (isinstance(values, list) and len(values) == 3):
            return tuple(scale / 255.0 * value for value in default)
        return tuple(scale * value for value in values)

    @property
    def rule(self) -> Rule:
        """The fusion rule `transformers` with this processor's thresholds. Raises BadModel for impossible ones."""
        which = "mask2former" if self.family == "mask2former" else "maskformer"
        declared = [f"{own}={self.declared[key]}" for key, own in _THRESHOLDS.items() if key in self.declared]
        text = ",".join([f"transformers:processor={which}", *declared])
        try:
            return parse_rule(text)
        except BadArgument as error:
            raise BadModel(f"{self.title}: its {self.file} has an impossible threshold. {error}") from error


def read_processor(folder: Path | None, title: str, family: str) -> Processor:
    """Reads the image processor's settings of a folder; without a file they are empty. Raises BadModel."""
    if folder is not None:
        for file in filter(lambda file: (folder / file).is_file(), FILES):
            declared: Any = read_json(folder / file, title)
            if file == FILES[0]:
                declared = declared.get("image_processor")
            if isinstance(declared, dict):
                return Processor(declared, title, family, file)
    return Processor({}, title, family)
