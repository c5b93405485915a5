"""What plots and the report page show, as tables: each function gives one tidy DataFrame for all runs of a comparison.

Values are fractions 0–1, NaN where a value does not exist. The column `run` holds the run's label, the same everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import ModelSpec, load_catalog
from panbench.metrics.errors import CAUSES, ErrorReport, explain, lost_influence, mistaken
from panbench.metrics.fixes import cells_to_fix, priced_errors
from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import pq_table, scores_of_images
from panbench.metrics.semantic import confusion as confused_pixels
from panbench.metrics.slices import (
    SLICINGS,
    ImageStatistics,
    image_statistics,
    pq_by,
    threshold_curve,
)
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.types import Category
from panbench.published import gflops_of
from panbench.report.answers.absences import absent
from panbench.report.answers.comparison import Standing, standing
from panbench.report.answers.folded import SAMPLED, Folded, folded, known_summary
from panbench.report.answers.tables import ComparisonRow, comparison_rows, labels, shared_images
from panbench.runs import Run

__all__ = [
    "Compared",
    "best_first",
    "causes",
    "compared",
    "confusion",
    "lost_to_causes",
    "members_of",
    "mistaken_objects",
    "overview",
    "per_category",
    "per_image",
    "sampled",
    "slices",
    "thresholds",
    "weighed",
]

INCOMPLETE = "incomplete"

WORST = 12
"""So many images with the lowest PQ of all are shown beside a sample."""


@dataclass(frozen=True)
class Compared:
    """One of several runs, on the images that all of them hold. `label` names it in charts, and says if it is partial.

    matched: the run's matches, narrowed to those images; where they are too many, to a sample of them (`sample_of`)
    folded: then the sums of all of them; None where `matched` has them all
    """

    run: Run
    row: ComparisonRow
    label: str
    matched: Matched
    folded: Folded | None = None

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of the ground truth."""
        return self.run.categories

    def with_row(self, row: ComparisonRow) -> "Compared":
        """The same run with another row; what was computed once stays."""
        other = replace(self, row=row)
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name not in other.__dict__})
        return other

    @cached_property
    def explained(self) -> ErrorReport:
        """The causes of the run's errors, computed once; errors and worst images are those of `matched`."""
        found = explain(self.matched, self.categories, images=10)
        return found if self.folded is None else replace(found, lost=self.folded.lost)

    @cached_property
    def lost_influence(self) -> npt.NDArray[np.float64]:
        """(causes, images): how far what each cause takes rests on each image; computed once.

        Of a sample, scaled so that their squares add up to what those of all images would.
        """
        found = lost_influence(self.explained.errors, self.categories, self.matched.image_ids)
        return found if self.folded is None else found * np.sqrt(found.shape[1] / self.row.images)

    @cached_property
    def priced(self) -> pd.DataFrame:
        """Each error of `matched` with what mending it would win of PQ of all images, the costliest first."""
        now = None if self.folded is None else self.folded.now
        return priced_errors(self.explained.errors, self.matched, self.categories, now)

    @property
    def errors(self) -> int:
        """How many single errors the run has."""
        return len(self.priced) if self.folded is None else self.folded.errors

    @cached_property
    def to_fix(self) -> pd.DataFrame:
        """What to fix first: causes by size, with what fixing them would win; computed once."""
        if self.folded is not None:
            cells = self.folded.cells
        else:
            cells = cells_to_fix(self.explained.errors, self.matched, self.categories)
        # Without a prediction there is nothing to choose from: all is missed.
        return cells if absent(self.run).has_predictions else cells.head(0)

    @cached_property
    def sliced(self) -> dict[str, ImageStatistics]:
        """The statistics of `matched` by each of SLICINGS; computed once."""
        return {name: image_statistics(self.matched, self.categories, name) for name in SLICINGS}

    @cached_property
    def confused(self) -> pd.DataFrame:
        """How many pixels of each true category each category has, or "void"; computed once."""
        return confused_pixels(self.matched, self.categories) if self.folded is None else self.folded.pixels

    def by_slice(self, by: str) -> pd.DataFrame:
        """PQ of each slice: `pq_by`."""
        return pq_by(self.sliced[by]) if self.folded is None else self.folded.slices[by]


def compared(
    runs: Sequence[Run], *, common_images: bool = False, reporter: Reporter = SILENT
) -> tuple[list[Compared], Standing]:
    """The runs ready to be shown together, in the order given, and how they stand to each other.

    Raises BadRun when they are of different datasets or images (with `common_images`: share none), or hold no image.
    """
    members = members_of(runs, common_images=common_images, reporter=reporter)
    found = standing(runs, common_images=common_images, reporter=reporter)
    return weighed(members, found), found


