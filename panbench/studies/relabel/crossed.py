"""Counts the overlaps of several predictions with two ground truths of the same images, and with each other.

Each id map of an image is decoded once, and the shared pixels of each pair of maps are counted.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from panbench.base.errors import BadDataset, PanbenchError, PredictionMismatch
from panbench.base.program import default_threads
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.matched import Matched
from panbench.panoptic.coco import read_ids
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.overlap import OverlapTable, Pairs, concat, prediction_faults, segment_columns, tabulate
from panbench.panoptic.types import VOID, PanopticSet, Segment


@dataclass(frozen=True)
class Crossed:
    """The overlaps of predictions with both truths, of the truths with each other, and of each two predictions.

    Index 0 is truth A, 1 truth B.
    matched: for each truth, the matches of each prediction, in the order given
    between: for each truth, the matches of the other one as a prediction, without its crowds, which do not delimit
        single objects
    among: for predictions (i, j), i < j, the pairs of their segments that share pixels
    """

    image_ids: tuple[int, ...]
    matched: tuple[tuple[Matched, ...], tuple[Matched, ...]]
    between: tuple[Matched, Matched]
    among: Mapping[tuple[int, int], Pairs]


def cross(
    truths: tuple[PanopticSet, PanopticSet],
    predictions: Sequence[PanopticSet],
    names: Sequence[str],
    images: Sequence[int],
    reporter: Reporter = SILENT,
) -> Crossed:
    """Counts overlapping pixels between all predictions and two ground truths of the same images, pair by pair.

    Pairs: each prediction with each truth, the two truths, and each two predictions.
    names: the names of the predictions, for errors
    Raises BadDataset or PredictionMismatch for PNGs that are missing, of other sizes, or without their JSON's ids.
    """
    pairs = list(combinations(range(len(predictions)), 2))

    def count_overlaps(image_id: int) -> tuple[list[list[OverlapTable]], list[OverlapTable], list[Pairs]]:
        """Counts the overlaps of one image: with the truths, between the truths, between the predictions."""
        gts = [_read_encoded_map(truth, image_id, BadDataset) for truth in truths]
        if gts[0].shape != gts[1].shape:
            raise BadDataset(
                f"Image {image_id} is {_map_size_text(gts[0])} in {truths[0].path} and {_map_size_text(gts[1])} in "
                f"{truths[1].path} (height × width): the two are not truths of the same images."
            )
        preds = [_read_encoded_map(prediction, image_id, PredictionMismatch) for prediction in predictions]
        for name, runs in zip(names, preds, strict=True):
            if runs.shape != gts[0].shape:
                raise PredictionMismatch(
                    f"Image {image_id} of {name} is {_map_size_text(runs)} but its ground truth is "
                    f"{_map_size_text(gts[0])} (height × width). Write predictions at the image's original size."
                )
        tables = [
            [
                _overlap_table(image_id, runs, truth, found, answer.annotations[image_id].segments)
                for found, answer in zip(preds, predictions, strict=True)
            ]
            for runs, truth in zip(gts, truths, strict=True)
        ]
        answers = [_truth_as_prediction(runs, truth, image_id) for runs, truth in zip(gts, truths, strict=True)]
        between = [
            _overlap_table(image_id, gts[side], truths[side], *answers[1 - side])
            for side in (0, 1)
        ]  # fmt: skip
        return tables, between, [_shared_pairs(image_id, preds[i], preds[j]) for i, j in pairs]

    found = []
    with ThreadPoolExecutor(default_threads()) as pool:
        for done, answer in enumerate(pool.map(count_overlaps, images), start=1):
            found.append(answer)
            reporter.progress("Counting overlaps", done, len(images))
    crossed = [[concat(answer[0][side][k] for answer in found) for k in range(len(predictions))] for side in (0, 1)]
    for name, table in zip(names, crossed[0], strict=True):
        if faults := prediction_faults(table):
            raise PredictionMismatch(f"{name}: {' '.join(faults)}")
    return Crossed(
        tuple(images),
        (tuple(map(Matched.of, crossed[0])), tuple(map(Matched.of, crossed[1]))),
        (Matched.of(concat(answer[1][0] for answer in found)), Matched.of(concat(answer[1][1] for answer in found))),
        {
            pair: concat(OverlapTable(_NO_SEGMENTS, answer[2][index]) for answer in found).overlaps
            for index, pair in enumerate(pairs)
        },
    )


_NO_SEGMENTS = OverlapTable.empty().segments


def _read_encoded_map(panoptic: PanopticSet, image_id: int, error: type[PanbenchError]) -> IdRuns:
    """Reads the id map of an image, run-length encoded."""
    return IdRuns.of_map(read_ids(panoptic, image_id, error=error))


def _truth_as_prediction(runs: IdRuns, truth: PanopticSet, image_id: int) -> tuple[IdRuns, tuple[Segment, ...]]:
    """Turns a truth into a prediction: drops crowds, ids that its JSON lacks, and segments that its PNG lacks."""
    present = set(np.unique(runs.ids).tolist())
    chosen = tuple(
        segment
        for segment in truth.annotations[image_id].segments
        if not segment.iscrowd and segment.id in present
    )  # fmt: skip
    known = np.isin(runs.ids, np.array([segment.id for segment in chosen], np.int32))
    return replace(runs, ids=np.where(known, runs.ids, VOID).astype(np.int32)), chosen


def _shared_pairs(image_id: int, one: IdRuns, other: IdRuns) -> Pairs:
    """Counts the pixels that each two segments of two maps share."""
    first, second, pixels = count_run_pairs(one, other)
    return Pairs(np.full(len(first), image_id, np.int64), first, second, pixels)


def _overlap_table(
    image_id: int, gt: IdRuns, truth: PanopticSet, pred: IdRuns, segments: Sequence[Segment]
) -> OverlapTable:
    """Builds the overlap table of a truth and a prediction from their run-length encoded maps."""
    return tabulate(
        _shared_pairs(image_id, gt, pred),
        segment_columns([(image_id, truth.annotations[image_id].segments)], is_gt=True),
        segment_columns([(image_id, segments)], is_gt=False),
    )


def _map_size_text(runs: IdRuns) -> str:
    """Returns the height and width of an id map as text."""
    return "×".join(str(length) for length in runs.shape)
