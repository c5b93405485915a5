"""A gate for CI: is a run worse than a baseline on the same images, by more than the allowed drop?

There are three outcomes, because a sample of images is not always enough: worse, not worse, or cannot tell. The
difference, its interval and p are those of `compare`: paired by image (docs/uncertainty.md). A run is worse where both
say so: with few images the interval's coverage is only approximate, and a swap test never calls runs that differ by
    chance
worse in more than the 2.5 % of cases that are meant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.base.text import for_xml, with_sign
from panbench.metrics.jackknife import MATCHED_IOU
from panbench.metrics.samples import Sample, SampleAccumulator
from panbench.metrics.slices import SLICINGS, ImageSlices, ImageStatistics, StatisticsAccumulator, slice_by_images
from panbench.metrics.uncertainty import compare_runs
from panbench.panoptic.types import GROUPS
from panbench.report.answers.grid import ABSENT, Grid, as_markdown, format_p
from panbench.report.answers.tables import comparable_images
from panbench.runs import Run

Outcome = Literal["worse", "cannot tell", "not worse"]

_GROUPS = {suffix: group for group, suffix in GROUPS.items()}
METRICS = tuple(f"{name}{suffix}" for suffix in _GROUPS for name in ("PQ", "SQ", "RQ", MATCHED_IOU))

WORSE, CANNOT_TELL = 3, 4
"""Exit codes of `panbench gate`; 4 only under --strict."""

CHANCE = 0.05
"""The largest two-sided p of a drop that is called worse; 2.5 % of exchangeable runs have such a drop."""


@dataclass(frozen=True)
class GateCheck:
    """A comparison of a run's score with its baseline's: run − baseline in percentage points, with a 95 % interval.

    p: two-sided, as in `compare`: from swapping the two runs image by image, or for SQ and IoU from the jackknife
    where: "all images" or the slice; detectable: the smallest drop that these images could have shown
    Numbers are None if a run has no such value, or too few images for an interval.
    """

    where: str
    images: int
    value: float | None
    baseline: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    outcome: Outcome

    @property
    def may_be_chance(self) -> bool:
        """True if the interval lies below 0 but p is above 0.05: the drop may be chance."""
        return self.high is not None and self.high < 0 and self.p is not None and self.p > CHANCE

    @property
    def detectable(self) -> float | None:
        """The smallest drop that these images can show: the interval's upper end minus the difference."""
        if self.high is None or self.difference is None:
            return None
        return self.high - self.difference


