"""`panbench calibration`: the calibration of a run's segment scores, as tables."""

import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.report.answers.answer import as_records
from panbench.report.answers.findings import Findings
from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.report.answers.tables import comparison_row
from panbench.runs import Run
from panbench.studies.calibration.calibration import Calibration, calibration

PARTLY_SCORED = "Of some segments only:"
"""Introduces the runs (`partly_scored_label`) whose curve covers only some of their segments."""


def partly_scored_label(label: str, unscored: int, scored: int) -> str:
    """Returns a run's label, followed by its numbers of segments without and with a score."""
    return f"{label} ({unscored:,} without, {scored:,} with a score)"


def calibration_findings(run: Run, *, target: float = 0.9, per_category: bool = False) -> Findings:
    """Tabulates how reliable a run's segment scores are, their calibration error, and the threshold for a precision.

    target: the precision to reach, 0–1; per_category: also a table with one row per category
    Raises BadRun for a run without scores, BadArgument for a target outside 0–1.
    """
    if not 0 < target <= 1:
        raise BadArgument(f"--target is {100 * target:g}; give a percentage above 0 and up to 100.")
    run.require_images("measure")
    try:
        found = calibration(run.matched, run.categories, target)
    except BadRun as problem:
        raise BadRun(f"{run.name} has no calibration: {problem}") from None
    row = comparison_row(run)
    groups = found.scopes[found.scopes["group"].notna()]
    categories = found.scopes[found.scopes["group"].isna()].sort_values("ECE", ascending=False, kind="stable")
    grids = [_calibration_grid(groups, found, f"{row.title}: are its scores right as often as they say?", row.notes)]
    grids.append(_reliability_grid(found.curve))
    if per_category:
        grids.append(_calibration_grid(categories, found, "By category, the worst calibrated first", ()))
    record = {
        "run": run.name,
        "target": target,
        "unscored": found.unscored,
        "groups": as_records(groups.drop(columns=["category_id", "name"])),
        "per_category": as_records(categories.drop(columns=["group"])),
        "curve": as_records(found.curve),
    }
    return Findings(tuple(grids), record)


def _calibration_grid(scopes: pd.DataFrame, found: Calibration, title: str, notes: tuple[str, ...]) -> Grid:
    """Tabulates mean score, precision, calibration error and threshold, by group or by category."""
    goal = f"{100 * found.target:g} %"
    lines = tuple(
        (
            str(row["name"]),
            f"{row['segments']:,}",
            percent(row["score"], 1),
            percent(row["precision"], 1),
            percent(row["ECE"], 1),
            ABSENT if pd.isna(row["threshold"]) else f"{row['threshold']:.3f}",
            percent(row["kept"], 1),
        )
        for _, row in scopes.iterrows()
    )
    text = [
        "Score: the mean. Right: the share of predictions that are true positives. ECE: the mean distance of the two "
        "over ten bins of scores.",
        f"{goal} from: the lowest score such that of all segments with it or more at least {goal} are right; keeps: "
        "the share of the right ones among them.",
    ]
    if found.unscored:
        text.append(f"{found.unscored:,} predictions have no score and were left out.")
    heads = ("", "segments", "score", "right", "ECE", f"{goal} from", "keeps")
    return Grid(heads, lines, title=title, notes=(*notes, *text) if notes or scopes["group"].notna().any() else ())


def _reliability_grid(curve: pd.DataFrame) -> Grid:
    """Tabulates the reliability diagram of all categories: one row per bin of scores."""
    of_all = curve[(curve["group"] == "All") & (curve["segments"] > 0)]
    return Grid(
        ("Score", "segments", "mean score", "right", "95 % interval"),
        tuple(
            (
                f"{row.low:.1f}–{row.high:.1f}",
                f"{row.segments:,}",
                percent(row.score, 1),
                percent(row.precision, 1),
                f"[{percent(row.precision_low, 1)}, {percent(row.precision_high, 1)}]",
            )
            for row in of_all.itertuples()
        ),
        title="Reliability, all categories",
    )
