"""`panbench calibration`: what the scores of a run's segments are worth, as tables."""

from typing import Any

import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.report.answers.findings import Findings
from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.report.answers.tables import comparison_row
from panbench.runs import Run
from panbench.studies.calibration.calibration import Calibration, calibration

__all__ = ["OF_SOME", "calibration_findings", "of_some"]

OF_SOME = "Of some segments only:"
"""What stands before the runs whose curve is of scored segments alone (`of_some`): it compares with no other."""


def of_some(label: str, unscored: int, scored: int) -> str:
    """A run of which some segments have no score, with how many."""
    return f"{label} ({unscored:,} without, {scored:,} with a score)"


def calibration_findings(run: Run, *, target: float = 0.9, per_category: bool = False) -> Findings:
    """The reliability of a run's segment scores, their calibration error, and the threshold for a precision.

    target: the precision that the threshold is for, 0–1; per_category: also a table with a line a category
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
    grids = [_scopes_grid(groups, found, f"{row.title}: are its scores right as often as they say?", row.notes)]
    grids.append(_curve_grid(found.curve))
    if per_category:
        grids.append(_scopes_grid(categories, found, "By category, the worst calibrated first", ()))
    record = {
        "run": run.name,
        "target": target,
        "unscored": found.unscored,
        "groups": _records(groups.drop(columns=["category_id", "name"])),
        "per_category": _records(categories.drop(columns=["group"])),
        "curve": _records(found.curve),
    }
    return Findings(tuple(grids), record)


def _scopes_grid(scopes: pd.DataFrame, found: Calibration, title: str, notes: tuple[str, ...]) -> Grid:
    goal = f"{100 * found.target:g} %"
    lines = tuple(
        (
            str(row["name"]),
            f"{row['segments']:,}",
            percent(_known(row["score"]), 1),
            percent(_known(row["precision"]), 1),
            percent(_known(row["ECE"]), 1),
            ABSENT if _known(row["threshold"]) is None else f"{row['threshold']:.3f}",
            percent(_known(row["kept"]), 1),
        )
        for _, row in scopes.iterrows()
    )
    said = [
        "Score: the mean. Right: the share of predictions that are true positives. ECE: the mean distance of the two "
        "over ten bins of scores.",
        f"{goal} from: the lowest score such that of all segments with it or more at least {goal} are right; keeps: "
        "the share of the right ones among them.",
    ]
    if found.unscored:
        said.append(f"{found.unscored:,} predictions have no score and were left out.")
    heads = ("", "segments", "score", "right", "ECE", f"{goal} from", "keeps")
    return Grid(heads, lines, title=title, notes=(*notes, *said) if notes or scopes["group"].notna().any() else ())


def _curve_grid(curve: pd.DataFrame) -> Grid:
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


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")]
