"""Records the SHA-256 of files that a run read or wrote, so that later changes are noticed.

`FileHashes` covers the files that were read: each image and id PNG. It is stored in the parts, with EXIF facts of the
photographs and the best score that a model dropped in an image without any prediction. Files that the run wrote next to
its parts (candidates, predictions.json, the oracle) have a line each in `hashes/0000.sha256`, in the format of
`sha256sum`. The line is written before the file, so every existing file is recorded even if the process was killed; of
two lines for one file the later counts.
"""

import base64
import errno
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadRun, OutOfSpace
from panbench.base.files import atomic_write, link_or_copy, make_folders, sha256_of, sync_folder
from panbench.runs.layout import MANIFEST

# One image in a part's metadata: its id, the digests of the image and of its ground-truth PNG, its photograph code, the
# digest of the predicted id PNG, and the best score of what was dropped; zeros for none.
_ROW = np.dtype(
    [
        *(("image_id", "<i8"), ("image", "u1", 32), ("truth", "u1", 32)),
        *(("photograph", "u1"), ("prediction", "u1", 32), ("dropped", "<f4")),
    ]
)

_ORIENTATION, _EXTRANEOUS = 15, 16

Digest = bytes
"""32 bytes; empty when no file was read."""


@dataclass(frozen=True)
class FileHashes:
    """SHA-256 hashes of each image's photograph, ground-truth PNG and predicted PNG.

    rows: a structured array with the columns `image_id`; `image`, `truth` and `prediction`, the digests of photograph,
        ground-truth PNG and predicted id PNG (zeros without a file); `photograph`, a `photograph_code`; `dropped`, the
        best score of an image whose candidates were all dropped, else 0
    """

    rows: npt.NDArray[Any]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.rows)

    @property
    def oriented(self) -> npt.NDArray[np.int64]:
        """The ids of images whose EXIF orientation is not upright."""
        return self._selected_image_ids((self.rows["photograph"] & _ORIENTATION) > 1)

    @property
    def extraneous(self) -> npt.NDArray[np.int64]:
        """The ids of images whose JPEG has bytes that belong to no part of the format."""
        return self._selected_image_ids((self.rows["photograph"] & _EXTRANEOUS) > 0)

    def _selected_image_ids(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Returns the ids of the images that a boolean array selects."""
        found: npt.NDArray[np.int64] = self.rows["image_id"][chosen]
        return found

    @staticmethod
    def of(
        rows: Sequence[tuple[int, Digest, Digest]],
        photographs: Sequence[int] | None = None,
        predictions: Sequence[Digest] | None = None,
        dropped: Sequence[float] | None = None,
    ) -> "FileHashes":
        """Builds the hashes of some images from (image id, digest of the photograph, digest of the id PNG) of each.

        photographs, predictions, dropped: the other columns, one value per image
        """
        found = np.zeros(len(rows), _ROW)
        found["image_id"] = [image_id for image_id, _, _ in rows]
        found["image"] = _digests([image for _, image, _ in rows])
        found["truth"] = _digests([truth for _, _, truth in rows])
        if photographs is not None:
            found["photograph"] = photographs
        if predictions is not None:
            found["prediction"] = _digests(predictions)
        if dropped is not None:
            found["dropped"] = dropped
        return FileHashes(found)

    @staticmethod
    def joined(several: Iterable["FileHashes"]) -> "FileHashes":
        """Merges the hashes of several sets of images, by image id; of a repeated image, the first row counts."""
        rows = np.concatenate([np.zeros(0, _ROW), *(hashes.rows for hashes in several)])
        _, first = np.unique(rows["image_id"], return_index=True)
        return FileHashes(rows[first])

    def only(self, images: npt.NDArray[np.int64]) -> "FileHashes":
        """Selects the hashes of some images, by id."""
        return FileHashes(self.rows[np.isin(self.rows["image_id"], images)])

    def without_predictions(self) -> "FileHashes":
        """Copies the hashes with zeros for those of predictions."""
        rows = self.rows.copy()
        rows["prediction"] = 0
        return FileHashes(rows)

    def predictions(self) -> dict[int, Digest]:
        """Returns the digest of the predicted id PNG of each image that has one."""
        known = self.rows[self.rows["prediction"].any(axis=1)]
        digests = [digest.tobytes() for digest in known["prediction"]]
        return dict(zip(known["image_id"].tolist(), digests, strict=True))

    def to_bytes(self) -> bytes:
        """Encodes the hashes as base64, because the metadata of Parquet files holds only text."""
        return base64.b64encode(self.rows.tobytes())

    @staticmethod
    def from_bytes(content: bytes) -> "FileHashes":
        """Decodes hashes that `to_bytes` encoded. Raises ValueError."""
        try:
            return FileHashes(np.frombuffer(base64.b64decode(content, validate=True), _ROW))
        except ValueError as problem:
            raise ValueError(f"has hashes of files that cannot be read ({problem})") from None

    def differing(self, other: "FileHashes") -> tuple[list[int], list[int]]:
        """Compares images that both have; returns the ids of differing photographs, and of differing id PNGs."""
        ids, mine, theirs = np.intersect1d(self.rows["image_id"], other.rows["image_id"], return_indices=True)
        found = []
        for kind in ("image", "truth"):
            left, right = self.rows[kind][mine], other.rows[kind][theirs]
            known = left.any(axis=1) & right.any(axis=1)
            found.append(ids[known & (left != right).any(axis=1)].tolist())
        return found[0], found[1]


def _digests(digests: Sequence[Digest]) -> npt.NDArray[np.uint8]:
    """Stacks digests to an (N, 32) array; an empty digest becomes zeros."""
    joined = b"".join(digest.ljust(32, b"\0") for digest in digests)
    return np.frombuffer(joined, np.uint8).reshape(len(digests), 32)


NO_HASHES = FileHashes.of([])
"""The hashes of no images."""


def photograph_code(orientation: int, extraneous: bool) -> int:
    """Packs a photograph's EXIF orientation (1 to 8) and whether its JPEG has extraneous bytes into one byte."""
    return orientation | (_EXTRANEOUS if extraneous else 0)


def digest_of(path: Path | None) -> Digest:
    """Returns the SHA-256 of a file's bytes; empty if there is no file to read."""
    try:
        return b"" if path is None else bytes.fromhex(sha256_of(path))
    except OSError:
        return b""


_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_recorded(run: Path, name: str, content: bytes) -> Path:
    """Records a file's hash in the run's manifest, then writes it atomically; returns its path.

    name: the path relative to the run folder
    """
    _append_manifest_line(run / MANIFEST, f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    path = run / name
    with atomic_write(path) as handle:
        handle.write(content)
    return path


def copy_recorded(run: Path, name: str, source: Path, digest: str) -> None:
    """Records a hash in the run's manifest, then copies (or hard-links) the file `source` of another run to `name`."""
    _append_manifest_line(run / MANIFEST, f"{digest}  {name}\n")
    link_or_copy(source, run / name)
    sync_folder((run / name).parent)


def recorded(run: Path) -> dict[str, str]:
    """Reads the run's manifest: SHA-256 by file name; incomplete lines are skipped. Raises BadRun."""
    found: dict[str, str] = {}
    manifest = run / MANIFEST
    try:
        text = manifest.read_text("utf-8", errors="replace") if manifest.is_file() else ""
    except OSError as problem:
        raise BadRun(f"{manifest} cannot be read: {problem.strerror or problem}.") from None
    # Anything after the last line end is an incomplete line.
    for line in text.split("\n")[:-1]:
        if match := _LINE.fullmatch(line):
            found[match[2]] = match[1]
    return found


def check_recorded(run: Path, name: str, hashes: Mapping[str, str] | None = None) -> bool:
    """Verifies a file of a run against its recorded hash; returns False if no hash was recorded.

    hashes: the result of `recorded`, if many files are checked
    Raises BadRun for a file that differs or cannot be read.
    """
    expected = (recorded(run) if hashes is None else hashes).get(name)
    if expected is None:
        return False
    path = run / name
    try:
        found = sha256_of(path)
    except OSError as problem:
        raise BadRun(f"{path} cannot be read: {problem.strerror or problem}.") from None
    if found != expected:
        raise BadRun(f"{path} is not what the run wrote (its SHA-256 differs). Restore it, or make the run again.")
    return True


def forget_absent_files(run: Path) -> None:
    """Drops the manifest's lines of files that a killed process never wrote. Lock the run first."""
    lines = recorded(run)
    existing = {name: digest for name, digest in lines.items() if (run / name).is_file()}
    if existing != lines:
        with atomic_write(run / MANIFEST, "w") as handle:
            handle.writelines(f"{digest}  {name}\n" for name, digest in existing.items())


def _append_manifest_line(manifest: Path, line: str) -> None:
    """Appends a line durably; a line that a killed process left incomplete is ended first."""
    make_folders(manifest.parent)
    is_new = not manifest.exists()
    try:
        with open(manifest, "ab+") as handle:
            if handle.tell():
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    line = f"\n{line}"
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            sync_folder(manifest.parent)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"No space left while writing {manifest}. Free some space.") from problem
        raise
