"""An ensemble by masks: what the networks of several runs said of each image, averaged and fused by one rule.

    run, shares = average_runs([load_run("results/a"), load_run("results/b")], "results/ab")

The runs need candidates of one kind (`eval --keep-candidates`); by_votes.py takes finished maps of any kind.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate, fit_categories
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.rule_statistics import rule_statistics
from panbench.evaluation.stored_runs import StoredModel, as_evaluated, dataset_of
from panbench.metrics.slices import pq_by
from panbench.metrics.tuning import best_by_turns, halves
from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.model import LoadedImage
from panbench.models.rules import Rule
from panbench.runs import ModelRecord, Run, check_room
from panbench.runs.alike import unlike
from panbench.studies.ensembles.by_votes import STEPS, Shares, check_weights
from panbench.studies.ensembles.merging import merge_outputs

__all__ = ["MOST_TUNED", "StoredEnsemble", "average_runs", "why_not_averaged"]

MOST_TUNED = 500
"""Weights are chosen on this many images of each half at most: enough to tell them apart, and bounded in time."""


def average_runs(
    runs: Sequence[Run],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    tuned: bool = False,
    seed: int = 0,
    title: str | None = None,
    rule: Rule | None = None,
    options: EvaluateOptions | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Run, tuple[Shares, ...]]:
    """Averages the stored candidates of runs, fuses them and writes the run `out`. Also the weights that were used.

    weights, tuned, seed, title: as of scoring.voting.ensemble_runs
    rule: that of the first run by default
    options: overwrite, resume, save_predictions, keep_candidates, workers and command count
    Raises BadArgument and BadRun for runs that cannot be averaged (`why_not_averaged`) and weights that do not fit.
    """
    check_weights(runs, weights, tuned)
    options = options or EvaluateOptions()
    if not options.resume:
        check_room(out, options.overwrite)
    ensemble = StoredEnsemble(runs, title)
    if rule is not None:
        ensemble.check(rule)
        ensemble.rule = rule
    dataset = dataset_of(runs[0], ensemble.stored.image_ids)
    options = as_evaluated(runs[0], ensemble, dataset, options)
    images = ensemble.stored.image_ids
    if tuned:
        ensemble.share_of, ensemble.shares = _tuned(ensemble, dataset, options, seed, reporter)
    else:
        given = tuple(float(weight) for weight in weights or [1.0] * len(runs))
        ensemble.shares = (Shares(given, given, len(images)),)
        ensemble.share_of = dict.fromkeys(images, ensemble.shares[0])
    return evaluate(ensemble, dataset, out, options, reporter), ensemble.shares


def why_not_averaged(runs: Sequence[Run]) -> str | None:
    """In a sentence, why masks of runs cannot be averaged: not kept, or of different kinds; None when they can."""
    lacking = [run.name for run in runs if run.path is None or not any((run.path / "candidates").glob("*.arrow"))]
    if lacking:
        return f"{lacking[0]} kept no candidates."
    kinds = {run.name: StoredModel(run).rule.takes for run in runs}
    if len(set(kinds.values())) > 1:
        boxes = next(name for name, kind in kinds.items() if kind is Instances)
        queries = next(name for name, kind in kinds.items() if kind is Candidates)
        return f"{boxes} gives boxes and {queries} masks of queries, which cannot be averaged."
    return None


class StoredEnsemble(StoredModel):
    """What the networks of several runs said, averaged: masks of matching queries, or boxes and semantics.

    Labels are those of the first run; the others' are brought to them by name.
    """

    def __init__(self, runs: Sequence[Run], title: str | None = None) -> None:
        """Until `share_of` says how much each counts in an image, all count alike.

        Raises BadRun when runs kept no candidates, or differ in data, categories or images; BadArgument when they kept
        answers of different kinds.
        """
        super().__init__(runs[0])
        self.members = [self, *(StoredModel(run) for run in runs[1:])]
        self.shares: tuple[Shares, ...] = ()
        self.share_of: Mapping[int, Shares] = {}
        params = [run.info.model.params for run in runs if run.info.model and run.info.model.params]
        title = title or f"Ensemble of {len(runs)} runs (masks)"
        self.record = ModelRecord(
            name="ensemble",
            title=title,
            family="ensemble",
            params=sum(params) if len(params) == len(runs) else None,
        )
        self.spec = replace(self.spec, name="ensemble", title=title, weights=None, published=None)
        self._places: list[npt.NDArray[np.int64]] = []
        first = runs[0]
        for run, member in zip(runs, self.members, strict=True):
            if reason := unlike([first, run], "ground truth"):
                raise BadRun(f"{reason}.")
            things = dict(zip(member.class_names, member.isthing, strict=True))
            if things != dict(zip(self.class_names, self.isthing, strict=True)):
                raise BadRun(f"{first.name} and {run.name} have different categories.")
            if reason := unlike([first, run], "exif", "category map"):
                raise BadRun(f"{reason}.")
            if member.stored.image_ids != self.stored.image_ids:
                raise BadRun(
                    f"{first.name} and {run.name} kept candidates of different images "
                    f"({len(self.stored.image_ids)} and {len(member.stored.image_ids)}). Evaluate them with the same "
                    "--limit or --image-ids."
                )
            self._places.append(np.array([self.class_names.index(name) for name in member.class_names], np.int64))
        if reason := why_not_averaged(runs):
            raise BadArgument(f"{reason} `panbench ensemble --way votes` takes finished maps of any models.")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Whose candidates were averaged, and with which weights."""
        return {
            "candidates": "; ".join(str(member.stored.folder.absolute()) for member in self.members),
            **{f"weights_{place}_things": " ".join(map(str, one.things)) for place, one in enumerate(self.shares, 1)},
            **{f"weights_{place}_stuff": " ".join(map(str, one.stuff)) for place, one in enumerate(self.shares, 1)},
        }

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """The average of what the networks said of each image."""
        return [self.read(image.scene.image.id, self.share_of.get(image.scene.image.id)) for image in batch]

    def read(self, image_id: int, shares: Shares | None) -> Candidates | Instances:
        """The average of an image. Raises BadRun for damaged candidates."""
        outputs = [
            _relabelled(member.stored.read(image_id, self.device), place, self.isthing)
            for member, place in zip(self.members, self._places, strict=True)
        ]
        weights = (None, None) if shares is None else (shares.things, shares.stuff)
        return cast("Candidates | Instances", merge_outputs(outputs, *weights))


