"""Generates `shapes`, a procedural panoptic dataset that needs no download.

Textured things (five kinds) overlap, occlude each other and run over the border of a background of four kinds of stuff;
some scenes hold a crowd or a void region. Everything is computed from the raw bits of a fixed generator by additions,
multiplications, divisions and square roots only, which IEEE 754 rounds identically everywhere: no library function
whose last bit differs between platforms. So a seed gives the same pixels and the same JSON on every machine.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write, write_json
from panbench.panoptic import pixels

FloatMap = npt.NDArray[np.float64]
BoolMap = npt.NDArray[np.bool_]

VERSION = 1
"""Increased when the same seed no longer gives the same pixels."""

DEFAULT_SIZE = (128, 160)
DEFAULT_VAL_IMAGES = 200
SPLITS = {"train": 0, "val": 1, "test": 2}
_SIZE_LIMITS = (32, 8192)

# Category ids have gaps like COCO's, so that code that confuses ids with labels fails.
CATEGORIES: tuple[dict[str, Any], ...] = (
    {"id": 1, "name": "ball", "supercategory": "round", "isthing": 1, "color": [214, 72, 62]},
    {"id": 2, "name": "box", "supercategory": "angular", "isthing": 1, "color": [62, 108, 214]},
    {"id": 3, "name": "triangle", "supercategory": "angular", "isthing": 1, "color": [238, 186, 48]},
    {"id": 5, "name": "ring", "supercategory": "round", "isthing": 1, "color": [166, 74, 198]},
    {"id": 8, "name": "star", "supercategory": "angular", "isthing": 1, "color": [48, 190, 160]},
    {"id": 92, "name": "sky", "supercategory": "outdoor", "isthing": 0, "color": [166, 206, 240]},
    {"id": 93, "name": "grass", "supercategory": "ground", "isthing": 0, "color": [96, 150, 70]},
    {"id": 95, "name": "sand", "supercategory": "ground", "isthing": 0, "color": [206, 178, 128]},
    {"id": 100, "name": "brick", "supercategory": "structural", "isthing": 0, "color": [132, 78, 64]},
)
_THINGS = tuple(c for c in CATEGORIES if c["isthing"])
_STUFF = tuple(c for c in CATEGORIES if not c["isthing"])


@dataclasses.dataclass(frozen=True)
class ShapesScene:
    """One generated scene: `image` (H, W, 3) uint8 RGB, `ids` (H, W) int32 with 0 = void, and COCO `segments_info`."""

    image: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int32]
    segments_info: tuple[dict[str, Any], ...]


class _Dice:
    """Draws random numbers that are the same with every version of NumPy."""

    def __init__(self, *key: int) -> None:
        """Takes the seed as one or more integers."""
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draws a number in [low, high)."""
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """Draws an integer in [low, high)."""
        return low + int(self.uniform() * (high - low))

    def chance(self, probability: float) -> bool:
        """Returns True with a given probability."""
        return self.uniform() < probability

    def uniforms(self, *shape: int) -> FloatMap:
        """Draws an array of numbers in [0, 1)."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def rotation(self) -> tuple[float, float]:
        """Draws (cos, sin) of a random angle without trigonometric functions, which differ between platforms."""
        t = self.uniform(-1.0, 1.0)
        cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return (cosine, sine) if self.chance(0.5) else (-sine, cosine)


def make_scene(index: int, *, split: str = "val", seed: int = 0, size: tuple[int, int] = DEFAULT_SIZE) -> ShapesScene:
    """Generates scene number `index` of a split; the same arguments give the same pixels on every platform.

    size: (height, width) in pixels, each 32–8192; objects scale with the shorter side.
    Raises BadArgument for an unknown split or a size outside the limits.
    """
    height, width = size
    if split not in SPLITS:
        raise BadArgument(f"shapes has no split {split!r}; it has {', '.join(SPLITS)}.")
    if not (_SIZE_LIMITS[0] <= min(size) and max(size) <= _SIZE_LIMITS[1]):
        raise BadArgument(
            f"shapes scenes are {_SIZE_LIMITS[0]} to {_SIZE_LIMITS[1]} pixels a side, not {height}×{width}."
        )
    dice = _Dice(VERSION, seed, SPLITS[split], index)
    canvas = _SceneCanvas(height, width)
    _paint_background(canvas, dice)
    _paint_things(canvas, dice)
    if dice.chance(0.15):
        _paint_crowd(canvas, dice)
    if dice.chance(0.30):
        _paint_void(canvas, dice)
    return canvas.finish_scene(dice)


class _SceneCanvas:
    """A scene while it is painted, back to front; coordinates are in units of the shorter side."""

    def __init__(self, height: int, width: int) -> None:
        """Starts a black canvas of this height and width in pixels."""
        self.unit = float(min(height, width))
        self.ys: FloatMap = ((np.arange(height, dtype=np.float64) + 0.5) / self.unit)[:, None]
        self.xs: FloatMap = ((np.arange(width, dtype=np.float64) + 0.5) / self.unit)[None, :]
        self.bottom, self.right = height / self.unit, width / self.unit
        self.color: FloatMap = np.zeros((height, width, 3))
        self.layer: npt.NDArray[np.int32] = np.zeros((height, width), np.int32)
        self.layers: list[tuple[int, bool]] = []  # (category id, iscrowd) of layer 1, 2, …

    def paint_layer(
        self, window: tuple[slice, slice], mask: BoolMap, color: FloatMap, category_id: int, crowd: bool
    ) -> None:
        """Paints a new layer over the pixels of a window under `mask`. color: (h, w, 3) of the window"""
        self.layers.append((category_id, crowd))
        np.copyto(self.layer[window], len(self.layers), where=mask)
        np.copyto(self.color[window], color, where=mask[..., None])

    def pixel_window(self, x: float, y: float, radius: float) -> tuple[slice, slice]:
        """Returns the slices of the pixels that a disc could cover, clipped to the image."""
        rows, columns = self.layer.shape
        top, left = int(max((y - radius) * self.unit - 1, 0)), int(max((x - radius) * self.unit - 1, 0))
        stop_y, stop_x = int((y + radius) * self.unit + 2), int((x + radius) * self.unit + 2)
        return slice(top, min(max(stop_y, top), rows)), slice(left, min(max(stop_x, left), columns))

    def finish_scene(self, dice: _Dice) -> ShapesScene:
        """Adds light and noise, sets slivers to void, numbers the visible layers, and returns the scene."""
        rows, columns = self.layer.shape
        noise = dice.uniforms(rows, columns) + dice.uniforms(rows, columns) - 1.0
        light = 1.0 + dice.uniform(-0.12, 0.12) + dice.uniform(-0.15, 0.15) * (self.ys / self.bottom - 0.5)
        image = np.clip(self.color * light[..., None] + 9.0 * noise[..., None], 0, 255).astype(np.uint8)

        counts = np.bincount(self.layer.ravel(), minlength=len(self.layers) + 1)
        smallest = max(12.0, 0.0012 * self.layer.size)
        id_of_layer = np.zeros(len(self.layers) + 1, np.int32)
        id_of_stuff: dict[int, int] = {}
        next_id = 1
        for number, (category_id, _) in enumerate(self.layers, start=1):
            if counts[number] < smallest:
                continue
            stuff = category_id in _STUFF_IDS
            if stuff and category_id in id_of_stuff:
                id_of_layer[number] = id_of_stuff[category_id]
                continue
            # An odd multiplier is a bijection on 24 bits: ids are distinct and use all three PNG channels.
            id_of_layer[number] = next_id * 0x9E3779 % (1 << 24)
            next_id += 1
            if stuff:
                id_of_stuff[category_id] = int(id_of_layer[number])
        ids = id_of_layer[self.layer]
        return ShapesScene(image, ids, tuple(self._segments_info(ids, id_of_layer)))

    def _segments_info(
        self, ids: npt.NDArray[np.int32], id_of_layer: npt.NDArray[np.int32]
    ) -> Iterator[dict[str, Any]]:
        """Yields the COCO record of each visible segment."""
        described: set[int] = set()
        for number, (category_id, crowd) in enumerate(self.layers, start=1):
            segment_id = int(id_of_layer[number])
            if segment_id == 0 or segment_id in described:
                continue
            described.add(segment_id)
            mask = ids == segment_id
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            top, left = int(rows[0]), int(columns[0])
            yield {
                "id": segment_id,
                "category_id": category_id,
                "area": int(np.count_nonzero(mask)),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "iscrowd": int(crowd),
            }


_STUFF_IDS = frozenset(c["id"] for c in _STUFF)


def _paint_background(canvas: _SceneCanvas, dice: _Dice) -> None:
    """Paints sky over one or two grounds with uneven borders, and a brick wall in some scenes."""
    sky, grass, sand, brick = _STUFF
    everything = (slice(None), slice(None))
    everywhere = np.ones(canvas.layer.shape, bool)
    grounds = [grass, sand] if dice.chance(0.5) else [sand, grass]
    horizon = dice.uniform(0.15, 0.6) * canvas.bottom
    canvas.paint_layer(everything, everywhere, _stuff_texture(canvas, dice, sky), sky["id"], False)
    below = np.broadcast_to(canvas.ys > horizon + _uneven_line(canvas, dice, 0.10), canvas.layer.shape)
    canvas.paint_layer(everything, below, _stuff_texture(canvas, dice, grounds[0]), grounds[0]["id"], False)
    if dice.chance(0.6):
        second = horizon + dice.uniform(0.25, 0.7) * (canvas.bottom - horizon)
        lower = np.broadcast_to(canvas.ys > second + _uneven_line(canvas, dice, 0.14), canvas.layer.shape)
        canvas.paint_layer(everything, lower, _stuff_texture(canvas, dice, grounds[1]), grounds[1]["id"], False)
    if dice.chance(0.45):
        left = dice.uniform(-0.2, 0.8) * canvas.right
        right = left + dice.uniform(0.25, 0.6) * canvas.right
        top = dice.uniform(0.05, 0.5) * canvas.bottom
        bottom = top + dice.uniform(0.25, 0.6) * canvas.bottom
        wall = (canvas.xs > left) & (canvas.xs < right) & (canvas.ys > top) & (canvas.ys < bottom)
        canvas.paint_layer(everything, wall, _stuff_texture(canvas, dice, brick), brick["id"], False)


def _paint_things(canvas: _SceneCanvas, dice: _Dice) -> None:
    """Paints two to seven things of random kind, size and position."""
    for _ in range(dice.integer(2, 8)):
        kind = _THINGS[dice.integer(0, len(_THINGS))]
        radius = dice.uniform(0.09, 0.27)
        x, y = dice.uniform(0.0, canvas.right), dice.uniform(0.0, canvas.bottom)
        _paint_thing(canvas, dice, kind, x, y, radius, crowd_layer=False)


def _paint_crowd(canvas: _SceneCanvas, dice: _Dice) -> None:
    """Paints many small things of one kind, close together: one segment with iscrowd=1."""
    kind = _THINGS[dice.integer(0, len(_THINGS))]
    x, y = dice.uniform(0.2, 0.8) * canvas.right, dice.uniform(0.2, 0.8) * canvas.bottom
    reach, first = dice.uniform(0.12, 0.25), True
    for _ in range(dice.integer(9, 18)):
        dx, dy = dice.uniform(-reach, reach), dice.uniform(-reach, reach) * 0.6
        radius = dice.uniform(0.045, 0.06)
        _paint_thing(canvas, dice, kind, x + dx, y + dy, radius, crowd_layer=True, same_layer=not first)
        first = False


def _paint_thing(
    canvas: _SceneCanvas,
    dice: _Dice,
    kind: dict[str, Any],
    x: float,
    y: float,
    radius: float,
    *,
    crowd_layer: bool,
    same_layer: bool = False,
) -> None:
    """Paints one thing in a random rotation and texture."""
    window = canvas.pixel_window(x, y, radius)
    cosine, sine = dice.rotation()
    dx, dy = canvas.xs[:, window[1]] - x, canvas.ys[window[0]] - y
    u, v = (cosine * dx + sine * dy) / radius, (cosine * dy - sine * dx) / radius
    mask = _OUTLINES[kind["name"]](u, v, dice.uniform())
    color = _thing_texture(dice, kind, u, v)
    if same_layer:
        canvas.layer[window][mask] = len(canvas.layers)
        canvas.color[window][mask] = color[mask]
    else:
        canvas.paint_layer(window, mask, color, kind["id"], crowd_layer)


def _paint_void(canvas: _SceneCanvas, dice: _Dice) -> None:
    """Paints an unlabelled blotch: grey noise over existing segments."""
    x, y = dice.uniform(0, canvas.right), dice.uniform(0, canvas.bottom)
    radius = dice.uniform(0.06, 0.18)
    window = canvas.pixel_window(x, y, radius)
    dx, dy = (canvas.xs[:, window[1]] - x) / radius, (canvas.ys[window[0]] - y) / radius
    mask = dx * dx + dy * dy < 0.55 + 0.45 * _value_noise(dice, canvas.xs[:, window[1]], canvas.ys[window[0]], 9.0)
    grey = 70.0 + 110.0 * dice.uniforms(*mask.shape)
    canvas.layer[window][mask] = 0
    canvas.color[window][mask] = grey[mask][:, None]


# Outlines: u, v are coordinates in the thing's own frame, 1 = its radius; `variety` in [0, 1) varies the proportions.


def _ball_mask(u: FloatMap, v: FloatMap, variety: float) -> BoolMap:
    """Returns the mask of a disc, squashed by `variety`, on coordinates (u, v) within ±1."""
    squash = 1.0 + 0.25 * variety
    return u * u + (v * squash) * (v * squash) < 1.0


def _box_mask(u: FloatMap, v: FloatMap, variety: float) -> BoolMap:
    """Returns the mask of a rectangle on coordinates (u, v) within ±1."""
    return (np.abs(u) < 0.78) & (np.abs(v) < 0.78 - 0.25 * variety)


def _triangle_mask(u: FloatMap, v: FloatMap, variety: float) -> BoolMap:
    """Returns the mask of a triangle on coordinates (u, v) within ±1."""
    return (v < 0.62) & (v > 2.0 * np.abs(u) * (0.85 + 0.2 * variety) - 0.95)


def _ring_mask(u: FloatMap, v: FloatMap, variety: float) -> BoolMap:
    """Returns the mask of a ring on coordinates (u, v) within ±1."""
    square = u * u + v * v
    inner = 0.45 + 0.15 * variety
    return (square < 1.0) & (square > inner * inner)


def _star_mask(u: FloatMap, v: FloatMap, variety: float) -> BoolMap:
    """Returns the mask of a four-pointed star: |u|^p + |v|^p < 1 with p = 1/2, and a square core."""
    core = 0.38 + 0.08 * variety
    points = np.sqrt(np.abs(u)) + np.sqrt(np.abs(v)) < 1.2
    return (points & (np.abs(u) < 1) & (np.abs(v) < 1)) | ((np.abs(u) < core) & (np.abs(v) < core))


_OUTLINES: dict[str, Callable[[FloatMap, FloatMap, float], BoolMap]] = {
    "ball": _ball_mask,
    "box": _box_mask,
    "triangle": _triangle_mask,
    "ring": _ring_mask,
    "star": _star_mask,
}


def _thing_texture(dice: _Dice, kind: dict[str, Any], u: FloatMap, v: FloatMap) -> FloatMap:
    """Returns the colours (h, w, 3) of a thing: its kind's, varied and shaded, in half of the cases striped."""
    base = np.asarray(kind["color"], np.float64) + 70.0 * (dice.uniforms(3) - 0.5)
    shade = 1.0 + 0.22 * (v - 0.6 * u)
    if dice.chance(0.5):
        frequency, phase = dice.uniform(1.5, 3.5), dice.uniform()
        stripe = _triangle_wave(frequency * u + phase)
        shade = shade * (0.78 + 0.44 * stripe)
    return shade[..., None] * base


