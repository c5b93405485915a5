"""`panbench compare --tradeoffs`: the layers or sizes of each run against its time, in place of run against run."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import in_sentence
from panbench.report.answers.options import Answer, CompareOptions, Comparing

if TYPE_CHECKING:
    from panbench.report.answers.grid import Grid
    from panbench.studies.tradeoffs.answer import Tradeoff

__all__ = ["ComparedSteps", "TradeoffAnswer"]


@dataclass(frozen=True)
class ComparedSteps(CompareOptions):
    """Whether the steps beside each run are compared, and where they are drawn."""

    panel: ClassVar[str] = "PQ against time"

    tradeoffs: Annotated[
        bool,
        Option("Compare the layers or sizes beside each run (`eval --layers`, `--size`) with it, and their times."),
    ] = False
    tradeoff_plot: Annotated[Path | None, Option("Also draw PQ against time here (.png, .svg, .pdf).", "FILE")] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for a plot of what is not asked for."""
        if self.tradeoff_plot is not None and not self.tradeoffs:
            raise BadArgument("--tradeoff-plot draws what --tradeoffs compares. Add --tradeoffs.")

    def instead(self, comparing: Comparing) -> Answer | None:
        """The tables of all runs that have steps beside them. Raises BadArgument for other options."""
        if not self.tradeoffs:
            return None
        others = [name for name in comparing.more if not name.startswith("--tradeoff")]
        if others or comparing.common_images:
            more = in_sentence([*others, *(["--common-images"] if comparing.common_images else [])])
            raise BadArgument(f"--tradeoffs compares each run with the steps beside it. Leave out {more}.")
        from panbench.report.answers.tables import comparison_row, find_runs, labels
        from panbench.studies.tradeoffs.answer import tradeoff_curves, tradeoffs

        found = tradeoffs(find_runs(comparing.paths, comparing.reporter), reporter=comparing.reporter)
        if self.tradeoff_plot is not None:
            from panbench.report.figures.pictures import save_figure
            from panbench.studies.tradeoffs.plot import tradeoff_figure

            titles = labels([comparison_row(one.run) for one in found])
            save_figure(tradeoff_figure(tradeoff_curves(found, titles)), self.tradeoff_plot)
            comparing.reporter.notice(f"Wrote {self.tradeoff_plot}.")
        return TradeoffAnswer(tuple(found), comparing.digits)


@dataclass(frozen=True)
class TradeoffAnswer:
    """The steps of runs, ready to be printed. digits: decimals of percentages."""

    found: "tuple[Tradeoff, ...]"
    digits: int = 2

    @property
    def sentences(self) -> Sequence[str]:
        """None: each table has its own below it."""
        return ()

    @property
    def grids(self) -> "Sequence[Grid]":
        """A table a run."""
        from panbench.studies.tradeoffs.answer import tradeoff_grids

        return tradeoff_grids(self.found, self.digits)

    def text(self) -> str:
        """As Markdown, which reads as text."""
        return self.markdown()

    def markdown(self) -> str:
        """As Markdown."""
        from panbench.report.answers.grid import as_markdown

        return "\n".join(map(as_markdown, self.grids))

    def latex(self) -> str:
        """As LaTeX."""
        from panbench.report.answers.grid import as_latex

        return "\n".join(map(as_latex, self.grids))

    def csv(self, *, raw: bool = False) -> str:
        """A row a step: fractions, milliseconds."""
        from panbench.base.text import for_spreadsheet

        table = self._table()
        if not raw:
            table["run"] = table["run"].map(for_spreadsheet)
        return str(table.to_csv(index=False, lineterminator="\n"))

    def json(self) -> str:
        """As JSON."""
        from panbench.studies.tradeoffs.answer import tradeoff_record

        return json.dumps(tradeoff_record(self.found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def parquet(self) -> bytes:
        """As a Parquet file."""
        target = io.BytesIO()
        self._table().to_parquet(target, index=False)
        return target.getvalue()

    def _table(self):  # type: ignore[no-untyped-def]
        from panbench.studies.tradeoffs.answer import tradeoff_curves

        return tradeoff_curves(self.found, [one.run.name for one in self.found])
