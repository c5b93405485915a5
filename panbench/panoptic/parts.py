"""Reads and writes a run's part files: Parquet files of overlap tables, read at once or in chunks by image id.

They have images in any order, as they were processed, but sums must not depend on it to the last bit. A small run is
read at once and sorted. Of a large run only the image ids are read first: they show which parts can be read one after
the other, and which have to be sorted together, on disk if they do not fit into memory.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadRun
from panbench.base.files import atomic_write
from panbench.base.program import in_order
from panbench.panoptic.image_ids import remember_text_ids, text_ids_as_metadata
from panbench.panoptic.overlap import BOUNDARY, OverlapTable, check_arrow_columns, concat, take

if TYPE_CHECKING:
    import pyarrow as pa

Int = npt.NDArray[np.int64]

PART = re.compile(r"\d+-\d+\.parquet")
TEMPORARY = re.compile(r"\..+\.tmp")

ROWS_AT_ONCE = 3_000_000
"""A run with more rows (some 50,000 images) is read chunk by chunk."""

ROWS_A_CHUNK = 600_000
"""Rows per chunk, some 10,000 images: enough to amortise NumPy's calls, and a few dozen MB while they are matched."""

MOST_ROWS = 20_000_000
"""A file with more rows is refused: 10,000 images have some 600,000, and a forged file of 4 kB can take gigabytes."""

FEW_PARTS = 16
"""Runs with at most this many parts are not compacted."""

IMAGES_A_PART = 10_000
"""Images per part after compaction."""

MOST_FILES = 200
"""Files that may be open at once while parts are sorted on disk."""

Out = TypeVar("Out")


def part_files(folder: Path) -> list[Path]:
    """Lists the Parquet part files in a folder of a run, by name; [] if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(part for part in folder.iterdir() if PART.fullmatch(part.name))


def next_number(folder: Path, shard: int = 0) -> int:
    """Returns the number of a shard's next part file; part files are named SHARD-NUMBER.parquet."""
    mine = (part for part in part_files(folder) if part.name.startswith(f"{shard:04d}-"))
    return 1 + max((int(part.stem.split("-")[1]) for part in mine), default=-1)


class NotAdmitted(Exception):
    """Raised for a part file that does not belong to the run; its text completes the sentence "PART …"."""


Admit = Callable[[Path], None]
"""Raises NotAdmitted for a part that does not belong to the run."""


def admit_every_part(part: Path) -> None:
    """Accepts every Parquet file in a run's folder of part files as one of this run."""


def read_parts(folder: Path, admit: Admit = admit_every_part) -> tuple[OverlapTable, tuple[str, ...]]:
    """Reads a run's part files: returns their overlap table, sorted by image id, and notices on what was left out."""
    notices, found = _foreign_file_notices(folder), []
    for path in part_files(folder):
        table = _read_or_explain(path, read_part, admit)
        if isinstance(table, str):
            notices.append(table)
        else:
            found.append((path, table))
    again = _repeated_images([table.image_ids for _, table in found])
    notices += _repetition_notices([path for path, _ in found], again)
    tables = [_drop_images(table, images) for (_, table), images in zip(found, again, strict=True)]
    # Parts without any remaining image do not count.
    tables = [table for table in tables if len(table.overlaps)]
    if len({table.boundary is None for table in tables}) > 1:
        notices.append(f"{folder} has boundary overlaps of some images only, which were left out.")
        tables = [replace(table, boundary=None) for table in tables]
    return concat(tables).in_order_of_images(), tuple(notices)


@dataclass(frozen=True)
class _PartFile:
    """The path of a run's part file (Parquet), its number of rows and its image ids.

    images: the ids, ascending; again: those that earlier part files have too
    boundary: True if it has rows of boundary overlaps
    """

    path: Path
    rows: int
    images: Int
    again: Int
    boundary: bool


