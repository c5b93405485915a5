"""Clusters the segments or masks of several models on one image by how much they overlap."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["join_by_overlap"]

Int = npt.NDArray[np.int64]


def join_by_overlap(owner: Sequence[int] | Int, one: Int, other: Int, iou: npt.NDArray[np.float64]) -> Int:
    """(N,) the cluster of each node, named by its lowest member. No cluster has two nodes of the same owner.

    owner: (N,) the answer that a node is of; one, other, iou: the pairs of nodes that may be joined, and their IoU
    Pairs join in falling order of IoU, equal ones in their own order; a pair whose clusters share an owner does not.
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
