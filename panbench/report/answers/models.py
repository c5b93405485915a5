"""The list of models: those that can be named, and the published systems that nobody can run here."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line
from panbench.base.text import in_sentence, licence_in_words
from panbench.catalog import YEARS, ModelSpec, Published, address_of, extra_missing, origin, repository_of
from panbench.published import PublishedResult, published_results
from panbench.report.answers.grid import ABSENT, Grid, as_text, count, percent
from panbench.weights import weights_here

__all__ = ["Listing", "list_models", "models_record", "models_text"]


@dataclass(frozen=True)
class Listing:
    """What `panbench models` shows: models, and the systems of published.csv that none of all models is."""

    specs: tuple[ModelSpec, ...]
    published_only: tuple[PublishedResult, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the published numbers are printed, each once, in the order of the rows."""
        named = [spec.published.source for spec in self.specs if spec.published]
        return tuple(dict.fromkeys([*named, *(result.source for result in self.published_only)]))

    def texts(self) -> list[RenderableType]:
        """For a terminal: the models, the systems that are published only, and the sources by number."""
        shown: list[RenderableType] = []
        if self.specs:
            shown.append(models_text(self.specs))
        if self.published_only:
            shown.append(as_text(self._published_grid()))
        notes = [f"[{number}] {source}" for number, source in enumerate(self.sources, start=1)]
        if self.specs:
            notes.append(
                "`--json` has families, backbones, where weights and each PQ come from, and where each licence stands."
            )
        return [*shown, "\n".join(notes)] if notes else shown

    def _published_grid(self) -> Grid:
        return Grid(
            ("Published only", "PQ", "On", "Src"),
            tuple(
                (
                    result.title,
                    percent(result.PQ, 1),
                    f"{result.dataset} {result.split}",
                    str(1 + self.sources.index(result.source)),
                )
                for result in self.published_only
            ),
            notes=("No model here runs these systems; `panbench models --published` lists all claims.",),
        )

    def records(self) -> list[dict[str, Any]]:
        """The rows as `panbench models --json` lists them; what can be run first."""
        return [
            *(models_record(spec) for spec in self.specs),
            *(_published_record(result) for result in self.published_only),
        ]


def list_models(specs: Sequence[ModelSpec], words: str = "", data: str | None = None) -> Listing:
    """The rows in which each of some words occurs, capitals aside: in name, family, backbone, licence, origin, …

    specs: all models that can be named. "published only" finds the systems that none of them is.
    data: only models that were trained on this set, and systems with a result on it
    Raises BadArgument when no row is left.
    """
    wanted = words.casefold().split()
    if data is not None:
        sets = {spec.trained_on for spec in specs} - {None} | {result.dataset for result in published_results()}
        if data not in sets:
            there = in_sentence(sorted(map(str, sets)))
            raise BadArgument(f"No model and no published result is on --data {data!r}. There are some on {there}.")
        specs = [spec for spec in specs if spec.trained_on == data]
    kept = tuple(spec for spec in specs if _holds(_words_of(spec), wanted))
    runnable = {spec.system for spec in specs}
    best: dict[str, PublishedResult] = {}
    for result in published_results():
        if data not in (None, result.dataset):
            continue
        if result.title in runnable or (
            result.superseded
            and any(other.title == result.title and not other.superseded for other in published_results())
        ):
            continue
        # COCO's val2017 before test-dev, then the highest claim.
        known = best.get(result.title)
        if known is None or (result.split == "val2017", result.PQ) > (known.split == "val2017", known.PQ):
            best[result.title] = result
    only = tuple(result for result in best.values() if _holds(f"{result.title} published only", wanted))
    if not kept and not only:
        raise BadArgument(f"No model fits --filter {words!r}. `panbench models` lists all {len(specs)}.")
    return Listing(kept, only)


def models_text(specs: Sequence[ModelSpec]) -> RenderableType:
    """The models as tables for a terminal, one for each training set: what one chooses by."""
    sources = tuple(dict.fromkeys(spec.published.source for spec in specs if spec.published))
    sets = dict.fromkeys(spec.trained_on for spec in specs)
    tables = [part for name in sets for part in (_trained_on(name, specs, sources), "")]
    return Group(*tables, "\n".join(_below(specs)))


