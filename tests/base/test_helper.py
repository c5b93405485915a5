"""The second process: it answers in order, survives what it raises, and never outlives this one."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from panbench.base.errors import BadDataset
from panbench.base.helper import Helper, HelperLost

HERE = f"{__name__}:Counter"


class Counter:
    """What the helper makes in these tests."""

    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def process(self) -> int:
        return os.getpid()

    def say(self) -> str:
        sys.stdout.write("printed\n")
        sys.stdout.flush()
        os.write(1, b"written\n")
        return "said"

    def refuse(self) -> None:
        raise BadDataset("no such image", ways=["look again"])

    def die(self) -> None:
        os._exit(3)

    def unpicklable(self) -> object:
        return lambda: None


@pytest.fixture
def helper():
    with Helper(HERE, 5) as started:
        yield started


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def ends(pid: int) -> bool:
    until = time.monotonic() + 30
    while is_running(pid):
        if time.monotonic() > until:
            return False
        os.sched_yield()
    return True


def test_calls_are_answered_in_their_order_by_another_process(helper):
    waiting = [helper.ask("add", number) for number in (1, 2, 3)]
    assert [one.result() for one in waiting] == [6, 8, 11]
    assert helper.ask("process").result() != os.getpid()


def test_large_questions_and_answers_do_not_block_each_other(helper):
    waiting = [helper.ask("__class__", 10**1000000 + number) for number in range(3)]
    assert all(len(str(type(one.result()))) for one in waiting)


def test_what_a_library_prints_does_not_come_between_the_answers(helper, capfd):
    assert helper.ask("say").result() == "said"
    assert helper.ask("add", 1).result() == 6
    assert capfd.readouterr().out == ""


def test_what_a_call_raises_is_raised_here_and_the_next_is_answered(helper):
    with pytest.raises(BadDataset, match=r"no such image Look again\."):
        helper.ask("refuse").result()
    with pytest.raises(HelperLost, match="lambda"):
        helper.ask("unpicklable").result()
    assert helper.ask("add", 1).result() == 6


def test_a_process_that_ends_early_loses_what_was_asked(helper):
    waiting = [helper.ask("add", 1), helper.ask("die"), helper.ask("add", 1)]
    assert waiting[0].result() == 6
    for one in (*waiting[1:], helper.ask("add", 1)):
        with pytest.raises(HelperLost):
            one.result()


def test_an_object_that_cannot_be_made_fails_every_call():
    with Helper(HERE) as started, pytest.raises(AttributeError):
        started.ask("add", 1).result()


def test_closing_ends_the_process_whatever_it_does(helper):
    pid = helper.ask("process").result()
    helper.close()
    assert ends(pid)
    with pytest.raises(HelperLost):
        helper.ask("add", 1).result()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_process_ends_when_its_parent_does(how):
    # What starts in the background of a shell ignores Ctrl-C.
    script = f"""
        import signal
        from panbench.base.helper import Helper
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Helper({HERE!r}, 5) as helper:
            print(helper.ask("process").result(), flush=True)
            input()
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(how)
        parent.wait()
    assert ends(pid)


def test_with_one_core_no_second_process_is_started(monkeypatch):
    monkeypatch.setattr("panbench.base.helper.available_cores", lambda: 1)
    assert not Helper.can_start()
    monkeypatch.setattr("panbench.base.helper.available_cores", lambda: 2)
    assert Helper.can_start()
