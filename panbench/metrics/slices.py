"""PQ by size, super-category or crowding, and its relatives: PQ†, weighted PQ, PQ over IoU thresholds.

PQ of any part is a quotient of sums over segments. `image_statistics` takes those sums image by image; `pq_by` divides
them; metrics/jackknife.py has their intervals. So a slice has intervals and p-values wherever it has a PQ.

Where a segment belongs, when segments are sliced by size: a match and a miss by the area of the ground-truth segment, a
false positive by its own, as COCO's AP_small … AP_large do it. Each TP, FP and FN is in exactly one slice, so slices
add up to the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

__all__ = [
    "SLICINGS",
    "THRESHOLDS",
    "ImageStatistics",
    "Slicing",
    "image_statistics",
    "pq_by",
    "pq_dagger",
    "threshold_curve",
    "weighted_pq",
]

Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55 … 0.95. Below 0.5 a segment could match twice, and PQ would depend on which match is taken."""


MOST_AT_ONCE = 5_000_000
"""So many terms of sums are grouped in one go."""


@dataclass(frozen=True)
class Slicing:
    """A way to slice a dataset: the names of the slices in order, and the ascending edges between them.

    A value v is in slice i when edges[i - 1] <= v < edges[i].
    """

    title: str
    names: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    def place(self, values: npt.NDArray[np.float64 | np.int64]) -> Int:
        """The position of the slice of each value."""
        return np.searchsorted(self.edges, values, side="right").astype(np.int64)


SLICINGS: Mapping[str, Slicing] = MappingProxyType(
    {
        "size": Slicing("segment size, pixels", ("small (< 32²)", "medium (32²–96²)", "large (≥ 96²)"), (32**2, 96**2)),
        "share": Slicing("share of the image", ("< 1 %", "1–10 %", "≥ 10 %"), (0.01, 0.1)),
        "segments": Slicing("segments in the image", ("0–5", "6–10", "11–20", "> 20"), (6, 11, 21)),
        "supercategory": Slicing("super-category"),
    }
)
"""What `by` may be. Sizes are COCO's; "segments" counts the image's ground-truth segments, crowds left out."""


