"""Measures a network's outputs before fusion in the pass that scores PQ; writes the rows of AP_pan and mIoU_pan.

It is a sink of the evaluation loop: it takes instances and semantic map from each output (on the device), counts the
pixels that they share with the ground truth (on the host), and writes chunks of rows into the runs.
"""

import functools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.datasets import Dataset
from panbench.datasets.instances import InstanceSet
from panbench.evaluation.sinks import Later, SeenImage, Sink, chunk_is_full
from panbench.models.candidates import FinishedMap, Output
from panbench.models.model import LoadedImage
from panbench.panoptic.overlap import count_pairs
from panbench.panoptic.types import Scene
from panbench.runs import Run, RunWriter
from panbench.studies.unfused.boxes import listed_box
from panbench.studies.unfused.instance_ap import Boxes, InstanceTable
from panbench.studies.unfused.metric import CategoryPixels, UnfusedTable, concat_unfused
from panbench.studies.unfused.outputs import InstanceMasks, Unfused, unfused
from panbench.studies.unfused.packed_masks import PackedMasks, mask_areas, pack_masks, shared_pixels
from panbench.studies.unfused.rows import images_measured, write_unfused


class Measurer(Sink):
    """Counts pixels of each image's network output and ground truth for AP_pan and mIoU_pan; writes them into runs."""

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
        """Prepares to measure AP_pan or mIoU_pan on a dataset; images that all runs have measured already are skipped.

        ids: the dataset's category of each of `n_labels` labels; labels without one predict void
        truth: the true instances of AP; None takes the thing segments of the panoptic ground truth
        """
        self.ap, self.miou = "ap" in metrics, "miou" in metrics
        runs = [Run(writer.info, writer.path) for writer in writers]
        self._images_in_runs = [images_measured(run) for run in runs]
        self.done = frozenset.intersection(*self._images_in_runs)
        self._thing_ids = frozenset(category.id for category in dataset.categories if category.isthing)
        self.category_of = np.array([ids.get(label, 0) for label in range(n_labels)], np.int32)
        self.things = tuple(ids.get(label) in self._thing_ids for label in range(n_labels))
        self._writers, self._truth = writers, truth
        self._chunk: list[UnfusedTable] = []
        self._since = time.monotonic()

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        """Called for each network output: copies its masks off the GPU; returns a function that counts their pixels."""
        return functools.partial(self._compare_with_truth, self.measure(output))

    def measure(self, output: Output) -> Unfused:
        """Returns an output's instances and semantic map, on the host. Raises BadArgument for a finished map."""
        if isinstance(output, FinishedMap):
            raise BadArgument("The model gives finished id maps: there is nothing before fusion to measure.")
        return unfused(output, self.things, instances=self.ap, semantic=self.miou)

    def keep(self, found: Sequence[UnfusedTable]) -> None:
        """Called after each batch: collects its pixel counts, and writes them into the runs when there are enough."""
        self._chunk.extend(found)
        if chunk_is_full(len(self._chunk), self._since):
            self.close()

    def close(self) -> None:
        """Writes the rows that are not yet written."""
        if self._chunk:
            table = concat_unfused(self._chunk)
            for writer, held in zip(self._writers, self._images_in_runs, strict=True):
                new = np.array([image for image in table.image_id.tolist() if image not in held], np.int64)
                own = table if len(new) == len(table.image_id) else table.only(new)
                if len(new):
                    write_unfused(writer, own)
            self._chunk = []
        self._since = time.monotonic()

    def _compare_with_truth(self, found: Unfused, seen: SeenImage) -> UnfusedTable:
        """Counts one image's areas and shared pixels, by instance and by category, for AP_pan and mIoU_pan."""
        scene = seen.scene
        ids, _ = seen.truth((scene.image.height, scene.image.width))
        instances = pixels = None
        if found.instances is not None:
            instances = self._instance_table(scene, ids, found.instances)
        if found.semantic is not None:
            pixels = self._category_pixels(scene, ids, found.semantic)
        return UnfusedTable(np.array([scene.image.id], np.int64), instances, pixels)

    def _instance_table(self, scene: Scene, ids: npt.NDArray[np.int32], found: InstanceMasks) -> InstanceTable:
        """Returns what AP_pan needs of one image: detections, true instances, and the pixels that they share."""
        category, area, crowd, masks, boxes = self._true_instances(scene, ids)
        shared = shared_pixels(found.masks, masks)
        det, gt = np.nonzero(shared)
        image = scene.image.id

        def image_id_column(n: int) -> npt.NDArray[np.int64]:
            """Returns a column of n rows, each with the id of this image."""
            return np.full(n, image, np.int64)

        return InstanceTable(
            det_image=image_id_column(len(found.labels)),
            det_id=np.arange(1, len(found.labels) + 1, dtype=np.int32),
            det_category=self.category_of[found.labels],
            det_score=found.scores.astype(np.float64),
            det_area=mask_areas(found.masks),
            gt_image=image_id_column(len(category)),
            gt_id=np.arange(1, len(category) + 1, dtype=np.int32),
            gt_category=np.array(category, np.int32),
            gt_area=np.array(area, np.float64),
            gt_pixels=mask_areas(masks),
            gt_iscrowd=np.array(crowd, np.bool_),
            pair_image=image_id_column(len(det)),
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
    ) -> tuple[Sequence[int], Sequence[float], Sequence[bool], PackedMasks, list[tuple[float, ...]]]:
        """Returns category, listed area, crowd, mask and box of each true instance."""
        shape = (scene.image.height, scene.image.width)
        if self._truth is not None:
            truth = self._truth
            rows = [
                (one.category_id, one.area, one.iscrowd, truth.mask(one, *shape), one.record.get("bbox"))
                for one in truth.of_image(scene.image.id)
            ]
        else:
            rows = [
                (one.category_id, float(one.area), one.iscrowd, ids == one.id, one.bbox)
                for one in (() if scene.annotation is None else scene.annotation.segments)
                if one.category_id in self._thing_ids
            ]
        category, area, crowd, masks, boxes = zip(*rows, strict=True) if rows else ((),) * 5
        return (
            category,
            area,
            crowd,
            pack_masks(masks, shape),
            [listed_box(*one) for one in zip(boxes, masks, strict=True)],
        )

    def _category_pixels(
        self, scene: Scene, ids: npt.NDArray[np.int32], semantic: npt.NDArray[np.int16]
    ) -> CategoryPixels:
        """Counts the true, predicted and shared pixels of each category, for mIoU_pan."""
        segments = [] if scene.annotation is None else scene.annotation.segments
        category = {segment.id: segment.category_id for segment in segments}
        # Labels are shifted by 1, so that 0 is void in both maps.
        gt_id, label, pixels = count_pairs(ids, semantic.astype(np.int32) + 1)
        true = np.array([category.get(int(each), 0) for each in gt_id], np.int64)
        predicted = np.append(0, self.category_of)[label].astype(np.int64)
        labelled = true > 0
        names = np.unique(np.concatenate([true[labelled], predicted[labelled & (predicted > 0)]]))

        def pixels_by_category(category: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
            """Sums pixels by category, over selected pairs of true segment and predicted label."""
            found = np.bincount(np.searchsorted(names, category[rows]), pixels[rows], len(names))
            return found.astype(np.int64)

        image = np.full(len(names), scene.image.id, np.int64)
        gt_pixels, both = pixels_by_category(true, labelled), pixels_by_category(true, labelled & (true == predicted))
        pred_pixels = pixels_by_category(predicted, labelled & (predicted > 0))
        return CategoryPixels(image, names.astype(np.int32), gt_pixels, pred_pixels, both)
