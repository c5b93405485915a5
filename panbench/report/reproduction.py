"""Is a published number reproduced? A run of a catalogued model against what was measured, or printed, for it.

Where somebody measured PQ, SQ and RQ of all, things and stuff (measured.csv), all nine must agree to 0.05 points.
Elsewhere the published PQ counts, which is rounded and often of another evaluation: it must agree to 0.15.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from panbench.base.errors import BadModel, BadRun
from panbench.catalog import ModelSpec, load_catalog
from panbench.report.grid import ABSENT, Grid, as_markdown, markdown_text
from panbench.report.tables import arithmetic
from panbench.runs import Run, RunInfo, list_runs

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

_GROUPS = ("All", "Things", "Stuff")
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
    suspects: what can have moved the numbers: first what the run is sure of, then what is to be compared
    other_images: how many images the data have, where these are not those of the claim; then nothing is reproduced
    """

    title: str
    claim: Claim
    rows: tuple[tuple[str, str, float, float], ...]
    suspects: tuple[str, ...]
    other_images: int | None = None

    @property
    def reproduced(self) -> bool:
        """Whether every number agrees, on the images of the claim."""
        return self.other_images is None and all(
            abs(found - claimed) <= self.claim.within + _ROUNDING for _, _, claimed, found in self.rows
        )

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with the number that is off most."""
        group, metric, claimed, found = max(self.rows, key=lambda row: abs(row[3] - row[2]))
        said = f"{metric} ({group}) is {found:.2f} for {claimed:g}, {found - claimed:+.2f} points"
        word = "Reproduced" if self.reproduced else "Not reproduced"
        if self.other_images is not None:
            word += f" on {self.other_images:,} images that are not the claim's"
        which = "the largest difference" if len(self.rows) > 1 else "the difference"
        return (
            f"{word}: {self.title}, {which}: {said}; {self.claim.within:g} are allowed. Claimed by {self.claim.source}."
        )

    def grid(self) -> Grid:
        """The numbers side by side."""
        return Grid(
            ("", "", "claimed", "found", "difference"),
            tuple(
                (group, metric, f"{claimed:g}", f"{found:.3f}", f"{found - claimed:+.3f}")
                for group, metric, claimed, found in self.rows
            ),
            words=2,
        )

    def record(self) -> dict[str, Any]:
        """What `panbench reproduce --json` prints; percent."""
        return {
            "model": self.title,
            "reproduced": self.reproduced,
            "within": self.claim.within,
            "source": self.claim.source,
            "numbers": [
                {"group": group, "metric": metric, "claimed": claimed, "found": found}
                for group, metric, claimed, found in self.rows
            ],
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
    """What is claimed of a catalogued model. Raises BadModel when neither a measurement nor a publication is known."""
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
    if info.status != "done" or (listed is not None and scored != listed and not info.images.skipped):
        raise BadRun(
            f"{run.name} has {scored:,} of {listed or 0:,} images scored, and a part proves nothing. Go on with "
            "--resume, without --limit."
        )
    summary = run.summary()
    rows = tuple(
        (group, metric, claim.values[group, metric], 100 * float(summary[group][metric] or 0))
        for group in _GROUPS
        for metric in _METRICS
        if (group, metric) in claim.values
    )
    suspects = tuple(_suspects(info, spec, claim))
    others = claim.images is not None and listed != claim.images
    return Reproduction(spec.title, claim, rows, suspects, listed if others else None)


def _suspects(info: RunInfo, spec: ModelSpec, claim: Claim) -> Iterator[str]:
    """What the run knows of that can move PQ, likeliest first."""
    model = info.model
    assert model is not None
    if claim.images is not None and info.dataset.n_images not in (None, claim.images):
        yield (
            f"The data are others: {info.dataset.gt} lists {info.dataset.n_images:,} images, and the claim is of "
            f"{claim.images:,}."
        )
    if model.random_weights:
        yield "The weights are random: nothing was trained."
    elif model.published is None and spec.published is not None:
        yield "The weights are not those of the catalogue (--weights or --checkpoint was given)."
    if info.category_map is not None:
        yield "A category map was used: categories without a counterpart score 0."
    if info.images.skipped or info.images.missing:
        yield f"Images are missing from the score: {info.images.skipped} skipped, {info.images.missing} not scored."
    if info.images.gt_faults:
        yield "The ground truth's PNGs and JSON disagree (panbench data check says where): is it COCO's own?"
    if arithmetic(info) not in (None, "fp32"):
        yield f"The precision is {info.precision}: fp32 is what published numbers were made with."
    if info.rule is not None and info.rule.thresholds:
        named = ", ".join(f"{name} {value}" for name, value in info.rule.thresholds.items())
        yield f"The fusion rule is {info.rule.name} ({named}): compare with that of the paper."
    if info.arguments.get("compiled"):
        yield "The backbone was compiled: try without --compile."
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
    problems: list[str] = []
    runs = list_runs(folder, problems.append) if folder.is_dir() else []
    if not runs:
        raise BadRun(f"{folder} holds no run. `panbench reproduce MODEL` makes one there.")
    rows: list[tuple[str, ...]] = []
    sources: list[str] = []
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
                "reproduced" if found.reproduced else "not reproduced",
                f"{claimed:g} [{sources.index(found.claim.source) + 1}]",
                f"{value:.3f}",
                f"{worst[0]:.3f} ({worst[2]}, {worst[1]})",
                f"{found.claim.within:g}",
                str(info.versions.get("torch", ABSENT)),
                info.device.name or ABSENT,
                (info.finished or ABSENT)[:10],
            )
        )
    heads = ("Model", "data", "verdict", "PQ claimed", "PQ found", "largest difference", "allowed")
    grid = Grid((*heads, "torch", "device", "on"), tuple(rows), words=3)
    notes = "".join(f"{number}. {markdown_text(source)}\n" for number, source in enumerate(sources, start=1))
    left_out = "".join(f"- {markdown_text(problem)}\n" for problem in problems)
    return (
        "# Published numbers, run again\n\nEach line is a run of this folder held against what is claimed of its "
        "model; made from the runs by `panbench reproduce --page`. Percent.\n\n"
        f"{as_markdown(grid)}\nClaimed by:\n\n{notes}" + (f"\nWithout a verdict:\n\n{left_out}" if left_out else "")
    )
