"""An ensemble by masks: averages the stored network outputs of several runs and fuses them by one rule.

    run, shares = average_runs([load_run("results/a"), load_run("results/b")], "results/ab")

The runs need candidates of one kind (`eval --keep-candidates`); by_votes.py takes finished maps of any kind.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.stored.rule_statistics import rule_statistics
from panbench.evaluation.stored.stored_model import StoredModel, as_evaluated, dataset_of
from panbench.evaluation.stored.tuning import best_by_turns
from panbench.metrics.slices import pq_by
from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.model import LoadedImage, Wrapped
from panbench.models.rules import Rule
from panbench.runs import ModelRecord, Run, candidate_files, check_room
from panbench.runs.comparable import why_incomparable
from panbench.studies.ensembles.merging import merge_outputs
from panbench.studies.ensembles.shares import (
    STEPS,
    ChosenShares,
    Shares,
    check_run_weights,
    chosen_on_halves,
    ensemble_record,
    given_shares,
    shares_record,
)

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
    """Averages the stored candidates of runs, fuses them and writes the run `out`; returns it and the weights used.

    weights, tuned, seed, title: as in by_votes.ensemble_runs
    rule: by default that of the first run
    options: only overwrite, resume, save_predictions, keep_candidates, workers and command are used
    Raises BadArgument and BadRun for runs that cannot be averaged (`why_not_averaged`) and weights that do not fit.
    """
    check_run_weights(runs, weights, tuned)
    if tuned and runs[0].info.category_map is not None:
        raise BadArgument("--tune by masks does not go through a category map. Give --shares, or --way votes.")
    options = options or EvaluateOptions()
    if not options.resume:
        check_room(out, options.overwrite)
    ensemble = StoredEnsemble(runs, title)
    if rule is not None:
        ensemble.check(rule)
        ensemble.rule = rule
    dataset = dataset_of(runs[0], ensemble.image_ids)
    options = as_evaluated(runs[0], options)
    if tuned:
        ensemble.shares, ensemble.share_of = _tune_masks(ensemble, dataset, options, seed, reporter)
    else:
        ensemble.shares, ensemble.share_of = given_shares(weights, len(runs), ensemble.image_ids)
    return evaluate(ensemble, dataset, out, options, reporter), ensemble.shares


def why_not_averaged(runs: Sequence[Run]) -> str | None:
    """Explains why the runs' masks cannot be averaged (not stored, or of different kinds); None if they can."""
    lacking = [run.name for run in runs if run.path is None or not candidate_files(run.path)]
    if lacking:
        return f"{lacking[0]} kept no candidates."
    kinds = {run.name: StoredModel(run).rule.takes for run in runs}
    if len(set(kinds.values())) > 1:
        boxes = next(name for name, kind in kinds.items() if kind is Instances)
        queries = next(name for name, kind in kinds.items() if kind is Candidates)
        return f"{boxes} gives boxes and {queries} masks of queries, which cannot be averaged."
    return None


class StoredEnsemble(Wrapped):
    """Averages the outputs of several networks: masks of matching queries, or boxes and semantics.

    Labels and rule are those of the first run; the labels of the others are converted to them by name.
    """

    def __init__(self, runs: Sequence[Run], title: str | None = None) -> None:
        """Opens the runs' stored candidates; all runs have equal weight until `share_of` gives other weights.

        Raises BadRun if runs stored no candidates, or differ in data, categories or images; BadArgument if they stored
        candidates of different kinds.
        """
        self.members = [StoredModel(run) for run in runs]
        super().__init__(self.members[0])
        self.image_ids = self.members[0].stored.image_ids
        self.shares: tuple[Shares, ...] = ()
        self.share_of: Mapping[int, Shares] = {}
        title = title or f"Ensemble of {len(runs)} runs (masks)"
        self.record = ensemble_record(runs, title)
        self.spec = replace(self.spec, name="ensemble", title=title, weights=None, published=None)
        self._label_of: list[npt.NDArray[np.int64]] = []
        first = runs[0]
        for run, member in zip(runs, self.members, strict=True):
            if reason := why_incomparable([first, run], "ground truth"):
                raise BadRun(f"{reason}.")
            things = dict(zip(member.class_names, member.isthing, strict=True))
            if things != dict(zip(self.class_names, self.isthing, strict=True)):
                raise BadRun(f"{first.name} and {run.name} have different categories.")
            if reason := why_incomparable([first, run], "exif", "category map"):
                raise BadRun(f"{reason}.")
            if member.stored.image_ids != self.image_ids:
                raise BadRun(
                    f"{first.name} and {run.name} stored candidates of different images "
                    f"({len(self.image_ids)} and {len(member.stored.image_ids)}). Evaluate them with the same "
                    "--limit."
                )
            self._label_of.append(np.array([self.class_names.index(name) for name in member.class_names], np.int64))
        if reason := why_not_averaged(runs):
            raise BadArgument(f"{reason} `panbench ensemble --way votes` takes finished maps of any models.")

    def check(self, rule: Rule) -> None:
        """Raises BadArgument for a rule that cannot use the candidates that the first run stored."""
        self.members[0].check(rule)

    def describe(self) -> ModelRecord:
        """Returns the ensemble's record as a model, for run.json."""
        return self.record

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings for run.json: the runs whose stored network outputs are averaged, and their weights."""
        return {
            "candidates": "; ".join(str(member.stored.folder.absolute()) for member in self.members),
            **shares_record(self.shares),
        }

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """Returns the averaged outputs of the networks for each image."""
        return [self.read(image.scene.image.id, self.share_of.get(image.scene.image.id)) for image in batch]

    def read(self, image_id: int, shares: Shares | None) -> Candidates | Instances:
        """Returns an image's network outputs, averaged over the runs. Raises BadRun if a stored output is damaged."""
        outputs = [
            _with_translated_labels(member.stored.read(image_id, self.device), index, self.isthing)
            for member, index in zip(self.members, self._label_of, strict=True)
        ]
        weights = (None, None) if shares is None else (shares.things, shares.stuff)
        return cast("Candidates | Instances", merge_outputs(outputs, *weights))


