"""Counts the images of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

from panbench.evaluation.sinks import Later, Sink
from panbench.models.candidates import Output
from panbench.models.model import LoadedImage


class Counter(Sink):
    """Writes the count when it is closed."""

    def __init__(self, file: Path) -> None:
        self.file, self.counted = file, 0

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        return lambda seen: output.frame.original

    def keep(self, found: Sequence[tuple[int, int]]) -> None:
        self.counted += len(found)

    def close(self) -> None:
        self.file.write_text(str(self.counted))
