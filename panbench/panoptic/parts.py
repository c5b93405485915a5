"""The parts of a run, Parquet files of overlap tables: read at once, or block by block in the order of image ids.

Parts hold images in any order (batches take them as they come), and sums must not depend on that, to the last
bit. A small run is read whole and sorted. Of a large one only the image ids are read first; they tell which parts can
be read one after the other, and which have to be sorted together, on disk where they are too many for memory.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadRun
from panbench.base.files import atomic_write
from panbench.base.threads import available_cores
from panbench.panoptic.image_ids import as_metadata, remember
from panbench.panoptic.overlap import BOUNDARY, OverlapTable, Pairs, check_columns, concat, take

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "LargeParts",
    "NotAdmitted",
    "compact",
    "images_of",
    "in_order",
    "metadata_of",
    "opened_part",
    "part_files",
    "read_part",
    "read_parts",
    "readable",
    "rows_of",
    "write_part",
]

Int = npt.NDArray[np.int64]

PART = re.compile(r"\d+-\d+\.parquet")
TEMPORARY = re.compile(r"\..+\.tmp")

ROWS_AT_ONCE = 3_000_000
"""A run with more rows (some 50,000 images) is read block by block."""

ROWS_A_BLOCK = 600_000
"""Some 10,000 images: large enough that NumPy's calls do not count, and a few dozen MB while they are matched."""


MOST_ROWS = 20_000_000
"""A file that declares more is none of a run: 10,000 images have some 600,000. A forged one of 4 kB takes gigabytes."""

FEW_PARTS = 16
"""So many parts are never too many."""

IMAGES_A_PART = 10_000
"""Many small parts are joined to parts of so many images."""

MOST_FILES = 200
"""So many files are open at once while parts are sorted on disk."""

Out = TypeVar("Out")


