"""Pictures of single images: segments over the photograph, models side by side, and where two models disagree.

A `Layer` is one answer for an image (the ground truth's or a model's) with the verdict on each of its segments.
Figures use matplotlib: colours are pixels, outlines and names are vectors, so SVG and PDF stay sharp in print.
"""

import colorsys
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
from panbench.panoptic.photo import decode_rgb
from panbench.panoptic.types import VOID, Category, IdMap, Segment
from panbench.report.answers.data_files import DataFiles
from panbench.report.figures.colors import ERRORS, LIGHT, MARKERS, drawing_kind, model_key, styles_of
from panbench.runs import PREDICTIONS, Run, check_predictions_json, predictions_paths
from panbench.runs.sources import png_names, split_paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rgb = tuple[int, int, int]
Photo = npt.NDArray[np.uint8]
Sides = Mapping[str, tuple["LayerSegment", ...]]
"""The true ("gt") and predicted ("pred") segments of an image."""

_Read = TypeVar("_Read")

_LEGEND = 0.25
"""Inches below the panels for the key to errors."""

FIGURE_FORMATS = ("png", "svg", "pdf")

DISAGREEMENTS: Mapping[str, tuple[str, str]] = {
    "category": ("#EE7733", "another category, or a segment that only one of them has"),
    "instance": ("#AA4499", "one category, but parted into other objects"),
    "boundary": ("#0077BB", "both have the segment; its edge runs elsewhere"),
}
"""The kinds of disagreement of two maps, their colours (distinct for colour-blind eyes) and their meanings."""

COLORINGS = ("errors", "categories")
"""Colourings of a judged map: only its errors, or each segment by its category."""

STROKES: Mapping[str, tuple[str, str]] = {
    "missed": ("black", "missed"),
    "false": ("black", "false"),
    "confused": ("black", "wrong category"),
    "bad mask": ("white", "bad mask: the true outline is broken"),
}
"""The colour beneath the line of each kind of error, and its words in a legend."""


