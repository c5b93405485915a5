"""Wraps a detector's results and semantic maps as a model, so that any rule for instances can fuse them.

COCO's results are a list of `{"image_id": 139, "category_id": 1, "segmentation": {…}, "score": 0.98}`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.files import leaves_folder, sha256_of
from panbench.base.text import listed
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.coco import dataset_of_set
from panbench.datasets.instances import instance_mask, read_json
from panbench.datasets.label_maps import NOTHING, SemanticMaps
from panbench.models.candidates import NO_LABEL, Frame, Instances
from panbench.models.model import LoadedImage, Model
from panbench.models.rules.panoptic_fpn import PanopticFPN
from panbench.panoptic.coco import read_panoptic_json
from panbench.panoptic.image_ids import image_id_of
from panbench.panoptic.types import Category, ImageInfo, Scene
from panbench.runs import ModelRecord


def images_to_fuse(path: Path, categories: Sequence[Category] | None) -> Dataset:
    """Reads the images that a COCO JSON lists, with their ground truth if it is a panoptic JSON.

    categories: those of the predictions; None takes the ground truth's
    Raises BadDataset, and BadArgument if the categories are unknown or not the ground truth's.
    """
    document = read_json(path, ("images",))
    if any("segments_info" in record for record in document.get("annotations") or ()):
        dataset = dataset_of_set(read_panoptic_json(path), Path(), name=path.stem, images_needed=False)
        if categories is not None and _category_kinds(categories) != _category_kinds(dataset.categories):
            raise BadArgument(f"The categories of {path} are not those of --categories. Leave --categories out.")
        return dataset
    if categories is None:
        raise BadArgument(f"{path} has no panoptic ground truth. Name the predictions' categories with --categories.")
    try:
        infos = [
            ImageInfo(image_id_of(record["id"]), str(record["file_name"]), int(record["height"]), int(record["width"]))
            for record in document["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataset(f"{path}: an image lacks or has a wrong {error}.") from error
    # Predictions are named after images, so a file name must not lead out of the folder.
    if strange := next((info.file_name for info in infos if leaves_folder(info.file_name)), None):
        raise BadDataset(f"{path}: the file_name {strange!r} leaves its folder.")
    scenes = tuple(map(Scene, infos))
    return Dataset(path.stem, "", tuple(categories), scenes, len(scenes), sha256_of(path), path, Path())


def _category_kinds(categories: Sequence[Category]) -> set[tuple[int, bool]]:
    """Returns (id, isthing) of each category, to compare two lists of categories."""
    return {(category.id, category.isthing) for category in categories}


@dataclass(frozen=True)
class InstanceResults:
    """Scored instances and semantic maps of a set's images.

    by_image: the results of each image by falling score; maps: None leaves pixels without an instance void
    """

    path: Path
    by_image: Mapping[Any, Sequence[Mapping[str, Any]]]
    images: Mapping[Any, ImageInfo]
    categories: Sequence[Category]
    maps: SemanticMaps | None

    @classmethod
    def of(cls, path: Path, dataset: Dataset, maps: SemanticMaps | None, least_score: float) -> "InstanceResults":
        """Reads COCO results with scores from `least_score` on. Raises BadDataset if they do not fit the dataset."""
        records = read_json(path, ())
        if not isinstance(records, list):
            records = read_json(path, ("annotations",))["annotations"]
        images = {scene.image.id: scene.image for scene in dataset.scenes}
        things = {category.id for category in dataset.categories if category.isthing}
        found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        unlisted = set()
        for index, record in enumerate(records):
            try:
                image_id, category_id = image_id_of(record["image_id"]), record["category_id"]
                score = float(record["score"])
                hash((image_id, category_id))
            except (KeyError, TypeError, ValueError) as error:
                raise BadDataset(
                    f"{path}: result {index} lacks or has a wrong {error}. Results have image_id, category_id, "
                    "segmentation and score."
                ) from error
            if category_id not in things:
                raise BadDataset(f"{path}: result {index} is of category {category_id}, which is not a thing here.")
            if image_id not in images:
                unlisted.add(image_id)
            elif score >= least_score:
                found[image_id].append(record)
        if unlisted and not found:
            raise BadDataset(
                f"{path} has results of other images only, such as {listed(sorted(unlisted, key=str), 3)}."
            )
        ordered = {image: sorted(own, key=lambda record: -float(record["score"])) for image, own in found.items()}
        return cls(path, ordered, images, dataset.categories, maps)

    def read(self, image_id: Any, device: torch.device | None = None) -> Instances:
        """Returns an image's instances, labelled by category id, and its semantic map as channels of 0 and 1."""
        image = self.images[image_id]
        size = image.height, image.width
        own = self.by_image.get(image_id, ())
        where = f"{self.path}: a result of image {image_id}"
        masks = [instance_mask(record.get("segmentation"), *size, where)[0] for record in own]
        stuff = [category.id for category in self.categories if not category.isthing]
        channels = np.zeros((1 + len(stuff), *size), np.uint8)
        labels = np.full(size, NOTHING, np.int32) if self.maps is None else self.maps.read(image.file_name, size)
        for channel, category_id in enumerate(stuff, 1):
            channels[channel] = labels == category_id
        channels[0] = ~channels[1:].any(axis=0)
        return Instances(
            boxes=None,
            masks=torch.from_numpy(np.array(masks, np.uint8).reshape(len(masks), *size)),
            labels=tuple(record["category_id"] for record in own),
            scores=tuple(float(record["score"]) for record in own),
            semantic_logits=torch.from_numpy(channels).float(),
            semantic_labels=(NO_LABEL, *stuff),
            frame=Frame(size, size, size),
        )


class ResultsModel(Model):
    """A `Model` that runs no network: it returns a detector's instances from a COCO results file.

    Its labels are the category ids of the dataset.
    """

    def __init__(self, results: InstanceResults) -> None:
        """Takes a detector's stored results as the outputs of a model."""
        self.results = results
        self.rule = PanopticFPN()
        self.device = torch.device("cpu")
        self.class_names, self.isthing = (), ()
        name = results.path.stem
        self.spec = ModelSpec(name, title=name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings for run.json: the paths and hashes of the fused files."""
        maps = self.results.maps
        return {
            "instances": str(self.results.path.absolute()),
            "instances_sha256": sha256_of(self.results.path),
            "semantic": None if maps is None else str(Path(maps.folder).absolute()),
            "offset": None if maps is None else maps.offset,
        }

    def describe(self) -> ModelRecord:
        """Returns the model's record for run.json, named after the results' file."""
        return ModelRecord(name=self.spec.name, title=self.spec.title)

    def load(self, scene: Scene) -> LoadedImage:
        """Returns a black image of the photograph's size; the outputs are already stored, so no photograph is read."""
        return LoadedImage(scene, torch.zeros(3, scene.image.height, scene.image.width, dtype=torch.uint8), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Instances]:
        """Returns the stored instances and semantic map of each image in the batch."""
        return [self.results.read(image.scene.image.id) for image in batch]
