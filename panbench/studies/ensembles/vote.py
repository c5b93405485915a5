"""Votes the panoptic maps of several models into one: matches segments by IoU, labels pixels by vote. No torch here.

It takes id maps with labelled segments of any framework. The maps of an image are read once into a `JointTable`: one
row for each combination of segments that overlap. Matching, voting and, with the ground
truth as one more map, scoring are queries on its few hundred rows, so weights are tuned without touching pixels again.

Matching: stuff segments of a category are one cluster; thing segments of a category join in falling order of IoU, above
0.5, at most one of each model. Voting: at each pixel a model votes for the cluster of its segment, or for void, with
its weight for the category times the segment's score. Dropped are clusters that models with less than half of the total
weight support, and clusters that win less than half of the pixels of their segments: there the runner-up wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.panoptic.overlap import OverlapTable, Pairs, segment_columns, tabulate
from panbench.panoptic.types import VOID, IdMap, PanopticPrediction, Segment

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

QUORUM = 0.5
"""The share of the total weight that must support a cluster."""
LEAST_WON = 0.5
"""The share of its segments' mean area that a cluster must win."""

Weights = Mapping[int, Sequence[float]]
"""The weights of the models, none negative, by category id."""


@dataclass(frozen=True)
class JointTable:
    """The pixels of an image, counted for each combination of segments in M models' maps and the ground truth.

    Matching segments of different models are joined to C clusters.
    category: (C,) category id of each cluster
    score: (C, M) the score of each model's segment in a cluster, 1 for one without a score; 0 without a segment
    combos: (N, M) the cluster of each model, -1 for void; pixels: (N,) the number of pixels with this combination
    gt_id: (N,) the ground-truth id of these pixels, 0 for void or without ground truth
    """

    image_id: int
    category: Int
    score: Float
    combos: Int
    pixels: Int
    gt_id: Int


def count_joint_pixels(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], gt_ids: IdMap | None = None
) -> JointTable:
    """Matches the segments of an image's maps by IoU, and counts the pixels of each combination of segments.

    predictions: one per model, maps of one size; isthing: by category id
    gt_ids: the ground truth's id map, to score votes with; None if there is none
    Raises ValueError if the maps differ in size.
    """
    return _joint_table_and_rows(predictions, isthing, gt_ids)[0]


def vote(table: JointTable, weights: Weights) -> tuple[Int, Float]:
    """Decides by weighted vote which segment wins where those of the models overlap, and scores each segment.

    Returns (N,) the cluster of matching segments that wins each of N combinations, -1 for void, and (C,) the score of
    each cluster, 0–1.
    The score is the weighted mean of the models' scores; a model without the segment counts as 0.
    """
    n, models = table.score.shape
    weight_of = np.array([weights[int(category)] for category in table.category], np.float64).reshape(n, models)
    strength = table.score * weight_of
    total = weight_of.sum(axis=1)
    backing = np.where(table.score > 0, weight_of, 0.0).sum(axis=1)
    ballots = np.zeros((len(table.combos), n + 1))
    claimed = np.zeros(n)
    # A model without a segment at a pixel votes for void, with its mean weight over categories.
    for_void = np.mean([list(one) for one in weights.values()], axis=0)
    every = np.arange(len(table.combos))
    for model in range(models):
        chosen = table.combos[:, model]
        seen = chosen >= 0
        ballots[every[seen], chosen[seen]] += strength[chosen[seen], model]
        ballots[every[~seen], n] += for_void[model]
        claimed += weight_of[:, model] * np.bincount(chosen[seen], weights=table.pixels[seen], minlength=n)
    claimed /= np.maximum(backing, 1e-12)
    ballots[:, :n][:, (total <= 0) | (backing < QUORUM * total)] = -1.0
    won = np.bincount(ballots.argmax(axis=1), weights=table.pixels, minlength=n + 1)[:n]
    ballots[:, :n][:, won < LEAST_WON * claimed] = -1.0
    winner = ballots.argmax(axis=1)
    score = np.clip(strength.sum(axis=1) / np.maximum(total, 1e-12), 0.0, 1.0)
    return np.where(winner == n, -1, winner), score


def fuse_maps(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], weights: Weights
) -> PanopticPrediction:
    """Votes several models' maps of an image into one. Arguments as for `count_joint_pixels` and `vote`."""
    table, row = _joint_table_and_rows(predictions, isthing, None)
    winner, score = vote(table, weights)
    segments = _voted_segments(table, winner, score)
    number = np.zeros(len(table.category) + 1, np.int32)
    number[[segment.id for segment in segments]] = np.arange(1, len(segments) + 1)
    segments = tuple(
        Segment(int(number[segment.id]), segment.category_id, segment.area, score=segment.score) for segment in segments
    )
    return PanopticPrediction(table.image_id, number[winner + 1][row], segments)


def voted_overlap_table(table: JointTable, weights: Weights, gt_segments: Sequence[Segment]) -> OverlapTable:
    """Returns the overlap table of the voted map and the ground truth, without a pass over pixels."""
    winner, score = vote(table, weights)
    keys, row = np.unique(np.stack([table.gt_id, winner + 1], axis=1), axis=0, return_inverse=True)
    pixels = np.bincount(row.ravel(), weights=table.pixels).astype(np.int64)
    images = np.full(len(keys), table.image_id, np.int64)
    return tabulate(
        Pairs(images, keys[:, 0].astype(np.int32), keys[:, 1].astype(np.int32), pixels),
        segment_columns([(table.image_id, gt_segments)], is_gt=True),
        segment_columns([(table.image_id, _voted_segments(table, winner, score))], is_gt=False),
    )


