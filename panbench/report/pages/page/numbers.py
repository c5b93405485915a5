"""The numbers that the page's scripts draw, as plain lists: fractions to four digits, None where there is none."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from panbench.metrics.errors import CAUSES
from panbench.metrics.lost_intervals import lost_difference
from panbench.metrics.slices import SLICINGS, Slicing
from panbench.panoptic.image_ids import text_names
from panbench.report.answers import views
from panbench.report.answers.comparison import Standing
from panbench.report.answers.grid import ABSENT, adding_up, percent
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import model_key, styles_of
from panbench.report.pages.page.cost import speed_range
from panbench.report.pages.page.leads import confused_pairs, mistaken_pairs
from panbench.report.pages.page.shortened import shortened

__all__ = ["PairTest", "TestedPair", "chart_numbers", "tested_pairs"]


def chart_numbers(members: Sequence[Compared], standing: Standing, per_image: pd.DataFrame) -> dict[str, Any]:
    """The numbers that the scripts draw: fractions that read as the unrounded ones do, null where there is none.

    members: with the rows of `standing`; per_image: `views.per_image` of them
    """
    overview = views.overview(members)
    return {
        "models": [
            {
                "label": member.label,
                "complete": member.row.complete,
                "run": member.run.name,
                "color": style.color,
                "marker": style.marker,
            }
            for member, style in zip(members, styles_of([model_key(member.run) for member in members]), strict=True)
        ],
        "categories": [
            {"name": category.name, "thing": category.isthing, "super": category.supercategory}
            for category in members[0].categories
        ],
        "overview": {
            **{name: _numbers(overview[name]) for name in ("PQ", "low", "high", "params", "images_per_second")},
            "speeds": [speed_range(member) for member in members],
        },
        "pairs": list(pair_tests(members, standing)),
        **_counted(members, per_image),
    }


def _counted(members: Sequence[Compared], per_image: pd.DataFrame) -> dict[str, Any]:
    """Those of `chart_numbers` for which the runs are not weighed against each other."""
    categories = members[0].categories
    position = {category.name: index for index, category in enumerate(categories)}
    by_run = [member.label for member in members]
    per_category = views.per_category(members)
    lost = views.causes(members)
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")[by_run]
    return {
        "perCategory": [
            {
                "category": place,
                "segments": segments,
                "scores": [_numbers(score) for score in scores],
                "counts": counts,
            }
            for place, (segments, scores, counts) in enumerate(_of_categories(per_category, len(categories)))
        ],
        "causes": {
            "names": [cause.name for cause in CAUSES],
            "meanings": [cause.description for cause in CAUSES],
            "lost": [_numbers(lost.loc[lost["run"] == run, "lost"]) for run in by_run],
            "gain": [_numbers(lost.loc[lost["run"] == run, "gain"]) for run in by_run],
            "counts": [lost.loc[lost["run"] == run, ["FP", "FN", "TP"]].to_numpy().tolist() for run in by_run],
            **_causes(members, lost),
        },
        "confusion": _confusion(members, confused_pairs(members), position, _numbers),
        "objects": _confusion(members, mistaken_pairs(members), position, lambda numbers: [int(n) for n in numbers]),
        "slices": [
            {
                "key": name,
                "title": SLICINGS[name].title,
                "names": list(dict.fromkeys(table["slice"])),
                "bounds": _bounds(SLICINGS[name]),
                "PQ": [_numbers(table.loc[table["run"] == run, "PQ"]) for run in by_run],
                "truths": (
                    table.loc[table["run"] == by_run[0], "TP"] + table.loc[table["run"] == by_run[0], "FN"]
                ).tolist(),
            }
            for name, table in views.all_slices(members).items()
        ],
        "image_names": text_names(pq.index),
        "images": {"ids": pq.index.tolist(), "PQ": [_numbers(pq[run]) for run in by_run]},
    }


@dataclass(frozen=True)
class PairTest:
    """a − b in PQ with its interval, what a test says of it, and the images that decide it. NaN where there is none.

    at_floor: no swap of images differed as much, so that p is only known to be no larger
    """

    difference: float
    low: float
    high: float
    p: float
    significant: bool
    at_floor: bool
    images: int

    def record(self) -> list[Any]:
        """The record in the form that the page's scripts take."""
        return [*_numbers((self.difference, self.low, self.high, self.p)), self.significant]


