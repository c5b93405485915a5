"""Options that studies add to `panbench score`, `compare` and `export`, and their effect on the answer.

A study inherits from `ScoreOptions` or `CompareOptions` as a frozen dataclass in its options.py, and names the class
in its record: `Study(…, options={"compare": "package.options:MyOptions"})`. Each field is an option of the command, as
with `panbench.evaluation.options.StudyOptions`: `Annotated[type, Option(help)]`, its default that of the option.
`__post_init__` rejects invalid values (BadArgument). `--help` imports these modules, so import heavy packages inside
the hooks. Every hook has a default that adds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from panbench.base.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from panbench.report.answers.answer import Answer
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.measures import Measured
    from panbench.runs import Run
    from panbench.runs.sharded import Sharding


@dataclass(frozen=True)
class Scoring:
    """The files to score, as given on the command line; folders are None if they lie next to their JSON."""

    gt: Path
    pred: Path
    gt_dir: Path | None = None
    pred_dir: Path | None = None


@dataclass(frozen=True)
class Remade:
    """Predictions that a study made of the given ones: their JSON, with PNGs next to it, and fields of run.json."""

    json: Path
    record: Mapping[str, Any]


class ScoreOptions:
    """Options that a study adds to `panbench score`, and the methods that the command calls."""

    def check(self, scoring: Scoring) -> None:
        """Called before anything is scored; raises PanbenchError if the options do not fit the files."""

    def sharding(self) -> "Sharding | None":
        """Called before scoring; returns an object that scores in shards elsewhere, None to score in this process."""
        return None

    def remade(self, scoring: Scoring, folder: Callable[[], Path], reporter: Reporter) -> "Remade | None":
        """Called before scoring; returns predictions to score instead of the given ones, or None to keep those.

        folder: makes an empty folder, which the run takes over
        """
        return None

    def found(self, run: "Run", scoring: Scoring, reporter: Reporter = SILENT) -> "Measured | None":
        """Called after scoring: returns further tables to print and further keys for `--json`, or None."""
        return None


@dataclass(frozen=True)
class Comparing:
    """The arguments of a call of `panbench compare`.

    paths: as they were written: runs, folders of runs and patterns
    more: the given options that request more than a table of PQ, such as --by
    """

    paths: tuple[Path, ...]
    common_images: bool = False
    digits: int = 2
    more: tuple[str, ...] = ()
    reporter: Reporter = SILENT


class CompareOptions:
    """Options that a study adds to `panbench compare`, and the methods that the command calls."""

    def instead(self, comparing: Comparing) -> "Answer | None":
        """Called before the runs are compared; returns an answer to print instead, None to compare the runs."""
        return None

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """Called with the finished comparison; returns it with the study's additions below it."""
        return standing


class ExportOptions:
    """Formats that a study adds to `panbench export`, and the method that the command calls."""

    formats: ClassVar[tuple[str, ...]] = ()
    """The names of the formats; the options apply only to these."""

    def export(self, run: Path, out: Path, overwrite: bool, reporter: Reporter) -> Sequence[str]:
        """Called for a study's format: writes a run in it, and returns a sentence on each thing that was written."""
        return ()


def given_options(options: Any) -> tuple[str, ...]:
    """Returns the options that differ from their defaults, as the command line spells them."""
    changed = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    return tuple(f"--{name.replace('_', '-')}" for name in changed)
