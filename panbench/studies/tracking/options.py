"""`panbench eval --log`: trackers that follow each evaluation."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from panbench.base.reporter import Reporter
from panbench.base.studies import Option
from panbench.evaluation.options import StudyOptions, Watcher

__all__ = ["LogOptions"]

_KINDS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True)
class LogOptions(StudyOptions):
    """The trackers that each evaluation is logged to."""

    panel: ClassVar[str] = "Trackers"

    log: Annotated[
        list[str] | None,
        Option("Log to tensorboard, wandb or mlflow; repeatable. Files go to logs/ beside the run.", "NAME", _KINDS),
    ] = None

    def __post_init__(self) -> None:
        """Raises BadArgument for an unknown tracker, or one without its package."""
        if self.log:
            from panbench.studies.tracking.trackers import check_trackers

            check_trackers(self.log)

    def watched(self, run: Path, reporter: Reporter) -> AbstractContextManager[Watcher] | None:
        """The trackers, open while the evaluation runs."""
        if not self.log:
            return None
        from panbench.studies.tracking.trackers import open_trackers

        return open_trackers(self.log, run.name, run.parent / "logs" / run.name, reporter)
