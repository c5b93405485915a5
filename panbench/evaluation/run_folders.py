"""Manages the run folders of an evaluation: finds runs to resume, and closes runs however the evaluation ends."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from panbench.base.errors import BadDataset, BadRun, PanbenchError, Terminated
from panbench.base.reporter import Reporter
from panbench.base.text import in_sentence, listed
from panbench.datasets import Dataset
from panbench.evaluation.loop import Loop
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.record import (
    changed_candidate_files,
    changed_input_files,
    changed_predictions,
    check_settings,
    close_run,
)
from panbench.evaluation.sinks import ScoreSink
from panbench.models.model import Model
from panbench.models.rules import Rule
from panbench.panoptic.types import Scene
from panbench.runs import PREDICTIONS, Run, RunInfo, RunWriter, load_run, unfinished_run, write_predictions_json
from panbench.runs.predictions import png_name


class RunFolders:
    """Owns the run folders of an evaluation, one per rule, from the first check until they are closed.

        runs = RunFolders(folders, settings, options, reporter)
        runs.find_unfinished(model, dataset, scenes)
        if runs.unfinished:
            with runs.writing(first_record) as writers:
                runs.run(Loop(…), plan, score_sinks)
        return runs.all()

    With `options.resume`, complete runs are left alone. However the block ends, the runs are closed with the images
    that were scored, and record how they ended.
    """

    def __init__(
        self,
        folders: Mapping[Rule, Path],
        settings: Mapping[Rule, Mapping[str, Any]],
        options: EvaluateOptions,
        reporter: Reporter,
    ) -> None:
        """Finds the runs to resume, and writes nothing.

        settings: those that must match the run that is resumed (`resume_settings`)
        Raises BadRun if the settings of a run differ.
        """
        self.folders = dict(folders)
        self._options, self._reporter = options, reporter
        self._writers: list[RunWriter] = []
        self._loop: Loop | None = None
        self._scores: Sequence[ScoreSink] = ()
        self._earlier = self._find_earlier()
        self.unfinished = self.folders
        """The folders of runs that are not complete; final after `find_unfinished`."""
        for rule, run in self._earlier.items():
            check_settings(run, settings[rule], options.batch_size)

    def _find_earlier(self) -> dict[Rule, Run]:
        """Finds the runs to resume, by rule; {} without the option `resume`."""
        if not self._options.resume:
            return {}
        found = {rule: unfinished_run(out) for rule, out in self.folders.items()}
        return {rule: run for rule, run in found.items() if run is not None}

    @property
    def batch_size(self) -> int | str | None:
        """The batch size of the runs to resume, else that of the options."""
        recorded = [run.info.batch_size for run in self._earlier.values() if run.info.batch_size]
        return recorded[-1] if recorded else self._options.batch_size

    def find_unfinished(self, model: Model, dataset: Dataset, scenes: Sequence[Scene]) -> None:
        """Finds which runs are not complete, and keeps their folders in `unfinished`.

        scenes: the images of the dataset that belong to the runs
        Raises BadRun if files changed since a run read them.
        """
        self._dataset, self._scenes = dataset, scenes
        complete = {rule for rule, run in self._earlier.items() if self._is_complete(model, rule, run)}
        self.unfinished = {rule: out for rule, out in self.folders.items() if rule not in complete}

    def _is_complete(self, model: Model, rule: Rule, run: Run) -> bool:
        """True if an earlier run needs no further images. Raises BadRun if it cannot be resumed."""
        for message in run.faults:
            self._reporter.notice(message)
        is_done = run.info.status == "done"
        for message, remedy in self._changed_file_messages(run):
            if not is_done:
                raise BadRun(f"{message} {remedy}")
            self._reporter.notice(message)
        # A complete run next to its target was killed just before it replaced the target.
        if not is_done or run.faults or run.path != self.folders[rule]:
            return False
        lacking = self._count_unreadable_images(model, run)
        if lacking is None:
            return False
        but = f" but for {lacking} images that still cannot be read" if lacking else ""
        self._reporter.notice(f"{self.folders[rule]} is already complete{but}.")
        return True

    def _changed_file_messages(self, run: Run) -> list[tuple[str, str]]:
        """Returns a message and a remedy for each kind of file that changed: inputs, predictions, candidates."""
        found = []
        anew = "Restore them, or evaluate all images again with --overwrite."
        if changed := changed_input_files(run, self._dataset):
            found.append((f"{len(changed):,} files changed since {run.path} read them: {listed(changed, 5)}.", anew))
        # Users may delete all predictions of a finished run to free disk space.
        is_kept = run.info.status != "done" or (run.path is not None and (run.path / PREDICTIONS).is_dir())
        if self._options.save_predictions and is_kept and (changed := changed_predictions(run, self._dataset)):
            message = f"{len(changed):,} predictions are missing or are not what {run.path} wrote"
            found.append((f"{message}: {listed(changed, 5)}.", anew))
        if self._options.keep_candidates and (changed := changed_candidate_files(run)):
            message = f"{len(changed):,} files of candidates are not what {run.path} wrote: {listed(changed, 5)}."
            found.append((message, "Restore or delete them; --resume recreates missing ones."))
        return found

    def _count_unreadable_images(self, model: Model, run: Run) -> int | None:
        """Counts a finished run's unreadable images; None if one is readable now, so that it can be scored."""
        scored = frozenset(run.images.tolist())
        lacking = [scene for scene in self._scenes if scene.image.id not in scored]
        for scene in lacking:
            with contextlib.suppress(BadDataset):
                model.load(scene)
                return None
        return len(lacking)

    @contextlib.contextmanager
    def writing(self, first_record: Callable[[Rule], RunInfo]) -> Iterator[Sequence[RunWriter]]:
        """Opens the folders of unfinished runs, and closes them however the `with` block ends.

        Yields their writers, in the order of `unfinished`.
        first_record: makes the record of a new run before its first image
        If a PanbenchError ends the block, its message says which runs are saved.
        """
        try:
            self._open_writers(first_record)
            yield self._writers
        except BaseException as error:
            left = self._close_runs_after_error(error)
            if isinstance(error, PanbenchError) and any(run.info.images.scored for run in left):
                folders = in_sentence(self.unfinished.values())
                error.stays = f"Scored images are saved in {folders}; the same command with --resume continues."
            raise

    def _open_writers(self, first_record: Callable[[Rule], RunInfo]) -> None:
        """Opens a writer for each unfinished run: resumes an earlier run, or creates a new one."""
        for rule, out in self.unfinished.items():
            self._writers.append(
                RunWriter.resume(out)
                if rule in self._earlier
                else RunWriter.create(out, first_record(rule), overwrite=self._options.overwrite)
            )
        for message in (message for writer in self._writers for message in writer.notices):
            self._reporter.notice(message)

    def run(self, loop: Loop, plan: Sequence[Sequence[Scene]], scores: Sequence[ScoreSink]) -> None:
        """Evaluates the planned batches of images, and closes each run folder as done.

        Call it in the block of `writing`. scores: the loop's sink of each writer
        """
        self._loop, self._scores = loop, scores
        loop.run(plan)
        for writer in self._writers:
            if self._options.save_predictions:
                names = {scene.image.id: png_name(scene) for scene in self._scenes}
                write_predictions_json(Run(writer.info, writer.path), names)
            self._close_writer(writer, "done", None)
        for message in (message for sink in loop.sinks for message in sink.notices):
            self._reporter.notice(message)

    def _close_writer(self, writer: RunWriter, status: str, error: str | None) -> Run:
        """Closes one run with a status, and records what the loop measured."""
        if self._loop is None:
            return writer.finish(status, error=error)
        position = self._writers.index(writer)
        result = self._loop.result()
        if len(self._writers) > 1:
            # Several rules that share a forward pass have no speed of their own.
            result = replace(result, rate=None)
        # Notices on photographs are reported once.
        dataset = self._dataset if position == 0 else None
        return close_run(writer, result, self._scores[position].seconds, dataset, self._reporter, status, error)

    def _close_runs_after_error(self, error: BaseException) -> list[Run]:
        """Closes all runs that are not done, with the status that the error implies, and returns them."""
        left = []
        status, reason = _status_after_error(error)
        for writer in self._writers:
            if writer.info.status == "done":
                continue
            # The error that ended the run is reported even when nothing more can be written.
            with contextlib.suppress(PanbenchError, OSError):
                left.append(self._close_writer(writer, status, reason))
        return left

    def all(self) -> list[Run]:
        """Returns the run in each folder, in order, whether it was evaluated now or already complete before."""
        if not self.unfinished:
            return [self._earlier[rule] for rule in self.folders]
        return [load_run(out) for out in self.folders.values()]


def _status_after_error(error: BaseException) -> tuple[str, str]:
    """Returns the final status and the reason, for run.json, of a run that an error ends."""
    if isinstance(error, Terminated):
        return "interrupted", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Interrupted from the keyboard."
    return "failed", str(error) if isinstance(error, PanbenchError) else repr(error)
