"""The first section of the page: the verdict, the scores with their ranks, and which differences are real.

Each clause of the verdict links to the element behind it, some to a table of numbers that no other table has.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isnan, nan
from typing import Any

from panbench.base.text import in_sentence
from panbench.metrics.errors import CAUSES
from panbench.metrics.jackknife import MATCHED_IOU
from panbench.metrics.uncertainty import Difference
from panbench.panoptic.types import GROUPS
from panbench.report.answers.comparison import Standing, corrected_p, p_in_words
from panbench.report.answers.fixes import fix_sentence
from panbench.report.answers.grid import ABSENT, Grid, percent, signed
from panbench.report.answers.tables import comparison_grid
from panbench.report.answers.totals import lost_to_causes
from panbench.report.answers.verdict import Clause
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import run_styles
from panbench.report.pages.rendering import Markup, render

MEANINGS = {
    "PQ": "Panoptic quality: SQ × RQ",
    "SQ": "Segmentation quality: mean IoU of the matched segments",
    "RQ": "Recognition quality: F1 of the segments",
    "PQ_th": "PQ of the things",
    "PQ_st": "PQ of the stuff",
}


LONGEST_TITLE = 80
"""Maximum letters of the models' names in a title: longer ones would fill the first screen of a phone."""

_METRICS = {"PQ": "PQ", "SQ": "SQ", "RQ": "RQ", MATCHED_IOU: "IoU of matches"}
_CAUSES = [cause.name for cause in CAUSES]


def title_of(members: Sequence[Compared]) -> str:
    """Returns the page's title: the models by name, or their number, and the data."""
    row, info = members[0].row, members[0].run.info
    name = row.dataset or "their data"
    # Scored predictions name their ground truth by its file only.
    where = f"{name}.json" if info.kind == "score" and not row.split else f"{name} {row.split or ''}".strip()
    labels = [member.label for member in members]
    several = in_sentence(labels)
    short = len(labels) == 1 or (len(labels) < 4 and len(several) <= LONGEST_TITLE)
    return f"{several if short else f'{len(labels)} models'} on {where}"


def overview(members: Sequence[Compared], standing: Standing) -> Markup:
    """Renders the page's first section: the verdict, the comparison with ranks, and which differences are real."""
    grid = comparison_grid(standing.rows)
    ranked = any(row.rank for row in standing.rows)
    return render(
        "panbench.report.pages.page:overview.html",
        verdict=verdict_clauses(standing),
        behind=behind_the_verdict(members, standing),
        fix_first=fix_sentence(members[0].to_fix, members[0].label),
        columns=grid.columns,
        meanings=MEANINGS,
        ranked=len(standing.rows) > 1 and any(row.rank_low is not None for row in standing.rows),
        rows=_model_rows(members, standing, grid),
        notes=(*grid.below, *(standing.notes if ranked else ())),
        labels=[member.label for member in members],
        differences=_difference_rows(members, standing),
    )


def _model_rows(members: Sequence[Compared], standing: Standing, grid: Grid) -> list[dict[str, Any]]:
    """Returns for each model the facts of its row: rank, label, PQ, its interval as a bar, and cells of scores.

    Published claims follow the runs.
    """
    bars = interval_bars([(row.PQ_low, row.PQ_high, row.PQ) for row in standing.rows])
    styles = run_styles([member.run for member in members])
    found = []
    for index, (row, cells) in enumerate(zip(standing.rows, grid.rows, strict=True)):
        is_run, ranked = index < len(members), len(members) > 1 and row.rank_low is not None
        found.append(
            {
                "id": score_html_id(index),
                "model": index if is_run else None,
                "label": members[index].label if is_run else row.title,
                "mark": grid.mark(index),
                "color": styles[index].color if is_run else 0,
                "rank": row.rank if ranked else None,
                "ranks": row.ranks if ranked else "",
                "PQ": percent(row.PQ, 1),
                "bar": bars[index],
                "ends": (row.PQ_low, row.PQ_high) if bars[index] else None,
                "cells": cells[1:],
            }
        )
    return found


def interval_bars(rows: Sequence[tuple[float | None, float | None, float | None]]) -> list[list[float] | None]:
    """Returns low end, high end and PQ of each interval as positions on an axis of 0 to 100; None without one."""
    known = [end for ends in rows for end in ends if end is not None]
    low, width = min(known, default=0.0), max(max(known, default=1.0) - min(known, default=0.0), 1e-9)
    return [
        None if None in ends else [round(2 + 96 * (end - low) / width, 2) for end in ends if end is not None]
        for ends in rows
    ]


def _difference_rows(members: Sequence[Compared], standing: Standing) -> dict[str, Any] | None:
    """Returns the facts of the table of differences between models, a row per tested pair; None for one model."""
    comparison, keys = standing.comparison, standing.keys
    if comparison is None or len(members) < 2:
        return None
    rows = []
    for a, b in combinations(range(len(members)), 2):
        tests = {group: comparison.between(keys[a], keys[b], group) for group in GROUPS}
        if any(tests.values()):
            cells = [{"id": difference_html_id(group, a, b), **difference_cells(test)} for group, test in tests.items()]
            rows.append((a, b, cells))
    return {
        "scores": [f"PQ{suffix}" for suffix in GROUPS.values()],
        "rows": rows,
        "level": 100 * (1 - comparison.level),
        "permutations": comparison.permutations,
        "open": any("<" in cell["p"] and cell["p"] != "<0.001" for *_, cells in rows for cell in cells),
    }


