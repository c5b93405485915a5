"""The recorded scenes of tests/reference/fusion_rules as what models give, and what other programs made of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from model_maps import wrong_pixels

from panbench.models.candidates import Frame, Output
from panbench.models.rules import Rule

FOLDER = Path(__file__).resolve().parents[2] / "reference" / "fusion_rules"


@pytest.fixture(scope="session")
def answers() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "answers.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def pixels_that_differ(answers) -> Callable[[Rule, Sequence[Output], str], list[int]]:
    """Of each scene, the pixels that a rule puts into another segment than the original, or under another label."""

    def compare(rule: Rule, outputs: Sequence[Output], name: str) -> list[int]:
        found = []
        for index, output in enumerate(outputs):
            theirs, labels = answers[f"{name}_map_{index}"], answers[f"{name}_labels_{index}"]
            wrong = wrong_pixels(rule.to_segments(rule.fuse(output)), theirs, np.concatenate([[-1], labels])[theirs])
            found.append(int(wrong.sum()))
        return found

    return compare


def frame(padded, resized, original) -> Frame:
    sizes = [(int(size[0]), int(size[1])) for size in (padded, resized, original)]
    return Frame(*sizes)


@pytest.fixture(scope="session")
def recorded():
    """class_logits, mask_logits and frames of the scenes for query models."""
    with np.load(FOLDER / "inputs.npz") as stored:
        frames = [
            frame(stored["padded"], resized, original)
            for resized, original in zip(stored["resized"], stored["original"], strict=True)
        ]
        return torch.from_numpy(stored["class_logits"]), torch.from_numpy(stored["mask_logits"]), frames
