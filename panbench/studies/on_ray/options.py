"""`panbench eval --engine` and `panbench score --engine`: the work is spread over many machines."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.engines import spread_of
from panbench.base.studies import Option
from panbench.evaluation.options import EvaluateOptions, StudyOptions
from panbench.report.answers.options import ScoreOptions

if TYPE_CHECKING:
    from panbench.base.engines import Spread

__all__ = ["SpreadEvaluation", "SpreadScoring"]

_PANEL = "Many machines"
Engine = Annotated[
    str | None,
    Option(
        "Spread the work over an engine: ray, ray=auto or ray=HOST:PORT. Workers pull tasks; lost ones are replaced.",
        "NAME[=ADDRESS]",
        ("ray", "ray=auto"),
    ),
]
Tasks = Annotated[int | None, Option("With --engine: how many tasks. Default: 4 for each worker.", "N")]


@dataclass(frozen=True)
class SpreadEvaluation(StudyOptions):
    """The engine that an evaluation is spread over."""

    panel: ClassVar[str] = _PANEL

    engine: Engine = None
    tasks: Tasks = None

    def settled(self, options: EvaluateOptions) -> EvaluateOptions:
        """The options with their engine. Raises BadArgument for an unknown one."""
        spread = spread_of(self.engine, self.tasks)
        return options if spread is None else replace(options, spread=spread)


@dataclass(frozen=True)
class SpreadScoring(ScoreOptions):
    """The engine that scoring is spread over."""

    panel: ClassVar[str] = _PANEL

    engine: Engine = None
    tasks: Tasks = None

    def spread(self) -> "Spread | None":
        """The engine, if one is asked for. Raises BadArgument for an unknown one."""
        return spread_of(self.engine, self.tasks)
