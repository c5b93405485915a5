"""Judges whether a published number is reproduced: a run of a catalogued model against its measured or printed results.

If PQ, SQ and RQ of all, things and stuff were measured (measured.csv), all nine must agree to 0.05 points. Otherwise
the published PQ counts, which is rounded and often from other evaluation code: it must agree to 0.15.
A run made in another way than the claim (other weights, views, rule, arithmetic, or missing images) reproduces nothing,
whatever its numbers; the differences are always listed.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from panbench.base.errors import BadModel, BadRun
from panbench.base.text import with_sign
from panbench.catalog import ModelSpec, load_catalog
from panbench.panoptic.types import GROUPS
from panbench.report.answers.grid import ABSENT, Grid, as_markdown, markdown_text
from panbench.runs import Run, RunInfo, read_runs
from panbench.studies.reproduction.departures import departures

MEASURED_WITHIN = 0.05
"""Tolerance in points; other processors and versions change a few pixels, which is far less."""

PUBLISHED_WITHIN = 0.15
"""Tolerance in points: the rounding to one digit, and as much again for other evaluation code."""

LARGEST_FILE = 2_000_000
"""The largest file, in bytes, to commit with a verified run; a part with 10,000 images is smaller."""

_METRICS = ("PQ", "SQ", "RQ")
# Slack for binary rounding at the edge of a decimal tolerance.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """The published result that a run should reach.

    values: percent by (group, metric); within: tolerance in points
    """

    values: Mapping[tuple[str, str], float]
    within: float
    dataset: str
    split: str
    images: int | None
    source: str


@dataclass(frozen=True)
class Reproduction:
    """The verdict on a run: its numbers next to the claimed ones, and departures from the claimed evaluation.

    rows: group, metric, claimed, found (percent)
    departures: recorded differences from the claimed evaluation
    suspects: what else can have changed the numbers, to be compared by hand
    other_images: the number of images if it differs from the claim's; then nothing is reproduced
    """

    title: str
    claim: Claim
    rows: tuple[tuple[str, str, float, float], ...]
    suspects: tuple[str, ...]
    departures: tuple[str, ...] = ()
    other_images: int | None = None

    @property
    def agrees(self) -> bool:
        """True if every number is within its tolerance."""
        return all(map(self._is_within_tolerance, self._claim_differences))

    @property
    def _claim_differences(self) -> list[float]:
        """The absolute differences between found and claimed numbers, in points."""
        return [abs(found - claimed) for _, _, claimed, found in self.rows]

    def _is_within_tolerance(self, difference: float) -> bool:
        """Returns True if a difference is within the claim's tolerance."""
        return difference <= self.claim.within + _ROUNDING

    @property
    def reproduced(self) -> bool:
        """True if every number agrees and no recorded setting departs from the claim."""
        return self.agrees and not self.departures and self.other_images is None

    @property
    def verdict(self) -> str:
        """The verdict in words, with the reason if the run is not reproduced although the numbers agree."""
        if self.reproduced:
            return "Reproduced"
        if self.other_images is not None:
            return f"Not reproduced on {self.other_images:,} images that are not the claim's"
        why = ", though the numbers agree, as the run departs from the claimed evaluation" if self.agrees else ""
        return f"Not reproduced{why}"

    @property
    def decimals(self) -> int:
        """The number of decimals to print, so that a failing 0.0501 does not look like an allowed 0.05."""
        for digits in range(2, 9):
            if all(
                self._is_within_tolerance(off) == self._is_within_tolerance(round(off, digits))
                for off in self._claim_differences
            ):
                return digits
        return 9

    @property
    def message(self) -> str:
        """The verdict in a sentence, with the largest difference."""
        group, metric, claimed, found = max(self.rows, key=lambda row: abs(row[3] - row[2]))
        digits = self.decimals
        text = (
            f"{metric} ({group}) {found:.{digits}f}, claimed {claimed:g}, {with_sign(found - claimed, digits)} points"
        )
        which = "the largest difference" if len(self.rows) > 1 else "the difference"
        return (
            f"{self.verdict}: {self.title}, {which}: {text} ({self.claim.within:g} allowed). "
            f"Claimed by {self.claim.source}."
        )

    def grid(self) -> Grid:
        """Tabulates claimed and found numbers."""
        digits = max(3, self.decimals)
        return Grid(
            ("", "", "claimed", "found", "difference"),
            tuple(
                (group, metric, f"{claimed:g}", f"{found:.{digits}f}", with_sign(found - claimed, digits))
                for group, metric, claimed, found in self.rows
            ),
            words=2,
        )

    def record(self) -> dict[str, Any]:
        """Returns the output of `panbench reproduce --json`, in percent."""
        return {
            "model": self.title,
            "reproduced": self.reproduced,
            "agrees": self.agrees,
            "within": self.claim.within,
            "source": self.claim.source,
            "numbers": [
                {"group": group, "metric": metric, "claimed": claimed, "found": found}
                for group, metric, claimed, found in self.rows
            ],
            "departures": list(self.departures),
            "suspects": list(self.suspects),
        }


