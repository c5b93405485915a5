"""A dataset's index: the images and segments of panoptic JSONs as Parquet, so that a worker reads its share alone.

A row an image, by ascending id, in row groups of some 1,000 images. The columns:

    image_id int64 · place int64 (in the order of the JSONs) · source int32 (which JSON) · file_name · height · width ·
    png (the id PNG's name; null without annotation) · segments: a list of {id, category_id, area, iscrowd, score, bbox}

`val.json` has `val.panbench-rows.parquet` beside it, or in the cache folder where that folder cannot be written; a JSON
of predictions has `….panbench-predictions.parquet`. The schema's metadata say what the JSONs were: an index whose JSON
has another size or another time is used only if the JSON's SHA-256 is still that of the index (`DatasetIndex.is_of`).
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import Address
from panbench.base.errors import BadArgument, BadDataset, PanbenchError
from panbench.base.files import atomic_write, cache_dir, sha256_of
from panbench.base.locks import Lock
from panbench.base.text import listed
from panbench.panoptic.coco import png_folder, read_set_columns
from panbench.panoptic.fingerprint import fingerprint_of_files, fingerprint_of_rows
from panbench.panoptic.parts import readable
from panbench.panoptic.sources import common_folder, folders_of
from panbench.panoptic.types import (
    Annotation,
    AnnotationColumns,
    Category,
    ImageColumns,
    ImageInfo,
    Segment,
    SetColumns,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "DatasetIndex",
    "IndexRows",
    "build_index",
    "fresh_index",
    "index_of",
    "index_paths",
    "open_index",
    "share_of",
]

VERSION = 1
_KEY = b"panbench.rows"

ROW_GROUP_IMAGES = 1000
MOST_ROW_GROUPS = 500
"""Beyond 500,000 images, row groups grow instead: every worker reads the footer, which lists them all."""

PAYS_FROM_BYTES = 20_000_000
"""Of a JSON of so many bytes (some 20,000 images) an index is made unasked (scripts/bench/index.py)."""

_PATIENCE = 1800.0
"""Seconds that a worker waits while another one makes the index that both need."""

_RACY_NS = 2_000_000_000
"""A file that was written less than this before it had been read may have changed again without another time."""

_MOST_GROUPS = 10


@dataclass(frozen=True)
class Source:
    """A JSON that an index was made of, as it was then."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """What an index says of its rows, in the schema's metadata.

    rows: the fingerprint of the rows; ids_sha256: of all image ids, ascending; in_order: whether that is the order of
    the JSONs; order_sha256: of the ids in that order, as runs record it. made_ns: when the JSONs had been read
    same_png, same_photograph: as of AnnotationColumns, the first few
    """

    version: int
    predictions: bool
    categories: tuple[Category, ...]
    n_images: int
    n_annotations: int
    n_segments: int
    rows: str
    ids_sha256: str
    order_sha256: str
    in_order: bool
    has_scores: bool
    sources: tuple[Source, ...]
    made_ns: int
    same_png: tuple[tuple[int, ...], ...] = ()
    same_photograph: tuple[tuple[int, ...], ...] = ()
    own_categories: Mapping[int, tuple[str, bool | None]] | None = None

    def to_bytes(self) -> bytes:
        """JSON for the metadata."""
        own = None if self.own_categories is None else [[key, *value] for key, value in self.own_categories.items()]
        return json.dumps({**asdict(self), "own_categories": own}).encode()

    @staticmethod
    def from_bytes(content: bytes) -> "Facts":
        """What `to_bytes` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        record = json.loads(content)
        if record["version"] != VERSION:
            raise ValueError(f"has version {record['version']}")
        own = record.pop("own_categories")
        record["sources"] = tuple(Source(**source) for source in record["sources"])
        record["categories"] = tuple(
            Category(**{**category, "color": None if category["color"] is None else tuple(category["color"])})
            for category in record["categories"]
        )
        for name in ("same_png", "same_photograph"):
            record[name] = tuple(map(tuple, record[name]))
        return Facts(**record, own_categories=None if own is None else {key: (name, kind) for key, name, kind in own})


