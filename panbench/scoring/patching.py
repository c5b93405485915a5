"""Replaces the scoring of panopticapi and of mmdet's metric by panbench's, for programs with their own loop.

    panbench.patch_panopticapi()             # from here on, or
    with panbench.patch_panopticapi(): ...   # in the block alone

`panopticapi.evaluation.pq_compute` and mmdet's `CocoPanopticMetric` then return the same dictionaries with the same
numbers. What panbench does not read, as files of a remote backend, is left to the original.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.errors import BadArgument, PredictionMismatch
from panbench.base.program import available_cores, in_order
from panbench.base.text import listed
from panbench.metrics.matched import Matched
from panbench.metrics.pq import CategorySums
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import OverlapTable, Pairs, concat, count_pairs, segment_columns, tabulate
from panbench.panoptic.types import GROUPS, VOID, Category, Segment
from panbench.scoring.folder import score_folder

_PANOPTICAPI, _METRIC = "panopticapi.evaluation", "mmdet.evaluation.metrics.coco_panoptic_metric"

_AnnotationPair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The annotations of an image as a COCO panoptic JSON has them: of the ground truth, and of the prediction."""


class Patched:
    """Functions of other packages that panbench replaced; `undo()` or the end of a `with` block restores them."""

    def __init__(self) -> None:
        """Starts without any replaced function."""
        self._originals: dict[tuple[Any, str], Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The functions that are replaced now, as `module.name`."""
        return tuple(f"{module.__name__}.{name}" for module, name in self._originals)

    def replace(self, module: Any, name: str, ours: Callable[..., Any]) -> None:
        """Replaces a function of a module by `ours`, unless it is replaced already."""
        original = getattr(module, name)
        if not hasattr(original, "panbench_original"):
            self._originals[module, name] = original
            ours.panbench_original = original  # type: ignore[attr-defined]
            setattr(module, name, ours)

    def undo(self) -> None:
        """Restores the original functions."""
        while self._originals:
            (module, name), original = self._originals.popitem()
            setattr(module, name, original)

    def __enter__(self) -> "Patched":
        """Returns this object; at the end of the `with` block, the replaced functions are restored."""
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def patch_panopticapi() -> Patched:
    """Replaces panopticapi's `pq_compute` and the counting in mmdet's `CocoPanopticMetric` by panbench's scoring.

    It holds until `undo()` of what is returned, or until the end of the `with` block. Nothing is printed; input that
    panopticapi would refuse raises a PanbenchError with a sentence that names the images.
    Raises BadArgument where panopticapi is not installed.
    """
    if importlib.util.find_spec("panopticapi") is None:
        raise BadArgument("panopticapi is not installed, so there is nothing to patch. `panbench score` needs none.")
    patched = Patched()
    evaluation = importlib.import_module(_PANOPTICAPI)
    patched.replace(evaluation, "pq_compute", _pq_compute)
    # An mmdet that cannot be imported, as beside mmcv-lite, has no loop whose metric could be replaced.
    with contextlib.suppress(ImportError):
        metric, stat = importlib.import_module(_METRIC), evaluation.PQStat
        patched.replace(metric, "pq_compute_single_core", _single_core(metric.pq_compute_single_core, stat))
        patched.replace(metric, "pq_compute_multi_core", _multi_core(metric.pq_compute_multi_core, stat))
    return patched


def _pq_compute(
    gt_json_file: str, pred_json_file: str, gt_folder: str | None = None, pred_folder: str | None = None
) -> dict[str, Any]:
    """Replaces panopticapi's `pq_compute`; returns its dict: pq, sq, rq and n by group, and of each class.

    A group without a category that occurs has zeros and n = 0, where panopticapi divides by zero.
    """
    # panopticapi ignores predictions of images that the ground truth lacks.
    run = score_folder(gt_json_file, pred_json_file, gt_folder, pred_folder, ignore_extra=True)
    table = run.pq()
    results: dict[str, Any] = {}
    for group in GROUPS:
        summary = run.summary()[group]
        results[group] = {key.lower(): summary[key] or 0.0 for key in ("PQ", "SQ", "RQ")} | {"n": summary["n"]}
        if group == "All":
            rows = zip(*(table[name].tolist() for name in ("category_id", "PQ", "SQ", "RQ")), strict=True)
            results["per_class"] = {
                category: {"pq": pq or 0.0, "sq": sq or 0.0, "rq": rq or 0.0} for category, pq, sq, rq in rows
            }
    return results


def _single_core(original: Callable[..., Any], stat: Callable[[], Any]) -> Callable[..., Any]:
    """Returns panbench's replacement for mmdet's `pq_compute_single_core`, which counts the TP, FP and FN of images."""

    @wraps(original)
    def pq_stat(
        proc_id: int,
        annotation_set: Sequence[_AnnotationPair],
        gt_folder: str,
        pred_folder: str,
        categories: Mapping[int, Mapping[str, Any]],
        backend_args: Mapping[str, Any] | None = None,
        print_log: bool = False,
    ) -> Any:
        """Computes the PQStat of some images by panbench, as mmdet's `pq_compute_single_core` does."""
        if not _is_local_backend(backend_args):
            return original(proc_id, annotation_set, gt_folder, pred_folder, categories, backend_args, print_log)
        folders = Path(gt_folder), Path(pred_folder)
        return _fill_stat(
            stat(),
            (_image_overlap_table(index, pair, *folders) for index, pair in enumerate(annotation_set)),
            categories,
        )

    return pq_stat


def _multi_core(original: Callable[..., Any], stat: Callable[[], Any]) -> Callable[..., Any]:
    """Makes a replacement for mmdet's `pq_compute_multi_core` that starts threads instead of processes."""

    @wraps(original)
    def pq_stat(
        matched_annotations_list: Sequence[_AnnotationPair],
        gt_folder: str,
        pred_folder: str,
        categories: Mapping[int, Mapping[str, Any]],
        backend_args: Mapping[str, Any] | None = None,
        nproc: int = 32,
    ) -> Any:
        """Computes the PQStat of all images by panbench in threads, as mmdet's `pq_compute_multi_core` does."""
        if not _is_local_backend(backend_args):
            return original(matched_annotations_list, gt_folder, pred_folder, categories, backend_args, nproc)
        folders = Path(gt_folder), Path(pred_folder)
        calls = [
            partial(_image_overlap_table, index, pair, *folders) for index, pair in enumerate(matched_annotations_list)
        ]
        return _fill_stat(stat(), in_order(calls, min(nproc, available_cores())), categories)

    return pq_stat


def _is_local_backend(backend_args: Mapping[str, Any] | None) -> bool:
    """True if mmdet's `backend_args` say that PNGs are read from local disk."""
    return backend_args is None or dict(backend_args) == {"backend": "local"}


def _image_overlap_table(index: int, pair: _AnnotationPair, gt_folder: Path, pred_folder: Path) -> OverlapTable:
    """Counts the overlap table of an image. Raises PredictionMismatch if a prediction's PNG and JSON disagree."""
    truth, predicted = pair
    image_id = truth["image_id"]
    gt_ids = read_id_png(gt_folder / truth["file_name"], image_id=image_id)
    pred_ids = read_id_png(pred_folder / predicted["file_name"], gt_ids.shape, image_id=image_id)  # type: ignore[arg-type]
    gt_id, pred_id, pixels = count_pairs(gt_ids, pred_ids)
    listed_ids, found = {int(each["id"]) for each in predicted["segments_info"]}, set(pred_id.tolist()) - {VOID}
    if odd := sorted(listed_ids ^ found):
        raise PredictionMismatch(
            f"Image {image_id}: the PNG and the JSON of the prediction have different segments ({listed(odd, 5)})."
        )
    return tabulate(
        Pairs(np.full(len(gt_id), index, np.int64), gt_id, pred_id, pixels),
        segment_columns(
            [(index, [_segment_of_record(each, is_gt=True) for each in truth["segments_info"]])], is_gt=True
        ),
        segment_columns(
            [(index, [_segment_of_record(each, is_gt=False) for each in predicted["segments_info"]])], is_gt=False
        ),
    )


def _segment_of_record(record: Mapping[str, Any], is_gt: bool) -> Segment:
    """Converts a dict of COCO's `segments_info` to a Segment; a predicted one has area 0 and is no crowd."""
    area = int(record["area"]) if is_gt else 0
    return Segment(int(record["id"]), int(record["category_id"]), area, is_gt and int(record.get("iscrowd", 0)) == 1)


def _fill_stat(stat: Any, tables: Iterable[OverlapTable], categories: Mapping[int, Mapping[str, Any]]) -> Any:
    """Sums IoU, TP, FP and FN of some images into panopticapi's PQStat `stat`, and returns it."""
    known = [
        Category(int(category_id), str(each.get("name", category_id)), each["isthing"] == 1)
        for category_id, each in categories.items()
    ]
    ((hits, iou, wrong, missed),) = CategorySums(known).map_chunk(Matched.of(concat(list(tables))))
    found, sums = np.bincount(hits, minlength=len(known)), np.bincount(hits, iou, len(known))
    for category, *own in zip(known, sums.tolist(), found.tolist(), wrong.tolist(), missed.tolist(), strict=True):
        of_category = stat[category.id]
        of_category.iou, of_category.tp, of_category.fp, of_category.fn = own
    return stat
