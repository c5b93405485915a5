"""Opens run folders: results/<run>/run.json has the record of a run, parts/*.parquet its overlap tables.

A part appears complete or not at all, so a killed run retains all chunks that it finished; the images of a run are read
from its parts. docs/run_folder.md has the schema.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panbench.base.errors import BadRun
from panbench.base.program import in_order
from panbench.base.reporter import SILENT, Reporter
from panbench.base.studies import names_in_studies
from panbench.panoptic.image_ids import TextId, own_id
from panbench.panoptic.overlap import GroundTruthFaults, OverlapTable, Pairs
from panbench.panoptic.parts import ROWS_AT_ONCE, LargeParts, read_parts, rows_of
from panbench.panoptic.types import Category
from panbench.runs.hashes import NO_HASHES, FileHashes
from panbench.runs.lock import is_locked
from panbench.runs.membership import Membership
from panbench.runs.record import RunInfo, read_info
from panbench.runs.replacing import explain_interrupted_replacement, explain_moved_run, home_of_replacement
from panbench.runs.study_tables import StudyTable

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from panbench.metrics.matched import Accumulator, Matched


class Run:
    """A finished or unfinished run: its run.json, and the overlap tables of its images.

    Parts are read when a table is first needed; `notices` lists the parts that could not be read.
    reporter: receives the progress of `accumulate` over many images; set it before the first call
    """

    def __init__(self, info: RunInfo, path: Path | None = None, table: OverlapTable | None = None) -> None:
        """Wraps the run in the folder `path`, or the in-memory `table` if there is no folder."""
        self.path = path
        self.info = info
        self.reporter: Reporter = SILENT
        self._given_table = table

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.info.status}, path={str(self.path)!r})"

    @property
    def name(self) -> str:
        """The run's name: its folder's, unless run.json gives another."""
        return self.info.name or (self.path.name if self.path else "run")

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of the ground truth, in the order of its JSON."""
        return self.info.categories

    @cached_property
    def _table_and_notices(self) -> tuple[OverlapTable, tuple[str, ...]]:
        """The overlap table of all Parquet files in parts/, and a message for each file that was left out."""
        if self._given_table is not None:
            return self._given_table, ()
        assert self.path is not None
        return read_parts(self.path / "parts", self.members.admit)

    @cached_property
    def _reader_of_large_run(self) -> LargeParts | None:
        """The reader of a run with too many rows to hold in memory; None for smaller runs."""
        if self.path is None or self._given_table is not None or rows_of(self.path / "parts") <= ROWS_AT_ONCE:
            return None
        return LargeParts(self.path / "parts", self.members.admit)

    @property
    def table(self) -> OverlapTable:
        """The overlap table of all images, in memory: gigabytes for a million images; `accumulate` needs far less."""
        return self._table_and_notices[0]

    @cached_property
    def members(self) -> Membership:
        """Returns the check of which Parquet files in parts/ belong to this run."""
        assert self.path is not None
        return Membership(self.path / "parts", self.info, self.info.parts)

    @cached_property
    def study_tables(self) -> Mapping[str, StudyTable]:
        """The tables that studies store next to parts/, by name of their folder; empty for a run in memory."""
        if self.path is None:
            return {}
        names = dict.fromkeys([*names_in_studies("tables"), *self.info.study_tables])
        return {name: StudyTable(self.path, name, self.info) for name in names}

    @property
    def notices(self) -> tuple[str, ...]:
        """A message for each Parquet file left out: missing, changed, damaged, another run's, or of repeated images."""
        if self.path is None or self._given_table is not None:
            return ()
        return self.members.missing() + (
            self._table_and_notices[1] if self._reader_of_large_run is None else self._reader_of_large_run.notices
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """A message for each Parquet file that run.json lists and that is missing or changed."""
        if self.path is None or self._given_table is not None:
            return ()
        listed = tuple(str(self.path / "parts" / record.name) for record in self.info.parts)
        return tuple(notice for notice in self.notices if notice.startswith(listed) and "repeats" not in notice)

    @property
    def shortfall(self) -> str | None:
        """Explains why the run lacks requested images although nothing is damaged; None if it has them all."""
        info, held, expected = self.info, len(self.images), self.info.images.expected
        if info.status == "done" and (expected is None or held == expected):
            return None
        state = {"done": "is incomplete", "running": "is still running or was killed"}.get(
            info.status, f"was {info.status}" if info.status == "interrupted" else info.status
        )
        skipped = f"; {info.images.skipped:,} could not be read" if info.images.skipped else ""
        return (
            f"{self.name} {state}: it holds {held:,} of {'?' if expected is None else f'{expected:,}'} images{skipped}."
        )

    @cached_property
    def files(self) -> FileHashes:
        """The hashes of the images and id PNGs that the run read, as far as it stored them."""
        if self.path is None or self._given_table is not None:
            return NO_HASHES
        return self.members.files()

    @cached_property
    def images(self) -> "npt.NDArray[np.int64]":
        """The ids of the images that were scored, ascending."""
        return self.table.image_ids if self._reader_of_large_run is None else self._reader_of_large_run.image_ids

    def image_ids(self) -> tuple[int, ...]:
        """Returns `images` as a tuple; ids that are text print as such."""
        return tuple(TextId(image) if own_id(image) != image else image for image in self.images.tolist())

    def require_images(self, purpose: str) -> None:
        """Raises BadRun if the run has no scored image; the message names lost or changed files.

        purpose: completes "there is nothing to …"
        """
        if not len(self.images):
            why = f" {' '.join(self.faults)}" if self.faults else ""
            raise BadRun(f"{self.name} holds no scored image, so there is nothing to {purpose}.{why}")

    def require_model(self, purpose: str) -> None:
        """Raises BadRun if the run scored stored predictions, so that panbench has no model.

        purpose: completes "there is no model to …"
        """
        if self.info.kind == "score":
            raise BadRun(f"{self.name} holds scored predictions: there is no model to {purpose}.")

    @property
    def in_chunks(self) -> bool:
        """True if the run has too many images to hold in memory, so that metrics read it chunk by chunk."""
        return self._reader_of_large_run is not None

    @property
    def has_boundary(self) -> bool:
        """True if boundary overlaps were stored."""
        return (
            self.table.boundary is not None if self._reader_of_large_run is None else self._reader_of_large_run.boundary
        )

    def accumulate(self, *accumulators: "Accumulator[Any]", images: "npt.NDArray[np.int64] | None" = None) -> None:
        """Computes several metrics in one pass: adds the run's images to each of `accumulators`.

        A run of up to about 50,000 images is one chunk, matched once. A larger one is read chunk by chunk on all cores,
        so memory grows only with what the metrics accumulate.
        images: ids of the images to add, ascending; None adds all
        """
        from panbench.metrics.matched import Matched

        def map_chunk(matched: Matched) -> list[Any]:
            """Computes what the requested images of a chunk add to the sums of each accumulator."""
            chosen = matched if images is None or len(images) == len(self.images) else matched.only(images)
            return [one.map_chunk(chosen) for one in accumulators]

        with ExitStack() as stack:
            if self._reader_of_large_run is None:
                found, total = iter([map_chunk(self.matched)]), 0
            else:
                chunks = stack.enter_context(self._reader_of_large_run.chunks())
                found = in_order([partial(lambda read: map_chunk(Matched.of(read())), read) for read in chunks])
                total = len(chunks)
            for number, parts in enumerate(found, start=1):
                for one, part in zip(accumulators, parts, strict=True):
                    one.add(part)
                if total:
                    images_done = len(self.images) * number // total
                    self.reporter.progress(f"Reading {self.name}", images_done, len(self.images))

    def segments(self) -> "pd.DataFrame":
        """Returns one row per segment: image_id, side ("gt" or "pred"), id, category_id, area, iscrowd, score."""
        import pandas as pd

        segments = self.table.segments
        others = ("id", "category_id", "area", "iscrowd", "score")
        return pd.DataFrame(
            {
                "image_id": segments.image_id,
                "side": np.where(segments.is_gt, "gt", "pred"),
                **{name: getattr(segments, name) for name in others},
            }
        )

    def overlaps(self) -> "pd.DataFrame":
        """Returns one row per pair of segments that share pixels: image_id, gt_id, pred_id (0 = void), pixels."""
        return _overlap_data_frame(self.table.overlaps)

    def boundary(self) -> "pd.DataFrame | None":
        """Returns `overlaps` of the pixels near boundaries; None if the run was made without them."""
        return None if self.table.boundary is None else _overlap_data_frame(self.table.boundary)

    @cached_property
    def matched(self) -> "Matched":
        """The matches of all segments, the input of every metric; computed once and cached."""
        from panbench.metrics.matched import Matched

        return Matched.of(self.table)

    def matched_of(self, image_ids: "Iterable[int]") -> "Matched":
        """Returns the matches of some images; of a large run, only the parts with these images are read."""
        from panbench.metrics.matched import Matched

        if self._reader_of_large_run is None or "matched" in vars(self):
            return self.matched.only(image_ids)
        requested = np.unique(np.fromiter(image_ids, np.int64))
        if self._cached_matched is not None and not len(
            np.setdiff1d(requested, self._cached_matched.image_ids, assume_unique=True)
        ):
            return self._cached_matched.only(requested)
        return Matched.of(self._reader_of_large_run.of_images(requested))

    _cached_matched: "Matched | None" = None

    def cache_matched(self, matched: "Matched") -> None:
        """Keeps the matched segments of some images in memory, so that `matched_of` need not read their files."""
        self._cached_matched = matched

    def pq(self, iou_threshold: float = 0.5, boundary: bool = False) -> "pd.DataFrame":
        """Returns one row per category with PQ, SQ, RQ, TP, FP and FN, as `metrics.pq.pq_table`.

        boundary: returns boundary PQ; raises BadArgument if the run was made without boundary overlaps
        """
        from panbench.metrics.pq import CategorySums

        sums = CategorySums(self.categories, [iou_threshold], boundary)
        self.accumulate(sums)
        return sums.table(iou_threshold)

    def ground_truth_faults(self) -> GroundTruthFaults:
        """Counts the images and segments in which a ground-truth PNG and its JSON disagree."""
        from panbench.metrics.matched import FaultAccumulator

        faults = FaultAccumulator()
        self.accumulate(faults)
        return faults.faults

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Returns PQ, SQ, RQ and n of All, Things and Stuff, computed from the tables (not read from run.json)."""
        return {group: dict(scores) for group, scores in self._mean_scores.items()}

    @cached_property
    def _mean_scores(self) -> dict[str, dict[str, float | int | None]]:
        """The mean PQ, SQ and RQ of All, Things and Stuff; computed once."""
        from panbench.metrics.pq import CategorySums

        sums = CategorySums(self.categories)
        self.accumulate(sums)
        return sums.summary()


def in_results(path: Path) -> Path:
    """Returns results/NAME for a bare name that exists only there; other paths are returned unchanged."""
    named = Path("results") / path
    return named if path.parent == Path() and path != Path() and not path.exists() and named.is_dir() else path


def load_run(path: str | os.PathLike[str], only: Collection[str] = ()) -> Run:
    """Opens the run in a folder (or of a run.json); a bare name is also looked up in results/.

    only: as in `read_info`
    Raises BadRun if there is no run, or it is foreign or of another schema.
    """
    folder = in_results(Path(path))
    if folder.name == "run.json" and not folder.is_dir():
        folder = folder.parent
    # Reading never renames: the next writer of the run, or `panbench runs finish`, completes the replacement.
    if message := explain_interrupted_replacement(folder) or explain_moved_run(folder):
        raise BadRun(f"{folder} is being replaced right now. Ask again." if is_locked(folder) else message)
    return Run(read_info(folder, only), folder)


def list_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Opens the runs in the subfolders of a folder, oldest first; unreadable runs and other folders are left out."""
    return read_runs(folder)[0]


def read_runs(folder: str | os.PathLike[str]) -> tuple[list[Run], list[str]]:
    """Opens the runs in the subfolders of a folder, oldest first; also returns a message for each unreadable run.

    While a run is being replaced, the old one is listed.
    """
    runs, problems = [], []
    found = {home_of_replacement(path) or path for path in Path(folder).glob("*") if looks_like_run(path)}
    for path in sorted(found):
        try:
            runs.append(load_run(path))
        except BadRun as problem:
            problems.append(str(problem))
    return sorted(runs, key=lambda run: (run.info.started or "", run.name)), problems


def looks_like_run(folder: Path) -> bool:
    """True if a folder has a run.json or parts, so that panbench wrote a run there."""
    return (folder / "run.json").exists() or next((folder / "parts").glob("*.parquet"), None) is not None


def _overlap_data_frame(pairs: Pairs) -> "pd.DataFrame":
    """Converts pixel counts of segment pairs to a DataFrame."""
    import pandas as pd

    return pd.DataFrame({name: getattr(pairs, name) for name in ("image_id", "gt_id", "pred_id", "pixels")})
