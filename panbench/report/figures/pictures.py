"""Pictures of single images: segments over the photograph, models side by side, and where two models disagree.

A `Layer` is one answer for an image (the ground truth's or a model's) with what became of each of its segments. Figures
are matplotlib's: colours are pixels, outlines and names are vectors, so SVG and PDF stay sharp in print.
"""

import colorsys
import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from panbench.base.addresses import path_at
from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.base.files import atomic_write
from panbench.base.text import for_xml, listed
from panbench.panoptic import pixels
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.photo import decode_rgb
from panbench.panoptic.types import VOID, Category, IdMap, Segment
from panbench.report.answers.data_files import DataFiles, path_of
from panbench.report.figures.colors import ERRORS, LIGHT, MARKERS, error_kind, model_key, styles_of
from panbench.runs import Run, check_predictions_json
from panbench.runs.sources import exist, paths_in, png_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DISAGREEMENTS",
    "VIEWS",
    "Layer",
    "LayerSegment",
    "Pictures",
    "RunPictures",
    "compare_layers",
    "diff_figure",
    "disagreement",
    "key_to_errors",
    "overlay_figure",
    "save_figure",
    "segment_colors",
    "side_by_side_figure",
    "viewed",
]

Rgb = tuple[int, int, int]
Photo = npt.NDArray[np.uint8]

_LEGEND = 0.25
"""Inches below the panels for the key to errors."""

FIGURE_FORMATS = ("png", "svg", "pdf")

DISAGREEMENTS: Mapping[str, tuple[str, str]] = {
    "category": ("#EE7733", "another category, or a segment that only one of them has"),
    "instance": ("#AA4499", "one category, but parted into other objects"),
    "boundary": ("#0077BB", "both have the segment; its edge runs elsewhere"),
}
"""The kinds of disagreement of two maps, their colours (apart for colour-blind eyes) and what they mean."""

COLORINGS = ("errors", "categories")
"""How a judged map is coloured: what is wrong with it alone, or each segment by its category."""

STROKES: Mapping[str, tuple[str, str]] = {
    "missed": ("black", "missed"),
    "false": ("black", "false"),
    "confused": ("black", "wrong category"),
    "bad mask": ("white", "bad mask: the true outline is broken"),
}
"""Of each kind of error the colour beneath its line, and its words in a legend."""


@dataclass(frozen=True)
class LayerSegment:
    """A segment of a layer. verdict: "TP", "FP", "FN" or "ignored", with IoU, the matched id and the error's cause.

    verdict, iou and cause are None where there is nothing to judge by; matched_id is 0 without a match.
    shade: which shade of its category's colour it has, the same as the segment that it matches; None: by its area
    taken: of a wrong category (the true one, the predicted one)
    """

    id: int
    category_id: int
    area: int
    score: float | None = None
    iscrowd: bool = False
    verdict: str | None = None
    iou: float | None = None
    matched_id: int = 0
    cause: str | None = None
    shade: int | None = None
    taken: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        """Its key in ERRORS; "" where it was not judged."""
        return error_kind(self.verdict, self.cause)


@dataclass(frozen=True)
class Layer:
    """One answer for an image: `ids` (H, W) int32 at the image's size, 0 = void, and its segments.

    model: the key of the model whose answer it is, which has a colour (colors.py); "" for the ground truth
    missed: of a model the true segments that it missed, whose pixels are those of `truth` (H, W), None where none is
    """

    title: str
    ids: IdMap
    segments: tuple[LayerSegment, ...]
    model: str = ""
    missed: tuple[LayerSegment, ...] = ()
    truth: IdMap | None = None

    @staticmethod
    def of(title: str, ids: IdMap, segments: Sequence[Segment]) -> "Layer":
        """A layer without verdicts."""
        return Layer(title, ids, tuple(LayerSegment(s.id, s.category_id, s.area, s.score, s.iscrowd) for s in segments))

    def with_missed(self, truth: "Layer") -> "Layer":
        """The same layer with the segments that it missed, from a truth with this model's verdicts."""
        missed = tuple(segment for segment in truth.segments if segment.verdict == "FN")
        return replace(self, missed=missed, truth=truth.ids if missed else None)

    def errors(self) -> str:
        """How much of it is wrong, for people: "2 missed, 1 false"; "" where nothing was judged or it is the truth."""
        if not self.model or not any(segment.verdict for segment in (*self.segments, *self.missed)):
            return ""
        false = sum(segment.verdict == "FP" for segment in self.segments)
        parts = [(len(self.missed), "missed"), (false, "false")]
        return ", ".join(f"{count} {word}" for count, word in parts if count) or "no errors"


