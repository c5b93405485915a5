"""Photographs through any model: overlays, id PNGs and a COCO panoptic JSON; and what a model's queries look at."""

import hashlib
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadArgument, BadDataset, BadModel, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import WITHOUT_QUERIES, ModelSpec, find_model, load_catalog, no_queries
from panbench.datasets import Dataset
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.photo import inspect_photo
from panbench.panoptic.photo_files import find_photographs
from panbench.panoptic.types import Annotation, Category, Exif, ImageInfo, PanopticSet, Scene
from panbench.report.figures.attention import attention_figure
from panbench.report.figures.pictures import Layer, Pictures, overlay_figure, read_photo, save_figure
from panbench.runs import ModelRecord, load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention_of", "photograph_dataset", "segment_photographs"]

PHOTOGRAPHS = "photographs"
"""The split of a dataset of photographs without ground truth."""


def segment_photographs(
    spec: ModelSpec,
    images: Sequence[Path],
    out: Path,
    *,
    weights: str = "auto",
    device: str = "auto",
    form: str = "png",
    style: Mapping[str, Any] | None = None,
    dpi: float = 200,
    overwrite: bool = False,
    download: bool = False,
    exif: Exif = "apply",
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Segments photographs and writes into `out`, for each, NAME.overlay.<form>; ids/NAME.png; and ids.json; the paths.

    images: files, or folders whose images are taken
    style: arguments of `overlay_figure`; download: fetch weights that are not here
    exif: "apply" turns photographs as their EXIF orientation says; "ignore" takes them as they are stored
    reporter: gets the download, and as notices the licence of the weights, each photograph that cannot be read, and the
        time an image takes
    ids.json lists images, segments with scores, and categories; areas are counted pixels. Raises BadDataset when no
    photograph can be read, BadArgument when `out` holds an earlier result and `overwrite` is not set.
    """
    target = out / "ids.json"
    if target.exists() and not overwrite:
        raise BadArgument(f"{out} holds earlier predictions. Give another --out, or --overwrite to replace them.")
    paths = find_photographs(images)
    sizes: list[tuple[Path, tuple[int, int]]] = []
    oriented: list[Path] = []
    faults: list[str] = []
    for path in paths:
        try:
            size, orientation = _look(path, exif)
            sizes.append((path, size))
            if orientation != 1:
                oriented.append(path)
        except BadDataset as error:
            faults.append(str(error))
    if not sizes:
        raise BadDataset(faults[0])
    names = dict(zip([path for path, _ in sizes], _distinct_stems([path for path, _ in sizes]), strict=True))
    _refuse_to_replace(names.values(), paths, out, form, overwrite)
    # Imports torch, which takes seconds: the photographs are checked first.
    from panbench.models.opening import open_model
    from panbench.models.predict import model_categories, segment

    model = open_model(spec, weights=weights, device=device, download=download, reporter=reporter)
    categories = model_categories(model)
    written, infos, annotations = [], {}, {}
    seconds, began = [], time.perf_counter()
    for scene, prediction in segment(model, sizes, categories, exif):
        seconds.append(time.perf_counter() - began)
        assert scene.image_path is not None
        if isinstance(prediction, BadDataset):
            faults.append(str(prediction))
            seconds.pop()
            began = time.perf_counter()
            continue
        name = names[scene.image_path]
        layer = Layer.of(spec.title, prediction.ids, prediction.segments)
        figure = overlay_figure(
            read_photo(scene.image_path, turned=exif == "apply"), layer, categories, **(style or {})
        )
        overlay = out / f"{name}.overlay.{form}"
        save_figure(figure, overlay, dpi=dpi)
        write_id_png(out / "ids" / f"{name}.png", prediction.ids)
        image = scene.image
        infos[image.id] = ImageInfo(image.id, image.file_name, image.height, image.width)
        annotations[image.id] = Annotation(image.id, f"{name}.png", tuple(prediction.segments))
        written.append(overlay)
        began = time.perf_counter()
    for fault in faults:
        reporter.notice(f"Left out: {fault}")
    if not written:
        raise BadDataset(faults[0])
    if oriented:
        how = "turned as it says" if exif == "apply" else "taken as they are stored"
        reporter.notice(
            f"{len(oriented):,} of {len(paths):,} photographs have an EXIF orientation other than upright, such as "
            f"{oriented[0]}, and were {how}; their id PNGs, too."
        )
    per_image = statistics.median(seconds)
    reporter.notice(f"{per_image:.2f} s an image on {model.device} (median of {len(seconds)}, pictures apart).")
    write_panoptic_json(target, PanopticSet(categories, infos, annotations, out / "ids", target))
    return [*written, target]


def _refuse_to_replace(
    names: Iterable[str], photographs: Iterable[Path], out: Path, form: str, overwrite: bool
) -> None:
    """Raises BadArgument where a result would replace a photograph that is read, or unasked any other file."""
    read = {path.resolve() for path in photographs}
    for name in names:
        for path in (out / f"{name}.overlay.{form}", out / "ids" / f"{name}.png"):
            if path.resolve() in read:
                raise BadArgument(f"{path} is a photograph that is read. Give another --out.")
            if path.exists() and not overwrite:
                raise BadArgument(f"{path} already exists. Give another --out, or --overwrite to replace it.")


def attention_of(
    *,
    run: Path | None = None,
    image: int | None = None,
    spec: ModelSpec | None = None,
    photo: Path | None = None,
    weights: str = "auto",
    device: str = "auto",
    download: bool = False,
    queries: Sequence[int] = (),
    category: str | None = None,
    most: int = 4,
    layers: Sequence[int] = (),
    width: float = 7.0,
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    reporter: Reporter = SILENT,
) -> "Figure":
    """The figure of what queries look at: of the model `spec` in `photo`, or of a run's model in one of its images.

    A run's model is the catalog's of its name, or `spec`, with the run's own weights unless `weights` names others. The
    other arguments are those of
    `models.attention.attended_queries` and `report.attention.attention_figure`.
    """
    if run is not None:
        assert image is not None
        stored = load_run(run)
        described = stored.info.model
        if described is None or not described.config:
            raise BadRun(f"{stored.name} holds scored predictions: there is no model to look into.")
        pictures = Pictures(stored, images=images, gt=gt, gt_dir=gt_dir)
        shown = pictures.photo(image)
        path = pictures.path(image)
        if weights == "auto":
            if described.random_weights or described.weights is None:
                raise BadRun(f"{stored.name} was made with random weights, which are not stored. Name a --checkpoint.")
            weights = described.weights
            if not Path(weights).is_file():
                raise BadRun(f"The weights of {stored.name}, {weights}, are gone. Name them with --checkpoint.")
        spec = spec or _spec_of(described)
    else:
        assert spec is not None
        assert photo is not None
        path, shown = photo, read_photo(photo)
    if spec.family in WITHOUT_QUERIES:
        raise no_queries(spec.title)
    # Imports torch, which takes seconds: run, photograph and family are checked first.
    from panbench.models.opening import open_model
    from panbench.models.predict import scene_of

    opened = open_model(spec, weights=weights, device=device, speedups=False, download=download, reporter=reporter)
    scene = scene_of(path, image or 1, *shown.shape[:2])
    if run is not None and stored.info.arguments.get("exif") == "ignore":
        scene = replace(scene, exif="ignore")
    if not hasattr(opened, "attend"):
        raise BadModel(f"{spec.title} shows no attention: panbench does not know where it looks.")
    found = opened.attend(scene, queries=queries, category=category, most=most, layers=layers)
    return attention_figure(shown, found, width=width)


def _spec_of(described: ModelRecord) -> ModelSpec:
    """The model of a run, by its name in the catalog.

    The config that run.json names is not run: it is a Python file, and a run, which may come from anybody, is data.
    """
    if described.name in load_catalog():
        return find_model(str(described.name))
    raise BadModel(
        f"The run's model {described.name} is not in the catalog. Its config, {described.config}, is a Python file, "
        "which panbench runs only when you name it: add --config FILE."
    )


def photograph_dataset(
    images: Sequence[Path], categories: tuple[Category, ...], *, limit: int | None = None, exif: Exif = "apply"
) -> Dataset:
    """Photographs as a dataset without ground truth: files, or folders whose images are taken.

    exif: whether they are turned as their EXIF orientation says. Raises BadDataset when there is none, or one cannot be
    read.
    """
    paths = find_photographs(images)
    scenes = tuple(
        Scene(ImageInfo(number, path.name, *_look(path, exif)[0]), path)
        for number, path in enumerate(paths[:limit], start=1)
    )
    listing = "\n".join(f"{scene.image.file_name} {scene.image.height} {scene.image.width}" for scene in scenes)
    folder = images[0] if images[0].is_dir() else images[0].parent
    return Dataset(
        name=folder.resolve().name,
        split=PHOTOGRAPHS,
        categories=categories,
        scenes=scenes,
        n_images=len(paths),
        fingerprint=hashlib.sha256(listing.encode()).hexdigest(),
        gt=folder,
        images=folder,
    ).with_exif(exif)


def _look(path: Path, exif: Exif) -> tuple[tuple[int, int], int]:
    """The (height, width) of a photograph, and its EXIF orientation. Raises BadDataset when it cannot be read."""
    facts = inspect_photo(path, exif=exif)
    height, width = facts.shape or read_photo(path, turned=exif == "apply").shape[:2]
    return (height, width), facts.orientation


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
    """The file names without ending, with a number where two would write the same file."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 2
        while name.lower() in taken:
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
