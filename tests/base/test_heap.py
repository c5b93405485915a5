"""Memory that is freed is used again; what the system is asked for is counted in a process of its own."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from panbench.base import heap

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


def has_compiled() -> bool:
    return isinstance(heap.load_library(heap._LIBRARY, heap._SOURCE), heap.ctypes.CDLL)


compiled = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc" or not has_compiled(),
    reason="heap.c is compiled for glibc alone",
)


def ran(program: str, **environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


BLOCKS = """
import ctypes, random
from panbench.base import heap

heap.keep_freed_memory()
library = heap.load_library(heap._LIBRARY, heap._SOURCE)
free = ctypes.CDLL("libc.so.6").free
free.argtypes = [ctypes.c_void_p]
library.aligned_block.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

def block(size, alignment=64):
    found = ctypes.c_void_p()
    wrong = library.aligned_block(ctypes.byref(found), alignment, size)
    return wrong, found.value or 0

"""


@compiled
def test_a_freed_block_between_two_others_fits_the_next_of_its_size() -> None:
    # glibc's own needs 96 bytes more than there are.
    program = """
size = 8_000_000
(_, first), (_, second), (_, third) = block(size), block(size), block(size)
free(second)
print(second, block(size)[1])
"""
    freed, next_one = ran(BLOCKS + program)
    assert next_one == freed


@compiled
def test_blocks_are_aligned_apart_from_each_other_and_as_long_as_asked_for() -> None:
    program = """
draw, held = random.Random(0), {}
for number in range(2000):
    size = draw.choice([0, 1, 100, 4096, 5000, 70_000, draw.randrange(2_000_000)])
    alignment = draw.choice([64, 64, 4096])
    wrong, start = block(size, alignment)
    assert not wrong and start % alignment == 0, (wrong, start)
    mark = number % 251
    ctypes.memset(start, mark, size)
    held[number] = start, size, mark
    while len(held) > 40:
        start, size, mark = held.pop(draw.choice(list(held)))
        assert ctypes.string_at(start, size) == bytes([mark]) * size
        free(start)
print(len(held))
"""
    assert ran(BLOCKS + program) == [40]


@compiled
def test_a_block_larger_than_memory_is_an_error_as_it_was() -> None:
    enomem, einval = 12, 22
    program = "print(block(2**64 - 1)[0], block(2**63 + 5)[0], block(2**62)[0], block(100, 24)[0])"
    assert ran(BLOCKS + program) == [enomem, enomem, enomem, einval]


TENSORS = """
import sys
import torch
from panbench.base import heap

heap.keep_freed_memory()
arrays = [torch.zeros(2_000_000) for _ in range(3)]
freed = arrays[1].data_ptr()
arrays[1] = None
print(freed, torch.empty(2_000_000).data_ptr(), heap.reuse_aligned_blocks())
"""


@compiled
def test_a_tensor_fits_where_a_freed_one_of_its_size_was() -> None:
    freed, next_one, libraries = ran(TENSORS)
    assert libraries == 2, "libc10 and libtorch_cpu; none if their calls are fixed when they are loaded (-z now)"
    assert next_one == freed


@compiled
def test_nothing_is_replaced_without_compiled_code() -> None:
    assert ran(TENSORS, PANBENCH_NATIVE="0")[2] == 0


CALLER = """
#include <stdlib.h>
int call(void) { void *block = NULL; int wrong = posix_memalign(&block, 64, 100000); free(block); return wrong; }
"""


@compiled
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler that takes the linker's options")
@pytest.mark.parametrize(("linked", "replaced"), [(["-Wl,-z,lazy"], 1), (["-Wl,-z,now,-z,relro"], 0)])
def test_a_table_that_is_read_only_stays_as_it_is(tmp_path: Path, linked: list[str], replaced: int) -> None:
    (tmp_path / "caller.c").write_text(CALLER)
    library = tmp_path / "libc10.so"
    subprocess.run(["gcc", "-shared", "-fPIC", *linked, "-o", library, tmp_path / "caller.c"], check=True)
    program = f"""
import ctypes
from panbench.base import heap
caller = ctypes.CDLL({str(library)!r})
print(heap.reuse_aligned_blocks(), caller.call())
"""
    assert ran(program) == [replaced, 0]


@compiled
def test_before_pytorch_is_imported_nothing_is_replaced() -> None:
    assert ran("from panbench.base import heap; print(heap.reuse_aligned_blocks())") == [0]


SIZES = """
import ctypes
import torch
from panbench.base import heap

heap.keep_freed_memory()
end = ctypes.CDLL("libc.so.6").sbrk
end.restype, end.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
start = end(0)

def image(width):
    # Eight arrays, with others that stay between them; each is replaced as by the next layer's.
    held = [torch.zeros(length) for length in [3000 * width, 5000] * 8]
    for _ in range(6):
        for place in range(0, len(held), 2):
            held[place] = None
            held[place] = torch.zeros(3000 * width)

for width in (400, *range(200, 400, 7), *range(390, 200, -11)):
    image(width)
print(end(0) - start, 8 * 3000 * 400 * 4)
"""


@compiled
def test_over_images_of_many_sizes_the_heap_is_hardly_larger_than_what_the_largest_holds() -> None:
    heap_now, held = ran(SIZES)
    # With glibc 2.36's own aligned blocks it is four times as large.
    assert held <= heap_now < 1.25 * held
