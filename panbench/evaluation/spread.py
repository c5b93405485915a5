"""One evaluation over the workers of an engine: each opens the model and pulls tasks; this process writes the run.

The plan of batches is that of one process, so the batches, and with them the numbers, are the same. A task is a stretch
of it and carries its scenes: a worker reads no JSON. Blocks of rows come back as they are done.
"""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from panbench.base import provenance
from panbench.base.computing import STAGES
from panbench.base.engines import Needs, Session, Spread, TaskQueue, cut
from panbench.base.errors import BadArgument, BadModel
from panbench.base.reporter import SILENT, Reporter, Silent
from panbench.base.text import in_sentence
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.category_map import CategoryMap
from panbench.evaluation.listeners import Listener
from panbench.evaluation.loop import BlockRows, Clock, Loop, Report, Target, best_batch_size
from panbench.evaluation.opening import Opening, opened_model
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.pace import Pace
from panbench.evaluation.plan import PLAN_IMAGES, BatchPlan, plan_batches
from panbench.evaluation.shown import as_asked
from panbench.models.candidates import Output
from panbench.models.model import LoadedImage, Model
from panbench.models.predict import CategoryIds
from panbench.models.rules import Rule
from panbench.panoptic.types import ImageInfo, Scene
from panbench.runs import DeviceRecord, ModelRecord, RunInfo

__all__ = ["RemoteModel", "SpreadLoop", "needs_of", "refuse_unspreadable", "remote_model", "worker_maker"]


@dataclass(frozen=True)
class ModelFacts:
    """What the asking process needs to know of the model that a worker has opened. packages: of run.json's versions"""

    spec: ModelSpec
    class_names: tuple[str, ...]
    isthing: tuple[bool, ...]
    device: str
    device_record: DeviceRecord
    rule: Rule
    paper: Rule
    stated_rules: Mapping[str, Rule]
    chosen: Sequence[Rule]
    precision: str
    seed: int
    compiled: bool
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    record: ModelRecord
    packages: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """Settings common to all tasks of an evaluation. folders: for the id maps of each rule; None to keep none."""

    rules: tuple[Rule, ...]
    folders: tuple[Path | None, ...]
    category_ids: CategoryIds
    category_map: CategoryMap | None
    skip_bad_images: bool
    workers: int | None


@dataclass(frozen=True)
class Block:
    """The rows of some images, for each target."""

    images: frozenset[int]
    rows: tuple[BlockRows | None, ...]


@dataclass(frozen=True)
class Began:
    """A task has begun: where, and by which packages."""

    host: str
    process: int
    device: str
    packages: Mapping[str, str]


@dataclass(frozen=True)
class Noticed:
    """A sentence for the user."""

    sentence: str


@dataclass(frozen=True)
class Finished:
    """The task is done."""

    report: Report


@dataclass(frozen=True)
class EvalTask:
    """A stretch of the plan of batches. done: the images of it that each target has already."""

    job: Job
    batches: tuple[tuple[Scene, ...], ...]
    done: tuple[frozenset[int], ...]

    def __str__(self) -> str:
        ids = [scene.image.id for batch in self.batches for scene in batch]
        return f"the {len(ids):,} images from {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"image {ids[0]}"

    def rest(self, answer: Any) -> "EvalTask | None":
        """The batches that are not in a block yet."""
        if isinstance(answer, Finished):
            return None
        if not isinstance(answer, Block):
            return self
        left = tuple(tuple(scene for scene in batch if scene.image.id not in answer.images) for batch in self.batches)
        left = tuple(batch for batch in left if batch)
        return replace(self, batches=left) if left else None


@dataclass
class _Keeps:
    """Stands for a run's writer in a worker, which writes none: what the run has already."""

    done: frozenset[int]

    def write_part(self, *_: Any, **__: Any) -> Path:
        raise AssertionError("workers send their blocks")


