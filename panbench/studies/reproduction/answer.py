"""Is a published number reproduced? A run of a catalogued model against what was measured, or printed, for it.

Where somebody measured PQ, SQ and RQ of all, things and stuff (measured.csv), all nine must agree to 0.05 points.
Elsewhere the published PQ counts, which is rounded and often of another evaluation: it must agree to 0.15.
A run that was made otherwise than the claim (other weights, views, rule, arithmetic; images left out) reproduces
nothing, whatever its numbers: what differs is always listed.
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
from panbench.report.answers.departures import departures
from panbench.report.answers.grid import ABSENT, Grid, as_markdown, markdown_text
from panbench.runs import Run, RunInfo, read_runs

__all__ = [
    "MEASURED_WITHIN",
    "PUBLISHED_WITHIN",
    "Claim",
    "Reproduction",
    "claim_for",
    "judge",
    "page_of",
    "unfit_to_commit",
]

MEASURED_WITHIN = 0.05
"""Points: other processors and versions move a few pixels, which is far less."""

PUBLISHED_WITHIN = 0.15
"""Points: the rounding to one digit, and as much again for an evaluation by other code."""

LARGEST_FILE = 2_000_000
"""Bytes of a file that may be committed with a verified run: a part of 10,000 images has fewer."""

_METRICS = ("PQ", "SQ", "RQ")
# Differences in binary must not decide at the edge of a tolerance that is written in decimals.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """What a run should have come to. values: percent by (group, metric); within: points it may be off."""

    values: Mapping[tuple[str, str], float]
    within: float
    dataset: str
    split: str
    images: int | None
    source: str


@dataclass(frozen=True)
class Reproduction:
    """The verdict on a run.

    rows: group, metric, claimed, found (percent)
    departures: what the run did otherwise than the claimed evaluation, as it recorded it
    suspects: what else can have moved the numbers, to be compared by hand
    other_images: how many images the data have, where these are not those of the claim; then nothing is reproduced
    """

    title: str
    claim: Claim
    rows: tuple[tuple[str, str, float, float], ...]
    suspects: tuple[str, ...]
    departures: tuple[str, ...] = ()
    other_images: int | None = None

    @property
    def agrees(self) -> bool:
        """Whether every number is within what is allowed."""
        return all(map(self._allowed, self._differences))

    @property
    def _differences(self) -> list[float]:
        return [abs(found - claimed) for _, _, claimed, found in self.rows]

    def _allowed(self, difference: float) -> bool:
        return difference <= self.claim.within + _ROUNDING

    @property
    def reproduced(self) -> bool:
        """Whether every number agrees, in an evaluation that departs from the claimed one in nothing recorded."""
        return self.agrees and not self.departures and self.other_images is None

    @property
    def verdict(self) -> str:
        """`Reproduced`, or `Not reproduced` and where the numbers agree all the same, why not."""
        if self.reproduced:
            return "Reproduced"
        if self.other_images is not None:
            return f"Not reproduced on {self.other_images:,} images that are not the claim's"
        why = ", though the numbers agree, as the run departs from the claimed evaluation" if self.agrees else ""
        return f"Not reproduced{why}"

    @property
    def digits(self) -> int:
        """Enough decimals to show why a difference fails: 0.0501 is not shown as an allowed 0.05."""
        for digits in range(2, 9):
            if all(self._allowed(off) == self._allowed(round(off, digits)) for off in self._differences):
                return digits
        return 9

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with the number that is off most."""
        group, metric, claimed, found = max(self.rows, key=lambda row: abs(row[3] - row[2]))
        digits = self.digits
        said = f"{metric} ({group}) is {found:.{digits}f} for {claimed:g}, {with_sign(found - claimed, digits)} points"
        which = "the largest difference" if len(self.rows) > 1 else "the difference"
        return (
            f"{self.verdict}: {self.title}, {which}: {said}; {self.claim.within:g} are allowed. "
            f"Claimed by {self.claim.source}."
        )

    def grid(self) -> Grid:
        """The numbers side by side."""
        digits = max(3, self.digits)
        return Grid(
            ("", "", "claimed", "found", "difference"),
            tuple(
                (group, metric, f"{claimed:g}", f"{found:.{digits}f}", with_sign(found - claimed, digits))
                for group, metric, claimed, found in self.rows
            ),
            words=2,
        )

    def record(self) -> dict[str, Any]:
        """What `panbench reproduce --json` prints; percent."""
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
def _measured() -> dict[str, Claim]:
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
    """The published or measured claim for a catalogued model. Raises BadModel when there is neither."""
    if spec.name in _measured():
        return _measured()[spec.name]
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
    """Holds a run against the claim for its model.

    Raises BadRun when the run is of other data, another model, or not of all images: then there is no verdict.
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
    others = claim.images is not None and listed != claim.images
    return Reproduction(
        spec.title,
        claim,
        rows,
        tuple(_suspects(info)),
        (*_of_other_data(info, claim), *departures(info, spec)),
        listed if others else None,
    )


def _of_other_data(info: RunInfo, claim: Claim) -> Iterator[str]:
    if claim.images is not None and info.dataset.n_images not in (None, claim.images):
        yield (
            f"The data are others: {info.dataset.gt} lists {info.dataset.n_images:,} images, and the claim is of "
            f"{claim.images:,}."
        )


def _suspects(info: RunInfo) -> Iterator[str]:
    """What can move PQ and what nobody has compared with the claim, likeliest first."""
    if info.images.gt_faults:
        yield "The ground truth's PNGs and JSON disagree (panbench data check says where): is it COCO's own?"
    if info.rule is not None and info.rule.thresholds:
        named = ", ".join(f"{name} {value}" for name, value in info.rule.thresholds.items())
        yield f"The fusion rule is {info.rule.name} ({named}): compare with that of the paper."
    names = [name for name in ("opencv-python", "torch", "mmdet", "transformers") if name in info.versions]
    versions = ", ".join(f"{name} {info.versions[name]}" for name in names)
    yield f"Decoding and resizing of images, and the versions: {versions or 'not recorded'}."


def unfit_to_commit(folder: Path) -> list[str]:
    """What of a run's folder is not for version control: large files, predictions, candidates; a sentence each."""
    said = [
        f"{path} has {path.stat().st_size / 1e6:.1f} MB; keep files above {LARGEST_FILE / 1e6:g} MB out of git."
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size > LARGEST_FILE
    ]
    kept = [name for name in ("predictions", "predictions.json", "candidates") if (folder / name).exists()]
    return said + [f"{folder / name} is not needed for the verdict; keep it out of git." for name in kept]