def part_files(folder: Path) -> list[Path]:
    """The parts in a folder by name; none when there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(part for part in folder.iterdir() if PART.fullmatch(part.name))


class NotAdmitted(Exception):
    """Why a part does not belong to the run; completes "PART …"."""


Admit = Callable[[Path], None]
"""Raises NotAdmitted for a part that does not belong to the run."""


def admit_all(part: Path) -> None:
    """Admits every part."""


def read_parts(folder: Path, admit: Admit = admit_all) -> tuple[OverlapTable, tuple[str, ...]]:
    """The rows of all readable parts in order of image ids, and a sentence for each left out, whole or in part."""
    notices, found = _strangers(folder), []
    for path in part_files(folder):
        table = _attempt(path, read_part, admit)
        if isinstance(table, str):
            notices.append(table)
        else:
            found.append((path, table))
    again = _repeated([table.image_ids for _, table in found])
    notices += _repeats([path for path, _ in found], again)
    tables = [_without(table, images) for (_, table), images in zip(found, again, strict=True)]
    # A part of which nothing is left says nothing of boundaries.
    tables = [table for table in tables if len(table.overlaps)]
    if len({table.boundary is None for table in tables}) > 1:
        notices.append(f"{folder} has boundary overlaps of some images only, which were left out.")
        tables = [replace(table, boundary=None) for table in tables]
    return concat(tables).in_order_of_images(), tuple(notices)


@dataclass(frozen=True)
class _Part:
    """A part: its rows, its images (ascending), which of them earlier parts have already, and if it has boundaries."""

    path: Path
    rows: int
    images: Int
    again: Int
    boundary: bool


class LargeParts:
    """Parts with too many rows to hold in memory at once.

    Only image ids are read when it is made. `notices`: a sentence for each part that was left out, whole or in part.
    """

    def __init__(self, folder: Path, admit: Admit = admit_all) -> None:
        notices, found = _strangers(folder), []
        paths = part_files(folder)
        looks = [partial(_attempt, path, _look, admit) for path in paths]
        for path, one in zip(paths, in_order(looks), strict=True):
            if isinstance(one, str):
                notices.append(one)
            else:
                found.append((path, *one))
        again = _repeated([images for _, _, images, _ in found])
        notices += _repeats([path for path, *_ in found], again)
        self._parts = [_Part(*one[:3], images, one[3]) for one, images in zip(found, again, strict=True)]
        # A part of which nothing is left says nothing of boundaries.
        with_boundary = [part.boundary for part in self._parts if len(part.images) > len(part.again)]
        self.boundary = bool(with_boundary) and all(with_boundary)
        if any(with_boundary) and not self.boundary:
            notices.append(f"{folder} has boundary overlaps of some images only, which were left out.")
        self.notices = tuple(notices)
        self.image_ids = np.unique(np.concatenate([part.images for part in self._parts]))

    @contextmanager
    def blocks(self, rows: int = ROWS_A_BLOCK) -> Iterator[list[Callable[[], OverlapTable]]]:
        """Functions that read the rows of further and further images, about `rows` each and in order of image ids.

        They may be called in any order and in threads, while the context is open; they raise BadRun for a part that
        cannot be read after all.
        """
        with ExitStack() as stack:
            read: list[Callable[[], OverlapTable]] = []
            waiting: list[_Part] = []
            for cluster in _clusters(self._parts):
                size = sum(part.rows for part in cluster)
                too_large = size > 4 * rows and len(cluster) > 1
                if waiting and (too_large or size + sum(part.rows for part in waiting) > rows):
                    read.append(partial(self._joined, tuple(waiting)))
                    waiting = []
                if too_large:
                    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="panbench-"))
                    read += self._sorted_on_disk(cluster, Path(scratch), rows)
                else:
                    waiting += cluster
            if waiting:
                read.append(partial(self._joined, tuple(waiting)))
            yield read

    def of_images(self, images: Int) -> OverlapTable:
        """The rows of some images, ascending; only the parts that hold one are read. Raises BadRun as `blocks`."""
        tables = []
        for part in self._parts:
            if len(held := np.intersect1d(part.images, images, assume_unique=True)):
                tables.append(_only(self._joined((part,)), held))
        return concat(tables).in_order_of_images()

    def _joined(self, parts: Sequence[_Part]) -> OverlapTable:
        tables = []
        for part in parts:
            table = _attempt(part.path, read_part)
            if isinstance(table, str):
                raise BadRun(
                    f"{table.split(' and was left out')[0]}; its images are listed, but not readable. Remove it."
                )
            table = _without(table, part.again)
            tables.append(table if self.boundary else replace(table, boundary=None))
        return concat(tables).in_order_of_images()

    def _sorted_on_disk(self, cluster: Sequence[_Part], scratch: Path, rows: int) -> list[Callable[[], OverlapTable]]:
        """Sorts the rows of parts with interleaved images into one file per range of image ids."""
        import pyarrow as pa

        images = np.unique(np.concatenate([part.images for part in cluster]))
        n_ranges = min(-(-sum(part.rows for part in cluster) // rows), MOST_FILES)
        edges = images[:: -(-len(images) // n_ranges)][1:]
        files = [scratch / f"{number}.arrow" for number in range(len(edges) + 1)]
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        try:
            for table in in_order([partial(self._joined, (part,)) for part in cluster]):
                arrow = table.to_arrow()
                place = np.searchsorted(edges, arrow.column("image_id").to_numpy(), side="right")
                for number in np.unique(place).tolist():
                    if number not in writers:
                        writers[number] = pa.ipc.new_stream(str(files[number]), arrow.schema)
                    writers[number].write_table(arrow.filter(pa.array(place == number)))
        finally:
            for writer in writers.values():
                writer.close()
        return [partial(_read_sorted, files[number]) for number in sorted(writers)]


def rows_of(folder: Path) -> int:
    """The number of rows of all parts, from their footers."""
    counts = [_attempt(path, _count) for path in part_files(folder)]
    return sum(count for count in counts if not isinstance(count, str))


def in_order(work: Sequence[Callable[[], Out]]) -> Iterator[Out]:
    """Yields the results of functions in order; they run on all cores, a few ahead of the one awaited."""
    cores = available_cores()
    with ThreadPoolExecutor(cores) as pool:
        waiting: list[Future[Out]] = []
        for call in work:
            waiting.append(pool.submit(call))
            if len(waiting) > cores:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def compact(
    folder: Path,
    images_a_part: int = IMAGES_A_PART,
    admit: Admit = admit_all,
    metadata: Callable[[Int], Mapping[bytes, bytes]] = lambda images: {},
) -> bool:
    """Joins many small parts to few large ones, in order of image ids; whether there was anything to join.

    admit: as for reading. metadata: what a part of these images says of itself.
    New parts are whole before the old ones go. Killed in between, some images are there twice, which reading leaves out
    and tells.
    """
    old = part_files(folder)
    if len(old) <= FEW_PARTS:
        return False
    parts = LargeParts(folder, admit)
    if parts.notices or len(old) * images_a_part < 4 * len(parts.image_ids):
        return False
    number = 1 + max((int(path.stem.split("-")[1]) for path in old if path.name.startswith("0000-")), default=-1)

    def write(tables: list[OverlapTable]) -> None:
        nonlocal number
        joined = concat(tables)
        write_part(folder / f"0000-{number:06d}.parquet", joined, metadata(joined.image_ids))
        number += 1

    with parts.blocks() as blocks:
        waiting: list[OverlapTable] = []
        for table in in_order(blocks):
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
    """Writes a part atomically. Raises FileExistsError if one of that name exists.

    metadata: what the part says of itself, for `metadata_of`
    """
    import pyarrow.parquet

    with atomic_write(path, exclusive=True) as handle:
        arrow = table.to_arrow().replace_schema_metadata({**(metadata or {}), **as_metadata(table.image_ids)})
        pyarrow.parquet.write_table(arrow, handle, compression="zstd")


def readable(path: Path) -> Any:
    """A path as PyArrow takes it; the content where the path has bytes that are not UTF-8, which PyArrow refuses."""
    import pyarrow as pa

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())
    return str(path)


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """The metadata passed to `write_part`. Raises ValueError or OSError if the file is not Parquet."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return dict(file.schema_arrow.metadata or {})


