"""The run folders of an evaluation: what they hold already, and what stays in them however it ends."""

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
from panbench.evaluation.prediction_names import png_name
from panbench.evaluation.record import (
    changed_candidates,
    changed_files,
    changed_predictions,
    close_run,
    refuse_other_settings,
)
from panbench.evaluation.score_sink import ScoreSink
from panbench.models.model import Model
from panbench.models.rules import Rule
from panbench.panoptic.types import Scene
from panbench.runs import PREDICTIONS, Run, RunInfo, RunWriter, load_run, unfinished_run, write_predictions_json

__all__ = ["RunFolders"]


class RunFolders:
    """Owns the run folders of an evaluation, one a rule, from the first look until they are closed.

        runs = RunFolders(folders, settings, options, reporter)
        runs.look(model, dataset, scenes)
        if runs.unfinished:
            with runs.writing(first_record) as writers:
                runs.run(Loop(…), plan, score_sinks)
        return runs.all()

    A run that is complete is left alone when `options.resume` is set. However the block ends, the runs are closed with
    the images that were scored, and record how they ended.
    """

    def __init__(
        self,
        folders: Mapping[Rule, Path],
        settings: Mapping[Rule, Mapping[str, Any]],
        options: EvaluateOptions,
        reporter: Reporter,
    ) -> None:
        """Finds the runs to go on with, and writes nothing.

        settings: what a resumed run must share with the run that it goes on with (`resume_settings`)
        Raises BadRun when a run cannot be resumed as its settings differ.
        """
        self.folders = dict(folders)
        self._options, self._reporter = options, reporter
        self._writers: list[RunWriter] = []
        self._loop: Loop | None = None
        self._scores: Sequence[ScoreSink] = ()
        self._earlier = self._find_earlier()
        self.unfinished = self.folders
        """The folders in which something is left to do, once `look` was called."""
        for rule, run in self._earlier.items():
            refuse_other_settings(run, settings[rule], options.batch_size)

    def _find_earlier(self) -> dict[Rule, Run]:
        if not self._options.resume:
            return {}
        found = {rule: unfinished_run(out) for rule, out in self.folders.items()}
        return {rule: run for rule, run in found.items() if run is not None}

    @property
    def batch_size(self) -> int | str | None:
        """The batch size of the runs to resume, else that of the options."""
        recorded = [run.info.batch_size for run in self._earlier.values() if run.info.batch_size]
        return recorded[-1] if recorded else self._options.batch_size

    def look(self, model: Model, dataset: Dataset, scenes: Sequence[Scene]) -> None:
        """Finds out what is left to do. scenes: of the dataset, those that the runs are to have.

        Raises BadRun when a run cannot be resumed as files changed since it read them.
        """
        self._dataset, self._scenes = dataset, scenes
        complete = {rule for rule, run in self._earlier.items() if self._is_complete(model, rule, run)}
        self.unfinished = {rule: out for rule, out in self.folders.items() if rule not in complete}

    def _is_complete(self, model: Model, rule: Rule, run: Run) -> bool:
        """Whether nothing is left to do in an earlier run. Raises BadRun when it cannot be resumed."""
        for sentence in run.faults:
            self._reporter.notice(sentence)
        is_done = run.info.status == "done"
        for sentence, mended in self._changed(run):
            if not is_done:
                raise BadRun(f"{sentence} {mended}")
            self._reporter.notice(sentence)
        # A complete run beside its place was about to take it when it was killed.
        if not is_done or run.faults or run.path != self.folders[rule]:
            return False
        lacking = self._unreadable(model, run)
        if lacking is None:
            return False
        but = f" but for {lacking} images that still cannot be read" if lacking else ""
        self._reporter.notice(f"{self.folders[rule]} is already complete{but}.")
        return True

    def _changed(self, run: Run) -> list[tuple[str, str]]:
        """A sentence on each kind of file that the run read or wrote and that has changed, and what mends it."""
        found = []
        anew = "Restore them, or evaluate all images again with --overwrite."
        if changed := changed_files(run, self._dataset):
            found.append((f"{len(changed):,} files changed since {run.path} read them: {listed(changed, 5)}.", anew))
        # Whoever needs the room may remove all predictions of a finished run.
        is_kept = run.info.status != "done" or (run.path is not None and (run.path / PREDICTIONS).is_dir())
        if self._options.save_predictions and is_kept and (changed := changed_predictions(run, self._dataset)):
            sentence = f"{len(changed):,} predictions are missing or are not what {run.path} wrote"
            found.append((f"{sentence}: {listed(changed, 5)}.", anew))
        if self._options.keep_candidates and (changed := changed_candidates(run)):
            sentence = f"{len(changed):,} files of candidates are not what {run.path} wrote: {listed(changed, 5)}."
            found.append((sentence, "Restore or delete them; --resume recreates missing ones."))
        return found

    def _unreadable(self, model: Model, run: Run) -> int | None:
        """How many images a finished run had to skip; None when one can be read by now, so that it is scored."""
        held = frozenset(run.images.tolist())
        lacking = [scene for scene in self._scenes if scene.image.id not in held]
        for scene in lacking:
            with contextlib.suppress(BadDataset):
                model.load(scene)
                return None
        return len(lacking)

    @contextlib.contextmanager
    def writing(self, first_record: Callable[[Rule], RunInfo]) -> Iterator[Sequence[RunWriter]]:
        """Opens the unfinished runs, in the order of `unfinished`, and closes them however the block ends.

        first_record: what is known of a new run before its first image
        A PanbenchError that ends the block is given a sentence on what stays.
        """
        try:
            self._open(first_record)
            yield self._writers
        except BaseException as error:
            left = self._close_early(error)
            if isinstance(error, PanbenchError) and any(run.info.images.scored for run in left):
                stays = in_sentence(self.unfinished.values())
                error.stays = f"Scored images are kept in {stays}; the same command with --resume continues."
            raise

    def _open(self, first_record: Callable[[Rule], RunInfo]) -> None:
        for rule, out in self.unfinished.items():
            self._writers.append(
                RunWriter.resume(out)
                if rule in self._earlier
                else RunWriter.create(out, first_record(rule), overwrite=self._options.overwrite)
            )
        for sentence in (sentence for writer in self._writers for sentence in writer.notices):
            self._reporter.notice(sentence)

    def run(self, loop: Loop, plan: Sequence[Sequence[Scene]], scores: Sequence[ScoreSink]) -> None:
        """Evaluates the plan and closes the runs as done; inside `writing`. scores: the loop's sink of each writer."""
        self._loop, self._scores = loop, scores
        loop.run(plan)
        for writer in self._writers:
            if self._options.save_predictions:
                names = {scene.image.id: png_name(scene) for scene in self._scenes}
                write_predictions_json(Run(writer.info, writer.path), names)
            self._close(writer, "done", None)
        for sentence in (sentence for sink in loop.sinks for sentence in sink.notices):
            self._reporter.notice(sentence)

    def _close(self, writer: RunWriter, status: str, error: str | None) -> Run:
        if self._loop is None:
            return writer.finish(status, error=error)
        place = self._writers.index(writer)
        report = self._loop.report()
        if len(self._writers) > 1:
            # Several rules that share a forward pass have no speed of their own.
            report = replace(report, rate=None)
        # What photographs are is said once.
        dataset = self._dataset if place == 0 else None
        return close_run(writer, report, self._scores[place].seconds, dataset, self._reporter, status, error)

    def _close_early(self, error: BaseException) -> list[Run]:
        """The runs that an error ends, closed with their last status."""
        left = []
        status, reason = _how_it_ended(error)
        for writer in self._writers:
            if writer.info.status == "done":
                continue
            # The error that ended the run is reported even when nothing more can be written.
            with contextlib.suppress(PanbenchError, OSError):
                left.append(self._close(writer, status, reason))
        return left

    def all(self) -> list[Run]:
        """The runs, in the order of the folders."""
        if not self.unfinished:
            return [self._earlier[rule] for rule in self.folders]
        return [load_run(out) for out in self.folders.values()]


def _how_it_ended(error: BaseException) -> tuple[str, str]:
    """The status and the reason of a run that an error ends, for run.json."""
    if isinstance(error, Terminated):
        return "interrupted", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "Interrupted from the keyboard."
    return "failed", str(error) if isinstance(error, PanbenchError) else repr(error)
