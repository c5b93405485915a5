"""What answers need of a run with too many images to hold: sums of all of them from one pass, and a sample as rows.

Scores, tests, causes and slices are quotients of sums over images, so a pass that adds them up block by block has them
of all images. Single images and errors are shown of a sample: SAMPLED of them, drawn at random.

A pass over a million images takes half a minute, so its result is kept in the cache folder, under a name made of the
SHA-256 of the run's parts, of its categories and of the code that adds up: whatever of these changes, another file is
asked for. A file that does not have the SHA-256 that it states is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse

from panbench import metrics
from panbench.base.errors import PanbenchError
from panbench.base.files import atomic_write, cache_dir
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import assign_causes, mistaken
from panbench.metrics.fixes import FixFold
from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import CategorySums, image_sums, panoptic_quality, summarise
from panbench.metrics.samples import Sample, SampleFold
from panbench.metrics.semantic import PixelFold
from panbench.metrics.slices import SLICINGS, SliceFold
from panbench.panoptic.overlap import OverlapTable, Pairs, Segments, concat
from panbench.panoptic.parts import part_files
from panbench.panoptic.types import Category
from panbench.runs import Run

__all__ = ["SAMPLED", "Folded", "folded", "keep_sums", "known_summary", "sample_of"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SAMPLED = 10_000
"""So many images at most are shown one by one."""

KEPT = 12
"""So many files stay in the cache folder, those that were used last. One of a million images has some 30 MB."""

_HEAD = b"panbench folded 1\n"


@dataclass(frozen=True)
class Folded:
    """What one pass over a run gives.

    table: `pq_table`; segments: (categories,) true segments, crowds left out; lost: `lost_pq`; cells: `cells_to_fix`
    errors: how many single errors there are; now: Σ IoU and TP + (FP + FN)/2 of each category, as `priced_errors` takes
    slices: `pq_by` of each of SLICINGS; pixels: `confusion`; mistaken: `metrics.errors.mistaken`
    sample: what resampling takes; scores: PQ of each image by itself, NaN where it has none
    rows: the tables of the images of `sample_of`; seconds: how long the pass took
    """

    table: pd.DataFrame
    segments: Int
    lost: pd.DataFrame
    cells: pd.DataFrame
    errors: int
    now: tuple[Float, Float]
    slices: dict[str, pd.DataFrame]
    pixels: pd.DataFrame
    mistaken: pd.DataFrame
    sample: Sample
    scores: Float
    rows: OverlapTable
    seconds: float


_known: weakref.WeakKeyDictionary[Run, dict[bytes, Folded]] = weakref.WeakKeyDictionary()


def folded(run: Run, images: Int | None = None, reporter: Reporter = SILENT) -> Folded:
    """The sums of a run on some of its images, ascending; None: on all. Those of all images are kept on disk."""
    ids = run.images if images is None else images
    asked = hashlib.sha256(ids.tobytes()).digest()
    of_run = _known.setdefault(run, {})
    if asked not in of_run:
        whole = len(ids) == len(run.images)
        of_run[asked] = (whole and _kept(run)) or _passed(run, ids, reporter, keep=whole)
    return of_run[asked]


def keep_sums(run: Run, reporter: Reporter = SILENT) -> None:
    """Adds up a run that has just ended, if it is a large one: `report` and `serve` then open it in seconds."""
    if run.in_blocks and _path(run) is not None:
        folded(run, reporter=reporter)


def known_summary(run: Run) -> dict[str, dict[str, float | int | None]]:
    """`Run.summary`, without a pass where the sums of the run are known."""
    if not run.in_blocks:
        return run.summary()
    asked = hashlib.sha256(run.images.tobytes()).digest()
    of_run = _known.setdefault(run, {})
    if asked not in of_run and (found := _kept(run)) is not None:
        of_run[asked] = found
    return summarise(of_run[asked].table) if asked in of_run else run.summary()


def sample_of(images: Int) -> Int:
    """SAMPLED of the images, drawn at random, always the same of as many; all where there are no more.

    Every k-th image would show one camera of six, or one frame of a loop.
    """
    if len(images) <= SAMPLED:
        return images
    return images[np.sort(np.random.default_rng(0).choice(len(images), SAMPLED, replace=False))]


def _passed(run: Run, images: Int, reporter: Reporter, keep: bool) -> Folded:
    began = time.perf_counter()
    stamp = _stamp(run)
    path = _path(run) if keep else None
    run.reporter = reporter
    categories = run.categories
    sums, sample, pixels = CategorySums(categories), SampleFold(categories, images), PixelFold(categories)
    fixes, rest = FixFold(categories, images, of_images=False), _Rest(categories, images)
    slices = {name: SliceFold(categories, name) for name in SLICINGS}
    run.fold(sums, fixes, sample, pixels, rest, *slices.values(), images=images)
    found = Folded(
        table=sums.table(),
        segments=rest.segments,
        lost=fixes.explained.lost(),
        cells=fixes.cells(),
        errors=fixes.errors(),
        now=fixes.now(),
        slices={name: one.table() for name, one in slices.items()},
        pixels=pixels.confusion(),
        mistaken=rest.mistaken(),
        sample=sample.result(),
        scores=np.concatenate(rest.scores),
        rows=concat(rest.rows),
        seconds=time.perf_counter() - began,
    )
    if path is not None and _stamp(run) == stamp:
        # A cache folder that cannot be written costs time and no answer.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as handle:
                handle.write(_packed(found))
            _forget(path.parent)
            words = "Its sums are kept in the cache folder: opening it again takes seconds."
            reporter.notice(f"{run.name}: reading {len(images):,} images took {found.seconds:.0f} s. {words}")
    return found


class _Rest:
    """What no other fold has: see the fields of `Folded`; a `Fold`."""

    def __init__(self, categories: Sequence[Category], images: Int) -> None:
        self.categories = tuple(categories)
        self.sampled = sample_of(images)
        self.segments = np.zeros(len(self.categories), np.int64)
        self.scores: list[Float] = []
        self.rows: list[OverlapTable] = []
        self._mistaken: list[pd.DataFrame] = []

    def look(self, matched: Matched) -> tuple[Int, Float, OverlapTable, pd.DataFrame]:
        """What a block of images adds."""
        segments = matched.segments
        true = segments.category_id[segments.is_gt & ~segments.iscrowd]
        number = np.bincount(positions(true, self.categories), minlength=len(self.categories))
        image_id, _, sums = image_sums(matched)
        place = np.searchsorted(matched.image_ids, image_id)
        quality = panoptic_quality(sums.iou_sum, sums.TP, sums.mistakes)
        held = np.bincount(place, minlength=len(matched.image_ids))
        scores = np.full(len(held), np.nan)
        np.divide(np.bincount(place, quality, len(held)), held, out=scores, where=held > 0)
        some = matched.only(np.intersect1d(self.sampled, matched.image_ids))
        errors = assign_causes(matched, self.categories)
        return number, scores, OverlapTable(some.segments, some.overlaps, some.boundary), mistaken(errors, matched)

    def add(self, part: tuple[Int, Float, OverlapTable, pd.DataFrame]) -> None:
        """Adds it."""
        number, scores, rows, mistaken_ones = part
        self.segments += number
        self.scores.append(scores)
        self.rows.append(rows)
        self._mistaken.append(mistaken_ones)

    def mistaken(self) -> pd.DataFrame:
        """`mistaken` of all blocks."""
        keys = ["category_id", "predicted"]
        return pd.concat(self._mistaken).groupby(keys, as_index=False)["objects"].sum()


def _stamp(run: Run) -> list[tuple[str, int, int]]:
    """What changes when the parts do."""
    if run.path is None:
        return []
    states = ((part.name, part.stat()) for part in part_files(run.path / "parts"))
    return [(name, state.st_mtime_ns, state.st_size) for name, state in states]


def _path(run: Run) -> Path | None:
    """The file that keeps the sums of a run; None of a run that is unfinished, damaged, or in memory."""
    if run.path is None or run.info.status != "done" or run.notices:
        return None
    parts = [(part.name, run.members.sha256(part)) for part in part_files(run.path / "parts")]
    categories = [[one.id, one.name, one.isthing, one.supercategory] for one in run.categories]
    said = json.dumps([_code(), SAMPLED, parts, categories])
    with contextlib.suppress(PanbenchError):
        return cache_dir() / "folded" / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.sums"
    return None


@cache
def _code() -> str:
    """The SHA-256 of the code that adds up: other code may have other numbers."""
    of_metrics = Path(metrics.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*of_metrics.glob("*.py"), *(of_metrics.parent / "panoptic").glob("*.py"), Path(__file__)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _kept(run: Run) -> Folded | None:
    """The sums that an earlier pass left, if they are whole."""
    path = _path(run)
    if path is None:
        return None
    try:
        found = _unpacked(path.read_bytes(), run)
        path.touch()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _forget(folder: Path) -> None:
    """Removes all but the KEPT files that were used last."""
    files = sorted(folder.glob("*.sums"), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-KEPT]:
        path.unlink(missing_ok=True)


_FRAMES = ("table", "lost", "cells", "mistaken", "pixels")


def _packed(found: Folded) -> bytes:
    import pyarrow as pa

    frames = {name: _record(getattr(found, name)) for name in _FRAMES}
    slices = {name: _record(table) for name, table in found.slices.items()}
    facts = {"errors": found.errors, "seconds": found.seconds, "frames": frames, "slices": slices}
    arrays: dict[str, npt.NDArray[Any]] = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "segments": found.segments,
        "iou": found.now[0],
        "whole": found.now[1],
        "scores": found.scores,
    }
    held, sums = found.sample.held, found.sample.sums
    sparse = {"held": held} if isinstance(sums, np.ndarray) else {"held": held, "sums": sums}
    for name, table in sparse.items():
        arrays |= {f"{name}.{part}": getattr(table, part) for part in ("data", "indices", "indptr")}
        arrays[f"{name}.shape"] = np.array(table.shape)
    if isinstance(sums, np.ndarray):
        arrays["sums"] = sums
    for side in ("segments", "overlaps", "boundary"):
        if (columns := getattr(found.rows, side)) is not None:
            arrays |= {f"rows.{side}.{field.name}": getattr(columns, field.name) for field in fields(columns)}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    raw = content.getvalue()
    packed = pa.compress(raw, codec="zstd", asbytes=True)
    return _HEAD + len(raw).to_bytes(8, "big") + hashlib.sha256(packed).digest() + packed


def _unpacked(content: bytes, run: Run) -> Folded:
    """Raises ValueError for content that is torn or not ours."""
    import pyarrow as pa

    start = len(_HEAD) + 8 + 32
    size, digest, packed = content[len(_HEAD) : start - 32], content[start - 32 : start], content[start:]
    if content[: len(_HEAD)] != _HEAD or hashlib.sha256(packed).digest() != digest:
        raise ValueError("not a file of sums")
    raw = pa.decompress(packed, int.from_bytes(size, "big"), codec="zstd", asbytes=True)
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        frames = {name: _frame(record) for name, record in facts["frames"].items()}

        def sparse(name: str) -> scipy.sparse.csr_array:
            data, indices, indptr = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
            return scipy.sparse.csr_array((data, indices, indptr), shape=tuple(arrays[f"{name}.shape"].tolist()))

        def columns(kind: type[Any], side: str) -> Any:
            return kind(*(arrays[f"rows.{side}.{field.name}"] for field in fields(kind)))

        has_boundary = "rows.boundary.image_id" in arrays
        sums = arrays["sums"] if "sums" in arrays else sparse("sums")
        return Folded(
            table=frames["table"],
            segments=arrays["segments"],
            lost=frames["lost"],
            cells=frames["cells"],
            errors=facts["errors"],
            now=(arrays["iou"], arrays["whole"]),
            slices={name: _frame(record) for name, record in facts["slices"].items()},
            pixels=frames["pixels"],
            mistaken=frames["mistaken"],
            sample=Sample(run.images, sums, sparse("held"), run.categories, (), None),
            scores=arrays["scores"],
            rows=OverlapTable(
                columns(Segments, "segments"),
                columns(Pairs, "overlaps"),
                columns(Pairs, "boundary") if has_boundary else None,
            ),
            seconds=facts["seconds"],
        )


def _record(table: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON keeps it: floats in all digits, what is missing as NaN or null."""
    index = None if isinstance(table.index, pd.RangeIndex) else [table.index.name, table.index.tolist()]
    columns = [[name, str(table[name].dtype), table[name].tolist()] for name in table.columns]
    return {"index": index, "name": table.columns.name, "columns": columns}


def _frame(record: dict[str, Any]) -> pd.DataFrame:
    names = [name for name, _, _ in record["columns"]]
    columns = [pd.Series(values, dtype=kind) for _, kind, values in record["columns"]]
    table = pd.concat(columns, axis=1, keys=range(len(names))) if columns else pd.DataFrame()
    table.columns = pd.Index(names, dtype=object if any(isinstance(name, int) for name in names) else None)
    table.columns.name = record["name"]
    if record["index"] is not None:
        name, values = record["index"]
        table.index = pd.Index(values, name=name)
    return table