def images_of(path: Path) -> Int:
    """The images of a part, ascending. Raises ValueError or OSError if the file is not a part."""
    return _look(path)[1]


def _attempt(path: Path, read: Callable[[Path], Out], admit: Admit = admit_all) -> Out | str:
    """The result of `read` for a part, or why the part is left out."""
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
    """A Parquet file of a run. Raises ValueError for more rows than any part has, before they are in memory."""
    import pyarrow.parquet

    # Not read_table: it would take a folder named `a=b` on the way for a column.
    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        if (rows := file.metadata.num_rows) > MOST_ROWS:
            raise ValueError(f"declares {rows:,} rows, more than the limit of {MOST_ROWS:,} a file")
        yield file


def read_part(path: Path) -> OverlapTable:
    """The rows of a part. Raises ValueError or OSError if the file is not a part."""
    with opened_part(path) as file:
        remember(file.schema_arrow.metadata)
        return OverlapTable.from_arrow(file.read(use_threads=False))


def _read_sorted(path: Path) -> OverlapTable:
    import pyarrow as pa

    with pa.ipc.open_stream(readable(path)) as file:
        return OverlapTable.from_arrow(file.read_all()).in_order_of_images()


def _count(path: Path) -> int:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        return int(file.metadata.num_rows)


def _look(path: Path) -> tuple[int, Int, bool]:
    """The rows of a part, its images, and whether it has boundary overlaps. Only two columns are read."""
    with opened_part(path) as file:
        check_columns(file.schema_arrow)
        remember(file.schema_arrow.metadata)
        ids = file.read(columns=["image_id"], use_threads=False).column("image_id").to_numpy()
        has_boundary = _has_boundary(file)
    # The rows of an image stand together, so most are like the one above: what is left is sorted in no time.
    new = np.ones(len(ids), np.bool_)
    new[1:] = ids[1:] != ids[:-1]
    return len(ids), np.unique(ids[new]), has_boundary


def _has_boundary(file: Any) -> bool:
    """Whether a part has boundary overlaps: `boundary` is the first kind by name, so the footer's statistics tell."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    kind = file.schema_arrow.names.index("kind")
    lowest = [group.column(kind).statistics for group in groups if group.num_rows]
    if all(found is not None and found.has_min_max for found in lowest):
        return any(found.min == BOUNDARY for found in lowest)
    kinds = file.read(columns=["kind"], use_threads=False).column("kind").unique().cast("string").to_pylist()
    return BOUNDARY in kinds


def _strangers(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    strange = [path for path in sorted(folder.iterdir()) if not PART.fullmatch(path.name)]
    return [
        f"{path} is not a part of a run and was left out." for path in strange if not TEMPORARY.fullmatch(path.name)
    ]


def _repeated(images: Sequence[Int]) -> list[Int]:
    """For each part, the images that an earlier part also has."""
    if not images:
        return []
    every, of_part = np.concatenate(images), np.repeat(np.arange(len(images)), [len(part) for part in images])
    order = np.argsort(every, kind="stable")
    again = np.zeros(len(every), np.bool_)
    again[order[1:]] = every[order[1:]] == every[order[:-1]]
    if not again.any():
        return [np.zeros(0, np.int64)] * len(images)
    return [every[again & (of_part == number)] for number in range(len(images))]


def _repeats(paths: Sequence[Path], again: Sequence[Int]) -> list[str]:
    return [
        f"{path} repeats {len(images)} images of earlier parts, which were left out of it."
        for path, images in zip(paths, again, strict=True)
        if len(images)
    ]


def _without(table: OverlapTable, images: Int) -> OverlapTable:
    if not len(images):
        return table

    def rest(pairs: Pairs) -> Pairs:
        return take(pairs, ~np.isin(pairs.image_id, images))

    segments = take(table.segments, ~np.isin(table.segments.image_id, images))
    return OverlapTable(segments, rest(table.overlaps), None if table.boundary is None else rest(table.boundary))


def _only(table: OverlapTable, images: Int) -> OverlapTable:
    def some(columns: Any) -> Any:
        return take(columns, np.isin(columns.image_id, images))

    return OverlapTable(some(table.segments), some(table.overlaps), table.boundary and some(table.boundary))


def _clusters(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Parts whose ranges of image ids overlap, together, in order of image ids; of a cluster in the order of names."""
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
