"""Photographs through any model: overlays, id PNGs and a COCO panoptic JSON."""

import hashlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import PAPER, ModelSpec
from panbench.datasets import Dataset
from panbench.evaluation.several import slug
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png, write_panoptic_json
from panbench.panoptic.photo import inspect_photo
from panbench.panoptic.photo_files import find_photographs
from panbench.panoptic.types import Annotation, Category, Exif, ImageInfo, PanopticSet, Scene
from panbench.report.figures.pictures import (
    Layer,
    overlay_figure,
    read_photo,
    save_figure,
    side_by_side_figure,
    viewed,
)

if TYPE_CHECKING:
    pass

__all__ = ["photograph_dataset", "segment_photographs", "segment_side_by_side"]

PHOTOGRAPHS = "photographs"
"""The split of a dataset of photographs without ground truth."""


def segment_photographs(
    spec: ModelSpec,
    images: Sequence[Path],
    out: Path,
    *,
    weights: str = "auto",
    seed: int = 0,
    rule: str | None = None,
    device: str = "auto",
    form: str = "png",
    view: str = "panoptic",
    style: Mapping[str, Any] | None = None,
    dpi: float = 200,
    overwrite: bool = False,
    download: bool = False,
    exif: Exif = "apply",
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Segments photographs and writes into `out`, for each, NAME.overlay.<form>; ids/NAME.png; and ids.json; the paths.

    images: files, or folders whose images are taken
    rule: a fusion rule as `--rule` names it; None: the model's own; seed: of random weights
    view: of `pictures.VIEWS`, for the overlays; style: arguments of `overlay_figure`
    download: fetch weights that are not here
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
    sizes, oriented, faults = _looked_at(paths, exif)
    names = dict(zip([path for path, _ in sizes], _distinct_stems([path for path, _ in sizes]), strict=True))
    _refuse_to_replace(names.values(), paths, out, form, overwrite)
    # Imports torch, which takes seconds: the photographs are checked first.
    from panbench.evaluation.fits import refuse_unfit
    from panbench.evaluation.shown import rules_of
    from panbench.models.opening import open_model
    from panbench.models.predict import model_categories, segment

    model = open_model(spec, weights=weights, seed=seed, device=device, download=download, reporter=reporter)
    (chosen,) = rules_of(model, [] if rule is None else [rule])
    refuse_unfit(chosen, model)
    categories = model_categories(model)
    written, infos, annotations = [], {}, {}
    seconds, began = [], time.perf_counter()
    for scene, prediction in segment(model, sizes, categories, exif, chosen):
        seconds.append(time.perf_counter() - began)
        assert scene.image_path is not None
        if isinstance(prediction, BadDataset):
            faults.append(str(prediction))
            seconds.pop()
            began = time.perf_counter()
            continue
        name = names[scene.image_path]
        layer = viewed(Layer.of(spec.title, prediction.ids, prediction.segments), view, categories)
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
        how = "rotated accordingly" if exif == "apply" else "read as stored"
        reporter.notice(
            f"{len(oriented):,} of {len(paths):,} photographs have an EXIF orientation other than upright, such as "
            f"{oriented[0]}, and were {how}, with their id PNGs."
        )
    per_image = statistics.median(seconds)
    reporter.notice(f"{per_image:.2f} s per image on {model.device} (median of {len(seconds)}, without pictures).")
    write_panoptic_json(target, PanopticSet(categories, infos, annotations, out / "ids", target))
    return [*written, target]


def segment_side_by_side(
    answers: Sequence[tuple[ModelSpec, str | None]],
    images: Sequence[Path],
    out: Path,
    *,
    form: str = "png",
    view: str = "panoptic",
    style: Mapping[str, Any] | None = None,
    dpi: float = 200,
    overwrite: bool = False,
    exif: Exif = "apply",
    **settings: Any,
) -> list[Path]:
    """Segments photographs by several models or rules: a folder of each, as of `segment_photographs`, and pictures.

    answers: models, each with a rule or None for its own; settings: further arguments of `segment_photographs`
    NAME.side-by-side.<form> shows a photograph and what each of them makes of it. The paths of these pictures.
    """
    paths = find_photographs(images)
    sizes = _looked_at(paths, exif)[0]
    names = _distinct_stems([path for path, _ in sizes])
    pictures = [out / f"{name}.side-by-side.{form}" for name in names]
    for picture in pictures:
        if picture.exists() and not overwrite:
            raise BadArgument(f"{picture} already exists. Give another --out, or --overwrite to replace it.")
    several = len({rule for _, rule in answers}) > 1
    folders: dict[Path, str] = {}
    for spec, rule in answers:
        folder = out / (f"{spec.name}-{slug(rule or PAPER)}" if several else spec.name)
        folders[folder] = f"{spec.title} [{rule or PAPER}]" if several else spec.title
        segment_photographs(
            spec, images, folder, rule=rule, form=form, view=view, style=style, dpi=dpi, overwrite=overwrite, exif=exif,
            **settings,
        )  # fmt: skip
    photographs = dict(zip(names, sizes, strict=True))
    return list(_pictures_of(folders, photographs, out, form, view, style, dpi, exif))


def _pictures_of(
    folders: Mapping[Path, str],
    photographs: Mapping[str, tuple[Path, tuple[int, int]]],
    out: Path,
    form: str,
    view: str,
    style: Mapping[str, Any] | None,
    dpi: float,
    exif: Exif,
) -> Iterator[Path]:
    """Writes a picture of each photograph with the stored answers beside each other; those who lack it are left out."""
    sets = {folder: read_panoptic_json(folder / "ids.json") for folder in folders}
    for number, (name, (path, size)) in enumerate(photographs.items(), start=1):
        layers: list[Layer] = []
        categories: tuple[Category, ...] = ()
        for folder, title in folders.items():
            if number not in sets[folder].annotations:
                continue
            ids = read_id_png(folder / "ids" / f"{name}.png", size, image_id=number)
            layer = Layer.of(title, ids, sets[folder].annotations[number].segments)
            layers.append(viewed(layer, view, sets[folder].categories))
            categories = sets[folder].categories
        if layers:
            figure = side_by_side_figure(read_photo(path, turned=exif == "apply"), layers, categories, **(style or {}))
            save_figure(figure, out / f"{name}.side-by-side.{form}", dpi=dpi)
            yield out / f"{name}.side-by-side.{form}"


def _looked_at(paths: Sequence[Path], exif: Exif) -> tuple[list[tuple[Path, tuple[int, int]]], list[Path], list[str]]:
    """Photographs with their sizes, those that are not upright, and a sentence on each that cannot be read.

    Raises BadDataset when none can be read.
    """
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
    return sizes, oriented, faults


def _refuse_to_replace(
    names: Iterable[str], photographs: Iterable[Path], out: Path, form: str, overwrite: bool
) -> None:
    """Raises BadArgument where a result would replace a photograph that is read, or unasked any other file."""
    read = {path.resolve() for path in photographs}
    for name in names:
        for path in (out / f"{name}.overlay.{form}", out / "ids" / f"{name}.png"):
            if path.resolve() in read:
                raise BadArgument(f"{path} is one of the photographs that are read. Give another --out.")
            if path.exists() and not overwrite:
                raise BadArgument(f"{path} already exists. Give another --out, or --overwrite to replace it.")


def photograph_dataset(
    images: Sequence[Path], categories: tuple[Category, ...], *, limit: int | None = None, exif: Exif = "apply"
) -> Dataset:
    """Photographs as a dataset without ground truth, from files or folders.

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
