"""Runs `panbench eval --gpus N`: a process and a shard per GPU of this machine, merged to one run."""

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
from panbench.evaluation.options import EvaluateOptions, Opening, opened_model
from panbench.runs import Run, load_run
from panbench.runs.sharded import Sharded, are_all_done, begun_batch_size, merge_shards, shard_folders

ATTEMPTS = 3
"""A shard that died this many times is not resumed again."""

PATIENCE = 120.0
"""Seconds that a process has to write its results when it is stopped."""


@dataclass(frozen=True)
class ShardedEvaluation:
    """One model's evaluation in shards, as sent to the process of each shard."""

    spec: ModelSpec
    dataset: Dataset
    merged_folders: tuple[Path, ...]
    opening: Opening
    options: EvaluateOptions
    rules: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The label of the progress bar: the model's title."""
        return self.spec.title

    @property
    def overwrite(self) -> bool:
        """True if existing runs are replaced."""
        return self.options.overwrite

    @property
    def resume(self) -> bool:
        """True if existing runs are resumed."""
        return self.options.resume

    @property
    def command(self) -> Sequence[str]:
        """The command line, for run.json."""
        return self.options.command

    @property
    def needs_size(self) -> bool:
        """True if the batch size must still be chosen; on a CPU it is 1."""
        return self.options.batch_size in (None, "auto") and self.opening.device != "cpu"

    def best_size(self, reporter: Reporter) -> int:
        """Returns the batch size that a single process would choose on this device."""
        from panbench.evaluation.plan import chosen_batch_size
        from panbench.evaluation.wrapping import rules_and_wrapped_model

        _, model = rules_and_wrapped_model(
            opened_model(self.spec, self.opening), self.dataset, self.rules, self.options
        )
        return chosen_batch_size(self.options.batch_size, model, self.dataset, self.options, reporter)

    def with_size(self, size: int) -> "ShardedEvaluation":
        """Copies the evaluation with this batch size."""
        return replace(self, options=replace(self.options, batch_size=size))

    def resumed(self) -> "ShardedEvaluation":
        """Returns a copy of this evaluation that resumes its shards instead of overwriting them."""
        return replace(self, options=replace(self.options, overwrite=False, resume=True))

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Evaluates one shard's batches into `folders`, one per rule."""
        from panbench.evaluation.evaluate import evaluate_rules
        from panbench.evaluation.wrapping import rules_and_wrapped_model

        opened = opened_model(self.spec, self.opening, reporter)
        rules, model = rules_and_wrapped_model(opened, self.dataset, self.rules, self.options)
        options = replace(self.options, shard=shard)
        evaluate_rules(model, self.dataset, dict(zip(rules, folders, strict=True)), options, reporter)


