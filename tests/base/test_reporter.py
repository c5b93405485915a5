"""The one protocol by which long work reports."""

from panbench.base.reporter import SILENT, Reporter, Silent, Unit, counter


class Recorder(Silent):
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        self.heard.append((task, done, total, unit))


def test_a_counter_reports_its_task_and_unit():
    recorder = Recorder()
    count = counter(recorder, "weights", "bytes")
    count(3, None)
    count(7, 7)
    assert recorder.heard == [("weights", 3, None, "bytes"), ("weights", 7, 7, "bytes")]


def test_a_reporter_may_ignore_other_reports(capsys):
    for reporter in (SILENT, Recorder()):
        listening: Reporter = reporter
        listening.status("Building")
        listening.notice("Something was left out.")
    assert capsys.readouterr() == ("", "")
