"""Panoptic maps of several models voted into one: segments matched by IoU, pixels painted by votes. No torch here.

For any framework: all it takes is id maps with labelled segments. The maps of an image are looked at once and become a
`JointTable`: one row for each combination of segments that lie over each other. Matching, voting and, with the ground
truth as one more map, scoring are queries on its few hundred rows, so weights are tuned without touching pixels again.

Matching: stuff segments of a category are one cluster; thing segments of a category join in falling order of IoU, above
0.5, at most one of each model. Voting: at each pixel a model votes for the cluster of its segment, or for void, with
its weight for the category times the segment's score. Out are clusters that less than half of the weight backs, and
clusters that win less than half of the pixels that their backers claim: there the runner-up paints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.panoptic.clusters import join_by_overlap
from panbench.panoptic.overlap import OverlapTable, Pairs, segment_columns, tabulate
from panbench.panoptic.types import VOID, IdMap, PanopticPrediction, Segment

__all__ = ["JointTable", "Weights", "fuse_maps", "join", "overlaps_of", "vote"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

QUORUM = 0.5
"""The share of all weight that must back a cluster."""
KEPT = 0.5
"""The share of the pixels that its backers claim which a cluster must win."""

Weights = Mapping[int, Sequence[float]]
"""For each category id one weight a model, none negative."""


@dataclass(frozen=True)
class JointTable:
    """One image: how the segments of M models, joined to C clusters, and the ground truth lie over each other.

    category: (C,) category id of each cluster
    score: (C, M) the score of the segment that a model has in a cluster, 1 where it gives none; 0 without a segment
    combos: (N, M) cluster of each model, -1 for void; pixels: (N,) on how many pixels
    gt_id: (N,) the ground truth's id there, 0 where it is void or was not given
    """

    image_id: int
    category: Int
    score: Float
    combos: Int
    pixels: Int
    gt_id: Int


def join(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], gt_ids: IdMap | None = None
) -> JointTable:
    """The joint table of one image.

    predictions: one of each model, maps of one size; isthing: of each category id
    gt_ids: the ground truth's id map, to score votes by; None where there is none
    Raises ValueError when the maps differ in size.
    """
    return _join(predictions, isthing, gt_ids)[0]


def vote(table: JointTable, weights: Weights) -> tuple[Int, Float]:
    """The cluster that wins each row of the table, -1 for void, and the score of each cluster, 0–1.

    The score is the mean of the models' scores by their weights; a model without the segment counts as 0.
    """
    n, models = table.score.shape
    of_cluster = np.array([weights[int(category)] for category in table.category], np.float64).reshape(n, models)
    strength = table.score * of_cluster
    total = of_cluster.sum(axis=1)
    backing = np.where(table.score > 0, of_cluster, 0.0).sum(axis=1)
    ballots = np.zeros((len(table.combos), n + 1))
    claimed = np.zeros(n)
    # A model that sees nothing at a pixel votes for void, with its mean weight.
    for_void = np.mean([list(one) for one in weights.values()], axis=0)
    every = np.arange(len(table.combos))
    for model in range(models):
        chosen = table.combos[:, model]
        seen = chosen >= 0
        ballots[every[seen], chosen[seen]] += strength[chosen[seen], model]
        ballots[every[~seen], n] += for_void[model]
        claimed += of_cluster[:, model] * np.bincount(chosen[seen], weights=table.pixels[seen], minlength=n)
    claimed /= np.maximum(backing, 1e-12)
    ballots[:, :n][:, (total <= 0) | (backing < QUORUM * total)] = -1.0
    won = np.bincount(ballots.argmax(axis=1), weights=table.pixels, minlength=n + 1)[:n]
    ballots[:, :n][:, won < KEPT * claimed] = -1.0
    winner = ballots.argmax(axis=1)
    score = np.clip(strength.sum(axis=1) / np.maximum(total, 1e-12), 0.0, 1.0)
    return np.where(winner == n, -1, winner), score


def fuse_maps(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], weights: Weights
) -> PanopticPrediction:
    """The map that the models' maps vote for. Arguments as `join` and `vote`."""
    table, row = _join(predictions, isthing, None)
    winner, score = vote(table, weights)
    segments = _segments(table, winner, score)
    number = np.zeros(len(table.category) + 1, np.int32)
    number[[segment.id for segment in segments]] = np.arange(1, len(segments) + 1)
    segments = tuple(
        Segment(int(number[segment.id]), segment.category_id, segment.area, score=segment.score) for segment in segments
    )
    return PanopticPrediction(table.image_id, number[winner + 1][row], segments)