@dataclass(frozen=True)
class LayerSegment:
    """A segment to be drawn: "TP", "FP", "FN" or "ignored", its IoU, the matched segment, and the cause of its error.

    verdict, iou and cause are None without anything to compare with; matched_id is 0 without a match.
    shade: index of the shade of its category's colour, shared with the segment that it matches; None: by its area
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
        """Returns how the segment is drawn: "found", "missed", "false", "confused", "bad mask"; "" if unscored."""
        return drawing_kind(self.verdict, self.cause)


@dataclass(frozen=True)
class Layer:
    """A segment map to be drawn, with its segments: the ground truth of an image, or what a model predicts.

    ids: (H, W) int32 at the image's size, 0 = void
    model: the key of the model, which determines its colour (colors.py); "" for the ground truth
    missed: true segments that the model missed, with their pixels in `truth` (H, W), None if there are none
    """

    title: str
    ids: IdMap
    segments: tuple[LayerSegment, ...]
    model: str = ""
    missed: tuple[LayerSegment, ...] = ()
    truth: IdMap | None = None

    @staticmethod
    def of(title: str, ids: IdMap, segments: Sequence[Segment]) -> "Layer":
        """Returns a segment map to be drawn, made from an id map; its segments are not marked as TP, FP or FN."""
        return Layer(title, ids, tuple(LayerSegment(s.id, s.category_id, s.area, s.score, s.iscrowd) for s in segments))

    def with_missed_segments(self, truth: "Layer") -> "Layer":
        """Returns a copy of this prediction that also has the true segments marked "FN", for drawing misses."""
        missed = tuple(segment for segment in truth.segments if segment.verdict == "FN")
        return replace(self, missed=missed, truth=truth.ids if missed else None)

    def errors(self) -> str:
        """Returns how many errors the model has, as "2 missed, 1 false"; "" if it was not judged."""
        if not self.model or not any(segment.verdict for segment in (*self.segments, *self.missed)):
            return ""
        false = sum(segment.verdict == "FP" for segment in self.segments)
        parts = [(len(self.missed), "missed"), (false, "false")]
        return ", ".join(f"{count} {word}" for count, word in parts if count) or "no errors"


VIEWS = ("panoptic", "instance", "semantic")
"""Views of a map: all segments; only things; or categories, with their segments merged."""


def viewed(layer: Layer, view: str, categories: Sequence[Category]) -> Layer:
    """Reduces a segment map to a view: "instance" (things only), "semantic" (merged by category) or "panoptic".

    The semantic view has neither verdicts nor misses. Raises BadArgument for a view that is not in VIEWS.
    """
    if view not in VIEWS:
        raise BadArgument(f"There is no view {view!r}. Choose one of {', '.join(VIEWS)}.")
    if view == "panoptic":
        return layer
    things = {category.id for category in categories if category.isthing}
    if view == "instance":
        found, missed = (
            tuple(segment for segment in segments if segment.category_id in things)
            for segments in (layer.segments, layer.missed)
        )
        return replace(
            layer, ids=_renumbered(layer.ids, {one.id: one.id for one in found}), segments=found, missed=missed
        )
    number = {category: 1 + index for index, category in enumerate(sorted({s.category_id for s in layer.segments}))}
    ids = _renumbered(layer.ids, {one.id: number[one.category_id] for one in layer.segments})
    areas = np.bincount(ids.ravel(), minlength=1 + len(number))
    merged = tuple(LayerSegment(own, category, int(areas[own])) for category, own in number.items())
    return replace(layer, ids=ids, segments=merged, missed=(), truth=None)


def _renumbered(ids: IdMap, numbers: Mapping[int, int]) -> IdMap:
    """Returns an id map with other ids; 0 for ids that have no new one."""
    known, index = np.unique(ids, return_inverse=True)
    return np.array([numbers.get(int(one), 0) for one in known], np.int32)[index].reshape(ids.shape)


def _cached_for_last_image(read: Callable[..., _Read]) -> Callable[..., _Read]:
    """Decorates a method of `Pictures` so that what it reads is cached until its thread reads another image."""

    @wraps(read)
    def cached(self: "Pictures", image_id: int, *others: Any) -> _Read:
        """Returns the decorated method's result for an image, from the cache if this thread has read it last."""
        if getattr(self._thread_cache, "image_id", None) != image_id:
            self._thread_cache.image_id, self._thread_cache.found = image_id, {}
        found: dict[tuple[Any, ...], _Read] = self._thread_cache.found
        key = read.__name__, *others
        if key not in found:
            found[key] = read(self, image_id, *others)
        return found[key]

    return cached


