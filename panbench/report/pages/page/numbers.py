"""The numbers that the page's scripts draw, as plain lists: fractions to four digits, None for absent values.

And the notes next to the charts of PQ against speed and size.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import SLICINGS, Slicing
from panbench.metrics.uncertainty import Difference, lost_difference
from panbench.panoptic.image_ids import text_names
from panbench.report.answers import views
from panbench.report.answers.comparison import Standing
from panbench.report.answers.grid import ABSENT, adding_up, percent
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import run_styles
from panbench.report.pages.page.leads import confused_pairs, mistaken_pairs
from panbench.report.pages.page.section import shortened


def chart_numbers(members: Sequence[Compared], standing: Standing, per_image: pd.DataFrame) -> dict[str, Any]:
    """Returns the values that the page's charts draw, as JSON: fractions rounded for printing, None where unknown.

    members: with the rows of `standing`; per_image: their `views.per_image`
    """
    overview = views.overview(members)
    return {
        "models": [
            {"label": member.label, "run": member.run.name, **style.record}
            for member, style in zip(members, run_styles([member.run for member in members]), strict=True)
        ],
        "categories": [
            {"name": category.name, "thing": category.isthing, "super": category.supercategory}
            for category in members[0].categories
        ],
        "overview": {
            **{name: _short_numbers(overview[name]) for name in ("PQ", "low", "high", "params", "images_per_second")},
            "speeds": [speed_range(member) for member in members],
        },
        "pairs": list(pair_tests(members, standing)),
        **_per_run_chart_numbers(members, per_image),
    }


def _per_run_chart_numbers(members: Sequence[Compared], per_image: pd.DataFrame) -> dict[str, Any]:
    """Returns the values of the page's charts by category, cause of error, slice and image, for each run."""
    categories = members[0].categories
    position = {category.name: index for index, category in enumerate(categories)}
    by_run = [member.label for member in members]
    per_category = views.per_category(members)
    lost = views.causes(members)
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")[by_run]
    return {
        "perCategory": [
            {
                "category": row,
                "segments": segments,
                "scores": [_short_numbers(score) for score in scores],
                "counts": counts,
            }
            for row, (segments, scores, counts) in enumerate(_category_rows(per_category, len(categories)))
        ],
        "causes": {
            "names": [cause.name for cause in CAUSES],
            "meanings": [cause.description for cause in CAUSES],
            "lost": [_short_numbers(lost.loc[lost["run"] == run, "lost"]) for run in by_run],
            "gain": [_short_numbers(lost.loc[lost["run"] == run, "gain"]) for run in by_run],
            "counts": [lost.loc[lost["run"] == run, ["FP", "FN", "TP"]].to_numpy().tolist() for run in by_run],
            **_cause_numbers(members, lost),
        },
        "confusion": _confusion_rows(members, confused_pairs(members), position, _short_numbers),
        "objects": _confusion_rows(
            members, mistaken_pairs(members), position, lambda numbers: [int(n) for n in numbers]
        ),
        "slices": [
            {
                "key": name,
                "title": SLICINGS[name].title,
                "names": list(dict.fromkeys(table["slice"])),
                "bounds": _slice_bounds(SLICINGS[name]),
                "PQ": [_short_numbers(table.loc[table["run"] == run, "PQ"]) for run in by_run],
                "truths": (
                    table.loc[table["run"] == by_run[0], "TP"] + table.loc[table["run"] == by_run[0], "FN"]
                ).tolist(),
            }
            for name, table in views.all_slices(members).items()
        ],
        "image_names": text_names(pq.index),
        "images": {"ids": pq.index.tolist(), "PQ": [_short_numbers(pq[run]) for run in by_run]},
    }


def pair_tests(members: Sequence[Compared], standing: Standing) -> Iterator[dict[str, Any]]:
    """Yields the tested differences of each pair of models, a before b in the order of the page.

    categories: by the category's index, [a − b, low, high, p, significant] in PQ and the number of images
    """
    if standing.comparison is None:
        return
    column = {key: index for index, key in enumerate(standing.keys)}
    position = {category.id: index for index, category in enumerate(members[0].categories)}
    table = standing.comparison.differences
    table = table[(table["metric"] == "PQ") & table["difference"].notna()]
    for pair, own in table.groupby(["a", "b"], sort=False):
        first, second = sorted(map(str, pair), key=lambda key: column[key])
        categories = {}
        for row in own[own["group"].isna()].itertuples():
            test = Difference.of(row, first)
            numbers = _short_numbers((test.difference, test.low, test.high, test.p))
            categories[position[row.category_id]] = [*numbers, test.significant, int(row.images)]
        yield {"a": column[first], "b": column[second], "categories": categories}


