"""`panbench eval --tta`: a model that sees several views of each image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import listed
from panbench.evaluation.options import StudyOptions

if TYPE_CHECKING:
    from panbench.models.model import Model

__all__ = ["ViewOptions", "Views", "parse_views"]


@dataclass(frozen=True)
class Views:
    """The views of an image: each scale, and mirrored too where `flip`. The first is the image as it is."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __len__(self) -> int:
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        scales = "scales=" + ":".join(f"{scale:g}" for scale in self.scales)
        return f"flip,{scales}" if self.flip else scales


def parse_views(text: str) -> Views:
    """The views that `flip,scales=0.75:1.25` names; scale 1 is always among them. Raises BadArgument."""
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


@dataclass(frozen=True)
class ViewOptions(StudyOptions):
    """The views of each image that a model is shown, to average what it says of them."""

    panel: ClassVar[str] = "Views"

    tta: Annotated[
        str | None, Option("Average views of each image: flip,scales=0.75:1.25. It costs a pass a view.", "VIEWS")
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown view."""
        if self.tta is not None:
            parse_views(self.tta)

    def wrapped(self, model: "Model") -> "Model":
        """The model behind its views. Raises BadArgument when it gives finished maps."""
        if self.tta is None:
            return model
        from panbench.studies.ensembles.views import AugmentedModel

        return AugmentedModel(model, parse_views(self.tta))
