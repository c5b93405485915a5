"""Locates the files that a run was scored on."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from panbench.base.addresses import path_at, recorded_path
from panbench.base.errors import BadDataset
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.types import PanopticSet
from panbench.runs import Run
from panbench.runs.sources import files_exist, read_ground_truth


class DataFiles:
    """Locates the photographs and the ground truth that a run was scored on.

    images, gt, gt_dir: folders and JSON to use instead of the recorded ones, for data that has moved; without `gt_dir`
        the PNGs are expected next to `gt`
    """

    def __init__(
        self, run: Run, *, images: Path | None = None, gt: Path | None = None, gt_dir: Path | None = None
    ) -> None:
        """Takes a run, and the paths of photographs and ground truth if they have moved since it was scored."""
        dataset = run.info.dataset
        self.moved = images, gt, gt_dir
        self._run = run.name
        self._turned = run.info.arguments.get("exif") != "ignore"
        self._images = path_at(images) if images else path_in_run_json(dataset.images)
        self._gt = path_at(gt) if gt else path_in_run_json(dataset.gt)
        self._gt_dir = path_at(gt_dir) if gt_dir else None if gt else path_in_run_json(dataset.gt_dir)

    @cached_property
    def panoptic(self) -> PanopticSet:
        """Returns the ground truth that the run was scored on. Raises BadDataset if it is not found."""
        if self._gt is None:
            raise BadDataset(f"{self._run} does not say where its ground truth is. Give it with --gt.")
        if not files_exist(self._gt):
            raise BadDataset(
                f"The ground truth of {self._run} was not found at {self._gt}. Say where it is now with --gt."
            )
        return read_ground_truth(self._gt, self._gt_dir)

    def file_name(self, image_id: int) -> str:
        """Returns an image's file name, relative to the folder of images. Raises BadDataset for an unknown id."""
        if image_id not in self.panoptic.images:
            raise BadDataset(f"{self.panoptic.path} has no image {own_id(image_id)}.")
        return self.panoptic.images[image_id].file_name

    def path(self, image_id: int) -> Path:
        """Returns the path where the photograph of an image should be. Raises BadDataset if its folder is unknown."""
        name = self.file_name(image_id)
        if self._images is None:
            raise BadDataset(f"{self._run} does not say where its images are. Give their folder with --images.")
        return path_at(self._images / name)


def path_in_run_json(value: Any) -> Path | None:
    """Returns the path that a value of run.json holds; None if it holds none."""
    return recorded_path(value) if isinstance(value, (str, os.PathLike)) and str(value) else None
