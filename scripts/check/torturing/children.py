"""Processes that are killed, and disks that are full: what is done to a command from outside."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from panbench.base.errors import PanbenchError
from panbench.cli.signals import interrupted_by_signals

CHILD_MEMORY = 8 << 30


CHILD_SECONDS = 120


def child(work: Callable[[], None]) -> int:
    """Does `work` in a process of its own, with bounded memory; its process id. Exit codes: 0, 2 (a sentence), 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        import resource

        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY, CHILD_MEMORY))
        signal.alarm(CHILD_SECONDS)
        sys.stderr = io.StringIO()
        with interrupted_by_signals():
            work()
        code = 0
    except PanbenchError:
        code = 2
    except KeyboardInterrupt as interruption:
        code = getattr(interruption, "exit_code", 130)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(*words: str | Path) -> tuple[int, str]:
    """`panbench …` in this process: the exit code and all that was printed."""
    from typer.testing import CliRunner

    from panbench.cli.app import app

    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout + result.stderr


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """`folder` as a disk of `size` bytes; False where that needs rights that this process lacks."""
    folder.mkdir(exist_ok=True)
    mounted = False
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount"):
        told = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        mounted = told.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, options: str) -> None:
    """Changes the options of a disk that `small_disk` made."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def bounded(work: Callable[[], None], size: int) -> None:
    """Does `work` where no file can grow beyond `size` bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    work()
