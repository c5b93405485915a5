"""The image corruptions of ImageNet-C: 15 and 4 more, each at 5 severities. [Hendrycks and Dietterich 2019]

Written from the paper and its parameters (github.com/hendrycks/robustness, ImageNet-C/create_c) on NumPy, OpenCV and
SciPy: the package `imagecorruptions` needs numba and scikit-image and pins neither. As in the benchmark for detectors
[Michaelis et al. 2019, "Benchmarking Robustness in Object Detection"] the parameters stay those of 224×224 images
whatever the size, and the ground truth stays as it is.

Deviations: `frost` blends six photographs there; ours are generated (licence, size). `motion_blur` and `snow` follow
ImageMagick's kernel without calling it. Random numbers are NumPy's, seeded by corruption, severity and image.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Corruption",
    "CorruptionKind",
    "corrupt",
    "corrupted_runs",
    "parse_corruptions",
]

SEVERITIES = (1, 2, 3, 4, 5)

Image = npt.NDArray[np.float32]
"""(H, W, 3) float32 RGB in 0–1."""


@dataclass(frozen=True)
class CorruptionKind:
    """A kind of corruption: its group in the paper, and whether it is one of the 15 that mPC averages."""

    name: str
    group: str
    is_extra: bool
    apply: Callable[[Image, int, np.random.Generator], Image]


@dataclass(frozen=True, order=True)
class Corruption:
    """A kind of corruption at a severity from 1 to 5."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return f"{self.name}-{self.severity}"