def difference_html_id(group: str, a: int, b: int) -> str:
    """Returns the HTML id of the cell or row with the difference of two models in PQ of a group, in any order."""
    return f"difference-{group}-{min(a, b)}-{max(a, b)}"


def score_html_id(index: int) -> str:
    """Returns the HTML id of a model's row in the comparison."""
    return f"score-{index}"


def verdict_clauses(standing: Standing) -> list[list[tuple[str, str, str]]]:
    """Splits the verdict's sentences into clauses: conjunction, words, and HTML id of the number that they state."""
    if standing.verdict is None:
        return []
    position = {key: index for index, key in enumerate(standing.keys)}
    return [
        [(*_split_joining_word(clause.text), _html_id_of_clause(clause, position)) for clause in message if clause.text]
        for message in standing.verdict.messages
    ]


def _split_joining_word(text: str) -> tuple[str, str]:
    """Splits a clause into the comma, semicolon or "and" that it begins with, and the words after it."""
    joined = re.match(r"[;,]? (and )?", text)
    return (joined[0], text[joined.end() :]) if joined else ("", text)


def _html_id_of_clause(clause: Clause, position: dict[str, int]) -> str:
    """Returns the HTML id of the table row with the number that a clause of the verdict states."""
    if clause.kind == "corrected":
        return "difference-note"
    if clause.kind == "loses":
        return f"lost-{_CAUSES.index(clause.cause)}"
    if clause.kind == "cause":
        return _cause_html_id(clause.group, clause.cause)
    if clause.kind in ("scores", "highest") or not clause.b:
        return score_html_id(position[clause.a])
    if clause.metric != "PQ":
        return _metric_html_id(clause.group, clause.metric)
    return difference_html_id(clause.group, position[clause.a], position[clause.b])


def _metric_html_id(group: str, metric: str) -> str:
    """Returns the HTML id of the table row of a metric (PQ, SQ, RQ or IoU) over all, things or stuff."""
    return f"behind-{group}-{metric}"


def _cause_html_id(group: str, cause: str) -> str:
    """Returns the HTML id of the table row of the PQ lost to a cause of error over all, things or stuff."""
    return f"behind-{group}-lost-{_CAUSES.index(cause)}"


def behind_the_verdict(members: Sequence[Compared], standing: Standing) -> list[dict[str, Any]]:
    """Returns what the verdict on the best two is based on: tests of PQ, SQ, RQ and IoU, and causes, by group.

    [] if the two were not tested. For each group its name and rows: id, name, a, b, and `difference_cells`
    """
    if standing.comparison is None or len(members) < 2:
        return []
    found, (first, second) = [], standing.keys[:2]
    for group in GROUPS:
        tests = {metric: standing.comparison.between(first, second, group, metric) for metric in _METRICS}
        rows = [
            _score_row(group, metric, test) for metric, test in tests.items() if test and not isnan(test.difference)
        ]
        if rows:
            found.append({"group": group, "rows": [*rows, *_cause_rows(members[:2], group)]})
    return found


def _score_row(group: str, metric: str, test: Difference) -> dict[str, Any]:
    """Returns the table row that compares two runs in one metric: HTML id, name, both values, their difference."""
    a, b = (percent(value, 1) for value in test.values)
    return {"id": _metric_html_id(group, metric), "name": _METRICS[metric], "a": a, "b": b, **difference_cells(test)}


def difference_cells(test: Difference | None) -> dict[str, Any]:
    """Returns a difference's cells: points, interval, p alone and in words, and whether it is significant."""
    if test is None or isnan(test.difference):
        return {"points": ABSENT, "interval": ABSENT, "p": ABSENT, "words": "", "significant": False}
    return {
        "points": signed(test.difference, 1),
        "interval": ABSENT if isnan(test.low) else f"[{signed(test.low, 1)}, {signed(test.high, 1)}]",
        "p": corrected_p(test.p, test.at_floor),
        "words": p_in_words(test.p, test.at_floor),
        "significant": test.significant,
    }


def _cause_rows(members: Sequence[Compared], group: str) -> Iterator[dict[str, Any]]:
    """Yields a row per cause of error: the PQ that each of two models loses to it over all, things or stuff."""
    of_runs = [lost_to_causes(member.totals, group) for member in members]
    for cause in _CAUSES:
        if not any(cause in lost for lost in of_runs):
            continue
        a, b = (lost.get(cause, nan) for lost in of_runs)
        if a or b:
            yield {
                "id": _cause_html_id(group, cause),
                "name": f"lost to: {cause}",
                "a": percent(a, 1),
                "b": percent(b, 1),
                **difference_cells(None),
                "points": signed(a - b, 1),
            }
