"""`panbench compare --pixels`: compares the maps of two runs pixel by pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.report.answers.options import CompareOptions

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.runs import Run


@dataclass(frozen=True)
class PixelOptions(CompareOptions):
    """The option `--pixels`: compares the maps of two runs."""

    pixels: Annotated[
        bool, Option("Also which pixels and segments differ between two runs with stored predictions.")
    ] = False

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """Called by `panbench compare`: adds a table of differing pixels. Raises BadArgument unless runs are two."""
        if not self.pixels:
            return standing
        if len(runs) != 2:
            raise BadArgument(f"--pixels compares the maps of two runs, and {len(runs)} were given.")
        from panbench.studies.agreement.answer import with_agreement

        return with_agreement(standing, runs)
