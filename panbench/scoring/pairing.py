"""Ground truth and predictions as pairs of annotations: what fits, what is missing, and what looks like a mistake."""

from collections import Counter as Counts
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import GroundTruthFaults, Mismatches, Segments, by_image, take
from panbench.panoptic.types import AnnotationColumns

__all__ = ["MOST_TOLD", "Paired", "Plan"]

MOST_TOLD = 10
"""More faults of one kind become one sentence."""

# From so many on, what all share is no accident.
_MANY_IDS = 20
_MANY_CATEGORIES = 5


class Paired:
    """The annotations of both sides, and which belong to each other: `pred_row[i]` is that of the ground truth's row i,
    -1 if there is none."""

    gt: AnnotationColumns
    pred: AnnotationColumns
    pred_row: list[int]

    def segments(self, side: str, images: Sequence[int]) -> Segments:
        """The segments of one side for some images, in the order of the JSON."""
        columns = self.gt if side == "gt" else self.pred
        chosen = np.flatnonzero(np.isin(np.array(columns.image_ids, np.int64), np.array(images, np.int64)))
        count = np.diff(columns.first)[chosen]
        image_id = np.repeat(np.array(columns.image_ids, np.int64)[chosen], count)
        # The rows first[i], first[i] + 1, … of each chosen image i.
        start = np.repeat(columns.first[chosen] - np.cumsum(count) + count, count)
        rows = start + np.arange(len(image_id))
        return Segments(
            image_id=image_id,
            is_gt=np.full(len(image_id), side == "gt"),
            id=columns.id[rows],
            category_id=columns.category_id[rows],
            area=columns.area[rows],
            iscrowd=columns.iscrowd[rows] & (side == "gt"),
            score=columns.score[rows] if side == "pred" else np.full(len(image_id), np.nan, np.float32),
        )


