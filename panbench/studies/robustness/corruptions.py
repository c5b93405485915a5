"""The image corruptions of ImageNet-C: 15 and 4 more, each at 5 severities. [Hendrycks and Dietterich 2019]

They equal imagecorruptions 1.1.2, the code behind the benchmark for detectors [Michaelis et al. 2019] and
mmdet's robustness test, pixel by pixel for the same random draws (kinds.py); `frost` deviates, as its photographs are
not ours to ship. As there, parameters are those for 224×224 images whatever the size, and the ground truth is not
changed. Random numbers are NumPy's, seeded by corruption, severity and image.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.studies.robustness.definitions import DEVIATIONS
from panbench.studies.robustness.kinds import FUNCTIONS, Levels, Pixels

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class CorruptionKind:
    """A kind of corruption: its group in the paper, and whether it is one of the 4 that mPC leaves out.

    apply: takes (H, W, 3) uint8 RGB, a level 0–4 and a random generator; returns levels 0–255
    deviation: how it differs from imagecorruptions 1.1.2; None if it does not
    """

    name: str
    group: str
    is_extra: bool
    apply: Callable[[Pixels, int, np.random.Generator], Levels]
    deviation: str | None = None


@dataclass(frozen=True, order=True)
class Corruption:
    """A kind of corruption at a severity from 1 to 5."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return f"{self.name}-{self.severity}"


def corrupt(rgb: npt.NDArray[np.uint8], corruption: Corruption, image_id: int) -> npt.NDArray[np.uint8]:
    """Returns the corrupted (H, W, 3) uint8 RGB image, always the same for the same corruption and image id.

    Raises BadArgument for an unknown corruption or severity, ValueError if `rgb` is not (H, W, 3) uint8.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    _check_corruption(corruption)
    key = hashlib.sha256(f"{corruption} {image_id}".encode()).digest()
    random = np.random.default_rng(np.frombuffer(key, np.uint32))
    levels = CORRUPTIONS[corruption.name].apply(rgb, corruption.severity - 1, random)
    # Truncated, not rounded, as in the files of the paper.
    return np.clip(levels, 0, 255).astype(np.uint8)


def parse_corruptions(text: str) -> list[Corruption]:
    """Parses corruptions as `fog:2,jpeg:4`; `fog` stands for its five severities, `all` for all 19 kinds at each.

    `all15` leaves out the four extra kinds, which mPC does not average. `all:3` is each kind at severity 3.
    Raises BadArgument for an unknown name, a severity outside 1–5, and an empty list.
    """
    found: list[Corruption] = []
    for word in (word.strip() for word in text.split(",")):
        name, colon, level = word.partition(":")
        name = name.strip().lower().replace("-", "_")
        if not name:
            continue
        name = {"jpeg": "jpeg_compression", "elastic": "elastic_transform"}.get(name, name)
        if colon and not (level.strip().isascii() and level.strip().isdigit()):
            raise BadArgument(f"--corrupt {word}: the severity must be a whole number from 1 to 5.")
        levels = (int(level),) if colon else SEVERITIES
        if name in ("all", "all15"):
            names = [kind.name for kind in CORRUPTIONS.values() if name == "all" or not kind.is_extra]
        else:
            names = [name]
        for one in names:
            for severity in levels:
                corruption = Corruption(one, severity)
                _check_corruption(corruption)
                found.append(corruption)
    if not found:
        raise BadArgument("--corrupt names no corruption. Write for example fog:2,jpeg:4, or all.")
    return list(dict.fromkeys(found))


def _check_corruption(corruption: Corruption) -> None:
    """Raises BadArgument for an unknown corruption, or a severity outside 1–5."""
    if corruption.name not in CORRUPTIONS:
        near = difflib.get_close_matches(corruption.name, CORRUPTIONS, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"They are {', '.join(CORRUPTIONS)}; or all, or all15."
        raise BadArgument(f"There is no corruption {corruption.name!r}. {hint}")
    if corruption.severity not in SEVERITIES:
        raise BadArgument(f"{corruption.name} has severities from 1 to 5, not {corruption.severity}.")


_GROUPS = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"), "noise"),
    **dict.fromkeys(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"), "blur"),
    **dict.fromkeys(("snow", "frost", "fog", "brightness", "spatter"), "weather"),
    **dict.fromkeys(("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"), "digital"),
}
_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

CORRUPTIONS: Mapping[str, CorruptionKind] = MappingProxyType(
    {
        name: CorruptionKind(name, _GROUPS[name], name in _EXTRA, function, DEVIATIONS.get(name))
        for name, function in FUNCTIONS.items()
    }
)
"""By name: the 15 of the paper in its order, then its 4 extras."""
