"""Measures a network's outputs before fusion in the same pass as PQ: makes the rows of AP_pan and mIoU_pan.

A sink of the loop: it takes the instances and the semantic map from each output (on the device), counts the pixels that
they share with the ground truth (on the host), and hands blocks of rows to the runs.
"""

import functools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.datasets import Dataset
from panbench.datasets.instances import InstanceSet
from panbench.evaluation.loop import block_is_full
from panbench.evaluation.sinks import Later, SeenImage, Sink
from panbench.models.candidates import FinishedMap, Output
from panbench.models.model import LoadedImage
from panbench.panoptic.masks import PackedMasks, areas, pack, shared_pixels
from panbench.panoptic.overlap import count_pairs
from panbench.panoptic.types import Scene
from panbench.runs import Run, RunWriter
from panbench.studies.unfused.boxes import listed_box
from panbench.studies.unfused.instance_ap import Boxes, InstanceTable
from panbench.studies.unfused.metric import CategoryPixels, UnfusedTable, concat_unfused
from panbench.studies.unfused.outputs import InstanceMasks, Unfused, unfused
from panbench.studies.unfused.rows import images_measured, write_unfused

__all__ = ["Measurer"]


class Measurer(Sink):
    """Makes rows of the network's outputs for each image, and writes them in blocks."""

    def __init__(
        self,
        metrics: Sequence[str],
        dataset: Dataset,
        ids: Mapping[int, int],
        n_labels: int,
        writers: Sequence[RunWriter],
        *,
        truth: InstanceSet | None = None,
    ) -> None:
        """Goes on with what the runs hold already.

        ids: the dataset's category of each of `n_labels` labels; those without one are predictions of void
        truth: the true instances of AP; None takes the thing segments of the panoptic ground truth
        """
        self.ap, self.miou = "ap" in metrics, "miou" in metrics
        runs = [Run(writer.info, writer.path) for writer in writers]
        self._held = [images_measured(run) for run in runs]
        self.done = frozenset.intersection(*self._held)
        self._thing_ids = frozenset(category.id for category in dataset.categories if category.isthing)
        self.category_of = np.array([ids.get(label, 0) for label in range(n_labels)], np.int32)
        self.things = tuple(ids.get(label) in self._thing_ids for label in range(n_labels))
        self._writers, self._truth = writers, truth
        self._block: list[UnfusedTable] = []
        self._since = time.monotonic()

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Takes the statistics of an output off the device."""
        return functools.partial(self._rows, self.measure(output))

    def measure(self, output: Output) -> Unfused:
        """The statistics of an output, on the host. Raises BadArgument for a finished map."""
        if isinstance(output, FinishedMap):
            raise BadArgument("The model gives finished id maps: there is nothing before fusion to measure.")
        return unfused(output, self.things, instances=self.ap, semantic=self.miou)

    def keep(self, found: Sequence[UnfusedTable]) -> None:
        """Adds a batch to the open block, which is written when it is full."""
        self._block.extend(found)
        if block_is_full(len(self._block), self._since):
            self.close()

    def close(self) -> None:
        """Writes the open block."""
        if self._block:
            table = concat_unfused(self._block)
            for writer, held in zip(self._writers, self._held, strict=True):
                new = np.array([image for image in table.image_id.tolist() if image not in held], np.int64)
                own = table if len(new) == len(table.image_id) else table.only(new)
                if len(new):
                    write_unfused(writer, own)
            self._block = []
        self._since = time.monotonic()

    def _rows(self, found: Unfused, seen: SeenImage) -> UnfusedTable:
        """The rows of one image."""
        scene = seen.scene
        ids, _ = seen.truth((scene.image.height, scene.image.width))
        instances = pixels = None
        if found.instances is not None:
            instances = self._instance_rows(scene, ids, found.instances)
        if found.semantic is not None:
            pixels = self._pixel_rows(scene, ids, found.semantic)
        return UnfusedTable(np.array([scene.image.id], np.int64), instances, pixels)

    def _instance_rows(self, scene: Scene, ids: npt.NDArray[np.int32], found: InstanceMasks) -> InstanceTable:
        category, area, crowd, masks, boxes = self._true_instances(scene, ids)
        shared = shared_pixels(found.masks, masks)
        det, gt = np.nonzero(shared)
        image = scene.image.id

        def here(n: int) -> npt.NDArray[np.int64]:
            return np.full(n, image, np.int64)

        return InstanceTable(
            det_image=here(len(found.labels)),
            det_id=np.arange(1, len(found.labels) + 1, dtype=np.int32),
            det_category=self.category_of[found.labels],
            det_score=found.scores.astype(np.float64),
            det_area=areas(found.masks),
            gt_image=here(len(category)),
            gt_id=np.arange(1, len(category) + 1, dtype=np.int32),
            gt_category=np.array(category, np.int32),
            gt_area=np.array(area, np.float64),
            gt_pixels=areas(masks),
            gt_iscrowd=np.array(crowd, np.bool_),
            pair_image=here(len(det)),
            pair_det=(det + 1).astype(np.int32),
            pair_gt=(gt + 1).astype(np.int32),
            pair_pixels=shared[det, gt],
            boxes=Boxes(
                found.boxes.astype(np.float64),
                np.array(boxes, np.float64).reshape(-1, 4),
                np.full(len(found.labels), found.boxes_predicted),
            ),
        )

    def _true_instances(
        self, scene: Scene, ids: npt.NDArray[np.int32]
    ) -> tuple[list[int], list[float], list[bool], PackedMasks, list[tuple[float, ...]]]:
        """Category, listed area, crowd, mask and box of each true instance."""
        shape = (scene.image.height, scene.image.width)
        if self._truth is not None:
            truth = self._truth
            own = truth.of_image(scene.image.id)
            masks = [truth.mask(one, *shape) for one in own]
            return (
                [one.category_id for one in own],
                [one.area for one in own],
                [one.iscrowd for one in own],
                pack(masks, shape),
                [listed_box(one.record.get("bbox"), mask) for one, mask in zip(own, masks, strict=True)],
            )
        segments = [] if scene.annotation is None else scene.annotation.segments
        chosen = [segment for segment in segments if segment.category_id in self._thing_ids]
        masks = [ids == segment.id for segment in chosen]
        return (
            [segment.category_id for segment in chosen],
            [float(segment.area) for segment in chosen],
            [segment.iscrowd for segment in chosen],
            pack(masks, shape),
            [listed_box(segment.bbox, mask) for segment, mask in zip(chosen, masks, strict=True)],
        )

    def _pixel_rows(self, scene: Scene, ids: npt.NDArray[np.int32], semantic: npt.NDArray[np.int16]) -> CategoryPixels:
        segments = [] if scene.annotation is None else scene.annotation.segments
        category = {segment.id: segment.category_id for segment in segments}
        # Labels from 1 on, so that 0 is void on both sides.
        gt_id, label, pixels = count_pairs(ids, semantic.astype(np.int32) + 1)
        true = np.array([category.get(int(each), 0) for each in gt_id], np.int64)
        predicted = np.append(0, self.category_of)[label].astype(np.int64)
        labelled = true > 0
        true, predicted, pixels = true[labelled], predicted[labelled], pixels[labelled]
        names = np.unique(np.concatenate([true, predicted[predicted > 0]]))
        place_true = np.searchsorted(names, true)
        gt_pixels, pred_pixels, both = (np.zeros(len(names), np.int64) for _ in range(3))
        np.add.at(gt_pixels, place_true, pixels)
        known = predicted > 0
        np.add.at(pred_pixels, np.searchsorted(names, predicted[known]), pixels[known])
        same = true == predicted
        np.add.at(both, place_true[same], pixels[same])
        image = np.full(len(names), scene.image.id, np.int64)
        return CategoryPixels(image, names.astype(np.int32), gt_pixels, pred_pixels, both)