VIEWS = ("panoptic", "instance", "semantic")
"""How a map is shown: all segments; things alone; or categories, whose segments are one."""


def viewed(layer: Layer, view: str, categories: Sequence[Category]) -> Layer:
    """A layer as a view of VIEWS shows it; a semantic view has no verdicts and no misses. Raises BadArgument."""
    if view not in VIEWS:
        raise BadArgument(f"There is no view {view!r}. Choose one of {', '.join(VIEWS)}.")
    if view == "panoptic":
        return layer
    things = {category.id for category in categories if category.isthing}
    if view == "instance":
        kept, missed = (
            tuple(segment for segment in segments if segment.category_id in things)
            for segments in (layer.segments, layer.missed)
        )
        return replace(
            layer, ids=_renumbered(layer.ids, {one.id: one.id for one in kept}), segments=kept, missed=missed
        )
    number = {category: 1 + index for index, category in enumerate(sorted({s.category_id for s in layer.segments}))}
    ids = _renumbered(layer.ids, {one.id: number[one.category_id] for one in layer.segments})
    areas = np.bincount(ids.ravel(), minlength=1 + len(number))
    merged = tuple(LayerSegment(own, category, int(areas[own])) for category, own in number.items())
    return replace(layer, ids=ids, segments=merged, missed=(), truth=None)


def _renumbered(ids: IdMap, numbers: Mapping[int, int]) -> IdMap:
    """The map with other ids; 0 for those that have none."""
    known, place = np.unique(ids, return_inverse=True)
    return np.array([numbers.get(int(one), 0) for one in known], np.int32)[place].reshape(ids.shape)


class Pictures(DataFiles):
    """The photographs and the ground truth that a run was scored on; each thread keeps those of its last image."""

    @cached_property
    def _last(self) -> threading.local:
        return threading.local()

    def _once(self, image_id: int, name: str, read: Callable[[], Any]) -> Any:
        if getattr(self._last, "image_id", None) != image_id:
            self._last.image_id, self._last.found = image_id, {}
        found: dict[str, Any] = self._last.found
        if name not in found:
            found[name] = read()
        return found[name]

    def photo(self, image_id: int) -> Photo:
        """The (H, W, 3) uint8 RGB photograph, at the size in the JSON. Raises BadDataset naming the file."""
        return cast(Photo, self._once(image_id, "photo", lambda: self._read_photo(image_id)))

    def _read_photo(self, image_id: int) -> Photo:
        path = self.path(image_id)
        info = self.panoptic.images[image_id]
        photo = read_photo(path, turned=self._turned)
        if self._turned and photo.shape[:2] != (info.height, info.width):
            photo = read_photo(path, turned=False)
        if photo.shape[:2] != (info.height, info.width):
            raise BadDataset(
                f"{path} (image {own_id(image_id)}) is {photo.shape[0]}×{photo.shape[1]} but the JSON says "
                f"{info.height}×{info.width} (height × width)."
            )
        return photo

    def small_photo(self, image_id: int, size: tuple[int, int]) -> Photo:
        """The photograph for a picture of `size` (width, height), at that size or larger. Raises as `photo`.

        Of an upright JPEG only as many of its frequencies are decoded as the size shows.
        """
        path, info = self.path(image_id), self.panoptic.images[image_id]
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                plain = image.format == "JPEG" and image.mode == "RGB"
                upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                if plain and upright and image.size == (info.width, info.height):
                    image.draft("RGB", size)
                    return np.asarray(image)
        except (OSError, ValueError, SyntaxError):
            pass  # what is wrong with it, `photo` says in words
        return self.photo(image_id)

    def truth(self, image_id: int) -> Layer:
        """The ground truth of an image, without verdicts. Raises BadDataset."""
        return cast(Layer, self._once(image_id, "truth", lambda: self._read_truth(image_id)))

    def _read_truth(self, image_id: int) -> Layer:
        self.file_name(image_id)
        if image_id not in self.panoptic.annotations:
            raise BadDataset(f"{self.panoptic.path} has no annotation of image {own_id(image_id)}.")
        info = self.panoptic.images[image_id]
        ids = read_id_png(self.panoptic.png_path(image_id), (info.height, info.width), image_id=image_id)
        return Layer.of("Ground truth", ids, self.panoptic.annotations[image_id].segments)

    def predicted(self, image_id: int, path: Path, digest: bytes) -> IdMap:
        """The id map of a prediction of an image, whose PNG has a SHA-256, b"" if unknown. Raises BadRun."""
        return cast(IdMap, self._once(image_id, str(path), lambda: self._read_predicted(image_id, path, digest)))

    def _read_predicted(self, image_id: int, path: Path, digest: bytes) -> IdMap:
        info = self.panoptic.images.get(image_id)
        assert info is not None
        return read_id_png(path, (info.height, info.width), image_id=image_id, error=BadRun, digest=digest)