@dataclass(frozen=True)
class GateResult:
    """The result of a gate: its checks over all images or in each slice, and the worst outcome among them.

    notes: sentences on incomplete runs, and on images that are not compared
    """

    run: str
    against: str
    metric: str
    max_drop: float
    checks: tuple[GateCheck, ...]
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of all checks: worse, cannot tell, or not worse."""
        outcomes = [check.outcome for check in self.checks]
        order: tuple[Outcome, ...] = ("worse", "cannot tell", "not worse")
        return next(outcome for outcome in order if outcome in outcomes)

    def exit_code(self, strict: bool) -> int:
        """Returns the exit code: 0 for not worse, 3 for worse, and for cannot tell 0, or 4 if `strict`."""
        if self.outcome == "worse":
            return WORSE
        return CANNOT_TELL if strict and self.outcome == "cannot tell" else 0

    @property
    def message(self) -> str:
        """Describes in a sentence each comparison that has the worst outcome: worse, cannot tell, or not worse."""
        return " ".join(self._check_sentence(check) for check in self.checks if check.outcome == self.outcome)

    def _check_sentence(self, check: GateCheck) -> str:
        """Returns a sentence on a run's score against its baseline: difference, interval, p and outcome."""
        name = f"{self.metric} of {self.run}" if check.where == "all images" else f"{self.metric} ({check.where})"
        if check.difference is None:
            return f"{name}: one of the runs has no such number on these images, so the gate cannot tell."
        change = f"{with_sign(check.difference)} points against {self.against}"
        if check.low is None or check.high is None:
            return f"{name}: {change}, on too few images ({check.images}) for an interval, so the gate cannot tell."
        interval = f"{with_sign(check.low)} to {with_sign(check.high)}"
        p = "" if check.p is None else f", p = {_p_value_text(check.p)}"
        found = f"{name}: {change} (95 % interval {interval}{p}, {check.images:,} images)"
        allowed = f"; a drop of {self.max_drop:g} is allowed" if self.max_drop else ""
        if check.outcome == "worse":
            return f"{found}{allowed}. Worse."
        if check.outcome == "not worse":
            return f"{found}{allowed}. Not worse."
        if check.may_be_chance:
            return (
                f"{found}{allowed}. Cannot tell: the interval lies below 0, but {check.p:.1%} of data sets would "
                f"differ as much if the two runs' answers were interchangeable, and at most {CHANCE:.0%} may."
            )
        return (
            f"{found}{allowed}. Cannot tell: on these images only a drop of {check.detectable:.2f} points or more "
            "could have been detected."
        )

    def grid(self) -> Grid:
        """Returns the checks as a table."""

        def points_text(value: float | None, signed: bool = False) -> str:
            """Formats a number of points, with two decimals."""
            if value is None:
                return ABSENT
            return with_sign(value) if signed else f"{value:.2f}"

        columns = ("Where", "images", "baseline", "run", "difference", "95 % interval", "p", "outcome", "detectable")
        rows = [
            (
                check.where,
                f"{check.images:,}",
                points_text(check.baseline),
                points_text(check.value),
                points_text(check.difference, signed=True),
                ABSENT if check.low is None else f"[{points_text(check.low, True)}, {points_text(check.high, True)}]",
                ABSENT if check.p is None else _p_value_text(check.p),
                check.outcome,
                points_text(check.detectable),
            )
            for check in self.checks
        ]
        count = len(columns) if any(row[-1] != ABSENT for row in rows) else -1
        title = f"{self.metric} of {self.run} against {self.against}, in points; a drop above {self.max_drop:g} fails"
        return Grid(columns[:count], tuple(row[:count] for row in rows), title=title)

    def markdown(self) -> str:
        """Returns a Markdown summary for GitHub: outcome, message and table."""
        sign = {"worse": "❌", "cannot tell": "⚠️", "not worse": "✅"}[self.outcome]
        text = "\n\n".join((self.message, *self.notes))
        return f"### {sign} {self.metric}: {self.outcome}\n\n{text}\n\n{as_markdown(self.grid())}"

    def junit(self, strict: bool = False) -> str:
        """Returns JUnit XML with a test case per check; "cannot tell" is skipped, or fails if `strict`."""
        failed = [
            check for check in self.checks if check.outcome == "worse" or (strict and check.outcome != "not worse")
        ]
        skipped = [check for check in self.checks if check.outcome == "cannot tell" and check not in failed]
        suite = ElementTree.Element(
            "testsuite",
            {
                "name": for_xml(f"panbench gate: {self.run} against {self.against}"),
                "tests": str(len(self.checks)),
                "failures": str(len(failed)),
                "errors": "0",
                "skipped": str(len(skipped)),
            },
        )
        for check in self.checks:
            name, text = for_xml(f"{self.metric}, {check.where}"), for_xml(self._check_sentence(check))
            case = ElementTree.SubElement(suite, "testcase", {"classname": "panbench.gate", "name": name})
            if check in failed:
                ElementTree.SubElement(case, "failure", {"message": text, "type": check.outcome})
            elif check in skipped:
                ElementTree.SubElement(case, "skipped", {"message": text})
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

    def record(self) -> dict[str, Any]:
        """Returns the output of `panbench gate --json`: points, None for missing numbers."""
        return {
            "run": self.run,
            "baseline": self.against,
            "metric": self.metric,
            "max_drop": self.max_drop,
            "outcome": self.outcome,
            "sentence": self.message,
            "notes": list(self.notes),
            "checks": [{**vars(check), "detectable": check.detectable} for check in self.checks],
        }


def notes_on_incomplete_runs(runs: Sequence[Run], common_images: bool) -> tuple[str, ...]:
    """Returns a sentence for each run that lacks images.

    Raises BadRun for a damaged run, naming the part, and for an incomplete one unless `common_images`.
    """
    for run in runs:
        if run.faults:
            raise BadRun(
                f"{run.name} is damaged, so the gate does not judge it. {' '.join(run.faults)} Restore the part, or "
                "make its images again with --resume."
            )
    incomplete = tuple(message for run in runs if (message := run.shortfall) is not None)
    if incomplete and not common_images:
        raise BadRun(
            f"{' '.join(incomplete)} Continue with --resume, or compare on the images that both have with "
            "--common-images."
        )
    return incomplete


