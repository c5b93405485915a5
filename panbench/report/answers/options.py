"""What studies add to `panbench score`, `compare` and `export`: options, and what they make of the answer.

A study inherits from `ScoreOptions` or `CompareOptions` as a frozen dataclass in its options.py, and names the class
in its record: `Study(…, options={"compare": "package.options:MyOptions"})`. Each field is an option of the command, as
with `panbench.evaluation.options.StudyOptions`: `Annotated[type, Option(help)]`, its default that of the option. Values
that cannot be used are refused by `__post_init__` (BadArgument). Help imports these modules, so hooks import what is
large. Every hook has a default that adds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from panbench.base.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.grid import Grid
    from panbench.report.answers.measures import Measured
    from panbench.runs import Run
    from panbench.runs.sharded import Spread

__all__ = [
    "Answer",
    "CompareOptions",
    "Comparing",
    "ExportOptions",
    "Remade",
    "ScoreOptions",
    "Scoring",
    "given_options",
]


@dataclass(frozen=True)
class Scoring:
    """The files of a set that is scored, as the command line has them; folders are None where they lie beside."""

    gt: Path
    pred: Path
    gt_dir: Path | None = None
    pred_dir: Path | None = None


@dataclass(frozen=True)
class Remade:
    """Predictions that a study made of those given: their JSON, with its PNGs beside it; and fields of run.json."""

    json: Path
    record: Mapping[str, Any]


class ScoreOptions:
    """What a study adds to `panbench score`."""

    panel: ClassVar[str] = "Studies"
    """The heading of the options in `--help`."""

    def check(self, scoring: Scoring) -> None:
        """Raises PanbenchError, before anything is scored, for files that the options do not fit."""

    def spread(self) -> "Spread | None":
        """What scores in shards elsewhere, in place of this process."""
        return None

    def remade(self, scoring: Scoring, folder: Callable[[], Path], reporter: Reporter) -> "Remade | None":
        """Predictions to score in place of those that were given; None for those.

        folder: makes an empty folder, which the run takes over
        """
        return None

    def found(self, run: "Run", scoring: Scoring, reporter: Reporter = SILENT) -> "Measured | None":
        """Tables below that of PQ, and keys of `--json`; None if no option asks for any."""
        return None


class Answer(Protocol):
    """What `panbench compare` prints, in any of its formats."""

    @property
    def sentences(self) -> Sequence[str]:
        """What follows from the tables, shown before them."""
        ...

    @property
    def grids(self) -> "Sequence[Grid]":
        """The tables for a terminal."""
        ...

    def text(self) -> str:
        """As text, for a file."""
        ...

    def markdown(self) -> str:
        """As Markdown."""
        ...

    def latex(self) -> str:
        """As LaTeX."""
        ...

    def csv(self, *, raw: bool = False) -> str:
        """As CSV. raw: leaves names unescaped that a spreadsheet would run as a formula."""
        ...

    def json(self) -> str:
        """As JSON."""
        ...

    def parquet(self) -> bytes:
        """As a Parquet file."""
        ...


@dataclass(frozen=True)
class Comparing:
    """What `panbench compare` was asked.

    paths: as they were written: runs, folders of runs and patterns
    more: the options that were given and ask for more than a table of PQ, such as --by
    """

    paths: tuple[Path, ...]
    common_images: bool = False
    digits: int = 2
    more: tuple[str, ...] = ()
    reporter: Reporter = SILENT


class CompareOptions:
    """What a study adds to `panbench compare`."""

    panel: ClassVar[str] = "Studies"
    """The heading of the options in `--help`."""

    def instead(self, comparing: Comparing) -> Answer | None:
        """An answer in place of the comparison of single runs; None where these runs are compared one by one."""
        return None

    def added(self, standing: "Standing", runs: "Sequence[Run]") -> "Standing":
        """The comparison with what the study adds below it."""
        return standing


class ExportOptions:
    """What a study adds to `panbench export`: formats of its own."""

    panel: ClassVar[str] = "Studies"
    """The heading of the options in `--help`."""

    formats: ClassVar[tuple[str, ...]] = ()
    """The names of the formats; the options are for these alone."""

    def export(self, run: Path, out: Path, overwrite: bool, reporter: Reporter) -> Sequence[str]:
        """Writes a run; a sentence on each thing that was written."""
        return ()


def given_options(options: Any) -> tuple[str, ...]:
    """The names of the options, as the command line has them, that differ from their defaults."""
    changed = [field.name for field in fields(options) if getattr(options, field.name) != field.default]
    return tuple(f"--{name.replace('_', '-')}" for name in changed)