class _Sends(Loop):
    """The loop of one task: its blocks go to `answers`."""

    answers: "queue.SimpleQueue[Any]"

    def _store(self, block: Sequence[BlockRows | None]) -> None:
        images = frozenset(scored.files[0] for scored in self._block)
        self.answers.put(Block(images, tuple(block)))


class _Passing(Silent):
    """A reporter whose notices go to `answers`."""

    def __init__(self, answers: "queue.SimpleQueue[Any]") -> None:
        self._answers = answers

    def notice(self, sentence: str) -> None:
        """Passes it on."""
        self._answers.put(Noticed(sentence))


class EvalWorker:
    """A model that is opened once and works tasks off."""

    def __init__(self, spec: ModelSpec, opening: Opening, rules: Sequence[str], options: EvaluateOptions) -> None:
        self._threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        torch.set_num_threads(self._threads)
        model = opened_model(spec, opening)
        self._rules, self._model = as_asked(model, rules, options)

    def facts(self) -> ModelFacts:
        """What is to be known of the model."""
        model, device = self._model, self._model.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return ModelFacts(
            model.spec,
            tuple(model.class_names),
            tuple(model.isthing),
            device.type,
            DeviceRecord(**provenance.describe_device(device.type, name)),
            model.rule,
            model.paper,
            dict(model.stated_rules),
            self._rules,
            model.precision,
            model.seed,
            model.compiled,
            dict(model.versions),
            dict(model.settings),
            model.describe(),
            provenance.versions(),
        )

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The model's `batch_key` of an image."""
        return self._model.batch_key(image)

    def best_batch_size(self, dataset: Dataset) -> int:
        """The batch size of highest throughput on the device of this worker."""
        return best_batch_size(self._model, dataset, SILENT)

    def look_at(self, scene: Scene) -> None:
        """Raises BadDataset where an image cannot be read."""
        self._model.load(scene)

    def run(self, task: EvalTask) -> Iterator[Any]:
        """Began, then blocks and notices as they come, then Finished. Raises what the loop raises."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for folder in task.job.folders:
            if folder is not None and not (folder.parent / "run.json").exists():
                raise BadArgument(
                    f"{socket.gethostname()} does not see {folder.parent}, where predictions are to be kept. Put --out "
                    "on a file system that all nodes share, or give --no-save-predictions."
                )
        yield Began(socket.gethostname(), os.getpid(), self._model.device.type, provenance.versions())
        loop = self._loop(task, answers)
        failed: list[BaseException] = []

        def work() -> None:
            torch.set_num_threads(self._threads)
            try:
                loop.run(task.batches)
                answers.put(Finished(loop.report()))
            except BaseException as error:
                failed.append(error)
            answers.put(None)

        thread = threading.Thread(target=work, name="task", daemon=True)
        thread.start()
        while (answer := answers.get()) is not None:
            yield answer
        thread.join()
        if failed:
            raise failed[0]

    def _loop(self, task: EvalTask, answers: "queue.SimpleQueue[Any]") -> _Sends:
        job = task.job
        loop = _Sends(
            self._model,
            job.category_ids,
            job.category_map,
            targets=[
                Target(_Keeps(done), rule, folder)
                for done, rule, folder in zip(task.done, job.rules, job.folders, strict=True)
            ],
            rank=0,
            expected=sum(map(len, task.batches)),
            skip_bad_images=job.skip_bad_images,
            workers=job.workers or max(2, self._threads),
            reporter=_Passing(answers),
        )
        loop.answers = answers
        return loop


class RemoteModel(Model):
    """A model that the workers of a session have opened, known here by its facts."""

    def __init__(self, facts: ModelFacts, session: Session) -> None:
        self.facts, self.session = facts, session
        self.spec, self.class_names, self.isthing = facts.spec, facts.class_names, facts.isthing
        self.device, self.rule = torch.device(facts.device), facts.rule
        self.precision, self.seed, self.compiled = facts.precision, facts.seed, facts.compiled
        self._keys: dict[tuple[int, int], Hashable] = {}

    @property
    def versions(self) -> Mapping[str, str]:
        """The model's own, and the packages of the worker."""
        return {**self.facts.packages, **self.facts.versions}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model's."""
        return self.facts.settings

    @property
    def paper(self) -> Rule:
        """The model's."""
        return self.facts.paper

    @property
    def stated_rules(self) -> Mapping[str, Rule]:
        """The model's."""
        return self.facts.stated_rules

    def describe(self) -> ModelRecord:
        """The model's record."""
        return self.facts.record

    def load(self, scene: Scene) -> LoadedImage:
        """An image without pixels, once a worker could read it. Raises BadDataset."""
        self.session.ask("look_at", scene)
        return LoadedImage(scene, torch.empty(0), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> Sequence[Output]:
        """Never called: workers run the model."""
        raise BadModel(f"{self.spec.title} runs on the workers of an engine, not here.")

    def batch_key(self, image: ImageInfo) -> Hashable:
        """The model's, which depends on an image's size."""
        size = (image.height, image.width)
        if size not in self._keys:
            self._keys[size] = self.session.ask("batch_key", image)
        return self._keys[size]

    def best_batch_size(self, dataset: Dataset, reporter: Reporter) -> int:
        """The batch size of highest throughput on a worker."""
        fullest = max(plan_batches(dataset.scenes[:PLAN_IMAGES], 64, self), key=len)
        found = int(self.session.ask("best_batch_size", replace(dataset, scenes=tuple(map(absolute, fullest)))))
        reporter.notice(f"Batch size {found}, by a trial on one worker.")
        return found

    def recorded(self, info: RunInfo) -> RunInfo:
        """What run.json says, of the device of the workers."""
        return replace(info, device=self.facts.device_record)


def absolute(scene: Scene) -> Scene:
    """The scene with paths that mean the same in every folder."""
    image = None if scene.image_path is None else scene.image_path.absolute()
    return replace(scene, image_path=image, gt_path=None if scene.gt_path is None else scene.gt_path.absolute())


def worker_maker(
    spec: ModelSpec, opening: Opening, rules: Sequence[str], options: EvaluateOptions
) -> Callable[[], EvalWorker]:
    """What makes a worker in another process."""
    weights = opening.weights
    if weights not in ("auto", "random") and "://" not in weights:
        opening = replace(opening, weights=str(Path(weights).expanduser().absolute()))
    # The engine itself stays here.
    return partial(EvalWorker, spec, opening, tuple(rules), replace(options, spread=None))


def needs_of(device: str) -> Needs:
    """What `--device` asks of the workers. Raises BadArgument for one GPU of a machine."""
    if device.startswith("cuda:"):
        raise BadArgument(f"--device {device} names a GPU of one machine. With --engine give cuda, auto or cpu.")
    return Needs({"auto": None, "cuda": True}.get(device, False))


def remote_model(session: Session) -> RemoteModel:
    """The model that the workers of a session open."""
    return RemoteModel(session.ask("facts"), session)


def refuse_unspreadable(options: EvaluateOptions, listened: Sequence[str] = ()) -> None:
    """Raises BadArgument for what an engine's workers do not do, and under torchrun.

    listened: what of the options needs the model's outputs here
    """
    if options.spread is None:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadArgument("--engine and torchrun both start processes. Use one of them.")
    wrong = [*(["--keep-candidates"] if options.keep_candidates else []), *listened]
    wrong += [
        f"the further runs of {type(study).__name__.removesuffix('Options').lower()}"
        for study in options.studies
        if study.further_runs
    ]
    if wrong:
        raise BadArgument(
            f"--engine makes the runs of `panbench eval` themselves, without {in_sentence(wrong)}. Leave that out, or "
            "run without --engine."
        )


class _Tasks(Sequence[EvalTask | None]):
    """The tasks of a plan. Those of an indexed set are made when they are taken, of their own rows."""

    def __init__(
        self,
        plan: Sequence[Sequence[Scene]],
        tasks: int,
        make: Callable[[Sequence[Sequence[Scene]]], EvalTask | None],
    ) -> None:
        self._make = make
        self._plan = plan if isinstance(plan, BatchPlan) and plan.is_read_by_share else None
        self._pieces: Sequence[Any] = range(tasks) if self._plan is not None else cut(list(plan), tasks)

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, place: Any) -> Any:
        if self._plan is None:
            return self._make(self._pieces[place])
        return self._make(list(self._plan.share(place, len(self._pieces))))


