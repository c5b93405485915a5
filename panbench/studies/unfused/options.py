"""`panbench eval --metrics`: measures a network's outputs before fusion in the pass of PQ."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.studies import Option
from panbench.evaluation.options import Evaluation, Joined, StudyOptions

if TYPE_CHECKING:
    from panbench.datasets import Dataset
    from panbench.datasets.instances import InstanceSet
    from panbench.evaluation.sinks import Sink
    from panbench.models.model import Model
    from panbench.runs import RunWriter

__all__ = ["METRICS", "UnfusedOptions", "ground_truth_of_ap", "parse_metrics"]

METRICS = ("pq", "ap", "miou")
"""What `--metrics` takes: PQ of the fused map; before fusion AP_pan of instances and mIoU_pan of the semantic sum."""


def ground_truth_of_ap(text: str) -> Path | None:
    """The COCO instance JSON that `pq,ap=FILE.json` names; None for the things of the panoptic ground truth."""
    files = [word.partition("=")[2].strip() for word in text.split(",") if word.strip().lower().startswith("ap=")]
    return Path(files[0]) if files and files[0] else None


def parse_metrics(text: str, known: Sequence[str] = METRICS) -> tuple[str, ...]:
    """The metrics that `pq,ap=FILE.json,miou` names, in that order; PQ is always among them. Raises BadArgument."""
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
    """The metrics that are measured beside PQ, and the ground truth of AP."""

    panel: ClassVar[str] = "Before fusion"

    metrics: Annotated[
        str,
        Option(
            "Also of the network before fusion, in the same pass: ap (AP_pan of things; ap=FILE.json against a COCO "
            "instance JSON) and miou (mIoU_pan).",
            "pq,ap[=FILE],miou",
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
        """All metrics, PQ among them."""
        return parse_metrics(self.metrics)

    def check(self, dataset: "Dataset") -> None:
        """Raises BadArgument for images without ground truth."""
        if self.measured != ("pq",) and not dataset.has_ground_truth:
            raise BadArgument("--metrics ap and miou need ground truth, and this dataset lists images without it.")

    def join(self, evaluation: Evaluation) -> Joined:
        """A sink that writes the rows of both metrics into the runs."""
        if self.measured == ("pq",):
            return Joined(_settings(None, None))
        _refuse_unmeasured(evaluation.model, evaluation.dataset)
        truth = self._instances(evaluation.dataset)

        def sink(writers: "Sequence[RunWriter]") -> "Sink":
            from panbench.studies.unfused.measuring import Measurer

            ids = evaluation.model.category_ids(evaluation.dataset.categories)
            category_of = dict(ids.items() if isinstance(ids, Mapping) else enumerate(ids))
            n_labels = len(evaluation.model.class_names)
            return Measurer(self.measured, evaluation.dataset, category_of, n_labels, writers, truth=truth)

        return Joined(_settings(",".join(self.measured), truth), sink)

    def _instances(self, dataset: "Dataset") -> "InstanceSet | None":
        """The instances of `ap_gt`. Raises BadDataset when they are not of this dataset."""
        if self.ap_gt is None:
            return None
        from panbench.datasets.instances import read_instances

        return read_instances(self.ap_gt, dataset.categories, [scene.image.id for scene in dataset.scenes])


def _settings(metrics: str | None, truth: "InstanceSet | None") -> Mapping[str, Any]:
    return {
        "metrics": metrics,
        "ap_gt": None if truth is None else truth.path.name,
        "ap_gt_sha256": None if truth is None else truth.sha256,
    }


def _refuse_unmeasured(model: "Model", dataset: "Dataset") -> None:
    """Raises BadArgument for a model without outputs to measure before fusion."""
    from panbench.models.candidates import Candidates, FinishedMap, NonFiniteOutput

    if model.rule.takes is FinishedMap:
        raise BadArgument(
            f"{model.spec.title} gives finished id maps: there is nothing before fusion to measure. Leave --metrics "
            "out; `panbench score --metrics pq,ap` has the AP of its maps."
        )
    # Whether an adapter gives class scores is seen in an output; an image that cannot be read is the run's to report.
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
