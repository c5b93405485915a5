"""Scenes of shapes for all tests of this folder that change none."""

from pathlib import Path

import pytest
from support import drawn

from panbench.datasets import Dataset, open_dataset


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four scenes."""
    return drawn(tmp_path_factory, 4, (96, 128))


@pytest.fixture(scope="session")
def dataset(scenes: Path) -> Dataset:
    return open_dataset(scenes)
