import sys
import threading
from pathlib import Path

import pytest
from support import Recorder

from panbench.base.errors import BadArgument
from panbench.runs import Run
from panbench.scoring.folder import score_folder
from panbench.studies.tracking import trackers
from panbench.studies.tracking.trackers import TRACKERS, Trackers, config_of, open_trackers, scores_of

REFERENCE = Path(__file__).parents[2] / "reference" / "pq_edges"


class Heard:
    """A log that keeps what it is told."""

    def __init__(self, name: str = "", folder: Path = Path()) -> None:
        self.told: list = []

    def config(self, values):
        self.told.append(("config", dict(values)))

    def scalars(self, values, step):
        self.told.append((step, dict(values)))

    def close(self, failed):
        self.told.append(("closed", failed))


@pytest.fixture(scope="module")
def run() -> Run:
    return score_folder(REFERENCE / "gt.json", REFERENCE / "pred.json")


def test_progress_is_told_at_most_every_two_seconds_and_at_the_end():
    heard, now = Heard(), [0.0]
    progress = Trackers([heard], clock=lambda: now[0])
    for done, at in ((1, 0.0), (2, 0.5), (3, 1.9), (4, 2.0), (5, 2.1)):
        now[0] = at
        progress.progress("run", done, 5)
    assert [step for step, _ in heard.told] == [1, 4, 5]
    assert heard.told[1][1] == {
        "progress/images": 4.0,
        "progress/share": 0.8,
        "progress/images_per_second": pytest.approx(1.5),
    }


def test_the_speed_of_a_resumed_run_leaves_out_what_was_scored_before():
    heard, now = Heard(), [0.0]
    progress = Trackers([heard], clock=lambda: now[0])
    progress.progress("run", 90, 100)
    now[0] = 5.0
    progress.progress("run", 100, 100)
    assert heard.told[-1][1]["progress/images_per_second"] == pytest.approx(2.0)


def test_scores_are_those_of_the_run_and_what_is_absent_is_left_out(run):
    values = scores_of(run)
    assert values["PQ"] == run.summary()["All"]["PQ"]
    assert values["RQ_st"] == run.summary()["Stuff"]["RQ"]
    assert None not in values.values()
    assert all(isinstance(value, float) for value in values.values())
    table = run.pq().set_index("name")
    held = table[(table["TP"] + table["FP"] + table["FN"]) > 0]
    assert {name for name in values if name.startswith("categories/")} == {f"categories/{name}" for name in held.index}


def test_config_is_flat_and_holds_no_paths(run):
    values = config_of(run)
    assert values["ground_truth_sha256"] == run.info.dataset.fingerprint
    assert not any(str(REFERENCE) in str(value) for value in values.values())


def test_logs_are_closed_as_failed_when_the_evaluation_raises(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(trackers, "TRACKERS", {"heard": lambda name, folder: made.append(Heard()) or made[-1]})
    with open_trackers(["heard", "heard"], "run", tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), open_trackers(["heard"], "run", tmp_path):
        raise KeyboardInterrupt
    assert [heard.told for heard in made] == [[("closed", False)], [("closed", True)]]


def test_an_unknown_log_and_an_absent_library_are_refused(monkeypatch, tmp_path):
    with pytest.raises(BadArgument, match="There is no tracker 'visdom'"), open_trackers(["visdom"], "run", tmp_path):
        pass
    for kind in TRACKERS:
        monkeypatch.setitem(sys.modules, kind, None)
        with (
            pytest.raises(BadArgument, match=f"--log {kind} needs the Python package"),
            open_trackers([kind], "r", tmp_path),
        ):
            pass


def test_a_log_that_fails_is_dropped_with_a_note_and_the_others_go_on(monkeypatch, tmp_path):
    class Failing(Heard):
        def scalars(self, values, step):
            raise ConnectionError("the server is away")

    failing, well, recorder = Failing(), Heard(), Recorder()
    progress = Trackers([failing, well], recorder)
    progress.progress("run", 5, 5)
    progress.progress("run", 5, 5)
    progress.close(False)
    assert recorder.notices == ["Failing is no longer updated: ConnectionError: the server is away"]
    assert recorder.counts == [("run", 5, 5, "images")] * 2, "the screen hears of everything"
    assert [what for what, _ in well.told] == [5, 5, "closed"]
    assert failing.told == []


def test_a_log_that_cannot_be_opened_is_refused_before_the_evaluation(monkeypatch, tmp_path):
    def closed(name, folder):
        raise ConnectionError("no such server")

    monkeypatch.setattr(trackers, "TRACKERS", {"closed": closed})
    with pytest.raises(BadArgument, match="--log closed cannot be opened: ConnectionError: no such server"):
        open_trackers(["closed"], "run", tmp_path).__enter__()


class Leaving(Heard):
    """A tracker that ends the program."""

    def scalars(self, values, step):
        sys.exit(0)

    def close(self, failed):
        sys.exit(0)


def test_a_tracker_that_calls_sys_exit_is_dropped_and_ends_nothing():
    recorder, well = Recorder(), Heard()
    progress = Trackers([Leaving(), well], recorder)
    progress.progress("run", 5, 5)
    assert recorder.notices == ["Leaving is no longer updated: it called sys.exit(0)"]
    progress.close(False)
    assert [what for what, _ in well.told] == [5, "closed"]


def test_a_failed_evaluation_stays_one_when_a_tracker_calls_sys_exit_at_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "TRACKERS", {"leaving": lambda name, folder: Leaving()})
    with pytest.raises(BadArgument, match="the evaluation failed"), open_trackers(["leaving"], "run", tmp_path):
        raise BadArgument("the evaluation failed")