@cache
def _measured_claims() -> dict[str, Claim]:
    """Reads the measured results of catalogued models (measured.csv), by model."""
    text = resources.files("panbench").joinpath("measured.csv").read_text("utf-8")
    values: dict[str, dict[tuple[str, str], float]] = {}
    heads: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(text.splitlines()):
        values.setdefault(row["name"], {}).update({(row["group"], metric): float(row[metric]) for metric in _METRICS})
        heads[row["name"]] = row
    return {
        name: Claim(values[name], MEASURED_WITHIN, row["dataset"], row["split"], int(row["images"]), row["source"])
        for name, row in heads.items()
    }


def claim_for(spec: ModelSpec) -> Claim:
    """Returns the result that a model of the catalogue should reach: as panbench measured it, else as published.

    Raises BadModel if none is known.
    """
    if spec.name in _measured_claims():
        return _measured_claims()[spec.name]
    if spec.published is None:
        raise BadModel(f"{spec.title} has no published PQ, so there is nothing to reproduce. See `panbench models`.")
    published = spec.published
    images = 5000 if (published.dataset, published.split) == ("coco", "val2017") else None
    return Claim(
        {("All", "PQ"): 100 * published.PQ},
        PUBLISHED_WITHIN,
        published.dataset,
        published.split,
        images,
        published.source,
    )


def judge(run: Run, spec: ModelSpec) -> Reproduction:
    """Compares a run with the claim for its model.

    Raises BadRun if the run is of other data, of another model, or incomplete: then there is no verdict.
    """
    claim, info = claim_for(spec), run.info
    if info.model is None or info.model.name != spec.name:
        raise BadRun(f"{run.name} is not a run of {spec.name}.")
    held = (info.dataset.name, info.dataset.split)
    if held not in ((claim.dataset, claim.split), (f"{claim.dataset}-subset", claim.split)):
        found = " ".join(part for part in held if part)
        raise BadRun(f"{run.name} is on {found}; what is claimed of {spec.title} is on {claim.dataset} {claim.split}.")
    scored, listed = len(run.image_ids()), info.dataset.n_images or claim.images
    # Skipped images are listed as differences; any other missing image makes the run incomplete.
    if info.status != "done" or (listed is not None and scored + info.images.skipped != listed):
        skipped = f" and {info.images.skipped:,} skipped" if info.images.skipped else ""
        raise BadRun(
            f"{run.name} has {scored:,} of {listed or 0:,} images scored{skipped}, and a subset proves nothing. "
            "Continue with --resume, without --limit."
        )
    summary = run.summary()
    rows = tuple(
        (group, metric, claim.values[group, metric], 100 * float(summary[group][metric] or 0))
        for group in GROUPS
        for metric in _METRICS
        if (group, metric) in claim.values
    )
    has_other_images = claim.images is not None and listed != claim.images
    return Reproduction(
        spec.title,
        claim,
        rows,
        tuple(_unchecked_setting_notes(info)),
        (*_dataset_departures(info, claim), *departures(info, spec)),
        listed if has_other_images else None,
    )


def _dataset_departures(info: RunInfo, claim: Claim) -> Iterator[str]:
    """Yields a sentence if the run's dataset has another number of images than the claim's."""
    if claim.images is not None and info.dataset.n_images not in (None, claim.images):
        yield (
            f"The data are others: {info.dataset.gt} lists {info.dataset.n_images:,} images, and the claim is of "
            f"{claim.images:,}."
        )


