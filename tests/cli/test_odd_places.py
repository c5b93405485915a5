"""Files that may not grow, and a full or closed standard output."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import panbench_program, python, ran

REFERENCE = Path(__file__).parents[1] / "reference" / "pq_edges"

LIMITED = """
import resource, sys
from panbench.cli.app import main
sys.dont_write_bytecode = True  # or the limit cuts what Python compiles
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
main()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of files are POSIX")


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A scored run."""
    run = tmp_path_factory.mktemp("runs") / "run"
    ran("score", "--gt", REFERENCE / "gt.json", "--pred", REFERENCE / "pred.json", "--out", run)
    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "run", "--out", "page.html"),
        ("export", "parquet", "run", "--out", "tables"),
        ("site", ".", "--out", "site"),
    ],
)
def test_a_file_at_its_size_limit_is_named(scored, tmp_path, arguments):
    shutil.copytree(scored, tmp_path / "run")
    done = python("-c", LIMITED, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "fault of panbench" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_behind_standard_output_is_reported(scored):
    with open("/dev/full", "w") as full:
        done = panbench_program("compare", scored, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2, done.stderr
    assert "The output cannot be written: No space left on device." in done.stderr


def test_a_closed_standard_output_is_not_an_error(scored):
    command = f"exec {shlex.quote(sys.executable)} -m panbench compare {shlex.quote(str(scored))} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
