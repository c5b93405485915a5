"""Looks at pairs of id PNGs: which segments share pixels, by threads of this process."""

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.reporter import Reporter
from panbench.base.text import listed
from panbench.panoptic import pixels
from panbench.panoptic.boundary import boundary_pairs
from panbench.panoptic.idmap import IdRuns, count_run_pairs, decode_id_runs
from panbench.panoptic.native import native
from panbench.panoptic.overlap import OverlapTable, Pairs, tabulate
from panbench.panoptic.types import AnnotationColumns
from panbench.runs import FileHashes
from panbench.scoring.pairing import MOST_TOLD, Paired, Plan

__all__ = [
    "PART_IMAGES",
    "CountSettings",
    "Counted",
    "CountedBlock",
    "Counter",
    "Fault",
    "count_images",
    "in_order",
    "told_faults",
]

# Images per task: enough that scheduling costs nothing, few enough that progress is smooth.
_IMAGES_A_TASK = 16
# So many tasks are handed out beyond the one that is waited for.
_TASKS_AHEAD = 256

PART_IMAGES = 1000
"""Images of a block: what a killed run loses at most, and what is held of the overlaps of a long one."""


@dataclass(frozen=True)
class Fault:
    """A PNG that cannot be scored, and why: a predicate and what to do."""

    path: Path
    image_id: int
    what: str

    def __str__(self) -> str:
        return f"{self.path} (image {self.image_id}) {self.what}"

    @property
    def kind(self) -> str:
        """What faults of one kind share: sizes differ from image to image."""
        return re.sub(r"\d+", "#", self.what)


