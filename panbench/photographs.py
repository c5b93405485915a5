"""The user's own photographs through any model: an overlay and an id PNG for each, and one COCO panoptic JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panbench.catalog import ModelSpec
from panbench.errors import BadArgument, BadDataset
from panbench.models.predict import model_categories, open_model, segment
from panbench.panoptic import Annotation, ImageInfo, PanopticSet, listed, write_id_png, write_panoptic_json
from panbench.report.pictures import Layer, overlay_figure, read_photo, save_figure

__all__ = ["find_photographs", "segment_photographs"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Path]:
    """Segments photographs and writes into `out`, for each, NAME.overlay.<form>; ids/NAME.png; and ids.json; the paths.

    images: files, or folders whose images are taken
    style: arguments of `overlay_figure`; say: called with a sentence for each photograph that cannot be read
    ids.json lists images, segments with scores, and categories; areas are counted pixels. Raises BadDataset when no
    photograph can be read, BadArgument when `out` holds an earlier result and `overwrite` is not set.
    """
    target = out / "ids.json"
    if target.exists() and not overwrite:
        raise BadArgument(f"{out} holds earlier predictions. Give another --out, or --overwrite to replace them.")
    paths = find_photographs(images)
    sizes, faults = [], []
    for path in paths:
        try:
            sizes.append((path, read_photo(path).shape[:2]))
        except BadDataset as error:
            faults.append(str(error))
    if not sizes:
        raise BadDataset(faults[0])
    model = open_model(spec, weights=weights, device=device)
    categories = model_categories(model)
    names = dict(zip([path for path, _ in sizes], _distinct_stems([path for path, _ in sizes]), strict=True))
    written, infos, annotations = [], {}, {}
    for scene, prediction in segment(model, sizes, categories):
        assert scene.image_path is not None
        if isinstance(prediction, BadDataset):
            faults.append(str(prediction))
            continue
        name = names[scene.image_path]
        layer = Layer.of(spec.title, prediction.ids, prediction.segments)
        figure = overlay_figure(read_photo(scene.image_path), layer, categories, **(style or {}))
        overlay = out / f"{name}.overlay.{form}"
        save_figure(figure, overlay, dpi=dpi)
        write_id_png(out / "ids" / f"{name}.png", prediction.ids)
        image = scene.image
        infos[image.id] = ImageInfo(image.id, image.file_name, image.height, image.width)
        annotations[image.id] = Annotation(image.id, f"{name}.png", tuple(prediction.segments))
        written.append(overlay)
    for fault in faults:
        say(f"Left out: {fault}")
    if not written:
        raise BadDataset(faults[0])
    write_panoptic_json(target, PanopticSet(categories, infos, annotations, out / "ids", target))
    return [*written, target]


def find_photographs(images: Iterable[Path]) -> list[Path]:
    """The files among `images` and the images in its folders, sorted there. Raises BadDataset for what is not there."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise BadDataset(f"{path} holds no image ({listed(ENDINGS)}).")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise BadDataset(f"There is no image {path}.")
    return list(dict.fromkeys(found))


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
