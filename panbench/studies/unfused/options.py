"""`--metrics` of `panbench eval`, `score` and `compare`: metrics of a network's outputs before fusion."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.base.studies import Option
from panbench.evaluation.options import Evaluation, Joined, StudyOptions
from panbench.report.answers.options import CompareOptions, ScoreOptions, Scoring

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.datasets.instances import InstanceSet
    from panbench.evaluation.sinks import Sink
    from panbench.models.model import Model
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.measures import Measured
    from panbench.runs import Run, RunWriter


METRICS = ("pq", "ap", "miou")
"""The metrics of `--metrics`: PQ of the fused map; before fusion AP_pan of instances, mIoU_pan of the semantic sum."""


def ground_truth_of_ap(text: str) -> Path | None:
    """Returns the file in `--metrics pq,ap=FILE.json`; None stands for the things of the panoptic ground truth."""
    files = [word.partition("=")[2].strip() for word in text.split(",") if word.strip().lower().startswith("ap=")]
    return Path(files[0]) if files and files[0] else None


def parse_metrics(text: str, known: Sequence[str] = METRICS) -> tuple[str, ...]:
    """Parses the value of `--metrics`, such as `pq,ap=FILE.json,miou`. Raises BadArgument if it is malformed.

    PQ is always included; the order is that of `known`.
    """
    given = [word.strip().partition("=") for word in text.split(",") if word.strip()]
    if others := [name for name, equals, _ in given if equals and name.lower() != "ap"]:
        raise BadArgument(f"--metrics {text}: {others[0]} takes no file. AP's ground truth is named so: ap=FILE.json.")
    named = [name.strip().lower() for name, _, _ in given]
    unknown = [word for word in named if word not in known]
    if unknown or not named:
        what = f"there is no metric {unknown[0]!r}" if unknown else "no metric is named"
        example = ",".join(known)
        raise BadArgument(f"--metrics {text}: {what}. They are {', '.join(known)}; write for example {example}.")
    return tuple(metric for metric in known if metric in named or metric == "pq")


@dataclass(frozen=True)
class UnfusedOptions(StudyOptions):
    """The option `--metrics` of `eval`: metrics in addition to PQ, and the ground truth of AP."""

    metrics: Annotated[
        str,
        Option(
            "pq, and before fusion ap (AP_pan; ap=FILE.json: of that COCO instance JSON) and miou (mIoU_pan).",
            "METRICS",
            METRICS,
        ),
    ] = "pq"

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown metric."""
        parse_metrics(self.metrics)

    @property
    def ap_gt(self) -> Path | None:
        """The ground truth of AP: a COCO instance JSON; None takes the thing segments of the panoptic JSON."""
        return ground_truth_of_ap(self.metrics)

    @property
    def measured(self) -> tuple[str, ...]:
        """The requested metrics, including PQ."""
        return parse_metrics(self.metrics)

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument for images without ground truth."""
        if self.measured != ("pq",) and not dataset.has_ground_truth:
            raise BadArgument("--metrics ap and miou need ground truth, and this dataset lists images without it.")

    def join(self, evaluation: Evaluation) -> Joined:
        """Called before an evaluation: adds the measuring of AP_pan and mIoU_pan to its loop, if requested."""
        if self.measured == ("pq",):
            return Joined(_metric_settings(None, None))
        _refuse_unmeasurable_model(evaluation.model, evaluation.dataset)
        truth = self._ap_instances(evaluation.dataset)

        def make_measurer(writers: "Sequence[RunWriter]") -> "Sink":
            """Makes the `Measurer` that takes the network's outputs and writes pixel counts into the open runs."""
            from panbench.studies.unfused.measuring import Measurer

            ids = evaluation.model.category_ids(evaluation.dataset.categories)
            category_of = dict(ids.items() if isinstance(ids, Mapping) else enumerate(ids))
            n_labels = len(evaluation.model.class_names)
            return Measurer(self.measured, evaluation.dataset, category_of, n_labels, writers, truth=truth)

        return Joined(_metric_settings(",".join(self.measured), truth), make_measurer)

    def _ap_instances(self, dataset: "Dataset") -> "InstanceSet | None":
        """Reads AP's own ground truth, if one is named. Raises BadDataset if it is not of this dataset."""
        if self.ap_gt is None:
            return None
        from panbench.datasets.instances import read_instances

        return read_instances(self.ap_gt, dataset.categories, [scene.image.id for scene in dataset.scenes])


