"""Side tables: rows that a study keeps of each image of a run, beside the run's parts.

A side table is a folder of Parquet files in the run folder, which `Study.tables` names. Its files are like the parts:
each holds a block of images, appears whole or not at all, names its run, and is listed in run.json with its SHA-256. So
a run has the same parts with and without it, and merging, resuming and verifying need not know what the rows say.

Every row has an `image_id`, and an image that was looked at has at least one row. All other columns, and what else the
schema's metadata says, are the study's; files of one run agree in both.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from panbench.base.files import atomic_write
from panbench.panoptic.parts import FEW_PARTS, IMAGES_A_PART, NotAdmitted, opened_part, part_files
from panbench.runs.membership import Membership, without_run
from panbench.runs.record import PartRecord, RunInfo

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SideTable", "compact_side_table", "write_side_file"]

Int = npt.NDArray[np.int64]


class SideTable:
    """The files of one side table that belong to a run. Each is read once, when it is first asked for."""

    def __init__(self, run: Path, name: str, info: RunInfo) -> None:
        """The table `name` of the run in a folder, with its run.json."""
        self.folder = run / name
        self._members = Membership(self.folder, info, info.side_tables.get(name, ()))

    @cached_property
    def files(self) -> "tuple[tuple[Path, pa.Table], ...]":
        """Each file with its rows; images that an earlier file has are left out of later ones."""
        return self._found[0]

    @property
    def notices(self) -> tuple[str, ...]:
        """A sentence for each file that is missing, changed, torn or another run's: it was left out."""
        return (*self._found[1], *self._members.missing())

    @cached_property
    def images(self) -> Int:
        """The images that were looked at, ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(images_of(table) for _, table in self.files)]))

    @cached_property
    def table(self) -> "pa.Table | None":
        """All rows by ascending image id, those of an image as they were written; None where the run has none."""
        tables = [table for _, table in self.files if table.num_rows]
        return _in_order(_joined(tables)) if tables else None

    def records(self) -> tuple[PartRecord, ...]:
        """The files as run.json lists them."""
        return tuple(
            PartRecord(path.name, path.stat().st_size, self._members.sha256(path), len(images_of(table)))
            for path, table in self.files
        )

    @cached_property
    def _found(self) -> "tuple[tuple[tuple[Path, pa.Table], ...], tuple[str, ...]]":
        import pyarrow as pa

        held: list[tuple[Path, pa.Table]] = []
        notices: list[str] = []
        seen = np.zeros(0, np.int64)
        for path in part_files(self.folder):
            try:
                self._members.admit(path)
                table = _read(path)
                if held and not table.schema.equals(held[0][1].schema, check_metadata=True):
                    raise ValueError(f"its columns or settings are not those of {held[0][0].name}")
            except NotAdmitted as problem:
                notices.append(f"{path} {problem}.")
                continue
            except (pa.ArrowException, OSError, ValueError) as problem:
                reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
                notices.append(f"{path} is torn or foreign and was left out ({reason}).")
                continue
            # A run that was killed between a part and the file beside it looks at those images again.
            images = images_of(table)
            new = np.setdiff1d(images, seen)
            seen = np.union1d(seen, new)
            held.append((path, table if len(new) == len(images) else _only(table, new)))
        return tuple(held), tuple(notices)


def images_of(table: "pa.Table") -> Int:
    """The images of some rows, ascending."""
    found: Int = np.unique(table.column("image_id").to_numpy())
    return found


def write_side_file(path: Path, table: "pa.Table", metadata: Mapping[bytes, bytes]) -> None:
    """Writes the rows of a block of images. Raises FileExistsError when there is a file of that name.

    metadata: what the file says of its run, beside what the table's own schema says
    """
    import pyarrow.parquet

    with atomic_write(path, exclusive=True) as handle:
        whole = table.replace_schema_metadata({**metadata, **(table.schema.metadata or {})})
        pyarrow.parquet.write_table(whole, handle, compression="zstd")


def compact_side_table(rows: SideTable, metadata: Mapping[bytes, bytes]) -> None:
    """Joins many small files to few. Killed in between, some images are there twice, which reading leaves out."""
    old = part_files(rows.folder)
    if len(old) <= FEW_PARTS or rows.notices or len(old) * IMAGES_A_PART < 4 * len(rows.images):
        return
    number = 1 + max((int(path.stem.split("-")[1]) for path in old if path.name.startswith("0000-")), default=-1)
    waiting: list[pa.Table] = []

    def write() -> None:
        nonlocal number
        if waiting:
            write_side_file(rows.folder / f"0000-{number:06d}.parquet", _joined(waiting), metadata)
            number += 1
            waiting.clear()

    for _, table in rows.files:
        waiting.append(table)
        if sum(len(images_of(one)) for one in waiting) >= IMAGES_A_PART:
            write()
    write()
    for path in old:
        path.unlink()


def _read(path: Path) -> "pa.Table":
    """The rows of a file, without what it says of its run. Raises ValueError or OSError for what is no such file."""
    with opened_part(path) as file:
        table = file.read(use_threads=False)
    if table.schema.names.count("image_id") != 1:
        raise ValueError("it has no column image_id, or two")
    return table.replace_schema_metadata(without_run(table.schema.metadata or {}))


def _joined(tables: "list[pa.Table]") -> "pa.Table":
    import pyarrow as pa

    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _in_order(table: "pa.Table") -> "pa.Table":
    """The rows by image id: ties of scores then come out the same however a run was cut into files."""
    return table.take(np.argsort(table.column("image_id").to_numpy(), kind="stable"))


def _only(table: "pa.Table", images: Int) -> "pa.Table":
    import pyarrow as pa

    return table.filter(pa.array(np.isin(table.column("image_id").to_numpy(), images)))