def _trained_on(name: str | None, specs: Sequence[ModelSpec], sources: Sequence[str]) -> RenderableType:
    """The table of the models of one training set. sources: where PQ are published, numbered from 1."""
    rows = tuple(
        (
            spec.name,
            "NC" if "NC" in (spec.license or "") else "",
            str(YEARS.get(spec.family or "", ABSENT)),
            count(spec.params),
            spec.input_size or ABSENT,
            percent(spec.published.PQ, 1) if spec.published else ABSENT,
            str(1 + sources.index(spec.published.source)) if spec.published else ABSENT,
            ("yes" if weights_here(spec) else "no") + ("*" if extra_missing(spec) else ""),
        )
        for spec in specs
        if spec.trained_on == name
    )
    columns = (f"On {name or 'other data'}", "", "Year", "params", "Input", "PQ", "Src", "Here")
    return as_text(Grid(columns, rows, words=2))


def _below(specs: Sequence[ModelSpec]) -> list[str]:
    """What the columns mean."""
    on = sorted({f"{spec.published.dataset} {spec.published.split}" for spec in specs if spec.published})
    published = f"PQ as published on {on[0] if len(on) == 1 else 'the val of its data'}. " if on else ""
    commercial = ["NC: the weights are not for commercial use."] if any("NC" in str(s.license) for s in specs) else []
    return [f"{published}Here: the weights are on this machine.", *commercial, *_lacking(specs)]


def _lacking(specs: Sequence[ModelSpec]) -> list[str]:
    """A note for each extra that a starred model needs and that is not installed, with the line that installs it."""
    places: dict[str, list[str]] = {}
    for spec in specs:
        extra = extra_missing(spec)
        if extra is not None and origin(spec) not in places.setdefault(extra, []):
            places[extra].append(origin(spec))
    return [
        f"* from {in_sentence(names)}: needs the extra {extra}, which is not installed: `{install_line(extra)}`"
        for extra, names in places.items()
    ]


def models_record(spec: ModelSpec) -> dict[str, Any]:
    """A model as `panbench models --json` lists it: paths as text, `weights_here` a path or None."""
    here, repository = weights_here(spec), repository_of(spec)
    return {
        **dataclasses.asdict(spec),
        "config": None if spec.config is None else str(spec.config),
        "aliases": list(spec.aliases),
        "published_PQ": spec.published.PQ if spec.published else None,
        "weights_here": str(here) if here else None,
        "from": origin(spec),
        "address": address_of(spec),
        "repository": None if repository is None else repository.page,
        "extra_missing": extra_missing(spec),
        "runnable": True,
    }


def _published_record(result: PublishedResult) -> dict[str, Any]:
    """A system that is published only, with the keys of a model; what it has not is None."""
    published = {field.name: getattr(result, field.name, None) for field in dataclasses.fields(Published)}
    return {
        **{field.name: None for field in dataclasses.fields(ModelSpec)},
        "title": result.title,
        "family": result.model,
        "backbone": result.backbone,
        "params": result.params,
        "system": result.title,
        "aliases": [],
        "settings": {},
        "published": published,
        "published_PQ": result.PQ,
        "weights_here": None,
        "from": None,
        "address": None,
        "repository": None,
        "extra_missing": None,
        "runnable": False,
    }


def _words_of(spec: ModelSpec) -> str:
    """The text in which a model is searched for."""
    repository = repository_of(spec)
    words = [spec.name, *spec.aliases, spec.title, spec.family, spec.backbone, spec.trained_on, origin(spec)]
    licence = licence_in_words(spec.license or "")
    words += [licence, "non-commercial" if "," in licence else None, spec.system]
    words += [] if repository is None else [repository.name]
    return " ".join(word for word in words if word)


def _holds(text: str, words: Sequence[str]) -> bool:
    return all(word in text.casefold() for word in words)
