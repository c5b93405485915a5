"""Reads and writes the parts of a run: Parquet files of overlap tables, read at once or in chunks by image id.

Parts have images in any order, as they were processed, but sums must not depend on it to the last bit. A small run is
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
from panbench.panoptic.image_ids import as_metadata, remember
from panbench.panoptic.overlap import BOUNDARY, OverlapTable, check_columns, concat, take

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
    """Lists the parts in a folder by name; [] if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(part for part in folder.iterdir() if PART.fullmatch(part.name))


def next_number(folder: Path, shard: int = 0) -> int:
    """Returns the number of a shard's next part; part files are named SHARD-NUMBER.parquet."""
    mine = (part for part in part_files(folder) if part.name.startswith(f"{shard:04d}-"))
    return 1 + max((int(part.stem.split("-")[1]) for part in mine), default=-1)


class NotAdmitted(Exception):
    """Raised for a part that does not belong to the run; its text completes the sentence "PART …"."""


Admit = Callable[[Path], None]
"""Raises NotAdmitted for a part that does not belong to the run."""


def admit_all(part: Path) -> None:
    """Accepts every part of a folder as one of the run."""


def read_parts(folder: Path, admit: Admit = admit_all) -> tuple[OverlapTable, tuple[str, ...]]:
    """Reads all parts: returns the rows sorted by image id, and a notice for each part that was left out or cut."""
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
class _Part:
    """What a part contains. again: images that earlier parts have too; boundary: whether it has such overlaps

    rows: how many; images: ids, ascending; again: the images that earlier parts have too; boundary: has such rows
    """

    path: Path
    rows: int
    images: Int
    again: Int
    boundary: bool


class LargeParts:
    """Reads parts with too many rows to hold in memory at once; first it reads only their image ids.

    notices: a message for each part that was left out or cut
    """

    def __init__(self, folder: Path, admit: Admit = admit_all) -> None:
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
        self._parts = [_Part(*one[:3], images, one[3]) for one, images in zip(found, again, strict=True)]
        # Parts without any remaining image do not count.
        with_boundary = [part.boundary for part in self._parts if len(part.images) > len(part.again)]
        self.boundary = bool(with_boundary) and all(with_boundary)
        if any(with_boundary) and not self.boundary:
            notices.append(f"{folder} has boundary overlaps of some images only, which were left out.")
        self.notices = tuple(notices)
        self.image_ids = np.unique(np.concatenate([part.images for part in self._parts]))

    @contextmanager
    def chunks(self, rows: int = ROWS_A_CHUNK) -> Iterator[list[Callable[[], OverlapTable]]]:
        """Context that returns functions, each of which reads a chunk of about `rows` rows, in order of image ids.

        The functions may be called in any order and in threads; they raise BadRun for a part that became unreadable.
        """
        with ExitStack() as stack:
            read: list[Callable[[], OverlapTable]] = []
            waiting: list[_Part] = []
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
        """Reads the rows of some images (ids ascending), from the parts that contain them. Raises BadRun."""
        tables = []
        for part in self._parts:
            if len(held := np.intersect1d(part.images, images, assume_unique=True)):
                tables.append(_select_images(self._read_chunk((part,)), held))
        return concat(tables).in_order_of_images()

    def _read_chunk(self, parts: Sequence[_Part]) -> OverlapTable:
        """Reads some parts, drops repeated images, and sorts by image id. Raises BadRun."""
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

    def _sorted_on_disk(self, cluster: Sequence[_Part], scratch: Path, rows: int) -> list[Callable[[], OverlapTable]]:
        """Sorts parts with interleaved images into one file per range of image ids; returns their readers."""
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
        return [partial(_read_sorted, files[number]) for number in sorted(writers)]


def rows_of(folder: Path) -> int:
    """Returns the number of rows of all parts in a folder, from the files' footers."""
    counts = [_read_or_explain(path, _count_rows) for path in part_files(folder)]
    return sum(count for count in counts if not isinstance(count, str))


def compact(
    folder: Path,
    images_a_part: int = IMAGES_A_PART,
    admit: Admit = admit_all,
    metadata: Callable[[Int], Mapping[bytes, bytes]] = lambda images: {},
) -> bool:
    """Joins many small parts to few large ones, in order of image ids; returns whether anything was joined.

    admit: raises NotAdmitted for foreign parts; metadata: makes the metadata of a part with these images
    New parts are complete before the old ones are removed. If the process is killed in between, some images exist
    twice, and readers drop the copies with a notice.
    """
    old = part_files(folder)
    if len(old) <= FEW_PARTS:
        return False
    parts = LargeParts(folder, admit)
    if parts.notices or len(old) * images_a_part < 4 * len(parts.image_ids):
        return False
    number = next_number(folder)

    def write(tables: list[OverlapTable]) -> None:
        """Writes the next part from some tables."""
        nonlocal number
        joined = concat(tables)
        write_part(folder / f"0000-{number:06d}.parquet", joined, metadata(joined.image_ids))
        number += 1

    with parts.chunks() as chunks:
        waiting: list[OverlapTable] = []
        for table in in_order(chunks):
            waiting.append(table)
            if sum(len(each.image_ids) for each in waiting) >= images_a_part:
                write(waiting)
                waiting = []
        if waiting:
            write(waiting)
    for path in old:
        path.unlink()
    return True


