"""Memory that is freed is used again; what the system is asked for is counted in a process of its own."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from panbench.base.heap import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("not glibc")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(faults() for _ in range(4)))
"""


def faults(way: str) -> list[int]:
    ran = subprocess.run([sys.executable, "-c", COUNT_FAULTS, way], capture_output=True, text=True, timeout=60)
    if "not glibc" in ran.stderr:
        pytest.skip("the C library is not glibc")
    assert ran.returncode == 0, ran.stderr
    return [int(word) for word in ran.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_an_array_as_large_as_one_that_was_freed_takes_no_new_pages() -> None:
    kept = faults("kept")
    # 80 MB are 19,531 pages of 4 KiB, or 38 of 2 MiB where the system gives large ones: only the ratio counts.
    assert kept[0] >= 38
    assert max(kept[1:]) < kept[0] / 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_without_it_each_array_does() -> None:
    first, *others = faults("as it is")
    assert min(others) > first / 2
