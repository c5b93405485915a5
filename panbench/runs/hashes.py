"""What a run read and predicted: the SHA-256 of each image and id PNG, so that files that changed since are noticed.

Also what the files of photographs say of them.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.files import sha256_of

__all__ = ["NO_HASHES", "FileHashes", "digest_of", "photograph_code"]

# One image in a part's metadata: its id, the digests of the image and of its ground-truth PNG, what the photograph's
# file says, and the digest of the predicted id PNG; zeros for none.
_ROW = np.dtype(
    [("image_id", "<i8"), ("image", "u1", 32), ("truth", "u1", 32), ("photograph", "u1"), ("prediction", "u1", 32)]
)

_ORIENTATION, _EXTRANEOUS = 15, 16

Digest = bytes
"""32 bytes; empty when no file was read."""


@dataclass(frozen=True)
class FileHashes:
    """The digests of some images' files: `image` and `truth` are (N, 32) uint8, all zero where there was no file.

    photograph: (N,) uint8 that `photograph_code` made
    prediction: (N, 32) uint8, of the id PNG that was predicted: written by the run, or scored by it
    """

    image_id: npt.NDArray[np.int64]
    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    photograph: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def oriented(self) -> npt.NDArray[np.int64]:
        """The images whose EXIF orientation is not upright."""
        return self.image_id[(self.photograph & _ORIENTATION) > 1]

    @property
    def extraneous(self) -> npt.NDArray[np.int64]:
        """The images whose JPEG has bytes that belong to no part of it."""
        return self.image_id[(self.photograph & _EXTRANEOUS) > 0]

    @staticmethod
    def of(
        rows: Sequence[tuple[int, Digest, Digest]],
        photographs: Sequence[int] | None = None,
        predictions: Sequence[Digest] | None = None,
    ) -> "FileHashes":
        """Makes it from (image id, digest of the image, digest of the ground-truth PNG) and further digests of each.

        photographs: a `photograph_code` for each; predictions: the digest of its predicted id PNG
        """
        codes = [0] * len(rows) if photographs is None else photographs
        return FileHashes(
            np.array([row[0] for row in rows], np.int64),
            _digests([row[1] for row in rows]),
            _digests([row[2] for row in rows]),
            np.array(codes, np.uint8),
            _digests([b""] * len(rows) if predictions is None else predictions),
        )

    @staticmethod
    def joined(several: Iterable["FileHashes"]) -> "FileHashes":
        """All of them, by ascending image id; of an image that comes twice, the first."""
        given = [hashes for hashes in several if len(hashes)]
        if not given:
            return FileHashes.of([])
        ids = np.concatenate([hashes.image_id for hashes in given])
        _, first = np.unique(ids, return_index=True)

        def column(name: str) -> npt.NDArray[np.uint8]:
            joined: npt.NDArray[np.uint8] = np.concatenate([getattr(hashes, name) for hashes in given])[first]
            return joined

        return FileHashes(ids[first], *(column(name) for name in _COLUMNS))

    def only(self, images: npt.NDArray[np.int64]) -> "FileHashes":
        """Selects some images."""
        kept = np.isin(self.image_id, images)
        return FileHashes(self.image_id[kept], *(getattr(self, name)[kept] for name in _COLUMNS))

    def without_predictions(self) -> "FileHashes":
        """The same, of a run that has no predictions."""
        return replace(self, prediction=np.zeros_like(self.prediction))

    def predictions(self) -> dict[int, Digest]:
        """The digest of the predicted id PNG of each image that has one."""
        known = self.prediction.any(axis=1)
        return {
            image_id: digest.tobytes()
            for image_id, digest in zip(self.image_id[known].tolist(), self.prediction[known], strict=True)
        }

    def to_bytes(self) -> bytes:
        """ASCII for a part's metadata, which holds text only."""
        rows = np.zeros(len(self), _ROW)
        for name in _ROW.names or ():
            rows[name] = getattr(self, name)
        return base64.b64encode(rows.tobytes())

    @staticmethod
    def from_bytes(content: bytes) -> "FileHashes":
        """What `to_bytes` wrote. Raises ValueError."""
        try:
            rows = np.frombuffer(base64.b64decode(content, validate=True), _ROW)
        except ValueError as problem:
            raise ValueError(f"has hashes of files that cannot be read ({problem})") from None
        return FileHashes(rows["image_id"].astype(np.int64), *(rows[name] for name in _COLUMNS))

    def differing(self, other: "FileHashes") -> tuple[list[int], list[int]]:
        """The images whose image file differs, and those whose ground-truth PNG does, of those that both know."""
        _, mine, theirs = np.intersect1d(self.image_id, other.image_id, return_indices=True)
        ids = self.image_id[mine]
        found = []
        for left, right in ((self.image[mine], other.image[theirs]), (self.truth[mine], other.truth[theirs])):
            known = left.any(axis=1) & right.any(axis=1)
            found.append(ids[known & (left != right).any(axis=1)].tolist())
        return found[0], found[1]


_COLUMNS = ("image", "truth", "photograph", "prediction")


def _digests(digests: Sequence[Digest]) -> npt.NDArray[np.uint8]:
    """(N, 32), zeros where a digest is empty."""
    joined = b"".join(digest.ljust(32, b"\0") for digest in digests)
    return np.frombuffer(joined, np.uint8).reshape(len(digests), 32)


NO_HASHES = FileHashes.of([])
"""Of no images."""


def photograph_code(orientation: int, extraneous: bool) -> int:
    """A photograph's EXIF orientation (1 to 8) and whether its JPEG has extraneous bytes, in one byte."""
    return orientation | (_EXTRANEOUS if extraneous else 0)


def digest_of(path: Path | None) -> Digest:
    """The SHA-256 of a file's bytes; empty when there is no file to read."""
    try:
        return b"" if path is None else bytes.fromhex(sha256_of(path))
    except OSError:
        return b""