@dataclass(frozen=True)
class IndexRows:
    """Some rows of an index. Image i has the segments first[i] to first[i + 1]; `png` is None without annotation."""

    image_id: npt.NDArray[np.int64]
    source: npt.NDArray[np.int32]
    file_name: list[str]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    png: list[str | None]
    first: npt.NDArray[np.int64]
    id: npt.NDArray[np.int32]
    category_id: npt.NDArray[np.int32]
    area: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float64]
    """(N, 4), NaN where a segment has none or they were not asked for."""

    def __len__(self) -> int:
        return len(self.image_id)

    def images(self) -> Iterator[tuple[ImageInfo, Annotation | None]]:
        """Each image with its annotation, None where it has none."""
        return map(self.image, range(len(self)))

    def image(self, row: int) -> tuple[ImageInfo, Annotation | None]:
        """An image, by its place among these rows, with its annotation."""
        image_id = int(self.image_id[row])
        image = ImageInfo(image_id, self.file_name[row], int(self.height[row]), int(self.width[row]))
        name = self.png[row]
        if name is None:
            return image, None
        segments = slice(*self.first[row : row + 2].tolist())
        columns = (self.id, self.category_id, self.area, self.iscrowd, self.boxes, self.score)
        found = zip(*(column[segments].tolist() for column in columns), strict=True)
        return image, Annotation(
            image_id,
            name,
            tuple(
                Segment(id, category_id, area, iscrowd, None if bbox[0] != bbox[0] else tuple(bbox), _known(score))
                for id, category_id, area, iscrowd, bbox, score in found
            ),
        )


def _known(score: float) -> float | None:
    return None if score != score else score


