"""Runs any model on photographs: writes overlays, id PNGs and a COCO panoptic JSON."""

import hashlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import PAPER, ModelSpec
from panbench.datasets import Dataset
from panbench.evaluation.several import folder_name_of_rule
from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png, write_panoptic_json
from panbench.panoptic.photo import find_photographs, inspect_photo
from panbench.panoptic.types import Annotation, Category, Exif, ImageInfo, PanopticSet, Scene
from panbench.report.figures.overlays import overlay_picture, save_picture
from panbench.report.figures.pictures import (
    Layer,
    overlay_figure,
    read_photo,
    save_figure,
    side_by_side_figure,
    viewed,
)

PHOTOGRAPHS = "photographs"
"""The split of a dataset of photographs without ground truth."""
WIDTH, DPI = 7.0, 200.0
"""Inches and dots per inch of a figure, if one of them, or a format other than PNG, is requested."""


@dataclass(frozen=True)
class Drawing:
    """The options for drawing overlays.

    form: png, svg or pdf; view: of `pictures.VIEWS`; style: arguments of `overlay_picture`
    width, dpi: of figures, in inches; without either a PNG has the photograph's pixels, enlarged if small
    """

    form: str = "png"
    view: str = "panoptic"
    style: Mapping[str, Any] = field(default_factory=dict)
    width: float | None = None
    dpi: float | None = None

    @property
    def figure_options(self) -> dict[str, Any]:
        """The options that functions in `report/figures` take, as keyword arguments."""
        return {"width": self.width or WIDTH, **self.style}


PLAIN = Drawing()


