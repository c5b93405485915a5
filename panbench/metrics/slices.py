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

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.metrics.pq import match_segments, per_image_statistics, pq_table, segment_verdicts, summarise
from panbench.panoptic.overlap import find_rows, sums_by_row
from panbench.panoptic.types import VOID, Category

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

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55 … 0.95. Below 0.5 a segment could match twice, and PQ would depend on which match is taken."""

_COUNTS = ["iou_sum", "TP", "FP", "FN"]


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
    table: image_id, slice (position in `slices`), category_id, iou_sum, TP, FP, FN, without rows of zeros
    slices: names in order; () when the data set is not sliced (column `slice` is then 0)
    by: the key of SLICINGS, or None
    """

    image_ids: Int
    table: pd.DataFrame
    categories: tuple[Category, ...]
    slices: tuple[str, ...] = ()
    by: str | None = None


def image_statistics(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    categories: Sequence[Category],
    by: str | None = None,
) -> ImageStatistics:
    """The sums that PQ is made of, for each image and category and, with `by`, slice.

    segments: one row a segment (image_id, side, id, category_id, area, iscrowd)
    overlaps: one row a pair of ids that share pixels (image_id, gt_id, pred_id, pixels)
    by: a key of SLICINGS: "size", "share", "segments" or "supercategory"
    Raises BadArgument for another `by`, BadDataset when a segment's category_id is not in `categories`.
    """
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    _check_categories(segments, categories)
    slices, table = _SLICERS[by](segments, overlaps, categories)
    image_ids = np.unique(overlaps["image_id"].to_numpy(np.int64))
    whole = dict.fromkeys(["image_id", "slice", "category_id", "TP", "FP", "FN"], np.int64)
    table = table[["image_id", "slice", "category_id", *_COUNTS]].astype(whole).reset_index(drop=True)
    return ImageStatistics(image_ids, table, tuple(categories), slices, by)


def pq_by(statistics: ImageStatistics) -> pd.DataFrame:
    """PQ of each slice, one row each: slice, PQ, SQ, RQ, n, PQ_th, PQ_st, TP, FP, FN; n categories have a TP, FP or FN.

    Means run over the categories that the slice holds; NaN where it holds none. Unsliced statistics have one row,
    "All".
    """
    rows = []
    for position, name in enumerate(statistics.slices or ("All",)):
        of_slice = statistics.table[statistics.table["slice"] == position]
        sums = of_slice.groupby("category_id")[_COUNTS].sum()
        table = _quotients(sums.reindex([category.id for category in statistics.categories], fill_value=0))
        table["isthing"] = [category.isthing for category in statistics.categories]
        summary = summarise(table)
        rows.append(
            {
                "slice": name,
                **summary["All"],
                "PQ_th": summary["Things"]["PQ"],
                "PQ_st": summary["Stuff"]["PQ"],
                **{count: int(table[count].sum()) for count in ("TP", "FP", "FN")},
            }
        )
    frame = pd.DataFrame(rows)
    scores = ["PQ", "SQ", "RQ", "PQ_th", "PQ_st"]
    return frame.astype(dict.fromkeys(scores, float))


