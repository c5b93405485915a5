"""The data of plots and the report page: each function returns one tidy DataFrame for all runs of a comparison.

Values are fractions 0–1, NaN if absent. The column `run` holds the run's label, the same in every table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import ModelSpec, load_catalog
from panbench.metrics.errors import CAUSES, assign_causes, lost_influence
from panbench.metrics.fixes import priced_errors
from panbench.metrics.matched import Matched
from panbench.metrics.pq import scores_of_images
from panbench.metrics.slices import SLICINGS, ImageStatistics, image_statistics
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.types import Category
from panbench.published import gflops_of
from panbench.report.answers.comparison import Standing, compare
from panbench.report.answers.tables import ComparisonRow, labels, numbered_names, shared_images
from panbench.report.answers.totals import SAMPLED, Totals, totals_of
from panbench.runs import Run

INCOMPLETE = "incomplete"

WORST = 12
"""Number of images with the lowest PQ of all that are displayed in addition to a sample."""


@dataclass(frozen=True)
class Compared:
    """One run of a comparison, reduced to the images that all its runs have.

    label: its name in charts, which marks a partial run
    matched: the run's matches, narrowed to those images or, if they are too many, to a sample of them (`sample_of`)
    totals: sums over all images
    """

    run: Run
    row: ComparisonRow
    label: str
    matched: Matched
    totals: Totals

    @property
    def categories(self) -> tuple[Category, ...]:
        """Returns the categories of the dataset."""
        return self.run.categories

    @property
    def errors(self) -> pd.DataFrame:
        """Returns the errors of `matched` with their causes (cached)."""
        return assign_causes(self.matched, self.categories)

    @cached_property
    def lost_influence(self) -> npt.NDArray[np.float64]:
        """Returns how much each image contributes to the PQ lost to each error cause: (causes, images), cached.

        For a sample, scaled so that their squares add up to what those of all images would.
        """
        found = lost_influence(self.errors, self.categories, self.matched.image_ids)
        return found * np.sqrt(found.shape[1] / len(self.totals.images))

    @cached_property
    def priced(self) -> pd.DataFrame:
        """Returns each error of `matched` with the PQ that fixing it gains over all images, the costliest first."""
        return priced_errors(self.errors, self.matched, self.categories, self.totals.now)

    @property
    def to_fix(self) -> pd.DataFrame:
        """Returns what to fix first: causes by size, with the PQ that fixing them would gain."""
        # Without predictions there is nothing to choose from: every segment is missed.
        return self.totals.kinds_to_fix if self.totals.absent.has_predictions else self.totals.kinds_to_fix.head(0)

    @cached_property
    def sliced(self) -> dict[str, ImageStatistics]:
        """Returns TP, FP, FN and Σ IoU by image and slice, for each way to slice the data, e.g. by size (cached)."""
        return {name: image_statistics(self.matched, self.categories, name) for name in SLICINGS}


def compared(
    runs: Sequence[Run], *, common_images: bool = False, reporter: Reporter = SILENT
) -> tuple[list[Compared], Standing]:
    """Compares runs, and returns what tables and figures need of each, in the order given, with the comparison.

    Raises BadRun if they are of different datasets or images (with `common_images`: share none), or hold no image.
    """
    found = compare(runs, common_images=common_images, reporter=reporter)
    return members_of(runs, found.rows, reporter), found


def members_of(runs: Sequence[Run], rows: Sequence[ComparisonRow], reporter: Reporter = SILENT) -> list[Compared]:
    """Returns the runs of a comparison, one for each of its rows, ready to be displayed. Raises as `compared`."""
    for run in runs:
        run.require_images("show")
    shared = shared_images(runs)
    members = []
    too_many = len(shared) > SAMPLED and any(run.in_chunks for run in runs)
    for run, row, label in zip(runs, rows, numbered_names(labels(rows)), strict=True):
        run.reporter = reporter
        totals = totals_of(run, shared)
        if too_many:
            matched = Matched.of(totals.report_sums.sampled_overlaps)
            run.cache_matched(matched)
        else:
            matched = run.matched if len(shared) == len(run.images) else run.matched_of(shared)
        name = label if row.complete else f"{label} ({INCOMPLETE})"
        members.append(Compared(run, row, name, matched, totals))
    return members


def sampled(members: Sequence[Compared]) -> str:
    """Returns a sentence on what the report shows of a sample of images only; "" if it shows all images."""
    images, count = len(members[0].totals.images), len(members[0].matched.image_ids)
    if images == count:
        return ""
    return (
        "Scores, their intervals and tests, causes, what to fix first, confusions and PQ by slice are of all "
        f"{images:,} images. Single images, errors and pictures are of a sample, {count:,} images drawn at random, "
        f"and the {WORST} images with the lowest PQ of all. Intervals of differences between causes, and sections "
        "further down that need single images, are of the sample, too."
    )


def best_first(runs: Sequence[Run], reporter: Reporter = SILENT) -> list[Run]:
    """Returns the runs by PQ, best first; equal ones in the order given, and those without a PQ last."""

    def descending_pq(run: Run) -> tuple[bool, float]:
        """Returns a key that sorts by descending PQ, with runs without a PQ last."""
        run.reporter = reporter
        totals_of(run).read()
        pq = totals_of(run).summary["All"]["PQ"] if len(run.images) else None
        return (pq is None, -(pq or 0.0))

    return sorted(runs, key=descending_pq)


def overview(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns a table with a row per run: its PQ with interval, size, speed and device.

    Columns: run, PQ, low, high (95 %), params, gflops (published), images_per_second, device, precision, images.
    """
    catalog = load_catalog()
    return pd.DataFrame(
        [
            {
                "run": member.label,
                "PQ": member.row.PQ,
                "low": member.row.PQ_low,
                "high": member.row.PQ_high,
                "params": member.row.params,
                "gflops": gflops_of(_published_system_name(member.run, catalog)),
                "images_per_second": member.row.images_per_second,
                "device": member.row.device,
                "precision": member.row.precision,
                "images": member.row.images,
            }
            for member in members
        ]
    ).astype(dict.fromkeys(("PQ", "low", "high", "params", "gflops", "images_per_second"), float))


