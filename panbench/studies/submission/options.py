"""`panbench export coco-server`: a run's predictions for COCO's evaluation server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from panbench.base.reporter import Reporter, counter
from panbench.base.studies import Option
from panbench.base.text import size_in_words
from panbench.report.answers.options import ExportOptions


@dataclass(frozen=True)
class ServerOptions(ExportOptions):
    """The options of `panbench export coco-server`."""

    formats: ClassVar[tuple[str, ...]] = ("coco-server",)

    testset: Annotated[str, Option("test-dev2017 or val2017.", "NAME", ("test-dev2017", "val2017"))] = "test-dev2017"
    algorithm: Annotated[str | None, Option("The name on the leaderboard. Default: the model's.", "NAME")] = None
    image_list: Annotated[Path | None, Option("The list of the test set's images. Default: COCO's.", "FILE.json")] = (
        None
    )

    def export(self, run: Path, out: Path, overwrite: bool, reporter: Reporter) -> Sequence[str]:
        """Checks the predictions of a run or a predictions JSON and writes the zip; returns what to print."""
        from panbench.studies.submission.submission import write_submission

        made = write_submission(
            run,
            out,
            testset=self.testset,
            algorithm=self.algorithm,
            images=self.image_list,
            overwrite=overwrite,
            progress=counter(reporter, "Checking"),
        )
        return (
            f"{made.path}: {made.n_images:,} images, {made.n_segments:,} segments, {size_in_words(int(made.bytes))}.",
            f"In it: {made.json_name} and {made.folder_name}/",
        )
