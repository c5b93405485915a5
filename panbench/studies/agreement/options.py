"""`panbench compare --pixels`: two runs held against each other pixel by pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.report.answers.options import CompareOptions

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.runs import Run

__all__ = ["PixelOptions"]


@dataclass(frozen=True)
class PixelOptions(CompareOptions):
    """Whether the maps of two runs are compared."""

    panel: ClassVar[str] = "Pixel by pixel"

    pixels: Annotated[
        bool, Option("Also which pixels and segments differ between two runs that kept their predictions.")
    ] = False

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """The comparison with what differs between the maps below. Raises BadArgument for other than two runs."""
        if not self.pixels:
            return standing
        if len(runs) != 2:
            raise BadArgument(f"--pixels compares the maps of two runs, and {len(runs)} were given.")
        from panbench.studies.agreement.answer import with_agreement

        return with_agreement(standing, runs)
