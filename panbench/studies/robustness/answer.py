"""What corruptions cost a model: PQ under each, mPC and rPC, with paired intervals. [Michaelis et al. 2019]

mPC, the mean performance under corruption, is the mean over the 15 corruptions of the mean over their 5 severities;
rPC, the relative one, is mPC / clean. The 4 extra kinds of ImageNet-C are shown and not averaged. Where fewer kinds or
severities were run, the mean is of those, and the table says which: such an mPC is not the published one. Nor is one
with a corruption that deviates from the package behind the published numbers (`definitions.DEVIATIONS`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence, listed
from panbench.metrics.coverage import interval_notes
from panbench.metrics.jackknife import Jackknife
from panbench.metrics.samples import FEWEST_IMAGES, SampleFold, Stack
from panbench.report.answers.grid import ABSENT, Grid, percent, signed
from panbench.report.answers.tables import comparison_row, labels
from panbench.runs import Run, list_runs
from panbench.runs.alike import FACTS, differing
from panbench.runs.definitions import differing_definitions, stored_definitions
from panbench.studies.robustness.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from panbench.studies.robustness.definitions import VERSION
from panbench.studies.robustness.folders import corrupted_runs

__all__ = [
    "Robustness",
    "pq_of",
    "robustness",
    "robustness_curves",
    "robustness_grids",
    "robustness_record",
    "robustness_table",
]


@dataclass(frozen=True)
class Robustness:
    """A model's PQ on clean and on corrupted images.

    Each jackknife leaves the same images out, so means, quotients and differences of them have intervals, too.

    by_corruption: PQ by corruption and severity; title: the model; images: how many
    version: of the definitions by which the images were corrupted
    """

    run: str
    title: str
    images: int
    clean: Jackknife
    by_corruption: dict[Corruption, Jackknife]
    notes: tuple[str, ...]
    version: int = VERSION

    @property
    def kinds(self) -> list[str]:
        """The corruptions that were run, in the paper's order."""
        run = {corruption.name for corruption in self.by_corruption}
        return [name for name in CORRUPTIONS if name in run]

    @property
    def severities(self) -> list[int]:
        """The severities that were run of any kind."""
        return sorted({corruption.severity for corruption in self.by_corruption})

    def of_kind(self, name: str) -> Jackknife:
        """The mean over the severities of a corruption."""
        return Jackknife.mean([of for corruption, of in self.by_corruption.items() if corruption.name == name])

    @property
    def mPC(self) -> Jackknife | None:
        """The mean over the corruptions of the mean over severities, the 4 extra kinds left out; None without any."""
        averaged = [self.of_kind(name) for name in self.kinds if not CORRUPTIONS[name].is_extra]
        return Jackknife.mean(averaged) if averaged else None

    @property
    def rPC(self) -> Jackknife | None:
        """mPC / clean; None without mPC or where clean PQ is 0."""
        mean = self.mPC
        return None if mean is None or not pq_of(self.clean) else mean.over(self.clean)

    @property
    def is_complete(self) -> bool:
        """Whether mPC is of all 15 corruptions at all 5 severities, as published ones are."""
        wanted = {
            Corruption(name, severity)
            for name, kind in CORRUPTIONS.items()
            if not kind.is_extra
            for severity in SEVERITIES
        }
        return wanted <= set(self.by_corruption)

    @property
    def deviations(self) -> dict[str, str]:
        """How the corruptions that mPC averages differ from the published ones: a clause each."""
        if self.version != VERSION:
            return dict.fromkeys(
                self.kinds, f"is of version {self.version} of panbench's definitions; today's is {VERSION}"
            )
        return {name: kind.deviation for name in self.kinds if (kind := CORRUPTIONS[name]).deviation}

    @property
    def is_comparable(self) -> bool:
        """Whether mPC is comparable with published ones: all of the paper's corruptions, each as published."""
        return self.is_complete and not any(not CORRUPTIONS[name].is_extra for name in self.deviations)

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before setting mPC beside published ones, a sentence each."""
        said = [] if self.is_complete else ["Published mPC are of 15 corruptions at 5 severities: --corrupt all."]
        if self.version != VERSION:
            return [
                *said,
                f"Corrupted by version {self.version} of panbench's definitions (today's: {VERSION}): such an mPC "
                "compares neither with published ones nor with newer runs.",
            ]
        deviations = self.deviations.items()
        return [*said, *(f"{name} {what}: its mPC does not compare with published ones." for name, what in deviations)]

    @property
    def of_what(self) -> str:
        """The corruptions that mPC averages, in words."""
        kinds = sum(not CORRUPTIONS[name].is_extra for name in self.kinds)
        severities = {
            tuple(sorted(each.severity for each in self.by_corruption if each.name == name)) for name in self.kinds
        }
        if self.is_complete:
            return "15 corruptions at 5 severities"
        same = len(severities) == 1
        chosen = [str(level) for level in min(severities)]
        word = "severity" if len(chosen) == 1 else "severities"
        levels = f"{word} {in_sentence(chosen)}" if same else "some severities"
        return f"{kinds} of 15 corruptions at {levels}"


def robustness(runs: Sequence[Run]) -> list[Robustness]:
    """What the corruptions beside each clean run cost it.

    Raises BadRun for a run without corrupted runs, for corrupted runs that are not done or that belong to other weights
    or images, and for models that were corrupted in different ways: their mPC would be of different things.
    """
    found = [
        _of_run(run, label) for run, label in zip(runs, labels([comparison_row(run) for run in runs]), strict=True)
    ]
    for one in found[1:]:
        if set(one.by_corruption) != set(found[0].by_corruption):
            different = sorted(map(str, set(one.by_corruption) ^ set(found[0].by_corruption)))
            raise BadRun(
                f"{found[0].run} and {one.run} were corrupted in different ways: only one of them has "
                f"{listed(different, 5)}. Run `panbench eval --corrupt … --resume` on both alike."
            )
        if one.version != found[0].version:
            raise BadRun(
                f"{found[0].run} was corrupted by version {found[0].version} of the definitions and {one.run} by "
                f"version {one.version}. Make the older ones again with --corrupt and --overwrite."
            )
    return found


def robustness_table(found: Sequence[Robustness]) -> pd.DataFrame:
    """run, corruption, group, is_extra, severity (0: clean), PQ, low, high: a line a setting, for programs."""
    rows: list[dict[str, Any]] = []
    for one in found:
        rows.append({"run": one.title, "corruption": "clean", "severity": 0, **_interval_of(one.clean, one.images)})
        for corruption, values in one.by_corruption.items():
            kind = CORRUPTIONS[corruption.name]
            rows.append(
                {
                    "run": one.title,
                    "corruption": corruption.name,
                    "group": kind.group,
                    "is_extra": kind.is_extra,
                    "severity": corruption.severity,
                    **_interval_of(values, one.images),
                }
            )
    columns = ["run", "corruption", "group", "is_extra", "severity", "PQ", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def robustness_curves(found: Sequence[Robustness]) -> pd.DataFrame:
    """run, group, severity (0: clean), PQ, low, high: the mean over the kinds of a group at each severity, for plots.

    Groups are "all" (what mPC averages), those of the paper, and "extra". Severities that a kind lacks are left out.
    """
    rows: list[dict[str, Any]] = []
    for one in found:
        groups: dict[str, list[str]] = {"all": [name for name in one.kinds if not CORRUPTIONS[name].is_extra]}
        for name in one.kinds:
            kind = CORRUPTIONS[name]
            groups.setdefault("extra" if kind.is_extra else kind.group, []).append(name)
        for group, names in groups.items():
            if not names:
                continue
            rows.append({"run": one.title, "group": group, "severity": 0, **_interval_of(one.clean, one.images)})
            for level in one.severities:
                own = [one.by_corruption.get(Corruption(name, level)) for name in names]
                there = [values for values in own if values is not None]
                if len(there) == len(names):
                    mean = _interval_of(Jackknife.mean(there), one.images)
                    rows.append({"run": one.title, "group": group, "severity": level, **mean})
    return pd.DataFrame(rows, columns=["run", "group", "severity", "PQ", "low", "high"])


def robustness_grids(found: Sequence[Robustness], digits: int = 1) -> list[Grid]:
    """A table of mPC and rPC, of the paired differences, and of each corruption with a column a model."""
    first = found[0]
    rows = []
    for one in found:
        cells = []
        for values in (one.clean, one.mPC, one.rPC):
            if values is None:
                cells += [ABSENT, ""]
            else:
                shown = _interval_of(values, one.images)
                cells += [percent(shown["PQ"], digits), _span(shown["low"], shown["high"], digits)]
        rows.append((one.title, *cells))
    notes = [f"mPC: PQ, mean of {first.of_what}. rPC: mPC / clean PQ. [Michaelis et al. 2019]"]
    notes += first.cautions
    notes.append("In brackets: 95 % intervals.")
    notes += interval_notes(first.images)
    notes += [note for one in found for note in one.notes]
    grids = [
        Grid(
            ("Model", "clean", "", "mPC", "", "rPC", ""),
            tuple(rows),
            title="Under corruption",
            notes=tuple(dict.fromkeys(notes)),
        )
    ]
    lines = []
    for a, b in combinations(range(len(found)), 2):
        for name, mine, theirs in (
            ("clean PQ", found[a].clean, found[b].clean),
            ("mPC", found[a].mPC, found[b].mPC),
            ("rPC", found[a].rPC, found[b].rPC),
        ):
            if mine is None or theirs is None:
                continue
            better, worse, values = (b, a, theirs - mine) if pq_of(theirs) >= pq_of(mine) else (a, b, mine - theirs)
            shown = _interval_of(values, first.images, paired=True)
            star = "*" if shown["low"] is not None and shown["low"] > 0 else ""
            lines.append(
                (
                    found[better].title,
                    found[worse].title,
                    name,
                    signed(shown["PQ"], digits),
                    _span(shown["low"], shown["high"], digits, with_sign=True),
                    star,
                )
            )
    if lines:
        note = "Paired by image. *: the interval lies above 0."
        grids.append(Grid(("Better", "than", "in", "by", "95 % interval", ""), tuple(lines), words=3, notes=(note,)))
    grids += [_kinds_grid(one, digits) for one in found]
    return grids


def robustness_record(found: Sequence[Robustness]) -> dict[str, Any]:
    """The record of `robustness --json`: fractions 0–1, None without a value."""
    table = robustness_table(found)
    return {
        "images": found[0].images,
        "mPC_of": found[0].of_what,
        "mPC_is_published_definition": found[0].is_comparable,
        "definitions": found[0].version,
        "deviations": found[0].deviations,
        "runs": [
            {
                "run": one.run,
                "title": one.title,
                "clean": _interval_of(one.clean, one.images),
                "mPC": None if one.mPC is None else _interval_of(one.mPC, one.images, "mPC"),
                "rPC": None if one.rPC is None else _interval_of(one.rPC, one.images, "rPC"),
                "corruptions": {
                    name: {
                        "group": CORRUPTIONS[name].group,
                        "extra": CORRUPTIONS[name].is_extra,
                        "mean": _interval_of(one.of_kind(name), one.images),
                        "severities": {
                            str(row.severity): float(row.PQ)
                            for row in table[(table["run"] == one.title) & (table["corruption"] == name)].itertuples()
                        },
                    }
                    for name in one.kinds
                },
            }
            for one in found
        ],
    }


def _of_run(run: Run, title: str) -> Robustness:
    run.require_images("measure")
    if run.path is None:
        raise BadRun(f"{run.name} lies in no folder, so there are no runs on corrupted images beside it.")
    if "corruption" in run.info.arguments:
        raise BadRun(f"{run.path} is a run on corrupted images. Name the clean run; those beside it are found.")
    folder = corrupted_runs(run.path)
    beside = list_runs(folder) if folder.is_dir() else []
    if not beside:
        raise BadRun(
            f"{run.path} has no corrupted runs in {folder}. Make them with `panbench eval --corrupt all --resume` and "
            "the options of the run."
        )
    if changed := differing_definitions([run, *beside]):
        raise BadRun(f"{changed}. Make the older ones again with --corrupt and --overwrite.")
    images = run.images
    values: dict[Corruption, Jackknife] = {}
    for other in beside:
        name, _, severity = str(other.info.arguments.get("corruption") or "").partition(":")
        if name not in CORRUPTIONS or not severity.isdigit():
            raise BadRun(f"{other.path} does not say how its images were corrupted. Move it elsewhere.")
        _check_alike(run, other)
        values[Corruption(name, int(severity))] = _pq(other, images)
    version = stored_definitions(beside[0].info).get("corruptions", 0)
    ordered = sorted(values, key=lambda each: (list(CORRUPTIONS).index(each.name), each.severity))
    notes = tuple(f"{title}: {note}" for note in comparison_row(run).notes)
    return Robustness(
        run.name, title, len(images), _pq(run, images), {one: values[one] for one in ordered}, notes, version
    )


def _check_alike(clean: Run, corrupted: Run) -> None:
    """Raises BadRun when a corrupted run is not of the model, data and images of the clean one."""
    shared = [FACTS[name] for name in ("weights", "config", "ground truth", "fusion rule", "precision")]
    if different := differing(clean.info, corrupted.info, shared):
        raise BadRun(
            f"{corrupted.path} differs from {clean.path} in {in_sentence(different)}, so they cannot be compared. "
            "Make it again with --corrupt and --overwrite."
        )
    if corrupted.faults or len(corrupted.images) != len(clean.images) or (corrupted.images != clean.images).any():
        raise BadRun(
            f"{corrupted.path} holds {len(corrupted.images):,} of the {len(clean.images):,} images of {clean.path}. "
            "Continue it with the same command and --resume."
        )


def _pq(run: Run, images: npt.NDArray[np.int64]) -> Jackknife:
    sample = SampleFold(run.categories, images)
    run.fold(sample, images=images)
    return Jackknife.of(Stack.of([sample.result()]), 0)


def pq_of(of: Jackknife) -> float:
    """PQ of all categories."""
    return float(of.value[0, 0])


def _kinds_grid(one: Robustness, digits: int) -> Grid:
    """PQ of each corruption, a column a severity, their mean, and what it costs."""
    severities = one.severities
    rows = []
    for name in one.kinds:
        by_severity = {
            corruption.severity: values for corruption, values in one.by_corruption.items() if corruption.name == name
        }
        cost = _interval_of(one.clean - one.of_kind(name), one.images, paired=True)
        rows.append(
            (
                name.replace("_", " ") + (" (extra)" if CORRUPTIONS[name].is_extra else ""),
                CORRUPTIONS[name].group,
                *(
                    percent(pq_of(by_severity[level]), digits) if level in by_severity else ABSENT
                    for level in severities
                ),
                percent(pq_of(one.of_kind(name)), digits),
                percent(cost["PQ"], digits),
                _span(cost["low"], cost["high"], digits),
            )
        )
    heads = ("Corruption", "kind", *map(str, severities), "mean", "costs", "95 % interval")
    return Grid(
        heads,
        tuple(rows),
        words=2,
        title=f"{one.title}: PQ by severity (clean: {percent(pq_of(one.clean), digits)})",
    )


def _interval_of(values: Jackknife, images: int, name: str = "PQ", *, paired: bool = False) -> dict[str, float | None]:
    """The value and its 95 % interval; None for what does not exist, and without enough images.

    paired: of a difference, which may be below 0
    """
    value, estimate = pq_of(values), values.estimate()
    low, high = (float(end[0, 0]) for end in (estimate.ends(0.95) if paired else estimate.interval(0.95)))
    known = images >= FEWEST_IMAGES and low == low
    return {
        name: None if np.isnan(value) else value,
        "low": low if known else None,
        "high": high if known else None,
    }


def _span(low: float | None, high: float | None, digits: int, *, with_sign: bool = False) -> str:
    if low is None or high is None:
        return ABSENT
    show = signed if with_sign else percent
    return f"[{show(low, digits)}, {show(high, digits)}]"
