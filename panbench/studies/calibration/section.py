"""The section of the page on what scores are worth."""

from collections.abc import Sequence
from typing import Any

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.section import Curves, Section
from panbench.report.pages.page.shortened import shortened
from panbench.report.pages.rendering import render
from panbench.studies.calibration.answer import OF_SOME, of_some
from panbench.studies.calibration.calibration import calibration

__all__ = ["calibration_section"]


def calibration_section(members: Sequence[Compared]) -> Section:
    """Whether scores are right as often as they say."""
    title, rows, series, lacking, partly = "Calibration", [], [], [], []
    for index, member in enumerate(members):
        try:
            found = calibration(member.matched, member.categories)
        except BadRun:
            lacking.append(member.label)
            continue
        own = found.scopes[found.scopes["group"] == "All"].iloc[0]
        curve = found.curve[(found.curve["group"] == "All") & (found.curve["segments"] > 0)]
        bounds = ("score", "precision", "precision_low", "precision_high")
        points = []
        for _, row in curve.iterrows():
            score, right, low, high = (float(row[name]) for name in bounds)
            words = (
                f"{member.label}\n{int(row['segments']):,} segments, mean score {percent(score, 1)}\n"
                f"right {percent(right, 1)} (95 % interval {percent(low, 1)} – {percent(high, 1)})"
            )
            points.append((shortened((score, right, low, high)), words))
        series.append((index, points))
        if found.unscored:
            partly.append(of_some(member.label, found.unscored, int(own["segments"])))
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
        notes.append(
            f"{OF_SOME} {in_sentence(partly)}. What has no score, as the stuff of Panoptic FPN, is left "
            "out, so such a line does not compare with that of a model whose segments all have one: "
            "`panbench calibration` has things and stuff apart."
        )
    if lacking:
        notes.append(f"Without scores: {', '.join(lacking)}.")
    intro = (
        "Is a segment of which a model is 90 % sure right nine times in ten? Below the diagonal a model is too sure. "
        "`panbench calibration RUN` has things, stuff and categories."
    )
    curves = Curves("How often segments of a score are right", "mean score of the bin", "right", series, diagonal=True)
    content = render("panbench.studies.calibration:section.html", heads=heads, rows=rows, notes=notes)
    return Section(title, intro, content, curves)


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