@dataclass
class SpreadLoop:
    """The evaluation of a plan by workers that pull tasks, in place of `Loop`. expected: images, for progress."""

    model: RemoteModel
    job: Job
    targets: Sequence[Target]
    expected: int
    reporter: Reporter
    spread: Spread
    listeners: Sequence[Listener] = ()
    skipped: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = len(frozenset.intersection(*(target.writer.done for target in self.targets)))
        self._scored = 0
        self._reports: list[Report] = []
        self._processes: set[tuple[str, int]] = set()
        self._pace = Pace()

    def run(self, plan: Sequence[Sequence[Scene]]) -> None:
        """Evaluates the batches; raises what a worker raises, after the blocks that came are written."""
        tasks = _Tasks(plan, self.spread.tasks_for(self.model.session), self._task)
        self._pace.start()
        try:
            with contextlib.closing(self.model.session.run(TaskQueue(tasks))) as answers:
                for answer in answers:
                    self._take(answer)
        finally:
            self._pace.stop()

    def _task(self, planned: Sequence[Sequence[Scene]]) -> EvalTask | None:
        if not planned:
            return None
        batches = tuple(tuple(map(absolute, batch)) for batch in planned)
        images = {scene.image.id for batch in batches for scene in batch}
        return EvalTask(self.job, batches, tuple(target.writer.done & images for target in self.targets))

    def _take(self, answer: Any) -> None:
        if isinstance(answer, Block):
            for target, rows in zip(self.targets, answer.rows, strict=True):
                if rows is not None:
                    target.writer.write_part(rows.table, 0, rows.files, rows.written)
            self._scored += len(answer.images)
            self._pace.batch_done(len(answer.images))
            self.reporter.progress(self.model.spec.title, self._before + self._scored, self.expected)
        elif isinstance(answer, Noticed):
            self.reporter.notice(answer.sentence)
        elif isinstance(answer, Began):
            self._check(answer)
        elif isinstance(answer, Finished):
            self._reports.append(answer.report)
            self.skipped.update(answer.report.skipped)

    def _check(self, began: Began) -> None:
        """Raises BadModel for a worker whose numbers would be others'."""
        self._processes.add((began.host, began.process))
        facts = self.model.facts
        first, there = {**facts.packages, "device": facts.device}, {**began.packages, "device": began.device}
        differing = [
            f"{name} {there.get(name)} (not {first.get(name)})"
            for name in {**first, **there}
            if first.get(name) != there.get(name)
        ]
        if differing:
            raise BadModel(
                f"{began.host} differs from the first worker: {in_sentence(differing)}. A run has one number for "
                "each: install the same on all nodes."
            )

    def report(self) -> Report:
        """What all workers did, as one; the wall time is this process's."""
        seconds: list[Clock] = [
            {
                **{stage: sum(report.seconds[place][stage] for report in self._reports) for stage in STAGES},
                "wall": self._pace.wall,
            }
            for place in range(len(self.targets))
        ]
        host = [report.host_memory for report in self._reports if report.host_memory is not None]
        device = [report.device_memory for report in self._reports if report.device_memory is not None]
        workers = max(1, len(self._processes))
        return Report(
            seconds,
            self._scored,
            self._pace.rate(lanes=1, before=workers),
            self.skipped,
            max(host, default=None),
            max(device, default=None),
            processes=workers,
        )