def _stuff_texture(canvas: _SceneCanvas, dice: _Dice, kind: dict[str, Any]) -> FloatMap:
    """Returns the colours (H, W, 3) of stuff: its kind's, varied, with the pattern of its material."""
    base = np.asarray(kind["color"], np.float64) + 36.0 * (dice.uniforms(3) - 0.5)
    coarse = _value_noise(dice, canvas.xs, canvas.ys, 3.0) - 0.5
    if kind["name"] == "grass":
        pattern = 1.0 + 0.25 * coarse + 0.30 * (_value_noise(dice, canvas.xs * 2.5, canvas.ys, 18.0) - 0.5)
    elif kind["name"] == "sand":
        pattern = 1.0 + 0.12 * coarse + 0.16 * (_triangle_wave(9.0 * canvas.ys + 2.0 * coarse) - 0.5)
    elif kind["name"] == "brick":
        row = np.floor(canvas.ys * 11.0)
        across = canvas.xs * 5.5 + 0.5 * (row - 2.0 * np.floor(row / 2.0))
        mortar = (canvas.ys * 11.0 - row < 0.16) | (across - np.floor(across) < 0.08)
        pattern = np.where(mortar, 1.55, 1.0 + 0.2 * coarse)
    else:
        pattern = 1.0 + 0.18 * coarse + 0.1 * (canvas.ys / canvas.bottom)
    color: FloatMap = np.empty((*canvas.layer.shape, 3))
    for channel in range(3):  # NumPy's inner loop then runs along x, not along three colours
        np.multiply(pattern, base[channel], out=color[..., channel])
    return color


