"""`--engine ray` of `panbench eval` and `panbench score`."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line
from panbench.base.studies import Option
from panbench.evaluation.options import StudyOptions
from panbench.report.answers.options import ScoreOptions

if TYPE_CHECKING:
    from panbench.runs.sharded import Spread

__all__ = ["EvaluateOnRay", "ScoreOnRay", "parse_engine"]

Engine = Annotated[
    str | None,
    Option(
        "Make shards as tasks of a Ray cluster: ray:64 for 64 of them; ray:64=ray://HOST:10001 names the cluster.",
        "ray[:TASKS][=ADDRESS]",
        ("ray",),
    ),
]

DEFAULT_TASKS = 16


def parse_engine(text: str) -> tuple[int, str | None]:
    """How many tasks, and the address of the cluster: None for the one that runs here, or a new one.

    Raises BadArgument for another engine or number, and where Ray is not installed.
    """
    kind, _, address = text.partition("=")
    name, _, tasks = kind.partition(":")
    if name != "ray":
        raise BadArgument(f"--engine {text}: the engine is ray, as in ray:64 or ray:64=ray://HOST:10001.")
    if tasks and not (tasks.isascii() and tasks.isdigit() and int(tasks) > 0):
        raise BadArgument(f"--engine {text}: {tasks!r} is not a number of tasks. Write ray:64.")
    if not _is_installed():
        raise BadArgument(f"--engine ray needs the package ray. Install it with: {install_line('ray')}")
    return int(tasks or DEFAULT_TASKS), address or None


def _is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def _spread(engine: str | None) -> "Spread | None":
    if engine is None:
        return None
    tasks, address = parse_engine(engine)

    from panbench.studies.on_ray.tasks import run_on_ray

    return lambda work, reporter: run_on_ray(work, reporter, tasks, address)


@dataclass(frozen=True)
class EvaluateOnRay(StudyOptions):
    """The cluster that evaluates a run's shards."""

    panel: ClassVar[str] = "On a cluster"

    engine: Engine = None

    def spread(self) -> "Spread | None":
        """Shards as Ray tasks. Raises BadArgument for an engine that cannot be."""
        return _spread(self.engine)


@dataclass(frozen=True)
class ScoreOnRay(ScoreOptions):
    """The cluster that scores."""

    panel: ClassVar[str] = "On a cluster"

    engine: Engine = None

    def spread(self) -> "Spread | None":
        """Shards as Ray tasks. Raises BadArgument for an engine that cannot be."""
        return _spread(self.engine)