@dataclass(frozen=True)
class ImageStatistics:
    """What each image adds to each category: sufficient for PQ of any set of images.

    image_ids: every scored image, ascending; images without segments are in it too
    image_id, slice (position in `slices`), category_id, sums: columns of equal length, without rows of zeros
    slices: names in order; () when the data set is not sliced (column `slice` is then 0)
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
        """From a DataFrame like `table`; the column `slice` may be missing."""
        zeros = np.zeros(len(table), np.int64)
        image_id, slice, category_id, TP, FP, FN = (
            table[name].to_numpy(np.int64) if name in table else zeros
            for name in ("image_id", "slice", "category_id", "TP", "FP", "FN")
        )
        sums = Sums(table["iou_sum"].to_numpy(np.float64), TP, FP, FN)
        return ImageStatistics(image_ids, image_id, slice, category_id, sums, tuple(categories))

    @property
    def table(self) -> pd.DataFrame:
        """image_id, slice, category_id, TP, FP, FN, iou_sum as a DataFrame."""
        keys = {"image_id": self.image_id, "slice": self.slice, "category_id": self.category_id}
        return pd.DataFrame({**keys, **self.sums.columns()})

    def only(self, image_ids: Int) -> "ImageStatistics":
        """The same of some of the images, ascending."""
        if len(image_ids) == len(self.image_ids):
            return self
        rows = np.isin(self.image_id, image_ids)
        return ImageStatistics(
            image_ids,
            self.image_id[rows],
            self.slice[rows],
            self.category_id[rows],
            self.sums.take(rows),
            self.categories,
            self.slices,
            self.by,
        )


def image_statistics(matched: Matched, categories: Sequence[Category], by: str | None = None) -> ImageStatistics:
    """The sums that PQ is made of, for each image and category and, with `by`, slice.

    by: a key of SLICINGS: "size", "share", "segments" or "supercategory"
    Raises BadArgument for another `by`, BadDataset when a segment's category_id is not in `categories`.
    """
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    positions(matched.segments.category_id, categories)
    slices, (image_id, slice, category_id), sums = _SLICERS[by](matched, categories)
    return ImageStatistics(matched.image_ids, image_id, slice, category_id, sums, tuple(categories), slices, by)


def pq_by(statistics: ImageStatistics) -> pd.DataFrame:
    """PQ of each slice, one row each: slice, PQ, SQ, RQ, n, PQ_th, PQ_st, TP, FP, FN; n categories have a TP, FP or FN.

    Means run over the categories that the slice holds; NaN where it holds none. Unsliced statistics have one row,
    "All".
    """
    fold = SliceFold(statistics.categories, statistics.by, statistics.slices)
    fold.add(fold.tally(statistics))
    return fold.table()


class SliceFold:
    """`pq_by` of images that come block by block; a `Fold`.

    It keeps 10 bytes for each image, category and slice: Σ IoU is compensated for rounding, as pandas adds floats, and
    that cannot go on from block to block. [Kahan 1965]
    """

    def __init__(self, categories: Sequence[Category], by: str | None, slices: Sequence[str] | None = None) -> None:
        self.categories = tuple(categories)
        self.by = by
        self.slices = tuple(_names(by, self.categories) if slices is None else slices)
        n_cells = max(len(self.slices), 1) * len(self.categories)
        self._terms: list[tuple[Counts, Float]] = []
        self._counts = np.zeros((3, n_cells), np.int64)

    def look(self, matched: Matched) -> tuple[Counts, Float, Int]:
        """`tally` of a block of images."""
        return self.tally(image_statistics(matched, self.categories, self.by))

    def tally(self, statistics: ImageStatistics) -> tuple[Counts, Float, Int]:
        """Cell (slice · categories + category) and Σ IoU of each row, and TP, FP and FN of each cell."""
        n_cells = self._counts.shape[1]
        place = positions(statistics.category_id, self.categories)
        cell = statistics.slice.astype(np.int64) * len(self.categories) + place
        sums = statistics.sums
        counts = np.stack([sums_by_row(cell, count, n_cells) for count in (sums.TP, sums.FP, sums.FN)])
        return cell.astype(np.int16 if n_cells < 1 << 15 else np.int32), sums.iou_sum, counts

    def add(self, part: tuple[Counts, Float, Int]) -> None:
        """Adds the counts and keeps the rest."""
        cell, iou_sum, counts = part
        self._terms.append((cell, iou_sum))
        self._counts += counts

    def table(self) -> pd.DataFrame:
        """`pq_by` of all that was added."""
        n = len(self.categories)
        cell = np.concatenate([cells for cells, _ in self._terms])
        terms = np.concatenate([iou_sums for _, iou_sums in self._terms])
        iou_sum = np.zeros(self._counts.shape[1])
        # Of many terms slice after slice: grouping takes several times the memory of what is grouped.
        for start in range(0, len(iou_sum), n if len(terms) > MOST_AT_ONCE else len(iou_sum)):
            own_terms = slice(None) if len(terms) <= MOST_AT_ONCE else (cell >= start) & (cell < start + n)
            found = pd.Series(terms[own_terms]).groupby(cell[own_terms]).sum()
            iou_sum[found.index.to_numpy(np.int64)] = found.to_numpy()
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        rows = []
        for place, name in enumerate(self.slices or ("All",)):
            own = slice(place * n, (place + 1) * n)
            sums = Sums(iou_sum[own], *self._counts[:, own])
            summary = means_of_groups(sums.scores(), sums.counted, isthing)
            means = [*summary["All"].values(), summary["Things"]["PQ"], summary["Stuff"]["PQ"]]
            rows.append((name, *means, *(int(counts.sum()) for counts in (sums.TP, sums.FP, sums.FN))))
        columns = ("slice", "PQ", "SQ", "RQ", "n", "PQ_th", "PQ_st", "TP", "FP", "FN")
        scores = {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"}
        # None, of a slice without a category, becomes NaN.
        return pd.DataFrame(
            {
                name: np.array(column, np.float64) if name in scores else list(column)
                for name, column in zip(columns, zip(*rows, strict=True), strict=True)
            }
        )


class StatisticsFold:
    """`image_statistics` of images that come block by block; a `Fold`. It keeps 33 bytes an image and category."""

    def __init__(self, categories: Sequence[Category], by: str | None = None) -> None:
        self.categories = tuple(categories)
        self.by = by
        self._blocks: list[ImageStatistics] = []

    def look(self, matched: Matched) -> ImageStatistics:
        """`image_statistics` of a block, in small types: of many millions of rows eight bytes each are gigabytes."""
        found = image_statistics(matched, self.categories, self.by)
        sums = Sums(
            found.sums.iou_sum, *(counts.astype(np.int32) for counts in (found.sums.TP, found.sums.FP, found.sums.FN))
        )
        slice, category_id = found.slice.astype(np.int16), found.category_id.astype(np.int32)
        return replace(found, slice=slice, category_id=category_id, sums=sums)

    def add(self, part: ImageStatistics) -> None:
        """Keeps the rows of a block."""
        self._blocks.append(part)

    def result(self) -> ImageStatistics:
        """The statistics of all that was added; of a single block as they are."""
        if len(self._blocks) == 1:
            return self._blocks[0]
        blocks = self._blocks or [self.look(Matched.of(OverlapTable.empty()))]

        def joined(column: Callable[[ImageStatistics], npt.NDArray[Any]]) -> npt.NDArray[Any]:
            return np.concatenate([column(block) for block in blocks])

        return replace(
            blocks[0],
            image_ids=joined(lambda block: block.image_ids),
            image_id=joined(lambda block: block.image_id),
            slice=joined(lambda block: block.slice),
            category_id=joined(lambda block: block.category_id),
            sums=Sums(
                joined(lambda block: block.sums.iou_sum),
                joined(lambda block: block.sums.TP),
                joined(lambda block: block.sums.FP),
                joined(lambda block: block.sums.FN),
            ),
        )


def curve_of(sums: CategorySums) -> pd.DataFrame:
    """`threshold_curve` of the sums at some thresholds."""
    rows = []
    for threshold in sums.thresholds:
        summary = summarise(sums.table(threshold))
        rows += [{"threshold": threshold, "group": group, **scores} for group, scores in summary.items()]
    return pd.DataFrame(rows).astype({"PQ": float, "SQ": float, "RQ": float})


def threshold_curve(
    matched: Matched, categories: Sequence[Category], thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """PQ, SQ and RQ when a match needs IoU > t, for each t: threshold, group ("All", "Things", "Stuff"), PQ, SQ, RQ, n.

    Everything else is as in PQ: a prediction that loses its match becomes a false positive unless void and crowds
    excuse it. The fall of RQ tells how many matches are loose. Raises BadArgument for thresholds outside [0.5, 1):
    below 0.5 matches are not unique.
    """
    outside = [threshold for threshold in thresholds if not 0.5 <= threshold < 1]
    if outside:
        raise BadArgument(
            f"IoU thresholds must lie in [0.5, 1), not {listed(outside)}: below 0.5 matches are not unique."
        )
    sums = CategorySums(categories, thresholds)
    sums.add(sums.look(matched))
    return curve_of(sums)


class DaggerFold:
    """What PQ† and weighted PQ need besides PQ, of images that come block by block; a `Fold`.

    It keeps the IoU of each stuff category of an image, 16 bytes: their mean is compensated for rounding, as pandas
    takes it, and that cannot go on from block to block. [Kahan 1965]
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        n = len(self.categories)
        self._stuff: list[tuple[Int, Float]] = []
        self._images, self._pixels, self._segments = (np.zeros(n, np.int64) for _ in range(3))

    def look(self, matched: Matched) -> tuple[tuple[Int, Float], Int, Int, Int]:
        """Positions and IoUs of the stuff of each image; by category the images with any, true pixels and segments."""
        n = len(self.categories)
        _, with_any, _ = image_sums(matched)
        true = _objects(matched)
        category = positions(matched.segments.category_id, self.categories)
        return (
            _stuff_ious(matched, self.categories),
            np.bincount(positions(with_any, self.categories), minlength=n),
            sums_by_row(category[true], matched.segments.area[true], n),
            np.bincount(category[true], minlength=n),
        )

    def add(self, part: tuple[tuple[Int, Float], Int, Int, Int]) -> None:
        """Adds the counts and keeps the IoUs."""
        stuff, images, pixels, segments = part
        self._stuff.append(stuff)
        self._images += images
        self._pixels += pixels
        self._segments += segments

    def dagger(self, table: pd.DataFrame) -> pd.DataFrame:
        """`pq_dagger`, from the `pq_table` of the same images."""
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
        """`weighted_pq`, from the `pq_table` of the same images."""
        share = pd.Series(self._pixels if weights == "pixels" else self._segments)
        total = float(share.sum())
        return float((share * table["PQ"]).sum() / total) if total else None