def _triangle_wave(t: FloatMap) -> FloatMap:
    """Returns a triangle wave of period 1 between 0 and 1."""
    return np.abs(2.0 * (t - np.floor(t)) - 1.0)


def _uneven_line(canvas: _SceneCanvas, dice: _Dice, amplitude: float) -> FloatMap:
    """Returns an uneven line (1, W) around 0, for borders between regions of stuff such as grass and sand."""
    return amplitude * (_value_noise(dice, canvas.xs, np.zeros((1, 1)), 4.0) - 0.5)


def _value_noise(dice: _Dice, xs: FloatMap, ys: FloatMap, frequency: float) -> FloatMap:
    """Returns smooth noise in [0, 1] on the grid xs (1, w) × ys (h, 1), bilinear between random lattice values."""
    fx, fy = xs * frequency, ys * frequency
    fx, fy = fx - np.floor(fx.min()), fy - np.floor(fy.min())
    ix, iy = np.floor(fx).astype(np.intp), np.floor(fy).astype(np.intp)
    lattice = dice.uniforms(int(iy.max()) + 2, int(ix.max()) + 2)
    tx, ty = fx - ix, fy - iy
    tx, ty = tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty)
    # Interpolate along x first, in the few lattice rows: bit-identical to pixel by pixel, with fewer operations.
    rows = lattice[:, ix[0]] * (1.0 - tx) + lattice[:, ix[0] + 1] * tx
    noise: FloatMap = rows[iy[:, 0]] * (1.0 - ty) + rows[iy[:, 0] + 1] * ty
    return noise


