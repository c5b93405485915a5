"""`panbench eval --tta`: averages the outputs for several views of each image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from panbench.base.studies import Option
from panbench.evaluation.options import StudyOptions
from panbench.studies.ensembles.views import parse_views

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.models.model import Model


@dataclass(frozen=True)
class ViewOptions(StudyOptions):
    """The option `--tta`: views of each image whose outputs are merged."""

    tta: Annotated[str | None, Option("Average views of each image, a pass each: flip,scales=0.75:1.25.", "VIEWS")] = (
        None
    )

    def __post_init__(self) -> None:
        """Raises BadArgument if `--tta` names an unknown augmentation."""
        if self.tta is not None:
            parse_views(self.tta)

    def wrapped(self, model: "Model", dataset: "Dataset") -> "Model":
        """Called before an evaluation: adds test-time augmentation to the model. Raises BadArgument if it cannot."""
        if self.tta is None:
            return model
        from panbench.studies.ensembles.augmented_model import AugmentedModel

        return AugmentedModel(model, parse_views(self.tta))
