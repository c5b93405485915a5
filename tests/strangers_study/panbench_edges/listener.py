"""Counts the images that it hears."""

from pathlib import Path

from panbench.evaluation.listeners import Listener
from panbench.models.candidates import Output
from panbench.panoptic.types import Scene


class Counter(Listener):
    """Writes the count when it is closed."""

    def __init__(self, file: Path) -> None:
        self.file, self.heard = file, set()

    def hear(self, scene: Scene, output: Output) -> None:
        self.heard.add(scene.image.id)

    def close(self) -> None:
        self.file.write_text(str(len(self.heard)))
