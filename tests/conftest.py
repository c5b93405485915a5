"""What all tests share: nothing is written outside of pytest's own folder, and no setting of the machine leaks in."""

import contextlib
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import scratch_folder
from hypothesis import settings

# Time is not what we test; in CI the same examples each time, elsewhere new ones.
settings.register_profile("panbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("panbench")

for name in ("FORCE_COLOR", "NO_COLOR", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
    os.environ.pop(name, None)
os.environ.setdefault("MPLBACKEND", "Agg")
# Images of containers set it. `make install` leaves compiling to the first import, so each of the hundreds of processes
# here would compile PyTorch, mmdet and the tests again: half of the CPU time of a small `panbench eval`. Sources that
# scripts/check/mutants.py changes within a second would be taken for those that were compiled.
if "PANBENCH_MUTANT" not in os.environ:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
# Thousands of small files wait for the disk otherwise, and nothing here cuts its power: tests of that record what was
# written in which order. A closed file is an error all the same. Programs of their own wait for it.
os.fsync = os.fstat
_SCRATCH = scratch_folder.begin()
# PyTorch's threads wait for work by spinning: with tests on every core that is a quarter to two thirds of all CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Each of several workers has a core of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_configure() -> None:
    """A checkout that was never installed has no compiled idmap.c: compiles it, where there is a compiler."""
    builder = Path(__file__).parents[1] / "hatch_build.py"
    spec = importlib.util.spec_from_file_location("hatch_build", builder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.suppress(RuntimeError):
        module.compile_to(module.LIBRARY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help="fail where collecting or a test loads PyTorch (make quick)")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What the tests wrote is in memory: it stays only until somebody has looked at what failed."""
    gc.freeze()  # pytest looks five times for what tests forgot
    if _SCRATCH is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector, which looks a dozen times at half a million objects of libraries that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


LANES = ("ray", "s3")
"""Marks of tests that run only when they are asked for by `-m`: each has a lane of its own (make engines)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of the browser come first, then files with slow tests: begun last, they would keep one core busy alone."""
    asked = config.getoption("markexpr") or ""
    for lane in (lane for lane in LANES if lane not in asked):
        for item in items:
            if item.get_closest_marker(lane):
                item.add_marker(pytest.mark.skip(reason=f"a lane of its own: pytest -m {lane}"))
    slow = {item.path for item in items if any(item.get_closest_marker(name) for name in ("slow", "smoke"))}
    items.sort(key=lambda item: (not is_of_browser(item.path.name), item.path not in slow))
    if config.getoption("light"):
        refuse_torch("a test file, or what it imports,")


def is_of_browser(file: str) -> bool:
    return file.endswith("_in_browser.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out files, and all that need the browser to one worker: a browser takes four seconds to start."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "browser" if is_of_browser(file) else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """The garbage collector looks only at what the test and its fixtures make: in milliseconds.

    Commands collect after each model, and a process of tests has 500,000 objects of imported libraries. What a test
    leaves in circles is collected at its end.
    """
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    before = "torch" in sys.modules
    answer = yield
    if item.config.getoption("light") and not before:
        refuse_torch(item.nodeid)
    return answer


def refuse_torch(who: str) -> None:
    """With --light, what loads PyTorch fails: two seconds and 300 MB for each worker of tests that need no model."""
    if "torch" in sys.modules:
        raise pytest.UsageError(f"--light: {who} loads PyTorch; import it in the test, and mark the test slow")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads and generated scenes of the tests lie in a folder of their own, not in the user's cache.

    Workers share what takes long to make.
    """
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        scratch_folder.own_cache(folder, beside=tmp_path_factory.getbasetemp().parent / "shared")
    os.environ["PANBENCH_CACHE"] = str(folder)
    # Weights that other programs downloaded on this machine are not for the tests.
    for name in ("TORCH_HOME", "FVCORE_CACHE"):
        os.environ[name] = str(folder / "of others")
    return folder
