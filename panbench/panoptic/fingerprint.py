"""Computes fingerprints of ground truth: of its files, and of its rows (images and segments), whatever the files.

The fingerprint of rows is the sum of a SHA-256 per image modulo 2^256. So the order of images does not matter, and the
fingerprint of two disjoint sets with the same categories is the sum of theirs. It guards against mix-ups, not against
an attacker who searches for another set with the same sum.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from panbench.panoptic.types import AnnotationColumns, Category, PanopticSet

_MODULUS = 1 << 256


def fingerprint_of_files(digests: Iterable[str]) -> str:
    """Combines the SHA-256 of several files, in any order; a single one is returned unchanged."""
    found = sorted(set(digests))
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def joined_fingerprint(fingerprints: Iterable[str]) -> str:
    """Combines hashes of datasets with different images to the hash of all those images together."""
    return _hex_digits(sum(int(fingerprint, 16) for fingerprint in fingerprints))


def fingerprint_of_rows(
    categories: Sequence[Category],
    image_ids: Sequence[int],
    first: npt.NDArray[np.int64],
    columns: Sequence[npt.NDArray[np.generic]],
    unlabelled: Iterable[tuple[int, str]] = (),
) -> str:
    """Returns the fingerprint of images and their segments, 64 hex digits.

    first: image i has the rows first[i] to first[i + 1] of `columns`, in the order of the JSON
    columns: id, category_id, area, iscrowd, and for predictions score; names and sizes of images do not count, as the
        same ground truth may have other file names
    unlabelled: id and file name of images without annotation
    """
    described = sorted((category.id, category.name, category.isthing) for category in categories)
    base = hashlib.sha256(json.dumps(described).encode())
    packed = np.zeros((int(first[-1]) if len(first) else 0, len(columns)), "<i8")
    for number, column in enumerate(columns):
        # Scores are hashed as bits, as NaN (no score) must be equal to itself.
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
    return _hex_digits(total)


def fingerprint_of_columns(columns: AnnotationColumns, *, predictions: bool = False) -> str:
    """Returns a hash of a panoptic JSON's images and segments, as 64 hex digits.

    predictions: their scores count, their categories do not
    """
    segments: list[npt.NDArray[np.generic]] = [columns.id, columns.category_id, columns.area, columns.iscrowd]
    categories = () if predictions else columns.categories
    return fingerprint_of_rows(
        categories, columns.image_ids, columns.first, [*segments, columns.score] if predictions else segments
    )


def fingerprint_of_set(panoptic: PanopticSet) -> str:
    """Returns a hash of a panoptic dataset's images and segments, as 64 hex digits.

    Of its annotations; of the ids and file names of its images if it has none.
    """
    annotations = panoptic.annotations
    segments = [segment for annotation in annotations.values() for segment in annotation.segments]
    first = np.cumsum([0, *(len(annotation.segments) for annotation in annotations.values())], dtype=np.int64)
    columns = [
        np.array([getattr(segment, name) for segment in segments], np.int64)
        for name in ("id", "category_id", "area", "iscrowd")
    ]
    images = () if annotations else [(image.id, image.file_name) for image in panoptic.images.values()]
    return fingerprint_of_rows(panoptic.categories, list(annotations), first, columns, images)


def _hex_digits(total: int) -> str:
    """Formats a fingerprint, modulo 2^256, as 64 hex digits."""
    return f"{total % _MODULUS:064x}"