class _Weighted:
    """An ensemble under weights that are tried."""

    def __init__(self, ensemble: StoredEnsemble, shares: Shares) -> None:
        self.ensemble = ensemble
        self.shares = shares

    def read(self, image_id: int) -> Candidates | Instances:
        """The average of an image."""
        return self.ensemble.read(image_id, self.shares)


def _tuned(
    ensemble: StoredEnsemble, dataset: Dataset, options: EvaluateOptions, seed: int, reporter: Reporter
) -> tuple[dict[int, Shares], tuple[Shares, ...]]:
    """For each image the weights of the half that it is not in, and the weights chosen on each half."""
    if options.category_map is not None:
        raise BadArgument("--tune by masks does not go through a category map. Give --shares, or --way votes.")
    ids, _ = fit_categories(ensemble, dataset, None)
    models = len(ensemble.members)
    tried = 0
    shares: list[Shares] = []
    share_of: dict[int, Shares] = {}
    pair = [half.tolist() for half in halves(ensemble.stored.image_ids, seed)]
    for here, there in (pair, pair[::-1]):
        chosen_on = set(here[:: -(-len(here) // MOST_TUNED)])
        scenes = [scene for scene in dataset.scenes if scene.image.id in chosen_on]
        known: dict[tuple[float, ...], float] = {}

        def pq(weights: Mapping[str, float], scenes: Sequence[Any] = scenes, known: dict[Any, float] = known) -> float:
            nonlocal tried
            values = tuple(weights.values())
            things, stuff = values[:models], values[models:]
            if not any(things) or not any(stuff):
                return -1.0
            things, stuff = _scaled(things), _scaled(stuff)
            key = (*things, *stuff)
            if key not in known:
                weighted = _Weighted(ensemble, Shares(things, stuff, 0))
                (found,) = rule_statistics(
                    weighted, scenes, dataset.categories, ids, [ensemble.rule], workers=options.workers
                ).values()
                value = pq_by(found).iloc[0]["PQ"]
                known[key] = 0.0 if value != value else float(value)
                tried += 1
                reporter.progress("Tuning weights", tried, None, "settings")
            return known[key]

        names = [f"{kind} {member}" for kind in ("things", "stuff") for member in range(models)]
        found = best_by_turns(dict.fromkeys(names, 1.0), STEPS, pq, rounds=2)
        values = tuple(found.values())
        shares.append(Shares(_scaled(values[:models]), _scaled(values[models:]), len(there), pq(found)))
        share_of |= dict.fromkeys(there, shares[-1])
    return share_of, tuple(shares)


def _scaled(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Weights of which the largest is 1."""
    return tuple(weight / max(weights) for weight in weights)


def _relabelled(
    output: Candidates | Instances, place: npt.NDArray[np.int64], isthing: tuple[bool, ...]
) -> Candidates | Instances:
    """The same answer in the labels of another model; place: of each of its labels."""
    if isinstance(output, Candidates):
        return replace(output, labels=place[output.labels], isthing=isthing)
    return replace(
        output,
        labels=tuple(int(place[label]) for label in output.labels),
        semantic_labels=tuple(label if label == NO_LABEL else int(place[label]) for label in output.semantic_labels),
    )
