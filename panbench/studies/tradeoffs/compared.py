"""`panbench compare --tradeoffs`: compares PQ and time of each run's layers or sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.base.text import in_sentence
from panbench.report.answers.options import CompareOptions, Comparing

if TYPE_CHECKING:
    from panbench.report.answers.answer import Answer


@dataclass(frozen=True)
class ComparedTradeoffs(CompareOptions):
    """The options `--tradeoffs` and `--tradeoff-plot`: compare PQ and time by decoder layer or image scale."""

    tradeoffs: Annotated[
        bool, Option("Compare each run with its other layers or sizes (`eval --layers`, `--size`), and their times.")
    ] = False
    tradeoff_plot: Annotated[Path | None, Option("Also draw PQ against time here (.png, .svg, .pdf).", "FILE")] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for a plot without --tradeoffs."""
        if self.tradeoff_plot is not None and not self.tradeoffs:
            raise BadArgument("--tradeoff-plot draws what --tradeoffs compares. Add --tradeoffs.")

    def instead(self, comparing: Comparing) -> "Answer | None":
        """Called first by `panbench compare`: compares decoder layers or image scales of each run, with `--tradeoffs`.

        Raises BadArgument if other options are given.
        """
        if not self.tradeoffs:
            return None
        others = [name for name in comparing.more if not name.startswith("--tradeoff")]
        if others or comparing.common_images:
            more = in_sentence([*others, *(["--common-images"] if comparing.common_images else [])])
            raise BadArgument(f"--tradeoffs compares each run with its own steps. Leave out {more}.")
        from panbench.report.answers.tables import comparison_row, find_runs, labels
        from panbench.studies.tradeoffs.answer import TradeoffAnswer, tradeoff_curves, tradeoffs

        found = tradeoffs(find_runs(comparing.paths, comparing.reporter), reporter=comparing.reporter)
        if self.tradeoff_plot is not None:
            from panbench.report.figures.colors import styles_by_name
            from panbench.report.figures.pictures import save_figure
            from panbench.studies.tradeoffs.plot import tradeoff_figure

            titles = labels([comparison_row(one.run) for one in found])
            styles = styles_by_name(titles, [one.run for one in found])
            save_figure(tradeoff_figure(tradeoff_curves(found, titles), styles), self.tradeoff_plot)
            comparing.reporter.notice(f"Wrote {self.tradeoff_plot}.")
        return TradeoffAnswer(tuple(found), comparing.digits)
