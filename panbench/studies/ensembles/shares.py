"""How much each run of an ensemble counts: as given, or chosen by PQ on halves of the images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.evaluation.kept.tuning import halves
from panbench.runs import Run
from panbench.studies.ensembles.vote import Weights

__all__ = ["STEPS", "Shares", "check_weights", "chosen_on_halves", "given_shares", "shares_record"]

STEPS = (0.0, 0.25, 0.5, 1.0)
"""The weights that tuning tries for each run; of each combination the largest is 1."""


@dataclass(frozen=True)
class Shares:
    """The weights that some images were fused with: of each run, for thing and for stuff categories.

    images: how many images; pq_here: PQ on the images that they were chosen on, None where they were given
    """

    things: tuple[float, ...]
    stuff: tuple[float, ...]
    images: int
    pq_here: float | None = None

    def of(self, isthing: Mapping[int, bool]) -> Weights:
        """The weights of each category id."""
        return {category: self.things if thing else self.stuff for category, thing in isthing.items()}


Found = tuple[tuple[Shares, ...], dict[int, Shares]]
"""All weights that are used, and for each image those that it is fused with."""


def given_shares(weights: Sequence[float] | None, runs: int, images: Sequence[int]) -> Found:
    """The same weights for all images; None counts all runs alike."""
    given = tuple(float(weight) for weight in weights or [1.0] * runs)
    shares = Shares(given, given, len(images))
    return (shares,), dict.fromkeys(images, shares)


def chosen_on_halves(images: Sequence[int], seed: int, choose: Callable[[Sequence[int]], Shares]) -> Found:
    """The weights chosen on each half of the images (drawn by `seed`), with which the other half is fused.

    choose: the best weights on some images, with PQ there. So no image is fused by weights that saw its ground truth.
    """
    shares: list[Shares] = []
    share_of: dict[int, Shares] = {}
    one, other = (half.tolist() for half in halves(images, seed))
    for here, there in ((one, other), (other, one)):
        found = choose(here)
        shares.append(Shares(found.things, found.stuff, len(there), found.pq_here))
        share_of |= dict.fromkeys(there, shares[-1])
    return tuple(shares), share_of


def shares_record(shares: Sequence[Shares]) -> dict[str, str]:
    """The weights as run.json's `arguments` hold them: of the first half, then of the second."""
    record = {}
    for kind in ("things", "stuff"):
        for place, one in enumerate(shares, 1):
            record[f"weights_{place}_{kind}"] = " ".join(map(str, getattr(one, kind)))
    return record


def check_weights(runs: Sequence[Run], weights: Sequence[float] | None, tuned: bool) -> None:
    """Raises BadArgument for fewer than two runs, and for weights that do not fit them."""
    if len(runs) < 2:
        raise BadArgument("An ensemble needs at least two runs.")
    if weights is not None and tuned:
        raise BadArgument("Weights are either given or tuned. Leave out one of --shares and --tune.")
    if weights is not None and (
        len(weights) != len(runs) or not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0
    ):
        raise BadArgument(
            f"An ensemble of {len(runs)} runs needs {len(runs)} weights, none below 0 and one above, not "
            f"{listed(weights)}."
        )
