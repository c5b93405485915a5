"""The register of studies: what each adds to the program, and where the core finds it.

A study is an experiment around the core: corrupted images, ensembles, a gate for CI. It lives in a folder of its own,
panbench/studies/NAME/, whose `__init__.py` holds one record, `STUDY`. The core asks this register and knows no study by
name; deleting a folder deletes the study. Other packages add studies by the entry-point group `panbench.studies`:

    [project.entry-points."panbench.studies"]
    fairness = "panbench_fairness:STUDY"

Import paths are strings, "package.module:NAME", imported when first needed: help, completion and every command of the
core start without them.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panbench.base.references import BrokenReference, load
from panbench.base.text import kind_of

GROUP = "panbench.studies"
"""The entry-point group by which packages of others add studies, and the package that holds ours."""


SHOW = "show"
"""The panel of commands that a study adds to `panbench show`."""


@dataclass(frozen=True)
class StudyCommand:
    """A command that a study adds to the program.

    summary: its line in `panbench --help`
    reference: import path of its `typer.Typer`, made by `panbench.cli.command.family`
    panel: its group of commands in `panbench --help`; SHOW for a command of `panbench show`
    """

    name: str
    summary: str
    reference: str
    panel: str = "Ask"


@dataclass(frozen=True)
class Option:
    """Describes how the command line displays a field of a study's options; it annotates the field's type.

    help: a sentence or two
    metavar: the placeholder for the value in `--help`
    values: values that shell completion offers; for a list, each element's
    """

    help: str
    metavar: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What a study adds to the core. Values are import paths, "package.module:NAME"; "" where it adds nothing.

    name: of its folder; summary: a line for people
    order: sorts its sections, rows and columns among those of other studies, the lowest first
    commands: what it adds to the command line
    options: the options that it adds to a command of the core, by the command's name: of "eval" a subclass of
        `panbench.evaluation.options.StudyOptions`, of "score", "compare" and "export" of `ScoreOptions`,
        `CompareOptions` and `ExportOptions` (panbench.report.answers.options)
    section: of the page, a `panbench.report.pages.page.section.SectionMaker`
    measures: what it adds to "metrics" and "errors", a `panbench.report.answers.measures.Measure` by that name
    tables: what it stores per image next to a run's parts (runs/study_tables.py): the name of a folder in the run,
        and a description of its rows
    runtimes: what computes a model's network in PyTorch's place, by the name behind the + of `eval --precision`: a
        `panbench.evaluation.options.Runtime`
    plots: kinds of `panbench show plot`: a `panbench.report.figures.plots.Plot` by the name of its kind
    definitions: versions of its own definitions: a tuple of `panbench.runs.definitions.Definition`
    """

    name: str
    summary: str
    order: int = 1000
    commands: tuple[StudyCommand, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    section: str = ""
    measures: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    runtimes: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    definitions: str = ""


@functools.cache
def _load_studies() -> tuple[tuple[Study, ...], tuple[str, ...]]:
    """Returns all studies that can be loaded, in their order, and a message on each that cannot."""
    studies: dict[str, Study] = {}
    broken: list[str] = []
    # Ours are found by listing the folder: entry points are written at installation; ours must work after a `git pull`.
    spec = importlib.util.find_spec(GROUP)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    references = {
        path.parent.name: f"{GROUP}.{path.parent.name}:STUDY"
        for folder in folders
        for path in sorted(folder.glob("*/__init__.py"))
    }
    for entry in importlib.metadata.entry_points(group=GROUP):
        references.setdefault(entry.name, entry.value)
    for name, reference in references.items():
        try:
            study = load(reference)
        except BrokenReference as error:
            broken.append(f"The study {name} is left out: {error}")
            continue
        except Exception as error:
            # Whatever another package raises, the rest of the program still starts.
            broken.append(
                f"The study {name} is left out: importing {reference} failed ({type(error).__name__}: {error})."
            )
            continue
        if isinstance(study, Study):
            studies[name] = study
        else:
            broken.append(f"The study {name} is left out: {reference} is {kind_of(study)}, not a Study.")
    return tuple(sorted(studies.values(), key=lambda study: (study.order, study.name))), tuple(broken)


def find_studies() -> tuple[Study, ...]:
    """Returns all installed studies, in their order; those that cannot be loaded are left out (`broken_studies`)."""
    return _load_studies()[0]


def broken_studies() -> tuple[str, ...]:
    """Returns a message on each study that cannot be loaded."""
    return _load_studies()[1]


def load_from_studies(kind: str, key: str | None = None) -> dict[str, Any]:
    """Loads one kind of addition from every study that has it: the objects by study name, in the studies' order.

    kind: a field of `Study` that holds an import path, or with `key` one that holds import paths by name
    Raises BrokenReference when an import path does not exist.
    """
    found = {}
    for study in find_studies():
        reference = getattr(study, kind) if key is None else getattr(study, kind).get(key, "")
        if reference:
            found[study.name] = load(reference)
    return found


def names_in_studies(kind: str) -> dict[str, str]:
    """Merges the dicts that all studies declare in one field, such as `Study.tables`; imports no study's code.

    kind: the name of the field. If two studies use a name, the first one's value counts.
    """
    found: dict[str, str] = {}
    for study in find_studies():
        for name, value in getattr(study, kind).items():
            found.setdefault(name, value)
    return found
