"""The first section of the page: the verdict, the scores with their ranks, and which differences are real."""

from collections.abc import Mapping, Sequence
from typing import Any

from panbench.panoptic.types import GROUPS
from panbench.report.answers.comparison import Standing, corrected_p, p_in_words
from panbench.report.answers.fixes import fix_sentence
from panbench.report.answers.grid import ABSENT, percent, signed
from panbench.report.answers.tables import comparison_grid
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import model_key, styles_of
from panbench.report.pages.page.behind import behind_the_verdict, difference_id, said, score_id
from panbench.report.pages.page.numbers import PairTest, TestedPair, tested_pairs
from panbench.report.pages.rendering import Markup, render

__all__ = ["overview", "title_of"]

MEANINGS = {
    "PQ": "Panoptic quality: SQ × RQ",
    "SQ": "Segmentation quality: mean IoU of the matched segments",
    "RQ": "Recognition quality: F1 of the segments",
    "PQ_th": "PQ of the things",
    "PQ_st": "PQ of the stuff",
}
_SCORES = {group: f"PQ{suffix}" for group, suffix in GROUPS.items()}


def title_of(members: Sequence[Compared]) -> str:
    """The page's title: the models by name, or their number, and the data."""
    row, info = members[0].row, members[0].run.info
    name = row.dataset or "their data"
    # Predictions are scored against a file, which has no other name.
    where = f"{name}.json" if info.kind == "score" and not row.split else f"{name} {row.split or ''}".strip()
    labels = [member.label for member in members]
    several = f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else labels[0]
    return f"{several if len(labels) < 4 else f'{len(labels)} models'} on {where}"


def overview(members: Sequence[Compared], standing: Standing) -> Markup:
    """The verdict, the comparison with ranks and intervals, and which differences are real."""
    grid = comparison_grid(standing.rows)
    ranked = any(row.rank for row in standing.rows)
    return render(
        "panbench.report.pages.page:overview.html",
        verdict=said(standing),
        behind=behind_the_verdict(members, standing),
        fix_first=fix_sentence(members[0].to_fix, members[0].label),
        columns=grid.columns,
        meanings=MEANINGS,
        ranked=len(standing.rows) > 1 and any(row.rank_low is not None for row in standing.rows),
        lines=_lines(members, standing),
        rows=_scores(members, standing),
        notes=(*grid.below, *(standing.notes if ranked else ())),
        labels=[member.label for member in members],
        differences=None if standing.comparison is None or len(members) < 2 else _differences(members, standing),
    )


def _lines(members: Sequence[Compared], standing: Standing) -> list[dict[str, Any]]:
    """A line a model: rank, label, PQ and its interval, in words and as places on one axis; claims follow the runs."""
    grid = comparison_grid(standing.rows)
    ends = [end for row in standing.rows for end in (row.PQ_low, row.PQ_high, row.PQ) if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    several = len(members) > 1

    def place(value: float) -> float:
        return round(2 + 96 * (value - low) / max(high - low, 1e-9), 2)

    colors = [style.color for style in styles_of([model_key(member.run) for member in members])]
    found = []
    for index, row in enumerate(standing.rows):
        bar = [place(end) for end in (row.PQ_low, row.PQ, row.PQ_high) if end is not None]
        known = len(bar) == 3
        found.append(
            {
                "id": score_id(index),
                "model": index if index < len(members) else None,
                "label": members[index].label if index < len(members) else row.title,
                "mark": grid.mark(index),
                "color": colors[index] if index < len(members) else 0,
                "rank": (row.ranks or row.rank or "") if several and row.rank_low is not None else "",
                "PQ": percent(row.PQ, 1),
                "bar": bar if known else None,
                "interval": f"{percent(row.PQ_low, 1)} – {percent(row.PQ_high, 1)}" if known else "",
            }
        )
    return found


def _scores(members: Sequence[Compared], standing: Standing) -> list[dict[str, Any]]:
    """Rank with its range, label and cells of each row; published claims follow the runs."""
    grid = comparison_grid(standing.rows)
    return [
        {
            "model": index if index < len(members) else None,
            "label": members[index].label if index < len(members) else row.title,
            "mark": grid.mark(index),
            "rank": None if row.rank_low is None else row.rank,
            "ranks": "" if row.rank_low == row.rank_high else row.ranks,
            "cells": cells[1:],
            "interval": "–" if row.PQ_low is None else f"{percent(row.PQ_low)} – {percent(row.PQ_high)}",
        }
        for index, (row, cells) in enumerate(zip(standing.rows, grid.rows, strict=True))
    ]


def _differences(members: Sequence[Compared], standing: Standing) -> dict[str, Any]:
    """Differences in PQ, PQ_th and PQ_st: rows for two runs or against a baseline, else matrices."""
    tests = {(pair.a, pair.b): pair for pair in tested_pairs(members, standing)}
    count = len(members)
    comparison = standing.comparison
    assert comparison is not None
    found = {"scores": _SCORES, "level": 100 * (1 - comparison.level), "permutations": comparison.permutations}
    shown = [corrected_p(test.p, test.at_floor) for pair in tests.values() for test in pair.groups.values()]
    found["open"] = any(p.startswith("<") and p != "<0.001" for p in shown)
    if len(tests) < count * (count - 1) // 2:
        base = next(index for index in range(count) if all(index in pair for pair in tests))
        others = [index for index in range(count) if index != base]
        rows = [(index, [_difference(tests, index, base, group) for group in GROUPS]) for index in others]
        return {**found, "form": "baseline", "base": base, "rows": rows}
    if count == 2:
        pair = [
            (
                difference_id(group, 0, 1),
                _SCORES[group],
                _difference(tests, 0, 1, group),
                _interval(test),
                corrected_p(test.p, test.at_floor),
            )
            for group in GROUPS
            if (test := tests[0, 1].groups.get(group)) is not None
        ]
        return {**found, "form": "pair", "rows": pair}
    matrices = [
        (_SCORES[group], [[_difference(tests, row, column, group) for column in range(count)] for row in range(count)])
        for group in GROUPS
        if any(group in pair.groups for pair in tests.values())
    ]
    return {**found, "form": "matrices", "matrices": matrices}


def _difference(tests: Mapping[tuple[int, int], TestedPair], a: int, b: int, group: str) -> dict[str, Any]:
    """a − b in points of PQ, its p in words, and whether it is significant."""
    test = None if a == b else tests[min(a, b), max(a, b)].groups.get(group)
    if test is None:
        return {"id": None, "first": a < b, "points": "" if a == b else ABSENT, "p": None, "significant": False}
    difference = test.difference if a < b else -test.difference
    cell = difference_id(group, a, b)
    return {
        "id": cell,
        "first": a < b,
        "points": signed(difference, 1),
        "p": p_in_words(test.p, test.at_floor),
        "significant": test.significant,
    }


def _interval(test: PairTest) -> str:
    return ABSENT if test.low != test.low else f"[{signed(test.low, 1)}, {signed(test.high, 1)}]"
