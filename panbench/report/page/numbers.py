"""The numbers that the page's scripts draw, as plain lists: fractions to four digits, None where there is none."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from panbench.metrics.errors import CAUSES
from panbench.metrics.slices import SLICINGS
from panbench.report import views
from panbench.report.colors import model_key, styles_of
from panbench.report.views import Compared

__all__ = ["chart_numbers"]

MOST_CONFUSED = 400


def chart_numbers(members: Sequence[Compared], per_image: pd.DataFrame) -> dict[str, Any]:
    """The numbers that the scripts draw: fractions to four digits, null where there is none."""
    categories = members[0].categories
    position = {category.name: index for index, category in enumerate(categories)}
    by_run = [member.label for member in members]
    overview = views.overview(members)
    per_category = views.per_category(members)
    lost = views.causes(members)
    pq = per_image.pivot(index="image_id", columns="run", values="PQ")[by_run]
    objects = views.mistaken_objects(members)
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
            for category in categories
        ],
        "overview": {name: _numbers(overview[name]) for name in ("PQ", "low", "high", "params", "images_per_second")},
        "perCategory": [
            {
                "category": place,
                "segments": int(own["segments"].iloc[0]),
                "scores": [_numbers(score) for score in own[["PQ", "SQ", "RQ"]].to_numpy()],
                "counts": own[["TP", "FP", "FN"]].to_numpy().tolist(),
            }
            for place, own in enumerate(_of_categories(per_category, [category.id for category in categories]))
        ],
        "causes": {
            "names": [cause.name for cause in CAUSES],
            "meanings": [cause.description for cause in CAUSES],
            "lost": [_numbers(lost.loc[lost["run"] == run, "lost"]) for run in by_run],
            "gain": [_numbers(lost.loc[lost["run"] == run, "gain"]) for run in by_run],
            "counts": [lost.loc[lost["run"] == run, ["FP", "FN", "TP"]].to_numpy().tolist() for run in by_run],
        },
        "confusion": _confusion(members, position),
        "objects": [
            [by_run.index(row.run), position[row.true], position[row.predicted], int(row.objects)]
            for row in objects.head(MOST_CONFUSED).itertuples()
        ],
        "slices": [
            {
                "title": SLICINGS[name].title,
                "names": list(dict.fromkeys(table["slice"])),
                "PQ": [_numbers(table.loc[table["run"] == run, "PQ"]) for run in by_run],
                "truths": (
                    table.loc[table["run"] == by_run[0], "TP"] + table.loc[table["run"] == by_run[0], "FN"]
                ).tolist(),
            }
            for name, table in views.all_slices(members).items()
        ],
        "images": {"ids": pq.index.tolist(), "PQ": [_numbers(pq[run]) for run in by_run]},
    }


def _of_categories(per_category: pd.DataFrame, ids: Sequence[int]) -> Iterable[pd.DataFrame]:
    groups = dict(list(per_category.groupby("category_id", sort=False)))
    return (groups[category_id] for category_id in ids)


def _confusion(members: Sequence[Compared], position: Mapping[str, int]) -> list[list[list[float]]]:
    """For each run [true, predicted, share, pixels], predicted -1 for void: the diagonal, and the largest others."""
    table = views.confusion(members)
    found = []
    for member in members:
        own = table[table["run"] == member.label]
        wrong = own[own["true"] != own["predicted"]].nlargest(MOST_CONFUSED, "share")
        right = own[own["true"] == own["predicted"]]
        found.append(
            [
                [position[row.true], position.get(row.predicted, -1), round(row.share, 4), int(row.pixels)]
                for row in pd.concat([right, wrong]).itertuples()
            ]
        )
    return found


def _numbers(values: Any) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else round(float(value), 4) for value in values]
