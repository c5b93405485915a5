"""The 19 corruptions, as imagecorruptions 1.1.2 defines them, except frost.

A function takes (H, W, 3) uint8 RGB, a level 0–4 and a random generator, and returns levels 0–255 of any dtype.
Parameters, steps and their precision, down to where values are truncated to integers, are those of that package: the
same random draws give the same pixels, and tests compare them with recorded outputs. SciPy and NumPy replace its
scikit-image and ImageMagick.

[Hendrycks and Dietterich 2019; Michaelis et al. 2019, whose code the package is]
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from panbench.panoptic.pixels import opencv

__all__ = ["FUNCTIONS", "Levels", "Pixels"]

Pixels = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.uint8] | npt.NDArray[np.floating]
Float = npt.NDArray[np.float64]
Random = np.random.Generator

# Loaded lazily: pages name the corruptions even if OpenCV is not installed.
cv2: Any = opencv()


def gaussian_noise(rgb: Pixels, level: int, random: Random) -> Levels:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return _to_levels(rgb / 255 + random.normal(0, scale, rgb.shape))


def shot_noise(rgb: Pixels, level: int, random: Random) -> Levels:
    photons = (60, 25, 12, 5, 3)[level]
    return _to_levels(random.poisson(rgb / 255 * photons) / photons)


def impulse_noise(rgb: Pixels, level: int, random: Random) -> Levels:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    is_hit = random.random(rgb.shape) <= share
    is_salt = random.random(rgb.shape) <= 0.5
    return np.where(is_hit, np.where(is_salt, 255, 0), rgb).astype(np.uint8)


def speckle_noise(rgb: Pixels, level: int, random: Random) -> Levels:
    scale = (0.15, 0.2, 0.35, 0.45, 0.6)[level]
    image = rgb / 255
    return _to_levels(image + image * random.normal(0, scale, rgb.shape))


def gaussian_blur(rgb: Pixels, level: int, random: Random) -> Levels:
    return _to_levels(_gaussian_blurred(rgb / 255, (1, 2, 3, 4, 6)[level]))


def defocus_blur(rgb: Pixels, level: int, random: Random) -> Levels:
    radius, softening = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(8, radius)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    kernel = cv2.GaussianBlur(disk / disk.sum(), (side, side), sigmaX=softening)
    image = rgb / 255
    return _to_levels(np.stack([cv2.filter2D(image[..., channel], -1, kernel) for channel in range(3)], axis=2))


def glass_blur(rgb: Pixels, level: int, random: Random) -> Levels:
    """Blurs, lets each pixel take the colour of a random neighbour, and blurs again."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    shuffled = (_gaussian_blurred(rgb / 255, sigma) * 255).astype(np.uint8)
    for _ in range(rounds):
        shuffled = _copied_from_neighbours(shuffled, reach, random)
    return _to_levels(_gaussian_blurred(shuffled / 255, sigma))


def motion_blur(rgb: Pixels, level: int, random: Random) -> Levels:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _smeared(rgb, radius, sigma, random.uniform(-45, 45))


def zoom_blur(rgb: Pixels, level: int, random: Random) -> Levels:
    last, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, last, step)
    height, width = rgb.shape[:2]
    image = (rgb / 255).astype(np.float32)
    total = np.zeros_like(image)
    for factor in factors:
        total += _zoomed(image, factor)[:height, :width]
    return _to_levels((image + total) / (len(factors) + 1))


def snow(rgb: Pixels, level: int, random: Random) -> Levels:
    mean, scale, zoom, threshold, radius, sigma, weight = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    height, width = rgb.shape[:2]
    image = rgb.astype(np.float32) / 255
    flakes = _zoomed(random.normal(mean, scale, (height, width, 1)), zoom)[..., 0]
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _smeared(flakes, radius, sigma, random.uniform(-135, -45))
    flakes = (np.round(flakes * 255).astype(np.uint8) / 255)[:height, :width, None]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = weight * image + (1 - weight) * np.maximum(image, gray * 1.5 + 0.5)
    return _to_levels(whitened + flakes + flakes[::-1, ::-1])


def fog(rgb: Pixels, level: int, random: Random) -> Levels:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    height, width = rgb.shape[:2]
    image = rgb / 255
    brightest = image.max()
    fogged = image + amount * _plasma(random, max(rgb.shape), decay)[:height, :width, None]
    return _to_levels(fogged * brightest / (brightest + amount))


def brightness(rgb: Pixels, level: int, random: Random) -> Levels:
    hue, saturation, value = _rgb_to_hsv(rgb / 255)
    value = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return _to_levels(_hsv_to_rgb(hue, saturation, value))


def contrast(rgb: Pixels, level: int, random: Random) -> Levels:
    image = rgb / 255
    means = image.mean(axis=(0, 1), keepdims=True)
    return _to_levels((image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + means)


def saturate(rgb: Pixels, level: int, random: Random) -> Levels:
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[level]
    hue, saturation, value = _rgb_to_hsv(rgb / 255)
    return _to_levels(_hsv_to_rgb(hue, np.clip(saturation * factor + offset, 0, 1), value))


def jpeg_compression(rgb: Pixels, level: int, random: Random) -> Levels:
    coded = io.BytesIO()
    Image.fromarray(rgb).save(coded, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.asarray(Image.open(coded))


def pixelate(rgb: Pixels, level: int, random: Random) -> Levels:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = rgb.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    coarse = Image.fromarray(rgb).resize(small, Image.Resampling.BOX)
    return np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST))


