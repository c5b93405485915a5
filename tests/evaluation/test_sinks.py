"""What a study adds to an evaluation: sinks, settings, models in front, further runs, and how they resume."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import Recorder

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import Reporter
from panbench.catalog import find_model
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions, Evaluation, Joined, StudyOptions
from panbench.evaluation.sinks import Later, Sink
from panbench.models.candidates import Output
from panbench.models.functions import FunctionModel
from panbench.models.model import LoadedImage
from panbench.runs import RunWriter, load_run


def nothing_found(image):
    return np.zeros(image.shape[:2], np.int32), []


def model_of(function=nothing_found) -> FunctionModel:
    return FunctionModel(find_model("mask2former-tiny"), function)


class Diary(Sink):
    """Writes down the images that it gets, in a file that an earlier evaluation may have begun."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.heard = json.loads(file.read_text()) if file.exists() else []
        self.done = frozenset(self.heard)

    @property
    def notices(self) -> Sequence[str]:
        return [f"{len(self.heard)} images in the diary."]

    def on_output(self, image: LoadedImage, output: Output) -> Later:
        return lambda seen: seen.scene.image.id

    def keep(self, found: Sequence[int]) -> None:
        self.heard.extend(found)

    def close(self) -> None:
        self.file.write_text(json.dumps(sorted(self.heard)))


@dataclasses.dataclass(frozen=True)
class DiaryOptions(StudyOptions):
    """The options of a stranger's study, which no register knows."""

    file: Path
    title: str | None = None

    def check(self, dataset: Dataset) -> None:
        if self.title == "":
            raise BadArgument("--title is empty.")

    def wrapped(self, model, dataset):
        return model_of(model._function)

    def join(self, evaluation: Evaluation) -> Joined:
        def sink(writers: Sequence[RunWriter]) -> Sink:
            return Diary(self.file)

        return Joined({"title": self.title}, sink)

    def run_further(self, model, dataset, folders: Mapping, options: EvaluateOptions, reporter: Reporter) -> None:
        for home in folders.values():
            evaluate(model, dataset, home.with_name("further"), dataclasses.replace(options, studies=()))


def test_a_sink_gets_each_image_once_and_is_closed_and_its_notices_are_reported(dataset, tmp_path):
    reporter, asked = Recorder(), DiaryOptions(tmp_path / "diary.json", "first")
    run = evaluate(model_of(), dataset, tmp_path / "run", EvaluateOptions(studies=(asked,)), reporter)
    assert json.loads(asked.file.read_text()) == [scene.image.id for scene in dataset.scenes]
    assert reporter.notices[-1] == "4 images in the diary."
    assert run.info.arguments["title"] == "first"
    assert load_run(tmp_path / "further").info.status == "done"
    plain = evaluate(model_of(), dataset, tmp_path / "plain")
    assert plain.summary() == run.summary()
    assert plain.overlaps().equals(run.overlaps())


def test_a_sink_is_closed_when_the_model_fails_and_the_error_says_what_is_stored(dataset, tmp_path):
    last = dataset.scenes[-1].image
    pixels = cv2.imread(str(dataset.scenes[-1].image_path))[..., ::-1]

    def fails_at_the_last(image):
        # Told by its pixels: several images may be in the model at once.
        if np.array_equal(image, pixels):
            raise BadArgument("No more.")
        return nothing_found(image)

    options = EvaluateOptions(studies=(DiaryOptions(tmp_path / "diary.json"),), batch_size=1)
    with pytest.raises(
        BadArgument, match=r"No more\. Scored images are saved in .*run; the same command with --resume"
    ):
        evaluate(model_of(fails_at_the_last), dataset, tmp_path / "run", options)
    heard = json.loads((tmp_path / "diary.json").read_text())
    assert last.id not in heard
    assert load_run(tmp_path / "run").info.error == "No more."
    evaluate(model_of(), dataset, tmp_path / "run", dataclasses.replace(options, resume=True))
    assert json.loads((tmp_path / "diary.json").read_text()) == [scene.image.id for scene in dataset.scenes]


def test_an_image_missing_in_one_sink_is_run_again_for_that_sink_only(dataset, tmp_path):
    options = EvaluateOptions(studies=(DiaryOptions(tmp_path / "diary.json"),))
    run = evaluate(model_of(), dataset, tmp_path / "run", options)
    # As a run that was killed before its last status, and a diary that lost an image.
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "status": "running"}))
    first, *others = json.loads((tmp_path / "diary.json").read_text())
    (tmp_path / "diary.json").write_text(json.dumps(others))
    parts = {path: path.read_bytes() for path in (run.path / "parts").iterdir()}
    evaluate(model_of(), dataset, run.path, dataclasses.replace(options, resume=True))
    assert json.loads((tmp_path / "diary.json").read_text()) == [first, *others]
    assert {path: path.read_bytes() for path in (run.path / "parts").iterdir()} == parts


def test_unfit_study_options_are_refused_before_anything_is_written(dataset, tmp_path):
    options = EvaluateOptions(studies=(DiaryOptions(tmp_path / "diary.json", ""),))
    with pytest.raises(BadArgument, match="--title is empty"):
        evaluate(model_of(), dataset, tmp_path / "run", options)
    assert list(tmp_path.iterdir()) == []


# Without any study, as when it has been uninstalled, half of the images would be of another evaluation.
@pytest.mark.parametrize("later", [("second",), (None,), ()], ids=["another title", "no title", "no study"])
def test_a_run_is_not_resumed_with_other_settings_of_a_study(later, dataset, tmp_path):
    def options(titles, **settings):
        studies = tuple(DiaryOptions(tmp_path / "diary.json", title) for title in titles)
        return EvaluateOptions(studies=studies, **settings)

    evaluate(model_of(), dataset, tmp_path / "run", options(["first"]))
    with pytest.raises(BadRun, match=f"title was 'first' and is now {next(iter(later), None)!r}"):
        evaluate(model_of(), dataset, tmp_path / "run", options(later, resume=True))