@dataclass(frozen=True)
class TestedPair:
    """Two models, a before b in the page's order. groups: by name; categories: by the category's position."""

    a: int
    b: int
    groups: Mapping[str, PairTest]
    categories: Mapping[int, PairTest]


def tested_pairs(members: Sequence[Compared], standing: Standing) -> Iterator[TestedPair]:
    """Each pair of models that was tested; groups and categories without a difference are left out."""
    if standing.comparison is None:
        return
    place = {key: index for index, key in enumerate(standing.keys)}
    position = {category.id: index for index, category in enumerate(members[0].categories)}
    table = standing.comparison.differences
    table = table[(table["metric"] == "PQ") & table["difference"].notna()]
    for (first, second), own in table.groupby(["a", "b"], sort=False):
        a, b = place[str(first)], place[str(second)]
        # The tests say b − a.
        sign = -1 if a < b else 1
        groups, categories = {}, {}
        for row in own.itertuples():
            low, high = sorted((sign * row.low, sign * row.high))
            found = PairTest(
                sign * row.difference, low, high, row.p_holm, bool(row.significant), bool(row.at_floor), int(row.images)
            )
            if pd.isna(row.group):
                categories[position[row.category_id]] = found
            else:
                groups[str(row.group)] = found
        yield TestedPair(min(a, b), max(a, b), groups, categories)


def pair_tests(members: Sequence[Compared], standing: Standing) -> Iterator[dict[str, Any]]:
    """Each tested pair for the scripts.

    categories: [difference, low, high, p, significant] and the number of images, by the category's position
    """
    for pair in tested_pairs(members, standing):
        yield {
            "a": pair.a,
            "b": pair.b,
            "categories": {place: [*test.record(), test.images] for place, test in pair.categories.items()},
        }


def _causes(members: Sequence[Compared], lost: pd.DataFrame) -> dict[str, Any]:
    """What each cause takes as it is printed, with all of them; its interval; and of pairs "a,b" that of a − b."""
    of_run = [lost.loc[lost["run"] == member.label, "lost"].to_numpy() for member in members]
    influences = [member.lost_influence for member in members]
    totals = [None if member.row.PQ is None else 100 - float(percent(member.row.PQ, 1)) for member in members]
    none = np.zeros_like(influences[0])
    gaps = {}
    for a, b in combinations(range(len(members)), 2):
        ends = lost_difference(of_run[a] - of_run[b], influences[a], influences[b])
        gaps[f"{a},{b}"] = [_numbers(pair) for pair in zip(*ends, strict=True)]
    return {
        "shown": [
            adding_up([None if value != value else value for value in own.tolist()], total or 0.0)
            for own, total in zip(of_run, totals, strict=True)
        ],
        "total": [ABSENT if total is None else f"{total:.1f}" for total in totals],
        "intervals": [
            [_numbers(pair) for pair in zip(*lost_difference(own, influence, none), strict=True)]
            for own, influence in zip(of_run, influences, strict=True)
        ],
        "gaps": gaps,
    }


def _bounds(slicing: Slicing) -> dict[str, list[float | None]]:
    """Value range of each slice: first bound inclusive, second exclusive; None where there is no bound."""
    edges = [None, *slicing.edges, None]
    return {name: list(edges[place : place + 2]) for place, name in enumerate(slicing.names)}


def _of_categories(per_category: pd.DataFrame, categories: int) -> Iterable[tuple[int, Any, Any]]:
    """Of each category its true segments, and a row for each run: PQ, SQ and RQ, and TP, FP and FN."""
    scores, counts = (
        per_category[names].to_numpy().reshape(-1, categories, 3).swapaxes(0, 1)
        for names in (["PQ", "SQ", "RQ"], ["TP", "FP", "FN"])
    )
    return zip(per_category["segments"].tolist()[:categories], scores, counts.tolist(), strict=True)


def _confusion(
    members: Sequence[Compared], pairs: pd.DataFrame, position: Mapping[str, int], numbers: Callable[[Any], Any]
) -> list[list[Any]]:
    """[true, predicted, number of each run]: what any run confuses most."""
    return [
        [position[row["true"]], position.get(row["predicted"], -1), numbers(row[member.label] for member in members)]
        for row in pairs.to_dict("records")
    ]


def _numbers(values: Any) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else shortened((value,))[0] for value in values]