def corrupt(rgb: npt.NDArray[np.uint8], corruption: Corruption, image_id: int) -> npt.NDArray[np.uint8]:
    """The corrupted (H, W, 3) uint8 RGB image, always the same for the same corruption and image id.

    Raises BadArgument for an unknown corruption or severity, ValueError when `rgb` is not (H, W, 3) uint8.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    _check(corruption)
    key = hashlib.sha256(f"{corruption} {image_id}".encode()).digest()
    random = np.random.default_rng(np.frombuffer(key, np.uint32))
    image = (rgb / 255).astype(np.float32)
    corrupted = CORRUPTIONS[corruption.name].apply(image, corruption.severity - 1, random)
    # Truncated, not rounded: as the paper's own files were written.
    return (np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def parse_corruptions(text: str) -> list[Corruption]:
    """The corruptions that `fog:2,jpeg:4` names; `fog` means its five severities, `all` all 19 kinds at each.

    `all15` leaves the four extra kinds out, which mPC does not average. `all:3` is each kind at severity 3.
    Raises BadArgument for an unknown name, a severity outside 1–5, and for none at all.
    """
    found: list[Corruption] = []
    for word in (word.strip() for word in text.split(",")):
        name, colon, level = word.partition(":")
        name = name.strip().lower().replace("-", "_")
        if not name:
            continue
        name = {"jpeg": "jpeg_compression", "elastic": "elastic_transform"}.get(name, name)
        if colon and not (level.strip().isascii() and level.strip().isdigit()):
            raise BadArgument(f"--corrupt {word}: the severity must be a whole number from 1 to 5.")
        levels = (int(level),) if colon else SEVERITIES
        if name in ("all", "all15"):
            names = [kind.name for kind in CORRUPTIONS.values() if name == "all" or not kind.is_extra]
        else:
            names = [name]
        for one in names:
            for severity in levels:
                corruption = Corruption(one, severity)
                _check(corruption)
                found.append(corruption)
    if not found:
        raise BadArgument("--corrupt names no corruption. Write for example fog:2,jpeg:4, or all.")
    return list(dict.fromkeys(found))


def corrupted_runs(home: Path) -> Path:
    """The folder beside a clean run that holds its corrupted runs, each in a folder of its own: `fog-2`."""
    place = home if home.name else home.absolute()
    return place.with_name(f"{place.name}-corrupted")


def _check(corruption: Corruption) -> None:
    if corruption.name not in CORRUPTIONS:
        near = difflib.get_close_matches(corruption.name, CORRUPTIONS, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"They are {', '.join(CORRUPTIONS)}; or all, or all15."
        raise BadArgument(f"There is no corruption {corruption.name!r}. {hint}")
    if corruption.severity not in SEVERITIES:
        raise BadArgument(f"{corruption.name} has severities from 1 to 5, not {corruption.severity}.")


def _gaussian_noise(image: Image, level: int, random: np.random.Generator) -> Image:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return image + _normal(random, image.shape, scale)


def _shot_noise(image: Image, level: int, random: np.random.Generator) -> Image:
    photons = (60, 25, 12, 5, 3)[level]
    return (random.poisson(image * photons) / photons).astype(np.float32)


def _impulse_noise(image: Image, level: int, random: np.random.Generator) -> Image:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = random.random(image.shape, np.float32)
    noisy = np.where(drawn < share / 2, np.float32(0), image)
    return np.where(drawn > 1 - share / 2, np.float32(1), noisy)


def _speckle_noise(image: Image, level: int, random: np.random.Generator) -> Image:
    scale = (0.15, 0.2, 0.35, 0.45, 0.6)[level]
    return image + image * _normal(random, image.shape, scale)


def _gaussian_blur(image: Image, level: int, random: np.random.Generator) -> Image:
    return _blurred(image, (1, 2, 3, 4, 6)[level])


def _defocus_blur(image: Image, level: int, random: np.random.Generator) -> Image:
    radius, softening = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(8, radius)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (side, side), sigmaX=softening)
    return cv2.filter2D(image, -1, kernel).astype(np.float32)


def _glass_blur(image: Image, level: int, random: np.random.Generator) -> Image:
    """Each pixel changes places with a neighbour, in scan order from the far corner, between two blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    height, width = image.shape[:2]
    place = np.arange(height * width).reshape(height, width)
    for _ in range(rounds):
        offsets = random.integers(-reach, reach, size=(height, width, 2))
        # Swaps depend on earlier ones only where neighbourhoods meet. Pixels 2·reach + 1 apart never share a
        # neighbour, so each such lattice is swapped at once: the scan order differs, the distribution does not.
        step = 2 * reach + 1
        for first_row in range(step):
            for first_column in range(step):
                rows = np.arange(reach + first_row, height - reach, step)[::-1]
                columns = np.arange(reach + first_column, width - reach, step)[::-1]
                if not len(rows) or not len(columns):
                    continue
                y, x = np.meshgrid(rows, columns, indexing="ij")
                other_y, other_x = y + offsets[y, x, 1], x + offsets[y, x, 0]
                place[y, x], place[other_y, other_x] = place[other_y, other_x], place[y, x].copy()
    blurred = np.floor(_blurred(image, sigma) * 255) / 255
    shuffled = blurred.reshape(-1, 3)[place.ravel()].reshape(image.shape).astype(np.float32)
    return _blurred(shuffled, sigma)


def _motion_blur(image: Image, level: int, random: np.random.Generator) -> Image:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _along(image, radius, sigma, random.uniform(-45, 45))


def _zoom_blur(image: Image, level: int, random: np.random.Generator) -> Image:
    last, step = ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))[level]
    factors = 1 + np.arange(0, last, step)
    total = image.copy()
    for factor in factors:
        total += _zoomed(image, float(factor))
    return (total / (len(factors) + 1)).astype(np.float32)


def _snow(image: Image, level: int, random: np.random.Generator) -> Image:
    mean, scale, zoom, threshold, radius, sigma, weight = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = _zoomed(mean + _normal(random, image.shape[:2], scale), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1).astype(np.float32)
    flakes = np.clip(_along(flakes, int(radius), sigma, random.uniform(-135, -45)), 0, 1)[..., None]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = weight * image + (1 - weight) * np.maximum(image, gray * 1.5 + 0.5)
    return (whitened + flakes + flakes[::-1, ::-1]).astype(np.float32)