def page_of(folder: Path) -> str:
    """The runs of a folder, each judged against what is claimed of its model, as a Markdown page.

    Raises BadRun when there is no run; one that cannot be judged is on the page with the reason.
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
        _, _, claimed, value = found.rows[0]
        worst = max((abs(own - said), group, metric) for group, metric, said, own in found.rows)
        rows.append(
            (
                found.title,
                f"{found.claim.dataset} {found.claim.split}",
                _in_the_page(found, reasons),
                f"{claimed:g} [{sources.index(found.claim.source) + 1}]",
                f"{value:.{max(3, found.digits)}f}",
                f"{worst[0]:.{max(3, found.digits)}f} ({worst[2]}, {worst[1]})",
                f"{found.claim.within:g}",
                str(info.versions.get("torch", ABSENT)),
                info.device.name or ABSENT,
                (info.finished or ABSENT)[:10],
            )
        )
    heads = ("Model", "data", "verdict", "PQ claimed", "PQ found", "largest difference", "allowed")
    grid = Grid((*heads, "torch", "device", "on"), tuple(rows), words=3)
    notes = "".join(f"{number}. {markdown_text(source)}\n" for number, source in enumerate(sources, start=1))
    departed = "".join(f"- {markdown_text(reason)}\n" for reason in reasons)
    left_out = "".join(f"- {markdown_text(problem)}\n" for problem in problems)
    return (
        "# Published numbers, run again\n\nEach line is a run of this folder held against what is claimed of its "
        "model; made from the runs by `panbench reproduce --page`. Percent.\n\n"
        f"{as_markdown(grid)}\nClaimed by:\n\n{notes}"
        + (f"\nDepartures from the claimed evaluation:\n\n{departed}" if departed else "")
        + (f"\nWithout a verdict:\n\n{left_out}" if left_out else "")
    )


def _in_the_page(found: Reproduction, reasons: list[str]) -> str:
    """The verdict for a cell of the page; adds to `reasons` what the run did otherwise."""
    reasons += [f"{found.title}: {reason}" for reason in found.departures]
    if found.reproduced:
        return "reproduced"
    return "not reproduced: another evaluation" if found.departures and found.agrees else "not reproduced"
