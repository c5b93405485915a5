"""Programs of their own at a fraction of the price: forks of a process that has the libraries loaded.

`python -m panbench eval …` imports PyTorch and mmdet for five seconds before it does anything. Here processes have
imported them, one the fork of another: the first what scoring needs, the next also PyTorch and mmdet, with what these
need of panbench, the last all of panbench; their only other thread is one of pyarrow's memory. For each request one of
them forks: the child takes the folder, the environment, the standard streams and the arguments, and runs the module as
`python -m` does. It is a process of its own: it can be killed, and its exit code and all that it prints are its own.
All workers of a run of pytest share them.

What forks cannot show: how a program starts from nothing, which libraries it imports, and variables that a library
reads while it is imported. Tests of these start the true program (`support.panbench_program`). On other systems than
Linux, whose libraries do not all bear a fork, every program is started from nothing.
"""

import atexit
import contextlib
import errno
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
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

LEVELS = ("light", "models", "panbench")
"""What children find imported: the libraries of an install that scores, also those of models, also panbench."""

_OF_LIGHT = (
    "cv2", "scipy.ndimage", "scipy.sparse", "scipy.special", "scipy.stats", "pandas", "pyarrow.parquet", "PIL.Image",
    "simplejpeg", "pycocotools.mask", "typer._adapters", "typer.testing", "rich.console", "rich.progress", "httpx",
    "filelock", "jinja2", "concurrent.futures.process",
)  # fmt: skip
_OF_MODELS = (
    "torch", "torch.distributed.run", "mmengine.config", "mmengine.runner", "mmdet.models", "mmdet.registry",
    "torch.onnx", "torch.utils._device", "safetensors.torch", "matplotlib.figure", "contourpy",
)  # fmt: skip
_OF_PANBENCH = (
    "panbench.cli.app", "panbench.cli.compare", "panbench.cli.eval", "panbench.cli.models", "panbench.cli.prepare",
    "panbench.cli.report", "panbench.cli.score", "panbench.evaluation.evaluate", "panbench.evaluation.several",
    "panbench.evaluation.tools.doctor", "panbench.models.mmdet.adapter", "panbench.report.answers.stored",
    "panbench.report.answers.tables", "panbench.report.pages.page.document", "panbench.scoring.folder",
    "panbench.studies.calibration.section", "panbench.studies.fusing.section", "panbench.studies.robustness.section",
    "panbench.studies.seeds.section", "panbench.studies.tradeoffs.section", "panbench.studies.unfused.section",
)  # fmt: skip
FORKS = sys.platform == "linux"
ROOT = Path(__file__).resolve().parents[1]


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
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    level: str = "",
) -> "ForkedProgram | subprocess.Popen[bytes]":
    """Starts `python -m ARGUMENTS` as a fork, or `python ARGUMENTS` where they begin with -c.

    stdout, stderr, stdin: descriptors of open files
    level: of LEVELS; when not given, "panbench" for panbench where PYTHONPATH brings no study, else "models"
    """
    if not FORKS:
        python = [sys.executable, *(["-m"] if arguments[0] != "-c" else []), *arguments]
        return subprocess.Popen(python, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
    environment = dict(os.environ if env is None else env)
    request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": environment}
    ours, theirs = socket.socketpair()
    with theirs, open(os.devnull) as nothing:
        read = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
        # Panbench looks for studies when it is imported.
        brought = set(environment.get("PYTHONPATH", "").split(os.pathsep)) - {"", *sys.path, str(ROOT)}
        level = level or ("panbench" if "panbench" in arguments and not brought else "models")
        server().ask(level, request, [theirs.fileno(), read, stdout, stderr])
    return ForkedProgram(ours)


def run(
    arguments: list[str], *, input: str = "", timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`start` with what it reads given, what it writes captured, and its end; after `timeout` seconds it is killed."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(input.encode())
        given.seek(0)
        files = {"stdin": given.fileno(), "stdout": output.fileno(), "stderr": errors.fileno()}
        child = start(arguments, **files, **options)
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
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

# The name of a caller, for a log that nobody reads: half a second, as inspect looks at all modules for each frame.
dynamic_rendezvous.get_method_name = lambda depth=2: ""
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
    rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0, monitor_interval=0.02,
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
    """The first of the processes that fork. They end when all workers that asked them have ended."""

    def __init__(self) -> None:
        # A name of Linux that is no file. Copies of the tests have servers of their own.
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
        name = f"\0panbench-forks-{run}-{zlib.crc32(__file__.encode())}"
        self.process: subprocess.Popen[bytes] | None = None
        while True:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with listening:
                try:
                    listening.bind(name)
                except OSError as problem:
                    if problem.errno != errno.EADDRINUSE:  # another worker's has the name
                        raise
                else:
                    listening.listen()
                    self.process = _started(listening)
            self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self._requests.connect(name)
                break
            except ConnectionRefusedError:  # another worker's does not listen yet, or ended just now
                self._requests.close()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, level: str, request: dict[str, Any], files: list[int]) -> None:
        """Has a child started: files are where answers go, and its three standard streams."""
        # A file, as an environment may be longer than a packet.
        with self._lock, tempfile.TemporaryFile() as text:
            text.write(json.dumps(request).encode())
            text.seek(0)
            socket.send_fds(self._requests, [bytes([LEVELS.index(level)])], [text.fileno(), *files])

    def close(self) -> None:
        """Lets it end."""
        self._requests.close()
        if self.process is not None:
            self.process.wait()


def _started(listening: socket.socket) -> "subprocess.Popen[bytes]":
    # Threads of a library's pool would be missing in the child, and its first parallel sum would wait for them.
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
    command = [sys.executable, __file__, str(listening.fileno())]
    return subprocess.Popen(command, pass_fds=[listening.fileno()], env=environment)


@functools.lru_cache(maxsize=1)
def server() -> Server:
    """The server of this process, started or found by the first request."""
    return Server()


def serve(listening: socket.socket) -> dict[str, Any] | None:
    """Forks for each request. Returns it in the child, and None in the servers when no more requests can come."""
    level, sockets = 0, [listening]
    above: socket.socket | None = None  # to the server of the next level
    children: dict[
        int, tuple[int, int]
    ] = {}  # by a descriptor that is ready once it has ended: its id, where to say it
    import_libraries(level)
    while True:
        one = select.select([*children, *sockets], [], [])[0][0]
        if isinstance(one, int):
            tell_end(one, *children.pop(one))
            continue
        if one is listening:
            sockets.append(one.accept()[0])
            continue
        message, files, _, _ = socket.recv_fds(one, 1, 5)
        if not message:
            one.close()
            sockets.remove(one)
            if sockets in ([], [listening]):
                return None
            continue
        if message[0] != level and above is None:
            above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                close_all(sockets, [above], children, (told for _, told in children.values()), files)
                level, sockets, above, children = level + 1, [below], None, {}
                import_libraries(level)
                continue
            below.close()
        if message[0] != level and above is not None:
            socket.send_fds(above, [message], files)
            close_all(files)
            continue
        text, answers, *streams = files
        child = os.fork()
        if child == 0:
            close_all(sockets, [above] if above else [], children, (told for _, told in children.values()), [answers])
            return taken(text, streams)
        children[os.pidfd_open(child)] = child, answers
        os.write(answers, b"%d\n" % child)
        close_all([text, *streams])


def close_all(*several: Iterable[socket.socket | int]) -> None:
    for one in chain(*several):
        if isinstance(one, int):
            os.close(one)
        else:
            one.close()


def tell_end(ended: int, child: int, answers: int) -> None:
    """Writes the exit code of a child that has ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # nobody waits any more
        os.write(answers, b"%d\n" % code)
    close_all([ended, answers])


def taken(text: int, streams: list[int]) -> dict[str, Any]:
    """The request in a file; the streams become the standard ones."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    with open(text, encoding="utf-8") as file:
        return dict(json.load(file))


def import_libraries(level: int) -> None:
    """Imports what children of a level find imported, and is not yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from panbench.base import program

        program.begin()  # forks find imported what the program `panbench` imports
        if LEVELS[level] == "models":
            from panbench.models.mmdet import lean, operators

            operators.install()  # mmdet.models imports mmcv.ops
            lean.import_mmdet()
        for name in (_OF_LIGHT, _OF_MODELS, _OF_PANBENCH)[level]:
            importlib.import_module(name)
    os.fsync = os.fstat  # as in tests/conftest.py
    gc.freeze()


def become(request: dict[str, Any]) -> None:
    """Runs the program that was asked for, in its folder and environment."""
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    known = set(inherited)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    # The first is this checkout's folder.
    sys.path[:] = [request["cwd"], *own, *(path for path in sys.path[1:] if path not in known)]
    sys.warnoptions[:] = filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))
    warnings._processoptions(sys.warnoptions)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background inherit that it is ignored
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
    sys.path[0] = str(ROOT)
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        # Any other exception ends the child as it ends every program.
        try:
            become(asked)
        except SystemExit as stop:
            end(stop.code)
        end(None)
