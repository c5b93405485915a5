"""`panbench score --ap` and `panbench compare --metrics`: AP of any maps; AP_pan and mIoU_pan of stored runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.base.studies import Option
from panbench.report.answers.options import CompareOptions, ScoreOptions, Scoring
from panbench.studies.unfused.options import METRICS, parse_metrics

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.measures import Measured
    from panbench.runs import Run

__all__ = ["ComparedMetrics", "MapScores"]


@dataclass(frozen=True)
class MapScores(ScoreOptions):
    """Whether the AP of the maps' things is measured, and against what; None takes the things of the panoptic JSON."""

    panel: ClassVar[str] = "AP of the maps"

    ap: Annotated[bool, Option("Also the mask AP of the things in the maps; every thing segment needs a score.")] = (
        False
    )
    ap_gt: Annotated[Path | None, Option("With --ap: a COCO instance JSON as its ground truth.", "FILE.json")] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for a ground truth of AP where AP is not asked for."""
        if self.ap_gt is not None and not self.ap:
            raise BadArgument("--ap-gt is the ground truth of AP. Add --ap.")

    def check(self, scoring: Scoring) -> None:
        """Raises PredictionMismatch when a predicted thing segment has no score."""
        if self.ap:
            from panbench.panoptic.coco import read_annotation_columns
            from panbench.studies.unfused.map_ap import refuse_unscored

            categories = read_annotation_columns(scoring.gt, scoring.gt_dir).categories
            refuse_unscored(scoring.pred, scoring.pred_dir, categories)

    def found(self, run: "Run", scoring: Scoring, reporter: Reporter = SILENT) -> "Measured | None":
        """The AP of the maps of a scored run."""
        if not self.ap:
            return None
        from panbench.report.answers.measures import Measured
        from panbench.studies.unfused.answer import map_grid
        from panbench.studies.unfused.map_ap import ap_of_map

        found = ap_of_map(run, self.ap_gt, counter(reporter, "AP"))
        name = scoring.gt.name
        truth = f"the thing segments of {name}" if self.ap_gt is None else f"the instances of {self.ap_gt.name}"
        record = {"AP_map": found.as_record(), "AP_map_gt": truth}
        return Measured(grids=(map_grid(found, truth),), record=record)


@dataclass(frozen=True)
class ComparedMetrics(CompareOptions):
    """Which metrics before fusion stand below the comparison."""

    panel: ClassVar[str] = "Before fusion"

    metrics: Annotated[
        str, Option("Also what networks say before fusion: ap (AP_pan), miou.", "pq,ap,miou", METRICS)
    ] = "pq"

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown metric."""
        parse_metrics(self.metrics)

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """The comparison with AP_pan and mIoU_pan of its runs below."""
        measured = parse_metrics(self.metrics)
        if measured == ("pq",):
            return standing
        from panbench.studies.unfused.answer import with_unfused

        return with_unfused(standing, runs, measured)