def _published_system_name(run: Run, catalog: Mapping[str, ModelSpec]) -> str:
    """Returns model and backbone as published results name them; the run's title if the catalogue has no entry."""
    model = run.info.model
    spec = None if model is None else catalog.get(model.name or "")
    return (spec and spec.system) or (model and model.title) or run.name


def per_category(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns a table with a row per run and category: its scores, counts and number of true segments.

    Columns: run, category_id, name, isthing, supercategory, PQ, SQ, RQ, TP, FP, FN, segments (crowds left out).
    Scores are NaN for a category without TP, FP and FN, which the means leave out.
    """
    tables = []
    for member in members:
        table = member.totals.table.copy()
        counted = (table["TP"] + table["FP"] + table["FN"]) > 0
        table[["PQ", "SQ", "RQ"]] = table[["PQ", "SQ", "RQ"]].where(counted)
        table["segments"] = member.totals.report_sums.segments
        tables.append(table.drop(columns="iou_sum"))
    return _join_run_tables(members, tables)


def _join_run_tables(members: Sequence[Compared], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Joins the tables of the runs, one below the other, with the column `run` before the others."""
    table = pd.concat(tables, ignore_index=True)
    runs = [member.label for member, own in zip(members, tables, strict=True) for _ in range(len(own))]
    table.insert(0, "run", pd.Series(runs, table.index, str))
    return table


def causes(members: Sequence[Compared], group: str = "All") -> pd.DataFrame:
    """Returns a table with a row per run and cause: the PQ that it costs, and its errors.

    Columns: run, cause, lost (share of 1 − PQ), gain (PQ gained by fixing it alone), FP, FN, TP; in CAUSES' order.
    """
    columns = ["cause", "lost", "gain", "FP", "FN", "TP"]
    of_runs = (member.totals.lost for member in members)
    table = _join_run_tables(members, [lost.loc[lost["group"] == group, columns] for lost in of_runs])
    table["cause"] = pd.Categorical(table["cause"], [cause.name for cause in CAUSES])
    return table


def slices(members: Sequence[Compared], by: str = "size") -> pd.DataFrame:
    """Returns a table of PQ by run and slice (part of the data, such as small segments), with SQ, RQ and counts.

    Columns: run, slice, PQ, SQ, RQ, n (categories), TP, FP, FN; slices that no run has are left out.
    by: a key of metrics.slices.SLICINGS.
    """
    table = _join_run_tables(members, [member.totals.slices[by] for member in members])
    held = set(table["slice"][table["n"] > 0])
    columns = ["run", "slice", "PQ", "SQ", "RQ", "n", "TP", "FP", "FN"]
    return table.loc[table["slice"].isin(held), columns].reset_index(drop=True)


def thresholds(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns a table with a row per run and IoU threshold: run, threshold, PQ, SQ, RQ of all categories."""
    curves = [member.totals.curve for member in members]
    columns = ["threshold", "PQ", "SQ", "RQ"]
    return _join_run_tables(members, [curve.loc[curve["group"] == "All", columns] for curve in curves])


def per_image(members: Sequence[Compared], also: Iterable[int] = ()) -> pd.DataFrame:
    """Returns a table with a row per run and image: run, image_id, its own PQ, TP, FP, FN.

    PQ is the mean over the categories in the image.
    An image without TP, FP and FN has no PQ (NaN). For a sample: its images, the WORST of all, and those of `also`.
    """
    further = np.setdiff1d([*_worst_images(members), *also], members[0].matched.image_ids)
    of_members = []
    for member in members:
        chunks = [member.matched]
        if len(further):
            found = member.run.matched_of(further.tolist())
            chunks.append(found)
            # Their pictures are drawn next; read together with the sample, no part is read again.
            tables = [
                member.totals.report_sums.sampled_overlaps,
                OverlapTable(found.segments, found.overlaps, found.boundary),
            ]
            member.run.cache_matched(Matched.of(concat(tables).in_order_of_images()))
        scores = pd.concat([scores_of_images(matched) for matched in chunks], ignore_index=True)
        of_members.append(scores.sort_values("image_id", kind="stable").assign(run=member.label))
    return pd.concat(of_members, ignore_index=True)[["run", "image_id", "PQ", "TP", "FP", "FN"]]


def _worst_images(members: Sequence[Compared]) -> list[int]:
    """Returns the images with the lowest mean PQ, which are shown besides a random sample; [] if all are shown."""
    images = members[0].totals.images
    if len(members[0].matched.image_ids) == len(images):
        return []
    mean = np.mean([member.totals.report_sums.scores for member in members], axis=0)
    order = np.argsort(mean, kind="stable")[:WORST]
    return images[order[~np.isnan(mean[order])]].tolist()


def confusion(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns a table of the pixels of each true category that each run gives to each category.

    Columns: run, true, predicted, pixels, share (of the true pixels).
    true and predicted are names of categories (or "void"); pairs that share no pixel are left out.
    """
    tables = []
    for member in members:
        names = np.array([*(category.name for category in member.categories), "void"], object)
        counts = member.totals.pixels.to_numpy()
        true, predicted = np.nonzero(counts)
        pixels = counts[true, predicted]
        columns = {"true": names[true], "predicted": names[predicted], "pixels": pixels}
        tables.append(pd.DataFrame({"run": member.label, **columns, "share": pixels / counts.sum(axis=1)[true]}))
    return pd.concat(tables, ignore_index=True)[["run", "true", "predicted", "pixels", "share"]]


def mistaken_objects(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns how many segments have the right mask and the wrong category: run, true, predicted, objects."""
    tables = []
    for member in members:
        number = member.totals.report_sums.wrong_category_counts
        names = {category.id: category.name for category in member.categories}
        true, predicted = number["category_id"].map(names), number["predicted"].map(names)
        tables.append(pd.DataFrame({"true": true, "predicted": predicted, "objects": number["objects"]}))
    table = _join_run_tables(members, tables)
    return table.sort_values("objects", ascending=False, kind="stable", ignore_index=True)


def all_slices(members: Sequence[Compared]) -> dict[str, pd.DataFrame]:
    """Returns a table of PQ by slice for each way to slice the data, such as by segment size.

    Those that put everything into one slice are left out.
    """
    tables = {name: slices(members, name) for name in SLICINGS}
    return {name: table for name, table in tables.items() if table["slice"].nunique() > 1}