def _voted_segments(table: JointTable, winner: Int, score: Float) -> tuple[Segment, ...]:
    """Returns the segments of the voted map; a segment's id is the index of its cluster plus 1."""
    n = len(table.category)
    area = np.bincount(winner + 1, weights=table.pixels, minlength=n + 1)[1:].astype(np.int64)
    return tuple(
        Segment(cluster + 1, int(table.category[cluster]), int(area[cluster]), score=float(score[cluster]))
        for cluster in np.flatnonzero(area).tolist()
    )


def _joint_table_and_rows(
    predictions: Sequence[PanopticPrediction], isthing: Mapping[int, bool], gt_ids: IdMap | None
) -> tuple[JointTable, Int]:
    """Counts the pixels of each combination of the models' segments, and finds the combination of each pixel.

    The second result is (H, W): the row of the table for each pixel.
    """
    maps = [prediction.ids for prediction in predictions]
    layers = maps if gt_ids is None else [*maps, gt_ids]
    if len({ids.shape for ids in layers}) != 1:
        raise ValueError("the id maps of an ensemble must have one size")
    ids_at, row, pixels = _id_combinations(layers)
    node_at = np.full((len(ids_at), len(maps)), -1)
    owner: list[int] = []
    category: list[int] = []
    score: list[float] = []
    for model, prediction in enumerate(predictions):
        node_of = {segment.id: len(owner) + number for number, segment in enumerate(prediction.segments)}
        node_at[:, model] = [node_of.get(one, -1) for one in ids_at[:, model].tolist()]
        owner += [model] * len(prediction.segments)
        category += [segment.category_id for segment in prediction.segments]
        score += [1.0 if segment.score is None else segment.score for segment in prediction.segments]
    cluster = _segment_clusters(node_at, pixels, owner, category, isthing)
    n = int(cluster.max(initial=-1)) + 1
    weight_of, scores = np.zeros(n, np.int64), np.zeros((n, len(maps)))
    for node, index in enumerate(cluster.tolist()):
        weight_of[index] = category[node]
        scores[index, owner[node]] = max(scores[index, owner[node]], score[node])
    gt_id = ids_at[:, -1] if gt_ids is not None else np.full(len(ids_at), VOID, np.int64)
    return JointTable(predictions[0].image_id, weight_of, scores, np.append(cluster, -1)[node_at], pixels, gt_id), row


def _id_combinations(layers: Sequence[IdMap]) -> tuple[Int, Int, Int]:
    """Returns the distinct combinations of ids in L stacked maps: (N, L) ids, (H, W) row of each pixel, (N,) pixels.

    Maps are added one by one, with a compact key for each combination so far, so keys stay small whatever the ids.
    """
    shape = layers[0].shape
    row = np.zeros(layers[0].size, np.int64)
    ids_at = np.zeros((1, 0), np.int64)
    for ids in layers:
        names, number = np.unique(ids.ravel(), return_inverse=True)
        keys, row = np.unique(row * len(names) + number, return_inverse=True)
        ids_at = np.concatenate(
            [ids_at[keys // len(names)], names[keys % len(names)][:, None].astype(np.int64)], axis=1
        )
    return ids_at, row.reshape(shape), np.bincount(row, minlength=len(ids_at)).astype(np.int64)


def _segment_clusters(
    node_at: Int, pixels: Int, owner: Sequence[int], category: Sequence[int], isthing: Mapping[int, bool]
) -> Int:
    """Matches the segments of all models; returns (nodes,) the cluster of each segment, numbered from 0."""
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
    iou, one, other = (np.array([pair[index] for pair in pairs]) for index in range(3))
    cluster = join_by_overlap(owner, one.astype(np.int64), other.astype(np.int64), iou)
    stuff: dict[int, int] = {}
    for node in range(nodes):
        if not isthing[category[node]]:
            cluster[node] = stuff.setdefault(category[node], node)
    return np.unique(cluster, return_inverse=True)[1].astype(np.int64)


def join_by_overlap(owner: Sequence[int] | Int, one: Int, other: Int, iou: npt.NDArray[np.float64]) -> Int:
    """Joins overlapping nodes (segments or candidates); returns (N,) each node's cluster, named by its lowest node.

    No cluster has two nodes of one owner.
    owner: (N,) the model or view that a node comes from; one, other, iou: the pairs of nodes that may be joined
    Pairs join in falling order of IoU, ties in the order given, unless their clusters share an owner.
    """
    owners = [int(answer) for answer in owner]
    cluster = np.arange(len(owners), dtype=np.int64)
    members = [[node] for node in range(len(owners))]
    for pair in np.argsort(-iou, kind="stable").tolist():
        a, b = sorted((int(cluster[one[pair]]), int(cluster[other[pair]])))
        if a != b and not {owners[node] for node in members[a]} & {owners[node] for node in members[b]}:
            cluster[members[b]] = a
            members[a] += members[b]
            members[b] = []
    return cluster