class Pictures(DataFiles):
    """The photographs and the ground truth that a run was scored on; each thread caches those of its last image."""

    @cached_property
    def _thread_cache(self) -> threading.local:
        """Returns the thread's cache: the id of its last image, and what was read of it."""
        return threading.local()

    @_cached_for_last_image
    def photo(self, image_id: int) -> Photo:
        """Returns the (H, W, 3) uint8 RGB photograph, at the size in the JSON. Raises BadDataset naming the file."""
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
        """Returns the photograph for a picture of `size` (width, height), at that size or larger. Raises as `photo`.

        An upright JPEG is decoded with only as many of its frequencies as the size needs.
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
            pass  # `photo` raises the error with an explanation
        return self.photo(image_id)

    @_cached_for_last_image
    def truth(self, image_id: int) -> Layer:
        """Reads the ground truth of an image as a segment map to be drawn, unscored. Raises BadDataset."""
        self.file_name(image_id)
        if image_id not in self.panoptic.annotations:
            raise BadDataset(f"{self.panoptic.path} has no annotation of image {own_id(image_id)}.")
        info = self.panoptic.images[image_id]
        ids = read_id_png(self.panoptic.png_path(image_id), (info.height, info.width), image_id=image_id)
        return Layer.of("Ground truth", ids, self.panoptic.annotations[image_id].segments)

    @_cached_for_last_image
    def prediction_ids(self, image_id: int, path: Path, digest: bytes) -> IdMap:
        """Reads the id map of a prediction from its PNG. Raises BadRun if the SHA-256 (b"": unknown) differs."""
        info = self.panoptic.images.get(image_id)
        assert info is not None
        return read_id_png(path, (info.height, info.width), image_id=image_id, error=BadRun, digest=digest)


class RunPictures:
    """Reads a run's stored predictions as segment maps to be drawn, with TPs, FPs, FNs and causes of error."""

    def __init__(self, run: Run, title: str | None = None) -> None:
        """Takes a run, and the title of its pictures: by default the model's, or else the run's name."""
        self.run = run
        self.title = title or (run.info.model and run.info.model.title) or run.name
        self._judged: dict[int, Sides] = {}

    @cached_property
    def folder(self) -> Path | None:
        """Returns the folder of the predictions' id PNGs; None if the run did not store them."""
        index = predictions_paths(self.run)
        # A run that is being written has no JSON yet.
        inside = self.run.path / PREDICTIONS if self.run.path else None
        return next((one for one in (inside, index and split_paths(index[1])[0]) if one and one.is_dir()), None)

    @cached_property
    def _png_names_by_image(self) -> dict[int, str]:
        """Returns the names of id PNGs in the run's predictions JSON, by image id; {} if there is no JSON."""
        index = predictions_paths(self.run)
        if index is None:
            return {}
        check_predictions_json(self.run, index[0])
        return png_names(index[0])

    @cached_property
    def _png_digests(self) -> dict[int, bytes]:
        """Returns the recorded SHA-256 of the id PNGs of predictions, by image id."""
        return self.run.files.predictions()

    def judge(self, image_ids: Iterable[int]) -> None:
        """Finds TPs, FPs and FNs in several images at once, which is much faster than image by image; see `judged`."""
        self._judged = self._verdicts(image_ids)

    def judged(self, image_id: int) -> Sides:
        """Returns the true and the predicted segments of an image, each marked as TP, FP, FN or ignored."""
        judged = self._judged
        if image_id not in judged:
            judged = self._judged = self._verdicts([image_id])
        if image_id not in judged:
            raise BadRun(f"{self.run.name} has not scored an image {own_id(image_id)}.")
        return judged[image_id]

    def _verdicts(self, image_ids: Iterable[int]) -> dict[int, Sides]:
        """Returns the true and predicted segments of some images, by image id, marked as TP, FP or FN with causes."""
        from panbench.metrics.errors import explained_segments

        matched = self.run.matched_of(image_ids)
        table = explained_segments(matched, self.run.categories)
        table = table.astype(object).where(table.notna(), None)
        found: dict[int, list[dict[str, Any]]] = {image: [] for image in matched.image_ids.tolist()}
        for record in table.to_dict("records"):
            found[record.pop("image_id")].append(cast(dict[str, Any], record))
        return {image: _segments_by_side(records) for image, records in found.items()}

    def truth(self, image_id: int, pictures: Pictures) -> Layer:
        """Returns the ground truth of an image, each segment marked as TP, FN or ignored in this run."""
        return self._judged_layer(image_id, "gt", "Ground truth", pictures.truth(image_id).ids)

    def png_path(self, image_id: int, pictures: Pictures) -> Path:
        """Returns the id PNG of the run's prediction for an image. Raises BadRun if none was stored."""
        if self.folder is None:
            raise BadRun(
                f"{self.run.name} has no stored predictions. Make them with "
                "`panbench eval … --save-predictions --overwrite`."
            )
        default = Path(pictures.file_name(image_id)).with_suffix(".png").as_posix()
        name = self._png_names_by_image.get(image_id, default)
        return self.folder / name

    def prediction(self, image_id: int, pictures: Pictures, *, missed: bool = True) -> Layer:
        """Returns the run's prediction for an image, with the true segments that it missed unless `missed` is False.

        Raises BadRun if its PNG was not stored or is not found, BadDataset if the ground truth cannot be read.
        """
        path = self.png_path(image_id, pictures)
        ids = pictures.prediction_ids(image_id, path, self._png_digests.get(image_id, b""))
        layer = self._judged_layer(image_id, "pred", self.title, ids)
        return layer.with_missed_segments(self.truth(image_id, pictures)) if missed else layer

    def _judged_layer(self, image_id: int, side: str, title: str, ids: IdMap) -> Layer:
        """Returns the ground truth ("gt") or prediction ("pred") of an image to be drawn, with TPs, FPs and FNs."""
        return Layer(title, ids, self.judged(image_id)[side], model_key(self.run) if side == "pred" else "")