def _frost(image: Image, level: int, random: np.random.Generator) -> Image:
    """A generated sheet of crystals in place of the paper's six photographs of frost."""
    keep, amount = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    height, width = image.shape[:2]
    crystals = np.zeros((height, width), np.float32)
    for angle in random.uniform(0, 180, size=6):
        needles = (random.random((height, width), np.float32) > 0.997).astype(np.float32)
        crystals = np.maximum(crystals, 8 * _along(needles, 20, 12, float(angle)))
    haze = _clouds(random, height, width, 2.0)
    sheet = np.clip(0.35 * haze + 0.65 * np.clip(crystals, 0, 1) * (0.4 + 0.6 * haze), 0, 1)
    tint = np.array([0.86, 0.93, 1.0], np.float32)
    return (keep * image + amount * sheet[..., None] * tint).astype(np.float32)


def _fog(image: Image, level: int, random: np.random.Generator) -> Image:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    brightest = float(image.max())
    fogged = image + amount * _clouds(random, image.shape[0], image.shape[1], decay)[..., None]
    return (fogged * brightest / (brightest + amount)).astype(np.float32)


def _brightness(image: Image, level: int, random: np.random.Generator) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def _contrast(image: Image, level: int, random: np.random.Generator) -> Image:
    means = image.mean(axis=(0, 1), keepdims=True)
    return (image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means


def _saturate(image: Image, level: int, random: np.random.Generator) -> Image:
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[level]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + offset, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def _jpeg_compression(image: Image, level: int, random: np.random.Generator) -> Image:
    quality = (25, 18, 15, 10, 7)[level]
    pixels = np.round(image * 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return (decoded[..., ::-1] / 255).astype(np.float32)


def _pixelate(image: Image, level: int, random: np.random.Generator) -> Image:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = image.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.float32)


def _elastic_transform(image: Image, level: int, random: np.random.Generator) -> Image:
    """A random affine map, then a smooth random displacement. It moves pixels by some px; the ground truth stays."""
    side = 244.0
    strength, smoothness, affine = (
        (side * 2, side * 0.7, side * 0.1),
        (side * 2, side * 0.08, side * 0.2),
        (side * 0.05, side * 0.01, side * 0.02),
        (side * 0.07, side * 0.01, side * 0.02),
        (side * 0.12, side * 0.01, side * 0.02),
    )[level]
    height, width = image.shape[:2]
    middle, third = np.array([width, height], np.float32) // 2, min(height, width) // 3
    corners = np.array([middle + third, [middle[0] + third, middle[1] - third], middle - third], np.float32)
    moved = corners + random.uniform(-affine, affine, size=corners.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(corners, moved)
    warped = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)

    def displacement() -> npt.NDArray[np.float32]:
        drawn = random.uniform(-1, 1, size=(height, width)).astype(np.float32)
        reach = 2 * int(3 * smoothness + 0.5) + 1
        smooth = cv2.GaussianBlur(drawn, (reach, reach), smoothness, borderType=cv2.BORDER_REFLECT)
        return (smooth * strength).astype(np.float32)

    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        warped, x + displacement(), y + displacement(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    ).astype(np.float32)


def _spatter(image: Image, level: int, random: np.random.Generator) -> Image:
    """Drops of water (severities 1–3) or of mud (4, 5) on the lens."""
    mean, scale, sigma, threshold, amount, is_mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[level]
    liquid = _blurred((mean + _normal(random, image.shape[:2], scale)).astype(np.float32), sigma)
    liquid = np.where(liquid < threshold, 0, liquid).astype(np.float32)
    if is_mud:
        cover = _blurred((liquid > threshold).astype(np.float32), amount)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        brown = np.array([63, 42, 20], np.float32) / 255
        return (image * (1 - cover) + brown * cover).astype(np.float32)
    layer = (np.clip(liquid, 0, 1) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    rim = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(rim, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32))
    drops = layer.astype(np.float32) * cv2.blur(relief, (3, 3)).astype(np.float32)
    drops *= amount / max(float(drops.max()), 1e-6)
    turquoise = np.array([238, 238, 175], np.float32) / 255
    return (image + drops[..., None] * turquoise).astype(np.float32)


def _normal(random: np.random.Generator, shape: Sequence[int], scale: float) -> npt.NDArray[np.float32]:
    return random.standard_normal(tuple(shape), np.float32) * np.float32(scale)


def _blurred(image: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE).astype(np.float32)


def _along(image: npt.NDArray[np.float32], radius: int, sigma: float, degrees: float) -> npt.NDArray[np.float32]:
    """Blurred towards one direction: half a Gaussian of 2·radius + 1 samples, as ImageMagick's motion blur."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = np.deg2rad(degrees)
    columns = np.rint(steps * np.cos(angle)).astype(int)
    rows = np.rint(steps * np.sin(angle)).astype(int)
    reach = 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    np.add.at(kernel, (reach + rows, reach + columns), weights / weights.sum())
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE).astype(np.float32)


def _zoomed(image: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """The middle 1 / factor of an image, enlarged bilinearly to its size."""
    height, width = image.shape[:2]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _clouds(random: np.random.Generator, height: int, width: int, decay: float) -> npt.NDArray[np.float32]:
    """(height, width) in 0–1: a plasma fractal by the diamond-square algorithm on a torus.

    Each round doubles the grid: centres of squares are the mean of their corners, then centres of edges the mean of
    their four neighbours, each with noise that shrinks by `decay` a round.
    """
    grid = np.zeros((1, 1))
    amplitude = 100.0
    while len(grid) < max(height, width):
        side = len(grid)

        def noise(side: int = side, amplitude: float = amplitude) -> npt.NDArray[np.float64]:
            return amplitude * random.uniform(-amplitude, amplitude, (side, side))

        right = np.roll(grid, -1, axis=1)
        below = np.roll(grid, -1, axis=0)
        centres = (grid + right + below + np.roll(right, -1, axis=0)) / 4 + noise()
        finer = np.empty((2 * side, 2 * side))
        finer[::2, ::2] = grid
        finer[1::2, 1::2] = centres
        finer[::2, 1::2] = (grid + right + centres + np.roll(centres, 1, axis=0)) / 4 + noise()
        finer[1::2, ::2] = (grid + below + centres + np.roll(centres, 1, axis=1)) / 4 + noise()
        grid = finer
        amplitude /= decay
    grid = grid[:height, :width] - grid.min()
    return (grid / max(float(grid.max()), 1e-12)).astype(np.float32)


def _kinds(
    group: str, is_extra: bool, **functions: Callable[[Image, int, np.random.Generator], Image]
) -> list[CorruptionKind]:
    return [CorruptionKind(name, group, is_extra, function) for name, function in functions.items()]


CORRUPTIONS: Mapping[str, CorruptionKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            *_kinds(
                "noise", False, gaussian_noise=_gaussian_noise, shot_noise=_shot_noise, impulse_noise=_impulse_noise
            ),
            *_kinds("blur", False, defocus_blur=_defocus_blur, glass_blur=_glass_blur),
            *_kinds("blur", False, motion_blur=_motion_blur, zoom_blur=_zoom_blur),
            *_kinds("weather", False, snow=_snow, frost=_frost, fog=_fog, brightness=_brightness),
            *_kinds("digital", False, contrast=_contrast, elastic_transform=_elastic_transform),
            *_kinds("digital", False, pixelate=_pixelate, jpeg_compression=_jpeg_compression),
            *_kinds("noise", True, speckle_noise=_speckle_noise),
            *_kinds("blur", True, gaussian_blur=_gaussian_blur),
            *_kinds("weather", True, spatter=_spatter),
            *_kinds("digital", True, saturate=_saturate),
        )
    }
)
"""By name: the 15 of the paper in its order, then its 4 extras."""
