"""`panbench eval --tta`: a model that sees several views of each image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.studies import Option
from panbench.evaluation.options import StudyOptions
from panbench.studies.ensembles.views import parse_views

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.models.model import Model

__all__ = ["ViewOptions"]


@dataclass(frozen=True)
class ViewOptions(StudyOptions):
    """The views of each image that a model sees; their outputs become one."""

    panel: ClassVar[str] = "Views"

    tta: Annotated[
        str | None, Option("Average views of each image: flip,scales=0.75:1.25. It costs a pass a view.", "VIEWS")
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown view."""
        if self.tta is not None:
            parse_views(self.tta)

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """The model behind its views. Raises BadArgument for a model that gives finished maps."""
        if self.tta is None:
            return model
        from panbench.studies.ensembles.augmented_model import AugmentedModel

        return AugmentedModel(model, parse_views(self.tta))
