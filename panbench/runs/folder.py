"""The run folder: results/<run>/run.json says what was run, parts/*.parquet hold its overlap tables.

A part appears whole or not at all, so a killed run keeps all blocks that it finished; which images a run holds is read
from its parts. docs/design.md has the schema.
"""

import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panbench.base.errors import BadRun
from panbench.base.files import write_json
from panbench.panoptic.overlap import GroundTruthFaults, OverlapTable, Pairs
from panbench.panoptic.parts import (
    ROWS_AT_ONCE,
    LargeParts,
    compact,
    in_order,
    part_files,
    read_parts,
    rows_of,
    write_part,
)
from panbench.panoptic.types import Category
from panbench.runs.record import SCHEMA, STATUSES, RunInfo, SummaryRecord, read_info

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from panbench.metrics.matched import Fold, Matched

__all__ = ["Run", "RunWriter", "check_room", "list_runs", "load_run"]

_TEMPORARY = re.compile(r"\..+\.tmp")


class Run:
    """A finished or unfinished run: what run.json says, and the overlap tables of its images.

    Parts are read when a table is first asked for. `notices` names what could not be read and was left out.
    """

    def __init__(self, info: RunInfo, path: Path | None = None, table: OverlapTable | None = None) -> None:
        """A run of the folder `path`, or of `table`, held in memory, when there is no folder."""
        self.path = path
        self.info = info
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
        return read_parts(self.path / "parts")

    @cached_property
    def _large(self) -> LargeParts | None:
        """The parts, if they are too many rows to be held at once; None of other runs."""
        if self.path is None or self._given_table is not None or rows_of(self.path / "parts") <= ROWS_AT_ONCE:
            return None
        return LargeParts(self.path / "parts")

    @property
    def table(self) -> OverlapTable:
        """All rows of the run, in memory: of a million images some gigabytes, where `fold` needs a few hundred MB."""
        return self._parts[0]

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each part that is torn, foreign or repeats an image: it was left out."""
        return self._parts[1] if self._large is None else self._large.notices

    @cached_property
    def images(self) -> "npt.NDArray[np.int64]":
        """The ids of the images that were scored, ascending."""
        return self.table.image_ids if self._large is None else self._large.image_ids

    def image_ids(self) -> tuple[int, ...]:
        """`images` as a tuple."""
        return tuple(self.images.tolist())

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
                found = iter([look(self.matched)])
            else:
                blocks = stack.enter_context(self._large.blocks())
                found = in_order([partial(lambda read: look(Matched.of(read())), read) for read in blocks])
            for parts in found:
                for one, part in zip(folds, parts, strict=True):
                    one.add(part)

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
        """As `overlaps`, of the pixels near boundaries; None when the run was made without them."""
        return None if self.table.boundary is None else _frame(self.table.boundary)

    @cached_property
    def matched(self) -> "Matched":
        """The matches of all segments, which every metric takes; made when first asked for, and kept."""
        from panbench.metrics.matched import Matched

        return Matched.of(self.table)

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
        from panbench.metrics.pq import summarise

        return summarise(self.pq())


class RunWriter:
    """Writes a run folder. One writer a process; several processes may write parts of different ranks."""

    def __init__(self, path: Path, info: RunInfo, done: frozenset[int], notices: tuple[str, ...]) -> None:
        """Use `create`, `resume` or `attach`."""
        self.path = path
        self.info = info
        self.done = done
        self.notices = notices
        self._next: dict[int, int] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str], info: RunInfo, overwrite: bool = False) -> "RunWriter":
        """Makes the folder and its run.json with status "running".

        info: what is known by now; schema, panbench, status, and name and started where they are absent, are filled in
        overwrite: replaces a run that is already there; only files that a run writes are removed
        Raises BadRun when the folder holds another run (unless `overwrite`) or anything else.
        """
        from panbench import __version__

        path = Path(path)
        _make_room(path, overwrite)
        content = replace(
            info,
            schema=SCHEMA,
            panbench=__version__,
            name=info.name or path.absolute().name,
            status="running",
            started=info.started or _now(),
        )
        writer = cls(path, content, frozenset(), ())
        try:
            writer._save()
            (path / "parts").mkdir(exist_ok=True)
        except OSError as problem:
            raise BadRun(f"{path} cannot be written: {problem.strerror or problem}.") from None
        return writer

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> "RunWriter":
        """Goes on with a run: `done` holds the ids of the images in its readable parts, `notices` the parts left out.

        Raises BadRun when there is no run, or it is of another schema.
        """
        run = load_run(path)
        assert run.path is not None
        writer = cls(run.path, run.info, frozenset(run.images.tolist()), run.notices)
        (run.path / "parts").mkdir(exist_ok=True)
        writer.update(status="running", error=None, finished=None)
        return writer

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> "RunWriter":
        """Writes parts into a run that another process made (a further rank); run.json is left to that process."""
        run = load_run(path)
        assert run.path is not None
        return cls(run.path, run.info, frozenset(run.images.tolist()), run.notices)

    def write_part(self, table: OverlapTable, rank: int = 0) -> Path:
        """Writes the table of a block of images as a new part, which appears whole or not at all; its path."""
        folder = self.path / "parts"
        if rank not in self._next:
            taken = [
                int(part.stem.split("-")[1]) for part in part_files(folder) if int(part.stem.split("-")[0]) == rank
            ]
            self._next[rank] = max(taken, default=-1) + 1
        target = folder / f"{rank:04d}-{self._next[rank]:06d}.parquet"
        write_part(target, table)
        self._next[rank] += 1
        return target

    def update(self, **changes: Any) -> None:
        """Replaces fields of run.json."""
        self.info = replace(self.info, **changes)
        self._save()

    def finish(self, status: str, **updates: Any) -> Run:
        """Closes the run with its last status ("done", "interrupted" or "failed") and further fields; the run.

        `summary` is computed from the parts unless it is given. The many small parts of a long run that is done are
        joined to few.
        """
        if status not in STATUSES[1:]:
            raise ValueError(f"status must be one of {', '.join(STATUSES[1:])}, not {status!r}")
        if status == "done":
            compact(self.path / "parts")
        if "summary" not in updates:
            run = Run(self.info, self.path)
            updates["summary"] = SummaryRecord.of(run.summary()) if len(run.images) else None
        self.update(**{"status": status, "finished": _now(), **updates})
        return Run(self.info, self.path)

    def _save(self) -> None:
        write_json(self.path / "run.json", self.info.to_json())


def load_run(path: str | os.PathLike[str]) -> Run:
    """The run in a folder (or of a run.json). Raises BadRun when there is none, it is foreign or of a newer schema."""
    folder = Path(path)
    if folder.name == "run.json" and not folder.is_dir():
        folder = folder.parent
    return Run(read_info(folder), folder)


def list_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs in the subfolders of `folder`, oldest first; subfolders without a readable run are passed over."""
    runs = []
    for path in sorted(Path(folder).glob("*/run.json")):
        try:
            runs.append(load_run(path.parent))
        except BadRun:
            continue
    return sorted(runs, key=lambda run: (run.info.started or "", run.name))