def _segments_by_side(records: Sequence[dict[str, Any]]) -> Sides:
    """Returns the true ("gt") and the predicted ("pred") segments of an image, from rows of `explained_segments`."""
    shades = _segment_shades(records)
    category = {(record["side"], record["id"]): record["category_id"] for record in records}
    found: dict[str, list[LayerSegment]] = {"gt": [], "pred": []}
    for record in records:
        side, other = record.pop("side"), record.pop("partner_id")
        taken = None
        if drawing_kind(record["verdict"], record["cause"]) == "confused":
            true, predicted = (record["id"], other) if side == "gt" else (other, record["id"])
            taken = category["gt", true], category["pred", predicted]
        found[side].append(LayerSegment(**record, shade=shades[side, record["id"]], taken=taken))
    return {side: tuple(segments) for side, segments in found.items()}


def _segment_shades(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], int]:
    """Returns a shade of its category's colour for each segment: by area, and the same one for both of a match.

    Keys are ("gt" or "pred", segment id); a shade is an index, 0 for the category's own colour.
    """
    shades: dict[tuple[str, int], int] = {}
    taken: dict[int, int] = {}
    for record in sorted(records, key=lambda record: (record["side"], -record["area"])):
        own = record["side"], record["id"]
        if own[0] == "pred" and record["verdict"] == "TP":
            shades[own] = shades["gt", record["matched_id"]]
            continue
        shades[own] = taken.get(record["category_id"], 0)
        taken[record["category_id"]] = shades[own] + 1
    return shades


def read_photo(path: str | os.PathLike[str], *, turned: bool = True) -> Photo:
    """Reads an image file as (H, W, 3) uint8 RGB. `turned`: rotated by its EXIF. Raises BadDataset if invalid."""
    try:
        content = path_at(path).read_bytes()
    except OSError as problem:
        raise BadDataset(
            f"{path} cannot be read: {problem.strerror or problem}. If the images have moved, say where with --images."
        ) from None
    # Reject an absurd size, or lost data, before decoding anything.
    return decode_rgb(content, str(path_at(path)), exif="apply" if turned else "ignore")


