"""What the id PNGs that a run keeps are called."""

from pathlib import Path

from panbench.datasets import Dataset
from panbench.panoptic.types import Scene

__all__ = ["png_name", "shared_name"]


def png_name(scene: Scene) -> str:
    """The name of a scene's id map in predictions/, in the image's own sub-folder if it has one."""
    return Path(scene.image.file_name).with_suffix(".png").as_posix()


def shared_name(dataset: Dataset) -> tuple[int, int, str] | None:
    """The ids of the first two images that would share a predicted PNG (1.jpg and 1.png), and its name."""
    taken: dict[str, int] = {}
    for scene in dataset.scenes:
        name = png_name(scene)
        other = taken.setdefault(name, scene.image.id)
        if other != scene.image.id:
            return other, scene.image.id, name
    return None
