"""The views of an image for test-time augmentation, by name."""

from dataclasses import dataclass

from panbench.base.errors import BadArgument
from panbench.base.text import listed


@dataclass(frozen=True)
class Views:
    """The views of an image: one per scale and, with `flip`, its mirror image. The first is the image itself."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __len__(self) -> int:
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        """Returns the views as text, such as `flip,scales=1:1.25`."""
        scales = "scales=" + ":".join(f"{scale:g}" for scale in self.scales)
        return f"flip,{scales}" if self.flip else scales


def parse_views(text: str) -> Views:
    """Parses views as `flip,scales=0.75:1.25`; scale 1 is always included. Raises BadArgument."""
    scales, mirrored = [1.0], False
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, equals, values = word.partition("=")
        if name == "flip" and not equals:
            mirrored = True
        elif name == "scales" and values:
            try:
                scales += [float(value) for value in values.split(":")]
            except ValueError:
                raise BadArgument(f"--tta {word}: scales are numbers, as in scales=0.75:1.25.") from None
        elif name != "none":
            raise BadArgument(f"--tta {word}: views are flip, and scales=0.75:1.25. Or none, for the image alone.")
    outside = [scale for scale in scales if not 0.1 <= scale <= 4]
    if outside:
        raise BadArgument(f"--tta: scales lie between 0.1 and 4, not {listed(outside)}.")
    return Views(tuple(dict.fromkeys(scales)), mirrored)