def segment_colors(layer: Layer, categories: Sequence[Category]) -> dict[int, Rgb]:
    """Returns a colour for each segment id: its category's; further things of a category are lighter or darker.

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
        colors[segment.id] = _varied_color(base, by_area if segment.shade is None else segment.shade)
    return colors


def hue_of(number: int) -> Rgb:
    """Returns a colour for a category without one: golden-angle steps around the wheel, in three lightnesses."""
    red, green, blue = colorsys.hls_to_rgb(number * 0.618034 % 1, (0.42, 0.58, 0.7)[number % 3], 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)


def disagreement(a: Layer, b: Layer) -> npt.NDArray[np.uint8]:
    """Returns (H, W) uint8: 0 where two maps agree, else 1 + the index of the kind in DISAGREEMENTS.

    Segments of the two maps correspond if they have the same category and IoU > 0.5. A pixel agrees if its segments
    correspond, or both are void. Otherwise, if each of its segments is void or corresponds to a segment of the other
    map, only the edge differs ("boundary"); of the others, those of one category are "instance", the rest "category".
    """
    if a.ids.shape != b.ids.shape:
        raise BadArgument(f"{a.title} is {a.ids.shape} and {b.title} {b.ids.shape}: maps of one image have one size.")
    partner = _matching_segments(a, b)
    number_a, number_b = _segment_index_map(a), _segment_index_map(b)
    category_a = np.array([VOID, *(segment.category_id for segment in a.segments)])
    category_b = np.array([VOID, *(segment.category_id for segment in b.segments)])
    index_a = {segment.id: position + 1 for position, segment in enumerate(a.segments)}
    index_b = {segment.id: position + 1 for position, segment in enumerate(b.segments)}
    # Table of the kind for each pair of indices (0 = void); pixels only look it up.
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
    photo: Photo, layer: Layer, categories: Sequence[Category], *, opacity: float = 0.5, **style: Any
) -> "Figure":
    """Returns a figure of one segment map, of the ground truth or a model, over the photograph.

    If the layer was judged, a title counts its missed and false segments. style: as for `side_by_side_figure`.
    """
    return side_by_side_figure(photo, [layer], categories, with_photo=False, opacity=opacity, **style)


def side_by_side_figure(
    photo: Photo,
    layers: Sequence[Layer],
    categories: Sequence[Category],
    *,
    width: float = 7.0,
    columns: int | None = None,
    with_photo: bool = True,
    opacity: float = 0.6,
    names: bool = True,
    scores: bool = False,
    coloring: str = "errors",
) -> "Figure":
    """Returns a figure of the photograph and, next to it, segment maps of the ground truth and of models, with titles.

    columns: panels in a row; default: up to four
    with_photo: False leaves out the photograph alone, and titles if nothing was judged
    coloring: of COLORINGS, for judged layers; width: in inches
    """
    count = with_photo + len(layers)
    across = columns or (count if count <= 4 else (count + 1) // 2 if count <= 8 else 4)
    judged = [bool(layer.errors()) for layer in layers]
    by_errors = [one and coloring == "errors" for one in judged]
    titled, below = with_photo or any(judged), _LEGEND if any(by_errors) else 0.0
    figure, panels = _panels(photo, across, count, width, titled=titled, below=below)
    if with_photo:
        panels[0].imshow(photo)
        panels[0].set_title("Image", fontsize=8, pad=3)
    shown = panels[with_photo:]
    for axes, layer, errors in zip(shown, layers, by_errors, strict=True):
        _draw_layer(axes, photo, layer, categories, opacity, names, scores, errors)
    if titled:
        _title_layers(shown, layers)
    if any(by_errors):
        draw_error_legend(figure)
    return figure


def diff_figure(
    photo: Photo, a: Layer, b: Layer, categories: Sequence[Category], *, width: float = 7.0, names: bool = True
) -> "Figure":
    """Returns a figure of two segment maps of an image and, between them, the pixels where they disagree, by kind."""
    from matplotlib.patches import Patch

    kinds = disagreement(a, b)
    figure, panels = _panels(photo, 3, 3, width, titled=True, below=0.5)
    for axes, layer in ((panels[0], a), (panels[2], b)):
        _draw_layer(axes, photo, layer, categories, 0.6, names, False, False)
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
    """Writes a figure as PNG, SVG or PDF, by the file extension, atomically; the same figure gives the same bytes.

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
    """Returns for each segment id the best spot for its name: x, y and the distance to its edge, in pixels."""
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


def named_spots(
    layer: Layer, categories: Sequence[Category], scores: bool
) -> Iterator[tuple[LayerSegment, str, float, float, float]]:
    """Yields for each segment its label, "book → clock" for a wrong category, and where to write it: x, y, radius."""
    by_id = {category.id: category.name for category in categories}
    spots = label_spots(layer)
    for segment in layer.segments:
        if segment.id in spots:
            text = " → ".join(by_id.get(one, str(one)) for one in segment.taken or (segment.category_id,))
            if scores and segment.score is not None:
                text += f" {segment.score:.2f}"
            yield segment, text, *spots[segment.id]


