"""`panbench eval --category-map`: a model is evaluated on data of other categories than its own."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions

__all__ = ["MapOptions"]


@dataclass(frozen=True)
class MapOptions(StudyOptions):
    """The map from the model's categories to the dataset's."""

    panel: ClassVar[str] = "Data of other categories"

    category_map: Annotated[
        str | None, Option("Which category is which: a JSON, or a name such as coco_to_cityscapes.", "FILE|NAME")
    ] = None

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """The options with the map."""
        return options if self.category_map is None else replace(options, category_map=self.category_map)
