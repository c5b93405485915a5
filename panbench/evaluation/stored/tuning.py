"""Chooses settings by PQ without selection bias: tuned on one half of the images, scored on the other.

A setting chosen on the images that it is scored on looks better than it is. `tune` splits the images in two halves,
chooses on each, and scores each half with the other half's choice, so that every image is scored with a setting chosen
without it. The difference to the choice on all images is the selection bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.metrics.slices import ImageStatistics, pq_by
from panbench.metrics.uncertainty import Comparison, compare_runs

Int = npt.NDArray[np.int64]
Setting = TypeVar("Setting")

HELD_OUT = "chosen on the other half"
"""The name of the unbiased row in `Tuned.comparison`."""


@dataclass(frozen=True)
class Half:
    """One half of the images: the setting that is best on it, with that setting's PQ on both halves, 0–1."""

    chosen: str
    pq_here: float
    pq_there: float
    published_there: float
    """PQ of the published setting on the other half."""


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`: the best setting, and its PQ on images that it was not chosen on.

    table: one row per setting, in the given order: setting, PQ, SQ, RQ, PQ_th, PQ_st of all images, 0–1
    best: the setting of highest PQ on all images; published: the setting to compare with
    halves: the choices of both halves; held_out: a row as in the table, for both choices together
    flattery: PQ of `best` minus PQ of `held_out`: the selection bias of choosing and scoring on the same images
    comparison: paired comparison of `published` and the unbiased choice (HELD_OUT) on all images
    """

    table: pd.DataFrame
    best: str
    published: str
    halves: tuple[Half, Half]
    held_out: dict[str, float | None]
    flattery: float
    comparison: Comparison


def halves(image_ids: Sequence[int] | Int, seed: int = 0) -> tuple[Int, Int]:
    """Splits the images in two random halves, each ascending, reproducibly by images and seed.

    Raises BadArgument when there are fewer than two images.
    """
    ids = np.unique(np.asarray(image_ids, np.int64))
    if len(ids) < 2:
        raise BadArgument("Choosing a setting needs at least 2 images: one half to choose on, another to report.")
    shuffled = np.random.default_rng(seed).permutation(ids)
    middle = len(ids) // 2
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:])


def merge_statistics(parts: Sequence[ImageStatistics]) -> ImageStatistics:
    """Merges the TP, FP, FN and Σ IoU of several disjoint sets of images."""
    merged = ImageStatistics.joined(parts)
    return merged.take(np.lexsort((merged.category_id, merged.image_id)), np.sort(merged.image_ids))


def tune(
    settings: Mapping[str, ImageStatistics],
    published: str,
    *,
    seed: int = 0,
) -> Tuned:
    """Finds the setting with the highest PQ on all images, and its gain without selection bias.

    settings: by name, the statistics of the same images under each; published: the name of the setting to compare with
    Ties of PQ go to the first setting. Raises BadArgument for fewer than two images or an unknown name.
    """
    if published not in settings:
        raise BadArgument(f"The published setting {published!r} is not among those that were tried.")
    names = list(settings)
    rows = [_pq_values(settings[name]) for name in names]
    table = pd.DataFrame([{"setting": name, **row} for name, row in zip(names, rows, strict=True)])
    pair = halves(settings[published].image_ids, seed)
    scores = [[_pq_or_zero(settings[name].only(half)) for name in names] for half in pair]
    chosen = [int(np.argmax(of_half)) for of_half in scores]
    found = tuple(
        Half(
            chosen=names[chosen[half]],
            pq_here=scores[half][chosen[half]],
            pq_there=scores[1 - half][chosen[half]],
            published_there=scores[1 - half][names.index(published)],
        )
        for half in (0, 1)
    )
    honest = merge_statistics([settings[names[chosen[1 - half]]].only(pair[half]) for half in (0, 1)])
    best = int(np.argmax(table["PQ"].to_numpy()))
    held_out = _pq_values(honest)
    return Tuned(
        table=table,
        best=names[best],
        published=published,
        halves=(found[0], found[1]),
        held_out=held_out,
        flattery=float(table["PQ"].iloc[best]) - _pq_or_zero(honest),
        comparison=compare_runs({published: settings[published], HELD_OUT: honest}, baseline=published, seed=seed),
    )


def best_by_turns(
    start: Mapping[str, Setting],
    choices: Sequence[Setting],
    score: Callable[[Mapping[str, Setting]], float],
    rounds: int,
) -> dict[str, Setting]:
    """Optimises several settings in turn, changing one at a time, in up to `rounds` rounds.

    A change is accepted if it scores higher by more than rounding; the search ends early when a round changes nothing.
    """
    found = dict(start)
    best = score(found)
    for _ in range(rounds):
        before = dict(found)
        for name in found:
            for choice in choices:
                tried = {**found, name: choice}
                value = score(tried)
                if value > best + 1e-9:
                    best, found = value, tried
        if found == before:
            break
    return found


def _pq_values(statistics: ImageStatistics) -> dict[str, float | None]:
    """Returns PQ, SQ, RQ, PQ_th and PQ_st over the images of `statistics`; None for NaN."""
    row = pq_by(statistics).iloc[0]
    return {name: None if row[name] != row[name] else float(row[name]) for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")}


def _pq_or_zero(statistics: ImageStatistics) -> float:
    value = _pq_values(statistics)["PQ"]
    return 0.0 if value is None else value