def _unchecked_setting_notes(info: RunInfo) -> Iterator[str]:
    """Yields a sentence on each setting that can change PQ but was not compared, the likeliest first."""
    if info.images.gt_faults:
        yield "The ground truth's PNGs and JSON disagree (panbench data check says where): is it COCO's own?"
    if info.rule is not None and info.rule.thresholds:
        named = ", ".join(f"{name} {value}" for name, value in info.rule.thresholds.items())
        yield f"The fusion rule is {info.rule.name} ({named}): compare with that of the paper."
    names = [name for name in ("opencv-python", "torch", "mmdet", "transformers") if name in info.versions]
    versions = ", ".join(f"{name} {info.versions[name]}" for name in names)
    yield f"Decoding and resizing of images, and the versions: {versions or 'not recorded'}."


def files_not_to_commit(folder: Path) -> list[str]:
    """Returns a sentence for each file to keep out of git: large files, predictions, and stored network outputs."""
    text = [
        f"{path} has {path.stat().st_size / 1e6:.1f} MB; keep files above {LARGEST_FILE / 1e6:g} MB out of git."
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size > LARGEST_FILE
    ]
    extra = [name for name in ("predictions", "predictions.json", "candidates") if (folder / name).exists()]
    return text + [f"{folder / name} is not needed for the verdict; keep it out of git." for name in extra]


def reproduction_page(folder: Path) -> str:
    """Judges each run of a folder against its model's claim; returns a Markdown page.

    Runs that cannot be judged are listed with the reason. Raises BadRun if there is no run.
    """
    runs, problems = read_runs(folder) if folder.is_dir() else ([], [])
    if not runs:
        raise BadRun(f"{folder} holds no run. `panbench reproduce MODEL` makes one there.")
    rows: list[tuple[str, ...]] = []
    sources: list[str] = []
    reasons: list[str] = []
    catalog = load_catalog()
    for run in sorted(runs, key=lambda run: run.name):
        info = run.info
        spec = catalog.get(info.model.name or "") if info.model else None
        try:
            if spec is None:
                raise BadRun(f"{run.name} is not a run of a model in the catalogue.")
            found = judge(run, spec)
        except (BadRun, BadModel) as problem:
            problems.append(str(problem))
            continue
        if found.claim.source not in sources:
            sources.append(found.claim.source)
        reasons += [f"{found.title}: {reason}" for reason in found.departures]
        departed = found.departures and found.agrees
        _, _, claimed, value = found.rows[0]
        worst = max((abs(own - text), group, metric) for group, metric, text, own in found.rows)
        rows.append(
            (
                found.title,
                f"{found.claim.dataset} {found.claim.split}",
                "reproduced" if found.reproduced else f"not reproduced{': another evaluation' if departed else ''}",
                f"{claimed:g} [{sources.index(found.claim.source) + 1}]",
                f"{value:.{max(3, found.decimals)}f}",
                f"{worst[0]:.{max(3, found.decimals)}f} ({worst[2]}, {worst[1]})",
                f"{found.claim.within:g}",
                str(info.versions.get("torch", ABSENT)),
                info.device.name or ABSENT,
                (info.finished or ABSENT)[:10],
            )
        )
    heads = ("Model", "data", "verdict", "PQ claimed", "PQ found", "largest difference", "allowed")
    grid = Grid((*heads, "torch", "device", "on"), tuple(rows), words=3)
    notes = "".join(f"{number}. {markdown_text(source)}\n" for number, source in enumerate(sources, start=1))
    departures_text = "".join(f"- {markdown_text(reason)}\n" for reason in reasons)
    left_out = "".join(f"- {markdown_text(problem)}\n" for problem in problems)
    return (
        "# Published numbers, run again\n\nEach line is a run of this folder held against what is claimed of its "
        "model; made from the runs by `panbench reproduce --page`. Percent.\n\n"
        f"{as_markdown(grid)}\nClaimed by:\n\n{notes}"
        + (f"\nDepartures from the claimed evaluation:\n\n{departures_text}" if reasons else "")
        + (f"\nWithout a verdict:\n\n{left_out}" if left_out else "")
    )
