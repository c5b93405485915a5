"""What a run read: the SHA-256 of each image and id PNG, so that files that changed since are noticed, and what the
files of photographs say of them.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["NO_HASHES", "FileHashes", "digest_of", "photograph_code"]

# One image in a part's metadata: its id, the digest of the image, the digest of its ground-truth PNG; zeros for none.
_BYTES = np.dtype([("image_id", "<i8"), ("image", "u1", 32), ("truth", "u1", 32)])
# With what its photograph's file says, where there is something to say; base64 has no colon.
_LONGER = np.dtype([*_BYTES.descr, ("photograph", "u1")])
_MARK = b"2:"

_ORIENTATION, _EXTRANEOUS = 15, 16

Digest = bytes
"""32 bytes; empty when no file was read."""


@dataclass(frozen=True)
class FileHashes:
    """The digests of some images' files: `image` and `truth` are (N, 32) uint8, all zero where there was no file.

    photograph: (N,) uint8 that `photograph_code` made
    """

    image_id: npt.NDArray[np.int64]
    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    photograph: npt.NDArray[np.uint8]

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
    def of(rows: Sequence[tuple[int, Digest, Digest]], photographs: Sequence[int] | None = None) -> "FileHashes":
        """From (image id, digest of the image, digest of the ground-truth PNG), and a `photograph_code` for each."""

        def digests(place: int) -> npt.NDArray[np.uint8]:
            joined = b"".join(row[place].ljust(32, b"\0") for row in rows)  # type: ignore[union-attr]
            return np.frombuffer(joined, np.uint8).reshape(len(rows), 32)

        codes = [0] * len(rows) if photographs is None else photographs
        return FileHashes(
            np.array([row[0] for row in rows], np.int64), digests(1), digests(2), np.array(codes, np.uint8)
        )

    @staticmethod
    def joined(several: Iterable["FileHashes"]) -> "FileHashes":
        """All of them, by ascending image id; of an image that comes twice, the first."""
        given = [hashes for hashes in several if len(hashes)]
        if not given:
            return FileHashes.of([])
        ids = np.concatenate([hashes.image_id for hashes in given])
        _, first = np.unique(ids, return_index=True)
        return FileHashes(
            ids[first],
            np.concatenate([hashes.image for hashes in given])[first],
            np.concatenate([hashes.truth for hashes in given])[first],
            np.concatenate([hashes.photograph for hashes in given])[first],
        )

    def only(self, images: npt.NDArray[np.int64]) -> "FileHashes":
        """Those of some images."""
        kept = np.isin(self.image_id, images)
        return FileHashes(self.image_id[kept], self.image[kept], self.truth[kept], self.photograph[kept])

    def to_bytes(self) -> bytes:
        """ASCII for a part's metadata, which holds text only."""
        longer = bool((self.photograph > 1).any())
        rows = np.zeros(len(self), _LONGER if longer else _BYTES)
        rows["image_id"], rows["image"], rows["truth"] = self.image_id, self.image, self.truth
        if longer:
            rows["photograph"] = self.photograph
        return (_MARK if longer else b"") + base64.b64encode(rows.tobytes())

    @staticmethod
    def from_bytes(content: bytes) -> "FileHashes":
        """What `to_bytes` wrote. Raises ValueError."""
        try:
            longer = content.startswith(_MARK)
            encoded = content[len(_MARK) :] if longer else content
            rows = np.frombuffer(base64.b64decode(encoded, validate=True), _LONGER if longer else _BYTES)
        except ValueError as problem:
            raise ValueError(f"has hashes of files that cannot be read ({problem})") from None
        photograph = rows["photograph"] if longer else np.zeros(len(rows), np.uint8)
        return FileHashes(rows["image_id"].astype(np.int64), rows["image"], rows["truth"], photograph)

    def differing(self, other: "FileHashes") -> tuple[list[int], list[int]]:
        """The images whose image file differs, and those whose ground-truth PNG does, of those that both know."""
        _, mine, theirs = np.intersect1d(self.image_id, other.image_id, return_indices=True)
        ids = self.image_id[mine]
        found = []
        for left, right in ((self.image[mine], other.image[theirs]), (self.truth[mine], other.truth[theirs])):
            known = left.any(axis=1) & right.any(axis=1)
            found.append(ids[known & (left != right).any(axis=1)].tolist())
        return found[0], found[1]


NO_HASHES = FileHashes.of([])
"""Of no images."""


def photograph_code(orientation: int, extraneous: bool) -> int:
    """A photograph's EXIF orientation (1 to 8) and whether its JPEG has extraneous bytes, in one byte."""
    return orientation | (_EXTRANEOUS if extraneous else 0)


def digest_of(path: Path | None) -> Digest:
    """The SHA-256 of a file's bytes; empty when there is no file to read."""
    if path is None:
        return b""
    try:
        with open(path, "rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError:
        return b""
    return digest.digest()
