"""Decides which files in parts/ belong to a run: unchanged files that run.json lists, and files with the run's id."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from panbench.panoptic.parts import NotAdmitted, images_of, metadata_of, part_files
from panbench.runs.hashes import FileHashes
from panbench.runs.record import PartRecord, RunInfo

# Keys in the Parquet metadata of a part.
_RUN, _SETTINGS, _FILES = b"panbench.run", b"panbench.settings", b"panbench.files"


def part_metadata(info: RunInfo, files: FileHashes) -> dict[bytes, bytes]:
    """Makes a Parquet file's metadata: the run's id, a hash of its settings, the hashes of the files it read."""
    assert info.id is not None
    return {_RUN: info.id.encode(), _SETTINGS: _settings_hash(info), _FILES: files.to_bytes()}


def without_run_metadata(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Removes the run's id, settings and hashes from a Parquet file's metadata; the study's own entries remain."""
    return {key: value for key, value in metadata.items() if key not in (_RUN, _SETTINGS, _FILES)}


def run_id_of(metadata: Mapping[bytes, bytes]) -> str | None:
    """Reads the run's id from a Parquet file's metadata; None for a file without one."""
    found = metadata.get(_RUN)
    return None if found is None else found.decode(errors="replace")


class Membership:
    """Checks which Parquet files in a folder belong to a run; caches the hash and number of images of each."""

    def __init__(self, folder: Path, info: RunInfo, listed: Sequence[PartRecord]) -> None:
        """Checks the Parquet files in one folder of a run; `listed` are those that run.json lists for it."""
        self.folder = folder
        self._info = info
        self._listed = {record.name: record for record in listed}
        self._sha256: dict[str, str] = {}
        self._images: dict[str, int] = {}

    def admit(self, part: Path, found: Mapping[bytes, bytes] | None = None) -> None:
        """Checks that a Parquet file belongs to the run and is unchanged. Raises NotAdmitted.

        The error's message completes a sentence that begins with the file's name.
        found: the file's metadata, if they were read already
        """
        info, listed = self._info, self._listed.get(part.name)
        if listed is not None:
            if self.sha256(part) != listed.sha256:
                raise NotAdmitted("is not what the run wrote (its SHA-256 differs from run.json's) and was left out")
        else:
            found = metadata_of(part) if found is None else found
            if found.get(_RUN) != (info.id or "").encode():
                raise NotAdmitted("was written by another run and was left out")
            if found.get(_SETTINGS) != _settings_hash(info):
                raise NotAdmitted("was made with other settings and was left out")

    def missing(self) -> tuple[str, ...]:
        """Returns a message for each file that run.json lists and that does not exist; () while the run is written."""
        if self._info.status == "running":
            return ()
        missing = set(self._listed) - {part.name for part in part_files(self.folder)}
        return tuple(map(self._missing_file_message, sorted(missing)))

    def other_sizes(self) -> Iterator[str]:
        """Yields a message for each file that run.json lists and that is missing or has another size; reads none."""
        for name, record in self._listed.items():
            try:
                if (self.folder / name).stat().st_size != record.size:
                    yield f"{self.folder / name}, which held {record.images:,} images, has another size than it had."
            except OSError:
                yield self._missing_file_message(name)

    def _missing_file_message(self, name: str) -> str:
        """Returns the message that a Parquet file of the run is missing."""
        return f"{self.folder / name}, which held {self._listed[name].images:,} images, is missing."

    def records(self) -> tuple[PartRecord, ...]:
        """Describes the Parquet files that belong to the run, for run.json."""
        return tuple(
            PartRecord(part.name, part.stat().st_size, self.sha256(part), self._images[part.name])
            for part in self.admitted
        )

    def files(self) -> FileHashes:
        """Joins the hashes of photographs and id PNGs from the metadata of all Parquet files that belong to the run."""
        return FileHashes.joined(FileHashes.from_bytes(metadata_of(part).get(_FILES, b"")) for part in self.admitted)

    @cached_property
    def admitted(self) -> tuple[Path, ...]:
        """The Parquet files in the folder that can be read and belong to the run."""
        return tuple(part for part in part_files(self.folder) if self._belongs_to_run(part))

    def _belongs_to_run(self, part: Path) -> bool:
        """True if a Parquet file can be read, belongs to the run and is unchanged."""
        try:
            self._images[part.name] = len(images_of(part))
            found = metadata_of(part)
            FileHashes.from_bytes(found.get(_FILES, b""))
            self.admit(part, found)
        except (NotAdmitted, ValueError, OSError):  # Arrow's errors are ValueErrors
            return False
        return True

    def sha256(self, part: Path) -> str:
        """Returns the SHA-256 of a Parquet file; computed once."""
        if part.name not in self._sha256:
            self._sha256[part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
        return self._sha256[part.name]


def _settings_hash(info: RunInfo) -> bytes:
    """Returns the SHA-256 of `arguments`, the settings that a resumed run must share."""
    return hashlib.sha256(json.dumps(dict(info.arguments), sort_keys=True).encode()).hexdigest().encode()
