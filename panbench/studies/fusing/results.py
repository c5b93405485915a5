"""Results of a detector and semantic maps, as a model: any rule for instances makes panoptic predictions of them.

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

__all__ = ["InstanceResults", "ResultsModel", "images_to_fuse"]


def images_to_fuse(path: Path, categories: Sequence[Category] | None) -> Dataset:
    """The images of a JSON: of a panoptic ground truth with it, of any other that has `images` without.

    categories: of the predictions; None takes the ground truth's
    Raises BadDataset, and BadArgument where no categories are known or they are not the ground truth's.
    """
    document = read_json(path, ("images",))
    if any("segments_info" in record for record in document.get("annotations") or ()):
        dataset = dataset_of_set(read_panoptic_json(path), Path(), name=path.stem, images_needed=False)
        if categories is not None and _kinds(categories) != _kinds(dataset.categories):
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
    # Predictions are named after the images.
    if strange := next((info.file_name for info in infos if leaves_folder(info.file_name)), None):
        raise BadDataset(f"{path}: the file_name {strange!r} leaves its folder.")
    scenes = tuple(map(Scene, infos))
    return Dataset(path.stem, "", tuple(categories), scenes, len(scenes), sha256_of(path), path, Path())


def _kinds(categories: Sequence[Category]) -> set[tuple[int, bool]]:
    return {(category.id, category.isthing) for category in categories}


@dataclass(frozen=True)
class InstanceResults:
    """Scored instances and semantic maps of a set's images.

    by_image: records of the results by image id, by falling score; maps: None leaves what no instance covers void
    """

    path: Path
    by_image: Mapping[Any, Sequence[Mapping[str, Any]]]
    images: Mapping[Any, ImageInfo]
    categories: Sequence[Category]
    maps: SemanticMaps | None

    @classmethod
    def of(cls, path: Path, dataset: Dataset, maps: SemanticMaps | None, least_score: float) -> "InstanceResults":
        """Reads results. least_score: those that score less are passed over. Raises BadDataset."""
        records = read_json(path, ())
        if not isinstance(records, list):
            records = read_json(path, ("annotations",))["annotations"]
        images = {scene.image.id: scene.image for scene in dataset.scenes}
        things = {category.id for category in dataset.categories if category.isthing}
        found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        unlisted = set()
        for place, record in enumerate(records):
            try:
                image_id, category_id = image_id_of(record["image_id"]), record["category_id"]
                score = float(record["score"])
                hash((image_id, category_id))
            except (KeyError, TypeError, ValueError) as error:
                raise BadDataset(
                    f"{path}: result {place} lacks or has a wrong {error}. Results have image_id, category_id, "
                    "segmentation and score."
                ) from error
            if category_id not in things:
                raise BadDataset(f"{path}: result {place} is of category {category_id}, which is not a thing here.")
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
        """The instances of an image, whose labels are category ids, and its semantic map as channels of 0 and 1."""
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
    """Results as a `Model` that answers in the category ids of the dataset."""

    def __init__(self, results: InstanceResults) -> None:
        self.results = results
        self.rule = PanopticFPN()
        self.device = torch.device("cpu")
        self.class_names, self.isthing = (), ()
        name = results.path.stem
        self.spec = ModelSpec(name, name, None, None, None, None, None, None, None, (), None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Which files are fused."""
        maps = self.results.maps
        return {
            "instances": str(self.results.path.absolute()),
            "instances_sha256": sha256_of(self.results.path),
            "semantic": None if maps is None else str(Path(maps.folder).absolute()),
            "offset": None if maps is None else maps.offset,
        }

    def describe(self) -> ModelRecord:
        """The name of the results' file; no network is known."""
        return ModelRecord(name=self.spec.name, title=self.spec.title)

    def load(self, scene: Scene) -> LoadedImage:
        """The scene itself: no image is read."""
        return LoadedImage(scene, torch.zeros(3, scene.image.height, scene.image.width, dtype=torch.uint8), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Instances]:
        """The results of each image."""
        return [self.results.read(image.scene.image.id) for image in batch]
