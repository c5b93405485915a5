"""Programs of their own at a fraction of the price: forks of a process that has the libraries loaded.

`python -m panbench eval …` imports PyTorch and mmdet for five seconds before it does anything. Here one process imports
those libraries, and of panbench only the operators that mmdet needs; its only other thread is one of pyarrow's memory.
For each request it forks: the child takes the folder, the environment, the standard streams and the arguments, and runs
the module as `python -m` does. It is a process of its own: it can be killed, and its exit code and all that it prints
are its own.

What forks cannot show: how a program starts from nothing, which libraries it imports, and variables that a library
reads while it is imported. Tests of these start the true program (`support.panbench_program`). On other systems than
Linux, whose libraries do not all bear a fork, every program is started from nothing.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch", "torch.distributed.run", "mmengine.config", "mmengine.runner", "mmdet.models", "mmdet.registry", "cv2",
    "safetensors.torch", "scipy.ndimage", "scipy.stats", "pandas", "pyarrow.parquet", "PIL.Image", "simplejpeg",
    "pycocotools.mask", "typer", "rich.console", "rich.progress", "httpx", "filelock", "matplotlib.figure", "jinja2",
)  # fmt: skip
"""What children find imported."""
FORKS = sys.platform == "linux"


class ForkedProgram:
    """A child: as much of subprocess.Popen as tests use."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers.makefile("rb", buffering=0)
        answers.close()
        self.pid = self._answer()
        self.returncode: int | None = None

    def _answer(self) -> int:
        line = self._answers.readline()
        assert line, "the process that forks has ended"
        return int(line)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start(
    arguments: list[str],
    *,
    stdout: int,
    stderr: int,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> "ForkedProgram | subprocess.Popen[bytes]":
    """Starts `python -m ARGUMENTS` as a fork, or `python ARGUMENTS` where they begin with -c.

    stdout, stderr: descriptors of open files
    """
    if not FORKS:
        python = [sys.executable, *(["-m"] if arguments[0] != "-c" else []), *arguments]
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(python, stdin=nowhere, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
    request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
    ours, theirs = socket.socketpair()
    with theirs, open(os.devnull) as nothing:
        server().ask(request, [theirs.fileno(), nothing.fileno(), stdout, stderr])
    return ForkedProgram(ours)


def run(arguments: list[str], *, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """`start` with both streams captured, and its end; after `timeout` seconds it is killed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = start(arguments, stdout=output.fileno(), stderr=errors.fileno(), **options)
        try:
            code = child.wait(timeout)
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess(arguments, code, *(text_of(file) for file in (output, errors)))


def text_of(file: Any) -> str:
    """All that a child wrote into a temporary file."""
    file.seek(0)
    return str(file.read().decode("utf-8"))


def panbench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m panbench …` as a fork; options are those of `run`."""
    return run(["panbench", *map(str, arguments)], **options)


# What `python -m torch.distributed.run --standalone` does, but for its ranks: they are forks and find all imported.
_LAUNCHER = """
import runpy, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

ranks, first, *rest = sys.argv[1:]

def rank():
    try:
        if first == "-c":
            sys.argv = [first, *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [first, *rest]
            runpy.run_module(first, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise

settings = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=int(ranks), run_id="ranks", rdzv_backend="c10d",
    rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0, monitor_interval=0.1,
)
elastic_launch(settings, rank)()
"""


def torchrun(ranks: int, arguments: list[str]) -> list[str]:
    """The arguments of `start` and `run` for so many ranks of `arguments`, under the agent of torchrun."""
    if FORKS:
        return ["-c", _LAUNCHER, str(ranks), *arguments]
    python = [sys.executable, *(["-m"] if arguments[0] != "-c" else []), *arguments]
    return ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--no-python", *python]


class Server:
    """The process that forks. It ends when the process that started it ends."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Threads of a library's pool would be missing in the child, and its first parallel sum would wait for them.
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], files: list[int]) -> None:
        """Has a child started: files are where answers go, and its three standard streams."""
        # A file, as an environment may be longer than a packet.
        with self._lock, tempfile.TemporaryFile() as text:
            text.write(json.dumps(request).encode())
            text.seek(0)
            socket.send_fds(self._requests, [b"."], [text.fileno(), *files])

    def close(self) -> None:
        """Ends it."""
        self._requests.close()
        self.process.wait()


@functools.lru_cache(maxsize=1)
def server() -> Server:
    """The server of this process, started by the first request."""
    return Server()


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request. Returns it in the child, and None in the server when no more requests can come.

    Between the two stands a process that waits for the child: it writes the child's id and then its exit code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from panbench.base import program
        from panbench.models.mmdet import lean, operators

        program.begin()  # forks find imported what the program `panbench` imports
        operators.install()  # mmdet.models imports mmcv.ops
        lean.import_mmdet()
        for name in LIBRARIES:
            importlib.import_module(name)
    os.fsync = os.fstat  # as in tests/conftest.py
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1, 5)
        if not message:
            return None
        # Those that have ended; the last ones are the system's to reap.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if os.fork():
            for file in files:
                os.close(file)
            continue
        requests.close()
        text, answers, *streams = files
        child = os.fork()
        if child:
            os.write(answers, b"%d\n" % child)
            for stream in streams:
                os.close(stream)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(OSError):  # nobody waits any more
                os.write(answers, b"%d\n" % code)
            os._exit(0)
        os.close(answers)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        with open(text, encoding="utf-8") as file:
            return dict(json.load(file))


def become(request: dict[str, Any]) -> None:
    """Runs the program that was asked for, in its folder and environment."""
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    known = set(inherited)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    # The first is this file's folder.
    sys.path[:] = [request["cwd"], *own, *(path for path in sys.path[1:] if path not in known)]
    sys.warnoptions[:] = filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))
    warnings._processoptions(sys.warnoptions)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    first, *rest = request["arguments"]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        runpy.run_module(first, run_name="__main__", alter_sys=True)


def end(code: object) -> NoReturn:
    """Ends as sys.exit(code) does, but does not take apart what was imported, which costs half a second."""
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        # Any other exception ends the child as it ends every program.
        try:
            become(asked)
        except SystemExit as stop:
            end(stop.code)
        end(None)
