"""The section of the page on what scores are worth."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section
from panbench.report.pages.page.shortened import shortened
from panbench.report.pages.rendering import render
from panbench.studies.calibration.answer import OF_SOME, of_some
from panbench.studies.calibration.calibration import Calibration, calibration

__all__ = ["calibration_section"]


def calibration_section(members: Sequence[Compared]) -> Section:
    """Whether scores are right as often as they say."""
    title, rows, series, lacking = "Calibration", [], [], []
    known: list[tuple[int, Compared, Calibration]] = []
    for index, member in enumerate(members):
        try:
            known.append((index, member, calibration(member.matched, member.categories)))
        except BadRun:
            lacking.append(member.label)
    # Where a model scores things alone, all are shown by their things: lines of other segments would not compare.
    partly = [
        of_some(member.label, found.unscored, _segments(found, "All")) for _, member, found in known if found.unscored
    ]
    group = "Things" if partly and all(_segments(found, "Things") for *_, found in known) else "All"
    for index, member, found in known:
        own = found.scopes[found.scopes["group"] == group].iloc[0]
        series.append((index, _points(member.label, found.curve[found.curve["group"] == group])))
        threshold = _known(own["threshold"])
        cells = [
            f"{own['segments']:,}",
            *(percent(_known(own[name]), 1) for name in ("score", "precision", "ECE")),
            ABSENT if threshold is None else f"{threshold:.3f}",
            percent(_known(own["kept"]), 1),
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
        shown = "so all models are shown by their things" if group == "Things" else "so their lines do not compare"
        notes.append(f"{OF_SOME} {in_sentence(partly)}. What has no score is left out, {shown}.")
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
    return Section(title, intro, content, curves)


def _segments(found: Calibration, group: str) -> int:
    return int(found.scopes.loc[found.scopes["group"] == group, "segments"].iloc[0])


def _points(label: str, curve: pd.DataFrame) -> list[tuple[list[float], str]]:
    """Points (score, right, low, high) of each bin that holds segments, and their explanation."""
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


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
