"""`--metrics` of `panbench score` and `compare`: AP of any maps; AP_pan and mIoU_pan of stored runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.base.studies import Option
from panbench.report.answers.options import CompareOptions, ScoreOptions, Scoring
from panbench.studies.unfused.options import METRICS, ground_truth_of_ap, parse_metrics

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.measures import Measured
    from panbench.runs import Run

__all__ = ["ComparedMetrics", "MapScores"]

METRICS_OF_MAPS = ("pq", "ap")
"""What `score --metrics` takes: finished maps have no semantic sum before fusion."""


@dataclass(frozen=True)
class MapScores(ScoreOptions):
    """Whether the AP of the maps' things is measured, and against what; None takes the things of the panoptic JSON."""

    panel: ClassVar[str] = "AP of the maps"

    metrics: Annotated[
        str,
        Option(
            "Also ap: the mask AP of the things in the maps, each of which needs a score; ap=FILE.json against a COCO "
            "instance JSON.",
            "pq,ap[=FILE]",
            METRICS_OF_MAPS,
        ),
    ] = "pq"

    def __post_init__(self) -> None:
        """Raises BadArgument for another metric."""
        _ = self._with_ap

    @property
    def _with_ap(self) -> bool:
        if "miou" in self.metrics.lower().split(","):
            raise BadArgument(
                f"--metrics {self.metrics}: mIoU_pan is measured before fusion, by `panbench eval --metrics pq,miou`. "
                "The mIoU of finished maps needs no option: `panbench metrics RUN` has it."
            )
        return "ap" in parse_metrics(self.metrics, METRICS_OF_MAPS)

    def check(self, scoring: Scoring) -> None:
        """Raises PredictionMismatch when a predicted thing segment has no score."""
        if self._with_ap:
            from panbench.panoptic.coco import read_annotation_columns
            from panbench.studies.unfused.map_ap import refuse_unscored

            categories = read_annotation_columns(scoring.gt, scoring.gt_dir).categories
            refuse_unscored(scoring.pred, scoring.pred_dir, categories)

    def found(self, run: "Run", scoring: Scoring, reporter: Reporter = SILENT) -> "Measured | None":
        """The AP of the maps of a scored run."""
        if not self._with_ap:
            return None
        from panbench.report.answers.measures import Measured
        from panbench.studies.unfused.answer import map_grid
        from panbench.studies.unfused.map_ap import ap_of_map

        ap_gt = ground_truth_of_ap(self.metrics)
        found = ap_of_map(run, ap_gt, counter(reporter, "AP"))
        name = scoring.gt.name
        truth = f"the thing segments of {name}" if ap_gt is None else f"the instances of {ap_gt.name}"
        record = {"AP_map": found.as_record(), "AP_map_gt": truth}
        return Measured(grids=(map_grid(found, truth),), record=record)


@dataclass(frozen=True)
class ComparedMetrics(CompareOptions):
    """The metrics before fusion to show below the comparison."""

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