def elastic_transform(rgb: Pixels, level: int, random: Random) -> Levels:
    """Displaces pixels smoothly by a few px, more in larger images; the ground truth is not changed."""
    strength = (12.5, 16.25, 21.25, 25, 30)[level]
    height, width = rgb.shape[:2]
    image = rgb.astype(np.float32) / 255
    drawn = [random.uniform(-height * 0.005, height * 0.005, (height, width)) for _ in range(2)]
    right, down = (
        (ndimage.gaussian_filter(one, (height * 0.01, width * 0.01), mode="reflect", truncate=3) * strength).astype(
            np.float32
        )
        for one in drawn
    )
    y, x = np.mgrid[:height, :width]
    indices = (y + down, x + right)
    moved = [ndimage.map_coordinates(image[..., channel], indices, order=1, mode="reflect") for channel in range(3)]
    return _to_levels(np.stack(moved, axis=2))


def spatter(rgb: Pixels, level: int, random: Random) -> Levels:
    """Puts drops of water (severities 1–3) or mud (4, 5) on the lens."""
    mean, scale, sigma, threshold, amount, is_mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[level]
    image = rgb.astype(np.float32) / 255
    liquid = ndimage.gaussian_filter(random.normal(mean, scale, rgb.shape[:2]), sigma, mode="nearest")
    liquid = np.where(liquid < threshold, 0, liquid)
    if is_mud:
        cover = ndimage.gaussian_filter((liquid > threshold).astype(np.float32), amount, mode="nearest")
        cover = np.where(cover < 0.8, np.float32(0), cover)[..., None]
        brown = np.array([63, 42, 20]) / 255
        return _to_levels(image * (1 - cover) + brown * cover)
    layer = (liquid * 255).astype(np.uint8)
    distance = np.minimum(cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5), 20)
    rim = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(rim, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    drops = layer * cv2.blur(relief, (3, 3)).astype(np.float32)
    brightest = drops.max()
    drops = drops / brightest * np.float32(amount) if brightest else drops
    turquoise = np.array([175, 238, 238], np.float32) / 255
    return _to_levels(image + drops[..., None] * turquoise)


def frost(rgb: Pixels, level: int, random: Random) -> Levels:
    """Blends in a generated sheet of ice crystals, where the package uses photographs of frost."""
    keep, amount = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    return keep * rgb + amount * _sheet_of_frost(rgb.shape[0], rgb.shape[1], random)


# Mean red, green and blue of the package's five photographs of frost, and the standard deviation of their brightness.
_FROSTS = (
    ((78, 149, 166), 18),
    ((201, 205, 215), 22),
    ((201, 205, 215), 22),
    ((138, 153, 165), 29),
    ((112, 123, 135), 43),
)


FUNCTIONS: dict[str, Callable[[Pixels, int, Random], Levels]] = {
    function.__name__: function
    for function in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(snow, frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression),
        *(speckle_noise, gaussian_blur, spatter, saturate),
    )
}
"""By name: the 15 of the paper in its order, then its 4 extras."""


def _to_levels(fractions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Converts values of 0–1 to 0–255, clipped."""
    return np.clip(fractions, 0, 1) * 255


def _gaussian_blurred(image: Float, sigma: float) -> Float:
    """Blurs each channel by a Gaussian cut at 4 sigma; edges are repeated."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4)


def _copied_from_neighbours(image: Pixels, reach: int, random: Random) -> Pixels:
    """Replaces each pixel, from the bottom right to the top left, by the current value of a random neighbour.

    The paper meant to swap the two, but swapping NumPy views copies one onto the other, and the published numbers were
    made that way. A neighbour visited before already has its new colour, so colours travel along chains of pixels. All
    chains are followed at once by doubling the step, instead of pixel by pixel.
    """
    height, width = image.shape[:2]
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    if not len(rows) or not len(columns):
        return image
    offsets = random.integers(-reach, reach, (len(rows), len(columns), 2))
    visited = rows[:, None] * width + columns
    neighbours = visited + offsets[..., 1] * width + offsets[..., 0]
    source = np.arange(height * width)
    source[visited] = neighbours
    # Pixels are visited in falling order: a neighbour that is visited later, or never, still has its old colour.
    is_visited = np.zeros(height * width, bool)
    is_visited[visited] = True
    follows = is_visited & is_visited[source] & (source > np.arange(height * width))
    while follows.any():
        indices = np.flatnonzero(follows)
        follows[indices], source[indices] = follows[source[indices]], source[source[indices]]
    return image.reshape(-1, 3)[source].reshape(image.shape)


def _smeared(image: npt.NDArray[np.generic], radius: int, sigma: float, degrees: float) -> Float:
    """Smears the image in one direction by half a Gaussian of 2·radius + 1 samples; edges are repeated."""
    height, width = image.shape[:2]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    weights = weights / weights.sum()
    angle = np.deg2rad(degrees)
    length = len(steps)
    ends = (length * np.sin(angle), length * np.cos(angle))
    downs, rights = (-np.ceil(steps * end / math.hypot(*ends) - 0.5).astype(int) for end in ends)
    inside = (abs(downs) < height) & (abs(rights) < width)
    used = len(steps) if inside.all() else int(np.argmin(inside))
    reach = length
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)][: image.ndim], mode="edge")
    total = np.zeros(image.shape)
    for weight, down, right in zip(weights[:used], downs[:used], rights[:used], strict=True):
        top, left = reach - down, reach - right
        total += weight * padded[top : top + height, left : left + width]
    return total