def visible_gpus(count: int) -> list[str]:
    """Returns the first GPUs of this machine, as CUDA_VISIBLE_DEVICES names them. Raises BadArgument for fewer."""
    import torch

    available = torch.cuda.device_count()
    if available < count:
        raise BadArgument(f"--gpus {count}: PyTorch finds {available} GPUs here. `panbench doctor` explains why.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(available)])[:count]


def run_on_cards(work: Sharded, reporter: Reporter, cards: Sequence[str]) -> list[Run]:
    """Makes one shard per GPU, each in a process, and merges them; a shard that dies is reported and resumed.

    Raises BadRun for one that dies ATTEMPTS times: the others are finished and stay, for --resume.
    """
    if are_all_done(work, len(cards)):
        return [load_run(home) for home in work.merged_folders]
    if work.needs_size and (size := begun_batch_size(work, len(cards))):
        work = work.with_size(size)
    if work.needs_size:
        chooser = _Process(work, None, cards[0])
        _follow_processes([chooser], reporter)
        if chooser.size is None:
            raise BadRun(f"No batch size could be chosen ({chooser.end}). Name one with --batch-size.")
        work = work.with_size(chooser.size)
    shards = [_Process(work, Shard(number, len(cards)), card) for number, card in enumerate(cards, start=1)]
    _follow_processes(shards, reporter)
    if dead := [process for process in shards if not process.exited_cleanly]:
        raise BadRun(
            f"Of {in_sentence(work.merged_folders)}, shard {in_sentence(each.shard for each in dead)} died {ATTEMPTS} "
            f"times ({dead[0].end}). The other shards are saved; the same command with --resume continues."
        )
    return merge_shards(work, len(shards))


class _Process:
    """A child process that evaluates a shard, or chooses the batch size if `shard` is None."""

    def __init__(self, work: Sharded, shard: Shard | None, card: str) -> None:
        """Starts a child process on a GPU to evaluate a shard; without a shard, to choose the batch size."""
        self.shard, self.done = shard, 0
        self.total: int | None = None
        """The number of the shard's images, once it has begun."""
        self.size: int | None = None
        self.end = ""
        """Why it died, in words."""
        self._work, self._card = work, card
        self._attempts = 0
        self.start()

    def start(self) -> None:
        """Starts the process, also again after it died; its shard is then resumed."""
        context = multiprocessing.get_context("spawn")
        self.wire, theirs = context.Pipe(duplex=False)
        work = self._work if self._attempts == 0 else self._work.resumed()
        self._process = context.Process(target=_run_in_child, args=(work, self.shard, self._card, theirs), daemon=True)
        self._attempts += 1
        self.end = ""
        self._process.start()
        theirs.close()

    @property
    def exited_cleanly(self) -> bool:
        """True if the process ended without an error."""
        return self._process.exitcode == 0

    def wait_or_restart(self, reporter: Reporter) -> bool:
        """Waits for the end and restarts a process that died; True if it ended for good. Raises its error."""
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
        """Stops the process as Ctrl-C would, with PATIENCE seconds to write its results; then kills it."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(PATIENCE)
            self._process.kill()
        self._process.join()


def _follow_processes(processes: Sequence[_Process], reporter: Reporter) -> None:
    """Passes the progress and notices of child processes on to `reporter` until all have ended."""
    running, reported = {process.wire: process for process in processes}, set[str]()
    title = processes[0]._work.title
    try:
        while running:
            for wire in connection.wait(list(running)):
                process = running[wire]  # type: ignore[index]
                try:
                    kind, *words = process.wire.recv()
                except (EOFError, OSError):
                    del running[wire]  # type: ignore[arg-type]
                    if not process.wait_or_restart(reporter):
                        running[process.wire] = process
                    continue
                if kind == "progress":
                    process.done, process.total = words
                    totals = [each.total for each in processes]
                    total = None if None in totals else sum(each or 0 for each in totals)
                    reporter.progress(title, sum(each.done for each in processes), total)
                elif kind == "notice" and words[0] not in reported:
                    reported.add(words[0])
                    reporter.notice(words[0])
                elif kind == "size":
                    process.size = words[0]
                elif kind == "end":
                    process.end = words[0]
    finally:
        for process in processes:
            process.stop()


_REFUSED = 2


class _PipeReporter(Silent):
    """A Reporter in a child process: sends progress and notices to the parent process."""

    def __init__(self, wire: Any) -> None:
        """Takes the child process's end of the pipe to the parent process."""
        self._wire = wire

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Sends the number of finished images to the parent process."""
        self._wire.send(("progress", done, total or 0))

    def notice(self, message: str) -> None:
        """Sends a message for the user to the parent process."""
        self._wire.send(("notice", message))


def _run_in_child(work: Sharded, shard: Shard | None, card: str, wire: Any) -> None:
    """The main function of a child process: makes a shard, or chooses the batch size, on the GPU `card` alone."""
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    try:
        if shard is None:
            wire.send(("size", work.best_size(_PipeReporter(wire))))
        else:
            work.run_shard(shard, shard_folders(work, shard.number), _PipeReporter(wire))
    except KeyboardInterrupt:
        sys.exit(130)
    except PanbenchError as error:
        wire.send(("end", str(error)))
        sys.exit(_REFUSED)
    except Exception as error:
        wire.send(("end", f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _interrupt_once(number: int, frame: Any) -> None:
    """Handles SIGINT and SIGTERM: the first ends the shard as Ctrl-C does, later ones are ignored."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