def overlaps_of(table: JointTable, weights: Weights, gt_segments: Sequence[Segment]) -> OverlapTable:
    """The overlap table of a vote and of the ground truth that the joint table was made with: no pixel is touched."""
    winner, score = vote(table, weights)
    keys, row = np.unique(np.stack([table.gt_id, winner + 1], axis=1), axis=0, return_inverse=True)
    pixels = np.bincount(row.ravel(), weights=table.pixels).astype(np.int64)
    images = np.full(len(keys), table.image_id, np.int64)
    return tabulate(
        Pairs(images, keys[:, 0].astype(np.int32), keys[:, 1].astype(np.int32), pixels),
        segment_columns([(table.image_id, gt_segments)], is_gt=True),
        segment_columns([(table.image_id, _segments(table, winner, score))], is_gt=False),
    )


def _segments(table: JointTable, winner: Int, score: Float) -> tuple[Segment, ...]:
    """The segments of a vote; an id is the cluster's number, from 1."""
    n = len(table.category)
    area = np.bincount(winner + 1, weights=table.pixels, minlength=n + 1)[1:].astype(np.int64)
    return tuple(
        Segment(cluster + 1, int(table.category[cluster]), int(area[cluster]), score=float(score[cluster]))
        for cluster in np.flatnonzero(area).tolist()
    )


def _join(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], gt_ids: IdMap | None
) -> tuple[JointTable, Int]:
    """The joint table, and the (H, W) row of each pixel in it."""
    maps = [prediction.ids for prediction in predictions]
    layers = maps if gt_ids is None else [*maps, gt_ids]
    if len({ids.shape for ids in layers}) != 1:
        raise ValueError("the id maps of an ensemble must have one size")
    at, row, pixels = _combinations(layers)
    node_at = np.full((len(at), len(maps)), -1)
    owner: list[int] = []
    category: list[int] = []
    score: list[float] = []
    for model, prediction in enumerate(predictions):
        node_of = {segment.id: len(owner) + number for number, segment in enumerate(prediction.segments)}
        node_at[:, model] = [node_of.get(one, -1) for one in at[:, model].tolist()]
        owner += [model] * len(prediction.segments)
        category += [segment.category_id for segment in prediction.segments]
        score += [1.0 if segment.score is None else segment.score for segment in prediction.segments]
    cluster = _clusters(node_at, pixels, owner, category, isthing)
    n = int(cluster.max(initial=-1)) + 1
    of_cluster, scores = np.zeros(n, np.int64), np.zeros((n, len(maps)))
    for node, place in enumerate(cluster.tolist()):
        of_cluster[place] = category[node]
        scores[place, owner[node]] = max(scores[place, owner[node]], score[node])
    gt_id = at[:, -1] if gt_ids is not None else np.full(len(at), VOID, np.int64)
    return JointTable(predictions[0].image_id, of_cluster, scores, np.append(cluster, -1)[node_at], pixels, gt_id), row


def _combinations(layers: Sequence[IdMap]) -> tuple[Int, Int, Int]:
    """The distinct columns of ids through a stack of maps (N, L), the (H, W) row of each pixel, and pixels of each row.

    Layer by layer the rows so far and the next map's ids become new rows, so that keys stay small whatever the ids.
    """
    shape = layers[0].shape
    row = np.zeros(layers[0].size, np.int64)
    at = np.zeros((1, 0), np.int64)
    for ids in layers:
        names, number = np.unique(ids.ravel(), return_inverse=True)
        keys, row = np.unique(row * len(names) + number, return_inverse=True)
        at = np.concatenate([at[keys // len(names)], names[keys % len(names)][:, None].astype(np.int64)], axis=1)
    return at, row.reshape(shape), np.bincount(row, minlength=len(at)).astype(np.int64)


def _clusters(
    node_at: Int, pixels: Int, owner: Sequence[int], category: Sequence[int], isthing: Mapping[int, bool]
) -> Int:
    """The cluster of each segment of all models: (nodes,), numbered from 0."""
    nodes, models = len(owner), node_at.shape[1]
    area = np.zeros(nodes)
    pairs: list[tuple[float, int, int]] = []
    for model in range(models):
        seen = node_at[:, model] >= 0
        area += np.bincount(node_at[seen, model], weights=pixels[seen], minlength=nodes)
    for first in range(models):
        for second in range(first + 1, models):
            both = (node_at[:, first] >= 0) & (node_at[:, second] >= 0)
            keys, row = np.unique(node_at[both, first] * nodes + node_at[both, second], return_inverse=True)
            shared = np.bincount(row, weights=pixels[both], minlength=len(keys))
            for key, common in zip(keys.tolist(), shared.tolist(), strict=True):
                a, b = divmod(key, nodes)
                iou = common / (area[a] + area[b] - common)
                if category[a] == category[b] and isthing[category[a]] and iou > 0.5:
                    pairs.append((iou, a, b))
    pairs.sort(key=lambda pair: pair[1:])
    iou, one, other = (np.array([pair[place] for pair in pairs]) for place in range(3))
    cluster = join_by_overlap(owner, one.astype(np.int64), other.astype(np.int64), iou)
    stuff: dict[int, int] = {}
    for node in range(nodes):
        if not isthing[category[node]]:
            cluster[node] = stuff.setdefault(category[node], node)
    return np.unique(cluster, return_inverse=True)[1].astype(np.int64)