def segment_photographs(
    spec: ModelSpec,
    images: Sequence[Path],
    out: Path,
    *,
    weights: str = "auto",
    seed: int = 0,
    rule: str | None = None,
    device: str = "auto",
    drawing: Drawing = PLAIN,
    overwrite: bool = False,
    download: bool = False,
    exif: Exif = "apply",
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Segments photographs; writes NAME.overlay.<drawing.form> and ids/NAME.png for each, and ids.json, into `out`.

    Returns the paths of the overlays and of ids.json.

    images: files, or folders whose images are taken
    rule: a fusion rule as `--rule` names it; None: the model's own; seed: of random weights
    download: fetch missing weights
    exif: "apply" turns photographs as their EXIF orientation says; "ignore" takes them as they are stored
    reporter: gets progress; notices on the licence of the weights, unreadable photographs, and time per image
    ids.json lists images, segments with scores, and categories; areas are counted pixels. Raises BadDataset when no
    photograph can be read, BadArgument when `out` holds an earlier result and `overwrite` is not set.
    """
    target = out / "ids.json"
    if target.exists() and not overwrite:
        raise BadArgument(f"{out} holds earlier predictions. Give another --out, or --overwrite to replace them.")
    paths = find_photographs(images)
    sizes, oriented, faults = _inspect_photos(paths, exif)
    names = dict(zip([path for path, _ in sizes], _distinct_stems([path for path, _ in sizes]), strict=True))
    _refuse_to_replace(names.values(), paths, out, drawing.form, overwrite)
    # Imports torch, which takes seconds: the photographs are checked first.
    from panbench.evaluation.wrapping import refuse_unfit, rules_of
    from panbench.models.opening import open_model
    from panbench.models.predict import model_categories, segment

    model = open_model(spec, weights=weights, seed=seed, device=device, download=download, reporter=reporter)
    (chosen,) = rules_of(model, [] if rule is None else [rule])
    refuse_unfit(chosen, model)
    categories = model_categories(model)
    written, infos, annotations = [], {}, {}
    seconds, began = [], time.perf_counter()
    for done, (scene, prediction) in enumerate(segment(model, sizes, categories, exif, chosen)):
        reporter.progress(spec.title, done, len(sizes))
        seconds.append(time.perf_counter() - began)
        assert scene.image_path is not None
        if isinstance(prediction, BadDataset):
            faults.append(str(prediction))
            seconds.pop()
            began = time.perf_counter()
            continue
        name = names[scene.image_path]
        layer = viewed(Layer.of(spec.title, prediction.ids, prediction.segments), drawing.view, categories)
        photo = read_photo(scene.image_path, turned=exif == "apply")
        overlay = out / f"{name}.overlay.{drawing.form}"
        if drawing.form == "png" and drawing.width is None and drawing.dpi is None:
            save_picture(overlay_picture(photo, layer, categories, **drawing.style), overlay)
        else:
            save_figure(
                overlay_figure(photo, layer, categories, **drawing.figure_options), overlay, dpi=drawing.dpi or DPI
            )
        write_id_png(out / "ids" / f"{name}.png", prediction.ids)
        image = scene.image
        infos[image.id] = ImageInfo(image.id, image.file_name, image.height, image.width)
        annotations[image.id] = Annotation(image.id, f"{name}.png", tuple(prediction.segments))
        written.append(overlay)
        began = time.perf_counter()
    reporter.progress(spec.title, len(sizes), len(sizes))
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
    drawing: Drawing = PLAIN,
    overwrite: bool = False,
    exif: Exif = "apply",
    **settings: Any,
) -> list[Path]:
    """Segments photographs by several models or rules: a folder for each, and pictures of all results.

    answers: models, each with a rule or None for its own; settings: further arguments of `segment_photographs`
    NAME.side-by-side.<drawing.form> shows a photograph and the result of each. Returns the paths of these pictures.
    """
    paths = find_photographs(images)
    sizes = _inspect_photos(paths, exif)[0]
    names = _distinct_stems([path for path, _ in sizes])
    pictures = [out / f"{name}.side-by-side.{drawing.form}" for name in names]
    for picture in pictures:
        if picture.exists() and not overwrite:
            raise BadArgument(f"{picture} already exists. Give another --out, or --overwrite to replace it.")
    several = len({rule for _, rule in answers}) > 1
    folders: dict[Path, str] = {}
    for spec, rule in answers:
        folder = out / (f"{spec.name}-{folder_name_of_rule(rule or PAPER)}" if several else spec.name)
        folders[folder] = f"{spec.title} [{rule or PAPER}]" if several else spec.title
        segment_photographs(
            spec, images, folder, rule=rule, drawing=drawing, overwrite=overwrite, exif=exif, **settings
        )
    return list(_draw_beside_results(folders, dict(zip(names, sizes, strict=True)), out, drawing, exif))


def _draw_beside_results(
    folders: Mapping[Path, str],
    photographs: Mapping[str, tuple[Path, tuple[int, int]]],
    out: Path,
    drawing: Drawing,
    exif: Exif,
) -> Iterator[Path]:
    """Draws each photograph next to its stored results; skips photographs without results."""
    sets = {folder: read_panoptic_json(folder / "ids.json") for folder in folders}
    for number, (name, (path, size)) in enumerate(photographs.items(), start=1):
        layers: list[Layer] = []
        categories: tuple[Category, ...] = ()
        for folder, title in folders.items():
            if number not in sets[folder].annotations:
                continue
            ids = read_id_png(folder / "ids" / f"{name}.png", size, image_id=number)
            layer = Layer.of(title, ids, sets[folder].annotations[number].segments)
            layers.append(viewed(layer, drawing.view, sets[folder].categories))
            categories = sets[folder].categories
        if layers:
            photo, picture = read_photo(path, turned=exif == "apply"), out / f"{name}.side-by-side.{drawing.form}"
            save_figure(
                side_by_side_figure(photo, layers, categories, **drawing.figure_options),
                picture,
                dpi=drawing.dpi or DPI,
            )
            yield picture


def _inspect_photos(
    paths: Sequence[Path], exif: Exif
) -> tuple[list[tuple[Path, tuple[int, int]]], list[Path], list[str]]:
    """Inspects photographs; returns those that can be read with their sizes, those not upright, and error messages.

    Raises BadDataset if none can be read.
    """
    sizes: list[tuple[Path, tuple[int, int]]] = []
    oriented: list[Path] = []
    faults: list[str] = []
    for path in paths:
        try:
            size, orientation = _inspect_size(path, exif)
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
    """Raises BadArgument if a result would replace an input photograph, or any other file unless requested."""
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
    """Makes a dataset without ground truth of photographs, from files or folders.

    exif: "apply" rotates them by their EXIF orientation. Raises BadDataset if there are none, or one cannot be read.
    """
    paths = find_photographs(images)
    scenes = tuple(
        Scene(ImageInfo(number, path.name, *_inspect_size(path, exif)[0]), path)
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


def _inspect_size(path: Path, exif: Exif) -> tuple[tuple[int, int], int]:
    """Returns the (height, width) of a photograph, and its EXIF orientation. Raises BadDataset if unreadable."""
    facts = inspect_photo(path, exif=exif)
    height, width = facts.shape or read_photo(path, turned=exif == "apply").shape[:2]
    return (height, width), facts.orientation


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
    """Returns file names without extension, with a number appended to duplicates."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 2
        while name.lower() in taken:
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
