"""Computes PQ by segment size, super-category or crowding, and variants: PQ†, weighted PQ, PQ over IoU thresholds.

PQ of a slice is a quotient of sums over its segments. `image_statistics` computes the sums of each image, `pq_by`
divides them, and metrics/jackknife.py computes their intervals.

Slicing by size follows COCO's AP_small … AP_large: a match or a miss belongs to the size of the ground-truth segment, a
false positive to its own size. Each TP, FP and FN is in exactly one slice, so slices add up.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.matched import FN, FP, Matched, numbered, positions
from panbench.metrics.pq import CategorySums, Counts, Sums, image_sums, means_of_groups, pq_table, summarise
from panbench.panoptic.overlap import OverlapTable, sums_by_row
from panbench.panoptic.types import Category

Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55 … 0.95. Below 0.5 a segment could match twice, and PQ would depend on which match is taken."""

TERMS_AT_ONCE = 5_000_000
"""With more terms, slices are summed one by one to save memory."""


@dataclass(frozen=True)
class Slicing:
    """A way to divide segments or images into slices by a number: the slices' names, and the edges between them.

    A value v is in slice i when edges[i - 1] <= v < edges[i].
    """

    title: str
    names: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    def bins(self, values: npt.NDArray[np.float64 | np.int64]) -> Int:
        """Returns the index of the slice that each value is in."""
        return np.searchsorted(self.edges, values, side="right").astype(np.int64)


SLICINGS: Mapping[str, Slicing] = MappingProxyType(
    {
        "size": Slicing("segment size, pixels", ("small (< 32²)", "medium (32²–96²)", "large (≥ 96²)"), (32**2, 96**2)),
        "share": Slicing("share of the image", ("< 1 %", "1–10 %", "≥ 10 %"), (0.01, 0.1)),
        "segments": Slicing("segments in the image", ("0–5", "6–10", "11–20", "> 20"), (6, 11, 21)),
        "supercategory": Slicing("super-category"),
    }
)
"""The values of `by`. Sizes are COCO's; "segments" counts an image's ground-truth segments without crowds."""


@dataclass(frozen=True)
class ImageStatistics:
    """TP, FP, FN and Σ IoU by image and category, from which PQ of any set of images follows.

    image_ids: all scored images, ascending, with those without segments
    image_id, slice (index into `slices`), category_id, sums: columns of equal length, without rows of zeros
    slices: names in order; () if the dataset is not sliced (the column `slice` is then 0)
    by: the key of SLICINGS, or None
    """

    image_ids: Int
    image_id: Int
    slice: Counts
    category_id: Counts
    sums: Sums
    categories: tuple[Category, ...]
    slices: tuple[str, ...] = ()
    by: str | None = None

    @staticmethod
    def from_frame(image_ids: Int, table: pd.DataFrame, categories: Sequence[Category]) -> "ImageStatistics":
        """Makes an `ImageStatistics` of a DataFrame with TP, FP, FN and iou_sum by image_id and category_id.

        Its columns are those of `table`; `slice` may be missing.
        """
        zeros = np.zeros(len(table), np.int64)
        image_id, slice, category_id, TP, FP, FN = (
            table[name].to_numpy(np.int64) if name in table else zeros
            for name in ("image_id", "slice", "category_id", "TP", "FP", "FN")
        )
        sums = Sums(table["iou_sum"].to_numpy(np.float64), TP, FP, FN)
        return ImageStatistics(image_ids, image_id, slice, category_id, sums, tuple(categories))

    @property
    def cell(self) -> Int:
        """The number of each row's cell (category in a slice): slice · number of categories + index of the category."""
        return self.slice.astype(np.int64) * len(self.categories) + positions(self.category_id, self.categories)

    @property
    def table(self) -> pd.DataFrame:
        """The columns as a DataFrame: image_id, slice, category_id, TP, FP, FN, iou_sum."""
        keys = {"image_id": self.image_id, "slice": self.slice, "category_id": self.category_id}
        return pd.DataFrame({**keys, **self.sums.columns()})

    @staticmethod
    def joined(parts: "Sequence[ImageStatistics]") -> "ImageStatistics":
        """Concatenates the statistics of disjoint sets of images."""
        names = ("image_ids", "image_id", "slice", "category_id")
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        sums = (np.concatenate([getattr(part.sums, field.name) for part in parts]) for field in fields(Sums))
        return replace(parts[0], **columns, sums=Sums(*sums))

    def take(self, rows: npt.NDArray[Any], image_ids: Int) -> "ImageStatistics":
        """Selects rows by mask or by number.

        image_ids: the scored images of the result
        """
        image_id, slice, category_id = self.image_id[rows], self.slice[rows], self.category_id[rows]
        return replace(
            self,
            image_ids=image_ids,
            image_id=image_id,
            slice=slice,
            category_id=category_id,
            sums=self.sums.take(rows),
        )

    def only(self, image_ids: Int) -> "ImageStatistics":
        """Selects the rows of some images.

        image_ids: ascending
        """
        if len(image_ids) == len(self.image_ids):
            return self
        return self.take(np.isin(self.image_id, image_ids), image_ids)