class _WeightedEnsemble:
    """An ensemble that averages its models with one fixed set of weights; tuning makes one for each set it tries."""

    def __init__(self, ensemble: StoredEnsemble, shares: Shares) -> None:
        """Takes the ensemble and the weights of its models, separately for things and stuff."""
        self.ensemble = ensemble
        self.shares = shares

    def read(self, image_id: int) -> Candidates | Instances:
        """Returns the averaged output for an image, by these weights."""
        return self.ensemble.read(image_id, self.shares)


def _tune_masks(
    ensemble: StoredEnsemble, dataset: Dataset, options: EvaluateOptions, seed: int, reporter: Reporter
) -> ChosenShares:
    """Tunes the weights for averaging the models' masks on each half of the images, for use on the other half."""
    ids = ensemble.category_ids(dataset.categories)
    models = len(ensemble.members)
    tried = itertools.count(1)

    def best_shares_on(images_of_half: Sequence[int]) -> Shares:
        """Finds the weights with the highest PQ on some images, changing one weight at a time."""
        chosen_on = set(images_of_half[:: -(-len(images_of_half) // MOST_TUNED)])
        scenes = [scene for scene in dataset.scenes if scene.image.id in chosen_on]
        known: dict[Shares, float] = {}

        def pq_by_weights(weights: Mapping[str, float]) -> float:
            """Returns the ensemble's PQ with these weights of its models, on the images used for tuning."""
            values = tuple(weights.values())
            if not any(values[:models]) or not any(values[models:]):
                return -1.0
            shares = Shares(_weights_scaled_to_1(values[:models]), _weights_scaled_to_1(values[models:]), 0)
            if shares not in known:
                (found,) = rule_statistics(
                    _WeightedEnsemble(ensemble, shares),
                    scenes,
                    dataset.categories,
                    ids,
                    [ensemble.rule],
                    workers=options.workers,
                ).values()
                value = pq_by(found).iloc[0]["PQ"]
                known[shares] = 0.0 if value != value else float(value)
                reporter.progress("Tuning weights", next(tried), None, "settings")
            return known[shares]

        names = [f"{kind} {member}" for kind in ("things", "stuff") for member in range(models)]
        found = best_by_turns(dict.fromkeys(names, 1.0), STEPS, pq_by_weights, rounds=2)
        values = tuple(found.values())
        return Shares(
            _weights_scaled_to_1(values[:models]),
            _weights_scaled_to_1(values[models:]),
            len(images_of_half),
            pq_by_weights(found),
        )

    return chosen_on_halves(ensemble.image_ids, seed, best_shares_on)


def _weights_scaled_to_1(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Scales weights so that the largest is 1."""
    return tuple(weight / max(weights) for weight in weights)


def _with_translated_labels(
    output: Candidates | Instances, index: npt.NDArray[np.int64], isthing: tuple[bool, ...]
) -> Candidates | Instances:
    """Returns an output with its labels translated to those of another model.

    index: (labels,) the other model's label of each of this model's labels
    """
    if isinstance(output, Candidates):
        return replace(output, labels=index[output.labels], isthing=isthing)
    return replace(
        output,
        labels=tuple(int(index[label]) for label in output.labels),
        semantic_labels=tuple(label if label == NO_LABEL else int(index[label]) for label in output.semantic_labels),
    )
