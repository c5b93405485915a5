"""PQ against speed and size: what the page says beside its charts."""

from collections.abc import Sequence
from dataclasses import dataclass

from panbench.report.answers.views import Compared
from panbench.report.pages.page.shortened import shortened

__all__ = ["Cost", "cost_of", "speed_range"]


@dataclass(frozen=True)
class Cost:
    """What must be known of the models' speeds. known: whether there is any speed or size to show."""

    known: bool
    warning: str = ""
    notes: tuple[str, ...] = ()


def cost_of(members: Sequence[Compared]) -> Cost:
    """What the page says of speeds and sizes."""
    speeds = [member.row.images_per_second for member in members]
    if not any(speeds):
        return Cost(any(member.row.params for member in members))
    devices = {(member.row.device, member.row.precision) for member in members if member.row.images_per_second}
    warning = "The runs were made on different devices or precisions: their speeds do not compare."
    notes = [
        "Speeds are those of the evaluation once it is warm, with whatever else the machine did; `panbench bench` "
        f"measures them. The whole loop: {'; '.join(filter(None, map(_whole_loop, members)))}. Lines across: from the "
        "slowest to the fastest of up to ten stretches of the run."
    ]
    unsteady = [member.label for member in members if member.row.images_per_second and speed_range(member) is None]
    if unsteady:
        words = "Without a mark against speed, as these runs did not record how much it varied"
        notes.append(f"{words}: {', '.join(unsteady)}.")
    lacking = [member.label for member in members if not member.row.images_per_second]
    if lacking:
        words = "Without a speed, as scored predictions and runs of very few batches have none"
        notes.append(f"{words}: {', '.join(lacking)}.")
    return Cost(True, warning if len(devices) > 1 else "", tuple(notes))


def speed_range(member: Compared) -> list[float] | None:
    """The lowest and the highest images a second of an evaluation's stretches; None where that was not recorded."""
    low, high = member.run.info.images_per_second_low, member.run.info.images_per_second_high
    return None if low is None or high is None else [shortened((low,))[0], shortened((high,))[0]]


def _whole_loop(member: Compared) -> str | None:
    """How long all of an evaluation took, its first batches and its writing included."""
    wall = member.run.info.seconds.wall
    if not member.row.images_per_second or wall is None:
        return None
    return f"{member.label} {member.run.info.images.scored:,} images in {wall:,.1f} s"
