"""`panbench compare 'a@seed*' 'b@seed*'`: compares models that were trained several times.

Runs are seeds of one model if they share everything but the weights: family, config, data, rule and how they were
evaluated. The runs of any other pattern are compared one by one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.base.text import in_sentence, listed
from panbench.metrics.jackknife import interval_notes
from panbench.metrics.samples import FEWEST_IMAGES
from panbench.panoptic.types import GROUPS
from panbench.report.answers.answer import Answer, as_records
from panbench.report.answers.comparison import corrected_p, p_in_words, sample_of
from panbench.report.answers.grid import ABSENT, Grid, interval_text, percent, signed
from panbench.report.answers.patterns import folders_named
from panbench.report.answers.tables import comparable_images
from panbench.runs import Run, load_run, looks_like_run
from panbench.runs.comparable import FACTS, Fact, differing
from panbench.studies.seeds.statistics import POWER, SeedComparison, compare_seeds


@dataclass(frozen=True)
class NamedRuns:
    """The runs that the arguments of `compare` name, with patterns expanded.

    models: the seeds of each model by its name; empty unless every pattern names seeds and one of them several
    folders: all named folders
    reasons: for each pattern whose runs are not seeds of one model, the reason
    """

    models: Mapping[str, tuple[Run, ...]]
    folders: tuple[Path, ...]
    reasons: tuple[str, ...] = ()


def expand_seed_patterns(arguments: Sequence[Path]) -> NamedRuns:
    """Finds the runs that patterns such as 'a@seed*' name; returns them as seeds of models, or as single runs.

    A path without a wildcard is a model with one seed; a pattern without a folder is also searched in results/.
    Raises BadRun for a pattern that fits no run, BadArgument if two patterns fit the same run.
    """
    found = {argument: folders_named(argument) for argument in arguments}
    folders = tuple(dict.fromkeys(folder for own in found.values() for folder in own))
    runs: dict[Path, tuple[Run, ...]] = {}
    reasons = []
    for pattern, own in found.items():
        if any(folder.is_dir() and not looks_like_run(folder) for folder in own):
            # Folders of runs are never seeds.
            return NamedRuns({}, folders)
        runs[pattern] = tuple(load_run(folder) for folder in own)
        if len(own) > 1 and (reason := why_not_seeds(runs[pattern])):
            reasons.append(f"{str(pattern)!r} names {len(own)} runs, each compared by itself: {reason}.")
    if reasons or all(len(own) == 1 for own in runs.values()):
        return NamedRuns({}, folders, tuple(reasons))
    return NamedRuns(_seeds_by_model(runs), folders)


def hint_to_quote_seeds(paths: Sequence[Path]) -> str | None:
    """Returns a hint to quote patterns if the paths look like seeds that the shell expanded; None for other paths."""
    heads: dict[Path, list[Path]] = {}
    for path in paths:
        head = _name_without_seed(path.name)
        if head is None:
            return None
        heads.setdefault(path.parent / head, []).append(path)
    if max(map(len, heads.values())) < 2 or len(heads) < 2:
        return None
    patterns = " ".join(f"'{path.parent / re.sub('[0-9]+$', '*', path.name)}'" for path, *_ in heads.values())
    return (
        f"These {len(paths)} runs look like seeds of {len(heads)} models and are compared one by one, as the shell "
        f"spelled the patterns out. Quoted, they are compared as models: `panbench compare {patterns}`."
    )


def _seeds_by_model(runs: Mapping[Path, tuple[Run, ...]]) -> dict[str, tuple[Run, ...]]:
    """Returns the seeds of each model by its name. Raises BadArgument if patterns share a name or a run."""
    models: dict[str, tuple[Run, ...]] = {}
    taken: dict[Path, str] = {}
    for pattern, seeds in runs.items():
        name = _model_name_of_pattern(pattern, seeds[0])
        if name in models:
            raise BadArgument(f"Two of the patterns name the model {name!r}. Give each model one pattern.")
        for seed in seeds:
            assert seed.path is not None
            known = taken.setdefault(seed.path.resolve(), str(pattern))
            if known != str(pattern):
                raise BadArgument(
                    f"{seed.path} fits both {known!r} and {str(pattern)!r}: a run is a seed of one model."
                )
        models[name] = seeds
    return models


def why_not_seeds(runs: Sequence[Run]) -> str | None:
    """Explains why runs are not seeds of one model; None if they are.

    Runs without recorded weights (scored folders, models that are functions) need a seed in their names: a@seed1.
    """
    for other in runs[1:]:
        if apart := differing(runs[0].info, other.info, _SHARED):
            names = f"{runs[0].name} and {other.name}"
            return f"{names} differ in {in_sentence(apart)}, and seeds differ in weights alone"
    weights = [None if run.info.model is None else run.info.model.weights_sha256 for run in runs]
    if None in weights:
        heads = {_name_without_seed(run.name) for run in runs}
        if None in heads or len(heads) > 1:
            return "they recorded no weights, and their names do not count seeds as a@seed1 does"
        return None
    if len(set(weights)) < len(weights):
        return "some have the same weights, and seeds differ in weights"
    return None


# The facts that seeds of one model share.
_SHARED = (
    *(FACTS[name] for name in ("kind", "family", "config", "ground truth", "category map", "fusion rule", "precision")),
    Fact(
        "what the images went through",
        lambda info: tuple(info.arguments.get(key) for key in ("corruption", "tta", "exif")),
    ),
    Fact("where candidates come from", lambda info: "candidates" in info.arguments),
)

_SEED_NAME = re.compile(r"(?P<head>.*?)(?:[@_. -]*seed[-_]?|@)\d+")


def _name_without_seed(name: str) -> str | None:
    """Strips the seed from a name such as a@seed1; None for a name without a seed."""
    counted = _SEED_NAME.fullmatch(name)
    return counted["head"] if counted else None


def _model_name_of_pattern(pattern: Path, seed: Run) -> str:
    """Names a model after the pattern of its runs (m2f for `m2f@seed*`), or as in run.json if nothing is left of it."""
    head = pattern.name
    for sign in "*?[":
        head = head.split(sign)[0]
    if head == pattern.name:  # no wildcard
        return head
    for _ in range(2):
        head = head.rstrip("@-_. ").removesuffix("seed").removesuffix("run")
    model = seed.info.model
    return head.rstrip("@-_. ") or (model.name if model is not None and model.name else pattern.name)


@dataclass(frozen=True)
class SeedStanding(Answer):
    """The answer of `compare` for models by their seeds, as text, tables and JSON.

    digits: decimals of percentages
    """

    found: SeedComparison
    runs: Mapping[str, tuple[str, ...]]
    digits: int = 2

    @property
    def messages(self) -> list[str]:
        """Sentences on each difference, the number of seeds it would need, and models with a single seed."""
        table, detect = self.found.differences, f"{100 * self.found.detect:g}"
        of_all = table[table["group"] == "All"]
        text = []
        for row in of_all[of_all["p"].notna()].itertuples():
            sign, better, worse = (1, row.b, row.a) if row.difference >= 0 else (-1, row.a, row.b)
            by = f"{signed(sign * row.difference, self.digits)} points ({p_in_words(row.p_holm, False)})"
            if row.significant:
                text.append(f"{better} is better than {worse} by {by}, beyond seeds and images.")
            else:
                text.append(
                    f"{better} and {worse} cannot be told apart with {self.found.images:,} images and these seeds: "
                    f"{by} can be their luck."
                )
            if math.isnan(row.needed):
                text.append(
                    f"No number of seeds would show a difference of {detect} points between them on these images: "
                    "they alone leave more open than that."
                )
            else:
                text.append(
                    f"A difference of {detect} points between them would need {row.needed:.0f} seeds of each "
                    f"({100 * self.found.level:g} % level, found in {100 * POWER:.0f} % of cases)."
                )
        alone = [name for name, members in self.runs.items() if len(members) == 1]
        if alone:
            has = "has one seed" if len(alone) == 1 else "have one seed each"
            text.append(
                f"{in_sentence(alone)} {has}: what another training would give is not known, so the intervals there "
                "are of the images alone and there is no p."
            )
        return text

    @property
    def grids(self) -> list[Grid]:
        """The tables to print: of the models, then of their differences."""
        return [self._models_grid(), *([self._differences_grid()] if len(self.found.differences) else [])]

    def record(self) -> dict[str, Any]:
        """Returns the output of --json: fractions, None for missing numbers."""
        return {
            "images": self.found.images,
            "level": self.found.level,
            "detect": self.found.detect,
            "power": POWER,
            "runs": {name: list(members) for name, members in self.runs.items()},
            "models": as_records(self.found.models),
            "differences": as_records(self.found.differences),
            "sentences": self.messages,
        }

    def table(self) -> pd.DataFrame:
        """Returns PQ of each model over its seeds, in a row each for All, Things and Stuff."""
        return self.found.models

    def _models_grid(self) -> Grid:
        """Tabulates each model's PQ: the mean of its seeds, their spread, and the interval."""
        level = f"{100 * self.found.level:g} %"
        table = self.found.models
        order = table[table["group"] == "All"].sort_values("PQ", ascending=False, kind="stable")["model"]
        wide = table.set_index(["model", "group"])
        lines = []
        for name in order:
            row = wide.loc[(name, "All")]
            parts = (percent(wide.loc[(name, group), "PQ"], self.digits) for group in ("Things", "Stuff"))
            lowest = f"{percent(row['lowest'], self.digits)}–{percent(row['highest'], self.digits)}"
            lines.append(
                (
                    str(name),
                    f"{row['seeds']:.0f}",
                    percent(row["PQ"], self.digits),
                    percent(row["spread"], self.digits),
                    lowest if row["seeds"] > 1 else ABSENT,
                    self._interval_text(row["low"], row["high"], with_sign=False),
                    *parts,
                )
            )
        return Grid(
            ("Model", "seeds", "PQ", "spread", "seeds' PQ", f"{level} interval", "PQ_th", "PQ_st"),
            tuple(lines),
            notes=(
                "PQ: the mean of the seeds; spread: their standard deviation. Interval: over seeds and images.",
                *interval_notes(self.found.images),
            ),
        )

    def _differences_grid(self) -> Grid:
        """Tabulates the difference of each pair of models, its p-value, and how many seeds it takes to detect one."""
        level = f"{100 * self.found.level:g} %"
        lines = []
        for row in self.found.differences.itertuples():
            sign, better, worse = (1, row.b, row.a) if row.difference >= 0 else (-1, row.a, row.b)
            low, high = sorted((sign * row.low, sign * row.high))
            lines.append(
                (
                    better,
                    worse,
                    f"PQ{GROUPS[row.group]}",
                    signed(sign * row.difference, self.digits),
                    self._interval_text(low, high, with_sign=True),
                    corrected_p(row.p_holm, False),
                    "*" if row.significant else "",
                    ABSENT if pd.isna(row.of_seeds) else f"{100 * row.of_seeds:.0f} %",
                    ABSENT if pd.isna(row.needed) else f"{row.needed:.0f}",
                )
            )
        detect = f"{100 * self.found.detect:g}"
        return Grid(
            ("Better", "than", "in", "by", f"{level} interval", "p", "", "of seeds", f"seeds for {detect}"),
            tuple(lines),
            words=3,
            names=tuple(self.runs),
            notes=(
                "p: Student's t over seeds and images, corrected (Holm). *: significant at "
                f"{100 * (1 - self.found.level):g} %. Of seeds: the share of the variance that comes from "
                f"seeds; the rest comes from images. Seeds for {detect}: of each model, to find a difference of "
                f"{detect} points; {ABSENT}: no number is enough on these images.",
            ),
        )

    def _interval_text(self, low: float, high: float, *, with_sign: bool) -> str:
        """Formats an interval; a dash if there are too few images for one."""
        enough = self.found.images >= FEWEST_IMAGES
        return interval_text(low, high, self.digits, with_sign=with_sign) if enough else ABSENT


def seed_standing(
    models: Mapping[str, Sequence[Run]], *, common_images: bool = False, detect: float = 0.005, digits: int = 2
) -> SeedStanding:
    """Compares models by PQ over their seeds' runs; returns the tables and sentences of `panbench compare`.

    common_images: compare on the images that all runs share; otherwise different images are an error
    detect: the difference, as a fraction, for which needed seeds are counted
    Raises BadRun for runs that cannot be compared or hold no image.
    """
    runs = [run for members in models.values() for run in members]
    try:
        shared = comparable_images(runs, common_images=common_images)
    except BadRun as problem:
        raise problem.without("--mixed") from None
    if not len(shared):
        raise BadRun(f"{listed([run.name for run in runs])} hold no scored image, so there is nothing to compare.")

    samples = {name: [sample_of(run, shared) for run in members] for name, members in models.items()}
    found = compare_seeds(samples, detect=detect)
    return SeedStanding(found, {name: tuple(run.name for run in members) for name, members in models.items()}, digits)