def check_room(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raises BadRun when a run cannot be written to `path`: it holds another run (unless `overwrite`) or else."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise BadRun(f"{path} is a file; give a folder for the run.")
    if _is_free(path):
        return
    try:
        read_info(path)
    except BadRun as problem:
        raise BadRun(f"{path} is in the way and is not ours to overwrite; give another folder. ({problem})") from None
    if not overwrite:
        raise BadRun(f"{path} holds another run. Give another folder, or --overwrite to replace it.")
    if strangers := _strangers(path):
        raise BadRun(f"{strangers[0]} is not ours to overwrite; move it away first.")


def _make_room(path: Path, overwrite: bool) -> None:
    """Makes `path` a folder without a run, or raises BadRun."""
    check_room(path, overwrite)
    if not _is_free(path):
        _remove_run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BadRun(f"{path} cannot be made: {problem.strerror or problem}.") from None


def _is_free(path: Path) -> bool:
    """Whether nothing stands at `path` but, at most, what a process left that was killed while it wrote run.json."""
    return not path.is_dir() or all(_TEMPORARY.fullmatch(entry.name) for entry in path.iterdir())


def _strangers(path: Path) -> list[Path]:
    """What stands among the predictions of a run but is no id PNG."""
    predictions = path / "predictions"
    if predictions.is_symlink():
        return [predictions]
    inside = predictions.rglob("*") if predictions.is_dir() else ()
    return [entry for entry in inside if entry.is_symlink() or not (entry.is_dir() or entry.suffix in (".png", ".tmp"))]


def _remove_run(path: Path) -> None:
    """Removes the files of a run. Killed at any point, the rest is a run that says it is not whole."""
    info = replace(read_info(path), status="failed", error="Was being overwritten.", summary=None)
    write_json(path / "run.json", info.to_json())
    for part in part_files(path / "parts"):
        part.unlink()
    for temporary in (*path.glob(".*.tmp"), *(path / "parts").glob(".*.tmp")):
        temporary.unlink()
    if (path / "predictions").is_dir():
        shutil.rmtree(path / "predictions")
    (path / "predictions.json").unlink(missing_ok=True)


def _frame(pairs: Pairs) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {"image_id": pairs.image_id, "gt_id": pairs.gt_id, "pred_id": pairs.pred_id, "pixels": pairs.pixels}
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