class LargeParts:
    """Reads the overlap table of a run that is too large for memory: first all image ids, then chunks of its images.

    notices: a message for each part file that was left out or cut
    """

    def __init__(self, folder: Path, admit: Admit = admit_every_part) -> None:
        """Reads only the image ids in the Parquet files of a run's folder.

        Files that `admit` refuses are left out.
        """
        notices, found = _foreign_file_notices(folder), []
        paths = part_files(folder)
        inspections = [partial(_read_or_explain, path, _inspect_part, admit) for path in paths]
        for path, one in zip(paths, in_order(inspections), strict=True):
            if isinstance(one, str):
                notices.append(one)
            else:
                found.append((path, *one))
        again = _repeated_images([images for _, _, images, _ in found])
        notices += _repetition_notices([path for path, *_ in found], again)
        self._parts = [_PartFile(*one[:3], images, one[3]) for one, images in zip(found, again, strict=True)]
        # Parts without any remaining image do not count.
        with_boundary = [part.boundary for part in self._parts if len(part.images) > len(part.again)]
        self.boundary = bool(with_boundary) and all(with_boundary)
        if any(with_boundary) and not self.boundary:
            notices.append(f"{folder} has boundary overlaps of some images only, which were left out.")
        self.notices = tuple(notices)
        self.image_ids = np.unique(np.concatenate([part.images for part in self._parts]))

    @contextmanager
    def chunks(self, rows: int = ROWS_A_CHUNK) -> Iterator[list[Callable[[], OverlapTable]]]:
        """Returns, as a context manager, functions that each read a chunk of images of the overlap table, by image id.

        A chunk has about `rows` rows.
        The functions may be called in any order and in threads; they raise BadRun for a part that became unreadable.
        """
        with ExitStack() as stack:
            read: list[Callable[[], OverlapTable]] = []
            waiting: list[_PartFile] = []
            for cluster in _overlapping_parts(self._parts):
                size = sum(part.rows for part in cluster)
                too_large = size > 4 * rows and len(cluster) > 1
                if waiting and (too_large or size + sum(part.rows for part in waiting) > rows):
                    read.append(partial(self._read_chunk, tuple(waiting)))
                    waiting = []
                if too_large:
                    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="panbench-"))
                    read += self._sorted_on_disk(cluster, Path(scratch), rows)
                else:
                    waiting += cluster
            if waiting:
                read.append(partial(self._read_chunk, tuple(waiting)))
            yield read

    def of_images(self, images: Int) -> OverlapTable:
        """Reads the overlap table of the images with the given ids (ascending). Raises BadRun."""
        tables = []
        for part in self._parts:
            if len(held := np.intersect1d(part.images, images, assume_unique=True)):
                tables.append(_rows_of_images(self._read_chunk((part,)), held))
        return concat(tables).in_order_of_images()

    def _read_chunk(self, parts: Sequence[_PartFile]) -> OverlapTable:
        """Reads the overlap table in some part files, each image once, sorted by image id. Raises BadRun."""
        tables = []
        for part in parts:
            table = _read_or_explain(part.path, read_part)
            if isinstance(table, str):
                raise BadRun(
                    f"{table.split(' and was left out')[0]}; its images are listed, but not readable. Remove it."
                )
            table = _drop_images(table, part.again)
            tables.append(table if self.boundary else replace(table, boundary=None))
        return concat(tables).in_order_of_images()

    def _sorted_on_disk(
        self, cluster: Sequence[_PartFile], scratch: Path, rows: int
    ) -> list[Callable[[], OverlapTable]]:
        """Sorts part files with interleaved images into one file per range of image ids; returns their readers."""
        import pyarrow as pa

        images = np.unique(np.concatenate([part.images for part in cluster]))
        n_ranges = min(-(-sum(part.rows for part in cluster) // rows), MOST_FILES)
        edges = images[:: -(-len(images) // n_ranges)][1:]
        files = [scratch / f"{number}.arrow" for number in range(len(edges) + 1)]
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        try:
            for table in in_order([partial(self._read_chunk, (part,)) for part in cluster]):
                arrow = table.to_arrow()
                index = np.searchsorted(edges, arrow.column("image_id").to_numpy(), side="right")
                for number in np.unique(index).tolist():
                    if number not in writers:
                        writers[number] = pa.ipc.new_stream(str(files[number]), arrow.schema)
                    writers[number].write_table(arrow.filter(pa.array(index == number)))
        finally:
            for writer in writers.values():
                writer.close()
        return [partial(_read_sorted_file, files[number]) for number in sorted(writers)]


def rows_of(folder: Path) -> int:
    """Counts the rows of all Parquet part files in a folder of a run, from the files' footers."""
    counts = [_read_or_explain(path, _count_part_rows) for path in part_files(folder)]
    return sum(count for count in counts if not isinstance(count, str))


def compact(
    folder: Path,
    images_a_part: int = IMAGES_A_PART,
    admit: Admit = admit_every_part,
    metadata: Callable[[Int], Mapping[bytes, bytes]] = lambda images: {},
) -> bool:
    """Joins a run's many small part files (Parquet) to few large ones, by ascending image id; True if any were joined.

    admit: raises NotAdmitted for foreign part files; metadata: makes the metadata of one with these images
    New files are complete before the old ones are removed. If the process is killed in between, some images exist
    twice, and readers drop the copies with a notice.
    """
    old = part_files(folder)
    if len(old) <= FEW_PARTS:
        return False
    parts = LargeParts(folder, admit)
    if parts.notices or len(old) * images_a_part < 4 * len(parts.image_ids):
        return False
    number = next_number(folder)

    def write_next_part(tables: list[OverlapTable]) -> None:
        """Joins some overlap tables and writes them as the run's next part file."""
        nonlocal number
        joined = concat(tables)
        write_part(folder / f"0000-{number:06d}.parquet", joined, metadata(joined.image_ids))
        number += 1

    with parts.chunks() as chunks:
        waiting: list[OverlapTable] = []
        for table in in_order(chunks):
            waiting.append(table)
            if sum(len(each.image_ids) for each in waiting) >= images_a_part:
                write_next_part(waiting)
                waiting = []
        if waiting:
            write_next_part(waiting)
    for path in old:
        path.unlink()
    return True


def write_part(path: Path, table: OverlapTable, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Writes an overlap table as a run's part file (Parquet), atomically. Raises FileExistsError if it exists.

    metadata: what `metadata_of` reads
    """
    import pyarrow.parquet

    with atomic_write(path, exclusive=True) as handle:
        arrow = table.to_arrow().replace_schema_metadata({**(metadata or {}), **text_ids_as_metadata(table.image_ids)})
        pyarrow.parquet.write_table(arrow, handle, compression="zstd")


def readable(path: Path) -> Any:
    """Returns what PyArrow can open: the path as text or, if its name is not UTF-8, the content of the file."""
    import pyarrow as pa

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())
    return str(path)


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """Reads the metadata of a part file. Raises ValueError or OSError if it is not Parquet."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return dict(file.schema_arrow.metadata or {})


def images_of(path: Path) -> Int:
    """Reads the image ids in a run's part file (Parquet), ascending. Raises ValueError or OSError for another file."""
    return _inspect_part(path)[1]


def _read_or_explain(path: Path, read: Callable[[Path], Out], admit: Admit = admit_every_part) -> Out | str:
    """Calls `read` on a run's part file; returns its result, or a message that says why the file is left out."""
    import pyarrow as pa

    try:
        found = read(path)
        admit(path)
        return found
    except NotAdmitted as problem:
        return f"{path} {problem}."
    except (pa.ArrowException, OSError) as problem:
        return f"{path} is torn and was left out ({str(problem).splitlines()[0]})."
    except ValueError as problem:
        return f"{path} is foreign and was left out: it {problem}."


@contextmanager
def opened_part(path: Path) -> Iterator[Any]:
    """Context with a run's part file open as Parquet. Raises ValueError for one of more than MOST_ROWS rows."""
    import pyarrow.parquet

    # Not read_table: it would take a folder named `a=b` on the way for a column.
    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        if (rows := file.metadata.num_rows) > MOST_ROWS:
            raise ValueError(f"declares {rows:,} rows, more than the limit of {MOST_ROWS:,} a file")
        yield file


def read_part(path: Path) -> OverlapTable:
    """Reads the overlap table in a run's part file (Parquet). Raises ValueError or OSError for another file."""
    with opened_part(path) as file:
        remember_text_ids(file.schema_arrow.metadata)
        return OverlapTable.from_arrow(file.read(use_threads=False))


def _read_sorted_file(path: Path) -> OverlapTable:
    """Reads an overlap table from a temporary Arrow file, and sorts it by image id."""
    import pyarrow as pa

    with pa.ipc.open_stream(readable(path)) as file:
        return OverlapTable.from_arrow(file.read_all()).in_order_of_images()


def _count_part_rows(path: Path) -> int:
    """Returns the number of rows of a run's part file, from the Parquet footer."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return int(file.metadata.num_rows)


def _inspect_part(path: Path) -> tuple[int, Int, bool]:
    """Returns a part file's number of rows, its image ids, and whether it has boundary overlaps; reads two columns."""
    with opened_part(path) as file:
        check_arrow_columns(file.schema_arrow)
        remember_text_ids(file.schema_arrow.metadata)
        ids = file.read(columns=["image_id"], use_threads=False).column("image_id").to_numpy()
        has_boundary = _has_boundary(file)
    # The rows of an image are consecutive, so dropping repeats first leaves few ids for np.unique to sort.
    new = np.ones(len(ids), np.bool_)
    new[1:] = ids[1:] != ids[:-1]
    return len(ids), np.unique(ids[new]), has_boundary


def _has_boundary(file: Any) -> bool:
    """True if a run's part file (Parquet) has rows of boundary overlaps, which boundary PQ needs.

    It is read from the minimum of `kind` in the file's footer, as `boundary` is the first kind by name.
    """
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    kind = file.schema_arrow.names.index("kind")
    lowest = [group.column(kind).statistics for group in groups if group.num_rows]
    if all(found is not None and found.has_min_max for found in lowest):
        return any(found.min == BOUNDARY for found in lowest)
    kinds = file.read(columns=["kind"], use_threads=False).column("kind").unique().cast("string").to_pylist()
    return BOUNDARY in kinds


def _foreign_file_notices(folder: Path) -> list[str]:
    """Returns a notice for each file in a run's folder of part files that is not a part file."""
    if not folder.is_dir():
        return []
    strange = [path for path in sorted(folder.iterdir()) if not PART.fullmatch(path.name)]
    return [
        f"{path} is not a part of a run and was left out." for path in strange if not TEMPORARY.fullmatch(path.name)
    ]


def _repeated_images(images: Sequence[Int]) -> list[Int]:
    """Returns for each part file of a run the ids of its images that an earlier part file has too.

    images: the ids in each part file
    """
    if not images:
        return []
    every, of_part = np.concatenate(images), np.repeat(np.arange(len(images)), [len(part) for part in images])
    order = np.argsort(every, kind="stable")
    again = np.zeros(len(every), np.bool_)
    again[order[1:]] = every[order[1:]] == every[order[:-1]]
    if not again.any():
        return [np.zeros(0, np.int64)] * len(images)
    return [every[again & (of_part == number)] for number in range(len(images))]


def _repetition_notices(paths: Sequence[Path], again: Sequence[Int]) -> list[str]:
    """Returns a notice for each part file (Parquet) of a run that repeats images of an earlier part file."""
    return [
        f"{path} repeats {len(images)} images of earlier parts, which were left out of it."
        for path, images in zip(paths, again, strict=True)
        if len(images)
    ]


def _drop_images(table: OverlapTable, images: Int) -> OverlapTable:
    """Returns an overlap table without some images."""
    return _rows_of_images(table, np.setdiff1d(table.image_ids, images)) if len(images) else table


def _rows_of_images(table: OverlapTable, images: Int) -> OverlapTable:
    """Returns an overlap table of some images."""

    def rows_of_images(columns: Any) -> Any:
        """Selects the rows whose image id is in `images`."""
        return take(columns, np.isin(columns.image_id, images))

    return OverlapTable(
        rows_of_images(table.segments),
        rows_of_images(table.overlaps),
        table.boundary and rows_of_images(table.boundary),
    )


def _overlapping_parts(parts: Sequence[_PartFile]) -> Iterator[list[_PartFile]]:
    """Yields groups of part files whose ranges of image ids overlap, by ascending id; within a group sorted by name."""
    cluster: list[_PartFile] = []
    last = -1
    for part in sorted((part for part in parts if len(part.images)), key=lambda part: int(part.images[0])):
        if cluster and part.images[0] > last:
            yield sorted(cluster, key=lambda one: one.path.name)
            cluster = []
        last = max(int(part.images[-1]), last if cluster else int(part.images[-1]))
        cluster.append(part)
    if cluster:
        yield sorted(cluster, key=lambda one: one.path.name)
