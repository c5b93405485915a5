"""Fingerprints of ground truth: one of the files that it was read from, one of its rows, whatever files they came from.

The rows' fingerprint is a sum, over images, of a SHA-256 each (modulo 2^256): it depends on no order of images, and
that of two disjoint sets of the same categories is the sum of theirs. It guards against mix-ups, not against somebody
who searches for a second set with the same sum.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from panbench.panoptic.types import AnnotationColumns, Category, PanopticSet

__all__ = ["fingerprint_of_columns", "fingerprint_of_files", "fingerprint_of_rows", "fingerprint_of_set", "joined_rows"]

_MODULUS = 1 << 256


def fingerprint_of_files(digests: Iterable[str]) -> str:
    """The fingerprint of files with these SHA-256, in any order: of one file its own."""
    found = sorted(set(digests))
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def joined_rows(fingerprints: Iterable[str]) -> str:
    """The rows' fingerprint of several disjoint sets of the same categories together."""
    return _text(sum(int(fingerprint, 16) for fingerprint in fingerprints))


def fingerprint_of_rows(
    categories: Sequence[Category],
    image_ids: Sequence[int],
    first: npt.NDArray[np.int64],
    columns: Sequence[npt.NDArray[np.generic]],
    unlabelled: Iterable[tuple[int, str]] = (),
) -> str:
    """64 hex digits of images with their segments in the order of their JSON (some rules depend on it).

    first: image i has the rows first[i] to first[i + 1] of `columns`: id, category_id, area, iscrowd; of predictions
        also the scores. Names and sizes of images are left out: the same ground truth may lie under other names.
    unlabelled: id and file name of images without annotation
    """
    described = sorted((category.id, category.name, category.isthing) for category in categories)
    base = hashlib.sha256(json.dumps(described).encode())
    packed = np.zeros((int(first[-1]) if len(first) else 0, len(columns)), "<i8")
    for number, column in enumerate(columns):
        # The bits of a score: NaN stands for "none" and has to be equal to itself.
        packed[:, number] = column.astype("<f8").view("<i8") if column.dtype.kind == "f" else column
    rows = memoryview(packed.tobytes())
    width = 8 * len(columns)
    total = 0
    starts = (first * width).tolist()
    for number, image_id in enumerate(image_ids):
        of_image = base.copy()
        of_image.update(b"segments %d " % image_id)
        of_image.update(rows[starts[number] : starts[number + 1]])
        total += int.from_bytes(of_image.digest(), "big")
    for image_id, name in unlabelled:
        of_image = base.copy()
        of_image.update(b"image %d " % image_id + name.encode("utf-8", "surrogatepass"))
        total += int.from_bytes(of_image.digest(), "big")
    return _text(total)


def fingerprint_of_columns(columns: AnnotationColumns, *, predictions: bool = False) -> str:
    """The rows' fingerprint of annotations read as columns."""
    segments: list[npt.NDArray[np.generic]] = [columns.id, columns.category_id, columns.area, columns.iscrowd]
    categories = () if predictions else columns.categories
    return fingerprint_of_rows(
        categories, columns.image_ids, columns.first, [*segments, columns.score] if predictions else segments
    )


def fingerprint_of_set(panoptic: PanopticSet) -> str:
    """The rows' fingerprint of a panoptic JSON: of its annotations, or of its images where it has no annotation."""
    annotations = panoptic.annotations
    segments = [segment for annotation in annotations.values() for segment in annotation.segments]
    first = np.cumsum([0, *(len(annotation.segments) for annotation in annotations.values())], dtype=np.int64)
    columns = [
        np.array([getattr(segment, name) for segment in segments], np.int64)
        for name in ("id", "category_id", "area", "iscrowd")
    ]
    images = () if annotations else [(image.id, image.file_name) for image in panoptic.images.values()]
    return fingerprint_of_rows(panoptic.categories, list(annotations), first, columns, images)


def _text(total: int) -> str:
    return f"{total % _MODULUS:064x}"