class RunPictures:
    """The stored predictions of a run, as layers with verdicts, IoUs and causes from its tables."""

    def __init__(self, run: Run, title: str | None = None) -> None:
        self.run = run
        self.title = title or (run.info.model and run.info.model.title) or run.name
        self._judged: dict[int, list[Judged]] = {}

    @cached_property
    def folder(self) -> Path | None:
        """Where the id PNGs of the predictions lie; None when the run did not keep them."""
        inside = self.run.path / "predictions" if self.run.path else None
        scored = path_of(self.run.info.predictions and paths_in(self.run.info.predictions.folder)[0])
        return next((place for place in (inside, scored) if place is not None and place.is_dir()), None)

    @cached_property
    def _names(self) -> dict[int, str]:
        """The PNGs that a predictions JSON names, by image id; {} when there is none."""
        inside = self.run.path / "predictions.json" if self.run.path else None
        scored = path_of(self.run.info.predictions and self.run.info.predictions.json)
        for path in (inside, scored):
            if path is not None and exist(path):
                check_predictions_json(self.run, path)
                return png_names(path)
        return {}

    @cached_property
    def _digests(self) -> dict[int, bytes]:
        return self.run.files.predictions()

    def judge(self, image_ids: Iterable[int]) -> None:
        """Judges some images at once, which takes far less time than one by one; `judged` then has them."""
        self._judged = self._verdicts(image_ids)

    def judged(self, image_id: int) -> "Sequence[Judged]":
        """The segments of both sides of an image."""
        judged = self._judged
        if image_id not in judged:
            judged = self._judged = self._verdicts([image_id])
        if image_id not in judged:
            raise BadRun(f"{self.run.name} has not scored an image {own_id(image_id)}.")
        return judged[image_id]

    def _verdicts(self, image_ids: Iterable[int]) -> "dict[int, list[Judged]]":
        from panbench.metrics.errors import assign_causes
        from panbench.metrics.pq import segment_verdicts

        matched = self.run.matched_of(image_ids)
        errors = assign_causes(matched, self.run.categories)
        wrong = list(errors[errors["verdict"] != "TP"].itertuples())
        category = {(row.image_id, row.gt_id, row.pred_id, row.verdict): row.category_id for row in wrong}
        causes: dict[tuple[int, str, int], dict[str, Any]] = {}
        for row in wrong:
            place = (
                row.image_id,
                "gt" if row.verdict == "FN" else "pred",
                row.gt_id if row.verdict == "FN" else row.pred_id,
            )
            causes[place] = {"cause": row.cause}
            if error_kind(row.verdict, row.cause) == "confused":
                causes[place]["taken"] = tuple(
                    category[row.image_id, row.gt_id, row.pred_id, verdict] for verdict in ("FN", "FP")
                )
        found: dict[int, list[Judged]] = {image: [] for image in matched.image_ids.tolist()}
        for row in _rows(segment_verdicts(matched)):
            found[row.image_id].append(row._replace(**causes.get((row.image_id, row.side, row.id), {})))
        return found

    def truth(self, image_id: int, pictures: Pictures) -> Layer:
        """The ground truth of an image, each segment with its verdict in this run."""
        return self._layer(image_id, "gt", "Ground truth", pictures.truth(image_id).ids)

    def png_path(self, image_id: int, pictures: Pictures) -> Path:
        """The id PNG of the run's own answer for an image. Raises BadRun when none was kept."""
        if self.folder is None:
            raise BadRun(
                f"{self.run.name} has no stored predictions. Make them with "
                "`panbench eval … --save-predictions --overwrite`."
            )
        default = Path(pictures.file_name(image_id)).with_suffix(".png").as_posix()
        name = self._names.get(image_id, default)
        return self.folder / name

    def prediction(self, image_id: int, pictures: Pictures, *, missed: bool = True) -> Layer:
        """The run's own answer for an image, with the true segments that it missed unless `missed` is False.

        Raises BadRun when its PNG was not kept or is not found, BadDataset when the ground truth cannot be read.
        """
        path = self.png_path(image_id, pictures)
        ids = pictures.predicted(image_id, path, self._digests.get(image_id, b""))
        layer = self._layer(image_id, "pred", self.title, ids)
        return layer.with_missed(self.truth(image_id, pictures)) if missed else layer

    def _layer(self, image_id: int, side: str, title: str, ids: IdMap) -> Layer:
        judged, sides = self.judged(image_id), self._sides
        if sides is None or sides[0] is not judged:
            sides = self._sides = judged, {one: _layer_segments(judged, one) for one in ("gt", "pred")}
        return Layer(title, ids, sides[1][side], model_key(self.run) if side == "pred" else "")

    _sides: "tuple[Sequence[Judged], dict[str, tuple[LayerSegment, ...]]] | None" = None
    """The segments of the image that was looked at last: several pictures of it need them."""