@dataclass(frozen=True)
class Plan(Paired):
    """Which prediction belongs to which image: `pred_row[i]` is its row among the predictions, -1 if there is none.

    rows: the images to score, as rows of the ground truth, in order of image ids
    """

    gt: AnnotationColumns
    pred: AnnotationColumns
    pred_row: list[int]
    rows: list[int]

    @staticmethod
    def of(gt: AnnotationColumns, pred: AnnotationColumns, shard: tuple[int, int] | None = None) -> "Plan":
        """Raises BadArgument for an unknown shard, and for one without images."""
        place = {image_id: row for row, image_id in enumerate(pred.image_ids)}
        pred_row = [place.get(image_id, -1) for image_id in gt.image_ids]
        # By image id: the parts of a run then follow each other, and so do shards.
        rows = np.argsort(np.array(gt.image_ids, np.int64), kind="stable").tolist()
        return Plan(gt, pred, pred_row, rows if shard is None else _share(rows, *shard))

    def missing(self) -> list[int]:
        """The images without a prediction."""
        return [self.gt.image_ids[row] for row in self.rows if self.pred_row[row] < 0]

    def extra(self) -> list[int]:
        """The images that were predicted but are not in the ground truth."""
        known = frozenset(self.gt.image_ids)
        return [image_id for image_id in self.pred.image_ids if image_id not in known]

    def faults(self, ignore_extra: bool, allow_missing: bool) -> list[str]:
        """A sentence for each way in which the two JSONs do not fit, naming the first images."""
        faults = []
        missing, extra = self.missing(), self.extra()
        if extra and not (allow_missing and ignore_extra):
            faults += self._other_set(extra)
            if len(extra) == len(self.pred):
                return faults
        if missing and len(missing) == len(self.rows) and not allow_missing:
            return [f"{self.pred.path} has no prediction for any of the {_images(missing)} of {self.gt.path}."]
        if missing and not allow_missing:
            faults.append(
                f"{self.pred.path} has no prediction for {len(missing)} of {len(self.rows)} images: "
                f"{listed(missing)}. Add them, or score them as empty with --allow-missing."
            )
        if extra and not ignore_extra:
            faults.append(
                f"{self.pred.path} has predictions for images that {self.gt.path} lacks ({len(extra)}): "
                f"{listed(extra)}. Remove them, or leave them out with --ignore-extra."
            )
        pred = self.segments("pred", [self.gt.image_ids[row] for row in self.rows])
        unknown = take(pred, ~np.isin(pred.category_id, [category.id for category in self.gt.categories]))
        if len(unknown):
            faults.append(
                f"{self.pred.path} uses category ids that {self.gt.path} does not list: "
                f"{by_image(unknown.image_id, unknown.category_id)}. Write the dataset's own category ids."
            )
            faults = self._other_categories(pred.category_id) + faults
        return faults

    def _other_set(self, extra: Sequence[int]) -> list[str]:
        """The likely cause where the ground truth and the predictions have few images or none in common."""
        truth, predicted = self.gt.image_ids, self.pred.image_ids
        shared = len(predicted) - len(extra)
        if 2 * shared >= min(len(truth), len(predicted)):
            return []
        likely = "These are predictions of another set" if not shared else "Likely cause: predictions of another set"
        return [
            f"{likely}: {shared:,} of the {_images(truth)} of {self.gt.path} {'is' if shared == 1 else 'are'} in "
            f"{self.pred.path} (ground truth: {listed(sorted(truth), 3)}; predictions: "
            f"{listed(sorted(predicted), 3)}). Give the ground truth of their split; ids that were numbered anew have "
            "to be the dataset's own."
        ]

    def _other_categories(self, used: npt.NDArray[np.int32]) -> list[str]:
        """The likely cause of many unknown category ids."""
        known = {category.id for category in self.gt.categories}
        ids = set(np.unique(used).tolist())
        if len(ids) < _MANY_CATEGORIES:
            return []
        shifted = min(ids) == 0 and 0 not in known
        if min(ids) in (0, 1) and max(ids) < len(known) + min(ids) and (shifted or max(known) > len(known)):
            return [
                f"Likely cause: the predictions have labels counted from {min(ids)}, and {self.gt.path} has category "
                f"ids up to {max(known)}. Write for each label the id of its category."
            ]
        if not ids & known:
            return [
                f"Likely cause: the two are of different datasets; they have no category id in common "
                f"({listed(sorted(ids), 5)} and {listed(sorted(known), 5)})."
            ]
        return []

    def likely_cause(self, mismatches: Mismatches) -> list[str]:
        """Why many ids of predictions are not where they should be."""
        absent = len(mismatches.absent[0])
        pred = self.segments("pred", [self.gt.image_ids[row] for row in self.rows])
        if absent < _MANY_IDS or absent < len(pred):
            return []
        return [
            f"Likely cause: no segment of {self.pred.path} is in the PNGs of {self.pred.folder}. Is that the folder of "
            "other predictions, or of the ground truth, or were the PNGs not written as id = R + 256·G + 256²·B?"
        ]

    def check_ground_truth(self, faults: GroundTruthFaults) -> None:
        """Raises BadDataset when no segment of the ground truth is in its PNGs: they are another set's."""
        expected = len(self.segments("gt", [self.gt.image_ids[row] for row in self.rows]))
        if expected >= _MANY_IDS and faults.segments_not_in_png >= expected:
            raise BadDataset(
                f"None of the {expected:,} segments of {self.gt.path} is in the PNGs of {self.gt.folder}: that is the "
                "folder of another set. Name the one of this ground truth with --gt-dir (gt_dir)."
            )

    def oddities(self) -> list[str]:
        """Sentences on input that can be scored but is probably a mistake."""
        gt, pred = self.gt, self.pred
        found = [
            f"{columns.path}: images {listed(map(own_id, images))} name one {what}. {so}"
            for columns, groups, what, so in (
                (gt, gt.same_png, "id PNG", "Each image needs its own."),
                (pred, pred.same_png, "id PNG", "Each image needs its own prediction."),
                (gt, gt.same_photograph, "photograph", "It counts as often."),
            )
            for images in groups[:MOST_TOLD]
        ]
        if exchanged := self._exchanged():
            row = exchanged[0]
            found.append(
                f"{pred.path}: predictions that are called like the ground truth of another image: {len(exchanged):,}. "
                f"Image {gt.image_ids[row]} is {gt.file_names[row]} in the ground truth and "
                f"{pred.file_names[self.pred_row[row]]} here. Images are matched by id: check them."
            )
        names = Counts(category.name for category in gt.categories)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            found.append(
                f"{gt.path}: several categories are called {listed(map(repr, twice))}. Tables show each of them."
            )
        if different := self._contradictions():
            found.append(
                f"{pred.path} says otherwise than {gt.path} what its category ids mean: {listed(different, 3)}. Scores "
                "follow the ground truth: check that the predictions' ids are the dataset's."
            )
        if gt.has_scores and not pred.has_scores:
            found.append(
                f"The ground truth {gt.path} has scores, as predictions do, and {pred.path} has none: are the two "
                "swapped?"
            )
        return found

    def _exchanged(self) -> list[int]:
        """The rows of images whose prediction is called as the ground truth of another image is."""
        of_gt, of_pred = ([PurePath(name).stem for name in side.file_names] for side in (self.gt, self.pred))
        known = set(of_gt)
        return [row for row, pred in enumerate(self.pred_row) if pred >= 0 and of_gt[row] != of_pred[pred] in known]

    def _contradictions(self) -> list[str]:
        """A phrase for each category whose name or kind differs in the predictions' own list."""
        found = []
        for category in self.gt.categories:
            name, isthing = self.pred.own_categories.get(category.id, (category.name, None))
            if name != category.name:
                found.append(f"{category.id} is {category.name!r} in the ground truth, {name!r} in the predictions")
            elif isthing not in (None, category.isthing):
                here, there = ("thing", "stuff") if category.isthing else ("stuff", "thing")
                found.append(f"{category.id} ({name!r}) is {here} in the ground truth, {there} in the predictions")
        return found


def _share(rows: list[int], number: int, of: int) -> list[int]:
    """The shard `number` of `of`, from 1: as even as can be, the longer ones first."""
    if not 1 <= number <= of:
        raise BadArgument(f"There is no shard {number} of {of}. Shards are numbered from 1 to {of}.")
    size, longer = divmod(len(rows), of)
    if number > longer and not size:
        raise BadArgument(f"Shard {number} of {of} has no image: there are {len(rows)}. Use fewer shards.")
    start = (number - 1) * size + min(number - 1, longer)
    return rows[start : start + size + (number <= longer)]


def _images(image_ids: Sequence[int]) -> str:
    return f"{len(image_ids):,} image{'s' * (len(image_ids) != 1)}"