def test_a_tracker_that_calls_sys_exit_when_it_is_opened_is_refused_and_the_others_are_closed(monkeypatch, tmp_path):
    first = Heard()
    kinds = {"first": lambda name, folder: first, "leaving": lambda name, folder: sys.exit(3)}
    monkeypatch.setattr(trackers, "TRACKERS", kinds)
    with pytest.raises(BadArgument, match=r"--log leaving cannot be opened: it called sys\.exit\(3\)"):
        open_trackers(["first", "leaving"], "run", tmp_path).__enter__()
    assert first.told == [("closed", True)]


@pytest.fixture
def blocking():
    """A tracker that returns from no call until the test is over."""
    free = threading.Event()

    class Blocking(Heard):
        def scalars(self, values, step):
            free.wait()

        def close(self, failed):
            free.wait()

    yield Blocking
    free.set()


def test_a_tracker_that_does_not_return_is_dropped_and_the_evaluation_goes_on(blocking):
    recorder = Recorder()
    progress = Trackers([blocking()], recorder, call_seconds=0.001)
    progress.progress("run", 1, 2)
    progress.progress("run", 2, 2)
    progress.close(False)
    assert recorder.notices == ["Blocking is no longer updated: TimeoutError: no answer for 0.001 seconds"]
    assert recorder.counts == [("run", 1, 2, "images"), ("run", 2, 2, "images")]
    # The end of an evaluation does not wait for it either.
    last = Trackers([blocking()], recorder, close_seconds=0.001)
    last.close(True)
    assert recorder.notices[1:] == ["Blocking is no longer updated: TimeoutError: no answer for 0.001 seconds"]


def test_a_tracker_lives_in_one_thread_of_its_own(monkeypatch, tmp_path):
    threads = []

    class Noting(Heard):
        def __init__(self, *_):
            threads.append(threading.current_thread())

        def scalars(self, values, step):
            threads.append(threading.current_thread())

        def close(self, failed):
            threads.append(threading.current_thread())

    monkeypatch.setattr(trackers, "TRACKERS", {"noting": Noting})
    with open_trackers(["noting"], "run", tmp_path) as progress:
        progress.progress("run", 1, 1)
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon


def test_no_log_is_the_default_and_imports_nothing(tmp_path):
    with open_trackers([], "run", tmp_path) as progress:
        progress.progress("run", 1, 2)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_back_what_was_told(run, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_trackers(["tensorboard"], "run", tmp_path) as progress:
        progress.progress("run", 7, 14)
        progress.finished(run)
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (images,) = read.Scalars("progress/images")
    assert (images.step, images.value) == (7, 7.0)
    assert read.Scalars("PQ")[0].value == pytest.approx(scores_of(run)["PQ"])
    (text,) = read.Tensors("what was run/text_summary")
    assert run.info.dataset.fingerprint.encode() in text.tensor_proto.string_val[0]


def test_mlflow_keeps_parameters_and_metrics(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with open_trackers(["mlflow"], "a run", tmp_path) as progress:
        progress.progress("run", 3, 6)
        progress.finished(run)
    (stored,) = mlflow.search_runs(experiment_names=["panbench"], output_format="list")
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["PQ"] == pytest.approx(scores_of(run)["PQ"])
    assert stored.data.params["ground_truth_sha256"] == run.info.dataset.fingerprint


def test_wandb_writes_an_offline_run(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with open_trackers(["wandb"], "a run", tmp_path) as progress:
        progress.progress("run", 3, 6)
        progress.finished(run)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_names_that_mlflow_refuses_are_changed():
    assert trackers._mlflow_name("categories/wall-other <b>") == "categories/wall-other _b_"


def test_a_tracker_that_quotes_its_key_is_dropped_without_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")

    def refused(*_):
        raise ConnectionError("0123456789abcdef0123456789abcdef01234567 is not a key of user:pw")

    class Heard:
        scalars = refused

    class Notices:
        def __init__(self):
            self.said = []
            self.notice = self.said.append

        def progress(self, *_):
            pass

    notices = Notices()
    Trackers([Heard()], notices).progress("run", 1, 1)
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": refused})
    monkeypatch.setattr(trackers, "PACKAGES", {})
    with pytest.raises(trackers.BadArgument) as caught, trackers.open_trackers(["wandb"], "run", tmp_path):
        pass
    for sentence in (*notices.said, str(caught.value)):
        assert "ConnectionError: *** is not a key" in sentence