def told_faults(faults: Sequence[Fault], side: str, columns: AnnotationColumns) -> list[str]:
    """A sentence for each fault; one for each kind of which there are more than a screen takes."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    told = []
    for alike in kinds.values():
        if len(alike) <= MOST_TOLD:
            told += [str(fault) for fault in alike]
            continue
        images = listed([fault.image_id for fault in alike])
        if len(alike) == len(columns) and " is #×# but" in f" {alike[0].kind}":
            told.append(
                "Likely cause: the predictions are of other images, or have the network's size, not the image's."
            )
        told.append(f"{len(alike):,} {side} PNGs have the same fault, images {images}. The first: {alike[0]}")
    return told


@dataclass(frozen=True)
class CountSettings:
    """How PNGs are looked at. index: by the index of decoded ground truth, which is kept beside its JSON"""

    threads: int
    boundary: bool
    max_pixels: int


@dataclass(frozen=True)
class CountedBlock:
    """What was found in the PNGs of some images: rows and hashes of those that could be decoded, faults of others."""

    table: OverlapTable
    files: FileHashes
    gt_faults: "Sequence[Fault]"
    prediction_faults: "Sequence[Fault]"


@dataclass
class Counted:
    """The result of one pass over the PNGs: counted pairs of each image, and a sentence for each unusable PNG."""

    pairs: list[tuple[int, "_Counts"]] = field(default_factory=list)
    boundary: list[tuple[int, "_Counts"]] = field(default_factory=list)
    files: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    predictions: list[bytes] = field(default_factory=list)
    gt_faults: "list[Fault]" = field(default_factory=list)
    prediction_faults: "list[Fault]" = field(default_factory=list)

    def add(self, image_id: int, answer: "Answer") -> None:
        if answer.gt_fault:
            self.gt_faults.append(answer.gt_fault)
        elif answer.prediction_fault:
            self.prediction_faults.append(answer.prediction_fault)
        if answer.counts is not None:
            self.pairs.append((image_id, answer.counts))
            self.files.append((image_id, b"", answer.sha))
            self.predictions.append(answer.pred_sha)
        if answer.boundary is not None:
            self.boundary.append((image_id, answer.boundary))

    def block(self, plan: "Paired") -> CountedBlock:
        """The rows of all images that could be decoded, and the faults."""
        images = [image_id for image_id, _ in self.pairs]
        table = tabulate(
            _joined(self.pairs),
            plan.segments("gt", images),
            plan.segments("pred", images),
            _joined(self.boundary) if self.boundary else None,
        ).in_order_of_images()
        files = FileHashes.of(self.files, predictions=self.predictions)
        return CountedBlock(table, files, self.gt_faults, self.prediction_faults)


_Counts = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Answer:
    """What a thread returns for one image; `packed` is its ground truth for the index."""

    counts: _Counts | None = None
    boundary: _Counts | None = None
    sha: bytes = b""
    pred_sha: bytes = b""
    gt_fault: "Fault | None" = None
    prediction_fault: "Fault | None" = None


@dataclass(frozen=True)
class Counter:
    """Looks at one image: decodes both PNGs and counts which segments share pixels."""

    plan: "Paired"
    boundary: bool
    max_pixels: int

    def count(self, row: int) -> Answer:
        gt, pred = self.plan.gt, self.plan.pred
        image_id = gt.image_ids[row]
        gt_path = gt.folder / gt.file_names[row]
        try:
            content = _content(gt_path)
            sha, gt_runs = hashlib.sha256(content).digest(), decode_id_runs(content, max_pixels=self.max_pixels)
        except ValueError as problem:
            return Answer(gt_fault=Fault(gt_path, image_id, str(problem)))
        answer = Answer(sha=sha)
        if self.plan.pred_row[row] < 0:
            pred_runs = IdRuns.empty(gt_runs.shape)
        else:
            pred_path = pred.folder / pred.file_names[self.plan.pred_row[row]]
            try:
                content = _content(pred_path)
                answer = replace(answer, pred_sha=hashlib.sha256(content).digest())
                pred_runs = decode_id_runs(content, max_pixels=self.max_pixels)
                if pred_runs.shape != gt_runs.shape:
                    raise ValueError(
                        f"is {_size(pred_runs.shape)} but its ground truth is {_size(gt_runs.shape)} (height × width). "
                        "Write predictions at the image's original size."
                    )
            except ValueError as problem:
                return replace(answer, prediction_fault=Fault(pred_path, image_id, str(problem)))
        boundary = boundary_pairs(gt_runs.to_map(), pred_runs.to_map()) if self.boundary else None
        return replace(answer, counts=count_run_pairs(gt_runs, pred_runs), boundary=boundary)


def count_images(
    plan: Plan,
    rows: Sequence[int],
    settings: CountSettings,
    reporter: Reporter,
) -> Iterator[CountedBlock]:
    """Looks at the images of some rows of the ground truth, and returns what was found in blocks of PART_IMAGES."""
    native()  # loaded here, once, before the threads start
    counter = Counter(plan, settings.boundary, settings.max_pixels)
    images, before = len(plan.rows), len(plan.rows) - len(rows)
    pool = ThreadPoolExecutor(settings.threads)
    counted = Counted()
    with contextlib.ExitStack() as ending:
        # Compiled code decodes id PNGs without OpenCV, which takes a tenth of a second to load.
        if settings.boundary or native() is None:
            ending.enter_context(pixels.one_thread())
        ending.callback(pool.shutdown, cancel_futures=True)
        for done, (row, answer) in enumerate(zip(rows, in_order(pool, counter, rows), strict=True), start=1):
            counted.add(plan.gt.image_ids[row], answer)
            if done % _IMAGES_A_TASK == 0 or done == len(rows):
                reporter.progress("Scoring", before + done, images)
            if done % PART_IMAGES == 0:
                yield counted.block(plan)
                counted = Counted()
        if len(rows) % PART_IMAGES:
            yield counted.block(plan)


def in_order(pool: ThreadPoolExecutor, counter: Counter, rows: Sequence[int]) -> Iterator[Answer]:
    """The answer for each row. A few tasks are ahead of what is taken, so that answers do not pile up."""

    def task(start: int) -> list[Answer]:
        return [counter.count(row) for row in rows[start : start + _IMAGES_A_TASK]]

    waiting: deque[Future[list[Answer]]] = deque()
    for start in range(0, len(rows), _IMAGES_A_TASK):
        waiting.append(pool.submit(task, start))
        if len(waiting) > _TASKS_AHEAD:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _joined(counts: list[tuple[int, _Counts]]) -> Pairs:
    if not counts:
        return Pairs.empty()
    gt_id, pred_id, pixels = (np.concatenate([columns[place] for _, columns in counts]) for place in range(3))
    images = np.array([image_id for image_id, _ in counts], np.int64)
    return Pairs(np.repeat(images, [len(columns[0]) for _, columns in counts]), gt_id, pred_id, pixels)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("was not found. Check the folder of id PNGs.") from None
    except OSError as problem:
        raise ValueError(f"cannot be read: {problem.strerror or problem}.") from None


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
