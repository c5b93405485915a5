"""Segments any photographs with any model: no dataset, no ground truth, no score."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from panbench.base.errors import BadDataset
from panbench.base.reporter import SILENT, Reporter, counter
from panbench.catalog import ModelSpec
from panbench.datasets.convert import shipped_categories
from panbench.datasets.shapes import CATEGORIES as SHAPES
from panbench.models.checkpoints import fetch_weights
from panbench.models.mmdet.model import PanopticModel, choose_device, load_model
from panbench.panoptic.types import Category, ImageInfo, PanopticPrediction, Scene

__all__ = ["model_categories", "open_model", "scene_of", "segment"]

KNOWN_SETS = ("coco", "cityscapes", "ade20k")


def open_model(
    spec: ModelSpec,
    *,
    weights: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    compiled: bool = False,
    speedups: bool = True,
    download: bool = False,
    reporter: Reporter = SILENT,
) -> PanopticModel:
    """The model of a spec, ready to run.

    weights: "auto" (the config's), "random" (drawn from `seed`), or a path
    speedups, compiled: as in `load_model`; download: fetch weights that are not here, else the error says how
    Raises BadModel, BadCheckpoint, BadArgument.
    """
    chosen = choose_device(device)
    path = None if weights == "random" else str(Path(weights).expanduser())
    if weights == "auto":
        counted = counter(reporter, f"{spec.title}: weights", "bytes")
        path = str(fetch_weights(spec, progress=counted, offline=not download))
    return load_model(spec, path, device=chosen, precision=precision, seed=seed, speedups=speedups, compiled=compiled)


def model_categories(model: PanopticModel) -> tuple[Category, ...]:
    """A category for each label of the model, in their order.

    Where the names are those of COCO, Cityscapes, ADE20K or shapes, ids and colours are that set's; else ids count
    from 1.
    """
    shapes = tuple(
        Category(c["id"], c["name"], bool(c["isthing"]), c["supercategory"], tuple(c["color"])) for c in SHAPES
    )
    for known in (*(shipped_categories(name) for name in KNOWN_SETS), shapes):
        by_name = {category.name: category for category in known}
        if len(by_name) == len(known) == len(model.class_names) and set(by_name) == set(model.class_names):
            return tuple(by_name[name] for name in model.class_names)
    return tuple(Category(label + 1, name, label < model.num_things) for label, name in enumerate(model.class_names))


def scene_of(path: Path, image_id: int, height: int, width: int) -> Scene:
    """A scene of a photograph that belongs to no dataset."""
    return Scene(ImageInfo(image_id, path.name, height, width), path)


def segment(
    model: PanopticModel, photos: Iterable[tuple[Path, tuple[int, int]]], categories: tuple[Category, ...]
) -> Iterator[tuple[Scene, PanopticPrediction | BadDataset]]:
    """The model's answer for each photograph, given as path and (height, width), numbered from 1.

    A photograph that the model's pipeline cannot read gives its error instead, so that the others are still segmented.
    """
    ids = [category.id for category in categories]
    for number, (path, (height, width)) in enumerate(photos, start=1):
        scene = scene_of(path, number, height, width)
        try:
            yield scene, model.predict(scene, ids)
        except BadDataset as error:
            yield scene, error
