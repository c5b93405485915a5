"""The run folder: results/<run>/run.json records what was run, parts/*.parquet hold its overlap tables.

A part appears whole or not at all, so a killed run keeps all blocks that it finished; which images a run holds is read
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
from panbench.base.reporter import SILENT, Reporter
from panbench.base.studies import named
from panbench.panoptic.image_ids import TextId, own_id
from panbench.panoptic.overlap import GroundTruthFaults, OverlapTable, Pairs
from panbench.panoptic.parts import ROWS_AT_ONCE, LargeParts, in_order, read_parts, rows_of
from panbench.panoptic.types import Category
from panbench.runs.hashes import NO_HASHES, FileHashes
from panbench.runs.lock import is_locked
from panbench.runs.membership import Membership
from panbench.runs.record import RunInfo, read_info
from panbench.runs.replacing import cut_short, moved_away, replaced_home
from panbench.runs.side_tables import SideTable

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from panbench.metrics.matched import Fold, Matched

__all__ = ["Run", "in_results", "list_runs", "load_run", "looks_like_run"]


class Run:
    """A finished or unfinished run: its run.json, and the overlap tables of its images.

    Parts are read when a table is first asked for. `notices` names what could not be read and was left out.
    reporter: gets the progress of `fold` over many images; set it before asking
    """

    def __init__(self, info: RunInfo, path: Path | None = None, table: OverlapTable | None = None) -> None:
        """A run of the folder `path`, or of `table`, held in memory, when there is no folder."""
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
    def _parts(self) -> tuple[OverlapTable, tuple[str, ...]]:
        if self._given_table is not None:
            return self._given_table, ()
        assert self.path is not None
        return read_parts(self.path / "parts", self.members.admit)

    @cached_property
    def _large(self) -> LargeParts | None:
        """The parts, if they are too many rows to be held at once; None of other runs."""
        if self.path is None or self._given_table is not None or rows_of(self.path / "parts") <= ROWS_AT_ONCE:
            return None
        return LargeParts(self.path / "parts", self.members.admit)

    @property
    def table(self) -> OverlapTable:
        """All rows of the run, in memory: of a million images some gigabytes, where `fold` needs a few hundred MB."""
        return self._parts[0]

    @cached_property
    def members(self) -> Membership:
        """Which files in parts/ are this run's."""
        assert self.path is not None
        return Membership(self.path / "parts", self.info, self.info.parts)

    @cached_property
    def side_tables(self) -> Mapping[str, SideTable]:
        """What studies keep beside the parts, by the folder's name, empty where the run has none; {} in memory."""
        if self.path is None:
            return {}
        names = dict.fromkeys([*named("tables"), *self.info.side_tables])
        return {name: SideTable(self.path, name, self.info) for name in names}

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each part that is missing, changed, torn, foreign or repeats an image: it was left out."""
        if self.path is None or self._given_table is not None:
            return ()
        return self.members.missing() + (self._parts[1] if self._large is None else self._large.notices)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the tables are not those that the run wrote: one sentence for each part that is missing or changed."""
        if self.path is None or self._given_table is not None:
            return ()
        listed = tuple(str(self.path / "parts" / record.name) for record in self.info.parts)
        return tuple(notice for notice in self.notices if notice.startswith(listed) and "repeats" not in notice)

    @property
    def shortfall(self) -> str | None:
        """Why the run lacks images that were asked for, without any damage; None when it has them all."""
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
        """The hashes of the images and id PNGs that were read, as far as the run stored them."""
        if self.path is None or self._given_table is not None:
            return NO_HASHES
        return self.members.files()

    @cached_property
    def images(self) -> "npt.NDArray[np.int64]":
        """The ids of the images that were scored, ascending."""
        return self.table.image_ids if self._large is None else self._large.image_ids

    def image_ids(self) -> tuple[int, ...]:
        """`images` as a tuple."""
        return tuple(TextId(image) if own_id(image) != image else image for image in self.images.tolist())

    def require_images(self, purpose: str) -> None:
        """Raises BadRun for a run without a scored image, with the part that is lost or changed, if that is why.

        purpose: completes "there is nothing to …"
        """
        if not len(self.images):
            why = f" {' '.join(self.faults)}" if self.faults else ""
            raise BadRun(f"{self.name} holds no scored image, so there is nothing to {purpose}.{why}")

    @property
    def in_blocks(self) -> bool:
        """Whether the run has so many images that `fold` reads it block by block."""
        return self._large is not None

    @property
    def has_boundary(self) -> bool:
        """Whether boundary overlaps were stored."""
        return self.table.boundary is not None if self._large is None else self._large.boundary

    def fold(self, *folds: "Fold[Any]", images: "npt.NDArray[np.int64] | None" = None) -> None:
        """Adds the images of the run to some metrics, all in one go.

        A run of up to some 50,000 images is one block, matched once. A larger one is read block by block on all cores,
        so memory does not grow with it but for what the metrics keep. images: only these, ascending.
        """
        from panbench.metrics.matched import Matched

        def look(matched: Matched) -> list[Any]:
            chosen = matched if images is None or len(images) == len(self.images) else matched.only(images)
            return [one.look(chosen) for one in folds]

        with ExitStack() as stack:
            if self._large is None:
                found, total = iter([look(self.matched)]), 0
            else:
                blocks = stack.enter_context(self._large.blocks())
                found = in_order([partial(lambda read: look(Matched.of(read())), read) for read in blocks])
                total = len(blocks)
            for number, parts in enumerate(found, start=1):
                for one, part in zip(folds, parts, strict=True):
                    one.add(part)
                if total:
                    images_done = len(self.images) * number // total
                    self.reporter.progress(f"Reading {self.name}", images_done, len(self.images))

    def segments(self) -> "pd.DataFrame":
        """One row a segment: image_id, side ("gt" or "pred"), id, category_id, area, iscrowd, score."""
        import pandas as pd

        segments = self.table.segments
        return pd.DataFrame(
            {
                "image_id": segments.image_id,
                "side": np.where(segments.is_gt, "gt", "pred"),
                "id": segments.id,
                "category_id": segments.category_id,
                "area": segments.area,
                "iscrowd": segments.iscrowd,
                "score": segments.score,
            }
        )

    def overlaps(self) -> "pd.DataFrame":
        """One row a pair of segments that share pixels: image_id, gt_id, pred_id (0 = void), pixels."""
        return _frame(self.table.overlaps)

    def boundary(self) -> "pd.DataFrame | None":
        """Like `overlaps`, for the pixels near boundaries; None when the run was made without them."""
        return None if self.table.boundary is None else _frame(self.table.boundary)

    @cached_property
    def matched(self) -> "Matched":
        """The matches of all segments, which every metric takes; made when first asked for, and kept."""
        from panbench.metrics.matched import Matched

        return Matched.of(self.table)

    def matched_of(self, image_ids: "Iterable[int]") -> "Matched":
        """The matches of some images; of a large run only the parts that hold them are read."""
        from panbench.metrics.matched import Matched

        if self._large is None or "matched" in vars(self):
            return self.matched.only(image_ids)
        wanted = np.unique(np.fromiter(image_ids, np.int64))
        if self._kept is not None and not len(np.setdiff1d(wanted, self._kept.image_ids, assume_unique=True)):
            return self._kept.only(wanted)
        return Matched.of(self._large.of_images(wanted))

    _kept: "Matched | None" = None

    def keep(self, matched: "Matched") -> None:
        """Keeps the matches of some images, so that `matched_of` reads no part for them."""
        self._kept = matched

    def pq(self, iou_threshold: float = 0.5, boundary: bool = False) -> "pd.DataFrame":
        """PQ, SQ, RQ, TP, FP, FN of each category: `metrics.pq.pq_table` of this run; boundary PQ if asked for.

        Raises BadArgument when boundary PQ is asked for and the run was made without boundary overlaps.
        """
        from panbench.metrics.pq import CategorySums

        sums = CategorySums(self.categories, [iou_threshold], boundary)
        self.fold(sums)
        return sums.table(iou_threshold)

    def ground_truth_faults(self) -> GroundTruthFaults:
        """Counts where ground-truth PNGs and their JSON disagree."""
        from panbench.metrics.matched import FaultFold

        faults = FaultFold()
        self.fold(faults)
        return faults.faults

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """PQ, SQ, RQ and n of All, Things and Stuff, from the tables (run.json keeps what the run itself found)."""
        return {group: dict(scores) for group, scores in self._summary.items()}

    @cached_property
    def _summary(self) -> dict[str, dict[str, float | int | None]]:
        from panbench.metrics.pq import CategorySums

        sums = CategorySums(self.categories)
        self.fold(sums)
        return sums.summary()


