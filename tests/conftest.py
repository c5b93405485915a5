"""What all tests share: nothing is written outside of pytest's own folder, and no setting of the machine leaks in."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Time is not what we test; in CI the same examples each time, elsewhere new ones.
settings.register_profile("panbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("panbench")

for name in ("FORCE_COLOR", "NO_COLOR", "WORLD_SIZE"):
    os.environ.pop(name, None)
os.environ.setdefault("MPLBACKEND", "Agg")
# PyTorch's threads wait for work by spinning, which several workers of pytest pay for; each of them has one core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

LANES = ("ray", "s3")
"""Marks of tests that run only when they are asked for by `-m`: each has a lane of its own (make engines)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help="fail where collecting or a test loads PyTorch (make quick)")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles idmap.c where a checkout was never installed, or the file changed since, if there is a compiler."""
    if not hasattr(config, "workerinput"):
        subprocess.run([sys.executable, Path(__file__).parents[1] / "hatch_build.py"], capture_output=True, check=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("markexpr") or ""
    for item in items:
        for lane in LANES:
            if lane not in asked and item.get_closest_marker(lane):
                item.add_marker(pytest.mark.skip(reason=f"a lane of its own: pytest -m {lane}"))
    if config.getoption("light"):
        refuse_torch("a test file, or what it imports,")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    before = "torch" in sys.modules
    answer = yield
    if item.config.getoption("light") and not before:
        refuse_torch(item.nodeid)
    return answer


def refuse_torch(who: str) -> None:
    """With --light, what loads PyTorch fails: it takes two seconds and 300 MB of each worker."""
    if "torch" in sys.modules:
        raise pytest.UsageError(f"--light: {who} loads PyTorch; import it in the test, and mark the test slow")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Downloads and generated scenes of the tests lie in a folder of their own, not in the user's caches."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PANBENCH_CACHE"] = str(folder)
    for name in ("TORCH_HOME", "FVCORE_CACHE"):
        os.environ[name] = str(folder / "of others")
