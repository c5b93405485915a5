"""Which files in parts/ belong to a run: those that run.json lists, unchanged, and those that name the run."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from panbench.panoptic.parts import NotAdmitted, images_of, metadata_of, part_files
from panbench.runs.hashes import FileHashes
from panbench.runs.record import PartRecord, RunInfo

__all__ = ["Membership", "part_metadata", "run_of", "without_run"]

# Keys of a part's own metadata.
_RUN, _SETTINGS, _FILES = b"panbench.run", b"panbench.settings", b"panbench.files"


def part_metadata(info: RunInfo, files: FileHashes) -> dict[bytes, bytes]:
    """What a part says of itself: its run, the run's settings, and the files that were read for it."""
    assert info.id is not None
    return {_RUN: info.id.encode(), _SETTINGS: _settings_hash(info), _FILES: files.to_bytes()}


def without_run(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What a part's metadata says beside `part_metadata`."""
    return {key: value for key, value in metadata.items() if key not in (_RUN, _SETTINGS, _FILES)}


def run_of(metadata: Mapping[bytes, bytes]) -> str | None:
    """The id of the run that a part says it is of; None for a file that says nothing."""
    found = metadata.get(_RUN)
    return None if found is None else found.decode(errors="replace")


class Membership:
    """Admits the parts of one run. It remembers the hash and the number of images of each that it has looked at."""

    def __init__(self, folder: Path, info: RunInfo, listed: Sequence[PartRecord]) -> None:
        """Reads the `parts/` of a run or of a side table. listed: the files that run.json lists for the folder."""
        self.folder = folder
        self._info = info
        self._listed = {record.name: record for record in listed}
        self._sha256: dict[str, str] = {}
        self._images: dict[str, int] = {}

    def admit(self, part: Path, found: Mapping[bytes, bytes] | None = None) -> None:
        """Raises NotAdmitted, with the end of a sentence, for a part that is not this run's or was changed.

        found: the part's metadata, if they were read already
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
        """A sentence for each part that run.json lists and that is not there; parts of a running run come and go."""
        if self._info.status == "running":
            return ()
        gone = set(self._listed) - {part.name for part in part_files(self.folder)}
        return tuple(map(self._gone, sorted(gone)))

    def other_sizes(self) -> Iterator[str]:
        """A sentence for each part that run.json lists and that is missing or of another size: no part is read."""
        for name, record in self._listed.items():
            try:
                if (self.folder / name).stat().st_size != record.size:
                    yield f"{self.folder / name}, which held {record.images:,} images, has another size than it had."
            except OSError:
                yield self._gone(name)

    def _gone(self, name: str) -> str:
        return f"{self.folder / name}, which held {self._listed[name].images:,} images, is missing."

    def records(self) -> tuple[PartRecord, ...]:
        """The admitted parts as run.json lists them."""
        return tuple(
            PartRecord(part.name, part.stat().st_size, self.sha256(part), self._images[part.name])
            for part in self.admitted
        )

    def files(self) -> FileHashes:
        """The hashes of the files that were read for the admitted parts."""
        return FileHashes.joined(FileHashes.from_bytes(metadata_of(part).get(_FILES, b"")) for part in self.admitted)

    @cached_property
    def admitted(self) -> tuple[Path, ...]:
        """The parts of the run that can be read."""
        return tuple(part for part in part_files(self.folder) if self._is_admitted(part))

    def _is_admitted(self, part: Path) -> bool:
        try:
            self._images[part.name] = len(images_of(part))
            found = metadata_of(part)
            FileHashes.from_bytes(found.get(_FILES, b""))
            self.admit(part, found)
        except (NotAdmitted, ValueError, OSError):  # Arrow's errors are ValueErrors
            return False
        return True

    def sha256(self, part: Path) -> str:
        """The SHA-256 of a part, read once."""
        if part.name not in self._sha256:
            self._sha256[part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
        return self._sha256[part.name]


def _settings_hash(info: RunInfo) -> bytes:
    """A hash of the settings that a resumed run must share."""
    return hashlib.sha256(json.dumps(dict(info.arguments), sort_keys=True).encode()).hexdigest().encode()
