"""The register of studies: what each adds to the program, and where the core finds it.

A study is an experiment around the core: corrupted images, ensembles, a gate for CI. It lives in a folder of its own,
panbench/studies/NAME/, whose `__init__.py` holds one record, `STUDY`. The core asks this register and knows no study by
name; deleting a folder deletes the study. Other packages add studies by the entry-point group `panbench.studies`:

    [project.entry-points."panbench.studies"]
    fairness = "panbench_fairness:STUDY"

Places are strings, "package.module:NAME", imported when they are asked for: help, completion and every command of the
core start without them.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panbench.base.places import BrokenPlace, load
from panbench.base.text import kind_of

__all__ = ["GROUP", "SHOW", "Option", "Study", "StudyCommand", "added", "broken_studies", "find_studies", "named"]

GROUP = "panbench.studies"
"""The entry-point group by which packages of others add studies, and the package that holds ours."""


SHOW = "show"
"""The panel of commands that a study adds to `panbench show`."""


@dataclass(frozen=True)
class StudyCommand:
    """A command that a study adds to the program.

    summary: its line in `panbench --help`; place: of its `typer.Typer`, made by `panbench.cli.command.family`
    panel: the group of commands in `panbench --help` that it stands in; SHOW for a command of `panbench show`
    """

    name: str
    summary: str
    place: str
    panel: str = "Ask"


@dataclass(frozen=True)
class Option:
    """How the command line shows a field of a study's options; it annotates the field's type.

    help: a sentence or two; metavar: what stands for the value in `--help`
    values: what completes; of a field that takes a list, each part of it
    """

    help: str
    metavar: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a study adds to the core. Places are "package.module:NAME"; "" where it adds nothing of the kind.

    name: of its folder; summary: a line for people
    order: of its sections, rows and columns among those of others, the lowest first
    commands: what it adds to the command line
    options: the options that it adds to a command of the core, by the command's name: of "eval" a subclass of
        `panbench.evaluation.options.StudyOptions`, of "score", "compare" and "export" of `ScoreOptions`,
        `CompareOptions` and `ExportOptions` (panbench.report.answers.options)
    section: of the page, a `panbench.report.pages.page.section.SectionMaker`
    measures: what it adds to "metrics" and "errors", a `panbench.report.answers.measures.Measure` by that name
    tables: what it keeps of each image beside a run's parts (runs/side_tables.py): by the name of a folder in the run,
        what its rows are, in words
    plots: kinds of `panbench show plot`: a `panbench.report.figures.plots.Plot` by the name of its kind
    definitions: versions of what it computes its own way: a tuple of `panbench.runs.definitions.Definition`
    """

    name: str
    summary: str
    order: int = 1000
    commands: tuple[StudyCommand, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    section: str = ""
    measures: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    definitions: str = ""


@functools.cache
def _found() -> tuple[tuple[Study, ...], tuple[str, ...]]:
    """All studies in their order, and a sentence on each that cannot be loaded."""
    studies: dict[str, Study] = {}
    broken: list[str] = []
    # Ours are found by looking: entry points are written at installation, and ours must work after a `git pull`.
    spec = importlib.util.find_spec(GROUP)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    places = {
        path.parent.name: f"{GROUP}.{path.parent.name}:STUDY"
        for folder in folders
        for path in sorted(folder.glob("*/__init__.py"))
    }
    for entry in importlib.metadata.entry_points(group=GROUP):
        places.setdefault(entry.name, entry.value)
    for name, place in places.items():
        try:
            study = load(place)
        except BrokenPlace as error:
            broken.append(f"The study {name} is left out: {error}")
            continue
        except Exception as error:
            # Whatever a package of others raises, the rest of the program starts.
            broken.append(f"The study {name} is left out: importing {place} failed ({type(error).__name__}: {error}).")
            continue
        if isinstance(study, Study):
            studies[name] = study
        else:
            broken.append(f"The study {name} is left out: {place} is {kind_of(study)}, not a Study.")
    return tuple(sorted(studies.values(), key=lambda study: (study.order, study.name))), tuple(broken)


def find_studies() -> tuple[Study, ...]:
    """All studies that are installed, in their order; those that cannot be loaded are left out (`broken_studies`)."""
    return _found()[0]


def broken_studies() -> tuple[str, ...]:
    """A sentence on each study that cannot be loaded."""
    return _found()[1]


def added(kind: str, key: str | None = None) -> dict[str, Any]:
    """What each study adds of a kind, loaded, by the study's name and in the studies' order.

    kind: a field of `Study` that holds a place, or with `key` one that holds places by name
    Raises BrokenPlace when a place does not exist.
    """
    found = {}
    for study in find_studies():
        place = getattr(study, kind) if key is None else getattr(study, kind).get(key, "")
        if place:
            found[study.name] = load(place)
    return found


def named(kind: str) -> dict[str, str]:
    """What studies add under names, not loaded. kind: a field of `Study` that holds something by name."""
    found: dict[str, str] = {}
    for study in find_studies():
        for name, value in getattr(study, kind).items():
            found.setdefault(name, value)
    return found