def _cause_numbers(members: Sequence[Compared], lost: pd.DataFrame) -> dict[str, Any]:
    """Returns the PQ lost to each cause as printed, with intervals, and for pairs "a,b" of models a − b."""
    of_run = [lost.loc[lost["run"] == member.label, "lost"].to_numpy() for member in members]
    influences = [member.lost_influence for member in members]
    totals = [None if member.row.PQ is None else 100 - float(percent(member.row.PQ, 1)) for member in members]
    none = np.zeros_like(influences[0])
    gaps = {}
    for a, b in combinations(range(len(members)), 2):
        ends = lost_difference(of_run[a] - of_run[b], influences[a], influences[b])
        gaps[f"{a},{b}"] = [_short_numbers(pair) for pair in zip(*ends, strict=True)]
    return {
        "shown": [
            adding_up([None if value != value else value for value in own.tolist()], total or 0.0)
            for own, total in zip(of_run, totals, strict=True)
        ],
        "total": [ABSENT if total is None else f"{total:.1f}" for total in totals],
        "intervals": [
            [_short_numbers(pair) for pair in zip(*lost_difference(own, influence, none), strict=True)]
            for own, influence in zip(of_run, influences, strict=True)
        ],
        "gaps": gaps,
    }


def _slice_bounds(slicing: Slicing) -> dict[str, list[float | None]]:
    """Returns the bounds of each slice of a slicing: lower inclusive, upper exclusive; None without a bound."""
    edges = [None, *slicing.edges, None]
    return {name: list(edges[index : index + 2]) for index, name in enumerate(slicing.names)}


def _category_rows(per_category: pd.DataFrame, categories: int) -> Iterable[tuple[int, Any, Any]]:
    """Returns for each category its number of true segments, and each run's (PQ, SQ, RQ) and (TP, FP, FN)."""
    scores, counts = (
        per_category[names].to_numpy().reshape(-1, categories, 3).swapaxes(0, 1)
        for names in (["PQ", "SQ", "RQ"], ["TP", "FP", "FN"])
    )
    return zip(per_category["segments"].tolist()[:categories], scores, counts.tolist(), strict=True)


def _confusion_rows(
    members: Sequence[Compared], pairs: pd.DataFrame, position: Mapping[str, int], numbers: Callable[[Any], Any]
) -> list[list[Any]]:
    """Returns a row per pair of confused categories: true, predicted, and a number for each run."""
    return [
        [position[row["true"]], position.get(row["predicted"], -1), numbers(row[member.label] for member in members)]
        for row in pairs.to_dict("records")
    ]


def _short_numbers(values: Any) -> list[float | None]:
    """Rounds fractions to as few digits as leave their printed percentages unchanged; None for absent ones."""
    return [None if value is None or not math.isfinite(value) else shortened((value,))[0] for value in values]


@dataclass(frozen=True)
class SpeedNotes:
    """Notes on the speeds and sizes of the models. known: whether any speed or size is known."""

    known: bool
    warning: str = ""
    notes: tuple[str, ...] = ()


def speed_notes(members: Sequence[Compared]) -> SpeedNotes:
    """Returns the page's notes on speeds and sizes."""
    speeds = [member.row.images_per_second for member in members]
    if not any(speeds):
        return SpeedNotes(any(member.row.params for member in members))
    devices = {(member.row.device, member.row.precision) for member in members if member.row.images_per_second}
    warning = "The runs were made on different devices or precisions: their speeds do not compare."
    notes = [
        "Speeds are those of the evaluation once it is warm, with whatever else the machine did; `panbench bench` "
        f"measures them. The whole loop: {'; '.join(filter(None, map(_evaluation_time, members)))}. Lines across: from "
        "the slowest to the fastest of up to ten stretches of the run."
    ]
    unsteady = [member.label for member in members if member.row.images_per_second and speed_range(member) is None]
    if unsteady:
        words = "Without a mark against speed, as these runs did not record how much it varied"
        notes.append(f"{words}: {', '.join(unsteady)}.")
    lacking = [member.label for member in members if not member.row.images_per_second]
    if lacking:
        words = "Without a speed, as scored predictions and runs of very few batches have none"
        notes.append(f"{words}: {', '.join(lacking)}.")
    return SpeedNotes(True, warning if len(devices) > 1 else "", tuple(notes))


def speed_range(member: Compared) -> list[float] | None:
    """Returns the lowest and the highest speed within an evaluation, in images per second; None if not recorded."""
    low, high = member.run.info.images_per_second_low, member.run.info.images_per_second_high
    return None if low is None or high is None else [shortened((low,))[0], shortened((high,))[0]]


def _evaluation_time(member: Compared) -> str | None:
    """Says how long a whole evaluation took, with its first batches and writing; None if not recorded."""
    wall = member.run.info.seconds.wall
    if not member.row.images_per_second or wall is None:
        return None
    return f"{member.label} {member.run.info.images.scored:,} images in {wall:,.1f} s"
