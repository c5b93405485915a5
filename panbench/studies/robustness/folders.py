"""Where corrupted runs lie."""

from pathlib import Path

__all__ = ["corrupted_runs"]


def corrupted_runs(home: Path) -> Path:
    """The folder beside a clean run that holds its corrupted runs, each in a folder of its own: `fog-2`."""
    place = home if home.name else home.absolute()
    return place.with_name(f"{place.name}-corrupted")