class DatasetIndex:
    """An index that is open for reading. Only the footer is read until rows are asked for; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Raises BadDataset when the file is not a whole index of this version. Use `open_index`, `fresh_index`."""
        import pyarrow as pa
        import pyarrow.parquet

        self.path = path
        self.prefixes: Sequence[str] = ()
        """What comes before the names of id PNGs of each JSON, where their folders differ."""
        self._lock = threading.Lock()
        try:
            self._file = pyarrow.parquet.ParquetFile(readable(path), pre_buffer=False)
            self.facts = Facts.from_bytes((self._file.schema_arrow.metadata or {})[_KEY])
        except FileNotFoundError:
            raise BadDataset(f"{path} was not found.") from None
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as problem:
            raise BadDataset(f"{path} is not an index of a dataset that this panbench can read ({problem}).") from None
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if self._starts[-1] != self.facts.n_images:
            raise BadDataset(f"{path} has {self._starts[-1]:,} rows and says {self.facts.n_images:,}.")

    def __len__(self) -> int:
        return self.facts.n_images

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, (self.path, self.prefixes))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the files: of one JSON its SHA-256."""
        return fingerprint_of_files(source.sha256 for source in self.facts.sources)

    @property
    def row_groups(self) -> list[range]:
        """The rows of each row group: tasks that keep to them read nothing twice."""
        starts = self._starts.tolist()
        return [range(start, stop) for start, stop in itertools.pairwise(starts)]

    @property
    def row_starts(self) -> npt.NDArray[np.int64]:
        """The first row of each row group, and the number of rows."""
        return self._starts

    def is_of(self, sources: Sequence[Path]) -> bool:
        """Whether the files are still what the index was made of.

        Size, time of change and time of inode change are compared; where one differs, or the file was written less than
        two seconds before it had been read, its SHA-256 decides.
        """
        known = self.facts.sources
        return len(known) == len(sources) and all(
            _unchanged(path, source, self.facts.made_ns) for path, source in zip(sources, known, strict=True)
        )

    def ids(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
        """The ids of some rows, ascending: 8 bytes an image."""
        table = self._table(start, len(self) if stop is None else stop, ["image_id"])
        found: npt.NDArray[np.int64] = table.column("image_id").to_numpy()
        return found

    def places(self) -> npt.NDArray[np.int64]:
        """Where each row is in the order of the JSONs."""
        found: npt.NDArray[np.int64] = self._table(0, len(self), ["place"]).column("place").to_numpy()
        return found

    def sizes(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
        """(N, 2) height and width of some rows."""
        table = self._table(start, len(self) if stop is None else stop, ["height", "width"])
        return np.stack([table.column(name).to_numpy().astype(np.int64) for name in ("height", "width")], axis=1)

    def shard(self, number: int, of: int) -> range:
        """The rows of the part `number` of `of`, from 1: as even as can be, the longer parts first."""
        return share_of(len(self), number, of)

    def between(self, low: int, high: int) -> range:
        """The rows of the images with ids from `low` to `high`; only row groups at the edges are read."""
        if low > high or not len(self):
            return range(0)
        return range(self._first_row(low), self._first_row(high + 1))

    def rows(self, start: int = 0, stop: int | None = None, *, boxes: bool = True) -> IndexRows:
        """Some rows, by ascending image id; no other row group is read. boxes: also the `bbox` of segments."""
        wanted = [name for name in self._leaves if boxes or ".bbox" not in name]
        return _rows_of(self._table(start, len(self) if stop is None else stop, wanted), boxes, self.prefixes)

    def names(self, start: int, stop: int) -> Iterator[tuple[str, str | None]]:
        """The file name of the image and of the id PNG of some rows."""
        table = self._table(start, stop, ["source", "file_name", "png"])
        return zip(table.column("file_name").to_pylist(), _png_names(table, self.prefixes), strict=True)

    def annotated(self) -> npt.NDArray[np.bool_]:
        """Which rows have an annotation."""
        found: npt.NDArray[np.bool_] = self._table(0, len(self), ["png"]).column("png").is_valid().to_numpy()
        return found

    def columns(self, folder: Path, path: Path, start: int = 0, stop: int | None = None) -> AnnotationColumns:
        """Some rows as `read_annotation_columns` gives them, but by ascending image id.

        folder: of the id PNGs; path: of the JSON. Images without annotation are left out.
        """
        rows, facts = self.rows(start, stop, boxes=False), self.facts
        annotated = np.array([name is not None for name in rows.png], np.bool_)
        first = np.concatenate([rows.first[:-1][annotated], rows.first[-1:]])
        return AnnotationColumns(
            categories=() if facts.predictions else facts.categories,
            image_ids=rows.image_id[annotated].tolist(),
            file_names=[name for name in rows.png if name is not None],
            first=first,
            id=rows.id,
            category_id=rows.category_id,
            area=rows.area,
            iscrowd=rows.iscrowd,
            score=rows.score.astype(np.float32),
            folder=folder,
            path=path,
            own_categories=facts.own_categories or {},
            same_photograph=facts.same_photograph,
        )

    @functools.cached_property
    def _leaves(self) -> list[str]:
        schema = self._file.schema
        return [schema.column(number).path for number in range(len(schema))]

    def _first_row(self, image_id: int) -> int:
        """The first row with this id or a higher one."""
        group = int(np.searchsorted(self._highest, image_id, side="left"))
        if group == len(self._highest):
            return len(self)
        start, stop = self._starts[group : group + 2].tolist()
        ids = self._table(start, stop, ["image_id"]).column("image_id").to_numpy()
        return start + int(np.searchsorted(ids, image_id, side="left"))

    @functools.cached_property
    def _highest(self) -> npt.NDArray[np.int64]:
        """The highest id of each row group, from the footer."""
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        return np.array([metadata.row_group(number).column(0).statistics.max for number in groups], np.int64)

    def _table(self, start: int, stop: int, columns: Sequence[str]) -> "pa.Table":
        import pyarrow as pa

        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        last = int(np.searchsorted(self._starts, stop, side="left"))
        try:
            with self._lock:
                groups = list(range(first, last))
                table = self._file.read_row_groups(groups, columns=list(columns), use_threads=False)
        except (OSError, ValueError, pa.ArrowException) as problem:
            raise BadDataset(f"{self.path} cannot be read ({problem}). Delete it: it can be made again.") from None
        return table.slice(start - int(self._starts[first]), stop - start)


def share_of(count: int, number: int, of: int) -> range:
    """The part `number` of `of`, from 1, of `count` things: as even as can be, the longer parts first."""
    size, longer = divmod(count, of)
    start = (number - 1) * size + min(number - 1, longer)
    return range(start, start + size + (number <= longer))


def index_paths(sources: Sequence[Path], *, predictions: bool = False) -> list[Path]:
    """The paths where the index of some JSONs may be: beside the one JSON, and in the cache folder."""
    ending = "panbench-predictions.parquet" if predictions else "panbench-rows.parquet"
    beside = len(sources) == 1 and not (sources[0].parent / "run.json").exists()  # a run's folder holds its own files
    places = [sources[0].with_suffix(f".{ending}")] if beside else []
    with contextlib.suppress(PanbenchError):
        names = b"\0".join(os.fsencode(source.absolute()) for source in sources)
        name = hashlib.sha256(names).hexdigest()[:16]
        places.append(cache_dir() / "dataset-index" / f"{sources[0].stem}-{name}.{ending}")
    return places


def open_index(path: str | os.PathLike[str]) -> DatasetIndex:
    """The index in a file. Raises BadDataset."""
    return DatasetIndex(Path(path))


def fresh_index(sources: Sequence[Path], *, predictions: bool = False, make: bool = False) -> DatasetIndex | None:
    """The index of some JSONs as they are now; None where there is none, or it was made of other JSONs.

    make: make it where there is none and the JSONs are so large that it pays, unless they cannot be indexed; one of
        several processes that ask at once makes it, and the others wait
    """
    if any(isinstance(source, Address) for source in sources):
        # An index is found by the size and time of files, which stores do not keep.
        return None
    found = _find(sources, predictions)
    if found is not None or not make or not _pays(sources):
        return found
    for place in index_paths(sources, predictions=predictions):
        lock = None
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock.acquire(place.with_name(f".{place.name}.lock"), patience=_PATIENCE)
        if lock is None:
            continue
        try:
            # PanbenchError: whoever reads the JSON itself says what is wrong with it, or can do without an index.
            with contextlib.suppress(OSError, PanbenchError):
                return _find(sources, predictions) or open_index(build_index(sources, predictions=predictions))
        finally:
            lock.release()
        return None
    return None


def index_of(
    sources: Sequence[Path], folder: Path | None, *, predictions: bool = False
) -> tuple[DatasetIndex, Path] | None:
    """The index of what is to be read, and the folder of its id PNGs; None where the one JSON is to be parsed.

    folder: the folder that was named; by default each JSON has its own
    Several JSONs are always indexed, which raises what `build_index` does. A large one is, if it can be.
    """
    index = fresh_index(sources, predictions=predictions, make=True)
    if index is None and len(sources) == 1:
        return None
    if index is None:
        index = open_index(build_index(sources, predictions=predictions))
    common, index.prefixes = common_folder(
        folders_of(folder, len(sources)) or [png_folder(source) for source in sources]
    )
    return index, common


def build_index(sources: Sequence[Path], *, predictions: bool = False, to: Path | None = None) -> Path:
    """Reads panoptic JSONs and writes their index, atomically; its path.

    predictions: the JSONs are of predictions: `annotations` is all they need
    to: where to write it; by default beside the one JSON, or in the cache folder where that cannot be written
    Raises BadDataset for JSONs that cannot be read, have different categories or share images, and OSError.
    """
    stats = [_stat(path) for path in sources]
    read = [read_set_columns(path, predictions=predictions) for path in sources]
    columns, of_source = _joined(read, sources)
    digests = [sha256_of(path) for path in sources]
    known = tuple(
        Source(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, digest)
        for path, stat, digest in zip(sources, stats, digests, strict=True)
    )
    made_ns = time.time_ns()
    if [_times(_stat(path)) for path in sources] != [_times(stat) for stat in stats]:
        raise BadDataset(f"{listed(sources)} changed while it was indexed. Index it again.")
    table, facts = _tabulated(columns, of_source, known, predictions, made_ns)
    places = index_paths(sources, predictions=predictions) if to is None else [to]
    problem: OSError | None = None
    for place in places:
        try:
            _write(place, table, facts)
            return place
        except OSError as failed:
            problem = failed
    raise problem or BadArgument("There is no folder for the index. Set PANBENCH_CACHE to one.")


def _find(sources: Sequence[Path], predictions: bool) -> DatasetIndex | None:
    for place in index_paths(sources, predictions=predictions):
        with contextlib.suppress(BadDataset, OSError):
            if place.is_file():
                index = open_index(place)
                if index.facts.predictions == predictions and index.is_of(sources):
                    return index
    return None


def _pays(sources: Sequence[Path]) -> bool:
    try:
        return sum(path.stat().st_size for path in sources) >= PAYS_FROM_BYTES
    except OSError:
        return False


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as problem:
        if isinstance(problem, FileNotFoundError):
            raise BadDataset(f"{path} was not found.") from None
        raise BadDataset(f"{path} cannot be read: {problem.strerror or problem}.") from None


def _times(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _unchanged(path: Path, source: Source, made_ns: int) -> bool:
    stat = path.stat()
    if stat.st_size != source.size:
        return False
    settled = max(stat.st_mtime_ns, stat.st_ctime_ns) + _RACY_NS < made_ns
    if settled and _times(stat) == (source.size, source.mtime_ns, source.ctime_ns):
        return True
    return sha256_of(path) == source.sha256


def _joined(read: Sequence[SetColumns], sources: Sequence[Path]) -> tuple[SetColumns, npt.NDArray[np.int32]]:
    """Several JSONs as one, and which of them each image is of. Raises BadDataset where they do not fit."""
    ids = [one.images.id if len(one.images.id) else np.array(one.annotations.image_ids, np.int64) for one in read]
    of_source = np.repeat(np.arange(len(read), dtype=np.int32), [len(some) for some in ids])
    if len(read) == 1:
        return read[0], of_source
    for one, path in zip(read[1:], sources[1:], strict=True):
        if one.annotations.categories != read[0].annotations.categories:
            raise BadDataset(f"{sources[0]} and {path} have different categories, so they are no parts of one set.")
    _refuse_shared(ids, sources)
    own = [one.annotations.own_categories for one in read]
    parts = [one.annotations for one in read]
    ends = np.cumsum([0, *(part.first[-1] for part in parts)])
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("id", "category_id", "area", "iscrowd", "score")
    }
    annotations = replace(
        parts[0],
        image_ids=[image_id for part in parts for image_id in part.image_ids],
        file_names=[name for part in parts for name in part.file_names],
        first=np.concatenate([*(part.first[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)), ends[-1:]]),
        **joined,
        own_categories={key: value for mapping in own for key, value in mapping.items()},
        same_photograph=tuple(group for part in parts for group in part.same_photograph),
    )
    images = ImageColumns(
        np.concatenate([one.images.id for one in read]),
        [name for one in read for name in one.images.file_name],
        np.concatenate([one.images.height for one in read]),
        np.concatenate([one.images.width for one in read]),
    )
    boxes = np.concatenate([one.boxes for one in read])
    return SetColumns(annotations, images, boxes, np.concatenate([one.scores for one in read])), of_source


def _refuse_shared(ids: Sequence[npt.NDArray[np.int64]], sources: Sequence[Path]) -> None:
    known = np.zeros(0, np.int64)
    for some, path in zip(ids, sources, strict=True):
        both = np.intersect1d(known, some)
        if len(both):
            first = next(other for found, other in zip(ids, sources, strict=True) if np.isin(both[0], found))
            raise BadDataset(
                f"{first} and {path} share {len(both):,} images ({listed(both.tolist())}). Each image may be in one "
                "of them only."
            )
        known = np.union1d(known, some)


def _tabulated(
    read: SetColumns, of_source: npt.NDArray[np.int32], sources: tuple[Source, ...], predictions: bool, made_ns: int
) -> tuple["pa.Table", Facts]:
    """The rows of an index by image id, and what it says of them."""
    columns, images = read.annotations, read.images
    annotated = np.array(columns.image_ids, np.int64)
    listing = annotated if predictions else images.id
    order = np.argsort(listing, kind="stable")
    ids = listing[order]
    # The annotation of each row: its place among the annotations, -1 where there is none.
    by_id = np.argsort(annotated, kind="stable")
    place = np.searchsorted(annotated[by_id], ids)
    exists = place < len(annotated)
    exists[exists] = annotated[by_id][place[exists]] == ids[exists]
    row = np.where(exists, by_id[np.minimum(place, max(len(by_id) - 1, 0))] if len(by_id) else -1, -1)
    counts = np.where(row >= 0, np.diff(columns.first)[row] if len(annotated) else 0, 0)
    first = np.concatenate([[0], np.cumsum(counts)])
    start = np.repeat(np.where(row >= 0, columns.first[row], 0) - first[:-1], counts)
    segments = start + np.arange(int(first[-1]))
    fields: list[npt.NDArray[Any]] = [
        field[segments] for field in (columns.id, columns.category_id, columns.area, columns.iscrowd)
    ]
    rows = fingerprint_of_rows(
        () if predictions else columns.categories,
        ids[row >= 0].tolist(),
        first[np.append(row >= 0, True)],
        [*fields, columns.score[segments]] if predictions else fields,
        () if len(annotated) or predictions else zip(images.id.tolist(), images.file_name, strict=True),
    )
    facts = Facts(
        version=VERSION,
        predictions=predictions,
        categories=columns.categories,
        n_images=len(ids),
        n_annotations=len(annotated),
        n_segments=len(segments),
        rows=rows,
        ids_sha256=hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
        order_sha256=hashlib.sha256(json.dumps(listing.tolist()).encode()).hexdigest(),
        in_order=bool((order == np.arange(len(order))).all()),
        has_scores=bool(np.isfinite(read.scores).any()),
        sources=sources,
        made_ns=made_ns,
        same_png=columns.same_png[:_MOST_GROUPS] if len(sources) == 1 else (),
        same_photograph=columns.same_photograph[:_MOST_GROUPS],
        own_categories=columns.own_categories,
    )
    names = [None if at < 0 else columns.file_names[at] for at in row.tolist()]
    return _arrow(read, ids, order, of_source, names, first, segments, fields), facts


def _arrow(
    read: SetColumns,
    ids: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    of_source: npt.NDArray[np.int32],
    names: list[str | None],
    first: npt.NDArray[np.int64],
    segments: npt.NDArray[np.int64],
    fields: Sequence[npt.NDArray[Any]],
) -> "pa.Table":
    import pyarrow as pa

    images = read.images
    listed_here = len(images.id) > 0
    boxes = read.boxes[segments]
    absent = np.isnan(boxes[:, :1]).all(axis=1)
    ends = np.concatenate([[0], np.cumsum(np.where(absent, 0, 4))]).astype(np.int32)
    bbox = pa.ListArray.from_arrays(pa.array(ends, mask=np.append(absent, False)), pa.array(boxes[~absent].reshape(-1)))
    scores = read.scores[segments]
    listing = pa.StructArray.from_arrays(
        [
            *map(pa.array, fields, (pa.int32(), pa.int32(), pa.int64(), pa.bool_())),
            pa.array(scores, mask=np.isnan(scores)),
            bbox,
        ],
        ["id", "category_id", "area", "iscrowd", "score", "bbox"],
    )
    zeros = np.zeros(len(ids), np.int32)
    files = [images.file_name[at] for at in order.tolist()] if listed_here else [""] * len(ids)
    return pa.table(
        {
            "image_id": ids,
            "place": order,
            "source": of_source[order],
            "file_name": pa.array(files, pa.string()),
            "height": images.height[order].astype(np.int32) if listed_here else zeros,
            "width": images.width[order].astype(np.int32) if listed_here else zeros,
            "png": pa.array(names, pa.string()),
            "segments": pa.LargeListArray.from_arrays(first, listing),
        }
    )


def _write(place: Path, table: "pa.Table", facts: Facts) -> None:
    import pyarrow.parquet

    size = max(ROW_GROUP_IMAGES, -(-len(table) // MOST_ROW_GROUPS))
    with atomic_write(place) as handle:
        pyarrow.parquet.write_table(
            table.replace_schema_metadata({_KEY: facts.to_bytes()}),
            handle,
            compression="zstd",
            row_group_size=size,
            write_statistics=["image_id"],
            store_schema=True,
        )


def _reopened(path: Path, prefixes: Sequence[str]) -> DatasetIndex:
    index = DatasetIndex(path)
    index.prefixes = prefixes
    return index


def _png_names(table: "pa.Table", prefixes: Sequence[str]) -> list[str | None]:
    names: list[str | None] = table.column("png").to_pylist()
    if not any(prefixes):
        return names
    sources = table.column("source").to_pylist()
    return [None if name is None else prefixes[source] + name for name, source in zip(names, sources, strict=True)]


def _rows_of(table: "pa.Table", boxes: bool, prefixes: Sequence[str]) -> IndexRows:
    """The columns of a table that was read of an index."""
    import pyarrow as pa

    lists = table.column("segments").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    first = offsets - offsets[0]
    segments = lists.values.slice(int(offsets[0]), int(first[-1]))

    def numbers(name: str, kind: Any) -> npt.NDArray[Any]:
        found = segments.field(name)
        return found.to_numpy(zero_copy_only=False).astype(kind, copy=False)

    box = np.full((len(segments), 4), np.nan)
    if boxes:
        lists_of_four = segments.field("bbox")
        has_box = np.diff(lists_of_four.offsets.to_numpy()) == 4
        box[has_box] = lists_of_four.flatten().to_numpy().reshape(-1, 4)
    return IndexRows(
        image_id=table.column("image_id").to_numpy(),
        source=table.column("source").to_numpy(),
        file_name=table.column("file_name").to_pylist(),
        height=table.column("height").to_numpy(),
        width=table.column("width").to_numpy(),
        png=_png_names(table, prefixes),
        first=first,
        id=numbers("id", np.int32),
        category_id=numbers("category_id", np.int32),
        area=numbers("area", np.int64),
        iscrowd=numbers("iscrowd", np.bool_),
        score=numbers("score", np.float64),
        boxes=box,
    )