def compare_layers(image_id: int, truth: Layer, prediction: Layer, categories: Sequence[Category]) -> Layer:
    """`prediction` with verdicts, IoUs and causes against `truth`, for maps that are in no run."""
    from panbench.metrics.matched import Matched
    from panbench.metrics.pq import segment_verdicts

    gt = [Segment(s.id, s.category_id, s.area, s.iscrowd) for s in truth.segments]
    pred = [Segment(s.id, s.category_id, s.area, score=s.score) for s in prediction.segments]
    matched = Matched.of(overlap_table(image_id, truth.ids, gt, prediction.ids, pred))
    judged = _rows(segment_verdicts(matched))
    found = Layer(prediction.title, prediction.ids, _layer_segments(judged, "pred"), prediction.model)
    return found.with_missed(replace(truth, segments=_layer_segments(judged, "gt")))


def read_photo(path: str | os.PathLike[str], *, turned: bool = True) -> Photo:
    """An image file as (H, W, 3) uint8 RGB. `turned`: as its EXIF says. Raises BadDataset when it does not decode."""
    try:
        content = path_at(path).read_bytes()
    except OSError as problem:
        raise BadDataset(
            f"{path} cannot be read: {problem.strerror or problem}. If the images have moved, say where with --images."
        ) from None
    # An absurd size, or lost data, is refused before anything is decoded.
    return decode_rgb(content, str(path_at(path)), exif="apply" if turned else "ignore")


def segment_colors(layer: Layer, categories: Sequence[Category]) -> dict[int, Rgb]:
    """A colour for each segment id: its category's; further things of a category are lighter or darker.

    A segment that was found has the colour of the true segment in every layer of an image; a false one has another.
    """
    by_id = {category.id: category for category in categories}
    seen: dict[int, int] = {}
    colors = {}
    for segment in sorted(layer.segments, key=lambda segment: -segment.area):
        category = by_id.get(segment.category_id)
        base = category.color if category and category.color else hue_of(segment.category_id)
        nth = seen.get(segment.category_id, 0)
        seen[segment.category_id] = nth + 1
        by_area = nth if category is None or category.isthing else 0
        colors[segment.id] = _varied(base, by_area if segment.shade is None else segment.shade)
    return colors


def hue_of(number: int) -> Rgb:
    """A colour for a category that has none: steps of the golden angle around the wheel, in three lightnesses."""
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1, (0.42, 0.58, 0.7)[number % 3], 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)


