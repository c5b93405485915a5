"""Reads and writes study tables: Parquet rows that a study stores for each image of a run, next to parts/.

A study table is a folder of Parquet files in the run folder, declared in `Study.tables`. Its files are like the parts:
each holds a chunk of images, appears complete or not at all, has the run's id, and is listed in run.json with its
SHA-256. Merging, resuming and verifying therefore work without knowing the meaning of the rows.

Every row has an `image_id`, and a processed image has at least one row. All other columns, and the rest of the schema's
metadata, belong to the study; files of one run agree in both.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from panbench.base.files import atomic_write
from panbench.panoptic.parts import NotAdmitted, opened_part, part_files
from panbench.runs.membership import Membership, without_run_metadata
from panbench.runs.record import PartRecord, RunInfo

if TYPE_CHECKING:
    import pyarrow as pa

Int = npt.NDArray[np.int64]


class StudyTable:
    """The rows that a study stored for each image of a run; each file is read once, when first needed."""

    def __init__(self, run: Path, name: str, info: RunInfo) -> None:
        """Opens the table that a study stored in the subfolder `name` of a run folder; `info` is its run.json."""
        self.folder = run / name
        self._members = Membership(self.folder, info, info.study_tables.get(name, ()))

    @cached_property
    def files(self) -> "tuple[tuple[Path, pa.Table], ...]":
        """Path and rows of each Parquet file of this table; an image that an earlier file has is left out."""
        return self._files_and_notices[0]

    @property
    def notices(self) -> tuple[str, ...]:
        """A message for each file that was left out: missing, changed, damaged or of another run."""
        return (*self._files_and_notices[1], *self._members.missing())

    @cached_property
    def images(self) -> Int:
        """The ids of the images for which rows were stored, ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(images_of(table) for _, table in self.files)]))

    @cached_property
    def table(self) -> "pa.Table | None":
        """All rows by ascending image id, within an image as written; None if the run has none."""
        import pyarrow as pa

        tables = [table for _, table in self.files if table.num_rows]
        if not tables:
            return None
        joined = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        # Sorted by id, so that ties between scores do not depend on how a run was split into files.
        return joined.take(np.argsort(joined.column("image_id").to_numpy(), kind="stable"))

    def records(self) -> tuple[PartRecord, ...]:
        """Describes the table's Parquet files for run.json: name, size, SHA-256 and number of images."""
        return tuple(
            PartRecord(path.name, path.stat().st_size, self._members.sha256(path), len(images_of(table)))
            for path, table in self.files
        )

    @cached_property
    def _files_and_notices(self) -> "tuple[tuple[tuple[Path, pa.Table], ...], tuple[str, ...]]":
        """The files that belong to the run, each with its rows, and a message for each other file."""
        import pyarrow as pa

        found: list[tuple[Path, pa.Table]] = []
        notices: list[str] = []
        seen = np.zeros(0, np.int64)
        for path in part_files(self.folder):
            try:
                self._members.admit(path)
                table = _read_study_rows(path)
                if found and not table.schema.equals(found[0][1].schema, check_metadata=True):
                    raise ValueError(f"its columns or settings are not those of {found[0][0].name}")
            except NotAdmitted as problem:
                notices.append(f"{path} {problem}.")
                continue
            except (pa.ArrowException, OSError, ValueError) as problem:
                reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
                notices.append(f"{path} is torn or foreign and was left out ({reason}).")
                continue
            # A run that was killed between writing a part and its side file processes those images again.
            images = images_of(table)
            new = np.setdiff1d(images, seen)
            seen = np.union1d(seen, new)
            found.append((path, table if len(new) == len(images) else _study_rows_of_images(table, new)))
        return tuple(found), tuple(notices)


def images_of(table: "pa.Table") -> Int:
    """Returns the distinct image ids of a table, ascending."""
    found: Int = np.unique(table.column("image_id").to_numpy())
    return found


def write_study_file(path: Path, table: "pa.Table", metadata: Mapping[bytes, bytes]) -> None:
    """Writes a study's rows for some images as a new Parquet file. Raises FileExistsError if it exists.

    metadata: from `part_metadata`, in addition to the table's own schema metadata
    """
    import pyarrow.parquet

    with atomic_write(path, exclusive=True) as handle:
        complete = table.replace_schema_metadata({**metadata, **(table.schema.metadata or {})})
        pyarrow.parquet.write_table(complete, handle, compression="zstd")


def _read_study_rows(path: Path) -> "pa.Table":
    """Reads a Parquet file with a study's rows, without the run's metadata. Raises ValueError, OSError."""
    with opened_part(path) as file:
        table = file.read(use_threads=False)
    if table.schema.names.count("image_id") != 1:
        raise ValueError("it has no column image_id, or two")
    return table.replace_schema_metadata(without_run_metadata(table.schema.metadata or {}))


def _study_rows_of_images(table: "pa.Table", images: Int) -> "pa.Table":
    """Selects the rows of some images from a table with a column image_id."""
    import pyarrow as pa

    return table.filter(pa.array(np.isin(table.column("image_id").to_numpy(), images)))
