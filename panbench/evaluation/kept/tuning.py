"""Choosing settings by PQ without optimism: tuned on one half of the images, scored on the other.

A setting that was chosen on the images it is scored on looks better than it is. `tune` therefore splits the images in
two halves, chooses on each, and scores each half by what the other half chose: every image is scored by a setting that
was chosen without it. The difference to the choice on all images is what choosing flatters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.metrics.pq import Sums
from panbench.metrics.slices import ImageStatistics, pq_by
from panbench.metrics.uncertainty import Comparison, weigh

__all__ = ["HELD_OUT", "Half", "Tuned", "best_by_turns", "halves", "joined", "tune"]

Int = npt.NDArray[np.int64]
Setting = TypeVar("Setting")

HELD_OUT = "chosen on the other half"
"""The name of the honest row in `Tuned.comparison`."""


@dataclass(frozen=True)
class Half:
    """One half of the images: the setting that is best on it, with its PQ there and on the other half, 0–1."""

    chosen: str
    pq_here: float
    pq_there: float
    published_there: float
    """PQ of the published setting on the other half."""


@dataclass(frozen=True)
class Tuned:
    """What a search over settings found.

    table: one row a setting, in the order they were given: setting, PQ, SQ, RQ, PQ_th, PQ_st of all images, 0–1
    best: the setting of highest PQ on all images; published: the one that was there before
    halves: what each half chose; held_out: the row of the table that the halves' choices make together
    flattery: PQ of `best` minus PQ of `held_out`: how much choosing on the same images promises too much
    comparison: paired, of `published` and of the honest choice (named HELD_OUT), on all images
    """

    table: pd.DataFrame
    best: str
    published: str
    halves: tuple[Half, Half]
    held_out: dict[str, float | None]
    flattery: float
    comparison: Comparison


def halves(image_ids: Sequence[int] | Int, seed: int = 0) -> tuple[Int, Int]:
    """Two halves of the images at random, the same for the same images and seed, each ascending.

    Raises BadArgument when there are fewer than two images.
    """
    ids = np.unique(np.asarray(image_ids, np.int64))
    if len(ids) < 2:
        raise BadArgument("Choosing a setting needs at least 2 images: one half to choose on, another to report.")
    shuffled = np.random.default_rng(seed).permutation(ids)
    middle = len(ids) // 2
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:])


def joined(parts: Sequence[ImageStatistics]) -> ImageStatistics:
    """The statistics of several sets of images that have none in common, as one."""
    first = parts[0]
    image_id = np.concatenate([part.image_id for part in parts])
    category_id = np.concatenate([part.category_id for part in parts])
    order = np.lexsort((category_id, image_id))
    sums = Sums(
        *(np.concatenate([getattr(part.sums, name) for part in parts])[order] for name in ("iou_sum", "TP", "FP", "FN"))
    )
    return ImageStatistics(
        image_ids=np.sort(np.concatenate([part.image_ids for part in parts])),
        image_id=image_id[order],
        slice=np.concatenate([part.slice for part in parts])[order],
        category_id=category_id[order],
        sums=sums,
        categories=first.categories,
        slices=first.slices,
        by=first.by,
    )


def tune(
    settings: Mapping[str, ImageStatistics],
    published: str,
    *,
    seed: int = 0,
) -> Tuned:
    """Finds the best setting on all images, and its unbiased gain.

    settings: by name, the statistics of the same images under each; published: the name of the setting to compare with
    Equal PQs go to the setting that comes first. Raises BadArgument for fewer than two images or an unknown name.
    """
    if published not in settings:
        raise BadArgument(f"The published setting {published!r} is not among those that were tried.")
    names = list(settings)
    rows = [_row(settings[name]) for name in names]
    table = pd.DataFrame([{"setting": name, **row} for name, row in zip(names, rows, strict=True)])
    pair = halves(settings[published].image_ids, seed)
    scores = [[_pq(settings[name].only(half)) for name in names] for half in pair]
    chosen = [int(np.argmax(of_half)) for of_half in scores]
    found = tuple(
        Half(
            chosen=names[chosen[here]],
            pq_here=scores[here][chosen[here]],
            pq_there=scores[1 - here][chosen[here]],
            published_there=scores[1 - here][names.index(published)],
        )
        for here in (0, 1)
    )
    honest = joined([settings[names[chosen[1 - here]]].only(pair[here]) for here in (0, 1)])
    best = int(np.argmax(table["PQ"].to_numpy()))
    held_out = _row(honest)
    return Tuned(
        table=table,
        best=names[best],
        published=published,
        halves=(found[0], found[1]),
        held_out=held_out,
        flattery=float(table["PQ"].iloc[best]) - _pq(honest),
        comparison=weigh({published: settings[published], HELD_OUT: honest}, baseline=published, seed=seed),
    )


def best_by_turns(
    start: Mapping[str, Setting],
    choices: Sequence[Setting],
    score: Callable[[Mapping[str, Setting]], float],
    rounds: int,
) -> dict[str, Setting]:
    """The settings of several names that score highest, one name changed at a time, `rounds` times through all names.

    A change is kept when it scores higher by more than rounding; the search ends early when a round changes nothing.
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


def _row(statistics: ImageStatistics) -> dict[str, float | None]:
    row = pq_by(statistics).iloc[0]
    return {name: None if row[name] != row[name] else float(row[name]) for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")}


def _pq(statistics: ImageStatistics) -> float:
    value = _row(statistics)["PQ"]
    return 0.0 if value is None else value
