"""One writer a run folder, with the system's locks and on file systems that have none."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from panbench.base.errors import BadRun
from panbench.runs.lock import is_locked, lock_run, may_be_written, owner_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills and forks as POSIX has them")

# What a child process does with the folder argv[1]: `flock` fails when argv[2] is "none", as on a file system without
# locks; then it follows its stdin. `victim` forks a process that takes the lock and is killed while it has it.
CHILD = """
import errno, os, signal, sys
from pathlib import Path
if sys.argv[2] == "none":
    import fcntl
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from panbench.base.errors import BadRun
from panbench.runs.lock import lock_run
folder, inside, held = Path(sys.argv[1]), Path(sys.argv[1] + ".inside"), None

def acquired():
    try:
        return lock_run(folder)
    except BadRun:
        return None

def told(word):
    print(word, flush=True)

for line in sys.stdin:
    if line == "acquire\\n":
        held = acquired()
        told("held" if held else "refused")
    elif line == "release\\n":
        if held:
            held.release()
        told("released")
    elif line == "victim\\n":
        if (pid := os.fork()) == 0:
            if acquired():
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        told(os.waitpid(pid, 0)[1])
    elif line == "race\\n":
        wins = 0
        for _ in range(80):
            if lock := acquired():
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails when another holder is inside, too
                inside.unlink()
                lock.release()
                wins += 1
        told(wins)
"""


class Child:
    """A process that takes and drops the lock of a folder as it is told."""

    def __init__(self, folder: Path, locks: str) -> None:
        command = [sys.executable, "-c", CHILD, str(folder), locks]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = self.process.pid

    def tell(self, word: str) -> None:
        self.process.stdin.write(f"{word}\n")

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate()

    def asked(self, word: str) -> str:
        self.tell(word)
        return self.answer()


@contextmanager
def children(count: int, folder: Path, locks: str) -> Iterator[list[Child]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Child(folder, locks))) for _ in range(count)]


@pytest.fixture(params=["the system's", "none"])
def locks(request, monkeypatch) -> str:
    """Both kinds of file system; this process sees the same one as its children."""
    if request.param == "none":

        def flock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)
    return str(request.param)


@pytest.mark.slow
def test_of_racing_processes_only_one_has_the_lock_at_a_time(tmp_path, locks):
    with children(4, tmp_path / "a", locks) as racing:
        for child in racing:
            child.tell("race")
        wins = [child.answer() for child in racing]
    assert all(won.isdigit() for won in wins), "two were inside at once"
    assert sum(map(int, wins)) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_of_processes_racing_for_a_killed_owners_lock_one_gets_it(tmp_path, locks):
    with children(4, tmp_path / "a", locks) as racing:
        for _ in range(6):
            assert racing[0].asked("victim") == str(int(signal.SIGKILL))
            for child in racing:
                child.tell("acquire")
            assert sorted(child.answer() for child in racing) == ["held", *["refused"] * 3]
            assert {child.asked("release") for child in racing} == {"released"}
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_does_not_count(tmp_path, locks):
    with children(1, tmp_path / "a", locks) as (owner,):
        assert owner.asked("acquire") == "held"
        assert is_locked(tmp_path / "a")
        with pytest.raises(BadRun, match=f"is being written by process {owner.pid} on .* since 20"):
            lock_run(tmp_path / "a")
        owner.process.send_signal(signal.SIGKILL)
        owner.process.wait()
        assert not is_locked(tmp_path / "a")
        lock_run(tmp_path / "a").release()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_on_another_machine_counts_as_alive(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    (tmp_path / ".a.lock").touch()
    written = {}
    for host in ("another-machine", platform.node()):
        record = {"pid": ended.pid, "host": host, "since": "2026-11-22T10:00:00+00:00"}
        (tmp_path / ".a.lock.owner").write_text(json.dumps(record))
        written[host] = may_be_written(tmp_path / "a")
    assert written == {"another-machine": True, platform.node(): False}


class TestWithoutLocksOfTheSystem:
    @pytest.fixture(autouse=True)
    def locks(self, monkeypatch):
        def flock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)

    def test_the_lock_of_another_machine_holds_and_the_error_says_how_to_remove_it(self, tmp_path):
        marker, named = tmp_path / ".a.lock.soft", tmp_path / ".a.lock.owner"
        marker.write_text("12\nanother-machine\n")
        named.write_text(json.dumps({"pid": 12, "host": "another-machine", "since": "2026-11-22T10:00:00+00:00"}))
        with pytest.raises(BadRun) as refused:
            lock_run(tmp_path / "a")
        assert str(refused.value) == (
            f"{tmp_path / 'a'} is being written by process 12 on another-machine since 2026-11-22 10:00:00 UTC. Wait "
            f"for it, or give another --out. The file system has no locks: if that process has ended, delete {marker}."
        )
        marker.unlink()
        lock_run(tmp_path / "a").release()
        assert list(tmp_path.iterdir()) == []

    def test_the_owner_is_this_process_while_it_writes(self, tmp_path):
        lock = lock_run(tmp_path / "a")
        assert owner_of(tmp_path / "a").startswith(f"process {os.getpid()} on {platform.node()} since 20")
        lock.release()
        assert owner_of(tmp_path / "a") == "another process"


def test_a_read_only_folder_is_reported_in_one_sentence(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(BadRun, match=r"a cannot be written: .*\.a\.lock: Read-only file system\.$"):
        lock_run(tmp_path / "a")
