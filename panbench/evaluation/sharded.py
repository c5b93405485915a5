"""`panbench eval --gpus N`: a shard for each GPU of this machine, one bar, and one run."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadRun, PanbenchError
from panbench.base.reporter import Reporter, Silent, Unit
from panbench.base.shards import Shard
from panbench.base.text import in_sentence
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.evaluation.opening import Opening, opened_model
from panbench.evaluation.options import EvaluateOptions
from panbench.runs import Run, load_run
from panbench.runs.sharded import Sharded, already_whole, merge_shards, shard_folders, size_begun_with

__all__ = ["ShardedEvaluation", "cards_of", "run_on_cards"]

ATTEMPTS = 3
"""A shard that dies so often is given up."""


@dataclass(frozen=True)
class ShardedEvaluation:
    """One model's evaluation, as each of its shards gets it."""

    spec: ModelSpec
    dataset: Dataset
    homes: tuple[Path, ...]
    opening: Opening
    options: EvaluateOptions
    rules: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The model's."""
        return self.spec.title

    @property
    def overwrite(self) -> bool:
        """Of the options."""
        return self.options.overwrite

    @property
    def resume(self) -> bool:
        """Of the options."""
        return self.options.resume

    @property
    def command(self) -> Sequence[str]:
        """Of the options."""
        return self.options.command

    @property
    def needs_size(self) -> bool:
        """Whether the options name no batch size; on a CPU it is 1."""
        return self.options.batch_size in (None, "auto") and self.opening.device != "cpu"

    def best_size(self, reporter: Reporter) -> int:
        """The size that a run of one process would choose here."""
        from panbench.evaluation.batch_size import chosen_batch_size
        from panbench.evaluation.shown import as_asked

        _, model = as_asked(opened_model(self.spec, self.opening), self.dataset, self.rules, self.options)
        return chosen_batch_size(self.options.batch_size, model, self.dataset, self.options, reporter)

    def with_size(self, size: int) -> "ShardedEvaluation":
        """In batches of this size."""
        return replace(self, options=replace(self.options, batch_size=size))

    def resumed(self) -> "ShardedEvaluation":
        """Going on with what the shards hold."""
        return replace(self, options=replace(self.options, overwrite=False, resume=True))

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Evaluates the shard's batches."""
        from panbench.evaluation.evaluate import evaluate_rules
        from panbench.evaluation.shown import as_asked

        opened = opened_model(self.spec, self.opening, reporter)
        rules, model = as_asked(opened, self.dataset, self.rules, self.options)
        options = replace(self.options, shard=shard)
        evaluate_rules(model, self.dataset, dict(zip(rules, folders, strict=True)), options, reporter)