def image_statistics(matched: Matched, categories: Sequence[Category], by: str | None = None) -> ImageStatistics:
    """Returns TP, FP, FN and Σ IoU by image and category, and by slice if `by` names a way to slice.

    by: a key of SLICINGS: "size", "share", "segments" or "supercategory"
    Raises BadArgument for another `by`, BadDataset if a segment's category_id is not in `categories`.
    """
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    positions(matched.segments.category_id, categories)
    slices, (image_id, slice, category_id), sums = _SLICERS[by](matched, categories)
    return ImageStatistics(matched.image_ids, image_id, slice, category_id, sums, tuple(categories), slices, by)


def pq_by(statistics: ImageStatistics) -> pd.DataFrame:
    """Returns PQ of each slice, one row each.

    Columns: slice, PQ, SQ, RQ, n, PQ_th, PQ_st, TP, FP, FN.

    Means are over the n categories that have a TP, FP or FN in the slice; NaN if n is 0. Unsliced statistics give one
    row, "All".
    """
    accumulator = SliceAccumulator(statistics.categories, statistics.by, statistics.slices)
    accumulator.add(accumulator.tally(statistics))
    return accumulator.table()


class SliceAccumulator:
    """Accumulates PQ's sums of each slice (subset of segments or images, e.g. by size) over chunks of images.

    An `Accumulator` of `pq_by`.

    It stores 10 bytes per image, category and slice: Σ IoU is compensated for rounding as in pandas, which needs all
    terms at once. [Kahan 1965]
    """

    def __init__(self, categories: Sequence[Category], by: str | None, slices: Sequence[str] | None = None) -> None:
        """Sets PQ's sums of each category in each slice (such as small segments) to zero."""
        self.categories = tuple(categories)
        self.by = by
        self.slices = tuple(_slice_names(by, self.categories) if slices is None else slices)
        n_cells = max(len(self.slices), 1) * len(self.categories)
        self._terms: list[tuple[Counts, Float]] = []
        self._counts = np.zeros((3, n_cells), np.int64)

    def map_chunk(self, matched: Matched) -> tuple[Counts, Float, Int]:
        """Counts the images' TP, FP and FN by category and slice (such as small segments); lists each image's Σ IoU."""
        return self.tally(image_statistics(matched, self.categories, self.by))

    def tally(self, statistics: ImageStatistics) -> tuple[Counts, Float, Int]:
        """Counts the images' TP, FP and FN by category and slice (such as small segments); lists each image's Σ IoU.

        `table` adds up Σ IoU.
        Returns cell (category in a slice) and Σ IoU of each row of `statistics`, and TP, FP and FN of each cell.
        """
        n_cells = self._counts.shape[1]
        cell, sums = statistics.cell, statistics.sums
        counts = np.stack([sums_by_row(cell, count, n_cells) for count in (sums.TP, sums.FP, sums.FN)])
        return cell.astype(np.int16 if n_cells < 1 << 15 else np.int32), sums.iou_sum, counts

    def add(self, part: tuple[Counts, Float, Int]) -> None:
        """Adds TP, FP and FN of a chunk of images by slice and category, and stores its Σ IoU of each image."""
        cell, iou_sum, counts = part
        self._terms.append((cell, iou_sum))
        self._counts += counts

    def table(self) -> pd.DataFrame:
        """Returns a table with PQ, SQ, RQ, TP, FP and FN of each slice over all images: that of `pq_by`."""
        n = len(self.categories)
        cell = np.concatenate([cells for cells, _ in self._terms])
        terms = np.concatenate([iou_sums for _, iou_sums in self._terms])
        iou_sum = np.zeros(self._counts.shape[1])
        # With many terms one slice at a time: groupby needs several times the memory of its input.
        for start in range(0, len(iou_sum), n if len(terms) > TERMS_AT_ONCE else len(iou_sum)):
            own_terms = slice(None) if len(terms) <= TERMS_AT_ONCE else (cell >= start) & (cell < start + n)
            found = pd.Series(terms[own_terms]).groupby(cell[own_terms]).sum()
            iou_sum[found.index.to_numpy(np.int64)] = found.to_numpy()
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        rows = []
        for position, name in enumerate(self.slices or ("All",)):
            own = slice(position * n, (position + 1) * n)
            sums = Sums(iou_sum[own], *self._counts[:, own])
            summary = means_of_groups(sums.scores(), sums.counted, isthing)
            means = [*summary["All"].values(), summary["Things"]["PQ"], summary["Stuff"]["PQ"]]
            rows.append((name, *means, *(int(counts.sum()) for counts in (sums.TP, sums.FP, sums.FN))))
        columns = ("slice", "PQ", "SQ", "RQ", "n", "PQ_th", "PQ_st", "TP", "FP", "FN")
        scores = {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"}
        # None (a slice without a category) becomes NaN.
        return pd.DataFrame(
            {
                name: np.array(column, np.float64) if name in scores else list(column)
                for name, column in zip(columns, zip(*rows, strict=True), strict=True)
            }
        )


class StatisticsAccumulator:
    """Collects TP, FP, FN and Σ IoU by image and category from chunks of images.

    An `Accumulator` of `image_statistics`. It stores 33 bytes per image and category.
    """

    def __init__(self, categories: Sequence[Category], by: str | None = None) -> None:
        """Starts without images; `by` divides each image's segments, for example by size."""
        self.categories = tuple(categories)
        self.by = by
        self._chunks: list[ImageStatistics] = []

    def map_chunk(self, matched: Matched) -> ImageStatistics:
        """Returns TP, FP, FN and Σ IoU of a chunk of images, by image and category.

        In small integer types, to save gigabytes over all images.
        """
        found = image_statistics(matched, self.categories, self.by)
        sums = Sums(
            found.sums.iou_sum, *(counts.astype(np.int32) for counts in (found.sums.TP, found.sums.FP, found.sums.FN))
        )
        slice, category_id = found.slice.astype(np.int16), found.category_id.astype(np.int32)
        return replace(found, slice=slice, category_id=category_id, sums=sums)

    def add(self, part: ImageStatistics) -> None:
        """Stores TP, FP, FN and Σ IoU of a chunk of images, by image and category."""
        self._chunks.append(part)

    def result(self) -> ImageStatistics:
        """Returns TP, FP, FN and Σ IoU of all images added, by image and category.

        A single chunk is returned unchanged.
        """
        if len(self._chunks) == 1:
            return self._chunks[0]
        return ImageStatistics.joined(self._chunks or [self.map_chunk(Matched.of(OverlapTable.empty()))])


def curve_of(sums: CategorySums) -> pd.DataFrame:
    """Makes the table of `threshold_curve` from sums at several IoU thresholds."""
    rows = []
    for threshold in sums.thresholds:
        summary = summarise(sums.table(threshold))
        rows += [{"threshold": threshold, "group": group, **scores} for group, scores in summary.items()]
    return pd.DataFrame(rows).astype({"PQ": float, "SQ": float, "RQ": float})


def threshold_curve(
    matched: Matched, categories: Sequence[Category], thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Returns PQ, SQ and RQ of All, Things and Stuff at several IoU thresholds, one row each.

    Columns: threshold, group ("All", "Things", "Stuff"), PQ, SQ, RQ, n.

    Everything else is as in PQ: a prediction that loses its match becomes a false positive unless void and crowds
    excuse it. The fall of RQ shows how many matches are loose. Raises BadArgument for thresholds outside [0.5, 1), as
    matches below 0.5 are not unique.
    """
    outside = [threshold for threshold in thresholds if not 0.5 <= threshold < 1]
    if outside:
        raise BadArgument(
            f"IoU thresholds must lie in [0.5, 1), not {listed(outside)}: below 0.5 matches are not unique."
        )
    return curve_of(matched.accumulate(CategorySums(categories, thresholds)))


class DaggerAccumulator:
    """Accumulates the sums that PQ† and weighted PQ need beyond PQ's own over chunks of images.

    An `Accumulator`.

    It stores the IoU of each image's stuff categories, 16 bytes each: their mean is compensated for rounding as in
    pandas, which needs all terms at once. [Kahan 1965]
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        """Sets the numbers of images, pixels and segments of each category to zero."""
        self.categories = tuple(categories)
        n = len(self.categories)
        self._stuff: list[tuple[Int, Float]] = []
        self._images, self._pixels, self._segments = (np.zeros(n, np.int64) for _ in range(3))

    def map_chunk(self, matched: Matched) -> tuple[tuple[Int, Float], Int, Int, Int]:
        """Returns IoUs of stuff, and the numbers of images, true pixels and true segments by category, in a chunk."""
        n = len(self.categories)
        _, with_any, _ = image_sums(matched)
        true = _gt_without_crowds(matched)
        category = positions(matched.segments.category_id, self.categories)
        return (
            _stuff_ious(matched, self.categories),
            np.bincount(positions(with_any, self.categories), minlength=n),
            sums_by_row(category[true], matched.segments.area[true], n),
            np.bincount(category[true], minlength=n),
        )

    def add(self, part: tuple[tuple[Int, Float], Int, Int, Int]) -> None:
        """Adds the images, true pixels and true segments of a chunk by category, and stores its IoUs of stuff."""
        stuff, images, pixels, segments = part
        self._stuff.append(stuff)
        self._images += images
        self._pixels += pixels
        self._segments += segments

    def dagger(self, table: pd.DataFrame) -> pd.DataFrame:
        """Returns PQ† by category, one row each, as the table of `pq_dagger`.

        table: `pq_table` of the same images
        """
        isthing = table["isthing"].to_numpy(np.bool_)
        counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
        category = np.concatenate([labels for labels, _ in self._stuff])
        of_stuff = np.bincount(category, minlength=len(self.categories))
        means = pd.Series(np.concatenate([ious for _, ious in self._stuff])).groupby(category).mean()
        mean = np.full(len(self.categories), np.nan)
        mean[means.index.to_numpy(np.int64)] = means.to_numpy()
        pq = np.where(counted, table["PQ"].to_numpy(np.float64), np.nan)
        return pd.DataFrame(
            {
                "category_id": table["category_id"],
                "name": table["name"],
                "isthing": isthing,
                "PQ_dagger": np.where(isthing, pq, mean),
                "images": np.where(isthing, self._images, of_stuff),
            }
        )

    def weighted(self, table: pd.DataFrame, weights: Literal["pixels", "segments"]) -> float | None:
        """Returns PQ averaged with each category's share of the true pixels or segments as weight (`weighted_pq`).

        table: `pq_table` of the same images
        """
        share = pd.Series(self._pixels if weights == "pixels" else self._segments)
        total = float(share.sum())
        return float((share * table["PQ"]).sum() / total) if total else None


def pq_dagger(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """Returns PQ† by category, one row each.

    Columns: category_id, name, isthing, PQ_dagger, images.

    Things: PQ. Stuff: the mean, over the images whose ground truth contains the category, of the IoU of all its true
    and all its predicted pixels, without an IoU threshold; predictions in other images cost nothing. If both maps have
    one segment of a stuff category, as in COCO, this is Σ IoU / |S|.
    images: the number of terms of the mean; for things, of images with a TP, FP or FN. PQ_dagger is NaN if it is 0;
    leave those out of means. [Porzi et al. 2019, sec. 4.2]
    """
    return matched.accumulate(DaggerAccumulator(categories)).dagger(pq_table(matched, categories))


def weighted_pq(
    matched: Matched, categories: Sequence[Category], weights: Literal["pixels", "segments"] = "pixels"
) -> float | None:
    """Returns PQ averaged with each category's share of the ground truth as weight; None without true segments.

    Σ w_c PQ_c / Σ w_c, where w_c is the number of pixels (the JSON's areas) or of segments of the category without
    crowds. It relates to PQ as fwIoU to mIoU: it says how good a typical pixel or object is. Categories with only false
    positives have no weight. There is no published standard definition; this one is panbench's.
    """
    if weights not in ("pixels", "segments"):
        raise BadArgument(f'weights must be "pixels" or "segments", not {weights!r}.')
    return matched.accumulate(DaggerAccumulator(categories)).weighted(pq_table(matched, categories), weights)


def _gt_without_crowds(matched: Matched) -> Bool:
    """Marks the ground-truth segments that are not crowds."""
    return matched.segments.is_gt & ~matched.segments.iscrowd


def _sum_by_group(sums: Sums, group: Int, n: int) -> Sums:
    """Sums rows by group number, for n groups; Σ IoU is compensated for rounding as pandas does."""
    iou_sum = _kahan_sums(sums.iou_sum, group, n)
    return Sums(iou_sum, *(sums_by_row(group, counts, n) for counts in (sums.TP, sums.FP, sums.FN)))


def _kahan_sums(values: Float, group: Int, n: int) -> Float:
    """Sums values by group number, equal to pandas' groupby().sum() to the bit, but faster. [Kahan 1965]

    n: the number of groups
    """
    if n == 1:
        # pandas rounds a single group in another way.
        return pd.Series(values).groupby(group).sum().to_numpy(np.float64)
    counts = np.bincount(group, minlength=n)
    ordered, starts = values[np.argsort(group, kind="stable")], np.cumsum(counts) - counts
    total, lost, left = np.zeros(n), np.zeros(n), np.flatnonzero(counts)
    # Adds the first term of all groups at once, then the second, …: groups have few terms.
    for index in range(int(counts.max(initial=0))):
        left = left[counts[left] > index]
        term, before = ordered[starts[left] + index] - lost[left], total[left]
        after = before + term
        lost[left] = (after - before) - term
        total[left] = after
    return total


_SlicedSums = tuple[tuple[str, ...], tuple[Int, Int, Int], Sums]


def _sums_without_slices(matched: Matched, categories: Sequence[Category]) -> _SlicedSums:
    """Returns PQ's sums by image and category, all in one slice."""
    image_id, category_id, sums = image_sums(matched)
    return (), (image_id, np.zeros(len(image_id), np.int64), category_id), sums


def _slice_names(by: str | None, categories: Sequence[Category]) -> tuple[str, ...]:
    """Returns the names of the slices in order; () without slicing."""
    if by == "supercategory":
        return tuple(dict.fromkeys(category.supercategory or "(none)" for category in categories))
    return () if by is None else SLICINGS[by].names


def _sums_by_supercategory(matched: Matched, categories: Sequence[Category]) -> _SlicedSums:
    """Returns PQ's sums by image, super-category and category."""
    names = _slice_names("supercategory", categories)
    slice_of = np.array([names.index(category.supercategory or "(none)") for category in categories], np.int64)
    image_id, category_id, sums = image_sums(matched)
    return names, (image_id, slice_of[positions(category_id, categories)], category_id), sums


def _sums_by_segment_count(matched: Matched, categories: Sequence[Category]) -> _SlicedSums:
    """Returns PQ's sums by image and category; an image's number of true segments decides its slice."""
    slicing = SLICINGS["segments"]
    image_id, category_id, sums = image_sums(matched)
    objects = np.sort(matched.segments.image_id[_gt_without_crowds(matched)])
    count = np.searchsorted(objects, image_id, "right") - np.searchsorted(objects, image_id, "left")
    return slicing.names, (image_id, slicing.bins(count), category_id), sums


def _sums_by_size(matched: Matched, categories: Sequence[Category]) -> _SlicedSums:
    """Returns PQ's sums by image, category and the size of segments in pixels."""
    slicing = SLICINGS["size"]
    return slicing.names, *_sum_segments(matched, slicing.bins(matched.segments.area))


def _sums_by_share(matched: Matched, categories: Sequence[Category]) -> _SlicedSums:
    """Returns PQ's sums by image, category and the segments' share of their image."""
    slicing = SLICINGS["share"]
    ids = matched.image_ids
    pixels = sums_by_row(matched.image_of_overlap, matched.overlaps.pixels, len(ids))
    of_image = pixels[np.searchsorted(ids, matched.segments.image_id)]
    return slicing.names, *_sum_segments(matched, slicing.bins(matched.segments.area / of_image))


_SLICERS: Mapping[str | None, Callable[[Matched, Sequence[Category]], _SlicedSums]] = {
    None: _sums_without_slices,
    "size": _sums_by_size,
    "share": _sums_by_share,
    "segments": _sums_by_segment_count,
    "supercategory": _sums_by_supercategory,
}


def _sum_segments(matched: Matched, slice_of: Int) -> tuple[tuple[Int, Int, Int], Sums]:
    """Sums TP, FP, FN and IoU by image, category and slice, where each segment is in one slice, e.g. by its size.

    slice_of: the slice of each segment
    A match belongs to the slice of its ground-truth segment. Matches are counted from pairs, as PQ does, because a JSON
    with wrong areas can match a segment twice.
    """
    hits = matched.hits()
    lost = np.flatnonzero((matched.verdict == FP) | (matched.verdict == FN))
    rows = np.concatenate([matched.gt[hits], lost])
    kind = np.concatenate([np.full(len(hits), -1), matched.verdict[lost]])
    segments = matched.segments
    keys, group = numbered([segments.image_id[rows], slice_of[rows], segments.category_id[rows].astype(np.int64)])
    every = Sums(
        np.concatenate([matched.iou[hits], np.zeros(len(lost))]),
        *((kind == code).astype(np.int64) for code in (-1, FP, FN)),
    )
    return (keys[0], keys[1], keys[2]), _sum_by_group(every, group, len(keys[0]))


def _stuff_ious(matched: Matched, categories: Sequence[Category]) -> tuple[Int, Float]:
    """Returns for each image and stuff category in its ground truth the category's index and IoU.

    All pixels of the category count as one segment in either map. The union is PQ's: areas of the ground truth from the
    JSON, predictions without their pixels on void.
    """
    segments = matched.segments
    category = positions(segments.category_id, categories)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    (_, label), cell = numbered([segments.image_id, category])
    n = len(label)
    true, predicted = _gt_without_crowds(matched), ~segments.is_gt
    area = sums_by_row(cell[true], segments.area[true], n)
    counted = sums_by_row(cell[predicted], (segments.area - matched.on_void)[predicted], n)
    shared = sums_by_row(cell[matched.gt], matched.overlaps.pixels[matched.pair], n)
    held = (np.bincount(cell[true], minlength=n) > 0) & ~isthing[label]
    union = area + counted - shared
    return label[held], shared[held] / union[held]


@dataclass(frozen=True)
class ImageSlices:
    """Slices of a dataset, each with the ids of its images, in the order of tables.

    name: the heading of the slices in tables ("camera", "night")
    """

    name: str
    images: Mapping[str, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))

    def check(self, known: Collection[int]) -> None:
        """Raises BadArgument if a slice has an image that is not among `known`, or no image at all."""
        everyone = frozenset(known)
        for name, images in self.images.items():
            unknown = sorted(images - everyone)
            if unknown:
                raise BadArgument(
                    f"The slice {name!r} of {self.name} names images that were not scored: {listed(unknown)}. "
                    "Name images of the runs only."
                )
        empty = [name for name, images in self.images.items() if not images]
        if empty or not self.images:
            raise BadArgument(f"{self.name} has {'slices without' if empty else 'no'} images: {listed(empty)}.")

    def of_images(self, images: Iterable[int]) -> "ImageSlices":
        """Restricts the slices to some images; slices without any are dropped."""
        chosen = frozenset(images)
        cut = {name: own & chosen for name, own in self.images.items()}
        return ImageSlices(self.name, MappingProxyType({name: own for name, own in cut.items() if own}))


def slice_by_images(statistics: ImageStatistics, slices: ImageSlices) -> ImageStatistics:
    """Slices the statistics of a run by groups of images; an image counts in every slice that contains it.

    statistics: unsliced. Images in no slice remain in `image_ids` and have no row.
    """
    if statistics.slices:
        raise BadArgument(f"Statistics that are sliced by {statistics.by} cannot be cut by {slices.name}, too.")
    members = [np.isin(statistics.image_id, list(images)) for images in slices.images.values()]
    index, row = np.nonzero(np.reshape(members, (len(members), len(statistics.image_id))))
    cut = statistics.take(row, statistics.image_ids)
    return replace(cut, slice=index, slices=tuple(slices.images), by=slices.name)
