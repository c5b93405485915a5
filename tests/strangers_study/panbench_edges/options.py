"""`panbench eval --count-images FILE.txt`: how many images were run, counted by a sink."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.studies import Option
from panbench.evaluation.options import Evaluation, Joined, StudyOptions

if TYPE_CHECKING:
    from panbench.runs import RunWriter


@dataclass(frozen=True)
class EdgesOptions(StudyOptions):
    """Where the count goes."""

    count_images: Annotated[Path | None, Option("Write how many images were run.", "FILE.txt")] = None

    def __post_init__(self) -> None:
        if self.count_images is not None and self.count_images.suffix != ".txt":
            raise BadArgument("--count-images takes a FILE.txt.")

    def join(self, evaluation: Evaluation) -> Joined:
        settings = {"count_images": None if self.count_images is None else self.count_images.name}
        if self.count_images is None:
            return Joined(settings)
        file = self.count_images

        def sink(writers: "Sequence[RunWriter]"):
            from panbench_edges.sink import Counter

            return Counter(file)

        return Joined(settings, sink)

    def next_steps(self, runs: Sequence[Path]) -> Sequence[str]:
        return () if self.count_images is None else (f"How many images: `cat {self.count_images}`",)