def disagreement(a: Layer, b: Layer) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: 0 where two maps agree, else 1 + the position in DISAGREEMENTS of the kind.

    Segments of the two maps are one when they share the category and have IoU > 0.5. A pixel agrees when its segments
    are one, or both are void. Else, if each of its segments is void or one with a segment of the other map, only the
    edge runs differently ("boundary"); of the others, those of one category are "instance", the rest "category".
    """
    if a.ids.shape != b.ids.shape:
        raise BadArgument(f"{a.title} is {a.ids.shape} and {b.title} {b.ids.shape}: maps of one image have one size.")
    partner = _partners(a, b)
    number_a, number_b = _numbered(a), _numbered(b)
    category_a = np.array([VOID, *(segment.category_id for segment in a.segments)])
    category_b = np.array([VOID, *(segment.category_id for segment in b.segments)])
    index_a = {segment.id: position + 1 for position, segment in enumerate(a.segments)}
    index_b = {segment.id: position + 1 for position, segment in enumerate(b.segments)}
    # Of each pair of positions (0 = void) the kind; pixels only look it up.
    kinds = np.zeros((len(category_a), len(category_b)), np.uint8)
    kinds[:] = 1 + list(DISAGREEMENTS).index("category")
    kinds[category_a[:, None] == category_b[None, :]] = 1 + list(DISAGREEMENTS).index("instance")
    has_a = np.isin(np.arange(len(category_a)), [0, *(index_a[i] for i in partner)])
    has_b = np.isin(np.arange(len(category_b)), [0, *(index_b[i] for i in partner.values())])
    kinds[has_a[:, None] & has_b[None, :]] = 1 + list(DISAGREEMENTS).index("boundary")
    for one, other in partner.items():
        kinds[index_a[one], index_b[other]] = 0
    kinds[0, 0] = 0
    return kinds[number_a, number_b]


def overlay_figure(
    photo: Photo,
    layer: Layer,
    categories: Sequence[Category],
    *,
    width: float = 7.0,
    opacity: float = 0.5,
    names: bool = True,
    scores: bool = False,
    coloring: str = "errors",
) -> "Figure":
    """One layer over the photograph. coloring: of COLORINGS, of a layer that was judged; width: in inches.

    Where the layer was judged, a title counts what is missed and what is false.
    """
    titled = bool(layer.errors())
    errors = titled and coloring == "errors"
    figure, (axes,) = _panels(photo, 1, 1, width, titled=titled, below=_LEGEND if errors else 0.0)
    _show_layer(axes, photo, layer, categories, opacity, names, scores, errors)
    if titled:
        _title_layers([axes], [layer])
    if errors:
        key_to_errors(figure)
    return figure


def side_by_side_figure(
    photo: Photo,
    layers: Sequence[Layer],
    categories: Sequence[Category],
    *,
    width: float = 7.0,
    columns: int | None = None,
    opacity: float = 0.6,
    names: bool = True,
    scores: bool = False,
    coloring: str = "errors",
) -> "Figure":
    """The photograph, then each layer with its title, in rows of `columns` panels (default: up to four).

    coloring: of COLORINGS, of layers that were judged
    """
    count = 1 + len(layers)
    across = columns or (count if count <= 4 else (count + 1) // 2 if count <= 8 else 4)
    judged = [bool(layer.errors()) and coloring == "errors" for layer in layers]
    figure, panels = _panels(photo, across, count, width, titled=True, below=_LEGEND if any(judged) else 0.0)
    panels[0].imshow(photo)
    panels[0].set_title("Image", fontsize=8, pad=3)
    for axes, layer, errors in zip(panels[1:], layers, judged, strict=True):
        _show_layer(axes, photo, layer, categories, opacity, names, scores, errors)
    _title_layers(panels[1:], layers)
    if any(judged):
        key_to_errors(figure)
    return figure


def diff_figure(
    photo: Photo, a: Layer, b: Layer, categories: Sequence[Category], *, width: float = 7.0, names: bool = True
) -> "Figure":
    """Two layers, and between them where they disagree, by kind, over the greyed photograph."""
    from matplotlib.patches import Patch

    kinds = disagreement(a, b)
    figure, panels = _panels(photo, 3, 3, width, titled=True, below=0.5)
    for axes, layer in ((panels[0], a), (panels[2], b)):
        _show_layer(axes, photo, layer, categories, 0.6, names, False, False)
    _title_layers((panels[0], panels[2]), (a, b))
    grey = np.repeat((photo.mean(axis=2, keepdims=True) * 0.5 + 127).astype(np.uint8), 3, axis=2)
    painted = grey.copy()
    for position, (color, _) in enumerate(DISAGREEMENTS.values()):
        painted[kinds == 1 + position] = _rgb(color)
    middle = panels[1]
    middle.imshow(painted)
    middle.set_title(f"They differ on {100 * np.mean(kinds > 0):.1f} %", fontsize=8, pad=3)
    handles = [
        Patch(facecolor=color, label=f"{name}: {meaning} ({100 * np.mean(kinds == 1 + position):.1f} %)")
        for position, (name, (color, meaning)) in enumerate(DISAGREEMENTS.items())
    ]
    figure.legend(handles=handles, loc="lower center", ncols=1, frameon=False, fontsize=7, borderaxespad=0.1)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, dpi: float = 200) -> None:
    """Writes a figure as PNG, SVG or PDF, by the name's ending, atomically; the same figure gives the same bytes.

    dpi: of a PNG, and of the photographs within a vector file. Raises BadArgument for another ending.
    """
    import matplotlib as mpl
    from matplotlib.text import Text

    target = Path(path)
    form = target.suffix.lower().removeprefix(".")
    if form not in FIGURE_FORMATS:
        raise BadArgument(f"{target.name}: figures are written as {listed(FIGURE_FORMATS)}. Choose one by the ending.")
    metadata: dict[str, Any] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None, "Producer": None},
    }[form]
    # Type 42 fonts: journals refuse matplotlib's default, Type 3.
    settings: dict[str, Any] = {"svg.hashsalt": "panbench", "pdf.fonttype": 42, "svg.fonttype": "none"}
    for text in figure.findobj(Text):
        text.set_text(for_xml(text.get_text()))  # type: ignore[attr-defined]
    with mpl.rc_context(cast(Any, settings)), atomic_write(target) as handle:
        figure.savefig(handle, format=form, dpi=dpi, metadata=metadata)


def label_spots(layer: Layer) -> dict[int, tuple[float, float, float]]:
    """For each segment id, where its name fits best: x, y and the distance from there to its edge, in pixels."""
    from scipy import ndimage

    spots = {}
    for segment in layer.segments:
        mask = layer.ids == segment.id
        box = ndimage.find_objects(mask.view(np.uint8))
        if not box:
            continue
        rows, columns = box[0]
        distance = ndimage.distance_transform_edt(np.pad(mask[rows, columns], 1))
        top, left = np.unravel_index(int(np.argmax(distance)), distance.shape)
        spots[segment.id] = (columns.start + float(left) - 1, rows.start + float(top) - 1, float(distance[top, left]))
    return spots


def outlines(ids: IdMap) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The edges between pixels of different segments, joined where they go straight on, as pairs of (x, y) points."""
    lines = []
    for across in (True, False):
        grid = ids if across else ids.T
        edge = grid[1:] != grid[:-1]
        apart = np.zeros((edge.shape[0], edge.shape[1] + 2), np.int8)
        apart[:, 1:-1] = edge
        row, begin = np.nonzero(np.diff(apart, axis=1) == 1)
        _, end = np.nonzero(np.diff(apart, axis=1) == -1)
        for line, start, stop in zip(row.tolist(), begin.tolist(), end.tolist(), strict=True):
            one, other = (start - 0.5, line + 0.5), (stop - 0.5, line + 0.5)
            lines.append((one, other) if across else (one[::-1], other[::-1]))
    return lines


