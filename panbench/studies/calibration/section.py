"""The section of the page on calibration."""

from collections.abc import Sequence

import pandas as pd

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section, shortened
from panbench.report.pages.rendering import render
from panbench.studies.calibration.answer import PARTLY_SCORED, partly_scored_label
from panbench.studies.calibration.calibration import Calibration, calibration


def calibration_section(members: Sequence[Compared]) -> Section:
    """Builds the section with each model's reliability curve and calibration error."""
    title, rows, series, lacking = "Calibration", [], [], []
    known: list[tuple[int, Compared, Calibration]] = []
    for index, member in enumerate(members):
        try:
            known.append((index, member, calibration(member.matched, member.categories)))
        except BadRun:
            lacking.append(member.label)
    # If one model scores only its things, all models are compared on things.
    partly = [
        partly_scored_label(member.label, found.unscored, _scored_segment_count(found, "All"))
        for _, member, found in known
        if found.unscored
    ]
    group = "Things" if partly and all(_scored_segment_count(found, "Things") for *_, found in known) else "All"
    for index, member, found in known:
        own = found.scopes[found.scopes["group"] == group].iloc[0]
        series.append((index, _reliability_points(member.label, found.curve[found.curve["group"] == group])))
        cells = [
            f"{own['segments']:,}",
            *(percent(own[name], 1) for name in ("score", "precision", "ECE")),
            ABSENT if pd.isna(own["threshold"]) else f"{own['threshold']:.3f}",
            percent(own["kept"], 1),
        ]
        rows.append((member.label, index, cells))
    if not rows:
        words = "no prediction has a score. `panbench eval` stores them; "
        return Section(title, missing=f"{words}`panbench score` reads `score` of the records in `segments_info`.")
    heads = ("Model", "segments", "mean score", "right", "ECE", "90 % from", "keeps")
    notes = [
        "right: the share of predictions that are true positives. ECE: the mean distance of score and right over ten "
        "bins of scores. 90 % from: the lowest score from which on at least 90 % are right; keeps: the share of the "
        "right ones that this keeps."
    ]
    if partly:
        remark = "so all models are shown by their things" if group == "Things" else "so their lines do not compare"
        notes.append(f"{PARTLY_SCORED} {in_sentence(partly)}. What has no score is left out, {remark}.")
    if lacking:
        notes.append(f"Without scores: {', '.join(lacking)}.")
    intro = (
        "Is a segment of which a model is 90 % sure right nine times in ten? Below the diagonal a model is too sure. "
        "`panbench calibration RUN` has things, stuff and categories."
    )
    what = "things" if group == "Things" else "segments"
    curves = Curves(
        f"How often {what} of a score are right", "mean score of the bin", "right", series, diagonal=True, zoom=True
    )
    content = render("panbench.studies.calibration:section.html", heads=heads, rows=rows, notes=notes)
    return Section(title, intro, content, {"calibration": curves})


def _scored_segment_count(found: Calibration, group: str) -> int:
    """Returns the number of scored segments in All, Things or Stuff."""
    return int(found.scopes.loc[found.scopes["group"] == group, "segments"].iloc[0])


def _reliability_points(label: str, curve: pd.DataFrame) -> list[tuple[list[float], str]]:
    """Returns a point (mean score, precision, ends of its interval) and a tooltip for each bin that holds segments."""
    points = []
    for _, row in curve[curve["segments"] > 0].iterrows():
        score, right, low, high = (
            float(row[name]) for name in ("score", "precision", "precision_low", "precision_high")
        )
        words = (
            f"{label}\n{int(row['segments']):,} segments, mean score {percent(score, 1)}\n"
            f"right {percent(right, 1)} (95 % interval {percent(low, 1)} – {percent(high, 1)})"
        )
        points.append((shortened((score, right, low, high)), words))
    return points
