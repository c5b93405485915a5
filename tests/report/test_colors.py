from itertools import combinations, permutations

import numpy as np
import pytest

from panbench.metrics.errors import CAUSES
from panbench.report.figures.colors import CAUSES_DARK, CAUSES_LIGHT, DARK, LIGHT, MARKERS, styles_of

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


@pytest.mark.parametrize("reader", SEEN)
@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_eight_models_are_told_apart_by_every_reader(colors, reader):
    seen = [lab(np.clip(linear(color) @ np.array(SEEN[reader]).T, 0, 1)) for color in colors]
    assert len(colors) == len(set(MARKERS)) == 8
    # A difference of 2.3 is just noticeable; ten times that is told apart across a page.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 23


@pytest.mark.parametrize("reader", SEEN)
@pytest.mark.parametrize(("colors", "paper"), [(CAUSES_LIGHT, "#ffffff"), (CAUSES_DARK, "#14161a")])
def test_causes_are_told_apart_by_every_reader(colors, paper, reader):
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


def test_a_model_keeps_its_colour_in_any_order_and_beside_any_other():
    of_all = dict(zip(NAMES, styles_of(NAMES), strict=True))
    for number in (1, 2, 3):
        for shown in permutations(NAMES, number):
            assert styles_of(shown) == [of_all[name] for name in shown]


@pytest.mark.parametrize("number", [2, 8])
def test_models_that_are_shown_together_differ_in_colour_and_marker(number):
    names = [f"model {index}" for index in range(number)]
    styles = styles_of(names)
    assert len({style.color for style in styles}) == len({style.marker for style in styles}) == number
    assert dict(zip(reversed(names), styles_of(names[::-1]), strict=True)) == dict(zip(names, styles, strict=True))


def test_more_models_than_colours_differ_in_their_markers_and_two_runs_of_one_model_differ():
    styles = styles_of([f"model {index}" for index in range(20)])
    assert len({(style.color, style.marker) for style in styles}) == 20
    one, other = styles_of(["same", "same"])
    assert one.color != other.color