def cards_of(count: int) -> list[str]:
    """The first GPUs of this machine, as CUDA_VISIBLE_DEVICES names them. Raises BadArgument for fewer."""
    import torch

    here = torch.cuda.device_count()
    if here < count:
        raise BadArgument(f"--gpus {count}, and PyTorch sees {here} here. `panbench doctor` says why.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(here)])[:count]


def run_on_cards(work: Sharded, reporter: Reporter, cards: Sequence[str]) -> list[Run]:
    """Has a process for each card make a shard, and merges them. A shard that dies is named and resumed.

    Raises BadRun for one that dies ATTEMPTS times: the others are finished and kept, for --resume.
    """
    if already_whole(work, len(cards)):
        return [load_run(home) for home in work.homes]
    if work.needs_size and (size := size_begun_with(work, len(cards))):
        work = work.with_size(size)
    if work.needs_size:
        chooser = _Process(work, None, cards[0])
        _watch([chooser], reporter)
        if chooser.size is None:
            raise BadRun(f"No batch size could be chosen ({chooser.end}). Name one with --batch-size.")
        work = work.with_size(chooser.size)
    shards = [_Process(work, Shard(number, len(cards)), card) for number, card in enumerate(cards, start=1)]
    _watch(shards, reporter)
    if dead := [process for process in shards if not process.is_done]:
        raise BadRun(
            f"Of {in_sentence(work.homes)}, shard {in_sentence(each.shard for each in dead)} died {ATTEMPTS} times "
            f"({dead[0].end}). The other shards are kept; the same command with --resume continues."
        )
    return merge_shards(work, len(shards))


class _Process:
    """A process that makes a shard, or without one chooses the batch size, and sends what it would report."""

    def __init__(self, work: Sharded, shard: Shard | None, card: str) -> None:
        self.shard, self.done = shard, 0
        self.total: int | None = None
        """The shard's images, once it has begun."""
        self.size: int | None = None
        self.end = ""
        """How it died, in words."""
        self._work, self._card = work, card
        self._attempts = 0
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.wire, theirs = context.Pipe(duplex=False)
        work = self._work if self._attempts == 0 else self._work.resumed()
        self._process = context.Process(target=_work_on, args=(work, self.shard, self._card, theirs), daemon=True)
        self._attempts += 1
        self.end = ""
        self._process.start()
        theirs.close()

    @property
    def is_done(self) -> bool:
        return self._process.exitcode == 0

    def ended(self, reporter: Reporter) -> bool:
        """Whether it ended for good; one that died is started again. Raises PanbenchError for what it refused."""
        self._process.join()
        code = self._process.exitcode or 0
        if code == 0:
            # A shard without images reports none.
            self.total = self.total or 0
            return True
        if code == _REFUSED:
            raise BadRun(self.end)
        if code < 0:
            self.end = f"signal {signal.Signals(-code).name}"
        self.end = self.end or f"exit status {code}"
        if self._attempts == ATTEMPTS:
            return True
        reporter.notice(f"{f'Shard {self.shard}' if self.shard else 'The trial'} died ({self.end}) and is resumed.")
        self.start()
        return False

    def stop(self) -> None:
        """Ends it as Ctrl-C does: what it has scored is written first."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _watch(processes: Sequence[_Process], reporter: Reporter) -> None:
    """Reports what processes send, until the last has ended."""
    running, said = {process.wire: process for process in processes}, set[str]()
    title = processes[0]._work.title
    try:
        while running:
            for wire in connection.wait(list(running)):
                process = running[wire]  # type: ignore[index]
                try:
                    kind, *words = process.wire.recv()
                except (EOFError, OSError):
                    del running[wire]  # type: ignore[arg-type]
                    if not process.ended(reporter):
                        running[process.wire] = process
                    continue
                if kind == "progress":
                    process.done, process.total = words
                    totals = [each.total for each in processes]
                    total = None if None in totals else sum(each or 0 for each in totals)
                    reporter.progress(title, sum(each.done for each in processes), total)
                elif kind == "notice" and words[0] not in said:
                    said.add(words[0])
                    reporter.notice(words[0])
                elif kind == "size":
                    process.size = words[0]
                elif kind == "end":
                    process.end = words[0]
    finally:
        for process in processes:
            process.stop()


_REFUSED = 2


class _Wire(Silent):
    """Sends what is reported to the process that started this one."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        self._wire.send(("progress", done, total or 0))

    def notice(self, sentence: str) -> None:
        self._wire.send(("notice", sentence))


def _work_on(work: Sharded, shard: Shard | None, card: str, wire: Any) -> None:
    """What a process does: it sees its card alone, as PyTorch is not loaded yet."""
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    try:
        if shard is None:
            wire.send(("size", work.best_size(_Wire(wire))))
        else:
            work.run_shard(shard, shard_folders(work, shard.number), _Wire(wire))
    except KeyboardInterrupt:
        sys.exit(130)
    except PanbenchError as error:
        wire.send(("end", str(error)))
        sys.exit(_REFUSED)
    except Exception as error:
        wire.send(("end", f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _interrupt_once(number: int, frame: Any) -> None:
    """Ends a shard as Ctrl-C does; a second signal must not cut short the writing that the first one began."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
