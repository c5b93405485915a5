"""`--engine ray` of `panbench eval` and `panbench score`."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line
from panbench.base.studies import Option
from panbench.evaluation.options import StudyOptions
from panbench.report.answers.options import ScoreOptions

if TYPE_CHECKING:
    from panbench.runs.sharded import Sharding

Engine = Annotated[
    str | None,
    Option("Run shards as tasks of a Ray cluster: ray:64, or ray:64=ray://HOST:10001.", "ray:TASKS", ("ray",)),
]

DEFAULT_TASKS = 16


def parse_ray_engine(text: str) -> tuple[int, str | None]:
    """Parses `ray:TASKS=ADDRESS`; returns the number of tasks and the address (None: a local cluster, or a new one).

    Raises BadArgument for another engine, for a bad number, and if Ray is not installed.
    """
    kind, _, address = text.partition("=")
    name, _, tasks = kind.partition(":")
    if name != "ray":
        raise BadArgument(f"--engine {text}: the engine is ray, as in ray:64 or ray:64=ray://HOST:10001.")
    if tasks and not (tasks.isascii() and tasks.isdigit() and int(tasks) > 0):
        raise BadArgument(f"--engine {text}: {tasks!r} is not a number of tasks. Write ray:64.")
    if not _ray_is_installed():
        raise BadArgument(f"--engine ray needs the package ray. Install it with: {install_line('ray')}")
    return int(tasks or DEFAULT_TASKS), address or None


def _ray_is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def _ray_sharding(engine: str | None) -> "Sharding | None":
    """Returns the function that runs shards on the cluster of `--engine`; None without the option."""
    if engine is None:
        return None
    tasks, address = parse_ray_engine(engine)

    from panbench.studies.on_ray.tasks import run_on_ray

    return lambda work, reporter: run_on_ray(work, reporter, tasks, address)


@dataclass(frozen=True)
class EvaluateOnRay(StudyOptions):
    """The option `--engine` of `eval`: evaluates shards on a cluster."""

    engine: Engine = None

    def sharding(self) -> "Sharding | None":
        """Returns the function that runs shards as Ray tasks, if any. Raises BadArgument for an unusable engine."""
        return _ray_sharding(self.engine)


@dataclass(frozen=True)
class ScoreOnRay(ScoreOptions):
    """The option `--engine` of `score`: scores shards on a cluster."""

    engine: Engine = None

    def sharding(self) -> "Sharding | None":
        """Returns the function that runs shards as Ray tasks, if any. Raises BadArgument for an unusable engine."""
        return _ray_sharding(self.engine)
