"""Where the page carries what the verdict says: the place of each clause, and a table of what stood in no other."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from panbench.metrics.errors import CAUSES
from panbench.metrics.jackknife import MATCHED_IOU
from panbench.panoptic.types import GROUPS
from panbench.report.answers import views
from panbench.report.answers.comparison import Standing, corrected_p
from panbench.report.answers.grid import ABSENT, percent, signed
from panbench.report.answers.verdict import Clause
from panbench.report.answers.views import Compared

__all__ = ["behind_the_verdict", "difference_id", "said", "score_id"]

_METRICS = {"PQ": "PQ", "SQ": "SQ", "RQ": "RQ", MATCHED_IOU: "IoU of matches"}
_CAUSES = [cause.name for cause in CAUSES]


def difference_id(group: str, a: int, b: int) -> str:
    """The id of the cell or row of a difference of two models in PQ of a group, whichever comes first."""
    return f"difference-{group}-{min(a, b)}-{max(a, b)}"


def score_id(place: int) -> str:
    """The id of a model's row in the comparison."""
    return f"score-{place}"


def said(standing: Standing) -> list[list[tuple[str, str, str]]]:
    """The verdict's sentences: of each clause what joins it to the last, its words, and the id of its row or cell."""
    if standing.verdict is None:
        return []
    place = {key: index for index, key in enumerate(standing.keys)}
    return [
        [(*_parted(clause.text), _place_of(clause, place)) for clause in sentence if clause.text]
        for sentence in standing.verdict.sentences
    ]


def _parted(text: str) -> tuple[str, str]:
    """A clause's first comma, semicolon or "and", and the words after it."""
    joined = re.match(r"[;,]? (and )?", text)
    return (joined[0], text[joined.end() :]) if joined else ("", text)


def _place_of(clause: Clause, place: dict[str, int]) -> str:
    if clause.kind == "corrected":
        return "difference-note"
    if clause.kind == "loses":
        return f"lost-{_CAUSES.index(clause.cause)}"
    if clause.kind == "cause":
        return _cause_id(clause.group, clause.cause)
    if clause.kind in ("scores", "highest") or not clause.b:
        return score_id(place[clause.a])
    if clause.metric != "PQ":
        return _metric_id(clause.group, clause.metric)
    return difference_id(clause.group, place[clause.a], place[clause.b])


def _metric_id(group: str, metric: str) -> str:
    return f"behind-{group}-{metric}"


def _cause_id(group: str, cause: str) -> str:
    return f"behind-{group}-lost-{_CAUSES.index(cause)}"


def behind_the_verdict(members: Sequence[Compared], standing: Standing) -> list[dict[str, Any]]:
    """For all, things and stuff: the tests of the two best models in PQ, SQ, RQ and IoU of matches, and their causes.

    [] where the two were not tested. Of each group its name and rows: id, name, a, b, difference, significant,
    interval, p
    """
    if standing.comparison is None or len(members) < 2:
        return []
    comparison, (first, second) = standing.comparison, standing.keys[:2]
    found = []
    for group in GROUPS:
        # The tests say b − a.
        tests = [
            (metric, test, forward)
            for metric in _METRICS
            for a, b, forward in ((second, first, True), (first, second, False))
            if (test := comparison.tests.get((a, b, group, metric))) and not pd.isna(test.difference)
        ]
        if tests:
            rows = [*_scores(tests, group), *_causes(members[:2], group)]
            found.append({"group": group, "rows": rows})
    return found


def _scores(tests: Iterable[tuple[str, Any, bool]], group: str) -> Iterator[dict[str, Any]]:
    for metric, test, forward in tests:
        a, b = (test.value_b, test.value_a) if forward else (test.value_a, test.value_b)
        sign = 1 if forward else -1
        low, high = sorted((sign * test.low, sign * test.high))
        yield {
            "id": _metric_id(group, metric),
            "name": _METRICS[metric],
            "a": percent(a, 1),
            "b": percent(b, 1),
            "difference": signed(sign * test.difference, 1),
            "significant": bool(test.significant),
            "interval": ABSENT if low != low else f"[{signed(low, 1)}, {signed(high, 1)}]",
            "p": corrected_p(test.p_holm, bool(test.at_floor)),
        }


def _causes(members: Sequence[Compared], group: str) -> Iterator[dict[str, Any]]:
    of_runs = [views.lost_to_causes(member, group) for member in members]
    for cause in _CAUSES:
        if not any(cause in lost for lost in of_runs):
            continue
        a, b = (lost.get(cause, math.nan) for lost in of_runs)
        if a or b:
            yield {
                "id": _cause_id(group, cause),
                "name": f"lost to: {cause}",
                "a": percent(a, 1),
                "b": percent(b, 1),
                "difference": signed(a - b, 1),
                "significant": False,
                "interval": ABSENT,
                "p": ABSENT,
            }
