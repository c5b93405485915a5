"""The weights of an ensemble's runs: given by the user, or chosen by PQ on halves of the images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.evaluation.stored.tuning import halves
from panbench.runs import ModelRecord, Run
from panbench.studies.ensembles.vote import Weights

STEPS = (0.0, 0.25, 0.5, 1.0)
"""The weights that tuning tries for each run; the largest of each combination is 1."""


@dataclass(frozen=True)
class Shares:
    """The weights with which some images are fused: one per run, for thing and for stuff categories.

    images: the number of these images; pq_here: PQ on the images that chose the weights, None for given weights
    """

    things: tuple[float, ...]
    stuff: tuple[float, ...]
    images: int
    pq_here: float | None = None

    def of(self, isthing: Mapping[int, bool]) -> Weights:
        """Returns the weights of all runs for each category id."""
        return {category: self.things if thing else self.stuff for category, thing in isthing.items()}


ChosenShares = tuple[tuple[Shares, ...], dict[int, Shares]]
"""All weights that are used, and the weights for each image."""


def given_shares(weights: Sequence[float] | None, runs: int, images: Sequence[int]) -> ChosenShares:
    """Returns the user's weights for every image; None weights all runs equally."""
    given = tuple(float(weight) for weight in weights or [1.0] * runs)
    shares = Shares(given, given, len(images))
    return (shares,), dict.fromkeys(images, shares)


def chosen_on_halves(images: Sequence[int], seed: int, choose: Callable[[Sequence[int]], Shares]) -> ChosenShares:
    """Chooses weights on each half of the images (drawn by `seed`) for the other half.

    No image is fused with weights that saw its ground truth. choose: finds the best weights on some images
    """
    shares: list[Shares] = []
    share_of: dict[int, Shares] = {}
    one, other = (half.tolist() for half in halves(images, seed))
    for chosen_on, fused in ((one, other), (other, one)):
        found = choose(chosen_on)
        shares.append(Shares(found.things, found.stuff, len(fused), found.pq_here))
        share_of |= dict.fromkeys(fused, shares[-1])
    return tuple(shares), share_of


def shares_record(shares: Sequence[Shares]) -> dict[str, str]:
    """Returns the runs' weights for run.json: one set for all images or, if tuned, one for each half of the images."""
    record = {}
    for kind in ("things", "stuff"):
        for index, one in enumerate(shares, 1):
            record[f"weights_{index}_{kind}"] = " ".join(map(str, getattr(one, kind)))
    return record


def ensemble_record(runs: Sequence[Run], title: str) -> ModelRecord:
    """Returns the record of an ensemble as a model; its parameters are the sum of all runs', if all are known."""
    params = [run.info.model.params for run in runs if run.info.model and run.info.model.params]
    total = sum(params) if len(params) == len(runs) else None
    return ModelRecord(name="ensemble", title=title, family="ensemble", params=total)


def check_run_weights(runs: Sequence[Run], weights: Sequence[float] | None, tuned: bool) -> None:
    """Raises BadArgument for fewer than two runs, and unless there is one weight per run, none negative, not all 0."""
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