def in_results(path: Path) -> Path:
    """A folder; one in results/ where a name alone is given and only there is such a folder."""
    named = Path("results") / path
    return named if path.parent == Path() and path != Path() and not path.exists() and named.is_dir() else path


def load_run(path: str | os.PathLike[str], only: Collection[str] = ()) -> Run:
    """The run in a folder (or of a run.json); a name alone is looked up in results/, too.

    only: as of `read_info`
    Raises BadRun when there is none, it is foreign or of another schema.
    """
    folder = in_results(Path(path))
    if folder.name == "run.json" and not folder.is_dir():
        folder = folder.parent
    # Reading never renames: whoever writes the run next, or `panbench runs finish`, ends what was cut short.
    if sentence := cut_short(folder) or moved_away(folder):
        raise BadRun(f"{folder} is being replaced right now. Ask again." if is_locked(folder) else sentence)
    return Run(read_info(folder, only), folder)


def list_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs in the subfolders of `folder`, oldest first; others, and runs that cannot be read, are left out."""
    return read_runs(folder)[0]


def read_runs(folder: str | os.PathLike[str]) -> tuple[list[Run], list[str]]:
    """The runs in the subfolders of `folder`, oldest first, and a sentence for each run that cannot be read.

    A run that is to replace another one is not listed: until it has, the old one is.
    """
    runs, problems = [], []
    found = {replaced_home(path) or path for path in Path(folder).glob("*") if looks_like_run(path)}
    for path in sorted(found):
        try:
            runs.append(load_run(path))
        except BadRun as problem:
            problems.append(str(problem))
    return sorted(runs, key=lambda run: (run.info.started or "", run.name)), problems


def looks_like_run(folder: Path) -> bool:
    """Whether panbench wrote a run here, though its run.json may be lost."""
    return (folder / "run.json").exists() or next((folder / "parts").glob("*.parquet"), None) is not None


def _frame(pairs: Pairs) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {"image_id": pairs.image_id, "gt_id": pairs.gt_id, "pred_id": pairs.pred_id, "pixels": pairs.pixels}
    )
