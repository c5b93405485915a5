"""Predicts single images and photographs, and translates a model's labels to a dataset's categories."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from panbench.base.errors import BadDataset, BadModel
from panbench.models.labels import CategoryIds, known_labels
from panbench.models.model import Model
from panbench.models.rules import Rule, SegmentedMap, fuse
from panbench.panoptic.types import Category, Exif, ImageInfo, PanopticPrediction, Scene, Segment


def predict(model: Model, scene: Scene, ids: CategoryIds, rule: Rule | None = None) -> PanopticPrediction:
    """Predicts the panoptic segmentation of one image, fused by `rule` or the model's own. Raises NonFiniteOutput."""
    rule = rule or model.rule
    (fused,) = fuse(model.candidates([model.load(scene)]), rule)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return prediction_of(scene.image.id, model.to_segments(fused, rule), ids)


def prediction_of(image_id: int, segmented: SegmentedMap, ids: CategoryIds) -> PanopticPrediction:
    """Replaces labels by category ids in an id map's segments. Raises BadModel for a label without a category."""
    id_map, segments = segmented
    labels = {each.label for each in segments}
    if isinstance(ids, Mapping):
        if unknown := sorted(labels - ids.keys()):
            raise BadModel(
                f"The model gives category {unknown[0]} on image {image_id}, which the dataset does not have.",
                ways=["give it `categories`, and they are matched by name"],
            )
    elif any(label >= len(ids) for label in labels):
        raise BadModel(f"The model gives a label beyond its {len(ids)} categories on image {image_id}.")
    named = tuple(Segment(each.id, ids[each.label], each.area, score=each.score) for each in segments)
    return PanopticPrediction(image_id, id_map, named)


def labels_as_categories(model: Model) -> list[Category]:
    """Returns the model's labels as categories, with the labels as ids. Raises BadModel for a model without names."""
    if not model.class_names:
        raise BadModel(f"{model.spec.title} does not name its categories. Give its function `categories`.")
    return [
        Category(label, name, thing)
        for label, (name, thing) in enumerate(zip(model.class_names, model.isthing, strict=True))
    ]


def model_categories(model: Model) -> tuple[Category, ...]:
    """Returns a category for each label of the model: the known dataset's, else with ids from 1.

    Where the names are those of a set that panbench knows (`labels.known_labels`), ids, colours and spelling are that
    set's; else ids count from 1. Raises BadModel for a model that names no categories.
    """
    own = labels_as_categories(model)
    if (known := known_labels(model.class_names)) is not None:
        return known
    return tuple(Category(category.id + 1, category.name, category.isthing) for category in own)


def scene_of(path: Path, image_id: int, height: int, width: int) -> Scene:
    """Makes a Scene, an image without ground truth, of a photograph that belongs to no dataset."""
    return Scene(ImageInfo(image_id, path.name, height, width), path)


def segment(
    model: Model,
    photos: Iterable[tuple[Path, tuple[int, int]]],
    categories: tuple[Category, ...],
    exif: Exif = "apply",
    rule: Rule | None = None,
) -> Iterator[tuple[Scene, PanopticPrediction | BadDataset]]:
    """Yields for each photograph its Scene (image ids from 1) and its prediction, or the error if it cannot be read.

    photos: path and (height, width) of each; rule: the model's own if None
    """
    ids = [category.id for category in categories]
    for number, (path, (height, width)) in enumerate(photos, start=1):
        scene = replace(scene_of(path, number, height, width), exif=exif)
        try:
            yield scene, predict(model, scene, ids, rule)
        except BadDataset as error:
            yield scene, error