def _metric_settings(metrics: str | None, truth: "InstanceSet | None") -> Mapping[str, Any]:
    """Returns the settings for run.json: the metrics, and name and hash of AP's own ground truth."""
    return {
        "metrics": metrics,
        "ap_gt": None if truth is None else truth.path.name,
        "ap_gt_sha256": None if truth is None else truth.sha256,
    }


def _refuse_unmeasurable_model(model: "Model", dataset: "Dataset") -> None:
    """Raises BadArgument for a model without outputs to measure before fusion."""
    from panbench.models.candidates import Candidates, FinishedMap, NonFiniteOutput

    if model.rule.takes is FinishedMap:
        raise BadArgument(
            f"{model.spec.title} gives finished id maps: there is nothing before fusion to measure. Leave --metrics "
            "out; `panbench score --metrics pq,ap` has the AP of its maps."
        )
    # Only an output shows whether an adapter gives class scores; the run itself reports unreadable images.
    with contextlib.suppress(BadDataset, NonFiniteOutput):
        (output,) = model.candidates([model.load(dataset.scenes[0])])
        if not isinstance(output, Candidates):
            return
        if output.class_scores is None:
            raise BadArgument(
                f"The adapter of {model.spec.title} gives no class scores (Candidates.class_scores), which --metrics "
                "ap and miou need. Leave --metrics out."
            )
        if output.boxes is not None and output.boxes.shape != (len(output.masks), 4):
            raise BadArgument(
                f"The adapter of {model.spec.title} gives boxes (Candidates.boxes) of the shape "
                f"{tuple(output.boxes.shape)}, and its {len(output.masks)} candidates need a row of four each."
            )


METRICS_OF_MAPS = ("pq", "ap")
"""The metrics of `score --metrics`; finished maps have no semantic sum before fusion."""


@dataclass(frozen=True)
class MapApOptions(ScoreOptions):
    """The option `--metrics` of `score`: also mask AP of predicted thing segments, and a ground truth for it."""

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
        """Raises BadArgument for a metric other than pq and ap."""
        _ = self._ap_is_requested

    @property
    def _ap_is_requested(self) -> bool:
        """True if `score --metrics` requests AP. Raises BadArgument for a metric other than pq and ap."""
        if "miou" in self.metrics.lower().split(","):
            raise BadArgument(
                f"--metrics {self.metrics}: mIoU_pan is measured before fusion, by `panbench eval --metrics pq,miou`. "
                "The mIoU of finished maps needs no option: `panbench metrics RUN` has it."
            )
        return "ap" in parse_metrics(self.metrics, METRICS_OF_MAPS)

    def check(self, scoring: Scoring) -> None:
        """Raises PredictionMismatch if a predicted thing segment has no score."""
        if self._ap_is_requested:
            from panbench.panoptic.coco import read_annotation_columns
            from panbench.studies.unfused.map_ap import refuse_unscored_things

            categories = read_annotation_columns(scoring.gt, scoring.gt_dir).categories
            refuse_unscored_things(scoring.pred, scoring.pred_dir, categories)

    def found(self, run: "Run", scoring: Scoring, reporter: Reporter = SILENT) -> "Measured | None":
        """Called after scoring: computes AP of the run's maps; None without the option."""
        if not self._ap_is_requested:
            return None
        from panbench.report.answers.measures import Measured
        from panbench.studies.unfused.answer import map_ap_grid
        from panbench.studies.unfused.map_ap import ap_of_map

        ap_gt = ground_truth_of_ap(self.metrics)
        found = ap_of_map(run, ap_gt, counter(reporter, "AP"))
        name = scoring.gt.name
        truth = f"the thing segments of {name}" if ap_gt is None else f"the instances of {ap_gt.name}"
        record = {"AP_map": found.as_record(), "AP_map_gt": truth}
        return Measured(grids=(map_ap_grid(found, truth),), record=record)


@dataclass(frozen=True)
class ComparedMetrics(CompareOptions):
    """The option `--metrics` of `compare`."""

    metrics: Annotated[str, Option("Also metrics before fusion: ap (AP_pan), miou.", "pq,ap,miou", METRICS)] = "pq"

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown metric."""
        parse_metrics(self.metrics)

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """Called when runs are compared: adds AP_pan and mIoU_pan to the comparison, as requested."""
        measured = parse_metrics(self.metrics)
        if measured == ("pq",):
            return standing
        from panbench.studies.unfused.answer import with_unfused

        return with_unfused(standing, runs, measured)