def pq_dagger(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """PQ† of each category, one row each: category_id, name, isthing, PQ_dagger, images; stuff needs no IoU threshold.

    Stuff: the mean, over the images whose ground truth holds the category, of the IoU of all its true and all its
    predicted pixels; a prediction elsewhere costs nothing. With one segment a side, as COCO has stuff, this is
    Σ IoU / |S|. Things: PQ. `images` counts the terms of the mean (of things, the images that hold a TP, FP or FN).
    PQ_dagger is NaN where there are none; leave those out of means. [Porzi et al. 2019, sec. 4.2]
    """
    dagger = DaggerFold(categories)
    dagger.add(dagger.look(matched))
    return dagger.dagger(pq_table(matched, categories))


def weighted_pq(
    matched: Matched, categories: Sequence[Category], weights: Literal["pixels", "segments"] = "pixels"
) -> float | None:
    """PQ with each category weighted by its share of the ground truth, 0–1; None without ground-truth segments.

    Σ w_c PQ_c / Σ w_c, w_c = pixels (the JSON's areas) or number of the category's segments, crowds left out: what
    fwIoU is to mIoU. Frequent categories count for more, so it answers "how good on a typical pixel (or object)";
    categories that only false positives have count for nothing. There is no one published definition; this is ours.
    """
    if weights not in ("pixels", "segments"):
        raise BadArgument(f'weights must be "pixels" or "segments", not {weights!r}.')
    dagger = DaggerFold(categories)
    dagger.add(dagger.look(matched))
    return dagger.weighted(pq_table(matched, categories), weights)


def _objects(matched: Matched) -> Bool:
    """Which segments are ground truth and not crowds."""
    return matched.segments.is_gt & ~matched.segments.iscrowd


def _summed(sums: Sums, group: Int, n: int) -> Sums:
    """The sums of each of n groups, Σ IoU compensated for rounding, as pandas adds floats."""
    iou_sum = _compensated(sums.iou_sum, group, n)
    return Sums(iou_sum, *(sums_by_row(group, counts, n) for counts in (sums.TP, sums.FP, sums.FN)))


def _compensated(values: Float, group: Int, n: int) -> Float:
    """The sum of each of n small groups, to the bit of pandas' `groupby().sum()`. [Kahan 1965]"""
    if n == 1:
        # A group that is all there is pandas rounds in another way.
        return pd.Series(values).groupby(group).sum().to_numpy(np.float64)
    counts = np.bincount(group, minlength=n)
    ordered, starts = values[np.argsort(group, kind="stable")], np.cumsum(counts) - counts
    total, lost, left = np.zeros(n), np.zeros(n), np.flatnonzero(counts)
    # The first term of all groups, then the second: a group has few.
    for place in range(int(counts.max(initial=0))):
        left = left[counts[left] > place]
        term, before = ordered[starts[left] + place] - lost[left], total[left]
        after = before + term
        lost[left] = (after - before) - term
        total[left] = after
    return total


_Sliced = tuple[tuple[str, ...], tuple[Int, Int, Int], Sums]


def _unsliced(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    image_id, category_id, sums = image_sums(matched)
    return (), (image_id, np.zeros(len(image_id), np.int64), category_id), sums


def _names(by: str | None, categories: Sequence[Category]) -> tuple[str, ...]:
    """The names of slices in their order."""
    if by == "supercategory":
        return tuple(dict.fromkeys(category.supercategory or "(none)" for category in categories))
    return () if by is None else SLICINGS[by].names


def _by_supercategory(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    names = _names("supercategory", categories)
    slice_of = np.array([names.index(category.supercategory or "(none)") for category in categories], np.int64)
    image_id, category_id, sums = image_sums(matched)
    return names, (image_id, slice_of[positions(category_id, categories)], category_id), sums


def _by_segment_count(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["segments"]
    image_id, category_id, sums = image_sums(matched)
    objects = np.sort(matched.segments.image_id[_objects(matched)])
    count = np.searchsorted(objects, image_id, "right") - np.searchsorted(objects, image_id, "left")
    return slicing.names, (image_id, slicing.place(count), category_id), sums


def _by_size(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["size"]
    return slicing.names, *_sum_segments(matched, slicing.place(matched.segments.area))


def _by_share(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["share"]
    ids = matched.image_ids
    pixels = sums_by_row(matched.image_of_overlap, matched.overlaps.pixels, len(ids))
    of_image = pixels[np.searchsorted(ids, matched.segments.image_id)]
    return slicing.names, *_sum_segments(matched, slicing.place(matched.segments.area / of_image))


_SLICERS: Mapping[str | None, Callable[[Matched, Sequence[Category]], _Sliced]] = {
    None: _unsliced,
    "size": _by_size,
    "share": _by_share,
    "segments": _by_segment_count,
    "supercategory": _by_supercategory,
}


def _sum_segments(matched: Matched, slice_of: Int) -> tuple[tuple[Int, Int, Int], Sums]:
    """Per-image statistics with a slice for each segment: matches and misses go by the true segment, the rest by its
    own.

    Matches are counted from the pairs, as PQ does, not from segments: a JSON with wrong areas can match one twice.
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
    return (keys[0], keys[1], keys[2]), _summed(every, group, len(keys[0]))


def _stuff_ious(matched: Matched, categories: Sequence[Category]) -> tuple[Int, Float]:
    """The position of the category and the IoU, for each image and stuff category of its ground truth: all pixels of
    the category taken as one segment a side. The union is PQ's: the JSON's areas, predictions without their pixels on
    void."""
    segments = matched.segments
    category = positions(segments.category_id, categories)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    (_, label), cell = numbered([segments.image_id, category])
    n = len(label)
    true, predicted = _objects(matched), ~segments.is_gt
    area = sums_by_row(cell[true], segments.area[true], n)
    counted = sums_by_row(cell[predicted], (segments.area - matched.on_void)[predicted], n)
    shared = sums_by_row(cell[matched.gt], matched.overlaps.pixels[matched.pair], n)
    held = (np.bincount(cell[true], minlength=n) > 0) & ~isthing[label]
    union = area + counted - shared
    return label[held], shared[held] / union[held]
