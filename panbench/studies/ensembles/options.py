"""`panbench eval --tta` and `--tiles`: a model that sees several views of each image, or an image in parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions
from panbench.studies.ensembles.tiles import parse_tiles
from panbench.studies.ensembles.views import parse_views

if TYPE_CHECKING:
    from panbench.models.model import Model
    from panbench.models.rules import Rule

__all__ = ["ViewOptions"]


@dataclass(frozen=True)
class ViewOptions(StudyOptions):
    """The views or tiles of each image that a model sees; their outputs become one."""

    panel: ClassVar[str] = "Views"

    tta: Annotated[
        str | None, Option("Average views of each image: flip,scales=0.75:1.25. It costs a pass a view.", "VIEWS")
    ] = None

    tiles: Annotated[
        str | None,
        Option(
            "Show each image in tiles, rows x columns, and put their masks together: 2x2,overlap=0.2. "
            "It costs a pass a tile.",
            "TILES",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown view, and for tiles that cannot be."""
        if self.tta is not None:
            parse_views(self.tta)
        if self.tiles is not None:
            parse_tiles(self.tiles)

    def wrapped(self, model: "Model") -> "Model":
        """The model behind its views and tiles: each tile is seen in all views. BadArgument when it gives maps."""
        if self.tta is not None:
            from panbench.studies.ensembles.augmented_model import AugmentedModel

            model = AugmentedModel(model, parse_views(self.tta))
        if self.tiles is not None:
            from panbench.studies.ensembles.tiled_model import TiledModel

            model = TiledModel(model, parse_tiles(self.tiles))
        return model

    def beside(self, model: "Model", folders: "Mapping[Rule, Path]", options: EvaluateOptions) -> "Mapping[Rule, Path]":
        """Nothing is added. Raises BadArgument for a rule that makes no sense with tiles."""
        if self.tiles is not None and len(parse_tiles(self.tiles)) > 1:
            from panbench.studies.ensembles.tiled_model import refuse_rule

            for rule in folders:
                refuse_rule(rule)
        return {}