def generate(
    root: Path,
    *,
    split: str = "val",
    count: int = DEFAULT_VAL_IMAGES,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a split in mmdet's COCO panoptic layout below `root`; returns the path of its JSON.

    Images are in `root/<split>/`, id PNGs in `root/annotations/panoptic_<split>/`, next to `panoptic_<split>.json`.
    The JSON is written last: if it exists, the split is complete, and the call returns at once.
    progress(done, count) is called after each image. Raises BadArgument, OutOfSpace.
    """
    if count < 1:
        raise BadArgument(f"shapes needs at least one image, not {count}.")
    json_path = root / "annotations" / f"panoptic_{split}.json"
    if json_path.exists():
        return json_path
    image_folder, id_folder = root / split, root / "annotations" / f"panoptic_{split}"
    image_folder.mkdir(parents=True, exist_ok=True)
    id_folder.mkdir(parents=True, exist_ok=True)

    def write_scene(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Makes one scene and writes its PNGs; returns its records for `images` and `annotations`."""
        scene = make_scene(index, split=split, seed=seed, size=size)
        image_id, name = index + 1, f"{index + 1:012d}.png"
        _write_rgb_png(image_folder / name, scene.image)
        ids = scene.ids
        _write_rgb_png(id_folder / name, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8))
        image = {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        annotation = {"image_id": image_id, "file_name": name, "segments_info": list(scene.segments_info)}
        return image, annotation

    images, annotations = [], []
    with ThreadPoolExecutor() as pool:
        for done, (image, annotation) in enumerate(pool.map(write_scene, range(count)), start=1):
            images.append(image)
            annotations.append(annotation)
            if progress is not None:
                progress(done, count)
    info = {"description": f"panbench shapes v{VERSION}", "split": split, "seed": seed, "size": list(size)}
    content = {"info": info, "images": images, "annotations": annotations, "categories": [dict(c) for c in CATEGORIES]}
    write_json(json_path, content, indent=None)
    return json_path


def _write_rgb_png(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    with atomic_write(path, durable=False) as handle:
        handle.write(pixels.encode_png(rgb))
