"""What a model's queries look at: in a photograph, or in an image of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadModel, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import WITHOUT_QUERIES, ModelSpec, find_model, load_catalog, no_queries
from panbench.panoptic.types import Scene
from panbench.report.figures.pictures import Photo, Pictures, read_photo
from panbench.runs import ModelRecord, load_run
from panbench.studies.attention.figure import attention_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention_in_photo", "attention_in_run"]


Wishes = Mapping[str, Any]
"""Which queries and layers: arguments of `models.attention.attended_queries`."""


def attention_in_photo(
    spec: ModelSpec, photo: Path, wishes: Wishes, *, download: bool = False, reporter: Reporter = SILENT
) -> "Figure":
    """The figure of what a model's queries look at in a photograph."""
    shown = read_photo(photo)
    from panbench.models.predict import scene_of

    return _figure(spec, "auto", scene_of(photo, 1, *shown.shape[:2]), shown, download, reporter, wishes)


def attention_in_run(
    run: Path, image: int, wishes: Wishes, *, spec: ModelSpec | None = None, reporter: Reporter = SILENT
) -> "Figure":
    """The same of a run's model, with the run's weights, in one of its images.

    spec: the model, where the catalog has none of its name
    Raises BadRun and BadModel where the run does not say which model it was.
    """
    stored = load_run(run)
    described = stored.info.model
    if described is None or not described.config:
        raise BadRun(f"{stored.name} holds scored predictions: there is no model to look into.")
    pictures = Pictures(stored)
    shown, path = pictures.photo(image), pictures.path(image)
    if described.random_weights or described.weights is None:
        raise BadRun(f"{stored.name} was made with random weights, which are not stored. Name another run.")
    if not Path(described.weights).is_file():
        raise BadRun(f"The weights of {stored.name}, {described.weights}, were not found. Put them back.")
    spec = spec or _spec_of(described)
    if spec.family in WITHOUT_QUERIES:
        raise no_queries(spec.title)
    from panbench.models.predict import scene_of

    scene = scene_of(path, image, *shown.shape[:2])
    if stored.info.arguments.get("exif") == "ignore":
        scene = replace(scene, exif="ignore")
    return _figure(spec, described.weights, scene, shown, False, reporter, wishes)


def _figure(
    spec: ModelSpec,
    weights: str,
    scene: Scene,
    shown: Photo,
    download: bool,
    reporter: Reporter,
    wishes: Wishes,
) -> "Figure":
    # Imports torch, which takes seconds: run, photograph and family are checked first.
    from panbench.models.opening import open_model

    model = open_model(spec, weights=weights, speedups=False, download=download, reporter=reporter)
    return attention_figure(shown, model.attend(scene, **wishes))


def _spec_of(described: ModelRecord) -> ModelSpec:
    """The model of a run, by its name in the catalog.

    The config that run.json names is not run: it is a Python file, and a run, which may come from anybody, is data.
    """
    if described.name in load_catalog():
        return find_model(str(described.name))
    raise BadModel(
        f"The run's model {described.name} is not in the catalog. Its config, {described.config}, is a Python file, "
        "which panbench runs only when you name it: add --model FILE.py."
    )
