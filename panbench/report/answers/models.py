"""The list of models: those that can be evaluated here, and published systems that cannot."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from panbench.base.errors import BadArgument
from panbench.base.extras import install_line
from panbench.base.text import in_sentence, licence_in_words
from panbench.catalog import (
    YEARS,
    ModelSpec,
    Published,
    address_of,
    extra_missing,
    is_shipped,
    multiply_adds,
    origin,
    repository_of,
)
from panbench.published import PublishedResult, published_results
from panbench.report.answers.grid import ABSENT, Grid, as_text, count, percent
from panbench.weights import weights_here

_FOUND = ("published_PQ", "multiply_adds", "weights_here", "from", "address", "repository", "extra_missing", "runnable")
"""Keys of a model's record besides the fields of its `ModelSpec`."""


@dataclass(frozen=True)
class ModelListing:
    """The rows of `panbench models`: models, and systems of published.csv that no model runs."""

    specs: tuple[ModelSpec, ...]
    published_only: tuple[PublishedResult, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Returns the publications of the PQ values, each once, in the order of the rows."""
        named = [spec.published.source for spec in self.specs if spec.published]
        return tuple(dict.fromkeys([*named, *(result.source for result in self.published_only)]))

    def texts(self) -> list[RenderableType]:
        """Returns the terminal output: models, systems that are only published, and the numbered sources."""
        parts: list[RenderableType] = []
        if self.specs:
            parts.append(models_table_text(self.specs))
        if self.published_only:
            parts.append(as_text(self._published_grid()))
        notes = [f"[{number}] {source}" for number, source in enumerate(self.sources, start=1)]
        if self.specs:
            notes.append(
                "`--json` has families, backbones, where weights and each PQ come from, and where each licence stands."
            )
        return [*parts, "\n".join(notes)] if notes else parts

    def _published_grid(self) -> Grid:
        """Returns the table of systems that are only published."""
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
        """Returns the rows as `panbench models --json` lists them; runnable models first."""
        return [
            *(model_json_entry(spec) for spec in self.specs),
            *(_published_json_entry(result) for result in self.published_only),
        ]


def list_models(specs: Sequence[ModelSpec], words: str = "", data: str | None = None) -> ModelListing:
    """Returns the models and published systems whose text contains all words, ignoring case.

    The text is name, family, backbone, licence, origin, …
    specs: all models that can be named; "published only" finds the systems that none of them matches
    data: only models that were trained on this set, and systems with a result on it
    Raises BadArgument when no row is left.
    """
    requested = words.casefold().split()
    if data is not None:
        sets = {spec.trained_on for spec in specs} - {None} | {result.dataset for result in published_results()}
        if data not in sets:
            there = in_sentence(sorted(map(str, sets)))
            raise BadArgument(f"No model and no published result is on --data {data!r}. There are some on {there}.")
        specs = [spec for spec in specs if spec.trained_on == data]
    chosen = tuple(spec for spec in specs if _contains_all_words(_searched_text(spec), requested))
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
    only = tuple(result for result in best.values() if _contains_all_words(f"{result.title} published only", requested))
    if not chosen and not only:
        raise BadArgument(f"No model fits --filter {words!r}. `panbench models` lists all {len(specs)}.")
    return ModelListing(chosen, only)


def models_table_text(specs: Sequence[ModelSpec]) -> RenderableType:
    """Returns the models as tables for a terminal, one for each training set, with the columns one chooses by."""
    sources = tuple(dict.fromkeys(spec.published.source for spec in specs if spec.published))
    sets = dict.fromkeys(spec.trained_on for spec in specs)
    tables = [part for name in sets for part in (_training_set_table(name, specs, sources), "")]
    return Group(*tables, "\n".join(_column_notes(specs)))


def _training_set_table(name: str | None, specs: Sequence[ModelSpec], sources: Sequence[str]) -> RenderableType:
    """Returns the table of the models of one training set.

    sources: publications of PQ, numbered from 1
    """
    rows = tuple(
        (
            spec.name,
            str(YEARS.get(spec.family or "", ABSENT)),
            count(spec.params),
            _short_multiply_adds(_shipped_multiply_adds(spec)),
            spec.input_size or ABSENT,
            percent(spec.published.PQ, 1) if spec.published else ABSENT,
            str(1 + sources.index(spec.published.source)) if spec.published else ABSENT,
            ("yes" if weights_here(spec) else "no")
            + ("*" if extra_missing(spec) else "")
            + (" NC" if "NC" in (spec.license or "") else ""),
        )
        for spec in specs
        if spec.trained_on == name
    )
    columns = (f"On {name or 'other data'}", "Year", "Size", "MACs", "Input", "PQ", "Src", "Here")
    return as_text(Grid(columns, rows))


def _shipped_multiply_adds(spec: ModelSpec) -> int | None:
    """Returns the multiply-adds of a model that panbench ships; None for any other."""
    return multiply_adds().get(spec.name) if is_shipped(spec) else None


def _short_multiply_adds(number: int | None) -> str:
    """Formats multiply-adds, short: 2.4G, 205G, 2.6T."""
    if number is None:
        return ABSENT
    if number >= 999.5e9:
        return f"{number / 1e12:.1f}T"
    return f"{number / 1e9:.{'0' if number >= 9.95e9 else '1'}f}G"


def _column_notes(specs: Sequence[ModelSpec]) -> list[str]:
    """Returns notes that explain the columns, and what to install for models that need an extra."""
    on = sorted({f"{spec.published.dataset} {spec.published.split}" for spec in specs if spec.published})
    published = f"PQ as published on {on[0] if len(on) == 1 else 'the val of its data'}. " if on else ""
    commercial = ["NC: the weights are not for commercial use."] if any("NC" in str(s.license) for s in specs) else []
    counted = ", MACs: multiply-adds of a photograph of 480×640" if any(map(_shipped_multiply_adds, specs)) else ""
    here = f"{published}Size: parameters{counted}. Here: the weights are on this machine."
    return [here, *commercial, *_missing_extra_notes(specs)]


def _missing_extra_notes(specs: Sequence[ModelSpec]) -> list[str]:
    """Returns the install command of each pip extra that some of the models need and that is not installed."""
    indices: dict[str, list[str]] = {}
    for spec in specs:
        extra = extra_missing(spec)
        if extra is not None and origin(spec) not in indices.setdefault(extra, []):
            indices[extra].append(origin(spec))
    return [
        f"* from {in_sentence(names)}: needs the extra {extra}, which is not installed: `{install_line(extra)}`"
        for extra, names in indices.items()
    ]


def model_json_entry(spec: ModelSpec) -> dict[str, Any]:
    """Returns a model as `panbench models --json` lists it: paths as text, `weights_here` a path or None."""
    here, repository = weights_here(spec), repository_of(spec)
    return {
        **dataclasses.asdict(spec),
        "config": None if spec.config is None else str(spec.config),
        "aliases": list(spec.aliases),
        "published_PQ": spec.published.PQ if spec.published else None,
        "multiply_adds": _shipped_multiply_adds(spec),
        "weights_here": str(here) if here else None,
        "from": origin(spec),
        "address": address_of(spec),
        "repository": None if repository is None else repository.page,
        "extra_missing": extra_missing(spec),
        "runnable": True,
    }


def _published_json_entry(result: PublishedResult) -> dict[str, Any]:
    """Returns the JSON entry of a system that no model here runs; it has the keys of a model, None where unknown."""
    keys = (*(field.name for field in dataclasses.fields(ModelSpec)), *_FOUND)
    return {
        **dict.fromkeys(keys),
        "title": result.title,
        "family": result.model,
        "backbone": result.backbone,
        "params": result.params,
        "system": result.title,
        "aliases": [],
        "settings": {},
        "published": {field.name: getattr(result, field.name, None) for field in dataclasses.fields(Published)},
        "published_PQ": result.PQ,
        "runnable": False,
    }


def _searched_text(spec: ModelSpec) -> str:
    """Returns the text of a model in which the words of a search are looked for."""
    repository = repository_of(spec)
    words = [spec.name, *spec.aliases, spec.title, spec.family, spec.backbone, spec.trained_on, origin(spec)]
    licence = licence_in_words(spec.license or "")
    words += [licence, "non-commercial" if "," in licence else None, spec.system]
    words += [] if repository is None else [repository.name]
    return " ".join(word for word in words if word)


def _contains_all_words(text: str, words: Sequence[str]) -> bool:
    """Returns whether a text contains all of some words, which are in lower case."""
    return all(word in text.casefold() for word in words)