def write_part(path: Path, table: OverlapTable, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Writes a part atomically, with metadata that `metadata_of` reads. Raises FileExistsError if it exists."""
    import pyarrow.parquet

    with atomic_write(path, exclusive=True) as handle:
        arrow = table.to_arrow().replace_schema_metadata({**(metadata or {}), **as_metadata(table.image_ids)})
        pyarrow.parquet.write_table(arrow, handle, compression="zstd")


def readable(path: Path) -> Any:
    """Converts a path for PyArrow, which refuses names that are not UTF-8: for these it reads the file's content."""
    import pyarrow as pa

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())
    return str(path)


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """Reads the metadata of a part. Raises ValueError or OSError if the file is not Parquet."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return dict(file.schema_arrow.metadata or {})


def images_of(path: Path) -> Int:
    """Reads the image ids of a part, ascending. Raises ValueError or OSError if the file is not a part."""
    return _inspect_part(path)[1]


def _read_or_explain(path: Path, read: Callable[[Path], Out], admit: Admit = admit_all) -> Out | str:
    """Calls `read` on a part; returns its result, or a message why the part is left out."""
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
    """Context with a part open as Parquet file. Raises ValueError for more than MOST_ROWS rows, before reading them."""
    import pyarrow.parquet

    # Not read_table: it would take a folder named `a=b` on the way for a column.
    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        if (rows := file.metadata.num_rows) > MOST_ROWS:
            raise ValueError(f"declares {rows:,} rows, more than the limit of {MOST_ROWS:,} a file")
        yield file


def read_part(path: Path) -> OverlapTable:
    """Reads a part. Raises ValueError or OSError if the file is not a part."""
    with opened_part(path) as file:
        remember(file.schema_arrow.metadata)
        return OverlapTable.from_arrow(file.read(use_threads=False))


def _read_sorted(path: Path) -> OverlapTable:
    """Reads a temporary file of `_sorted_on_disk`, sorted by image id."""
    import pyarrow as pa

    with pa.ipc.open_stream(readable(path)) as file:
        return OverlapTable.from_arrow(file.read_all()).in_order_of_images()


def _count_rows(path: Path) -> int:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return int(file.metadata.num_rows)


def _inspect_part(path: Path) -> tuple[int, Int, bool]:
    """Returns a part's number of rows, its image ids, and whether it has boundary overlaps; reads two columns."""
    with opened_part(path) as file:
        check_columns(file.schema_arrow)
        remember(file.schema_arrow.metadata)
        ids = file.read(columns=["image_id"], use_threads=False).column("image_id").to_numpy()
        has_boundary = _has_boundary(file)
    # The rows of an image are consecutive, so dropping repeats first leaves few ids for np.unique to sort.
    new = np.ones(len(ids), np.bool_)
    new[1:] = ids[1:] != ids[:-1]
    return len(ids), np.unique(ids[new]), has_boundary


def _has_boundary(file: Any) -> bool:
    """True if a part has boundary overlaps; read from the footer's minimum, as `boundary` is the first kind by name."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    kind = file.schema_arrow.names.index("kind")
    lowest = [group.column(kind).statistics for group in groups if group.num_rows]
    if all(found is not None and found.has_min_max for found in lowest):
        return any(found.min == BOUNDARY for found in lowest)
    kinds = file.read(columns=["kind"], use_threads=False).column("kind").unique().cast("string").to_pylist()
    return BOUNDARY in kinds


def _foreign_file_notices(folder: Path) -> list[str]:
    """Returns a notice for each file in a folder of parts that is not a part."""
    if not folder.is_dir():
        return []
    strange = [path for path in sorted(folder.iterdir()) if not PART.fullmatch(path.name)]
    return [
        f"{path} is not a part of a run and was left out." for path in strange if not TEMPORARY.fullmatch(path.name)
    ]


def _repeated_images(images: Sequence[Int]) -> list[Int]:
    """Returns for each part those of its images that an earlier part has too. images: the ids in each part"""
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
    """Returns a notice for each part with images that earlier parts have too."""
    return [
        f"{path} repeats {len(images)} images of earlier parts, which were left out of it."
        for path, images in zip(paths, again, strict=True)
        if len(images)
    ]


def _drop_images(table: OverlapTable, images: Int) -> OverlapTable:
    """Returns an overlap table without some images."""
    return _select_images(table, np.setdiff1d(table.image_ids, images)) if len(images) else table


def _select_images(table: OverlapTable, images: Int) -> OverlapTable:
    """Returns an overlap table of some images."""

    def some(columns: Any) -> Any:
        """Selects the rows of the images in columns."""
        return take(columns, np.isin(columns.image_id, images))

    return OverlapTable(some(table.segments), some(table.overlaps), table.boundary and some(table.boundary))


def _overlapping_parts(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Yields groups of parts whose ranges of image ids overlap, by ascending id; within a group sorted by name."""
    cluster: list[_Part] = []
    last = -1
    for part in sorted((part for part in parts if len(part.images)), key=lambda part: int(part.images[0])):
        if cluster and part.images[0] > last:
            yield sorted(cluster, key=lambda one: one.path.name)
            cluster = []
        last = max(int(part.images[-1]), last if cluster else int(part.images[-1]))
        cluster.append(part)
    if cluster:
        yield sorted(cluster, key=lambda one: one.path.name)
