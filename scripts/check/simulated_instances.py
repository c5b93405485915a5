"""Populations of instances before fusion, for the simulations of AP_pan: detections with scores and their matches.

The images are those of `coco_like` in simulated_population.py, their things alone. A detection finds an object, with an
IoU that its score tells a little of, or is a false positive of lower score. No pixels are made: overlaps are what gives
each match its IoU.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.studies.unfused.instance_ap import InstanceTable
from scripts.check.simulated_population import HARDER, World

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

AREAS = np.array([400, 3600, 22500])
"""Of an object of each size, in pixels."""


@dataclass(frozen=True)
class Instances:
    """The rows of all images, ordered by image; starts: the first row of each image, and the end.

    gt: category, area; det: category, area, score, place of its object among the image's, −1 of false positives, IoU
    """

    gt: tuple[Int, Int]
    gt_starts: Int
    det: tuple[Int, Int, Float, Int, Float]
    det_starts: Int

    @staticmethod
    def of(world: World, rng: np.random.Generator, better: float = 0.0) -> "Instances":
        """Simulates the output of a model. better: added to the log-odds of finding an object"""
        is_thing = np.array([category.isthing for category in world.categories])
        size, category, image = np.nonzero(world.objects * is_thing[:, None])
        times = world.objects[size, category, image]
        size, category, image = (np.repeat(column, times) for column in (size, category, image))
        order = np.argsort(image, kind="stable")
        size, category, image = size[order], category[order], image[order]
        n_images = world.objects.shape[-1]
        gt_starts = np.searchsorted(image, np.arange(n_images + 1))
        logit = world.ease[category] + better + np.array(HARDER)[size] - 0.7 * world.hardness[image]
        found = np.flatnonzero(rng.random(len(image)) < 1 / (1 + np.exp(-logit)))
        mean = 0.8 + 0.03 * better - 0.03 * world.hardness[image[found]]
        iou = np.clip(mean + 0.1 * rng.normal(size=len(found)), 0.3, 0.99)
        score = 1 / (1 + np.exp(-(0.5 * logit[found] + 4 * (iou - 0.75) + rng.normal(size=len(found)))))
        false = rng.poisson(2.0, n_images)
        wrong = np.repeat(np.arange(n_images), false)
        of_wrong = rng.choice(category, len(wrong))
        columns = (
            np.concatenate([category[found], of_wrong]),
            np.concatenate([AREAS[size[found]], rng.choice(AREAS, len(wrong))]),
            np.concatenate([score, 1 / (1 + np.exp(1 - rng.normal(size=len(wrong))))]),
            np.concatenate([found - gt_starts[image[found]], np.full(len(wrong), -1)]),
            np.concatenate([iou, np.zeros(len(wrong))]),
        )
        of_image = np.concatenate([image[found], wrong])
        order = np.argsort(of_image, kind="stable")
        det_starts = np.searchsorted(of_image[order], np.arange(n_images + 1))
        category_of, area, scores, place, ious = (column[order] for column in columns)
        return Instances((category, AREAS[size]), gt_starts, (category_of, area, scores, place, ious), det_starts)

    def take(self, images: Int) -> InstanceTable:
        """Returns the rows of a data set of these images, numbered from 0; images may repeat."""
        gt, gt_image, gt_place = _rows(self.gt_starts, images)
        det, det_image, det_place = _rows(self.det_starts, images)
        category, area, of_object = (self.det[column][det] for column in (0, 1, 3))
        score, iou = self.det[2][det], self.det[4][det]
        matched = np.flatnonzero(of_object >= 0)
        # Of equal areas A and IoU i the shared pixels are 2Ai / (1 + i).
        shared = 2 * area[matched] * iou[matched] / (1 + iou[matched])
        of_gt, gt_area = (column[gt] for column in self.gt)
        return InstanceTable(
            det_image=det_image,
            det_id=(det_place + 1).astype(np.int32),
            det_category=category.astype(np.int32),
            det_score=score,
            det_area=area,
            gt_image=gt_image,
            gt_id=(gt_place + 1).astype(np.int32),
            gt_category=of_gt.astype(np.int32),
            gt_area=gt_area.astype(np.float64),
            gt_pixels=gt_area,
            gt_iscrowd=np.zeros(len(gt), np.bool_),
            pair_image=det_image[matched],
            pair_det=(det_place[matched] + 1).astype(np.int32),
            pair_gt=(of_object[matched] + 1).astype(np.int32),
            pair_pixels=shared,
        )


def _rows(starts: Int, images: Int) -> tuple[Int, Int, Int]:
    """Returns the rows of some images, for each row the index of its image among them, and its index in the image."""
    counts = starts[images + 1] - starts[images]
    image = np.repeat(np.arange(len(images)), counts)
    place = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts[images][image] + place, image, place
