"""PQ under corruption: of each kind and severity, mPC and rPC, with paired intervals. [Michaelis et al. 2019]

mPC, the mean performance under corruption, is the mean over the 15 corruptions of the mean over their 5 severities;
rPC, the relative one, is mPC / clean. The 4 extra kinds of ImageNet-C are listed but not averaged. With fewer kinds or
severities the mean is over those, and the table says which: such an mPC does not compare with published ones. Nor does
one with a corruption that deviates from the package behind the published numbers (`definitions.DEVIATIONS`).
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
from panbench.metrics.jackknife import Jackknife, interval_notes
from panbench.metrics.samples import FEWEST_IMAGES, Stack
from panbench.report.answers.comparison import sample_of
from panbench.report.answers.grid import ABSENT, Grid, interval_text, percent, signed
from panbench.report.answers.tables import comparison_row, labels
from panbench.runs import Run, list_runs
from panbench.runs.comparable import FACTS, differing
from panbench.runs.definitions import differing_definitions, stored_definitions
from panbench.studies.robustness.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from panbench.studies.robustness.definitions import VERSION, corrupted_runs


@dataclass(frozen=True)
class Robustness:
    """A model's PQ on clean and on corrupted images.

    All jackknifes leave out the same images, so their means, quotients and differences have intervals, too.

    by_corruption: PQ by kind and severity; title: the model's name; images: their number
    version: the version of the corruptions' definitions
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
        """The names of the corruptions that were run, in the paper's order."""
        run = {corruption.name for corruption in self.by_corruption}
        return [name for name in CORRUPTIONS if name in run]

    @property
    def severities(self) -> list[int]:
        """The severities that were run for at least one kind, ascending."""
        return sorted({corruption.severity for corruption in self.by_corruption})

    def pq_of_kind(self, name: str) -> Jackknife:
        """Returns PQ under one kind of corruption, averaged over its severities."""
        return Jackknife.mean([of for corruption, of in self.by_corruption.items() if corruption.name == name])

    @property
    def mPC(self) -> Jackknife | None:
        """The mean PQ under corruption: over severities, then over kinds without the 4 extra ones; None without any."""
        averaged = [self.pq_of_kind(name) for name in self.kinds if not CORRUPTIONS[name].is_extra]
        return Jackknife.mean(averaged) if averaged else None

    @property
    def rPC(self) -> Jackknife | None:
        """The relative PQ under corruption, mPC / clean PQ; None without mPC or if clean PQ is 0."""
        mean = self.mPC
        return None if mean is None or not pq_of(self.clean) else mean.over(self.clean)

    @property
    def is_complete(self) -> bool:
        """True if mPC averages all 15 corruptions at all 5 severities, as published ones do."""
        needed = {
            Corruption(name, severity)
            for name, kind in CORRUPTIONS.items()
            if not kind.is_extra
            for severity in SEVERITIES
        }
        return needed <= set(self.by_corruption)

    @property
    def deviations(self) -> dict[str, str]:
        """How the corruptions differ from the published ones: a clause for each kind that does."""
        if self.version != VERSION:
            return dict.fromkeys(
                self.kinds, f"is of version {self.version} of panbench's definitions; today's is {VERSION}"
            )
        return {name: kind.deviation for name in self.kinds if (kind := CORRUPTIONS[name]).deviation}

    @property
    def is_comparable(self) -> bool:
        """True if mPC compares with published ones: all of the paper's corruptions, none of them deviating."""
        return self.is_complete and not any(not CORRUPTIONS[name].is_extra for name in self.deviations)

    @property
    def cautions(self) -> list[str]:
        """Sentences on why mPC does not compare with published ones."""
        text = [] if self.is_complete else ["Published mPC are of 15 corruptions at 5 severities: --corrupt all."]
        if self.version != VERSION:
            return [
                *text,
                f"Corrupted by version {self.version} of panbench's definitions (today's: {VERSION}): such an mPC "
                "compares neither with published ones nor with newer runs.",
            ]
        deviations = self.deviations.items()
        return [*text, *(f"{name} {what}: its mPC does not compare with published ones." for name, what in deviations)]

    @property
    def corruptions_in_words(self) -> str:
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
    """Measures PQ of clean runs and of the corrupted runs next to them.

    Raises BadRun for a run without corrupted runs, for corrupted runs that are incomplete or belong to other weights or
    images, and for models with different corruptions: their mPC would not compare.
    """
    found = [
        _robustness_of(run, label)
        for run, label in zip(runs, labels([comparison_row(run) for run in runs]), strict=True)
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


def robustness_curves(found: Sequence[Robustness]) -> pd.DataFrame:
    """Returns PQ by model, group of corruptions and severity: run, group, severity (0: clean), PQ, low, high.

    Groups are "all" (the kinds of mPC), those of the paper, and "extra". Severities that a kind lacks are left out.
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
            rows.append({"run": one.title, "group": group, "severity": 0, **_pq_with_interval(one.clean, one.images)})
            for level in one.severities:
                own = [one.by_corruption.get(Corruption(name, level)) for name in names]
                known = [values for values in own if values is not None]
                if len(known) == len(names):
                    mean = _pq_with_interval(Jackknife.mean(known), one.images)
                    rows.append({"run": one.title, "group": group, "severity": level, **mean})
    return pd.DataFrame(rows, columns=["run", "group", "severity", "PQ", "low", "high"])


def robustness_grids(found: Sequence[Robustness], digits: int = 1) -> list[Grid]:
    """Returns tables of PQ under image corruption: means, paired differences of models, and each corruption's PQ."""
    first = found[0]
    rows = []
    for one in found:
        cells = []
        for values in (one.clean, one.mPC, one.rPC):
            if values is None:
                cells += [ABSENT, ""]
            else:
                interval = _pq_with_interval(values, one.images)
                cells += [percent(interval["PQ"], digits), interval_text(interval["low"], interval["high"], digits)]
        rows.append((one.title, *cells))
    notes = [f"mPC: PQ, mean of {first.corruptions_in_words}. rPC: mPC / clean PQ. [Michaelis et al. 2019]"]
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
            interval = _pq_with_interval(values, first.images, paired=True)
            star = "*" if interval["low"] is not None and interval["low"] > 0 else ""
            lines.append(
                (
                    found[better].title,
                    found[worse].title,
                    name,
                    signed(interval["PQ"], digits),
                    interval_text(interval["low"], interval["high"], digits, with_sign=True),
                    star,
                )
            )
    if lines:
        note = "Paired by image. *: the interval lies above 0."
        grids.append(Grid(("Better", "than", "in", "by", "95 % interval", ""), tuple(lines), words=3, notes=(note,)))
    grids += [_corruptions_grid(one, digits) for one in found]
    return grids


def robustness_record(found: Sequence[Robustness]) -> dict[str, Any]:
    """Returns the output of `robustness --json`: fractions 0–1, None for missing numbers."""
    return {
        "images": found[0].images,
        "mPC_of": found[0].corruptions_in_words,
        "mPC_is_published_definition": found[0].is_comparable,
        "definitions": found[0].version,
        "deviations": found[0].deviations,
        "runs": [
            {
                "run": one.run,
                "title": one.title,
                "clean": _pq_with_interval(one.clean, one.images),
                "mPC": None if one.mPC is None else _pq_with_interval(one.mPC, one.images, "mPC"),
                "rPC": None if one.rPC is None else _pq_with_interval(one.rPC, one.images, "rPC"),
                "corruptions": {
                    name: {
                        "group": CORRUPTIONS[name].group,
                        "extra": CORRUPTIONS[name].is_extra,
                        "mean": _pq_with_interval(one.pq_of_kind(name), one.images),
                        "severities": {
                            str(corruption.severity): pq_of(values)
                            for corruption, values in one.by_corruption.items()
                            if corruption.name == name
                        },
                    }
                    for name in one.kinds
                },
            }
            for one in found
        ],
    }


def _robustness_of(run: Run, title: str) -> Robustness:
    """Reads the corrupted runs next to a clean run, and computes PQ of each."""
    run.require_images("measure")
    if run.path is None:
        raise BadRun(f"{run.name} is not in a folder, so there are no runs on corrupted images next to it.")
    if "corruption" in run.info.arguments:
        raise BadRun(f"{run.path} is a run on corrupted images. Name the clean run; those next to it are found.")
    folder = corrupted_runs(run.path)
    corrupted = list_runs(folder) if folder.is_dir() else []
    if not corrupted:
        run.require_model("show corrupted images")
        raise BadRun(
            f"{run.path} has no corrupted runs in {folder}. Make them with `panbench eval --corrupt all --resume` and "
            "the options of the run."
        )
    if changed := differing_definitions([run, *corrupted]):
        raise BadRun(f"{changed}. Make the older ones again with --corrupt and --overwrite.")
    images = run.images
    values: dict[Corruption, Jackknife] = {}
    for other in corrupted:
        name, _, severity = str(other.info.arguments.get("corruption") or "").partition(":")
        if name not in CORRUPTIONS or not severity.isdigit():
            raise BadRun(f"{other.path} does not say how its images were corrupted. Move it elsewhere.")
        _check_corrupted_alike(run, other)
        values[Corruption(name, int(severity))] = _jackknifed_pq(other, images)
    version = stored_definitions(corrupted[0].info).get("corruptions", 0)
    ordered = sorted(values, key=lambda each: (list(CORRUPTIONS).index(each.name), each.severity))
    notes = tuple(f"{title}: {note}" for note in comparison_row(run).notes)
    return Robustness(
        run.name, title, len(images), _jackknifed_pq(run, images), {one: values[one] for one in ordered}, notes, version
    )


def _check_corrupted_alike(clean: Run, corrupted: Run) -> None:
    """Raises BadRun if a corrupted run is of another model, other data or other images than the clean one."""
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


def _jackknifed_pq(run: Run, images: npt.NDArray[np.int64]) -> Jackknife:
    """Computes PQ of a run over some images, and with each of them left out."""
    return Jackknife.of(Stack.of([sample_of(run, images)]), 0)


def pq_of(of: Jackknife) -> float:
    """Returns the PQ over all categories from a jackknife over images, a fraction 0–1."""
    return float(of.value[0, 0])


def _corruptions_grid(one: Robustness, digits: int) -> Grid:
    """Tabulates PQ of each corruption by severity, the mean, and its difference to clean PQ."""
    severities = one.severities
    rows = []
    for name in one.kinds:
        by_severity = {
            corruption.severity: values for corruption, values in one.by_corruption.items() if corruption.name == name
        }
        cost = _pq_with_interval(one.clean - one.pq_of_kind(name), one.images, paired=True)
        rows.append(
            (
                name.replace("_", " ") + (" (extra)" if CORRUPTIONS[name].is_extra else ""),
                CORRUPTIONS[name].group,
                *(
                    percent(pq_of(by_severity[level]), digits) if level in by_severity else ABSENT
                    for level in severities
                ),
                percent(pq_of(one.pq_of_kind(name)), digits),
                percent(cost["PQ"], digits),
                interval_text(cost["low"], cost["high"], digits),
            )
        )
    heads = ("Corruption", "kind", *map(str, severities), "mean", "costs", "95 % interval")
    return Grid(
        heads, tuple(rows), words=2, title=f"{one.title}: PQ by severity (clean: {percent(pq_of(one.clean), digits)})"
    )


def _pq_with_interval(
    values: Jackknife, images: int, name: str = "PQ", *, paired: bool = False
) -> dict[str, float | None]:
    """Returns PQ of all categories and its 95 % interval; None for missing numbers and with too few images.

    paired: True for a difference, which may be negative
    """
    value, estimate = pq_of(values), values.estimate()
    low, high = (float(end[0, 0]) for end in (estimate.ends(0.95) if paired else estimate.interval(0.95)))
    known = images >= FEWEST_IMAGES and low == low
    return {name: None if np.isnan(value) else value, "low": low if known else None, "high": high if known else None}