def threshold_curve(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    categories: Sequence[Category],
    thresholds: Sequence[float] = THRESHOLDS,
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
        summary = summarise(pq_table(segments, overlaps, categories, iou_threshold=threshold))
        rows += [{"threshold": threshold, "group": group, **scores} for group, scores in summary.items()]
    return pd.DataFrame(rows).astype({"PQ": float, "SQ": float, "RQ": float})


def pq_dagger(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> pd.DataFrame:
    """PQ† of each category, one row each: category_id, name, isthing, PQ_dagger, images; stuff needs no IoU threshold.

    Stuff: the mean, over the images whose ground truth holds the category, of the IoU of all its true and all its
    predicted pixels; a prediction elsewhere costs nothing. With one segment a side, as COCO has stuff, this is
    Σ IoU / |S|. Things: PQ. `images` counts the terms of the mean (of things, the images that hold a TP, FP or FN).
    PQ_dagger is NaN where there are none; leave those out of means. [Porzi et al. 2019, sec. 4.2]
    """
    _check_categories(segments, categories)
    table = pq_table(segments, overlaps, categories)
    ids, isthing = table["category_id"], table["isthing"].to_numpy(np.bool_)
    counted = (table["TP"] + table["FP"] + table["FN"]).to_numpy() > 0
    stuff = _stuff_ious(segments, overlaps, categories).groupby("category_id")["iou"]
    images_of_things = ids.map(per_image_statistics(segments, overlaps).groupby("category_id").size())
    images = np.where(isthing, images_of_things.to_numpy(np.float64), ids.map(stuff.size()).to_numpy(np.float64))
    pq = np.where(counted, table["PQ"].to_numpy(np.float64), np.nan)
    return pd.DataFrame(
        {
            "category_id": ids,
            "name": table["name"],
            "isthing": isthing,
            "PQ_dagger": np.where(isthing, pq, ids.map(stuff.mean()).to_numpy(np.float64)),
            "images": np.nan_to_num(images).astype(np.int64),
        }
    )


def weighted_pq(
    segments: pd.DataFrame,
    overlaps: pd.DataFrame,
    categories: Sequence[Category],
    weights: Literal["pixels", "segments"] = "pixels",
) -> float | None:
    """PQ with each category weighted by its share of the ground truth, 0–1; None without ground-truth segments.

    Σ w_c PQ_c / Σ w_c, w_c = pixels (the JSON's areas) or number of the category's segments, crowds left out: what
    fwIoU is to mIoU. Frequent categories count for more, so it answers "how good on a typical pixel (or object)";
    categories that only false positives have count for nothing. There is no one published definition; this is ours.
    """
    if weights not in ("pixels", "segments"):
        raise BadArgument(f'weights must be "pixels" or "segments", not {weights!r}.')
    table = pq_table(segments, overlaps, categories)
    true = segments[(segments["side"] == "gt") & ~segments["iscrowd"].astype(bool)]
    of_category = true.groupby("category_id")["area"]
    share = table["category_id"].map(of_category.sum() if weights == "pixels" else of_category.size()).fillna(0)
    total = float(share.sum())
    return float((share * table["PQ"]).sum() / total) if total else None


def _quotients(sums: pd.DataFrame) -> pd.DataFrame:
    """PQ, SQ and RQ beside the sums; zeros where there is nothing to divide, as panopticapi lists such categories."""
    iou_sum, hits = sums["iou_sum"].to_numpy(np.float64), sums["TP"].to_numpy(np.float64)
    units = hits + (sums["FP"].to_numpy() + sums["FN"].to_numpy()) / 2

    def ratio(part: Float, whole: Float) -> Float:
        return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)

    return sums.assign(PQ=ratio(iou_sum, units), SQ=ratio(iou_sum, hits), RQ=ratio(hits, units))


def _check_categories(segments: pd.DataFrame, categories: Sequence[Category]) -> None:
    unknown = set(segments["category_id"].unique().tolist()) - {category.id for category in categories}
    if unknown:
        raise BadDataset(
            f"Segments name category ids that the dataset does not list: {listed(sorted(unknown))}. "
            "Add them to `categories`."
        )


_Sliced = tuple[tuple[str, ...], pd.DataFrame]


def _unsliced(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> _Sliced:
    return (), per_image_statistics(segments, overlaps).assign(slice=0)


def _by_supercategory(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> _Sliced:
    names = tuple(dict.fromkeys(category.supercategory or "(none)" for category in categories))
    slice_of = {category.id: names.index(category.supercategory or "(none)") for category in categories}
    table = per_image_statistics(segments, overlaps)
    return names, table.assign(slice=table["category_id"].map(slice_of).astype(np.int64))


def _by_segment_count(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["segments"]
    objects = segments[(segments["side"] == "gt") & ~segments["iscrowd"].astype(bool)]
    table = per_image_statistics(segments, overlaps)
    count = table["image_id"].map(objects.groupby("image_id").size()).fillna(0).to_numpy(np.int64)
    return slicing.names, table.assign(slice=slicing.place(count))


def _by_size(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["size"]
    return slicing.names, _sum_segments(segments, overlaps, slicing.place(segments["area"].to_numpy(np.int64)))


def _by_share(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> _Sliced:
    slicing = SLICINGS["share"]
    image_pixels = segments["image_id"].map(overlaps.groupby("image_id")["pixels"].sum())
    share = segments["area"].to_numpy(np.float64) / image_pixels.to_numpy(np.float64)
    return slicing.names, _sum_segments(segments, overlaps, slicing.place(share))


_SLICERS: Mapping[str | None, Callable[[pd.DataFrame, pd.DataFrame, Sequence[Category]], _Sliced]] = {
    None: _unsliced,
    "size": _by_size,
    "share": _by_share,
    "segments": _by_segment_count,
    "supercategory": _by_supercategory,
}


def _sum_segments(segments: pd.DataFrame, overlaps: pd.DataFrame, slice_of: Int) -> pd.DataFrame:
    """Per-image statistics with a slice for each segment: matches and misses go by the true segment, the rest by its
    own.

    Matches are counted from the pairs, as PQ does, not from segments: a JSON with wrong areas can match one twice.
    """
    keys = ["image_id", "slice", "category_id"]
    judged = segment_verdicts(segments, overlaps).assign(slice=slice_of)
    unmatched = judged.loc[judged["verdict"].isin(["FP", "FN"]), [*keys, "verdict"]]
    pairs = match_segments(segments, overlaps)
    pairs = pairs[pairs["iou"] > 0.5]
    true = judged[judged["side"] == "gt"]
    row = find_rows(
        pairs["image_id"].to_numpy(np.int64),
        pairs["gt_id"].to_numpy(np.int32),
        true["image_id"].to_numpy(np.int64),
        true["id"].to_numpy(np.int32),
    )
    found = pairs.assign(slice=true["slice"].to_numpy()[row], iou_sum=pairs["iou"], TP=1, FP=0, FN=0)
    lost = unmatched.assign(
        iou_sum=0.0,
        TP=0,
        FP=(unmatched["verdict"] == "FP").astype(np.int64),
        FN=(unmatched["verdict"] == "FN").astype(np.int64),
    )
    every = pd.concat([found[[*keys, *_COUNTS]], lost[[*keys, *_COUNTS]]])
    return every.groupby(keys, as_index=False)[_COUNTS].sum()


def _stuff_ious(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> pd.DataFrame:
    """image_id, category_id, iou: for each image and stuff category of its ground truth, all pixels of the category
    taken as one segment a side. The union is PQ's: the JSON's areas, predictions without their pixels on void."""
    stuff = [category.id for category in categories if not category.isthing]
    of_stuff = segments[segments["category_id"].isin(stuff)]
    true = of_stuff[(of_stuff["side"] == "gt") & ~of_stuff["iscrowd"].astype(bool)].reset_index(drop=True)
    predicted = of_stuff[of_stuff["side"] == "pred"].reset_index(drop=True)

    images = overlaps["image_id"].to_numpy(np.int64)
    pixels = overlaps["pixels"].to_numpy(np.int64)
    gt_id, pred_id = (overlaps[name].to_numpy(np.int32) for name in ("gt_id", "pred_id"))
    true_row, pred_row = (
        find_rows(images, ids, frame["image_id"].to_numpy(np.int64), frame["id"].to_numpy(np.int32))
        for ids, frame in ((gt_id, true), (pred_id, predicted))
    )
    on_void = sums_by_row(np.where(gt_id == VOID, pred_row, -1), pixels, len(predicted))
    true_category = np.append(true["category_id"].to_numpy(np.int64), -1)[true_row]
    pred_category = np.append(predicted["category_id"].to_numpy(np.int64), -2)[pred_row]
    shared = sums_by_row(np.where(true_category == pred_category, true_row, -1), pixels, len(true))

    keys = ["image_id", "category_id"]
    sums = true.assign(shared=shared).groupby(keys, as_index=False)[["area", "shared"]].sum()
    counted = predicted.assign(counted=predicted["area"] - on_void).groupby(keys, as_index=False)["counted"].sum()
    sums = sums.merge(counted, how="left", on=keys).fillna({"counted": 0})
    return sums.assign(iou=sums["shared"] / (sums["area"] + sums["counted"] - sums["shared"]))[[*keys, "iou"]]