def gate(
    run: Run,
    baseline: Run,
    *,
    metric: str = "PQ",
    max_drop: float = 0.0,
    by: str | None = None,
    slices: Sequence[ImageSlices] = (),
    common_images: bool = False,
    permutations: int = 10_000,
) -> GateResult:
    """Judges whether a run is worse than a baseline, over all images and, with `by` or `slices`, in each slice.

    worse: the drop is above `max_drop`, the 95 % interval of the paired difference lies below 0, and p ≤ 0.05
    not worse: no drop, or an interval that excludes a drop above `max_drop`
    cannot tell: anything else, and slices with too few images for an interval
    metric: one of METRICS (of slices only PQ, RQ and IoU); max_drop: points of percent, 0 or more
    common_images: compare on the images that both have; otherwise different images are an error
    Each check is made at 95 %: of many unchanged slices, one in forty comes out worse by chance.
    Raises BadRun for a damaged run, an incomplete one (unless `common_images`) and runs that cannot be compared,
    BadArgument for an unknown metric or slicing.
    """
    notes = notes_on_incomplete_runs((run, baseline), common_images)
    if metric not in METRICS:
        raise BadArgument(f"There is no metric {metric!r} to gate on. Choose one of {', '.join(METRICS)}.")
    if not max_drop >= 0:
        raise BadArgument(f"--max-drop is {max_drop:g}; give the points that may be lost, 0 or more.")
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    name, _, suffix = metric.partition("_")
    if (by or slices) and name == "SQ":
        raise BadArgument(
            "The SQ of a slice has no interval: many of its categories have false positives alone, which count as 0. "
            f"--metrics {MATCHED_IOU}, the mean IoU of the matches that both runs have, is judged in slices, too."
        )
    if suffix and (by or slices):
        raise BadArgument(f"Slices have numbers of all their categories, not {metric}. Give --metrics {name}.")
    try:
        shared = comparable_images([run, baseline], common_images=common_images)
    except BadRun as problem:
        raise problem.without("--mixed") from None
    if not len(shared):
        raise BadRun(f"{baseline.name} and {run.name} hold no scored image, so there is nothing to gate on.")
    notes += tuple(
        f"{len(each.images) - len(shared):,} of the {len(each.images):,} images of {each.name} are left out."
        for each in (run, baseline)
        if len(each.images) > len(shared)
    )
    sums = [_gate_sums(each, shared, by, bool(slices)) for each in (baseline, run)]
    group = _GROUPS[f"_{suffix}" if suffix else ""]
    found = gate_checks([each.all_images for each in sums], [(group, "all images")], name, max_drop, permutations)
    sliced = [each.sliced for each in sums if each.sliced is not None]
    if sliced:
        found += gate_checks(sliced, [(part, part) for part in sliced[0].slices], name, max_drop, permutations)
    for own in slices:
        cut = [slice_by_images(each.statistics, own) for each in sums if each.statistics is not None]
        named = [(part, f"{own.name} {part}") for part in own.images]
        found += gate_checks(cut, named, name, max_drop, permutations)
    return GateResult(run.name, baseline.name, metric, max_drop, tuple(found), notes)


@dataclass(frozen=True)
class _GateSums:
    """The TP, FP, FN and IoU sums of one run, over all images and by slice (subset of images).

    They are read chunk by chunk: 10⁶ images take some 100 MB, not gigabytes.
    """

    all_images: Sample
    sliced: Sample | None
    statistics: ImageStatistics | None


def _gate_sums(run: Run, images: npt.NDArray[np.int64], by: str | None, own_slices: bool) -> _GateSums:
    """Reads a run's TP, FP, FN and IoU sums in one pass, over all images and by slice (subset of images).

    own_slices: also keep the statistics of single images
    """
    all_images = SampleAccumulator(run.categories, images)
    sliced = None if by is None else SampleAccumulator(run.categories, images, by)
    single = StatisticsAccumulator(run.categories) if own_slices else None
    run.accumulate(
        *(accumulator for accumulator in (all_images, sliced, single) if accumulator is not None), images=images
    )
    return _GateSums(
        all_images.result(), None if sliced is None else sliced.result(), None if single is None else single.result()
    )


def _p_value_text(p: float) -> str:
    """Formats a p-value with two digits, or as many as show on which side of 0.05 it lies."""
    return format_p(p, max(2, 1 - math.floor(math.log10(p))) if p > 0 else 2, CHANCE)


def gate_checks(
    statistics: Sequence[ImageStatistics | Sample],
    groups: Sequence[tuple[str, str]],
    metric: str,
    max_drop: float,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[GateCheck]:
    """Compares a run with its baseline in each group or slice; returns one check for each.

    statistics: the baseline's, then the run's; groups: each group or slice, and its name in `where`
    """
    found = compare_runs({"a": statistics[0], "b": statistics[1]}, permutations=permutations, seed=seed)
    table = found.differences[found.differences["metric"] == metric]
    made = []
    for group, where in groups:
        own = table[table["group"] == group]
        row = own.iloc[0] if len(own) else None
        value, baseline, difference, low, high = (
            None if row is None or pd.isna(row[column]) else 100 * float(row[column])
            for column in ("value_b", "value_a", "difference", "low", "high")
        )
        images = 0 if row is None else int(row["images"])
        p = None if row is None or pd.isna(row["p"]) else float(row["p"])
        outcome = gate_outcome(difference, low, high, p, max_drop)
        made.append(GateCheck(where, images, value, baseline, difference, low, high, p, outcome))
    return made


def gate_outcome(
    difference: float | None, low: float | None, high: float | None, p: float | None, max_drop: float
) -> Outcome:
    """Returns worse, not worse or cannot tell, for a difference in points with its interval and p.

    None stands for missing numbers.
    """
    # Equal sums added in different orders may differ by rounding.
    smallest = 1e-9
    if difference is None:
        return "cannot tell"
    if difference >= -smallest:
        return "not worse"
    if low is None or high is None:
        return "cannot tell"
    if difference < -max_drop - smallest and high < 0:
        return "worse" if p is not None and p <= CHANCE else "cannot tell"
    return "not worse" if low >= -max_drop - smallest else "cannot tell"