def members_of(runs: Sequence[Run], *, common_images: bool = False, reporter: Reporter = SILENT) -> list[Compared]:
    """The runs of `compared` without intervals and tests: their rows have no interval and no rank. Raises as it."""
    rows = comparison_rows(runs, common_images=common_images)
    for run in runs:
        run.require_images("show")
    shared = shared_images(runs)
    members = []
    too_many = len(shared) > SAMPLED and any(run.in_blocks for run in runs)
    for run, row, label in zip(runs, rows, _distinct(labels(rows)), strict=True):
        sums = folded(run, shared, reporter) if too_many else None
        if sums is not None:
            matched = Matched.of(sums.rows)
            run.keep(matched)
        else:
            matched = run.matched if len(shared) == len(run.images) else run.matched_of(shared)
        whole = label if row.complete else f"{label} ({INCOMPLETE})"
        members.append(Compared(run, row, whole, matched, sums))
    return members


def weighed(members: Sequence[Compared], found: Standing) -> list[Compared]:
    """The members with the rows of how they stand to each other, and with all that was computed of them."""
    return [member.with_row(row) for member, row in zip(members, found.rows, strict=True)]


def sampled(members: Sequence[Compared]) -> str:
    """What of the members is shown of a sample of their images alone, in words; "" where it is none."""
    if members[0].folded is None:
        return ""
    images, shown = members[0].row.images, len(members[0].matched.image_ids)
    return (
        "Scores, their intervals and tests, causes, what to fix first, confusions and PQ by slice are of all "
        f"{images:,} images. Single images, errors and pictures are of a sample, {shown:,} images drawn at random, "
        f"and the {WORST} images with the lowest PQ of all. Intervals of differences between causes, and sections "
        "further down that need single images, are of the sample, too."
    )


def best_first(runs: Sequence[Run], reporter: Reporter = SILENT) -> list[Run]:
    """The runs by PQ, the best first; equal ones as they were given, and last those without a PQ."""

    def key(run: Run) -> tuple[bool, float]:
        if run.in_blocks:
            folded(run, reporter=reporter)
        pq = known_summary(run)["All"]["PQ"] if len(run.images) else None
        return (pq is None, -(pq or 0.0))

    return sorted(runs, key=key)


def overview(members: Sequence[Compared]) -> pd.DataFrame:
    """run, PQ, low, high (95 % interval), params, gflops (published), images_per_second, device, precision, images."""
    catalog = load_catalog()
    return pd.DataFrame(
        [
            {
                "run": member.label,
                "PQ": member.row.PQ,
                "low": member.row.PQ_low,
                "high": member.row.PQ_high,
                "params": member.row.params,
                "gflops": gflops_of(_system_of(member.run, catalog)),
                "images_per_second": member.row.images_per_second,
                "device": member.row.device,
                "precision": member.row.precision,
                "images": member.row.images,
            }
            for member in members
        ]
    ).astype(dict.fromkeys(("PQ", "low", "high", "params", "gflops", "images_per_second"), float))


def _system_of(run: Run, catalog: Mapping[str, ModelSpec]) -> str:
    """Model and backbone as published results name them; the run's title where the catalogue does not say."""
    model = run.info.model
    spec = None if model is None else catalog.get(model.name or "")
    return (spec and spec.system) or (model and model.title) or run.name


def per_category(members: Sequence[Compared]) -> pd.DataFrame:
    """run, category_id, name, isthing, supercategory, PQ, SQ, RQ, TP, FP, FN, segments (true ones, crowds left out).

    Scores are NaN for a category without TP, FP and FN, which the means leave out.
    """
    tables = []
    for member in members:
        table = pq_table(member.matched, member.categories) if member.folded is None else member.folded.table.copy()
        counted = (table["TP"] + table["FP"] + table["FN"]) > 0
        table[["PQ", "SQ", "RQ"]] = table[["PQ", "SQ", "RQ"]].where(counted)
        if member.folded is None:
            segments = member.matched.segments
            true = positions(segments.category_id[segments.is_gt & ~segments.iscrowd], member.categories)
            table["segments"] = np.bincount(true, minlength=len(table))
        else:
            table["segments"] = member.folded.segments
        tables.append(table.drop(columns="iou_sum"))
    return _of_runs(members, tables)


