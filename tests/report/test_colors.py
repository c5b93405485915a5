from itertools import combinations, permutations

import numpy as np
import pytest

from panbench.metrics.errors import CAUSES
from panbench.report.figures.colors import CAUSES_DARK, CAUSES_LIGHT, DARK, ERRORS, LIGHT, MARKERS, styles_of

# Machado, Oliveira and Fernandes 2009, severity 1: what a reader without one kind of cone sees, in linear RGB.
SEEN = {
    "everybody": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> np.ndarray:
    part = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    white = np.array([0.95047, 1, 1.08883])
    part = light @ TO_XYZ.T / white
    f = np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    dark, bright = sorted(linear(color) @ TO_XYZ[1] for color in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def delta_e(one: np.ndarray, other: np.ndarray) -> float:
    """CIEDE2000 of two colours in CIELAB [Sharma, Wu and Dalal 2005]."""
    (L1, a1, b1), (L2, a2, b2) = one, other
    mean_c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = h1 + turn / 2 if c1 * c2 else h1 + h2
    L, c = (L1 + L2) / 2, (c1 + c2) / 2
    of_hue = [(-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63)]
    t = 1 + sum(share * np.cos(np.radians(times * hue + shift)) for share, times, shift in of_hue)
    parts = (
        (L2 - L1) / (1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)),
        (c2 - c1) / (1 + 0.045 * c),
        2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t),
    )
    bend = np.radians(60 * np.exp(-(((hue % 360 - 275) / 25) ** 2)))
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(bend)
    return float(np.sqrt(sum(part**2 for part in parts) + rotation * parts[1] * parts[2]))


def test_the_difference_of_colours_is_that_of_its_published_pairs():
    # Sharma, Wu and Dalal 2005, table 1: pairs 1, 7, 17 and 25.
    for one, other, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        assert delta_e(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("reader", SEEN)
def test_every_reader_can_distinguish_kinds_of_errors(reader):
    seen = [lab(np.clip(linear(color) @ np.array(SEEN[reader]).T, 0, 1)) for color in ERRORS.values()]
    assert min(delta_e(a, b) for a, b in combinations(seen, 2)) >= 15


@pytest.mark.parametrize("reader", SEEN)
@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_reader_can_distinguish_eight_models(colors, reader):
    seen = [lab(np.clip(linear(color) @ np.array(SEEN[reader]).T, 0, 1)) for color in colors]
    assert len(colors) == len(set(MARKERS)) == 8
    # A difference of 2.3 is just noticeable; ten times that is told apart across a page.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 23


@pytest.mark.parametrize("reader", SEEN)
@pytest.mark.parametrize(("colors", "paper"), [(CAUSES_LIGHT, "#ffffff"), (CAUSES_DARK, "#14161a")])
def test_every_reader_can_distinguish_causes(colors, paper, reader):
    seen = [lab(np.clip(linear(color) @ np.array(SEEN[reader]).T, 0, 1)) for color in colors]
    assert len(colors) == len(CAUSES)
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 25
    assert min(contrast(color, paper) for color in colors) >= 3


@pytest.mark.parametrize(("colors", "paper"), [(LIGHT, "#ffffff"), (DARK, "#14161a")], ids=["light", "dark"])
def test_colours_differ_in_grey_and_from_the_paper(colors, paper):
    lightness = sorted(lab(linear(color))[0] for color in colors)
    assert min(np.diff(lightness)) > 6
    assert min(contrast(color, paper) for color in colors) >= 3


NAMES = ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny")


def test_colours_of_models_do_not_depend_on_their_order():
    for number in (1, 2, 3):
        for names in combinations(NAMES, number):
            of_all = dict(zip(names, styles_of(names), strict=True))
            for shown in permutations(names):
                assert styles_of(shown) == [of_all[name] for name in shown]


def test_causes_have_the_same_hue_in_light_and_dark():
    for light, dark in zip(CAUSES_LIGHT, CAUSES_DARK, strict=True):
        (_, a1, b1), (_, a2, b2) = lab(linear(light)), lab(linear(dark))
        if min(np.hypot(a1, b1), np.hypot(a2, b2)) > 12:
            turn = np.degrees(np.arctan2(b2, a2) - np.arctan2(b1, a1))
            assert abs((turn + 180) % 360 - 180) < 20, (light, dark)


@pytest.mark.parametrize("number", [2, 8])
def test_models_compared_with_each_other_differ_in_colour_and_marker(number):
    names = [f"model {index}" for index in range(number)]
    styles = styles_of(names)
    assert len({style.color for style in styles}) == len({style.marker for style in styles}) == number
    assert dict(zip(reversed(names), styles_of(names[::-1]), strict=True)) == dict(zip(names, styles, strict=True))


def test_more_models_than_colours_differ_in_their_markers_and_two_runs_of_one_model_differ():
    styles = styles_of([f"model {index}" for index in range(20)])
    assert len({(style.color, style.marker) for style in styles}) == 20
    one, other = styles_of(["same", "same"])
    assert one.color != other.color