def outlines(ids: IdMap) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Returns the borders between pixels of different segments as lines between two points (x, y)."""
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
    """Returns (H, W, 4) uint8: the colour of each pixel's segment, transparent without one."""
    table = np.zeros((len(layer.segments) + 1, 4), np.uint8)
    for position, segment in enumerate(layer.segments):
        table[position + 1] = (*colors[segment.id], 255)
    return table[_segment_index_map(layer)]


def blend(photo: Photo, painted: npt.NDArray[np.uint8], opacity: float) -> Photo:
    """Returns the photograph mixed with the colours of `paint`, dark grey where there is no segment."""
    share = (painted[..., 3:] > 0) * opacity
    void = painted[..., 3:] == 0
    grey = photo.mean(axis=2, keepdims=True) * 0.55
    return np.where(void, grey, photo * (1 - share) + painted[..., :3] * share).round().astype(np.uint8)


def runs_of(layer: Layer, size: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns a segment map, resized to (width, height), as run-length encoding: segments in row order, and lengths.

    A run's value is 1 + the index of its segment in `segments`, 0 without one.
    """
    ids = layer.ids
    if ids.shape != size[::-1]:
        ids = pixels.nearest(ids, size)
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return _segment_index_map(layer, flat[starts]), np.diff(np.append(starts, len(flat)))


def _segment_index_map(layer: Layer, given: IdMap | None = None) -> npt.NDArray[np.int64]:
    """Replaces each pixel of an id map by 1 + the index of its segment, and by 0 where there is none.

    given: ids to replace instead of those of the pixels
    """
    requested = layer.ids if given is None else given
    ids = np.array([segment.id for segment in layer.segments], np.int64)
    if not len(ids):
        return np.zeros(requested.shape, np.int64)
    order = np.argsort(ids)
    index = np.minimum(np.searchsorted(ids[order], requested), len(ids) - 1)
    return np.where(ids[order][index] == requested, order[index] + 1, 0)


def _matching_segments(a: Layer, b: Layer) -> dict[int, int]:
    """Maps each segment of `a` to the one of `b` with the same category and IoU > 0.5; there is at most one."""
    width = len(b.segments) + 1
    counts = np.bincount(
        (_segment_index_map(a) * width + _segment_index_map(b)).ravel(), minlength=(len(a.segments) + 1) * width
    )
    shared = counts.reshape(-1, width)
    area_a, area_b = shared.sum(axis=1), shared.sum(axis=0)
    union = area_a[:, None] + area_b[None, :] - shared
    found = {}
    for one, other in np.argwhere(2 * shared[1:, 1:] > union[1:, 1:]).tolist():
        if a.segments[one].category_id == b.segments[other].category_id:
            found[a.segments[one].id] = b.segments[other].id
    return found


def _panels(
    photo: Photo, across: int, count: int, width: float, *, titled: bool, below: float = 0.0
) -> "tuple[Figure, list[Axes]]":
    """Returns a figure with `count` panels, `across` in a row, each of the proportions of the photograph."""
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
    """Writes a title over each panel of a figure; for a model, with its coloured marker and its number of errors."""
    from matplotlib.transforms import offset_copy

    models = [index for index, layer in enumerate(layers) if layer.model]
    styles = dict(zip(models, styles_of([layers[index].model for index in models]), strict=True))
    for index, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        if index not in styles:
            axes.set_title(layer.title, fontsize=8, pad=3, parse_math=False)
            continue
        frame, at = (
            offset_copy(axes.transAxes, cast("Figure", axes.figure), x, y, "points") for x, y in ((9, 4), (3.5, 6.5))
        )
        title = f"{layer.title}: {errors}" if (errors := layer.errors()) else layer.title
        axes.text(0, 1, title, fontsize=8, parse_math=False, transform=frame)
        style = styles[index]
        axes.plot(
            [0], [1], MARKERS[style.marker], color=LIGHT[style.color], markersize=5, transform=at, clip_on=False,
            scalex=False, scaley=False,
        )  # fmt: skip


def _draw_layer(
    axes: "Axes",
    photo: Photo,
    layer: Layer,
    categories: Sequence[Category],
    opacity: float,
    names: bool,
    scores: bool,
    errors: bool,
) -> None:
    """Draws a segment map over the photograph, or only its errors, with names of categories if requested."""
    from matplotlib.collections import LineCollection

    if layer.ids.shape != photo.shape[:2]:
        raise BadArgument(f"{layer.title} is {layer.ids.shape} but the image is {photo.shape[:2]} (height, width).")
    if errors:
        _draw_errors(axes, photo, layer, opacity)
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
    points_per_pixel = 72 * axes.get_window_extent().width / axes.figure.dpi / photo.shape[1]
    for segment, text, x, y, room in named_spots(layer, categories, scores):
        if room * points_per_pixel < 3.5 or (errors and segment.kind in ("found", "")):
            continue
        size = float(np.clip(room * points_per_pixel / 2, 4, 8))
        half = 0.31 * size * len(text) / points_per_pixel
        if 2 * half < photo.shape[1]:
            x = min(max(x, half), photo.shape[1] - 1 - half)
        # A box behind the name, not an outline around it: outlined text would be written as curves, not as text.
        box = {"boxstyle": "round,pad=0.12", "facecolor": (0, 0, 0, 0.6), "linewidth": 0}
        axes.text(
            x, y, text, fontsize=size, color="white", ha="center", va="center", clip_on=True, parse_math=False, bbox=box
        )


def _draw_errors(axes: "Axes", photo: Photo, layer: Layer, opacity: float) -> None:
    """Draws the photograph and a prediction's errors on it, each kind of error in its own colour and line style."""
    false = np.isin(layer.ids, [one.id for one in layer.segments if one.kind == "false"])
    filled = photo.astype(np.float32)
    filled[false] += opacity * (np.array(_rgb(ERRORS["false"])) - filled[false])
    axes.imshow(filled.round().astype(np.uint8))
    for segment in layer.segments:
        if segment.kind in STROKES:
            _stroke(axes, layer.ids == segment.id, segment.kind)
    for segment in layer.missed:
        if layer.truth is not None and segment.kind != "confused":
            _stroke(axes, layer.truth == segment.id, segment.kind, broken=True)


def _stroke(axes: "Axes", mask: npt.NDArray[np.bool_], kind: str, broken: bool = False) -> None:
    """Draws the outline of a segment in the style of its kind of error."""
    if not mask.any():
        return
    height, width = mask.shape
    # With a rim, so that the outline is closed at the image's edge.
    grid = np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask, 1).astype(np.float32)
    axes.contour(*grid, levels=[0.5], colors=STROKES[kind][0], linewidths=2.6)
    axes.contour(
        *grid, levels=[0.5], colors=ERRORS[kind], linewidths=1.4, linestyles=[(0, (3, 2)) if broken else "solid"]
    )


def draw_error_legend(figure: "Figure") -> None:
    """Draws a legend of the kinds of errors at the bottom of a figure, with their own outlines."""
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


def _varied_color(base: Rgb, nth: int) -> Rgb:
    """Returns a colour for each index: `base` for 0, then alternately lighter and darker ones."""
    if nth == 0:
        return base
    hue, light, full = colorsys.rgb_to_hls(*(part / 255 for part in base))
    step = (nth + 1) // 2 * 0.11 % 0.33 * (1 if nth % 2 else -1)
    light = min(0.88, max(0.18, light + step))
    red, green, blue = colorsys.hls_to_rgb((hue + 0.025 * nth) % 1, light, full)
    return round(255 * red), round(255 * green), round(255 * blue)


def _rgb(color: str) -> Rgb:
    """Returns a colour written "#rrggbb" as red, green and blue from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