def paint(layer: Layer, colors: Mapping[int, Rgb]) -> npt.NDArray[np.uint8]:
    """(H, W, 4) uint8: the colour of each pixel's segment, transparent without one."""
    table = np.zeros((len(layer.segments) + 1, 4), np.uint8)
    for position, segment in enumerate(layer.segments):
        table[position + 1] = (*colors[segment.id], 255)
    return table[_numbered(layer)]


def blend(photo: Photo, painted: npt.NDArray[np.uint8], opacity: float) -> Photo:
    """The photograph under the colours of `paint`; dark grey without a segment, so that void is visible."""
    share = (painted[..., 3:] > 0) * opacity
    void = painted[..., 3:] == 0
    grey = photo.mean(axis=2, keepdims=True) * 0.55
    return np.where(void, grey, photo * (1 - share) + painted[..., :3] * share).round().astype(np.uint8)


def runs_of(layer: Layer, size: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Run-length encoding of the layer at another size (width, height): values in row order, and lengths.

    A run's value is 1 + the position in `segments` of its segment, 0 where there is none.
    """
    ids = layer.ids
    if ids.shape != size[::-1]:
        ids = pixels.nearest(ids, size)
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return _numbered(layer, flat[starts]), np.diff(np.append(starts, len(flat)))


def _numbered(layer: Layer, given: IdMap | None = None) -> npt.NDArray[np.int64]:
    """For each id (default: the layer's pixels) 1 + the position of its segment, 0 without one."""
    wanted = layer.ids if given is None else given
    ids = np.array([segment.id for segment in layer.segments], np.int64)
    if not len(ids):
        return np.zeros(wanted.shape, np.int64)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    return np.where(ids[order][place] == wanted, order[place] + 1, 0)


def _partners(a: Layer, b: Layer) -> dict[int, int]:
    """For segments of `a`, the segment of `b` with the same category and IoU > 0.5; there is at most one."""
    width = len(b.segments) + 1
    counts = np.bincount((_numbered(a) * width + _numbered(b)).ravel(), minlength=(len(a.segments) + 1) * width)
    shared = counts.reshape(-1, width)
    area_a, area_b = shared.sum(axis=1), shared.sum(axis=0)
    union = area_a[:, None] + area_b[None, :] - shared
    found = {}
    for one, other in np.argwhere(2 * shared[1:, 1:] > union[1:, 1:]).tolist():
        if a.segments[one].category_id == b.segments[other].category_id:
            found[a.segments[one].id] = b.segments[other].id
    return found


class Judged(NamedTuple):
    """A row of `segment_verdicts`, and the cause of the error, "" if it is none; taken: as of `LayerSegment`."""

    image_id: int
    side: str
    id: int
    category_id: int
    area: int
    iscrowd: bool
    score: float
    verdict: str
    iou: float
    matched_id: int
    cause: str = ""
    taken: tuple[int, int] | None = None


def _rows(verdicts: "pd.DataFrame") -> list[Judged]:
    columns = (verdicts[name].tolist() for name in Judged._fields if name not in ("cause", "taken"))
    return [Judged(*row) for row in zip(*columns, strict=True)]


def _layer_segments(judged: Sequence[Judged], side: str) -> tuple[LayerSegment, ...]:
    """The segments of one side; `judged` has both, since what was found takes the shade of what it is."""
    shades = _shades(judged)
    return tuple(
        LayerSegment(
            id=row.id,
            category_id=row.category_id,
            area=row.area,
            score=None if row.score != row.score else row.score,
            iscrowd=row.iscrowd,
            verdict=row.verdict,
            iou=None if row.iou != row.iou else row.iou,
            matched_id=row.matched_id,
            cause=row.cause or None,
            shade=shades[side, row.id],
            taken=row.taken,
        )
        for row in judged
        if row.side == side
    )


def _shades(judged: Sequence[Judged]) -> dict[tuple[str, int], int]:
    """The shade of each (side, id): true segments by area, matches as their truth, false ones as none of these."""
    shades: dict[tuple[str, int], int] = {}
    taken: dict[int, int] = {}
    for row in sorted(judged, key=lambda row: (row.side, -row.area)):
        if row.side == "pred" and row.verdict == "TP":
            shades["pred", row.id] = shades["gt", row.matched_id]
            continue
        shades[row.side, row.id] = taken.get(row.category_id, 0)
        taken[row.category_id] = taken.get(row.category_id, 0) + 1
    return shades


def _panels(
    photo: Photo, across: int, count: int, width: float, *, titled: bool, below: float = 0.0
) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` panels, `across` in a row, each exactly of the photograph's proportions."""
    from matplotlib.figure import Figure

    if not 0.5 <= width <= 60:
        raise BadArgument(f"A figure of {width:g} inches cannot be drawn. Give --width between 0.5 and 60.")
    gap, head = 0.06, 0.24 if titled else 0.0
    down = -(-count // across)
    panel = (width - gap * (across - 1)) / across
    tall = panel * photo.shape[0] / photo.shape[1]
    height = down * (tall + head) + gap * (down - 1) + below
    figure = Figure(figsize=(width, height))
    panels = []
    for index in range(count):
        row, column = divmod(index, across)
        left, top = column * (panel + gap), row * (tall + head + gap) + head
        axes = figure.add_axes((left / width, 1 - (top + tall) / height, panel / width, tall / height))
        axes.set_axis_off()
        panels.append(axes)
    return figure, panels


def _title_layers(panels: "Sequence[Axes]", layers: Sequence[Layer]) -> None:
    """The layers' titles, each model's with its marker in its colour before it and its errors counted behind it."""
    from matplotlib.transforms import offset_copy

    models = [index for index, layer in enumerate(layers) if layer.model]
    styles = dict(zip(models, styles_of([layers[index].model for index in models]), strict=True))
    for index, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        if index not in styles:
            axes.set_title(layer.title, fontsize=8, pad=3, parse_math=False)
            continue
        beside, at = (
            offset_copy(axes.transAxes, cast("Figure", axes.figure), x, y, "points") for x, y in ((9, 4), (3.5, 6.5))
        )
        title = f"{layer.title}: {errors}" if (errors := layer.errors()) else layer.title
        axes.text(0, 1, title, fontsize=8, parse_math=False, transform=beside)
        style = styles[index]
        axes.plot(
            [0], [1], MARKERS[style.marker], color=LIGHT[style.color], markersize=5, transform=at, clip_on=False,
            scalex=False, scaley=False,
        )  # fmt: skip


def _show_layer(
    axes: "Axes",
    photo: Photo,
    layer: Layer,
    categories: Sequence[Category],
    opacity: float,
    names: bool,
    scores: bool,
    errors: bool,
) -> None:
    from matplotlib.collections import LineCollection

    if layer.ids.shape != photo.shape[:2]:
        raise BadArgument(f"{layer.title} is {layer.ids.shape} but the image is {photo.shape[:2]} (height, width).")
    if errors:
        _show_errors(axes, photo, layer, opacity)
    else:
        axes.imshow(blend(photo, paint(layer, segment_colors(layer, categories)), opacity))
        axes.add_collection(LineCollection(outlines(layer.ids), colors="white", linewidths=0.7, capstyle="projecting"))
        for segment in layer.missed:
            if layer.truth is not None:
                _stroke(axes, layer.truth == segment.id, "missed", broken=True)
    axes.set_xlim(-0.5, photo.shape[1] - 0.5)
    axes.set_ylim(photo.shape[0] - 0.5, -0.5)
    if not names:
        return
    by_id = {category.id: category.name for category in categories}
    points_per_pixel = 72 * axes.get_window_extent().width / axes.figure.dpi / photo.shape[1]
    spots = label_spots(layer)
    for segment in layer.segments:
        if segment.id not in spots or (errors and segment.kind in ("found", "")):
            continue
        x, y, room = spots[segment.id]
        if room * points_per_pixel < 3.5:
            continue
        text = " → ".join(by_id.get(one, str(one)) for one in segment.taken or (segment.category_id,))
        if scores and segment.score is not None:
            text += f" {segment.score:.2f}"
        size = float(np.clip(room * points_per_pixel / 2, 4, 8))
        half = 0.31 * size * len(text) / points_per_pixel
        if 2 * half < photo.shape[1]:
            x = min(max(x, half), photo.shape[1] - 1 - half)
        # A box behind the name, not an outline around it: outlined text would be written as curves, not as text.
        axes.text(
            x,
            y,
            text,
            fontsize=size,
            color="white",
            ha="center",
            va="center",
            clip_on=True,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": (0, 0, 0, 0.6), "linewidth": 0},
        )


def _show_errors(axes: "Axes", photo: Photo, layer: Layer, opacity: float) -> None:
    """The photograph, with what is wrong in a layer: see ERRORS."""
    false = _mask_of(layer.ids, [one.id for one in layer.segments if one.kind == "false"])
    filled = photo.astype(np.float32)
    filled[false] += opacity * (np.array(_rgb(ERRORS["false"])) - filled[false])
    axes.imshow(filled.round().astype(np.uint8))
    for segment in layer.segments:
        if segment.kind in STROKES:
            _stroke(axes, layer.ids == segment.id, segment.kind)
    for segment in layer.missed:
        if layer.truth is not None and segment.kind != "confused":
            _stroke(axes, layer.truth == segment.id, segment.kind, broken=True)


def _mask_of(ids: IdMap, wanted: Sequence[int]) -> npt.NDArray[np.bool_]:
    return np.isin(ids, np.array(wanted, np.int64))


def _stroke(axes: "Axes", mask: npt.NDArray[np.bool_], kind: str, broken: bool = False) -> None:
    """The outline of a segment, as errors of a kind have it."""
    if not mask.any():
        return
    height, width = mask.shape
    # With a rim, so that the outline is closed at the image's edge.
    grid = np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask, 1).astype(np.float32)
    axes.contour(*grid, levels=[0.5], colors=STROKES[kind][0], linewidths=2.6)
    axes.contour(
        *grid, levels=[0.5], colors=ERRORS[kind], linewidths=1.4, linestyles=[(0, (3, 2)) if broken else "solid"]
    )


def key_to_errors(figure: "Figure") -> None:
    """A legend of the kinds of errors below the panels, drawn with their own strokes."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for kind, (under, _) in STROKES.items():
        dashes: Any = (0, (3, 2)) if kind == "missed" else "solid"
        lines = (
            Line2D([], [], color=under, linewidth=3),
            Line2D([], [], color=ERRORS[kind], linewidth=1.6, linestyle=dashes),
        )
        handles.append(Patch(facecolor=ERRORS[kind]) if kind == "false" else lines)
    figure.legend(
        handles,
        [words for _, words in STROKES.values()],
        handler_map={tuple: HandlerTuple(ndivide=1)},
        loc="lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=min(7.0, 1.6 * figure.get_figwidth()),
        borderaxespad=0.1,
        columnspacing=1.2,
    )


def _varied(base: Rgb, nth: int) -> Rgb:
    """`base` for the first; alternately lighter and darker for the next, so that neighbours differ."""
    if nth == 0:
        return base
    hue, light, full = colorsys.rgb_to_hls(*(part / 255 for part in base))
    step = (nth + 1) // 2 * 0.11 % 0.33 * (1 if nth % 2 else -1)
    light = min(0.88, max(0.18, light + step))
    red, green, blue = colorsys.hls_to_rgb((hue + 0.025 * nth) % 1, light, full)
    return round(255 * red), round(255 * green), round(255 * blue)


def _rgb(color: str) -> Rgb:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
