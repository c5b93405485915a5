"""Several predictions against two ground truths of the same images, each picture decoded once: the tables of `relabel`.

Of an image the id maps of both truths and of all predictions are read, and the pixels of each pair of them counted.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from panbench.base.errors import BadDataset, PanbenchError, PredictionMismatch
from panbench.base.reporter import SILENT, Reporter
from panbench.base.threads import default_threads
from panbench.metrics.matched import Matched
from panbench.panoptic.coco import read_ids
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.overlap import OverlapTable, Pairs, concat, prediction_faults, segment_columns, tabulate
from panbench.panoptic.types import VOID, PanopticSet, Segment

__all__ = ["Crossed", "cross"]

_NAMES = ("A", "B")


@dataclass(frozen=True)
class Crossed:
    """What was counted. The sides 0 and 1 are the truths A and B.

    matched: for each truth, the matches of each prediction, in the order given
    between: for each truth, the matches of the other one, taken as a prediction; its crowds are left out, as a crowd
        says nothing of single objects
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
    """Counts the overlaps of all on some images that all of them have.

    names: of the predictions, for errors
    Raises BadDataset or PredictionMismatch for PNGs that are missing, of other sizes, or without their JSON's ids.
    """
    pairs = list(combinations(range(len(predictions)), 2))

    def look(image_id: int) -> tuple[list[list[OverlapTable]], list[OverlapTable], list[Pairs]]:
        gts = [_runs(truth, image_id, BadDataset) for truth in truths]
        if gts[0].shape != gts[1].shape:
            raise BadDataset(
                f"Image {image_id} is {_size(gts[0])} in {truths[0].path} and {_size(gts[1])} in {truths[1].path} "
                "(height × width): the two are not truths of the same images."
            )
        preds = [_runs(prediction, image_id, PredictionMismatch) for prediction in predictions]
        for name, runs in zip(names, preds, strict=True):
            if runs.shape != gts[0].shape:
                raise PredictionMismatch(
                    f"Image {image_id} of {name} is {_size(runs)} but its ground truth is {_size(gts[0])} (height × "
                    "width). Write predictions at the image's original size."
                )
        tables = [
            [
                _table(image_id, runs, truth, found, answer.annotations[image_id].segments)
                for found, answer in zip(preds, predictions, strict=True)
            ]
            for runs, truth in zip(gts, truths, strict=True)
        ]
        answers = [_as_answer(runs, truth, image_id) for runs, truth in zip(gts, truths, strict=True)]
        between = [
            _table(image_id, gts[side], truths[side], *answers[1 - side])
            for side in (0, 1)
        ]  # fmt: skip
        return tables, between, [_pairs(image_id, preds[i], preds[j]) for i, j in pairs]

    found = []
    with ThreadPoolExecutor(default_threads()) as pool:
        for done, answer in enumerate(pool.map(look, images), start=1):
            found.append(answer)
            reporter.progress("Counting overlaps", done, len(images))
    crossed = [[concat(answer[0][side][k] for answer in found) for k in range(len(predictions))] for side in (0, 1)]
    for name, table in zip(names, crossed[0], strict=True):
        if faults := prediction_faults(table):
            raise PredictionMismatch(f"{name}: {' '.join(faults)}")
    return Crossed(
        tuple(images),
        (tuple(map(Matched.of, crossed[0])), tuple(map(Matched.of, crossed[1]))),
        (
            Matched.of(concat(answer[1][0] for answer in found)),
            Matched.of(concat(answer[1][1] for answer in found)),
        ),
        {
            pair: concat(OverlapTable(_NO_SEGMENTS, answer[2][place]) for answer in found).overlaps
            for place, pair in enumerate(pairs)
        },
    )


_NO_SEGMENTS = OverlapTable.empty().segments


def _runs(panoptic: PanopticSet, image_id: int, error: type[PanbenchError]) -> IdRuns:
    return IdRuns.of_map(read_ids(panoptic, image_id, error=error))


def _as_answer(runs: IdRuns, truth: PanopticSet, image_id: int) -> tuple[IdRuns, tuple[Segment, ...]]:
    """A truth as a prediction: without crowds, without ids that its JSON lacks, without segments that its PNG lacks."""
    present = set(np.unique(runs.ids).tolist())
    kept = tuple(
        segment
        for segment in truth.annotations[image_id].segments
        if not segment.iscrowd and segment.id in present
    )  # fmt: skip
    known = np.isin(runs.ids, np.array([segment.id for segment in kept], np.int32))
    return replace(runs, ids=np.where(known, runs.ids, VOID).astype(np.int32)), kept


def _pairs(image_id: int, one: IdRuns, other: IdRuns) -> Pairs:
    first, second, pixels = count_run_pairs(one, other)
    return Pairs(np.full(len(first), image_id, np.int64), first, second, pixels)


def _table(image_id: int, gt: IdRuns, truth: PanopticSet, pred: IdRuns, segments: Sequence[Segment]) -> OverlapTable:
    return tabulate(
        _pairs(image_id, gt, pred),
        segment_columns([(image_id, truth.annotations[image_id].segments)], is_gt=True),
        segment_columns([(image_id, segments)], is_gt=False),
    )


def _size(runs: IdRuns) -> str:
    return "×".join(str(length) for length in runs.shape)