def _zoomed(image: npt.NDArray[np.floating], factor: float) -> npt.NDArray[np.floating]:
    """Enlarges the middle 1 / factor of an (H, W, C) image linearly to its size or a pixel more."""
    height, width = image.shape[:2]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    return ndimage.zoom(middle, (factor, factor, 1), order=1)


def _plasma(random: Random, least: int, decay: float) -> Float:
    """Returns a plasma fractal in 0–1, a square whose side is the next power of two from `least` on.

    It is made by diamond-square on a torus.
    Each round doubles the grid: centres of squares are the mean of their corners, then centres of edges the mean of
    their four neighbours, each plus noise that shrinks by `decay` per round.
    """
    grid = np.zeros((1, 1))
    amplitude = 100.0
    while len(grid) < least:
        side = len(grid)

        def plasma_noise(side: int = side, amplitude: float = amplitude) -> Float:
            """Returns uniform noise for the new points when the grid of the plasma fractal is doubled."""
            return amplitude * random.uniform(-amplitude, amplitude, (side, side))

        corners = grid + np.roll(grid, -1, axis=0)
        centres = (corners + np.roll(corners, -1, axis=1)) / 4 + plasma_noise()
        finer = np.empty((2 * side, 2 * side))
        finer[::2, ::2] = grid
        finer[1::2, 1::2] = centres
        right, below = grid + np.roll(grid, -1, axis=1), grid + np.roll(grid, -1, axis=0)
        finer[::2, 1::2] = (centres + np.roll(centres, 1, axis=0) + right) / 4 + plasma_noise()
        finer[1::2, ::2] = (centres + np.roll(centres, 1, axis=1) + below) / 4 + plasma_noise()
        grid = finer
        amplitude /= decay
    grid = grid - grid.min()
    return np.asarray(grid / max(float(grid.max()), 1e-12))


def _sheet_of_frost(height: int, width: int, random: Random) -> Float:
    """Returns (H, W, 3) levels of ice needles on patches, with the colours and contrast of the photographs of frost."""
    color, deviation = _FROSTS[int(random.integers(0, len(_FROSTS)))]
    needles = sum(
        _standardized(_smeared(random.standard_normal((height, width)), 3, 2, angle))
        for angle in random.uniform(0, 180, 4)
    )
    field = math.sqrt(0.35) * _standardized(np.asarray(needles))
    for share, size in ((0.1, 3), (0.15, 12), (0.4, 50)):
        coarse = random.standard_normal((height // size + 2, width // size + 2))
        patches = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float64)
        field += math.sqrt(share) * _standardized(patches)
    return np.clip(np.array(color, np.float64) + deviation * field[..., None], 0, 255)


def _standardized(field: Float) -> Float:
    """Standardizes a field to mean 0 and standard deviation 1."""
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-12))


def _rgb_to_hsv(rgb: Float) -> tuple[Float, Float, Float]:
    """Converts (H, W, 3) RGB in 0–1 to hue, saturation and value, each (H, W) in 0–1."""
    red, green, blue = np.moveaxis(rgb, 2, 0)
    value = rgb.max(axis=2)
    chroma = value - rgb.min(axis=2)
    divisor = np.where(chroma > 0, chroma, 1)
    hue = np.where(red == value, (green - blue) / divisor, 0)
    hue = np.where(green == value, 2 + (blue - red) / divisor, hue)
    hue = np.where(blue == value, 4 + (red - green) / divisor, hue)
    hue = np.where(chroma > 0, hue / 6 % 1, 0)
    saturation = np.where(chroma > 0, chroma / np.where(value > 0, value, 1), 0)
    return hue, saturation, value


def _hsv_to_rgb(hue: Float, saturation: Float, value: Float) -> Float:
    """Converts hue, saturation and value to (H, W, 3) RGB in 0–1."""
    sixth = np.floor(hue * 6)
    rest = hue * 6 - sixth
    low = value * (1 - saturation)
    falling = value * (1 - rest * saturation)
    rising = value * (1 - (1 - rest) * saturation)
    which = sixth.astype(np.intp) % 6
    red = np.choose(which, (value, falling, low, low, rising, value))
    green = np.choose(which, (rising, value, value, falling, low, low))
    blue = np.choose(which, (low, low, rising, value, value, falling))
    return np.stack([red, green, blue], axis=2)
