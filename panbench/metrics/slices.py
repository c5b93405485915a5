"""PQ of parts of the data set, and its relatives: by size, super-category or crowding; PQ†, weighted PQ, PQ over IoU.

PQ of any part is a quotient of sums over segments. `image_statistics` takes those sums image by image; `pq_by` divides
them; metrics/uncertainty.py resamples them. So a slice has intervals and p-values wherever it has a PQ.

Where a segment belongs, when segments are sliced by size: a match and a miss by the area of the ground-truth segment, a
false positive by its own, as COCO's AP_small … AP_large do it. Each TP, FP and FN is in exactly one slice, so slices
add up to the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.matched import FN, FP, Matched, numbered, positions
from panbench.metrics.pq import Sums, pq_table, summarise, sums_of
from panbench.panoptic.overlap import sums_by_row
from panbench.panoptic.types import Category

__all__ = [
    "SLICINGS",
    "THRESHOLDS",
    "ImageStatistics",
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


@dataclass(frozen=True)
class Slicing:
    """A way to cut a data set: names of the slices in their order, and the edges between them, ascending.

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
    """What each image adds to each category, all that PQ of any set of images needs.

    image_ids: every scored image, ascending; images without segments are in it too
    image_id, slice (position in `slices`), category_id, sums: columns of equal length, without rows of zeros
    slices: names in order; () when the data set is not sliced (column `slice` is then 0)
    by: the key of SLICINGS, or None
    """

    image_ids: Int
    image_id: Int
    slice: Int
    category_id: Int
    sums: Sums
    categories: tuple[Category, ...]
    slices: tuple[str, ...] = ()
    by: str | None = None

    @staticmethod
    def from_frame(image_ids: Int, table: pd.DataFrame, categories: Sequence[Category]) -> "ImageStatistics":
        """Of a DataFrame as `table`; the column `slice` may be missing."""
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
    n = len(statistics.categories)
    category = positions(statistics.category_id, statistics.categories)
    isthing = [category.isthing for category in statistics.categories]
    rows = []
    for place, name in enumerate(statistics.slices or ("All",)):
        own = statistics.slice == place
        sums = _summed(statistics.sums.take(own), category[own], n)
        summary = summarise(pd.DataFrame({"isthing": isthing, **sums.scores(), **sums.columns()}))
        rows.append(
            {
                "slice": name,
                **summary["All"],
                "PQ_th": summary["Things"]["PQ"],
                "PQ_st": summary["Stuff"]["PQ"],
                **{count: int(getattr(sums, count).sum()) for count in ("TP", "FP", "FN")},
            }
        )
    frame = pd.DataFrame(rows)
    scores = ["PQ", "SQ", "RQ", "PQ_th", "PQ_st"]
    return frame.astype(dict.fromkeys(scores, float))


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
    rows = []
    for threshold in thresholds:
        summary = summarise(pq_table(matched, categories, threshold))
        rows += [{"threshold": threshold, "group": group, **scores} for group, scores in summary.items()]
    return pd.DataFrame(rows).astype({"PQ": float, "SQ": float, "RQ": float})


def pq_dagger(matched: Matched, categories: Sequence[Category]) -> pd.DataFrame:
    """PQ† of each category, one row each: category_id, name, isthing, PQ_dagger, images; stuff needs no IoU threshold.

    Stuff: the mean, over the images whose ground truth holds the category, of the IoU of all its true and all its
    predicted pixels; a prediction elsewhere costs nothing. With one segment a side, as COCO has stuff, this is
    Σ IoU / |S|. Things: PQ. `images` counts the terms of the mean (of things, the images that hold a TP, FP or FN).
    PQ_dagger is NaN where there are none; leave those out of means. [Porzi et al. 2019, sec. 4.2]
    """
    positions(matched.segments.category_id, categories)
    table = pq_table(matched, categories)
    isthing = table["isthing"].to_numpy(np.bool_)
    counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
    category, ious = _stuff_ious(matched, categories)
    of_stuff = np.bincount(category, minlength=len(categories))
    (_, with_any), _ = sums_of(matched, by_image=True)
    images_of_things = np.bincount(positions(with_any, categories), minlength=len(categories))
    mean = np.full(len(categories), np.nan)
    means = pd.Series(ious).groupby(category).mean()
    mean[means.index.to_numpy(np.int64)] = means.to_numpy()
    pq = np.where(counted, table["PQ"].to_numpy(np.float64), np.nan)
    return pd.DataFrame(
        {
            "category_id": table["category_id"],
            "name": table["name"],
            "isthing": isthing,
            "PQ_dagger": np.where(isthing, pq, mean),
            "images": np.where(isthing, images_of_things, of_stuff),
        }
    )


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
    table = pq_table(matched, categories)
    segments = matched.segments
    true = _objects(matched)
    category = positions(segments.category_id[true], categories)
    area = segments.area[true] if weights == "pixels" else np.ones(len(category), np.int64)
    share = pd.Series(sums_by_row(category, area, len(categories)))
    total = float(share.sum())
    return float((share * table["PQ"]).sum() / total) if total else None


def _objects(matched: Matched) -> Bool:
    """Which segments are of the ground truth and no crowd."""
    return matched.segments.is_gt & ~matched.segments.iscrowd


def _summed(sums: Sums, group: Int, n: int) -> Sums:
    """The sums of each of n groups, Σ IoU compensated for rounding, as pandas adds floats. [Kahan 1965]"""
    found = pd.Series(sums.iou_sum).groupby(group).sum()
    iou_sum = np.zeros(n)
    iou_sum[found.index.to_numpy(np.int64)] = found.to_numpy()
    return Sums(iou_sum, *(sums_by_row(group, counts, n) for counts in (sums.TP, sums.FP, sums.FN)))


_Sliced = tuple[tuple[str, ...], tuple[Int, Int, Int], Sums]


def _unsliced(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    (image_id, category_id), sums = sums_of(matched, by_image=True)
    return (), (image_id, np.zeros(len(image_id), np.int64), category_id), sums


def _by_supercategory(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    names = tuple(dict.fromkeys(category.supercategory or "(none)" for category in categories))
    slice_of = np.array([names.index(category.supercategory or "(none)") for category in categories], np.int64)
    (image_id, category_id), sums = sums_of(matched, by_image=True)
    return names, (image_id, slice_of[positions(category_id, categories)], category_id), sums


def _by_segment_count(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["segments"]
    (image_id, category_id), sums = sums_of(matched, by_image=True)
    objects = np.sort(matched.segments.image_id[_objects(matched)])
    count = np.searchsorted(objects, image_id, "right") - np.searchsorted(objects, image_id, "left")
    return slicing.names, (image_id, slicing.place(count), category_id), sums


def _by_size(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["size"]
    return slicing.names, *_sum_segments(matched, slicing.place(matched.segments.area))


def _by_share(matched: Matched, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["share"]
    ids, overlaps = matched.image_ids, matched.overlaps
    pixels = sums_by_row(np.searchsorted(ids, overlaps.image_id), overlaps.pixels, len(ids))
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