def _of_runs(members: Sequence[Compared], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The table of each run, one below the other, with the column `run` before the others."""
    table = pd.concat(tables, ignore_index=True)
    runs = [member.label for member, own in zip(members, tables, strict=True) for _ in range(len(own))]
    table.insert(0, "run", pd.Series(runs, table.index, str))
    return table


def causes(members: Sequence[Compared], group: str = "All") -> pd.DataFrame:
    """run, cause, lost (its part of 1 − PQ), gain (PQ gained were it fixed alone), FP, FN, TP; in CAUSES' order."""
    columns = ["cause", "lost", "gain", "FP", "FN", "TP"]
    of_runs = (member.explained.lost for member in members)
    table = _of_runs(members, [lost.loc[lost["group"] == group, columns] for lost in of_runs])
    table["cause"] = pd.Categorical(table["cause"], [cause.name for cause in CAUSES])
    return table


def lost_to_causes(member: Compared, group: str) -> dict[str, float]:
    """What each cause takes of the run's PQ in a group; {} where the group holds nothing."""
    lost = member.explained.lost
    own = lost[lost["group"] == group]
    return dict(zip(own["cause"], own["lost"].tolist(), strict=True))


def slices(members: Sequence[Compared], by: str = "size") -> pd.DataFrame:
    """run, slice, PQ, SQ, RQ, n (categories), TP, FP, FN; slices that no run holds are left out.

    by: a key of metrics.slices.SLICINGS.
    """
    table = _of_runs(members, [member.by_slice(by) for member in members])
    held = set(table["slice"][table["n"] > 0])
    columns = ["run", "slice", "PQ", "SQ", "RQ", "n", "TP", "FP", "FN"]
    return table.loc[table["slice"].isin(held), columns].reset_index(drop=True)


def thresholds(members: Sequence[Compared]) -> pd.DataFrame:
    """run, threshold, PQ, SQ, RQ of all categories when a match needs IoU > threshold."""
    tables = []
    for member in members:
        folded = member.folded
        curve = threshold_curve(member.matched, member.categories) if folded is None else folded.curve
        tables.append(curve[curve["group"] == "All"].assign(run=member.label))
    return pd.concat(tables, ignore_index=True)[["run", "threshold", "PQ", "SQ", "RQ"]]


def per_image(members: Sequence[Compared], also: Iterable[int] = ()) -> pd.DataFrame:
    """run, image_id, PQ, TP, FP, FN of each image by itself; PQ is the mean over the categories that the image holds.

    An image without TP, FP and FN has no PQ (NaN). Of a sample, its images, the WORST of all, and those of `also`.
    """
    further = np.setdiff1d([*_worst(members), *also], members[0].matched.image_ids)
    of_members = []
    for member in members:
        blocks = [member.matched]
        if member.folded is not None and len(further):
            found = member.run.matched_of(further.tolist())
            blocks.append(found)
            # Their pictures are drawn next: with the sample, so that no part is read again.
            tables = [member.folded.rows, OverlapTable(found.segments, found.overlaps, found.boundary)]
            member.run.keep(Matched.of(concat(tables).in_order_of_images()))
        scores = pd.concat([scores_of_images(matched) for matched in blocks], ignore_index=True)
        of_members.append(scores.sort_values("image_id", kind="stable").assign(run=member.label))
    return pd.concat(of_members, ignore_index=True)[["run", "image_id", "PQ", "TP", "FP", "FN"]]


def _worst(members: Sequence[Compared]) -> list[int]:
    """The WORST images of all by mean PQ, where `matched` has only a sample; else none."""
    known = [member.folded for member in members if member.folded is not None]
    if not known:
        return []
    mean = np.mean([one.scores for one in known], axis=0)
    order = np.argsort(mean, kind="stable")[:WORST]
    return [int(image) for image in known[0].sample.image_ids[order[~np.isnan(mean[order])]]]


def confusion(members: Sequence[Compared]) -> pd.DataFrame:
    """run, true, predicted, pixels, share: of a true category's pixels, those given to each category (or to "void").

    true and predicted are names of categories; pairs that share no pixel are left out.
    """
    tables = []
    for member in members:
        names = np.array([*(category.name for category in member.categories), "void"], object)
        counts = member.confused.to_numpy()
        true, predicted = np.nonzero(counts)
        pixels = counts[true, predicted]
        columns = {"true": names[true], "predicted": names[predicted], "pixels": pixels}
        tables.append(pd.DataFrame({"run": member.label, **columns, "share": pixels / counts.sum(axis=1)[true]}))
    return pd.concat(tables, ignore_index=True)[["run", "true", "predicted", "pixels", "share"]]


def mistaken_objects(members: Sequence[Compared]) -> pd.DataFrame:
    """run, true, predicted, objects: how many segments were found with the right mask and the wrong category."""
    tables = []
    for member in members:
        known = member.folded
        number = mistaken(member.explained.errors, member.matched) if known is None else known.mistaken
        names = {category.id: category.name for category in member.categories}
        true, predicted = number["category_id"].map(names), number["predicted"].map(names)
        tables.append(pd.DataFrame({"true": true, "predicted": predicted, "objects": number["objects"]}))
    table = _of_runs(members, tables)
    return table.sort_values("objects", ascending=False, kind="stable", ignore_index=True)


def all_slices(members: Sequence[Compared]) -> dict[str, pd.DataFrame]:
    """`slices` by each of SLICINGS; slicings that put everything into one slice are left out."""
    tables = {name: slices(members, name) for name in SLICINGS}
    return {name: table for name, table in tables.items() if table["slice"].nunique() > 1}


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one is taken: the labels of charts must tell runs apart."""
    return [
        name if list(names).count(name) == 1 else f"{name} ({list(names)[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]
